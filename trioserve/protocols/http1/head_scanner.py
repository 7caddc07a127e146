"""The careful reading of a head: line by line, as the bytes arrive, up to the earliest mistake.

The verdict is a function of the shortest wrong prefix, so a head gets the same answer whether it comes whole
or byte by byte, and a mistake is answered without waiting for the rest. Trailer sections are read by the same
code. Each byte is looked at a bounded number of times: no scan starts over at the beginning.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from trioserve.protocols.errors import RemoteProtocolError
from trioserve.protocols.http1.policy import (
    MAX_METHOD_SIZE,
    TOKEN,
    Http1Limits,
    RequestLine,
    parse_request_line,
)

if TYPE_CHECKING:
    from trioserve.protocols.http1.events import Headers

# Anything that may not stand in a line, HTAB excepted. A CR is judged when the byte after it is known.
FORBIDDEN: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r[^\n]")


class HeadScanner:
    """Reads one head, or one trailer section.

    Args:
        limits: sizes and leniencies.
        trailers: there is no request line, and the leniencies do not apply.
    """

    __slots__ = (
        "_checked",
        "_expects_line",
        "_limits",
        "_line_start",
        "_strict_folding",
        "_strict_lf",
        "fields",
        "line",
    )

    def __init__(self, limits: Http1Limits, *, trailers: bool = False) -> None:
        self._limits = limits
        self._strict_lf = trailers or not limits.lenient_bare_lf
        self._strict_folding = trailers or not limits.lenient_folding
        self._expects_line = not trailers
        self._line_start = 0  # offsets are counted from the start of the section
        self._checked = 0
        self.line: RequestLine | None = None
        self.fields: Headers = []

    def scan(self, buffer: bytes | bytearray, start: int) -> int | None:
        """Go on reading.

        Args:
            buffer: the bytes so far.
            start: where the section begins in it.

        Returns:
            The position after the empty line, or None while more bytes are needed.

        Raises:
            RemoteProtocolError: 400, 414, 431, 501 or 505.
        """
        visible = min(len(buffer), start + self._limits.max_head_size)
        while True:
            checked = start + self._checked
            newline = buffer.find(b"\n", checked, visible)
            stop = newline + 1 if newline >= 0 else visible
            if self._expects_line:
                self._check_request_line(buffer, start, stop)
            if FORBIDDEN.search(buffer, checked, stop) is not None:
                raise RemoteProtocolError("control byte or bare CR")
            if newline < 0:
                # The last byte is looked at again: it may be a CR, which its successor judges.
                self._checked = max(self._line_start, stop - start - 1)
                break
            line = bytes(buffer[start + self._line_start : newline])
            if line[-1:] == b"\r":
                line = line[:-1]
            elif self._strict_lf:
                raise RemoteProtocolError("bare LF")
            self._line_start = self._checked = stop - start
            if self._take_line(line):
                return stop
        if len(buffer) > visible:
            raise RemoteProtocolError("header section too large", 431)
        return None

    def _check_request_line(self, buffer: bytes | bytearray, start: int, stop: int) -> None:
        """Refuse a method or a target that is too long before the line has ended."""
        line_start = start + self._line_start
        space = buffer.find(b" ", line_start, line_start + MAX_METHOD_SIZE + 1)
        if space < 0:
            if stop - line_start > MAX_METHOD_SIZE:
                raise RemoteProtocolError("malformed request line")
            return
        target_end = space + 1 + self._limits.max_target_size
        if stop > target_end and buffer.find(b" ", space + 1, target_end + 1) < 0:
            # What was wrong before the limit was reached was wrong first.
            if FORBIDDEN.search(buffer, line_start, target_end + 1) is not None:
                raise RemoteProtocolError("control byte or bare CR")
            raise RemoteProtocolError("request target too long", 414)

    def _take_line(self, line: bytes) -> bool:
        """Judge one line; True when it was the empty line at the end."""
        if self._expects_line:
            if line:  # RFC 9112 section 2.2: empty lines before the request line are skipped
                self.line = parse_request_line(line)
                self._expects_line = False
            return False
        if not line:
            return True
        if line[0] in b" \t":
            self._unfold(line)
            return False
        name, colon, value = line.partition(b":")
        if not colon or TOKEN.fullmatch(name) is None:
            raise RemoteProtocolError("malformed field line")
        if len(self.fields) >= self._limits.max_fields:
            raise RemoteProtocolError("too many fields", 431)
        self.fields.append((name.lower(), value.strip(b" \t")))
        return False

    def _unfold(self, line: bytes) -> None:
        """RFC 9112 section 5.2; blanks right after the request line are a smuggling trick (section 2.2)."""
        if self._strict_folding or not self.fields:
            raise RemoteProtocolError("folded field line")
        name, value = self.fields[-1]
        self.fields[-1] = (name, (value + b" " + line.strip(b" \t")).strip(b" \t"))
