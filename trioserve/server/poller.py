"""Readiness of sockets, told to their transports.

Theory of operation. `trio.lowlevel.wait_readable` costs one `epoll_ctl`, one abort function and one pass through
Trio's own poller for every wait. `EpollPoller` registers each socket once, edge-triggered, for everything, with an
epoll instance of its own; one Trio task waits for that instance to become readable, and an instrument then tells
every transport with news. The transport reads at once and reschedules the task that is parked on it with the bytes
as its result, so an idle connection costs nothing and a busy one no system call but its `recv`.

Edge-triggered means told once: a transport remembers that there may be more to read (`readable`) until a read came
back short or would block. Hang-ups are told even while nobody reads, which is how a running request learns that
its client has left.

`PortablePoller` has the same contract on `trio.lowlevel.wait_readable` for systems without epoll. It costs a task
per socket and has to be armed before each wait.
"""

from __future__ import annotations

import logging
import select
import socket
from abc import ABC, abstractmethod
from typing import Protocol

import trio
import trio.abc
import trio.lowlevel

logger = logging.getLogger("trioserve.error")

READABLE, WRITABLE, HALF_CLOSED, HUNG_UP = 0x001, 0x004, 0x2000, 0x008 | 0x010
"""Bits of an event, with epoll's values: HUNG_UP is EPOLLERR or EPOLLHUP, HALF_CLOSED is EPOLLRDHUP."""

BATCH = 512


class Watched(Protocol):
    """A transport as its poller sees it."""

    def notify(self, events: int) -> None:
        """Take note of readiness: READABLE, WRITABLE, HALF_CLOSED, HUNG_UP, or several. Must not block or raise."""
        ...


class Poller(ABC):
    """Tells transports what their sockets are ready for. One per run of Trio; not thread-safe."""

    @abstractmethod
    def watch(self, sock: socket.socket, transport: Watched) -> None:
        """Begin to notify `transport` of everything that happens on `sock`."""

    @abstractmethod
    def forget(self, sock: socket.socket) -> None:
        """Stop watching; to be called before the socket is closed."""

    def arm_read(self, sock: socket.socket) -> None:  # noqa: B027 - edge-triggered pollers need no arming
        """Say that the transport waits for bytes."""

    def arm_write(self, sock: socket.socket) -> None:  # noqa: B027
        """Say that the transport waits for room to write."""

    @abstractmethod
    async def run(self) -> None:
        """Serve for ever. Cancelling it stops all notifications, so it has to outlive the transports."""


class EpollPoller(Poller, trio.abc.Instrument):
    """One edge-triggered epoll instance for all sockets.

    It is an instrument of Trio's, too: Trio calls `after_io_wait` between its own waiting and the running of tasks.
    To read just there lets a task run in the same round in which its bytes came, rather than in the next one.
    """

    EVENTS = READABLE | WRITABLE | HALF_CLOSED | (1 << 31)  # 1 << 31 is EPOLLET

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, Watched] = {}

    def watch(self, sock: socket.socket, transport: Watched) -> None:
        """Begin to notify; what is ready already is told in the next round."""
        descriptor = sock.fileno()
        self._watched[descriptor] = transport
        self._epoll.register(descriptor, self.EVENTS)

    def forget(self, sock: socket.socket) -> None:
        """Stop watching."""
        descriptor = sock.fileno()
        # A hard stop cancels the poller with everything else, and may close it first.
        if self._watched.pop(descriptor, None) is not None and not self._epoll.closed:
            self._epoll.unregister(descriptor)

    async def run(self) -> None:
        """Serve for ever; closes the epoll instance when cancelled."""
        wait_readable = trio.lowlevel.wait_readable
        descriptor = self._epoll.fileno()
        trio.lowlevel.add_instrument(self)
        try:
            while True:
                await wait_readable(descriptor)  # this is what ends Trio's own waiting
        finally:
            trio.lowlevel.remove_instrument(self)
            self._epoll.close()

    def after_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - the signature is Trio's
        """Tell every transport that has news."""
        watched = self._watched
        for descriptor, events in self._epoll.poll(0, BATCH):
            transport = watched.get(descriptor)
            if transport is not None:
                try:
                    transport.notify(events)
                except Exception:  # an instrument that raises is removed, and no connection would hear again
                    logger.exception("this is a bug in trioserve; one connection was not told of its bytes")


class PortablePoller(Poller):
    """The same contract on `trio.lowlevel.wait_readable`: a task per waiting socket and direction."""

    def __init__(self) -> None:
        self._watched: dict[socket.socket, Watched] = {}
        self._waiting: set[tuple[socket.socket, int]] = set()
        self._nursery: trio.Nursery | None = None

    def watch(self, sock: socket.socket, transport: Watched) -> None:
        """Begin to notify of bytes and of the peer's leaving."""
        self._watched[sock] = transport
        self.arm_read(sock)

    def forget(self, sock: socket.socket) -> None:
        """Stop watching; wakes the waiting tasks, which then end."""
        if self._watched.pop(sock, None) is not None:
            trio.lowlevel.notify_closing(sock)

    def arm_read(self, sock: socket.socket) -> None:
        """Notify when bytes or the end of the stream can be read."""
        self._arm(sock, READABLE)

    def arm_write(self, sock: socket.socket) -> None:
        """Notify when there is room to write."""
        self._arm(sock, WRITABLE)

    async def run(self) -> None:
        """Serve for ever."""
        async with trio.open_nursery() as self._nursery:
            for sock in self._watched:
                self._waiting.discard((sock, READABLE))
                self.arm_read(sock)
            await trio.sleep_forever()

    def _arm(self, sock: socket.socket, event: int) -> None:
        if self._nursery is not None and (sock, event) not in self._waiting:
            self._waiting.add((sock, event))
            self._nursery.start_soon(self._wait, sock, event)

    async def _wait(self, sock: socket.socket, event: int) -> None:
        wait = trio.lowlevel.wait_readable if event == READABLE else trio.lowlevel.wait_writable
        try:
            if sock in self._watched:  # it may have been closed before this task got its first turn
                await wait(sock)
        except (trio.ClosedResourceError, OSError, ValueError):
            return
        finally:
            self._waiting.discard((sock, event))
        transport = self._watched.get(sock)
        if transport is None:
            return
        end = _end_of_stream(sock) if event == READABLE else 0
        if end is None:
            self.arm_read(sock)  # the bytes were read before this task had its turn
        else:
            transport.notify(event | end)


def _end_of_stream(sock: socket.socket) -> int | None:
    """HALF_CLOSED or HUNG_UP when that is what made the socket readable, 0 for bytes, None for nothing at all."""
    probe = select.poll()
    probe.register(sock, 0)
    if any(events & select.POLLERR for _, events in probe.poll(0)):
        return HUNG_UP  # on Linux peeking would take the error away from who reads next
    try:
        return 0 if socket.socket.recv(sock, 1, socket.MSG_PEEK) else HALF_CLOSED
    except (BlockingIOError, InterruptedError):
        return None
    except OSError:
        return HUNG_UP


def build_poller(portable: bool = False) -> Poller:
    """Return the fastest poller that this system has."""
    if portable or not hasattr(select, "epoll"):
        return PortablePoller()
    return EpollPoller()
