"""Byte transports: what a connection reads from and writes to.

`Transport` is the contract; `SocketTransport` here and `TlsTransport` use non-blocking sockets directly, told of their
readiness by a shared poller, and `StreamTransport` wraps any `trio.abc.Stream`. They are `HalfCloseableStream`s
in every way but one: an operation that need not wait is no checkpoint. Whoever loops over them has to see to
fairness; a server that yields twice per request for nothing is half as fast.

One task may read and one may write at a time; closing wakes both.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import ssl
import struct
import termios
from typing import TYPE_CHECKING, Any, Protocol

import outcome
import trio
import trio.abc
import trio.lowlevel

from trioserve.server.poller import HALF_CLOSED, HUNG_UP, WRITABLE, Poller

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

# Module names, since these are called for every request.
reschedule = trio.lowlevel.reschedule
current_task = trio.lowlevel.current_task
wait_task_rescheduled = trio.lowlevel.wait_task_rescheduled

RECEIVE_SIZE = 65536
WOULD_BLOCK = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
FILE_CHUNK = 262144


class TransportObserver(Protocol):
    """Who is told what happens to a transport while nobody waits for it.

    These are the only callbacks of the server: a hang-up, or the next request, are the things that can happen to a
    connection while its one task runs the application. Both must return at once.
    """

    def peer_left(self, broken: bool) -> None:
        """The peer has ended its sending side, or, if `broken`, nothing can reach it any more."""
        ...

    def bytes_waiting(self) -> None:
        """Bytes have come that nobody waits for."""
        ...


class Transport(trio.abc.HalfCloseableStream):
    """A byte stream below a connection.

    Attributes:
        half_closed: the peer has ended its sending side, though bytes may still wait to be read.
        broken: nothing that is sent can arrive any more.
        bytes_sent: how many bytes the layer below has taken.
        readable: bytes may be waiting; known for sure only after a read would have blocked.
    """

    # Slots, here and below, because thousands of these are idle at a time.
    __slots__ = ("_observer", "broken", "bytes_sent", "half_closed", "readable")

    def __init__(self) -> None:
        self.half_closed = False
        self.broken = False
        self.bytes_sent = 0
        self.readable = True
        self._observer: TransportObserver | None = None

    def observe(self, observer: TransportObserver | None) -> None:
        """Tell `observer` from now on."""
        self._observer = observer

    @property
    def bytes_delivered(self) -> int:
        """How many of those the peer has taken, as far as it is known; to be compared with itself only.

        A kernel asks for more in large pieces: of a slow peer it may take none for a minute.
        """
        return self.bytes_sent

    def receive_now(self, max_bytes: int) -> bytes | None:
        """Return what `receive_some` would return without waiting; None when it would have to wait.

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError: as `receive_some`.
        """
        raise NotImplementedError

    def parked_receive(self, max_bytes: int) -> Awaitable[bytes]:
        """Wait for bytes after `receive_now` has returned None.

        Has to be awaited at once, by the task that calls it: it is the waiting half of `receive_some` without a
        coroutine of its own.
        """
        raise NotImplementedError

    async def receive_some(self, max_bytes: int | None = RECEIVE_SIZE) -> bytes:
        """Return 1 to `max_bytes` bytes as soon as there are any, b"" at the end of the stream.

        A checkpoint only if it has to wait. Cancelling it loses no bytes.

        Raises:
            trio.BrokenResourceError: the connection was reset.
            trio.ClosedResourceError: closed on our side.
            trio.BusyResourceError: another task is reading.
        """
        if max_bytes is None:
            max_bytes = RECEIVE_SIZE
        data = self.receive_now(max_bytes)
        return await self.parked_receive(max_bytes) if data is None else data

    def send_now(self, data: bytes | bytearray | memoryview) -> memoryview | None:
        """Send what can be sent at once; None when that was all, otherwise what `send_rest` has to be called with.

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError: as `send_all`.
        """
        raise NotImplementedError

    async def send_rest(self, rest: memoryview) -> None:
        """Return when all was taken that `send_now` has just left."""
        raise NotImplementedError

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Return when the layer below has taken all of `data`.

        A checkpoint only if it has to wait. When cancelled, an unknown part has been sent.
        """
        rest = self.send_now(data)
        if rest is not None:
            await self.send_rest(rest)

    async def send_file(self, file: int, offset: int | None, count: int) -> None:
        """Send `count` bytes of an open file, from `offset` or from its current position.

        Raises:
            EOFError: the file has fewer bytes.
        """
        position = os.lseek(file, 0, os.SEEK_CUR) if offset is None else offset
        left = count
        while left:
            data = await trio.to_thread.run_sync(os.pread, file, min(left, FILE_CHUNK), position)
            if not data:
                raise EOFError("the file is shorter than was announced")
            await self.send_all(data)
            left -= len(data)
            position += len(data)
        if offset is None:
            os.lseek(file, position, os.SEEK_SET)

    async def wait_send_all_might_not_block(self) -> None:
        """Return when `send_all` would probably not wait."""
        await trio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        """End our sending side; reading goes on."""
        raise NotImplementedError

    def abort(self) -> None:
        """Close at once, and so that the peer sees an error rather than an orderly end where that is possible."""
        raise NotImplementedError


