from __future__ import annotations

import h11
import pytest

from trioserve.protocols.errors import LocalProtocolError
from trioserve.protocols.http1 import DefaultLines, Http1Limits, Http1Machine, build_machine
from trioserve.protocols.http1.response_fields import STATUS_LINES

DEFAULTS = DefaultLines(b"date: now\r\n", b"server: trioserve\r\n", b"alt-svc: x\r\n")


def asked(method: bytes = b"GET", version: bytes = b"1.1", connection: bytes = b"") -> Http1Machine:
    machine = build_machine("h11", Http1Limits())
    fields = b"Host: a\r\n" + (b"Connection: " + connection + b"\r\n" if connection else b"")
    machine.receive_data(method + b" / HTTP/" + version + b"\r\n" + fields + b"\r\n")
    machine.next_event()
    return machine


def fields_of(head: bytes) -> list[bytes]:
    assert head.endswith(b"\r\n\r\n")
    return head[:-4].split(b"\r\n")[1:]


def test_known_length_becomes_content_length():
    machine = asked()
    head = machine.send_head(200, [(b"content-type", b"text/plain")], body_known=2)
    assert head == b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\n"
    assert machine.send_body(b"ok") == b"ok"
    assert machine.send_end() == b""
    assert machine.reusable


def test_unknown_length_is_chunked():
    machine = asked()
    assert fields_of(machine.send_head(200, [])) == [b"transfer-encoding: chunked"]
    assert machine.send_body(b"hello world, sixteen") == b"14\r\nhello world, sixteen\r\n"
    assert machine.send_body(b"") == b""
    assert machine.send_large_body(255) == (b"ff\r\n", b"\r\n")
    assert machine.send_large_body(0) == (b"", b"")
    assert machine.send_end() == b"0\r\n\r\n"
    assert machine.reusable


def test_unknown_length_on_1_0_ends_with_the_connection():
    machine = asked(version=b"1.0", connection=b"keep-alive")
    assert fields_of(machine.send_head(200, [])) == [b"connection: close"]
    assert machine.send_body(b"ok") == b"ok"
    assert machine.send_large_body(9) == (b"", b"")
    assert machine.send_end([(b"x", b"y")]) == b""
    assert machine.ends_by_close
    assert not machine.reusable


def test_keep_alive_is_said_on_1_0_only():
    assert b"connection: keep-alive" in asked(version=b"1.0", connection=b"keep-alive").send_head(
        200, [], body_known=0
    )
    assert b"connection" not in asked().send_head(200, [], body_known=0)


@pytest.mark.parametrize(
    "machine", [asked(connection=b"close"), asked(version=b"1.0"), build_machine("h11", Http1Limits())]
)
def test_close_follows_the_request(machine):
    assert b"\r\nconnection: close\r\n" in machine.send_response(200, [], b"ok")
    assert not machine.continues
    assert not machine.reusable


def test_application_may_close():
    machine = asked()
    head = machine.send_head(200, [(b"Connection", b"x, Close")], body_known=0)
    assert fields_of(head) == [b"content-length: 0", b"connection: close"]
    assert not machine.continues


@pytest.mark.parametrize(
    ("method", "status", "length"),
    [
        (b"HEAD", 200, b"content-length: 5"),
        (b"GET", 204, None),
        (b"GET", 304, b"content-length: 5"),
        (b"HEAD", 404, b"content-length: 5"),
    ],
)
def test_responses_without_content_swallow_it(method, status, length):
    machine = asked(method)
    fields = fields_of(machine.send_head(status, [(b"content-length", b"5")]))
    assert fields == ([] if length is None else [length])
    assert machine.bodyless
    assert machine.send_body(b"hello and more") == b""
    assert machine.send_large_body(99) == (b"", b"")
    assert machine.send_end([(b"x", b"y")]) == b""
    assert machine.reusable


def test_head_of_an_unknown_length_says_nothing_of_it():
    assert fields_of(asked(b"HEAD").send_head(200, [])) == []
    assert fields_of(asked(b"HEAD").send_head(200, [], body_known=3)) == [b"content-length: 3"]


