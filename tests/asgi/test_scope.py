from __future__ import annotations

import pytest

from trioserve.asgi.channel import Peer
from trioserve.asgi.scope import ScopeBuilder
from trioserve.protocols.http1 import Http1Limits, machine_class


def head_of(line, *fields):
    machine = machine_class("h11")(Http1Limits())
    machine.receive_data(b"\r\n".join([line, b"Host: a", *fields, b"", b""]))
    return machine.next_event()


PEER = Peer(("192.0.2.1", 5000), ("192.0.2.2", 80), "http")


def build(line, *fields, root_path="", state=None, peer=PEER):
    builder = ScopeBuilder(root_path, state if state is not None else {}, {"tls": {}})
    return builder.build_http(head_of(line, *fields), peer, object())


def test_everything():
    control = object()
    scope = ScopeBuilder("", {"key": "value"}, {"tls": {"a": 1}}).build_http(
        head_of(b"POST /a%20b?x=%20&y HTTP/1.0", b"X-Upper: Value"), PEER, control
    )
    assert scope == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.0",
        "method": "POST",
        "scheme": "http",
        "path": "/a b",
        "raw_path": b"/a%20b",
        "query_string": b"x=%20&y",
        "root_path": "",
        "headers": [(b"host", b"a"), (b"x-upper", b"Value")],
        "client": ("192.0.2.1", 5000),
        "server": ("192.0.2.2", 80),
        "state": {"key": "value"},
        "extensions": {"tls": {"a": 1}, "trioserve": control},
    }


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/", "/"),
        (b"/caf%C3%A9", "/café"),
        (b"/%2F", "//"),
        (b"/%zz%", "/%zz%"),
        (b"/%ff", "/�"),
        (b"/a?b?c", "/a"),
    ],
)
def test_path(target, path):
    scope = build(b"GET %b HTTP/1.1" % target)
    assert scope["path"] == path
    assert scope["raw_path"] == target.partition(b"?")[0]
    assert scope["query_string"] == target.partition(b"?")[2]


@pytest.mark.parametrize(
    ("root_path", "prefix", "expected"),
    [("", "", ""), ("/app", "", "/app"), ("", "/front", "/front"), ("/app", "/front", "/app/front")],
)
def test_root_path_is_part_of_the_path(root_path, prefix, expected):
    scope = build(b"GET /x HTTP/1.1", root_path=root_path, peer=PEER._replace(prefix=prefix))
    assert scope["root_path"] == expected
    assert scope["path"] == expected + "/x"
    assert scope["raw_path"] == b"/x"


def test_no_request_can_change_what_another_gets():
    shared = {}
    state = {"pool": shared}
    builder = ScopeBuilder("", state, {"tls": {}})
    first = builder.build_http(head_of(b"GET / HTTP/1.1"), PEER, object())
    first["state"]["mine"] = 1
    first["extensions"]["mine"] = {}
    first["asgi"]["mine"] = 1
    second = builder.build_http(head_of(b"GET / HTTP/1.1"), PEER, object())
    assert second["state"] == {"pool": shared}
    assert second["state"]["pool"] is shared
    assert "mine" not in second["extensions"]
    assert "mine" not in second["asgi"]


class TestWebSocket:
    def build(self, *subprotocols, scheme="http", extensions=None, control=None, root_path=""):
        builder = ScopeBuilder(root_path, {"key": "value"}, extensions or {})
        head = head_of(b"GET /a%20b?x=%20&y HTTP/1.1", b"X-Upper: Value")
        return builder.build_websocket(head, PEER._replace(scheme=scheme), control, subprotocols)

    def test_everything(self):
        control = object()
        extensions = {"tls": {"a": 1}, "http.response.trailers": {}}
        scope = self.build("chat", "v2", extensions=extensions, control=control, root_path="/r")
        assert scope == {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.5"},
            "http_version": "1.1",
            "scheme": "ws",
            "path": "/r/a b",
            "raw_path": b"/a%20b",
            "query_string": b"x=%20&y",
            "root_path": "/r",
            "headers": [(b"host", b"a"), (b"x-upper", b"Value")],
            "client": ("192.0.2.1", 5000),
            "server": ("192.0.2.2", 80),
            "subprotocols": ["chat", "v2"],
            "state": {"key": "value"},
            "extensions": {"websocket.http.response": {}, "tls": {"a": 1}, "trioserve": control},
        }

    @pytest.mark.parametrize(
        ("scheme", "expected"), [("http", "ws"), ("https", "wss"), ("ws", "ws"), ("wss", "wss")]
    )
    def test_scheme(self, scheme, expected):
        assert self.build(scheme=scheme)["scheme"] == expected

    def test_without_tls(self):
        assert set(self.build()["extensions"]) == {"websocket.http.response", "trioserve"}
