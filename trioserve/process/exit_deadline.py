"""The last bound on the end of a process: what cannot be cancelled must not keep it for ever.

Trio waits for a task that is in a worker thread, the interpreter waits for every thread that is not a daemon, and an
event loop that is blocked waits for nobody. A thread of its own therefore counts the time from the first order to
stop. When the bound is reached it logs which threads are left and what they do, and ends the process without
asking anybody. Before that it does nothing.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import traceback
from math import inf

from trioserve.telemetry.logs import LAST_WAIT, flush_logs

EXIT_GRACE = 3.0
"""Seconds that the interpreter gets for its own end: threads that are no daemons, atexit functions."""
STOP_MARGIN = 3.0
"""Seconds on top of the settings' timeouts before a stop counts as stuck."""
HURRIED_MARGIN = 2.0
"""Seconds for a stop that was asked for at once."""
OVERSLEPT = 1.0
"""Seconds after the bound that only pass when the whole process was stopped, as in a paused container."""
WAKING_GRACE = 2.0
"""Seconds that it gets then."""

logger = logging.getLogger("trioserve")


class ExitDeadline:
    """A bound that can be set again and again; the last call counts."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._end = inf
        self._status = 0
        self._watching = False

    def set(self, seconds: float, status: int) -> None:
        """End the process with `status` unless it has ended within `seconds`; inf = no bound."""
        with self._changed:
            self._end = time.monotonic() + seconds
            self._status = status
            if not self._watching and seconds < inf:
                self._watching = True
                threading.Thread(target=self._watch, name="trioserve exit deadline", daemon=True).start()
            self._changed.notify()

    def _watch(self) -> None:
        with self._changed:
            while (left := self._end - time.monotonic()) > 0:
                self._changed.wait(min(left, threading.TIMEOUT_MAX))
                if time.monotonic() > self._end + OVERSLEPT:
                    self._end = time.monotonic() + WAKING_GRACE
        names = ", ".join(thread.name for thread in _threads_that_remain()) or "none"
        logger.error(
            "the process ends although it has not finished; threads: %s",
            names,
            extra={"detail": _render_stacks()},
        )
        flush_logs(LAST_WAIT)
        os._exit(self._status)


def _threads_that_remain() -> list[threading.Thread]:
    own = threading.current_thread()
    return [thread for thread in threading.enumerate() if thread is not own]


def _render_stacks() -> str:
    frames = sys._current_frames()
    parts = []
    for thread in _threads_that_remain():
        frame = frames.get(thread.ident or 0)
        if frame is not None:
            parts.append(f"thread {thread.name}\n" + "".join(traceback.format_stack(frame)))
    return "".join(parts)