def test_fields_that_belong_to_the_connection_are_dropped():
    dropped = [b"Transfer-Encoding", b"Keep-Alive", b"Proxy-Connection", b"TE", b"Upgrade"]
    head = asked().send_head(
        200, [*((name, b"x") for name in dropped), (b"Connection", b"keep-alive, x")], body_known=0
    )
    assert fields_of(head) == [b"content-length: 0"]


def test_names_keep_their_case_and_values_lose_outer_blanks():
    head = asked().send_head(200, [(b"X-Case", b" \ta b\t "), (b"trailer", b"x")], body_known=0)
    assert fields_of(head)[:2] == [b"X-Case: a b", b"trailer: x"]


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ([], [b"date: now", b"server: trioserve", b"alt-svc: x"]),
        ([(b"Date", b"then")], [b"server: trioserve", b"alt-svc: x"]),
        ([(b"server", b"mine")], [b"date: now", b"alt-svc: x"]),
        ([(b"server", b"mine"), (b"date", b"then")], [b"alt-svc: x"]),
    ],
)
def test_default_lines_give_way_to_the_application(own, expected):
    lines = fields_of(asked().send_head(200, own, defaults=DEFAULTS, body_known=0))
    assert lines == [b"%b: %b" % field for field in own] + [b"content-length: 0", *expected]


ILLEGAL_FIELDS = [
    *(
        (b"x", b"a\r\nb: c"),
        (b"x", b"a\nb"),
        (b"x", b"a\rb"),
        (b"x", b"a\x00"),
        (b"x", b"\r\n"),
        (b"x", b"a\r\n b"),
    ),
    *((b"", b"a"), (b"x y", b"a"), (b"x:", b"a"), (b"transfer-encoding: chunked\r\nx", b"a"), (b"x\n", b"a")),
    *(
        (b"transfer-encoding: chunked, x", b"a"),
        (b"\xc3\xa4", b"a"),
        (b"content-type\r", b"a"),
        (b"date", b"\r\nx: y"),
    ),
    *(
        (b"content-length", b"-1"),
        (b"content-length", b"1, 1"),
        (b"content-length", b""),
        (b"content-length", b"\xb2"),
    ),
    *(
        ("x", b"a"),
        (b"x", "a"),
        (b"x",),
        (b"x", b"a", b"b"),
        (b"x", None),
        (b"x", 1),
        b"xy",
        1,
        None,
        ("x", "y"),
    ),
]


@pytest.mark.parametrize("field", ILLEGAL_FIELDS, ids=repr)
def test_illegal_fields_are_refused_and_another_head_can_be_sent(field):
    machine = asked()
    with pytest.raises(LocalProtocolError):
        machine.prepare_head(200, [(b"a", b"b"), field, (b"c", b"d")])
    with pytest.raises(LocalProtocolError, match="no response head was prepared"):
        machine.send_prepared_head()
    assert machine.send_response(500, [], b"sorry").startswith(b"HTTP/1.1 500 Internal Server Error\r\n")


@pytest.mark.parametrize("field", ILLEGAL_FIELDS, ids=repr)
def test_illegal_fields_that_can_be_read_only_once_are_refused(field):
    with pytest.raises(LocalProtocolError):
        asked().prepare_head(200, iter([(b"a", b"b"), field]))


def test_fields_that_can_be_read_only_once_are_sent():
    head = asked().send_head(200, iter([(b"a", b"b"), (b"c", b"d")]), body_known=0)
    assert fields_of(head) == [b"a: b", b"c: d", b"content-length: 0"]


def test_the_message_names_the_field():
    with pytest.raises(LocalProtocolError, match="b'x-bad'"):
        asked().send_head(200, [(b"x-good", b"a"), (b"x-bad", b"a\nb")])


def test_repeated_content_length_is_refused():
    with pytest.raises(LocalProtocolError, match="content-length"):
        asked().send_head(200, [(b"content-length", b"2"), (b"content-length", b"2")])


@pytest.mark.parametrize("status", [0, 99, 100, 101, 199, 600, 999, -200, "200", None, 200.5])
def test_illegal_status_is_refused(status):
    with pytest.raises(LocalProtocolError, match="status"):
        asked().send_head(status, [])


