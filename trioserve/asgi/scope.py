"""A request head and the facts of its connection, as an ASGI scope (ASGI HTTP specification 2.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trioserve.asgi.channel import Peer
    from trioserve.asgi.request_control import RequestControl
    from trioserve.asgi.types import Headers, Scope

ASGI_VERSIONS = {"version": "3.0", "spec_version": "2.5"}
SESSION_SCHEMES = {"http": "ws", "https": "wss"}  # what proxies say may be ws or wss already


class ScopeHead(Protocol):
    """The parts of a request head that go into a scope."""

    method: str
    target: bytes
    http_version: str
    headers: Headers


class ScopeBuilder:
    """Builds the scopes of one connection's requests; what never changes is prepared once.

    Args:
        root_path: where a proxy mounts the application; put before the path, as ASGI asks.
        state: the lifespan's state; every request gets a shallow copy.
        extensions: the extensions of this connection, without `trioserve`.
    """

    __slots__ = ("_extensions", "_root_path", "_state")

    def __init__(self, root_path: str, state: dict[str, Any], extensions: dict[str, Any]) -> None:
        self._root_path = root_path
        self._state = state
        self._extensions = extensions

    def build_http(self, head: ScopeHead, peer: Peer, control: RequestControl) -> Scope:
        """Return the scope of one HTTP request."""
        raw_path, _, query_string = head.target.partition(b"?")
        path = raw_path.decode("latin-1")
        if "%" in path:
            path = unquote(path)
        root_path = self._root_path + peer.prefix
        if root_path:
            path = root_path + path
        extensions = self._extensions.copy()
        extensions["trioserve"] = control
        return {
            "type": "http",
            "asgi": ASGI_VERSIONS.copy(),
            "http_version": head.http_version,
            "method": head.method,
            "scheme": peer.scheme,
            "path": path,
            "raw_path": raw_path,
            "query_string": query_string,
            "root_path": root_path,
            "headers": head.headers,
            "client": peer.client,
            "server": peer.server,
            "state": self._state.copy(),
            "extensions": extensions,
        }

    def build_websocket(
        self, head: ScopeHead, peer: Peer, control: RequestControl, subprotocols: Sequence[str]
    ) -> Scope:
        """Return the scope of one WebSocket session, which the head of a handshake began.

        `subprotocols` are those that the client offers, in its order. Of the connection's extensions only `tls`
        is there, for the others are about responses.
        """
        scope = self.build_http(head, peer, control)
        del scope["method"]
        scope["type"] = "websocket"
        scope["scheme"] = SESSION_SCHEMES.get(peer.scheme, peer.scheme)
        scope["subprotocols"] = list(subprotocols)
        offered = {"websocket.http.response": {}, "trioserve": control}
        if "tls" in self._extensions:
            offered["tls"] = self._extensions["tls"]
        scope["extensions"] = offered
        return scope
