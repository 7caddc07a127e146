"""One client's vocabulary for every version of HTTP, so that one check can be run on each.

`ExchangeClient` is what `channel_checks` speaks: one request, its body in pieces, its response, and ways to leave.
There is an implementation for each protocol that the server has, on the raw clients of this package, and
`open_exchange` brings one together with a server. Not for applications' tests, which have `MemoryServer.client()`.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import h11
import trio
import trio.abc
from hyperframe.frame import DataFrame, Frame, RstStreamFrame

from trioserve.config import Config, LifecycleSettings, LoggingSettings
from trioserve.testing.http2_client import DEFAULT_FRAME_SIZE, Http2Client
from trioserve.testing.memory import open_memory_server
from trioserve.testing.raw_client import RawClient, Response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

    from trioserve.asgi.types import Application, Headers, Message, Receive, Scope, Send
    from trioserve.testing.http2_record import StreamRecord
    from trioserve.testing.memory import MemoryServer

    Fields = Iterable[tuple[bytes, bytes]]

CANCEL = 8  # RFC 9113 section 7
PATIENCE = 1000.0
"""Seconds after which what should happen is taken not to happen; more than any deadline, for clocks that jump."""


class ResponseCut(Exception):
    """The server ended a response so that it cannot pass for a complete one, or gave none."""


class ExchangeClient(Protocol):
    """A client with one connection, which asks once.

    Attributes:
        http_version: as scopes have it.
    """

    http_version: str

    async def ask(self, method: str, path: str, headers: Fields = (), *, has_body: bool = False) -> None:
        """Send a request's head; a Content-Length is the caller's, and without one `has_body` announces a body."""
        ...

    async def send_body(self, data: bytes, *, last: bool = False, trailers: Fields = ()) -> None:
        """Send a piece of the body."""
        ...

    async def response(self) -> Response:
        """Return the whole response.

        Raises:
            ResponseCut: there is none that is complete.
        """
        ...

    async def first_bytes(self) -> None:
        """Wait until a part of the response has come, a head at least."""
        ...

    async def leave(self) -> None:
        """Give the request up, so that nothing more can reach this client."""
        ...

    async def aclose(self) -> None:
        """Close the connection."""
        ...


OpenExchangeClient: TypeAlias = "Callable[[trio.abc.Stream], ExchangeClient]"


class Http1ExchangeClient:
    """HTTP/1.1."""

    http_version = "1.1"

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._client = RawClient(stream)
        self._method = "GET"
        self._chunked = False

    async def ask(self, method: str, path: str, headers: Fields = (), *, has_body: bool = False) -> None:
        """See `ExchangeClient`."""
        self._method = method
        lines = [f"{method} {path} HTTP/1.1".encode("latin-1"), b"host: localhost"]
        lines += [name + b": " + value for name, value in headers]
        self._chunked = has_body and not any(name == b"content-length" for name, _ in headers)
        if self._chunked:
            lines.append(b"transfer-encoding: chunked")
        await self._client.send(b"\r\n".join(lines) + b"\r\n\r\n")

    async def send_body(self, data: bytes, *, last: bool = False, trailers: Fields = ()) -> None:
        """See `ExchangeClient`."""
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
            if last:
                data += (
                    b"0\r\n" + b"".join(name + b": " + value + b"\r\n" for name, value in trailers) + b"\r\n"
                )
        if data:
            await self._client.send(data)

    async def response(self) -> Response:
        """See `ExchangeClient`."""
        try:
            return await self._client.receive_response(self._method)
        except h11.RemoteProtocolError as error:
            raise ResponseCut(str(error)) from None

    async def first_bytes(self) -> None:
        """See `ExchangeClient`; what came is lost to `response`."""
        assert await self._client.receive_some()

    async def leave(self) -> None:
        """See `ExchangeClient`."""
        await self._client.aclose()

    async def aclose(self) -> None:
        """See `ExchangeClient`."""
        await self._client.aclose()


class Http2ExchangeClient:
    """HTTP/2 on a connection of its own, with prior knowledge."""

    http_version = "2"

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._client = Http2Client(stream)
        self._stream_id = 0

    @property
    def _record(self) -> StreamRecord:
        return self._client.record(self._stream_id)

    async def ask(self, method: str, path: str, headers: Fields = (), *, has_body: bool = False) -> None:
        """See `ExchangeClient`."""
        client = self._client
        if self._stream_id == 0:
            await client.start()
        announced = any(name == b"content-length" and value != b"0" for name, value in headers)
        self._stream_id = await client.request(
            method, path, headers=headers, end_stream=not (has_body or announced)
        )

    async def send_body(self, data: bytes, *, last: bool = False, trailers: Fields = ()) -> None:
        """See `ExchangeClient`."""
        client, trailers = self._client, list(trailers)
        frames: list[Frame] = [
            DataFrame(self._stream_id, data[start : start + DEFAULT_FRAME_SIZE])
            for start in range(0, len(data) or 1, DEFAULT_FRAME_SIZE)
        ]
        if last and trailers:
            frames += client.head_frames(self._stream_id, trailers)
        elif last:
            frames[-1].flags.add("END_STREAM")
        await client.send(*frames)

    async def response(self) -> Response:
        """See `ExchangeClient`."""
        try:
            return await self._client.response(self._stream_id)
        except AssertionError as error:
            raise ResponseCut(str(error)) from None

    async def first_bytes(self) -> None:
        """See `ExchangeClient`."""
        while not self._record.heads:
            await self._client.next_frame()

    async def leave(self) -> None:
        """See `ExchangeClient`; the connection stays open."""
        await self._client.send(RstStreamFrame(self._stream_id, CANCEL))

    async def aclose(self) -> None:
        """See `ExchangeClient`."""
        await self._client.aclose()


# -- what the checks are made of ---------------------------------------------------------------------------------------


def head_message(status: int = 200, headers: Headers | None = None, **more: Any) -> Message:
    """Return an `http.response.start`."""
    return {"type": "http.response.start", "status": status, "headers": headers or [], **more}


def body_message(data: bytes = b"", more: bool = False) -> Message:
    """Return an `http.response.body`."""
    return {"type": "http.response.body", "body": data, "more_body": more}


def sending(*messages: Message) -> Application:
    """Return an application that sends these messages."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
        for message in messages:
            await send(message)

    return app


@asynccontextmanager
async def open_exchange(
    app: Application, open_client: OpenExchangeClient, *, lockstep: bool = False, **groups: Any
) -> AsyncIterator[tuple[ExchangeClient, MemoryServer]]:
    """A server and a client of it; whatever still runs at the end is stopped."""
    config = Config(
        logging=LoggingSettings(access="off"), lifecycle=LifecycleSettings(lifespan="off"), **groups
    )
    with trio.fail_after(PATIENCE):
        async with open_memory_server(app, config) as server:
            client = open_client(server.connect(lockstep=lockstep))
            yield client, server
            await client.aclose()
            server.server.stop_now()


async def get_response(app: Application, open_client: OpenExchangeClient, method: str = "GET") -> Response:
    """Ask an application once."""
    async with open_exchange(app, open_client) as (client, _):
        await client.ask(method, "/page")
        return await client.response()


@contextmanager
def raises(kind: type[Exception], words: str = "") -> Iterator[None]:
    """Expect an exception that says these words."""
    try:
        yield
    except kind as error:
        if words not in str(error):
            raise AssertionError(f"{error!r} does not say {words!r}") from error
    else:
        raise AssertionError(f"no {kind.__name__} was raised")
