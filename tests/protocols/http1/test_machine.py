from __future__ import annotations

import time
import tracemalloc

import pytest

from trioserve.protocols.errors import RemoteProtocolError
from trioserve.protocols.http1 import (
    NEED_DATA,
    BodyChunk,
    Http1Limits,
    Http1Machine,
    RequestHead,
    build_machine,
    machine_class,
)
from trioserve.protocols.http1.h11_machine import H11Machine
from trioserve.protocols.http1.request_reader import Opinion

GET = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(params=["h11", "httptools"])
def machine(request) -> Http1Machine:
    return build_machine(request.param, Http1Limits())


def read_head(machine: Http1Machine, raw: bytes) -> RequestHead:
    machine.receive_data(raw)
    head = machine.next_event()
    assert isinstance(head, RequestHead)
    return head


def test_auto_takes_the_accelerator_that_is_installed():
    assert machine_class("auto") is machine_class("httptools")
    assert machine_class("auto") is not machine_class("h11")


def test_head_is_told_in_full(machine):
    head = read_head(
        machine,
        b"POST /a%20b?c HTTP/1.1\r\nHOST: A.example:80\r\nX-Two:  1 \r\nx-two:2\r\nExpect: 100-continue\r\n"
        b"Connection: keep-alive, Upgrade\r\nUpgrade: h2c, teapot\r\nTransfer-Encoding: CHUNKED\r\n\r\n",
    )
    assert head == RequestHead(
        method="POST",
        target=b"/a%20b?c",
        headers=[
            (b"host", b"A.example:80"),
            (b"x-two", b"1"),
            (b"x-two", b"2"),
            (b"expect", b"100-continue"),
            (b"connection", b"keep-alive, Upgrade"),
            (b"upgrade", b"h2c, teapot"),
            (b"transfer-encoding", b"chunked"),
        ],
        http_version="1.1",
        has_body=True,
        content_length=None,
        chunked=True,
        expects_continue=True,
        keep_alive=True,
        upgrade=b"h2c, teapot",
        host=b"A.example:80",
    )


def test_authority_of_the_target_replaces_host(machine):
    head = read_head(machine, b"GET http://b.example:81/c HTTP/1.1\r\nX: y\r\nHost: a.example\r\n\r\n")
    assert head.host == b"b.example:81"
    assert head.headers == [(b"x", b"y"), (b"host", b"b.example:81")]


def test_authority_of_the_target_becomes_host_on_1_0(machine):
    head = read_head(machine, b"GET http://b.example/c HTTP/1.0\r\nX: y\r\n\r\n")
    assert head.headers == [(b"host", b"b.example"), (b"x", b"y")]


def test_a_good_host_does_not_vouch_for_the_next_one(machine):
    read_head(machine, GET)
    machine.next_event()
    machine.start_next_cycle()
    machine.receive_data(GET.replace(b"a.example", b"a/b"))
    with pytest.raises(RemoteProtocolError):
        machine.next_event()


def test_heads_do_not_share_their_fields(machine):
    first = read_head(machine, GET)
    machine.next_event()
    machine.start_next_cycle()
    second = read_head(machine, GET.replace(b"\r\n\r\n", b"\r\nX: y\r\n\r\n"))
    assert first.headers == [(b"host", b"a.example")]
    assert second.headers == [(b"host", b"a.example"), (b"x", b"y")]


def test_trailers_do_not_join_the_fields_of_the_head(machine):
    head = read_head(machine, CHUNKED)
    machine.receive_data(b"1\r\na\r\n0\r\nX: y\r\n\r\n")
    assert machine.next_event() == BodyChunk(b"a", False, [])
    assert machine.next_event() == BodyChunk(b"", True, [(b"x", b"y")])
    assert (b"x", b"y") not in head.headers


def test_a_whole_receive_is_handed_over_without_a_copy(machine):
    read_head(machine, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n")
    data = bytes(65536)
    machine.receive_data(data)
    chunk = machine.next_event()
    assert isinstance(chunk, BodyChunk)
    assert chunk.data is data


def test_good_chunks_come_before_the_mistake(machine):
    read_head(machine, CHUNKED)
    machine.receive_data(b"1\r\na\r\n1\r\nb\r\n-1\r\n")
    assert machine.next_event() == BodyChunk(b"ab", False, [])
    with pytest.raises(RemoteProtocolError):
        machine.next_event()


def test_the_reason_quotes_no_byte_of_the_peer(machine):
    machine.receive_data(b"GET /secret HTTP/1.1\r\nHost: secret, secret\r\n\r\n")
    with pytest.raises(RemoteProtocolError) as caught:
        machine.next_event()
    assert "secret" not in str(caught.value)


class _Dissenter(H11Machine):
    """A library that reads another request than we do."""

    def __init__(self, opinion: Opinion | None) -> None:
        super().__init__(Http1Limits())
        self.opinion = opinion

    def _read_head(self, head: bytes) -> Opinion | None:
        return self.opinion


FIELDS = [(b"host", b"a.example")]


@pytest.mark.parametrize(
    "opinion",
    [
        None,
        Opinion(b"/other", FIELDS, True),
        Opinion(b"/", [], True),
        Opinion(b"/", [*FIELDS, (b"x", b"y")], True),
        Opinion(b"/", FIELDS, False),
    ],
)
def test_disagreement_with_the_library_is_a_refusal(opinion):
    machine = _Dissenter(opinion)
    machine.receive_data(GET)
    with pytest.raises(RemoteProtocolError) as caught:
        machine.next_event()
    assert caught.value.status_hint == 400


def test_agreement_with_the_library_is_an_acceptance():
    machine = _Dissenter(Opinion(b"/", FIELDS, True))
    assert read_head(machine, GET).host == b"a.example"


# Costs: each bound is ten times what a slow machine needs, and a tenth of what a quadratic reading would take.


def test_a_head_byte_by_byte_costs_little(machine):
    raw = b"GET /" + b"a" * 16000 + b" HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 47000 + b"\r\n\r\n"
    begin = time.process_time()
    for i in range(len(raw) - 1):
        machine.receive_data(raw[i : i + 1])
        assert machine.next_event() is NEED_DATA
    machine.receive_data(raw[-1:])
    assert isinstance(machine.next_event(), RequestHead)
    assert time.process_time() - begin < 10


def test_tiny_chunks_cost_little(machine):
    read_head(machine, CHUNKED)
    piece = b"1\r\nx\r\n" * 10922
    begin = time.process_time()
    for _ in range(8):
        machine.receive_data(piece)
        chunk = machine.next_event()
        assert isinstance(chunk, BodyChunk)
        assert len(chunk.data) == 10922
    assert time.process_time() - begin < 5


def test_a_long_pipeline_costs_little(machine):
    machine.receive_data(GET * 2000)
    begin = time.process_time()
    for _ in range(2000):
        assert isinstance(machine.next_event(), RequestHead)
        machine.start_next_cycle()
    assert time.process_time() - begin < 10


def test_bytes_that_were_taken_are_not_kept(machine):
    read_head(machine, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n")
    tracemalloc.start()
    try:
        for i in range(200):
            machine.receive_data(bytes(65536 + i % 2))
            machine.next_event()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 500_000
