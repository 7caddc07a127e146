"""The access log: a line per exchange, formatted at once, written in batches.

This is on the path of every request, so it is not built on `logging`: `add` runs one compiled function and
appends its text to a list; `flush`, which the server calls when its loop comes to rest, writes all of them
together. `add` does I/O only when the batch has grown to a limit. Neither raises into the server or waits for
a reader.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from trioserve.telemetry.access_format import compile_format
from trioserve.telemetry.line_writer import LineWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

MAX_LINES = 512
"""Lines in a batch before `add` writes it itself."""
MAX_CHARACTERS = 64 * 1024
"""Characters in a batch before `add` writes it itself."""
LAST_WAIT = 0.1
"""Seconds that others' turns and a slow reader may take when the log is closed."""


class LoggedRequest(Protocol):
    """What the log reads of a request."""

    @property
    def method(self) -> str:
        """The method."""

    @property
    def target(self) -> bytes:
        """The request target as it was sent, with its query."""

    @property
    def http_version(self) -> str:
        """The version: 1.0, 1.1, 2 or 3."""

    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]:
        """Fields with lower-case names."""


class LoggedExchange(Protocol):
    """What the log reads of an exchange once it has ended; plain attributes do."""

    @property
    def request(self) -> LoggedRequest:
        """The request."""

    @property
    def client(self) -> tuple[str, int] | None:
        """Address and port after the proxy rules; None on a unix socket."""

    @property
    def scheme(self) -> str:
        """http, https, ws, wss."""

    @property
    def status(self) -> int:
        """Status that was sent; 0 when no head was sent."""

    @property
    def response_headers(self) -> Sequence[tuple[bytes, bytes]]:
        """Response fields as sent."""

    @property
    def body_bytes_sent(self) -> int:
        """Body bytes handed to the transport, without framing."""

    @property
    def bytes_received(self) -> int:
        """Body bytes received."""

    @property
    def started(self) -> float:
        """Seconds on a monotonic clock."""

    @property
    def first_byte(self) -> float:
        """Seconds on the same clock; 0.0 when no byte of a response was sent."""

    @property
    def finished(self) -> float:
        """Seconds on the same clock."""

    @property
    def outcome(self) -> str:
        """complete, aborted, disconnected, timeout, cancelled, refused."""


class AccessLog:
    """Formats exchanges and writes them in batches.

    Args:
        sink: "-" for standard output, a path, or the number of an open descriptor (which is not closed).
        format: "text", "json", or a format with atoms (see `access_format.ATOMS`).
        clock: seconds since the epoch, for the time stamps.
        owner: user and group that a file is given to, by a process that may.

    Raises:
        ValueError: the format has an unknown atom.
        OSError: the file cannot be opened.
    """

    __slots__ = ("_characters", "_lines", "_render", "_writer")

    def __init__(
        self,
        sink: str | Path | int = "-",
        format: str = "text",  # noqa: A002
        *,
        clock: Callable[[], float] = time.time,
        owner: tuple[int, int] | None = None,
    ) -> None:
        self._render = compile_format(format, clock)
        self._writer = LineWriter(sink, owner=owner)
        self._lines: list[str] = []
        self._characters = 0

    @property
    def pending(self) -> bool:
        """Something waits for `flush`."""
        return bool(self._lines) or self._writer.waiting

    @property
    def lost(self) -> int:
        """Lines that could not be written."""
        return self._writer.lost

    def add(self, exchange: LoggedExchange) -> None:
        """Format an exchange that has ended; `flush` writes it, or this call when the batch is full."""
        line = self._render(exchange)
        lines = self._lines
        lines.append(line)
        self._characters += len(line)
        if self._characters > MAX_CHARACTERS or len(lines) >= MAX_LINES:
            self.flush()

    def flush(self) -> None:
        """Write the batch, and what a slow reader left of earlier ones. Does not block and does not raise."""
        lines = self._lines
        self._lines = []
        self._characters = 0
        self._writer.write("".join(lines).encode())

    def reopen(self) -> None:
        """Write the batch to the old file, then open the path again (log rotation)."""
        self.flush()
        self._writer.reopen()

    def close(self) -> None:
        """Write the batch and close the file; lines that a reader does not take at once are lost and counted."""
        self.flush()
        self._writer.close(LAST_WAIT)
