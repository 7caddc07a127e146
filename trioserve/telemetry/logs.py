"""Log records of start-up, errors and stopping: names, formats, handlers, on the standard `logging`.

Everything is logged under "trioserve"; errors of applications and connections under "trioserve.error".
Requests are not logged here (see access_log.py). Only `configure_logging` installs anything, the root
logger is never touched, and until it is called records go wherever the embedding program sends them. A
record may carry text of many lines, such as a task tree, as `extra={"detail": text}`; a message is always
one line, with control characters escaped.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

if TYPE_CHECKING:
    from collections.abc import Mapping

LOGGER_NAME = "trioserve"

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

    Raises:
        ValueError: an unknown level, or `config` is no such dictionary.
        OSError: a file cannot be opened.
    """
    number = _LEVELS.get(level.lower())
    if number is None:
        raise ValueError(f"unknown log level {level!r}; known are {', '.join(_LEVELS)}")
    settings = _read_config(Path(config)) if config is not None else None
    handler = None if config is not None else _build_handler(format, colour, file)
    for old in [each for each in _logger.handlers if isinstance(each, _ServerHandler)]:
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
    """Open the log file again, after it was renamed; when that fails, keep the old one and log it."""
    for handler in _logger.handlers:
        if isinstance(handler, _ServerHandler):
            handler.reopen()


def flush_logs() -> None:
    """Write what waits, before the process ends without the interpreter's own end."""
    for handler in _logger.handlers:
        handler.flush()


class _ServerHandler(logging.StreamHandler[TextIO]):
    """The handler that `configure_logging` installs: standard error, or a file that can be opened again."""

    def __init__(self, path: Path | None) -> None:
        super().__init__(sys.stderr if path is None else _open_file(path))
        self._path = path

    def reopen(self) -> None:
        if self._path is None:
            return
        try:
            stream = _open_file(self._path)
        except OSError as error:
            _logger.error("log file %s cannot be reopened: %s", self._path, error.strerror)
            return
        old = self.setStream(stream)
        if old is not None:
            old.close()

    def close(self) -> None:
        super().close()
        if self._path is not None:
            self.stream.close()


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


def _build_handler(format: str, colour: str, file: str | Path | None) -> _ServerHandler:  # noqa: A002
    handler = _ServerHandler(Path(file) if file is not None else None)
    coloured = colour == "always" or (colour == "auto" and _shows_colour(handler.stream, os.environ))
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter(coloured))
    return handler


def _shows_colour(stream: TextIO, environment: Mapping[str, str]) -> bool:
    return stream.isatty() and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"


def _open_file(path: Path) -> TextIO:
    return path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)


def _read_config(path: Path) -> dict[str, Any]:
    text = path.read_text("utf-8")
    try:
        settings = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: a dictionary for logging.config.dictConfig is expected")
    return {"version": 1, "disable_existing_loggers": False, **settings}
