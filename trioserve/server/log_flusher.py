"""Writes the access log's lines a moment after they were added, many at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from trioserve.telemetry.access_log import AccessLog, LoggedExchange

FLUSH_DELAY = 0.1
"""Seconds that a line may wait for others."""
RETRY_DELAY = 0.02
"""Seconds until what a reader has not taken is offered again; a pipe holds only so much."""


class AccessLogFlusher:
    """An access log and the task that flushes it.

    Args:
        log: where the lines go.
    """

    def __init__(self, log: AccessLog) -> None:
        self.log = log
        self._waiting = trio.Event()
        self._idle = True

    def add(self, exchange: LoggedExchange) -> None:
        """Log an exchange that has ended."""
        self.log.add(exchange)
        if self._idle:
            self._idle = False
            self._waiting.set()

    async def run(self) -> None:
        """Flush for ever; when cancelled, flush a last time and close the log."""
        try:
            while True:
                await self._waiting.wait()
                await trio.sleep(FLUSH_DELAY)
                self.log.flush()
                while self.log.pending:
                    await trio.sleep(RETRY_DELAY)
                    self.log.flush()
                self._waiting = trio.Event()
                self._idle = True
        finally:
            self.log.close()
