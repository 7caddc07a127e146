"""httpx into a server in memory: requests go through HTTP/1.1 as over a network.

`TrioserveTransport` frames requests and reads responses with h11's client side, and keeps one idle connection.
It needs httpx, which the extra `testing` brings; `RawClient`, found here too, does not.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

import h11
import trio

from trioserve.testing.raw_client import MAX_HEAD_SIZE, RECEIVE_SIZE, RawClient, Response

try:
    import httpx
except ImportError as error:  # pragma: no cover - the environment of our own tests has it
    raise ImportError("this part of the test kit needs httpx: pip install 'trioserve[testing]'") from error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from trioserve.testing.memory import Connection

__all__ = ["RawClient", "Response", "TrioserveTransport", "build_client"]

BASE_URL = "http://testserver"


def build_client(transport: TrioserveTransport, options: Mapping[str, Any]) -> httpx.AsyncClient:
    """Return a client on a transport; `options` stand over the defaults of `MemoryServer.client`."""
    return httpx.AsyncClient(**{"transport": transport, "base_url": BASE_URL, "timeout": None, **options})


class TrioserveTransport(httpx.AsyncBaseTransport):
    """An httpx transport into a server in memory, from `MemoryServer.transport()`.

    Responses are streamed. A request's body is sent before the response is read, and only one that the server cuts
    short ends early, as with httpx over a network. Errors are httpx's own: `RemoteProtocolError` for a response that is
    malformed, cut short or missing, `ConnectError` from a server that is finishing, `ReadTimeout` and `WriteTimeout`
    after the client's timeouts, on Trio's clock.

    Cancelling a request, or leaving its response unread, closes the connection: to the server the client is gone.

    Args:
        open_connection: opens a connection for "http" or "https".
    """

    def __init__(self, open_connection: Callable[[str], Connection]) -> None:
        self._open_connection = open_connection
        self._idle: _Http11Client | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and return its response as soon as there is a head."""
        connection = self._take(request.url.scheme)
        try:
            head = await connection.exchange(request)
        except BaseException:
            await connection.aclose()
            raise
        return httpx.Response(
            head.status_code,
            headers=list(head.headers),
            stream=_ResponseStream(connection, self._give_back),
            extensions={
                "http_version": b"HTTP/" + bytes(head.http_version),
                "reason_phrase": bytes(head.reason),
                "trailing_headers": connection.trailers,
            },
        )

    async def aclose(self) -> None:
        """Close the idle connection."""
        connection, self._idle = self._idle, None
        if connection is not None:
            await connection.aclose()

    def _take(self, scheme: str) -> _Http11Client:
        connection, self._idle = self._idle, None
        if connection is not None and connection.scheme == scheme and not connection.ended:
            return connection
        try:
            return _Http11Client(self._open_connection(scheme), scheme)
        except ConnectionRefusedError as error:
            raise httpx.ConnectError(str(error)) from error

    def _give_back(self, connection: _Http11Client) -> bool:
        """Keep a connection for the next request; False when there is one already."""
        if self._idle is not None and not self._idle.ended:
            return False
        self._idle = connection
        return True


class _Http11Client:
    """One connection: a request goes out, a response comes in, and again."""

    def __init__(self, connection: Connection, scheme: str) -> None:
        self.scheme = scheme
        self.trailers: list[tuple[bytes, bytes]] = []
        self._stream = connection.stream
        self._ended = connection.ended
        self._machine = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_SIZE)
        self._read_timeout = inf

    @property
    def ended(self) -> bool:
        """Whether the server has closed it."""
        return self._ended.is_set()

    async def exchange(self, request: httpx.Request) -> h11.Response:
        """Send a request and read the head of its response."""
        timeouts = request.extensions.get("timeout", {})
        self._read_timeout = _seconds(timeouts.get("read"))
        self.trailers = []
        try:
            with trio.fail_after(_seconds(timeouts.get("write"))):
                await self._send_request(request)
        except trio.TooSlowError as error:
            raise httpx.WriteTimeout("the server did not take the request in time") from error
        except trio.BrokenResourceError:
            pass  # the server may have answered before it closed
        except h11.LocalProtocolError as error:
            raise httpx.LocalProtocolError(str(error)) from error
        while True:
            event = await self._next_event()
            if isinstance(event, h11.Response):
                return event
            if not isinstance(event, h11.InformationalResponse):
                raise httpx.RemoteProtocolError("the server closed the connection without a response")

    async def _send_request(self, request: httpx.Request) -> None:
        machine = self._machine
        head = h11.Request(
            method=request.method.encode("ascii"),
            target=request.url.raw_path,
            headers=request.headers.raw,
        )
        await self._transmit(machine.send(head))
        assert isinstance(request.stream, httpx.AsyncByteStream)
        async for data in request.stream:
            await self._transmit(machine.send(h11.Data(data=data)))
        await self._transmit(machine.send(h11.EndOfMessage()))

    async def _transmit(self, data: bytes | None) -> None:
        if data:
            await self._stream.send_all(data)

    async def read_body(self) -> bytes | None:
        """Return the next piece of the body, None at its end."""
        event = await self._next_event()
        if isinstance(event, h11.Data):
            return bytes(event.data)
        assert isinstance(event, h11.EndOfMessage)
        self.trailers += event.headers
        return None

    async def _next_event(self) -> object:
        try:
            while (event := self._machine.next_event()) is h11.NEED_DATA:
                with trio.fail_after(self._read_timeout):
                    data = await self._stream.receive_some(RECEIVE_SIZE)
                self._machine.receive_data(bytes(data))
        except h11.RemoteProtocolError as error:
            raise httpx.RemoteProtocolError(str(error)) from error
        except trio.TooSlowError as error:
            raise httpx.ReadTimeout("the server did not answer in time") from error
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise httpx.ReadError("the connection is closed") from error
        return event

    def start_next_cycle(self) -> bool:
        """Make ready for another request; False when this was the connection's last."""
        machine = self._machine
        if machine.our_state is not h11.DONE or machine.their_state is not h11.DONE:
            return False
        machine.start_next_cycle()
        return True

    async def aclose(self) -> None:
        """Close at once; a checkpoint only for form's sake, so that it may be called while cancelled."""
        await trio.aclose_forcefully(self._stream)


class _ResponseStream(httpx.AsyncByteStream):
    """The body of a response; gives its connection back, or closes it, in the end."""

    def __init__(self, connection: _Http11Client, give_back: Callable[[_Http11Client], bool]) -> None:
        self._connection = connection
        self._give_back = give_back
        self._closed = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        # No generator: one that is left half way has to be finalized, which Trio warns about.
        return self

    async def __anext__(self) -> bytes:
        data = await self._connection.read_body()
        if data is None:
            raise StopAsyncIteration
        return data

    async def aclose(self) -> None:
        """Keep the connection if the response was read to its end, otherwise close it."""
        if self._closed:
            return
        self._closed = True
        if not (self._connection.start_next_cycle() and self._give_back(self._connection)):
            await self._connection.aclose()


def _seconds(timeout: float | None) -> float:
    return inf if timeout is None else timeout
