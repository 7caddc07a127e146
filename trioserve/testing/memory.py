"""A running server without sockets: the real one, over memory streams.

Framing, limits, deadlines, disconnects, lifespan and drain are the server's own; only the byte streams differ.
Nothing here reads a clock or sleeps, so that under `trio.testing.MockClock(autojump_threshold=0)` deadlines of
minutes pass at once and always in the same order.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import trio
import trio.testing

from trioserve.config import Config, LoggingSettings
from trioserve.server.server import Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx

    from trioserve.asgi.types import Application
    from trioserve.telemetry.metrics import Stats
    from trioserve.testing.client import TrioserveTransport
    from trioserve.testing.raw_client import RawClient

QUIET = Config(logging=LoggingSettings(access="off"))
"""The defaults, without an access log."""
CLIENT = ("127.0.0.1", 50000)

ByteStream: TypeAlias = "trio.StapledStream[Any, Any]"


class Connection(NamedTuple):
    """The client's end of a connection.

    `ended` is set when the server has done with it.
    """

    stream: ByteStream
    ended: trio.Event


class MemoryServer:
    """A server that `open_memory_server` runs.

    Attributes:
        server: the running `trioserve.Server`, for `drain()` and `stop_now()`.
    """

    def __init__(self, server: Server) -> None:
        self.server = server

    def connect(
        self, client: tuple[str, int] | None = CLIENT, *, scheme: str = "http", lockstep: bool = False
    ) -> ByteStream:
        """Open a connection and return the client's end of it, a `trio.abc.HalfCloseableStream`.

        Closing it is what a client does that leaves: the server sees the end of the stream, and can write no more.

        Args:
            client: the address that requests report as the client's.
            scheme: "http" or "https"; no TLS is spoken in either case.
            lockstep: hold no bytes between the ends: each end's `send_all` waits until the other has read
                everything, as with a slow peer. Otherwise what is sent is held without a limit.

        Raises:
            ConnectionRefusedError: the server is finishing, or has finished.
        """
        return self.open_connection(client, scheme=scheme, lockstep=lockstep).stream

    def open_connection(
        self, client: tuple[str, int] | None = CLIENT, *, scheme: str = "http", lockstep: bool = False
    ) -> Connection:
        """As `connect`, and tell when the server has done with the connection."""
        if self.server.draining.is_set():
            raise ConnectionRefusedError("the server accepts nothing new")
        ours: ByteStream
        theirs: ByteStream
        if lockstep:
            ours, theirs = trio.testing.lockstep_stream_pair()
        else:
            ours, theirs = trio.testing.memory_stream_pair()
        return Connection(ours, self.server.start_stream(theirs, client=client, scheme=scheme))

    def raw_client(self, client: tuple[str, int] | None = CLIENT, *, lockstep: bool = False) -> RawClient:
        """Connect, and return a client that sends the bytes it is given; see `RawClient`."""
        from trioserve.testing.raw_client import RawClient

        return RawClient(self.connect(client, lockstep=lockstep))

    def transport(self, client: tuple[str, int] | None = CLIENT) -> TrioserveTransport:
        """Return a transport for `httpx.AsyncClient`; needs the extra `testing`.

        Args:
            client: the address that requests report as the client's.
        """
        from trioserve.testing.client import TrioserveTransport

        return TrioserveTransport(lambda scheme: self.open_connection(client, scheme=scheme))

    def client(self, **options: Any) -> httpx.AsyncClient:
        """Return an `httpx.AsyncClient` for this server; needs the extra `testing`.

        The base address is http://testserver, and there are no timeouts on the client's side, because a clock that
        jumps would let httpx's default of 5 s pass before the server's own deadlines. Close it, or use it in
        `async with`, to close its connection; the end of the server closes it too.

        Args:
            options: for `httpx.AsyncClient`, over these defaults.
        """
        from trioserve.testing.client import build_client

        return build_client(self.transport(), options)

    def stats(self) -> Stats:
        """Return what the server has done so far."""
        return self.server.stats()

    async def drain(self) -> None:
        """Tell the server to finish, and return once it accepts nothing new and its applications have been told.

        What runs may go on until `[timeouts] graceful`; the end of the `open_memory_server` block waits for it.
        """
        self.server.drain()
        await self.server.draining.wait()


@asynccontextmanager
async def open_memory_server(app: Application, config: Config | None = None) -> AsyncIterator[MemoryServer]:
    """Run a server for the length of a block: start-up before it, drain and the lifespan's shutdown after it.

    Leaving the block by an exception, or cancelling it, stops the server at once: running requests are cancelled,
    and only the lifespan's shutdown is still awaited.

    Args:
        app: an ASGI 3 application.
        config: the settings; default: `Config()` without an access log. Its binds are not opened.

    Raises:
        LifespanFailed: the application failed to start; the block is not entered.
        LifespanDied: the application's lifespan ended inside the block; that cancels nothing, as on a real server.

    An exception from the block itself comes out as it is, not in an exception group.
    """
    server = Server(config or QUIET, app, [])
    error: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run, name="trioserve")
            yield MemoryServer(server)
            server.drain()
    except BaseExceptionGroup as group:
        error = _only_error(group)
        if error is None:
            raise
    if error is not None:
        raise error  # outside of the handler, which would make the group its context


def _only_error(group: BaseExceptionGroup[BaseException]) -> BaseException | None:
    """Return the one exception inside nested groups, or None if there are several."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        if len(error.exceptions) > 1:
            return None
        error = error.exceptions[0]
    return error
