"""Whole lines to a file, pipe or terminal, without ever blocking or raising into the server.

Files are opened for appending and get one write per batch, so lines of several processes do not mix.
Everything else may have a reader that has stopped, and a blocking descriptor must not be made non-blocking,
because it is shared with whoever started us; so it is polled first and gets at most PIPE_BUF bytes of whole
lines at a time, which POSIX writes at once or not at all. What the reader does not take waits, up to a limit;
what is over the limit or cannot be written is dropped and counted. The first failure is reported on the error
log, the others are only counted.
"""

from __future__ import annotations

import logging
import os
import select
import stat
from pathlib import Path

_error_log = logging.getLogger("trioserve.error")

_STDOUT = 1
_ATOMIC_WRITE: int = getattr(select, "PIPE_BUF", 512)
BACKLOG_LIMIT = 1024 * 1024
"""Bytes that wait for a slow reader before lines are dropped."""


class LineWriter:
    """Writes batches of lines.

    Args:
        sink: "-" for standard output, a path, or the number of an open descriptor (which is not closed).

    Raises:
        OSError: the file cannot be opened.
    """

    __slots__ = ("_backlog", "_fd", "_mid_line", "_path", "_poll", "_reported", "lost")

    def __init__(self, sink: str | Path | int) -> None:
        if sink == "-":
            sink = _STDOUT
        self._path: Path | None
        if isinstance(sink, int):
            self._path, self._fd = None, sink
        else:
            self._path = Path(sink)
            self._fd = _open_for_appending(self._path)
        self._poll = self._build_poll()
        self._backlog = b""
        self._mid_line = False  # the last byte written was not a line end
        self._reported = False
        self.lost = 0

    @property
    def waiting(self) -> bool:
        """Bytes are left that the reader has not taken; `write(b"")` tries again."""
        return bool(self._backlog)

    def write(self, lines: bytes) -> None:
        """Write `lines`, whole ones, behind what still waits. Does not block and does not raise."""
        data = self._admit(lines)
        self._backlog = b""
        position = 0
        try:
            while position < len(data) and (self._poll is None or self._poll.poll(0)):
                position += os.write(self._fd, self._next_chunk(data, position))
        except BlockingIOError:
            pass
        except OSError as error:
            self._note_end(data, position)
            self._drop(data[position:], error.strerror or "cannot be written")
            return
        self._note_end(data, position)
        self._backlog = data[position:]

    def reopen(self) -> None:
        """Open the path again, after the file was renamed; when that fails, keep the old file and log it."""
        if self._path is None:
            return
        self.write(b"")
        try:
            fd = _open_for_appending(self._path)
        except OSError as error:
            _error_log.error("access log %s cannot be reopened: %s", self._path, error.strerror)
            return
        self._drop(self._backlog, "was reopened before its reader took all")
        self._backlog, self._mid_line, self._reported = b"", False, False
        os.close(self._fd)
        self._fd = fd
        self._poll = self._build_poll()

    def close(self) -> None:
        """Write what can be written at once, drop the rest, close the file if it was opened here."""
        if self._fd < 0:
            return
        self.write(b"")
        self._drop(self._backlog, "was closed before its reader took all")
        self._backlog = b""
        if self._path is not None:
            os.close(self._fd)
        self._fd = -1
        if self.lost:
            _error_log.warning("access log %s: %d lines were lost", self._path or "-", self.lost)

    def _build_poll(self) -> select.poll | None:
        """A poll for writability; None where a write cannot block, or where the system has no poll."""
        if stat.S_ISREG(os.fstat(self._fd).st_mode) or not hasattr(select, "poll"):
            return None
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return poll

    def _admit(self, lines: bytes) -> bytes:
        if not self._backlog:
            # A line cut short by an error is ended, so that it does not swallow the next one.
            return b"\n" + lines if self._mid_line and lines else lines
        if len(self._backlog) + len(lines) > BACKLOG_LIMIT:
            self._drop(lines, "is not read")
            return self._backlog
        return self._backlog + lines

    def _next_chunk(self, data: bytes, position: int) -> bytes:
        limit = position + _ATOMIC_WRITE
        if self._poll is None or len(data) <= limit:
            return data[position:]
        line_end = data.rfind(b"\n", position, limit) + 1
        return data[position : line_end or limit]

    def _note_end(self, data: bytes, position: int) -> None:
        if position:
            self._mid_line = data[position - 1] != 0x0A

    def _drop(self, lines: bytes, reason: str) -> None:
        if not lines:
            return
        self.lost += lines.count(b"\n")
        if not self._reported:
            self._reported = True
            _error_log.error(
                "access log %s: %s; its lines are dropped until it can be written",
                self._path or "-",
                reason,
            )


def _open_for_appending(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
