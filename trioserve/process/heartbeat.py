"""Signs of life of a worker, and its wish to retire.

The beat is a Trio task: it comes only as long as the event loop runs, and that is all it says. Limits are looked at
on the way, more often, and only when there are any: no request pays for them.
"""

from __future__ import annotations

import os
import resource
import sys
from math import ceil, inf
from typing import TYPE_CHECKING, Final

import trio

from trioserve.process.control import Beat, Retire

if TYPE_CHECKING:
    from collections.abc import Callable

    from trioserve.process.control import Message
    from trioserve.process.retirement import Retirement

LONGEST_INTERVAL: Final = 1.0
"""Seconds from one beat to the next, at most."""
BEATS_PER_HEARTBEAT: Final = 4
"""How many beats, at least, come in the time after which silence counts."""
LOOK_INTERVAL: Final = 0.25
"""Seconds between looks at limits."""

_PAGE = os.sysconf("SC_PAGE_SIZE")


def beat_interval(heartbeat: float) -> float:
    """Seconds from one beat to the next for a supervisor that takes `heartbeat` seconds of silence for a hang.

    0 = it never does.
    """
    return min(LONGEST_INTERVAL, (heartbeat or inf) / BEATS_PER_HEARTBEAT)


async def send_beats(
    send: Callable[[Message], bool],
    count_requests: Callable[[], int],
    retirement: Retirement,
    interval: float = LONGEST_INTERVAL,
) -> None:
    """Beat until cancelled, and ask for retirement once when a limit is reached.

    Args:
        send: takes a message without waiting, and says whether it could; a wish to retire is sent until it can.
        count_requests: how many requests have begun.
        retirement: the limits.
        interval: seconds from one beat to the next.
    """
    looks = ceil(interval / LOOK_INTERVAL) if retirement.limited else 1
    next_look = trio.current_time()
    reason: str | None = None
    while True:
        for look in range(looks):
            requests, rss = count_requests(), measure_rss()
            if look == 0:
                send(Beat(requests, rss))
            reason = reason or retirement.find_reason(trio.current_time(), requests, rss)
            if reason is not None and send(Retire(reason, accepts=True)):
                reason = None
            next_look += interval / looks
            if next_look < trio.current_time():  # the loop was blocked; there is nothing to make up for
                next_look = trio.current_time() + interval / looks
            await trio.sleep_until(next_look)


def measure_rss() -> int:
    """Resident memory of this process in bytes; where there is no /proc, the largest that it ever was; 0 = unknown."""
    try:
        with open("/proc/self/statm", "rb", buffering=0) as file:  # noqa: PTH123 - four times a second
            return int(file.read(256).split()[1]) * _PAGE
    except FileNotFoundError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    except (OSError, ValueError, IndexError):
        return 0  # such as no descriptor that is left; the peak would end a worker for what it used long ago
