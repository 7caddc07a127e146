"""What a machine remembers must never change a verdict (docs/decisions/0002)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioserve.protocols.errors import LocalProtocolError, RemoteProtocolError
from trioserve.protocols.http1 import CLOSED, NEED_DATA, Http1Limits, RequestHead, build_machine
from trioserve.protocols.http1 import response_writer as writer_module

LIMITS = Http1Limits(max_target_size=20, max_head_size=256)
PARSERS = ["h11", "httptools"]
LINES = [
    b"GET / HTTP/1.1\r\n",
    b"HEAD /other?x=1 HTTP/1.1\r\n",
    b"DELETE / HTTP/1.0\r\n",
    b"GET /aaaaaaaaaaaaaaaaaaaaaaaaaaaa HTTP/1.1\r\n",
    b"PURGE /x HTTP/1.1\r\n",
    b"GET http://b/ HTTP/1.1\r\n",
    b"GET  / HTTP/1.1\r\n",
    b"OPTIONS * HTTP/1.1\r\n",
]
FIELDS = [
    b"Host: a\r\n\r\n",
    b"Host: a\r\nConnection: keep-alive\r\n\r\n",
    b"Host: a\r\nConnection: close\r\n\r\n",
    b"Host: a\r\nX: y\r\n\r\n",
    b"Host: a\r\nContent-Length: 0\r\n\r\n",
    b"Host: a\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n",
    b"Host: a\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    b"Host: a\r\nExpect: 100-continue\r\n\r\n",
    b"\r\n",
]


def read(machine, data):
    """The head, or the status of the refusal, that one request amounts to."""
    machine.receive_data(data)
    try:
        event = machine.next_event()
    except RemoteProtocolError as error:
        return error.status_hint
    assert isinstance(event, RequestHead)
    return event


@pytest.mark.parametrize("parser", PARSERS)
@given(requests=st.lists(st.tuples(st.sampled_from(LINES), st.sampled_from(FIELDS)), min_size=2, max_size=5))
def test_each_request_is_read_as_by_a_machine_that_has_seen_nothing(parser, requests):
    machine = build_machine(parser, LIMITS)
    for line, fields in requests:
        expected = read(build_machine(parser, LIMITS), line + fields)
        assert read(machine, line + fields) == expected
        if not machine.start_next_cycle():
            break


@pytest.mark.parametrize("parser", PARSERS)
def test_headers_of_two_requests_are_two_lists(parser):
    machine = build_machine(parser, LIMITS)
    first = read(machine, LINES[0] + FIELDS[3])
    first.headers.append((b"added", b"by the application"))
    assert machine.start_next_cycle()
    second = read(machine, LINES[0] + FIELDS[3])
    second.headers.clear()
    assert machine.start_next_cycle()
    assert read(machine, LINES[0] + FIELDS[3]).headers == [(b"host", b"a"), (b"x", b"y")]


@pytest.mark.parametrize("parser", PARSERS)
def test_a_repeated_head_may_come_in_pieces(parser):
    machine = build_machine(parser, LIMITS)
    request = LINES[0] + FIELDS[0]
    read(machine, request)
    assert machine.start_next_cycle()
    for index in range(len(request) - 1):
        machine.receive_data(request[index : index + 1])
        assert machine.next_event() is NEED_DATA
    assert read(machine, request[-1:]).target == b"/"
    assert machine.start_next_cycle()
    machine.receive_data(b"")
    assert machine.next_event() is CLOSED


@pytest.mark.parametrize("parser", PARSERS)
def test_a_field_more_is_not_overlooked(parser):
    machine = build_machine(parser, LIMITS)
    read(machine, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert machine.start_next_cycle()
    assert read(machine, b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n") == 400


def test_a_response_field_that_was_refused_is_refused_again():
    machine = build_machine("h11", LIMITS)
    read(machine, LINES[0] + FIELDS[0])
    for _ in range(3):
        with pytest.raises(LocalProtocolError):
            machine.prepare_head(200, [(b"x-good", b"1"), (b"x-bad", b"1\r\nx-injected: 2")])


def test_fields_of_one_response_do_not_stick_to_the_next():
    machine = build_machine("h11", LIMITS)
    sent = []
    for headers in ([(b"connection", b"close")], [(b"date", b"then")], [(b"content-length", b"2")], []):
        machine = build_machine("h11", LIMITS)
        read(machine, LINES[0] + FIELDS[0])
        sent.append(machine.send_response(200, headers, b"ok"))
    assert b"connection: close" in sent[0]
    assert b"date: then" in sent[1]
    assert sent[3] == b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def test_what_is_remembered_is_bounded():
    machine = build_machine("h11", LIMITS)
    read(machine, LINES[0] + FIELDS[0])
    for number in range(3 * writer_module.KNOWN_FIELDS):
        machine.prepare_head(200, [(b"x-number", b"%d" % number), (b"x-long", b"%d" % number * 100)])
    assert len(writer_module._known_fields) <= writer_module.KNOWN_FIELDS + 1
    assert all(len(line) <= writer_module.KNOWN_SIZE for line in writer_module._known_fields.values())
