"""Deadlines of all connections as plain numbers, looked at by one task.

A cancel scope with a timeout costs more than parsing a request; a float on the connection costs nothing. The
sweeping task sleeps until the earliest deadline it saw, but never longer than the shortest timeout that anything
can be given: a deadline that is set after a sweep lies at least that far ahead, so none is ever seen late.
"""

from __future__ import annotations

from math import inf
from typing import Protocol

import trio

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

    def hurry(self) -> None:
        """Sweep now: a deadline was set that is nearer than any timeout."""
        self._wake.set()

    async def run(self) -> None:
        """Sweep for ever, but not more often than every `SHORTEST_SLEEP` seconds."""
        while True:
            now = trio.current_time()
            earliest = self.sweep(now)
            if self.connections:
                with trio.move_on_at(min(earliest, now + self._shortest)):
                    await self._wake.wait()
            else:
                await self._wake.wait()
            self._wake = trio.Event()
            await trio.sleep_until(now + SHORTEST_SLEEP)

    def sweep(self, now: float) -> float:
        """Let every connection act that is over a deadline; return the earliest deadline that is left."""
        earliest = inf
        for connection in tuple(self.connections):
            nearest = min(connection.read_deadline, connection.write_deadline, connection.exchange_deadline)
            if nearest <= now:
                connection.expire(now)
            elif nearest < earliest:
                earliest = nearest
        return earliest
