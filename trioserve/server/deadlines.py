"""Deadlines of all connections as plain numbers, looked at by one task.

A cancel scope with a timeout costs more than parsing a request; a float on the connection costs nothing. The
sweeping task sleeps until the earliest deadline it saw, but never longer than the shortest timeout that anything
can be given: a deadline that is set after a sweep lies at least that far ahead, so none is ever seen late.
"""

from __future__ import annotations

import logging
from math import inf
from typing import Protocol

import trio

logger = logging.getLogger("trioserve.error")

SHORTEST_SLEEP = 0.01
"""Seconds between two sweeps at the least, which bounds what tiny timeouts can cost."""


class Deadlined(Protocol):
    """A connection as the sweeper sees it; times are on Trio's clock, `math.inf` for none."""

    read_deadline: float
    write_deadline: float
    exchange_deadline: float

    def expire(self, now: float) -> None:
        """Act on every deadline that is not later than `now`, and move or clear it. Must not block."""
        ...

    def drain(self) -> None:
        """Finish what runs and begin nothing new."""
        ...

    def end(self) -> None:
        """Cancel what runs."""
        ...


class Deadlines:
    """The connections of a server, and the task that ends what takes too long.

    Args:
        timeouts: every duration, in seconds, that may become a deadline; zero and infinite ones are ignored.
    """

    def __init__(self, timeouts: tuple[float, ...]) -> None:
        self.connections: set[Deadlined] = set()
        self._urgent: set[Deadlined] = set()  # with a deadline that may be nearer than any timeout
        self._shortest = max(min((t for t in timeouts if 0 < t < inf), default=60.0), SHORTEST_SLEEP)
        self._wake = trio.Event()

    def add(self, connection: Deadlined) -> None:
        """Watch a connection."""
        if not self.connections:
            self._wake.set()
        self.connections.add(connection)

    def discard(self, connection: Deadlined) -> None:
        """Watch it no longer."""
        self.connections.discard(connection)
        self._urgent.discard(connection)

    def hurry(self, connection: Deadlined) -> None:
        """Look at this connection soon: it was given a deadline that may be nearer than any timeout.

        Nothing happens for one that is not watched: somebody else has its deadlines now, or it is over.
        """
        if connection in self.connections:
            self._urgent.add(connection)
            self._wake.set()

    async def run(self) -> None:
        """Sweep for ever, but not more often than every `SHORTEST_SLEEP` seconds."""
        next_sweep = 0.0  # when all connections are looked at again; until then, the urgent ones are
        while True:
            now = trio.current_time()
            if now >= next_sweep:
                next_sweep = min(self.sweep(self.connections, now), now + self._shortest)
                self._urgent.clear()
                wake_at = next_sweep
            else:
                wake_at = min(next_sweep, self.sweep(self._urgent, now))
            if self.connections:
                with trio.move_on_at(wake_at):
                    await self._wake.wait()
            else:
                await self._wake.wait()
            self._wake = trio.Event()
            await trio.sleep_until(now + SHORTEST_SLEEP)

    def sweep(self, connections: set[Deadlined], now: float) -> float:
        """Let those act that are over a deadline; return the earliest deadline that is left."""
        earliest = inf
        for connection in tuple(connections):
            nearest = min(connection.read_deadline, connection.write_deadline, connection.exchange_deadline)
            if nearest <= now:
                self._expire(connection, now)
                nearest = min(
                    connection.read_deadline, connection.write_deadline, connection.exchange_deadline
                )
            if nearest < earliest:
                earliest = nearest
        return earliest

    def _expire(self, connection: Deadlined, now: float) -> None:
        """Let a connection act; if that goes wrong, the others shall still be watched."""
        try:
            connection.expire(now)
        except Exception:
            logger.exception("this is a bug in trioserve; one connection is watched no longer")
            self.discard(connection)
