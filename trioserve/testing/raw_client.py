"""A client that sends exactly the bytes it is given, for tests of the protocol itself.

Only responses are parsed, by h11's client side. Needs no httpx, and works over any Trio stream, in memory or not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import h11
import trio
import trio.abc

if TYPE_CHECKING:
    from types import TracebackType

Fields = list[tuple[bytes, bytes]]

RECEIVE_SIZE = 65536
MAX_HEAD_SIZE = 1 << 20
"""Bytes of a response's head that are accepted; a test may well send large ones."""


@dataclass(frozen=True, slots=True)
class Response:
    """A response as it came over the wire.

    Args:
        status: the number.
        reason: the reason phrase.
        headers: fields in their order, names in lower case.
        body: all of it, after chunking was undone.
        trailers: the fields after a chunked body.
        http_version: "1.1" or "1.0".
        informational: the 1xx responses before it, as responses without a body.
    """

    status: int
    reason: str
    headers: Fields
    body: bytes = b""
    trailers: Fields = field(default_factory=list)
    http_version: str = "1.1"
    informational: list[Response] = field(default_factory=list)

    def header(self, name: str) -> bytes | None:
        """Return the value of a field, several ones joined by commas, or None (RFC 9110 section 5.3)."""
        wanted = name.lower().encode()
        values = [value for key, value in self.headers if key == wanted]
        return b", ".join(values) if values else None


class RawClient:
    """One connection, driven by hand.

    Usable in `async with`, which closes the stream.

    Args:
        stream: the client's end of a connection.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._unread = b""

    async def __aenter__(self) -> RawClient:
        """Return itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the stream."""
        await self.aclose()

    async def send(self, data: bytes) -> None:
        """Send bytes as they are.

        Raises:
            trio.BrokenResourceError: the server has closed the connection.
        """
        await self.stream.send_all(data)

    async def receive_response(self, method: str = "GET") -> Response:
        """Read one response, and not a byte of the next one.

        Args:
            method: the method of the request it belongs to: a response to HEAD has no body, whatever it says.

        Raises:
            h11.RemoteProtocolError: what came is not a response, or was cut short; also when nothing came.
        """
        parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_SIZE)
        # The parser has to know what was asked; that the bytes it renders go nowhere does not matter to it.
        parser.send(h11.Request(method=method, target="/", headers=[("host", "unused")]))
        parser.send(h11.EndOfMessage())
        if self._unread:  # no bytes would mean the end of the stream
            parser.receive_data(self._unread)
            self._unread = b""
        informational: list[Response] = []
        head: h11.Response | None = None
        body = bytearray()
        while True:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                parser.receive_data(await self._receive())
            elif isinstance(event, h11.InformationalResponse):
                informational.append(_response_of(event))
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert head is not None
                self._unread = parser.trailing_data[0]
                return _response_of(head, bytes(body), list(event.headers), informational)
            else:
                raise h11.RemoteProtocolError("the server closed the connection without a response")

    async def receive_some(self) -> bytes:
        """Return the next bytes, b"" at the end of the stream."""
        data, self._unread = self._unread, b""
        return data or await self._receive()

    async def receive_all(self) -> bytes:
        """Return everything until the server ends its side."""
        everything = bytearray()
        while data := await self.receive_some():
            everything += data
        return bytes(everything)

    async def wait_closed(self) -> None:
        """Return when the server has ended its side.

        Raises:
            AssertionError: it sent something before that.
        """
        data = await self.receive_all()
        assert not data, f"expected the end of the stream, got {data[:200]!r}"

    async def half_close(self) -> None:
        """End the client's sending side; reading goes on."""
        assert isinstance(self.stream, trio.abc.HalfCloseableStream)
        await self.stream.send_eof()

    async def aclose(self) -> None:
        """Close the connection, as a client does that leaves."""
        await self.stream.aclose()

    async def _receive(self) -> bytes:
        try:
            return bytes(await self.stream.receive_some(RECEIVE_SIZE))
        except trio.BrokenResourceError:
            return b""  # a reset ends a connection as well


def _response_of(
    head: h11.Response | h11.InformationalResponse,
    body: bytes = b"",
    trailers: Fields | None = None,
    informational: list[Response] | None = None,
) -> Response:
    return Response(
        head.status_code,
        bytes(head.reason).decode("latin-1"),
        list(head.headers),
        body,
        trailers or [],
        bytes(head.http_version).decode(),
        informational or [],
    )
