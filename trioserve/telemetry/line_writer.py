"""Whole lines to a file, pipe or terminal, without ever waiting for a reader or raising into the server.

Files are opened for appending and get one write per batch, so lines of several processes do not mix. Everything else
may have a reader that has stopped, and a blocking descriptor must not be made non-blocking, because it is shared
with whoever started us; so it is polled first and gets at most PIPE_BUF bytes at a time, which POSIX writes at once
or not at all. What has to be cut for that stays together by taking turns (turns.py). What the reader does not take
waits, up to a limit; what is over the limit or cannot be written is dropped and counted.
"""

from __future__ import annotations

import logging
import os
import select
import stat
import time
from pathlib import Path
from weakref import WeakSet

from trioserve.telemetry.turns import Turns, turns_of

_error_log = logging.getLogger("trioserve.error")

_STDOUT = 1
_ATOMIC_WRITE: int = getattr(select, "PIPE_BUF", 512)
_RETRY = 0.002
BACKLOG_LIMIT = 1024 * 1024
"""Bytes that wait for a slow reader before lines are dropped."""


class LineWriter:
    """Writes batches of lines. Not for several threads at once.

    Args:
        sink: "-" for standard output, a path, or the number of an open descriptor (which is not closed).
        name: of the log, for messages about it on the error log; None = no messages, as it is the error log.
        records: a line that begins with a space belongs to the one before it, and nothing may come between.
        owner: user and group that a file is given to, by a process that may; -1 leaves one as it is.

    Attributes:
        lost: lines that were dropped.

    Raises:
        OSError: the file cannot be opened.
    """

    __slots__ = (
        *("__weakref__", "_backlog", "_fd", "_mid_line", "_name", "_owner", "_path", "_poll", "_records"),
        *("_reported", "_turns", "lost"),
    )

    def __init__(
        self,
        sink: str | Path | int,
        name: str | None = "access log",
        *,
        records: bool = False,
        owner: tuple[int, int] | None = None,
    ) -> None:
        if sink == "-":
            sink = _STDOUT
        self._name = name
        self._records = records
        self._owner = owner
        self._path: Path | None
        if isinstance(sink, int):
            self._path, self._fd = None, sink
        else:
            self._path = Path(sink)
            self._fd = _open_for_appending(self._path, owner)
        self._poll = self._build_poll()
        self._turns: Turns | None = turns_of(self._fd)
        self._backlog = b""
        self._mid_line = False  # the last byte written was not a line end
        self._reported = False
        self.lost = 0
        _writers.add(self)

    @property
    def waiting(self) -> bool:
        """Bytes are left that the reader has not taken; `write(b"")` tries again."""
        return bool(self._backlog)

    @property
    def path(self) -> Path | None:
        """The file that was opened; None for a descriptor."""
        return self._path

    def write(self, lines: bytes) -> None:
        """Write `lines`, whole ones, behind what still waits. Does not wait and does not raise."""
        data = self._admit(lines)
        if not data:
            return
        if self._turns is not None and not self._turns.take(self, self._fd):
            self._backlog = data
            return
        position = 0
        try:
            while position < len(data) and (self._poll is None or self._poll.poll(0)):
                position += os.write(self._fd, data[position : self._find_end(data, position)])
        except BlockingIOError:
            pass
        except OSError as error:
            self._note_end(data, position)
            self._backlog = b""
            self._end_turn()
            self._drop(data[position:], error.strerror or "cannot be written")
            return
        self._note_end(data, position)
        self._backlog = data[position:]
        if not self._is_inside(data, position):
            self._end_turn()

    def finish(self, seconds: float) -> None:
        """Write what waits, and wait for other processes' turns and for the reader so long at most."""
        end = time.monotonic() + seconds
        self.write(b"")
        while self._backlog and (left := end - time.monotonic()) > 0:
            if self._turns is not None and self._turns.is_taken_here(self):
                return
            # A pipe that is writable and still took nothing is another process's for the moment.
            if self._poll is None or self._poll.poll(left * 1000):
                time.sleep(min(_RETRY, left))
            self.write(b"")

    def reopen(self) -> None:
        """Open the path again, after the file was renamed; when that fails, keep the old file and log it."""
        if self._path is None:
            return
        self.write(b"")
        try:
            fd = _open_for_appending(self._path, self._owner)
        except OSError as error:
            _error_log.error(
                "%s %s cannot be reopened: %s", self._name or "log file", self._path, error.strerror
            )
            return
        self._end_turn()
        self._drop(self._backlog, "was reopened before its reader took all")
        self._backlog, self._mid_line, self._reported = b"", False, False
        os.close(self._fd)
        self._fd = fd
        self._poll = self._build_poll()
        self._turns = turns_of(fd)

    def close(self, seconds: float = 0.0) -> None:
        """Write what can be written within so many seconds, drop the rest, close the file if it was opened here."""
        if self._fd < 0:
            return
        self.finish(seconds)
        self._drop(self._backlog, "was closed before its reader took all")
        self._backlog = b""
        self._end_turn()
        if self._path is not None:
            os.close(self._fd)
        self._fd = -1
        self._turns = None
        if self.lost and self._name is not None:
            _error_log.warning("%s %s: %d lines were lost", self._name, self._path or "-", self.lost)

    def forget(self) -> None:
        """Begin anew, in a process that was forked: what waits is its parent's."""
        self._backlog, self._mid_line = b"", False

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
        if lines and len(self._backlog) + len(lines) > BACKLOG_LIMIT:
            self._drop(lines, "is not read")
            return self._backlog
        return self._backlog + lines

    def _find_end(self, data: bytes, position: int) -> int:
        """Where to end the next write: behind the last line or record that still fits, or inside one that is long."""
        limit = position + _ATOMIC_WRITE
        if self._poll is None or len(data) <= limit:
            return len(data)
        end = limit
        while (end := data.rfind(b"\n", position, end) + 1) and self._is_inside(data, end):
            end -= 1
        return end or limit

    def _is_inside(self, data: bytes, position: int) -> bool:
        """Whether something could come between here and tear a line or a record; never at the end of `data`."""
        if position == len(data):
            return False
        if position == 0:
            # Where the last write ended. It had the turn, and has it still if it ended inside something.
            return self._mid_line or (self._records and data.startswith(b" "))
        return data[position - 1] != 0x0A or (self._records and data[position] == 0x20)

    def _note_end(self, data: bytes, position: int) -> None:
        if position:
            self._mid_line = data[position - 1] != 0x0A

    def _end_turn(self) -> None:
        if self._turns is not None:
            self._turns.end(self, self._fd)

    def _drop(self, lines: bytes, reason: str) -> None:
        if not lines:
            return
        self.lost += lines.count(b"\n")
        if not self._reported and self._name is not None:
            self._reported = True
            _error_log.error(
                "%s %s: %s; its lines are dropped until it can be written",
                self._name,
                self._path or "-",
                reason,
            )


def _open_for_appending(path: Path, owner: tuple[int, int] | None) -> int:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
    if owner is not None and stat.S_ISREG(os.fstat(fd).st_mode):
        try:
            os.fchown(fd, *owner)
        except OSError:
            pass  # whoever may not give files away keeps them
    return fd


_writers: WeakSet[LineWriter] = WeakSet()


def _forget_all() -> None:
    for writer in tuple(_writers):
        writer.forget()


os.register_at_fork(after_in_child=_forget_all)
