"""A transport over any `trio.abc.Stream`: memory streams, subprocess pipes, SSH channels, whatever speaks bytes."""

from __future__ import annotations

import trio
import trio.abc
import trio.lowlevel

from trioserve.server.transport import RECEIVE_SIZE, Transport

SEND_SIZE = 65536
"""Bytes that are given to a stream at once, and counted after: so a slow peer can be told from one that has stalled."""


class StreamTransport(Transport):
    """Any `trio.abc.Stream`, with a task that reads one piece ahead.

    The piece ahead is how a hang-up is noticed while the application runs: what comes after bytes that nobody has
    read yet cannot be seen on an abstract stream.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        super().__init__()
        self._stream = stream
        self.readable = False
        self._ahead: bytes | None = None
        self._rest = b""
        self._error: Exception | None = None
        self._wake_reader = trio.lowlevel.ParkingLot()
        self._wake_pump = trio.Event()
        self._reading = False
        self._closed = False

    async def pump(self) -> None:
        """Read ahead until the stream ends. To be run in a task that is cancelled with the connection."""
        while not self.half_closed:
            try:
                self._ahead = bytes(await self._stream.receive_some(RECEIVE_SIZE))
            except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
                self._ahead, self._error = b"", error
                self.broken = True
            if not self._ahead:
                self.half_closed = True
                if self._observer is not None:
                    self._observer.peer_left(self.broken)
            self.readable = True
            if not self._reading and self._observer is not None:
                self._observer.bytes_waiting()
            self._wake_reader.unpark_all()
            await self._wake_pump.wait()
            self._wake_pump = trio.Event()

    def receive_now(self, max_bytes: int) -> bytes | None:
        """See `Transport.receive_now`."""
        if max_bytes < 1:
            raise ValueError("max_bytes must be at least 1")
        if self._reading:
            raise trio.BusyResourceError("another task is reading from this transport")
        if self._closed:
            raise trio.ClosedResourceError("this transport was closed")
        return self._take(max_bytes) if self._rest or self._ahead is not None else None

    async def parked_receive(self, max_bytes: int) -> bytes:
        """See `Transport.parked_receive`."""
        self._reading = True
        try:
            while self._ahead is None and not self._closed:
                await self._wake_reader.park()
        finally:
            self._reading = False
        if self._closed:
            raise trio.ClosedResourceError("this transport was closed")
        return self._take(max_bytes)

    def _take(self, max_bytes: int) -> bytes:
        """Take bytes that are here, or the end of the stream, which stays."""
        if not self._rest and self._ahead:
            self._rest, self._ahead = self._ahead, None
            self._wake_pump.set()
        elif not self._rest and self._error is not None:
            raise trio.BrokenResourceError("the connection broke") from self._error
        data, self._rest = self._rest[:max_bytes], self._rest[max_bytes:]
        self.readable = bool(self._rest) or self._ahead is not None
        return data

    def send_now(self, data: bytes | bytearray | memoryview) -> memoryview | None:
        """Take nothing: a stream can only be waited for."""
        return memoryview(data).cast("B")

    async def send_rest(self, rest: memoryview) -> None:
        """Send it all."""
        await self.send_all(rest)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """See `Transport.send_all`; waits and checkpoints as the stream does."""
        whole = memoryview(data).cast("B")
        try:
            for start in range(0, len(whole) or 1, SEND_SIZE):
                piece = whole[start : start + SEND_SIZE]
                await self._stream.send_all(piece)
                self.bytes_sent += len(piece)
        except trio.BrokenResourceError:
            self.broken = self.half_closed = True
            if self._observer is not None:
                self._observer.peer_left(True)  # the reading task may be parked, and see it late
            raise

    async def wait_send_all_might_not_block(self) -> None:
        """Ask the stream."""
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """End the sending side if the stream can, otherwise do nothing."""
        if isinstance(self._stream, trio.abc.HalfCloseableStream):
            await self._stream.send_eof()
        else:
            await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Close the stream; whoever reads gets `trio.ClosedResourceError`."""
        self._closed = True
        self._observer = None
        self._wake_reader.unpark_all()
        await self._stream.aclose()

    def abort(self) -> None:
        """Nothing more is written; the stream itself is closed by `aclose`."""
        self.broken = True
