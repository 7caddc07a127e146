"""When to try again after a start that failed, and when to give up.

Pure: no clock and no process. A worker that dies before it has served for a moment counts as a failed start too,
or an application that crashes with its first breath would be started again for ever.
"""

from __future__ import annotations

from typing import Final

FIRST_DELAY: Final = 0.1
LONGEST_DELAY: Final = 10.0
CRASH_LOOP: Final = 8
"""Failed starts in a row after which, with nobody serving, there is no hope."""
SHORT_LIFE: Final = 1.0
"""Seconds of serving that make a start a success."""


class Backoff:
    """The failed starts of one slot.

    Attributes:
        failures: how many there were in a row.
    """

    def __init__(self) -> None:
        self.failures = 0

    @property
    def hopeless(self) -> bool:
        """So many failures that only somebody who serves is a reason to go on."""
        return self.failures >= CRASH_LOOP

    def note_failure(self) -> float:
        """Count a failed start; return the seconds to wait before the next."""
        self.failures += 1
        # The exponent is bounded because a float is.
        return min(FIRST_DELAY * 2.0 ** min(self.failures - 1, 32), LONGEST_DELAY)

    def note_end(self, served: float) -> float:
        """Count the end of a worker that has served for so many seconds; return the seconds to wait."""
        if served < SHORT_LIFE:
            return self.note_failure()
        self.forget()
        return 0.0

    def forget(self) -> None:
        """Begin anew, as when there is new code to start."""
        self.failures = 0
