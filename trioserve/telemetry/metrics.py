"""Counters of one worker, and a frozen copy of them for whoever asks.

Plain ints on an object with slots: the loop of a worker is one thread, and an increment on the path of a
request must cost nothing. No exporter and no labels live here; `snapshot` is the border to those who want
them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Stats:
    """What a worker has done so far; all totals are since its start, and bytes are those of bodies."""

    connections_accepted: int
    connections_open: int
    connections_refused: int
    requests_total: int
    requests_running: int
    requests_refused: int
    bytes_received: int
    bytes_sent: int
    errors: int
    timeouts: int
    disconnects: int


class Counters:
    """The same fields as `Stats`, to be added to and subtracted from in place.

    `*_open` and `*_running` go up and down; all others only grow. `errors` counts exceptions of
    applications, `timeouts` deadlines that ended an exchange or a slow head, `disconnects` clients that
    left before the end.
    """

    __slots__ = tuple(field.name for field in fields(Stats))

    connections_accepted: int
    connections_open: int
    connections_refused: int
    requests_total: int
    requests_running: int
    requests_refused: int
    bytes_received: int
    bytes_sent: int
    errors: int
    timeouts: int
    disconnects: int

    def __init__(self) -> None:
        for name in self.__slots__:
            setattr(self, name, 0)

    def count_outcome(self, outcome: str) -> None:
        """Count an exchange that did not end as it should; see `LoggedExchange.outcome`."""
        if outcome == "timeout":
            self.timeouts += 1
        elif outcome == "disconnected":
            self.disconnects += 1
        elif outcome == "refused":
            self.requests_refused += 1


def snapshot(counters: Counters) -> Stats:
    """The values of this moment."""
    return Stats(**{name: getattr(counters, name) for name in Counters.__slots__})
