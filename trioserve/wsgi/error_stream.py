"""`wsgi.errors`: a text file whose lines are records of the server's error log."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

logger = logging.getLogger("trioserve.error")


class ErrorStream:
    """The error stream of one request (PEP 3333, "Input and Error Streams").

    A line is logged when it is complete; `flush` also logs the beginning of one.
    """

    __slots__ = ("_rest",)

    encoding = "utf-8"

    def __init__(self) -> None:
        self._rest = ""

    def write(self, text: str) -> int:
        """Log the lines that `text` completes; returns its length."""
        if not isinstance(text, str):
            raise TypeError(f"wsgi.errors takes str, not {type(text).__name__}")
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            _log(line)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write one after the other."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Log what was written of a line that has not ended."""
        if self._rest:
            rest, self._rest = self._rest, ""
            _log(rest)


def _log(line: str) -> None:
    if line.strip():
        logger.error("%s", line)
