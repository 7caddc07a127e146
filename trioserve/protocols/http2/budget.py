"""A budget for what a peer may do often but not endlessly: resets, control frames.

A token bucket: it begins full, every event takes from it, and it fills evenly, a whole budget per period. A burst
may take all of it at once; what goes on for long is held to the rate. Time is an argument; one before
the last fills nothing.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trioserve.protocols.http2.limits import Rate


class Budget:
    """What is left of a rate.

    Args:
        rate: the most that may be spent at once, and the seconds in which that much comes back; both above zero.
    """

    __slots__ = ("_filled_at", "_full", "_left", "_per_second")

    def __init__(self, rate: Rate) -> None:
        self._full = float(rate.count)
        self._per_second = rate.count / rate.seconds
        self._left = self._full
        self._filled_at = -inf  # the time up to which it was filled

    def spend(self, now: float, amount: int = 1) -> bool:
        """Take `amount`; whether it was there. What was not there is not taken.

        Args:
            now: seconds of one clock, from wherever it counts.
            amount: events, zero or more.
        """
        left = self._left
        if now > self._filled_at:
            left += (now - self._filled_at) * self._per_second
            if left > self._full:
                left = self._full
            self._filled_at = now
        enough = left >= amount
        self._left = left - amount if enough else left
        return enough
