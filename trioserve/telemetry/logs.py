"""Log records of start-up, errors and stopping: names, formats, handlers, on the standard `logging`.

Everything is logged under "trioserve"; errors of applications and connections under "trioserve.error".
Requests are not logged here (see access_log.py). Only `configure_logging` installs anything, the root
logger is never touched, and until it is called records go wherever the embedding program sends them. A
record may carry text of many lines, such as a task tree, as `extra={"detail": text}`; a message is always
one line, with control characters escaped. Records of all processes that share an output arrive whole, and no process
waits for its reader: see line_writer.py.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import tomllib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO
from weakref import WeakSet

from trioserve.telemetry.line_writer import LineWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

LOGGER_NAME = "trioserve"
TURN_WAIT = 0.02
"""Seconds that a record may wait for its turn before it is left for later."""
LAST_WAIT = 1.0
"""Seconds that a slow reader gets when a log is closed."""

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
_COLOURS = {10: "\x1b[2m", 20: "\x1b[32m", 30: "\x1b[33m", 40: "\x1b[31m", 50: "\x1b[1;31m"}
_RESET = "\x1b[0m"
_INDENT = "  "

_logger = logging.getLogger(LOGGER_NAME)


def configure_logging(
    *,
    level: str = "info",
    format: Literal["text", "json"] = "text",  # noqa: A002
    colour: Literal["auto", "always", "never"] = "auto",
    file: str | Path | None = None,
    config: str | Path | None = None,
    owner: tuple[int, int] | None = None,
) -> None:
    """Send the server's records to standard error or a file. Calling it again replaces what it did before.

    Args:
        level: debug, info, warning, error or critical.
        format: "text", or "json" with one object per line.
        colour: level names in colour; "auto" means on a terminal, unless NO_COLOR is set.
        file: append to this file instead of standard error; `reopen_logs` opens it again.
        config: a TOML or JSON file with a dictionary for `logging.config.dictConfig`. It then decides about
            handlers and formats alone; `format`, `colour` and `file` are not used. Existing loggers stay
            enabled unless it says otherwise.
        owner: user and group that `file` is given to, by a process that may; -1 leaves one as it is.

    Raises:
        ValueError: an unknown level, or `config` is no such dictionary.
        OSError: a file cannot be opened.
    """
    number = _LEVELS.get(level.lower())
    if number is None:
        raise ValueError(f"unknown log level {level!r}; known are {', '.join(_LEVELS)}")
    settings = _read_config(Path(config)) if config is not None else None
    handler = None if config is not None else _build_handler(format, colour, file, owner)
    for old in [each for each in _logger.handlers if isinstance(each, WholeRecordHandler)]:
        _logger.removeHandler(old)
        old.close()
    _logger.setLevel(number)
    _logger.propagate = handler is None
    if handler is not None:
        _logger.addHandler(handler)
    if settings is not None:
        import logging.config  # 17 ms of imports that nobody else needs

        logging.config.dictConfig(settings)


def reopen_logs() -> None:
    """Open the log files again, after they were renamed; when that fails, keep the old ones and log it."""
    for handler in tuple(_handlers):
        handler.reopen()


def flush_logs(seconds: float = 0.0) -> bool:
    """Write what a slow reader has left so far, and wait for it so long at most.

    A record is written when it is logged, if that is possible without waiting. Otherwise it goes out with the next
    one or with this call: make it when `tell_of_waiting_logs` says so, and before the process ends in a way that is
    not the interpreter's own.

    Returns whether something still waits.
    """
    waiting = False
    for handler in tuple(_handlers):
        waiting |= handler.flush_within(seconds)
    return waiting


@contextmanager
def tell_of_waiting_logs(tell: Callable[[], object]) -> Iterator[None]:
    """While the body runs, call `tell` in whatever thread leaves a record for later; it must not wait or raise."""
    global _tell_of_waiting
    former, _tell_of_waiting = _tell_of_waiting, tell
    try:
        yield
    finally:
        _tell_of_waiting = former


class WholeRecordHandler(logging.Handler):
    """Writes each record at once and whole, to standard error or to a file that `reopen_logs` opens again.

    For a configuration of your own: `class = "trioserve.telemetry.logs.WholeRecordHandler"`. Lines below the first of a
    record have to begin with a space, as those of `TextFormatter` do.

    Args:
        path: the file; None = standard error.
        owner: user and group that the file is given to, by a process that may.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: str | Path | None = None, owner: tuple[int, int] | None = None) -> None:
        super().__init__()
        self._stream = sys.stderr if path is None else None
        self._lost = 0
        self._writer: LineWriter | None = None
        sink = _find_descriptor(self._stream) if path is None else Path(path)
        if sink is not None:
            self._writer = LineWriter(sink, None, records=True, owner=owner)
        _handlers.add(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; what a reader does not take now waits, up to a limit."""
        try:
            self._write(self.format(record))
        except Exception:
            self.handleError(record)

    def reopen(self) -> None:
        """Open the file again."""
        with _held(self):
            if self._writer is not None:
                self._writer.reopen()

    def flush_within(self, seconds: float) -> bool:
        """Write what waits, and wait for the reader so long at most; returns whether something still waits."""
        with _held(self):
            if self._writer is None:
                return False
            self._writer.finish(seconds)
            return self._writer.waiting

    def close(self) -> None:
        """Write what waits, as far as the reader takes it within a second, and close the file."""
        super().close()
        _handlers.discard(self)
        with _held(self):
            if self._writer is not None:
                self._writer.close(LAST_WAIT)

    def _write(self, text: str) -> None:
        if self._writer is None:
            if self._stream is not None:  # something in the place of sys.stderr
                self._stream.write(text + "\n")
                self._stream.flush()
            return
        was_waiting = self._writer.waiting
        self._writer.write(self._encode(text))
        if self._writer.waiting and not was_waiting:
            self._writer.finish(TURN_WAIT)
            if self._writer.waiting:
                _tell_of_waiting()
        if self._writer.lost > self._lost and not self._writer.waiting:
            lost, self._lost = self._writer.lost - self._lost, self._writer.lost
            record = _logger.makeRecord(
                LOGGER_NAME, logging.ERROR, "", 0, "%d lines of this log were lost", (lost,), None
            )
            self._writer.write(self._encode(self.format(record)))

    @staticmethod
    def _encode(text: str) -> bytes:
        return text.encode("utf-8", "backslashreplace") + b"\n"


def _tell_nobody() -> None:
    pass


_handlers: WeakSet[WholeRecordHandler] = WeakSet()
_tell_of_waiting: Callable[[], object] = _tell_nobody


@contextmanager
def _held(handler: logging.Handler) -> Iterator[None]:
    handler.acquire()
    try:
        yield
    finally:
        handler.release()


def _find_descriptor(stream: TextIO | None) -> int | None:
    """The number behind a standard stream; None for what is in its place, as under a test runner."""
    try:
        return stream.fileno() if stream is not None else None
    except (OSError, ValueError):
        return None


class TextFormatter(logging.Formatter):
    """`2025-03-05 10:00:00.123+00:00 [pid] level: message`; tracebacks and details follow, indented.

    The indentation keeps text that a peer has a part in, such as an exception's message, from forging a
    record.
    """

    def __init__(self, coloured: bool = False) -> None:
        super().__init__()
        self._coloured = coloured

    def format(self, record: logging.LogRecord) -> str:
        """One line for the record, and indented lines for its traceback, stack and detail."""
        level = record.levelname.lower()
        if self._coloured:
            level = f"{_COLOURS.get(record.levelno, '')}{level}{_RESET}"
        head = f"{_render_time(record)} [{record.process}] {level}: {escape_controls(record.getMessage())}"
        return "\n".join([head, *(_INDENT + escape_controls(line) for line in _lines_below(self, record))])


class JsonFormatter(logging.Formatter):
    """One object per line: time, level, logger, pid, message; and exception, stack, detail when given."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of ASCII JSON."""
        entry: dict[str, Any] = {
            "time": _render_time(record).replace(" ", "T"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            entry["stack"] = record.stack_info
        detail = getattr(record, "detail", None)
        if detail:
            entry["detail"] = str(detail)
        return json.dumps(entry)


def escape_controls(text: str) -> str:
    """The text with everything that does not print, control characters before all, written as an escape."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _spell(ord(each)) for each in text)


def _spell(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _lines_below(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    parts = []
    if record.exc_info:
        parts.append(formatter.formatException(record.exc_info))
    if record.stack_info:
        parts.append(record.stack_info)
    parts.append(str(getattr(record, "detail", "") or ""))
    return [line for part in parts for line in part.rstrip("\n").split("\n") if part]


def _render_time(record: logging.LogRecord) -> str:
    zone = time.strftime("%z", time.localtime(record.created))
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
    return f"{moment}.{int(record.msecs):03d}{zone[:3]}:{zone[3:]}"


def _build_handler(
    format: str,  # noqa: A002
    colour: str,
    file: str | Path | None,
    owner: tuple[int, int] | None,
) -> WholeRecordHandler:
    handler = WholeRecordHandler(file, owner)
    on_terminal = file is None and sys.stderr is not None and _shows_colour(sys.stderr, os.environ)
    coloured = colour == "always" or (colour == "auto" and on_terminal)
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter(coloured))
    return handler


def _shows_colour(stream: TextIO, environment: Mapping[str, str]) -> bool:
    return stream.isatty() and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"


def _read_config(path: Path) -> dict[str, Any]:
    text = path.read_text("utf-8")
    try:
        settings = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: a dictionary for logging.config.dictConfig is expected")
    return {"version": 1, "disable_existing_loggers": False, **settings}
