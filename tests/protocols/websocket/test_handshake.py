from __future__ import annotations

import pytest

from trioserve.protocols.errors import LocalProtocolError
from trioserve.protocols.http1 import Http1Limits, RequestHead, build_machine
from trioserve.protocols.http2.events import Http2Request
from trioserve.protocols.websocket.events import Deflate
from trioserve.protocols.websocket.handshake import (
    HandshakeError,
    WebSocketRequest,
    accept_fields,
    is_upgrade,
    judge_connect,
    judge_upgrade,
)

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="  # of RFC 6455 section 1.3
FIELDS: dict[bytes, bytes | None] = {
    b"Host": b"a",
    b"Connection": b"Upgrade",
    b"Upgrade": b"websocket",
    b"Sec-WebSocket-Key": KEY,
    b"Sec-WebSocket-Version": b"13",
}


def head_of(more: bytes = b"", *, method: bytes = b"GET", **changes: bytes | None) -> RequestHead:
    """A request as the HTTP/1.1 machine reads it; `key=` and `version=` change or, with None, drop a field."""
    fields = dict(FIELDS)
    for name, value in changes.items():
        spelled = {"key": b"Sec-WebSocket-Key", "version": b"Sec-WebSocket-Version"}.get(
            name, name.title().encode()
        )
        fields[spelled] = value
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in fields.items() if value is not None)
    machine = build_machine("h11", Http1Limits())
    machine.receive_data(method + b" /chat HTTP/1.1\r\n" + lines + more + b"\r\n")
    head = machine.next_event()
    assert isinstance(head, RequestHead)
    return head


def connect(*fields: tuple[bytes, bytes], protocol: bytes = b"websocket") -> Http2Request:
    headers = [(b"host", b"a"), (b"sec-websocket-version", b"13"), *fields]
    return Http2Request(1, "CONNECT", b"/chat", headers, has_body=True, protocol=protocol)


