"""The seam between an exchange and the protocol that carries it.

`HttpExchange` owns this contract; each protocol implements `ResponseChannel` (HTTP/1.1: `server/http1_channel.py`), and
reports requests and pieces of bodies in these shapes. Declarations only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trioserve.asgi.types import Headers


class BodyPiece(Protocol):
    """A piece of a request's body, as a protocol machine reports it."""

    data: bytes
    last: bool
    trailers: Headers


class Request(Protocol):
    """The request head, as a protocol machine reports it."""

    method: str
    target: bytes
    http_version: str
    headers: Headers
    has_body: bool


Rest: TypeAlias = list[bytes | memoryview]
"""What a transport has not taken of one write, in order."""


class Peer(NamedTuple):
    """Who is at the other end, after the proxy rules."""

    client: tuple[str, int] | None  # None on a unix socket
    server: tuple[str, int | None] | None
    scheme: str  # "http" or "https"
    prefix: str = ""  # what a trusted proxy took off the path
    connection: int = 0  # counts the connections as they are accepted


class ResponseChannel(Protocol):
    """What an exchange needs of the protocol below it. One channel serves one exchange at a time.

    Writing is in two steps, because nearly always the first one is enough: a plain function writes what the
    transport takes at once, and only what is left has to be awaited. All of them raise `ClientDisconnected` when
    nothing can reach the client any more. Cancelling one leaves the response cut: it then has to be aborted.
    """

    left: bool  # the client has ended its sending side, or its transport is broken
    gone: bool  # nothing that is written can reach the client

    async def read_body(self) -> BodyPiece:
        """Return the next piece of the body; raise `ClientDisconnected` when it was cut short or malformed."""
        ...

    async def wait_disconnected(self) -> None:
        """Return when the client has left or the response is complete."""
        ...

    def prepare_head(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Check a head and keep it for `write_head`; raise `LocalProtocolError` for an illegal one."""
        ...

    def write_head(self, data: bytes, last: bool, length: int | None = None) -> Rest | None:
        """Write the prepared head with the first piece of the body.

        `length` is the length of the whole body where the caller knows it before the last piece. Returns None when
        the transport has taken everything, otherwise what `write_rest` has to be called with.
        """
        ...

    def write_body(self, data: bytes, last: bool) -> Rest | None:
        """Write a piece of the body; returns as `write_head`."""
        ...

    def write_trailers(self, headers: Headers) -> Rest | None:
        """Write the trailer section, which ends the response; returns as `write_head`."""
        ...

    async def write_rest(self, rest: Rest) -> None:
        """Wait until the transport has taken what the last write left; nothing, if only the stream's end is."""
        ...

    async def write_file(self, file: int, offset: int | None, count: int, last: bool) -> None:
        """Write bytes of an open file as a piece of the body."""
        ...

    async def write_information(self, status: int, headers: Headers) -> None:
        """Write an informational (1xx) response; nothing on protocols that have none."""
        ...

    def push(self, path: str, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Answer a request that the application makes in its client's name, where the protocol has pushes.

        Nothing happens when the client does not take them. Raises `LocalProtocolError` for an illegal path or field.
        """
        ...

    def abort(self) -> None:
        """End the response so that the client can tell it is not complete."""
        ...


class SessionChannel(Protocol):
    """What a WebSocket session needs of the protocol below it.

    Until it is accepted it is a request like any other and may be answered like one (a denial), with methods of
    `ResponseChannel`.
    """

    left: bool  # the client has closed, or has ended its sending side
    gone: bool  # nothing that is written can reach the client

    async def wait_disconnected(self) -> None:
        """See `ResponseChannel`."""
        ...

    def prepare_head(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """See `ResponseChannel`."""
        ...

    def write_head(self, data: bytes, last: bool, length: int | None = None) -> Rest | None:
        """See `ResponseChannel`."""
        ...

    def write_body(self, data: bytes, last: bool) -> Rest | None:
        """See `ResponseChannel`."""
        ...

    async def write_rest(self, rest: Rest) -> None:
        """See `ResponseChannel`."""
        ...

    def abort(self) -> None:
        """End denial or session so that the client can tell it is not complete."""
        ...

    async def accept(self, subprotocol: str | None, headers: Headers) -> None:
        """Complete the opening handshake.

        Raises `LocalProtocolError` for a subprotocol the client did not offer, or an illegal field, and
        `ClientDisconnected`.
        """
        ...

    async def receive_message(self) -> SessionMessage | SessionEnd:
        """Return the next message, or how the session ended; the latter for ever after.

        What is there already is returned without a checkpoint; cancelling it loses nothing.
        """
        ...

    def write_message(self, data: str | bytes) -> Rest | None:
        """Write a message; returns as `write_head` and is followed by `write_rest` in the same way."""
        ...

    async def close(self, code: int, reason: str) -> None:
        """Begin the closing handshake, or complete the peer's; waits until the close frame has been taken."""
        ...


class SessionMessage(Protocol):
    """A whole WebSocket message, as a protocol machine reports it: text as `str`, binary as `bytes`."""

    data: str | bytes


class SessionEnd(Protocol):
    """How a session ended: the close code, 1005 if none was sent and 1006 if the connection just broke."""

    code: int
    reason: str
