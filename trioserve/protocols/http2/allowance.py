"""What a peer may make us do for nothing: the frames that cost us more than it, counted against budgets.

Control frames and resets have a budget each; too many of either end the connection. WINDOW_UPDATE is a control frame,
except for as many as content of ours can be the reason of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trioserve.protocols.http2 import frame_gate as wire
from trioserve.protocols.http2.budget import Budget
from trioserve.protocols.http2.frame_gate import ConnectionFault

if TYPE_CHECKING:
    from trioserve.protocols.http2.limits import Http2Limits

UPDATES_PER_FRAME: Final = 2
"""WINDOW_UPDATE frames that a peer may send for each DATA frame of ours before they count as control frames."""
MOST_FREE_UPDATES: Final = 1 << 16


class Allowance:
    """What is left to the peer of one connection.

    Args:
        limits: the budgets.

    Attributes:
        now: the time in seconds, on a clock that never goes back; set by whoever knows it.
    """

    __slots__ = ("_control", "_free_updates", "_resets", "now")

    def __init__(self, limits: Http2Limits) -> None:
        self._control = Budget(limits.control_frames)
        self._resets = Budget(limits.resets)
        self._free_updates = 0
        self.now = 0.0

    def spend_control(self, amount: int = 1) -> None:
        """Count control frames, or what is as dear; raises `ConnectionFault` when there were too many."""
        if not self._control.spend(self.now, amount):
            raise ConnectionFault(wire.ENHANCE_YOUR_CALM, "too many control frames")

    def spend_reset(self) -> None:
        """Count a stream that was reset, by whom ever; raises `ConnectionFault` when there were too many."""
        if not self._resets.spend(self.now):
            raise ConnectionFault(wire.ENHANCE_YOUR_CALM, "too many streams were reset")

    def spend_update(self) -> None:
        """Count a WINDOW_UPDATE; raises `ConnectionFault` as `spend_control` does."""
        if self._free_updates:
            self._free_updates -= 1
        else:
            self.spend_control()

    def grant_updates(self, frames: int) -> None:
        """Let the peer answer so many DATA frames with window updates."""
        self._free_updates = min(self._free_updates + UPDATES_PER_FRAME * frames, MOST_FREE_UPDATES)
