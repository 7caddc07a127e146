"""Signs of life of a worker, and its wish to retire.

The beat is a Trio task: it comes only as long as the event loop runs, and that is all it says. Limits are looked at
on the way, more often, and only when there are any: no request pays for them.
"""

from __future__ import annotations

import os
import resource
import sys
from typing import TYPE_CHECKING

import trio

from trioserve.process.control import Beat, Retire

if TYPE_CHECKING:
    from collections.abc import Callable

    from trioserve.process.control import Message
    from trioserve.process.retirement import Retirement

BEAT_INTERVAL = 1.0
"""Seconds from one beat to the next."""
LOOKS_PER_BEAT = 4
"""How often limits are looked at from one beat to the next."""

_PAGE = os.sysconf("SC_PAGE_SIZE")


async def send_beats(
    send: Callable[[Message], object], count_requests: Callable[[], int], retirement: Retirement
) -> None:
    """Beat until cancelled, and ask for retirement once when a limit is reached.

    Args:
        send: takes a message without waiting.
        count_requests: how many requests have begun.
        retirement: the limits.
    """
    looks = LOOKS_PER_BEAT if retirement.limited else 1
    next_look = trio.current_time()
    while True:
        for look in range(looks):
            requests, rss = count_requests(), measure_rss()
            if look == 0:
                send(Beat(requests, rss))
            reason = retirement.find_reason(trio.current_time(), requests, rss)
            if reason is not None:
                send(Retire(reason))
            next_look += BEAT_INTERVAL / looks
            if next_look < trio.current_time():  # the loop was blocked; there is nothing to make up for
                next_look = trio.current_time() + BEAT_INTERVAL / looks
            await trio.sleep_until(next_look)


def measure_rss() -> int:
    """Resident memory of this process in bytes; where there is no /proc, the largest that it ever was."""
    try:
        with open("/proc/self/statm", "rb", buffering=0) as file:  # noqa: PTH123 - four times a second
            return int(file.read(256).split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