def test_content_is_held_to_its_length():
    machine = asked()
    machine.send_head(200, [(b"content-length", b"3")])
    machine.send_body(b"ab")
    with pytest.raises(LocalProtocolError, match="shorter"):
        machine.send_end()
    with pytest.raises(LocalProtocolError, match="longer"):
        machine.send_body(b"cd")
    with pytest.raises(LocalProtocolError, match="longer"):
        machine.send_large_body(2)
    machine.send_body(b"c")
    machine.send_end()
    with pytest.raises(LocalProtocolError):
        machine.send_body(b"")


def test_two_lengths_that_differ_are_refused_before_anything_is_sent():
    machine = asked()
    machine.prepare_head(200, [(b"content-length", b"3")])
    with pytest.raises(LocalProtocolError, match="4 bytes"):
        machine.send_prepared_head(body_known=4)
    assert machine.send_response(500, [], b"").startswith(b"HTTP/1.1 500 ")


def test_order_is_enforced():
    machine = asked()
    for call in (machine.send_end, lambda: machine.send_body(b"x"), lambda: machine.send_large_body(1)):
        with pytest.raises(LocalProtocolError):
            call()
    machine.send_head(200, [])
    for call in (
        lambda: machine.send_head(200, []),
        lambda: machine.send_information(103, []),
    ):
        with pytest.raises(LocalProtocolError):
            call()
    assert not machine.start_next_cycle()


def test_trailers():
    machine = asked()
    machine.send_head(200, [])
    end = machine.send_end([(b"X-Sum", b" 1 "), (b"Content-Length", b"5"), (b"set-cookie", b"a=b")])
    assert end == b"0\r\nX-Sum: 1\r\n\r\n"
    machine = asked()
    machine.send_head(200, [])
    with pytest.raises(LocalProtocolError):
        machine.send_end([(b"x", b"a\r\nb: c")])
    assert machine.send_end() == b"0\r\n\r\n"


def test_early_hints():
    machine = asked()
    hint = machine.send_information(
        103, [(b"link", b"</a>"), (b"connection", b"close"), (b"content-length", b"1")]
    )
    assert hint == b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"
    assert asked(version=b"1.0").send_information(103, [(b"link", b"</a>")]) == b""
    for status in (99, 200):
        with pytest.raises(LocalProtocolError):
            machine.send_information(status, [])
    with pytest.raises(LocalProtocolError):
        machine.send_information(103, [(b"link", b"a\r\nb: c")])


def test_every_status_has_a_phrase():
    assert set(STATUS_LINES) == set(range(100, 600))
    assert STATUS_LINES[299] == b"HTTP/1.1 299 Success\r\n"
    assert STATUS_LINES[599] == b"HTTP/1.1 599 Server Error\r\n"
    assert all(
        line.startswith(b"HTTP/1.1 %d " % status) and line[13:-2] for status, line in STATUS_LINES.items()
    )


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@pytest.mark.parametrize("status", [200, 204, 304, 404])
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_a_client_reads_what_was_sent(method, status, version, known):
    machine = asked(method, version, b"keep-alive")
    pieces = [b"hello ", b"", b"world"]
    raw = machine.send_head(status, [(b"x", b"y")], defaults=DEFAULTS, body_known=11 if known else None)
    raw += b"".join(machine.send_body(piece) for piece in pieces) + machine.send_end()
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(raw)
    client.receive_data(b"")
    response = client.next_event()
    assert isinstance(response, h11.Response)
    assert response.status_code == status
    body = b""
    while isinstance(event := client.next_event(), h11.Data):
        body += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    assert body == (b"hello world" if method == b"GET" and status in (200, 404) else b"")


def test_an_upgrade_is_told_with_426_alone():
    """RFC 9110 section 15.5.22: there it has to be."""
    fields = [(b"Upgrade", b"websocket"), (b"upgrade", b"h2c"), (b"connection", b"close"), (b"x", b"y")]
    told = [b"upgrade: websocket, h2c", b"connection: upgrade"]
    rest = [b"x: y", b"content-length: 0", b"connection: close"]
    assert fields_of(asked().send_head(426, fields, body_known=0)) == told + rest
    assert fields_of(asked().send_head(400, fields, body_known=0)) == rest
    with pytest.raises(LocalProtocolError):
        asked().send_head(426, [(b"upgrade", b"a\r\nb: c")])
