"""An application that writes down every request it saw in whole, and a server around it on real sockets."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import trio

from trioserve import Config, serve
from trioserve.config import LifecycleSettings, LoggingSettings
from trioserve.testing.raw_client import RawClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trioserve.server.server import Server

QUIET = LoggingSettings(access="off")
NO_LIFESPAN = LifecycleSettings(lifespan="off")


async def read_body(receive: Any) -> tuple[bytes, tuple[tuple[bytes, bytes], ...]] | None:
    """Body and trailers; None when the client left before the end."""
    body, message = b"", {"more_body": True}
    while message["more_body"]:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message["body"]
    return body, tuple(message.get("trailers", ()))


async def respond(send: Any, body: bytes = b"ok", status: int = 200, headers: Any = ()) -> None:
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": body})


@dataclass(frozen=True)
class Seen:
    """One request as the application saw it."""

    method: str
    target: bytes
    path: str
    headers: list[tuple[bytes, bytes]]
    body: bytes
    trailers: tuple[tuple[bytes, bytes], ...]


@dataclass
class Recorder:
    """Keeps what it saw by the client's address; reads the whole body before it answers."""

    seen: dict[Any, list[Seen]] = field(default_factory=dict)
    begun: dict[Any, int] = field(default_factory=dict)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        client = scope["client"]
        self.begun[client] = self.begun.get(client, 0) + 1
        complete = await read_body(receive)
        if complete is None:
            return
        query = scope["query_string"]
        target = scope["raw_path"] + (b"?" + query if query else b"")
        seen = Seen(scope["method"], target, scope["path"], scope["headers"], *complete)
        self.seen.setdefault(client, []).append(seen)
        await respond(send, b"seen " + target)


@asynccontextmanager
async def serving(app: Any, config: Config | None = None, **settings: Any) -> AsyncIterator[Server]:
    """A server on a free port."""
    config = config or Config(bind="127.0.0.1:0", logging=QUIET, lifecycle=NO_LIFESPAN, **settings)
    async with trio.open_nursery() as nursery:
        yield await nursery.start(serve, app, config)
        nursery.cancel_scope.cancel()


async def connect(server: Server) -> RawClient:
    """A client of a server's first bind; its `stream` is a `trio.SocketStream` with TCP_NODELAY."""
    host, port = server.addresses[0][:2]
    return RawClient(await trio.open_tcp_stream(host, port))


async def until(condition: Any) -> None:
    """Return when something has come about that nobody tells of."""
    with trio.fail_after(8):
        while not condition():  # noqa: ASYNC110 - the server has no event for it
            await trio.sleep(0.005)
