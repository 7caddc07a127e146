"""The task that writes what a reader of the error log has left; it sleeps while there is nothing.

What waits may do so in the middle of a record, and then holds the turn of all processes that share the output
(telemetry/turns.py). It is therefore offered again soon, not at leisure.
"""

from __future__ import annotations

from typing import Final

import trio

from trioserve.process.bell import Bell
from trioserve.telemetry.logs import flush_logs, tell_of_waiting_logs

RETRY_DELAY: Final = 0.02
"""Seconds until it is offered again. A pipe holds 64 KiB, so its reader gets 3 MB/s."""


async def keep_logs_flushed() -> None:
    """Flush the error log whenever something waits, until cancelled. One such task in a process."""
    bell = Bell()
    token = trio.lowlevel.current_trio_token()

    def ring() -> None:  # in any thread
        try:
            token.run_sync_soon(bell.ring, idempotent=True)
        except trio.RunFinishedError:
            pass  # whoever ends the process flushes

    with tell_of_waiting_logs(ring):
        while True:
            while flush_logs():  # noqa: ASYNC110 - only the reader changes it
                await trio.sleep(RETRY_DELAY)
            await bell.wait()
