"""Accepting: from a listening socket to a task per connection, within the limits.

At the limit of open connections nothing is accepted until one ends; the kernel holds what waits. When the process
is out of descriptors or memory, accepting pauses and goes on by itself.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import trio
import trio.lowlevel

from trioserve.server.listeners import Listener

if TYPE_CHECKING:
    from trioserve.telemetry.metrics import Counters

logger = logging.getLogger("trioserve")

EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
PAUSE = 0.1
"""Seconds to wait when the process is out of descriptors or memory."""
AT_ONCE = 64
"""Connections that are accepted before other tasks get their turn."""
AT_ONCE_BESIDE_OTHERS = 1
"""The same where other processes accept from the same sockets, so that a burst is shared among them."""


class Accepted(NamedTuple):
    """A connection that has just been accepted."""

    sock: socket.socket
    address: Any  # the peer's, as `socket.accept` gives it
    number: int  # counts up


Serve = Callable[[Listener, Accepted, Callable[[], None]], Awaitable[None]]


class Acceptor:
    """Accepts connections on all listeners of a server.

    Args:
        serve: serves one connection, whose socket does not block: `serve(listener, accepted, release)`; it closes
            the socket, and calls `release()` when it has.
        spawn: starts a task among the connections: `spawn(async_function, *args)`.
        counters: where connections are counted.
        limit: most open connections, 0 for no limit.
        limit_per_ip: most open connections of one address, 0 for no limit.
        at_once: connections that are accepted before other tasks, and other processes, get their turn.
    """

    def __init__(
        self,
        serve: Serve,
        spawn: Callable[..., None],
        counters: Counters,
        limit: int,
        limit_per_ip: int,
        at_once: int = AT_ONCE,
    ) -> None:
        self._serve = serve
        self._spawn = spawn
        self._counters = counters
        self._limit = limit
        self._limit_per_ip = limit_per_ip
        self._at_once = at_once
        self._exhausted = False  # out of descriptors or memory, which was logged
        self._open = 0
        self._open_per_ip: Counter[str] = Counter()
        self._room = trio.Event()

    async def run(self, listener: Listener) -> None:
        """Accept for ever. Cancelling it loses no connection: what is not accepted stays in the backlog."""
        while True:
            await trio.lowlevel.wait_readable(listener.socket)
            if self._limit and self._open >= self._limit:
                if self._room.is_set():  # another listener may wait for it already
                    self._room = trio.Event()
                await self._room.wait()
            elif not self.accept_waiting(listener, self._at_once):
                await trio.sleep(PAUSE)

    def accept_waiting(self, listener: Listener, most: int) -> bool:
        """Accept what waits in a listener's backlog; False when the process is out of resources."""
        for _ in range(most):
            if self._limit and self._open >= self._limit:
                return True
            try:
                sock, address = listener.socket.accept()
            except (BlockingIOError, InterruptedError):
                return True
            except OSError as error:
                if error.errno in EXHAUSTED:
                    if not self._exhausted:
                        self._exhausted = True
                        logger.warning("cannot accept connections for now: %s", error.strerror)
                    return False
                continue  # this one was reset before we got to it (accept(2), "Error handling")
            if self._exhausted:
                self._exhausted = False
                logger.warning("connections are accepted again")
            self._begin(listener, sock, address)
        return True

    def _begin(self, listener: Listener, sock: socket.socket, address: Any) -> None:
        sock.setblocking(False)
        self._counters.connections_accepted += 1
        ip = address[0] if self._limit_per_ip and sock.family != socket.AF_UNIX else ""
        if ip and self._open_per_ip[ip] >= self._limit_per_ip:
            self._counters.connections_refused += 1
            sock.close()
            return
        self._open += 1
        if ip:
            self._open_per_ip[ip] += 1
        accepted = Accepted(sock, address, self._counters.connections_accepted)
        self._spawn(self._serve, listener, accepted, partial(self._release, ip))

    def _release(self, ip: str) -> None:
        """Note that a connection has ended, and make room for another."""
        self._open -= 1
        if ip:
            self._open_per_ip[ip] -= 1
            if not self._open_per_ip[ip]:
                del self._open_per_ip[ip]
        self._room.set()