def test_the_example_of_the_rfc():
    head = head_of(b"Sec-WebSocket-Protocol: chat, superchat\r\n")
    assert is_upgrade(head)
    request = judge_upgrade(head, deflate=True)
    assert request == WebSocketRequest(["chat", "superchat"], None, KEY)
    assert accept_fields(request, "chat", []) == [
        (b"upgrade", b"websocket"),
        (b"connection", b"Upgrade"),
        (b"sec-websocket-accept", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        (b"sec-websocket-protocol", b"chat"),
    ]


@pytest.mark.parametrize("upgrade", [b"websocket", b"WebSocket", b"h2c, websocket"])
def test_upgrades(upgrade: bytes):
    head = head_of(upgrade=upgrade)
    assert is_upgrade(head)
    judge_upgrade(head, deflate=False)


@pytest.mark.parametrize(
    "head", [head_of(upgrade=b"h2c"), head_of(upgrade=b"websockets"), head_of(connection=b"close")]
)
def test_other_requests(head: RequestHead):
    assert not is_upgrade(head)


TWICE = b"Sec-WebSocket-Key: " + KEY + b"\r\n"
VERSION = (b"sec-websocket-version", b"13")


@pytest.mark.parametrize(
    ("head", "status", "reason"),
    [
        (head_of(method=b"POST"), 405, "GET"),
        (head_of(method=b"HEAD"), 405, "GET"),
        (head_of(b"Content-Length: 1\r\n"), 400, "body"),
        (head_of(b"Transfer-Encoding: chunked\r\n"), 400, "body"),
        (head_of(key=None), 400, "key is missing"),
        (head_of(TWICE), 400, "key repeated"),
        (head_of(key=b""), 400, "base64"),
        (head_of(key=KEY[:-1]), 400, "base64"),
        (head_of(key=KEY + KEY), 400, "base64"),
        (head_of(key=b"dGhlIHNhbXBsZSBub25jZQAA"), 400, "base64"),
        (head_of(key=b"dGhlIHNhbXBsZSBub25jZ\xb5=="), 400, "base64"),
        (head_of(version=None), 400, "version is missing"),
        (head_of(version=b""), 426, "version is not 13"),
        (head_of(version=b"8"), 426, "version is not 13"),
        (head_of(version=b"013"), 426, "version is not 13"),
        (head_of(version=b"13, 8"), 426, "version is not 13"),
        (head_of(b"Sec-WebSocket-Version: 13\r\n"), 400, "version repeated"),
        (head_of(b"Sec-WebSocket-Protocol: \r\n"), 400, "malformed sec-websocket-protocol"),
        (head_of(b"Sec-WebSocket-Protocol: a b\r\n"), 400, "malformed sec-websocket-protocol"),
        (head_of(b"Sec-WebSocket-Protocol: a/b\r\n"), 400, "malformed sec-websocket-protocol"),
        (head_of(b"Sec-WebSocket-Protocol: a\xe9\r\n"), 400, "malformed sec-websocket-protocol"),
        (head_of(b"Sec-WebSocket-Protocol: a, b, a\r\n"), 400, "twice"),
        (head_of(b"Sec-WebSocket-Protocol: a\r\nSec-WebSocket-Protocol: a\r\n"), 400, "twice"),
    ],
)
def test_refused_upgrades(head: RequestHead, status: int, reason: str):
    with pytest.raises(HandshakeError, match=reason) as refused:
        judge_upgrade(head, deflate=True)
    assert refused.value.status_hint == status
    if status == 405:
        assert (b"allow", b"GET") in refused.value.headers
    assert VERSION in refused.value.headers
    if status == 426:  # RFC 9110 section 15.5.22
        assert (b"upgrade", b"websocket") in refused.value.headers


def test_subprotocols_of_several_lines():
    head = head_of(b"Sec-WebSocket-Protocol: A,,b\r\nSec-WebSocket-Protocol: graphql-ws\r\n")
    assert judge_upgrade(head, deflate=True).subprotocols == ["A", "b", "graphql-ws"]


@pytest.mark.parametrize(
    ("extensions", "agreed"),
    [
        (b"permessage-deflate", Deflate()),
        (b"permessage-deflate; client_max_window_bits", Deflate()),
        (b"foo, permessage-deflate", Deflate()),
        (b'foo; a="b"; c ; d = "e\\f", permessage-deflate', Deflate()),
        (b",permessage-deflate ;server_max_window_bits = 10,", Deflate(server_window_bits=10)),
        (b'permessage-deflate; server_max_window_bits="10"', Deflate(server_window_bits=10)),
        (b"permessage-deflate; server_max_window_bits=8, permessage-deflate", Deflate()),
        (b"permessage-deflate; client_max_window_bits=9, permessage-deflate", Deflate(client_window_bits=9)),
        (b"permessage-deflate; unknown", None),
        (b"permessage-deflate; server_max_window_bits=8", None),
        (b"x-webkit-deflate-frame", None),
    ],
)
def test_extensions(extensions: bytes, agreed: Deflate | None):
    head = head_of(b"Sec-WebSocket-Extensions: " + extensions + b"\r\n")
    assert judge_upgrade(head, deflate=True).deflate == agreed
    assert judge_upgrade(head, deflate=False).deflate is None


def test_extensions_of_several_lines():
    head = head_of(b"Sec-WebSocket-Extensions: foo\r\nSec-WebSocket-Extensions: permessage-deflate\r\n")
    assert judge_upgrade(head, deflate=True).deflate == Deflate()


@pytest.mark.parametrize(
    "extensions",
    [
        b"",
        b",",
        b"foo bar",
        b"foo;",
        b"foo;;a",
        b"foo; =a",
        b"foo; a=",
        b'foo; a=""',
        b'foo; a="b',
        b'foo; a="b c"',
        b"f/o",
        b"foo; a=b=c",
        b"foo; a=b c",
        b"foo;a," * 3 + b";",
        b'foo; a="\xe9"',
    ],
)
def test_malformed_extensions(extensions: bytes):
    head = head_of(b"Sec-WebSocket-Extensions: " + extensions + b"\r\n")
    for deflate in (True, False):
        with pytest.raises(HandshakeError, match="malformed sec-websocket-extensions") as refused:
            judge_upgrade(head, deflate=deflate)
        assert refused.value.status_hint == 400
        assert refused.value.headers == [VERSION]


def test_connect():
    request = judge_connect(
        connect((b"sec-websocket-protocol", b"a, b"), (b"sec-websocket-extensions", b"permessage-deflate")),
        deflate=True,
    )
    assert request == WebSocketRequest(["a", "b"], Deflate(), None)
    assert accept_fields(request, "b", [(b"X-A", b" 1 ")]) == [
        (b"sec-websocket-protocol", b"b"),
        (
            b"sec-websocket-extensions",
            b"permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        ),
        (b"x-a", b"1"),
    ]


@pytest.mark.parametrize(
    ("request_", "status", "headers"),
    [
        (connect(protocol=b"connect-udp"), 501, []),
        (connect((b"sec-websocket-version", b"13")), 400, [VERSION]),
        (connect((b"sec-websocket-protocol", b"a,a")), 400, [VERSION]),
        (
            Http2Request(1, "CONNECT", b"/", [(b"sec-websocket-version", b"12")], protocol=b"websocket"),
            400,
            [VERSION],
        ),
        (Http2Request(1, "CONNECT", b"/", [], protocol=b"websocket"), 400, [VERSION]),
    ],
)
def test_refused_connects(request_: Http2Request, status: int, headers: list[tuple[bytes, bytes]]):
    with pytest.raises(HandshakeError) as refused:
        judge_connect(request_, deflate=True)
    assert (refused.value.status_hint, refused.value.headers) == (status, headers)


OFFER = WebSocketRequest(["a"], None, KEY)


@pytest.mark.parametrize("subprotocol", ["b", "A", "", "a\r\nb: c"])
def test_subprotocol_that_was_not_offered(subprotocol: str):
    with pytest.raises(LocalProtocolError, match="has not offered"):
        accept_fields(OFFER, subprotocol, [])


@pytest.mark.parametrize(
    "field",
    [
        *[
            (name, b"x")
            for name in (
                b"Upgrade",
                b"connection",
                b"Sec-WebSocket-Accept",
                b"sec-websocket-protocol",
                b"sec-websocket-extensions",
                b"sec-websocket-version",
                b"sec-websocket-key",
                b"content-length",
                b"transfer-encoding",
                b"keep-alive",
                b"trailer",
            )
        ],
        (b"a b", b"x"),
        (b":status", b"x"),
        (b"", b"x"),
        (b"a", b"x\r\ny: z"),
        ("a", "b"),
    ],
)
def test_fields_that_are_not_the_applications(field: tuple[bytes, bytes]):
    with pytest.raises(LocalProtocolError):
        accept_fields(OFFER, None, [field])
    assert accept_fields(OFFER, None, [(b"Set-Cookie", b"a=b")])[-1] == (b"set-cookie", b"a=b")