class SocketTransport(Transport):
    """A connected, non-blocking stream socket (TCP or unix)."""

    __slots__ = (
        *("_arming", "_closed", "_eof_sent", "_poller", "_reader", "_receive", "_send", "_sending", "_sock"),
        *("_wanted", "_writer"),
    )

    def __init__(self, sock: socket.socket, poller: Poller) -> None:
        super().__init__()
        self._sock = sock
        self._poller = poller
        self._receive: Callable[[int], bytes] = sock.recv
        self._send: Callable[[Any], int] = sock.send
        self._reader: trio.lowlevel.Task | None = None
        self._wanted = 0
        self._writer: trio.lowlevel.Task | None = None
        self._sending = False
        self._closed = False
        self._eof_sent = False
        self._arming = type(poller).arm_read is not Poller.arm_read
        poller.watch(sock, self)

    # -- what the poller tells ------------------------------------------------------------------------------------

    def notify(self, events: int) -> None:
        """Read for the parked reader, wake the parked writer, and tell of a hang-up."""
        if events & ~WRITABLE:
            self.readable = True
            if events & (HALF_CLOSED | HUNG_UP):
                self._hang_up(bool(events & HUNG_UP))
            task = self._reader
            if task is not None:
                self._read_for(task)
            elif self._observer is not None:
                self._observer.bytes_waiting()
        if self._writer is not None and events & (WRITABLE | HUNG_UP):
            task, self._writer = self._writer, None
            reschedule(task)

    def _read_for(self, task: trio.lowlevel.Task) -> None:
        """Read, and let the parked task go on with the result."""
        try:
            data = self._read_now(self._wanted)
        except WOULD_BLOCK:
            self.readable = False
            if self._arming:
                self._poller.arm_read(self._sock)
        except OSError as error:
            self._reader = None
            reschedule(task, outcome.Error(self._broken_by(error)))
        else:
            self._reader = None
            reschedule(task, outcome.Value(data))

    def _hang_up(self, broken: bool) -> None:
        if broken and not self.broken and not self._eof_sent:
            self.broken = True
        elif self.half_closed:
            return
        self.half_closed = True
        if self._observer is not None:
            self._observer.peer_left(self.broken)

    @property
    def bytes_delivered(self) -> int:
        """See `Transport`: what the kernel does not hold any more (tcp(7), SIOCOUTQ)."""
        try:
            (held,) = struct.unpack("i", fcntl.ioctl(self._sock, termios.TIOCOUTQ, bytes(4)))
        except (OSError, ValueError):  # a kernel that does not tell, or closed
            return self.bytes_sent
        return self.bytes_sent - int(held)

    # -- reading --------------------------------------------------------------------------------------------------

    def receive_now(self, max_bytes: int) -> bytes | None:
        """See `Transport.receive_now`."""
        if max_bytes < 1:
            raise ValueError("max_bytes must be at least 1")
        if self._reader is not None:
            raise trio.BusyResourceError("another task is reading from this transport")
        if self._closed:
            raise trio.ClosedResourceError("this transport was closed")
        if self.readable:
            try:
                return self._read_now(max_bytes)
            except WOULD_BLOCK:
                self.readable = False
            except OSError as error:
                raise self._broken_by(error) from error
        return None

    def parked_receive(self, max_bytes: int) -> Awaitable[bytes]:
        """See `Transport.parked_receive`."""
        if self._arming:
            self._poller.arm_read(self._sock)
        self._reader = current_task()
        self._wanted = max_bytes
        return wait_task_rescheduled(self._abort_read)

    def _read_now(self, max_bytes: int) -> bytes:
        data = self._receive(max_bytes)
        # A short read has emptied the socket's buffer, and a new edge tells of more (epoll(7), question 9).
        if len(data) < max_bytes and not self.half_closed and data:
            self.readable = False
        if data and self._arming:
            self._poller.arm_read(self._sock)  # for a hang-up, or bytes that nobody waits for
        return data

    def _abort_read(self, _: object) -> trio.lowlevel.Abort:
        self._reader = None
        return trio.lowlevel.Abort.SUCCEEDED

    # -- writing --------------------------------------------------------------------------------------------------

    def send_now(self, data: bytes | bytearray | memoryview) -> memoryview | None:
        """See `Transport.send_now`."""
        if self._sending or self._closed or self._eof_sent:
            self._refuse_to_send()
        return self._advance(data)

    def _refuse_to_send(self) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is writing to this transport")
        raise trio.ClosedResourceError("this transport's sending side was closed")

    def _advance(self, data: bytes | bytearray | memoryview) -> memoryview | None:
        """Send what can be sent at once; None when that was all, otherwise what is left."""
        try:
            sent = self._send(data)
        except WOULD_BLOCK:
            return memoryview(data).cast("B")
        except OSError as error:
            raise self._broken_by(error) from error
        self.bytes_sent += sent
        return None if sent == len(data) else memoryview(data).cast("B")[sent:]

    async def send_rest(self, rest: memoryview) -> None:
        """See `Transport.send_rest`."""
        self._sending = True
        try:
            left: memoryview | None = rest
            while left is not None:
                await self._wait_writable()
                left = self._advance(left)
        finally:
            self._sending = False

    async def send_file(self, file: int, offset: int | None, count: int) -> None:
        """See `Transport.send_file`; the kernel copies the bytes itself."""
        if self._sending:
            raise trio.BusyResourceError("another task is writing to this transport")
        self._sending = True
        try:
            await self._send_file(file, offset, count)
        finally:
            self._sending = False

    async def _send_file(self, file: int, offset: int | None, left: int) -> None:
        position = os.lseek(file, 0, os.SEEK_CUR) if offset is None else offset
        while left:
            if self._closed:
                raise trio.ClosedResourceError("this transport was closed")
            try:
                sent = os.sendfile(self._sock.fileno(), file, position, min(left, 1 << 20))
            except BlockingIOError:
                await self._wait_writable()
                continue
            except (BrokenPipeError, ConnectionError) as error:
                raise self._broken_by(error) from error
            if sent == 0:
                raise EOFError("the file is shorter than was announced")
            self.bytes_sent += sent
            left -= sent
            position += sent
            await trio.lowlevel.checkpoint()  # a fast reader of a large file must not stop the others
        if offset is None:
            os.lseek(file, position, os.SEEK_SET)

    async def wait_send_all_might_not_block(self) -> None:
        """Return when there is room in the socket's buffer."""
        if self._sending:
            raise trio.BusyResourceError("another task is writing to this transport")
        if self._closed or self._eof_sent:
            raise trio.ClosedResourceError("this transport's sending side was closed")
        self._sending = True
        room = select.poll()
        room.register(self._sock, select.POLLOUT)
        try:
            while not room.poll(0):  # which also asks for the edge that is waited for
                await self._wait_writable()
        finally:
            self._sending = False

    async def _wait_writable(self) -> None:
        self._poller.arm_write(self._sock)
        self._writer = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._abort_write)
        if self._closed:
            raise trio.ClosedResourceError("this transport was closed")

    def _abort_write(self, _: object) -> trio.lowlevel.Abort:
        self._writer = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _broken_by(self, error: OSError) -> trio.BrokenResourceError:
        if not self.broken:
            self.broken = self.half_closed = True
            if self._observer is not None:  # the poller may come too late to tell what we know already
                self._observer.peer_left(True)
        return trio.BrokenResourceError(f"the connection broke: {error}")

    # -- ending ---------------------------------------------------------------------------------------------------

    async def send_eof(self) -> None:
        """Send a FIN after everything that was sent; safe to call again."""
        if self._sending:
            raise trio.BusyResourceError("another task is writing to this transport")
        if self._closed:
            raise trio.ClosedResourceError("this transport was closed")
        self.end_sending()

    def end_sending(self) -> None:
        """`send_eof` without the checks and without an await."""
        if not self._eof_sent and not self._closed:
            self._eof_sent = True
            try:
                socket.socket.shutdown(self._sock, socket.SHUT_WR)
            except OSError:
                self.broken = True

    async def aclose(self) -> None:
        """Close; whoever reads or writes gets `trio.ClosedResourceError`. A checkpoint, also when cancelled."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Close now, in order, without waiting for anything."""
        if self._closed:
            return
        self._closed = True
        self._observer = None
        self._poller.forget(self._sock)
        self._sock.close()
        if self._reader is not None:
            task, self._reader = self._reader, None
            reschedule(task, outcome.Error(trio.ClosedResourceError("this transport was closed")))
        if self._writer is not None:
            task, self._writer = self._writer, None
            reschedule(task)

    def abort(self) -> None:
        """Close with a reset (RST) instead of an orderly end."""
        if not self._closed:
            try:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            except OSError:
                pass  # already disconnected: there is nothing to reset
            self.close()
