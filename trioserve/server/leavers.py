"""Applications whose client has left, and which still run because they are given a grace.

What a client costs should end with it; the grace lets it go on for a while. A client that opens connections, asks for
a hundred things and leaves again could so have any number of applications run. Here at most so many of a worker are
in their grace; when one more comes, the oldest is cancelled at once. Not here: when a grace ends (`deadlines.py`).
"""

from __future__ import annotations

from typing import Final, Protocol

MOST_LEAVERS: Final = 500
"""Applications of one worker that may be in their grace; each holds about 8 KB besides what is its own."""


class Leaver(Protocol):
    """An exchange whose client has left."""

    def hasten(self) -> bool:
        """Cancel the application now, unless it has opted out; whether it is cancelled."""
        ...


class Leavers:
    """Those of one worker, in the order in which their clients left.

    Args:
        most: how many there may be.
    """

    def __init__(self, most: int = MOST_LEAVERS) -> None:
        self._most = most
        self._leavers: dict[Leaver, None] = {}

    def __len__(self) -> int:
        return len(self._leavers)

    def add(self, leaver: Leaver) -> None:
        """Begin a grace; if there are too many, end the oldest one."""
        self._leavers.setdefault(leaver)
        if len(self._leavers) > self._most:
            oldest = next(iter(self._leavers))
            del self._leavers[oldest]
            oldest.hasten()

    def discard(self, leaver: Leaver) -> None:
        """Its application has ended."""
        self._leavers.pop(leaver, None)
