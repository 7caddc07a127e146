"""Which bytes belong to a body: two decoders behind one method (RFC 9112 sections 6 and 7).

A decoder is given the buffer and a position, takes what it can and says where it stopped. It hands over what
was good before it complains about what is not, so the pieces differ with the way the bytes arrived and the
verdict does not. Neither keeps a byte of the body.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Protocol

from trioserve.protocols.errors import RemoteProtocolError
from trioserve.protocols.http1.head_scanner import HeadScanner
from trioserve.protocols.http1.policy import MAX_LENGTH, Http1Limits

if TYPE_CHECKING:
    from trioserve.protocols.http1.events import Headers

MAX_EXTENSIONS_SIZE: Final = 4096  # bytes of chunk extensions in one message

PLAIN_CHUNK: Final = re.compile(rb"([0-9A-Fa-f]{1,16})\r\n")
CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})(;[\t\x20-\x7e\x80-\xff]*+)?\r\n")
CHUNK_LINE_BEGUN: Final = re.compile(rb"[0-9A-Fa-f]{1,16}(?:;[\t\x20-\x7e\x80-\xff]*+)?\r?")

# RFC 9110 section 6.5.1: trailers may not frame, route, authenticate, condition or describe the content.
FORBIDDEN_TRAILERS: Final = frozenset(
    (
        *(
            b"content-length",
            b"transfer-encoding",
            b"host",
            b"trailer",
            b"connection",
            b"keep-alive",
            b"upgrade",
        ),
        *(b"te", b"expect", b"proxy-connection", b"max-forwards", b"forwarded", b"via", b"http2-settings"),
        *(
            b"content-type",
            b"content-encoding",
            b"content-range",
            b"content-disposition",
            b"content-location",
        ),
        *(b"authorization", b"proxy-authorization", b"www-authenticate", b"proxy-authenticate", b"cookie"),
        *(b"set-cookie", b"cache-control", b"pragma", b"range", b"if-match", b"if-none-match", b"if-range"),
        *(b"if-modified-since", b"if-unmodified-since", b"x-forwarded-for", b"x-forwarded-host"),
        *(b"x-forwarded-proto", b"x-forwarded-port", b"x-real-ip"),
    )
)


_AT_END: Final = -1  # the CRLF after a chunk's data
_AT_LINE: Final = -2  # a chunk line


class BodyDecoder(Protocol):
    """Takes the bytes of one body."""

    complete: bool
    trailers: Headers

    def decode(self, buffer: bytes | bytearray, position: int) -> tuple[bytes, int]:
        """Take what is there: (content, the position of the first byte not taken).

        Raises:
            RemoteProtocolError: 400, or 431 for a trailer section over the limits.
        """


class LengthDecoder:
    """A body of `length` bytes, at least one."""

    __slots__ = ("_remaining", "complete", "trailers")

    def __init__(self, length: int) -> None:
        self._remaining = length
        self.complete = False
        self.trailers: Headers = []

    def decode(self, buffer: bytes | bytearray, position: int) -> tuple[bytes, int]:
        """Take up to the length."""
        end = min(len(buffer), position + self._remaining)
        self._remaining -= end - position
        self.complete = self._remaining == 0
        return _take(buffer, position, end), end


class ChunkDecoder:
    """A body in chunks, with its trailer section."""

    __slots__ = ("_extensions", "_limits", "_remaining", "_scanner", "complete", "trailers")

    def __init__(self, limits: Http1Limits) -> None:
        self._limits = limits
        self._remaining = _AT_LINE  # bytes to come of this chunk, or what comes in their place
        self._extensions = 0
        self._scanner: HeadScanner | None = None
        self.complete = False
        self.trailers: Headers = []

    def decode(self, buffer: bytes | bytearray, position: int) -> tuple[bytes, int]:
        """Take whole and partial chunks until the buffer or the message ends."""
        pieces: list[bytes | bytearray] = []
        size = len(buffer)
        while position < size and self._scanner is None:
            if self._remaining == _AT_LINE:
                position = _take_whole_chunks(buffer, position, pieces)
            if self._remaining >= 0:
                end = min(size, position + self._remaining)
                pieces.append(buffer[position:end])
                self._remaining -= end - position
                position = end
                if self._remaining:
                    break
                self._remaining = _AT_END
            try:
                after = self._skip_framing(buffer, position)
            except RemoteProtocolError:
                if pieces:
                    break  # first what was good; the next call comes back to the mistake
                raise
            if after == position:
                break
            position = after
        if self._scanner is not None and not pieces:
            position = self._read_trailers(self._scanner, buffer, position)
        elif self._scanner is not None and buffer[position : position + 2] == b"\r\n":
            self.complete = True
            position += 2
        return pieces[0] if len(pieces) == 1 and type(pieces[0]) is bytes else b"".join(pieces), position

    def _skip_framing(self, buffer: bytes | bytearray, position: int) -> int:
        """Step over the CRLF after a chunk, or over a chunk line; stay where more bytes are needed."""
        if self._remaining == _AT_END:
            if not b"\r\n".startswith(buffer[position : position + 2]):
                raise RemoteProtocolError("chunk data without its CRLF")
            if len(buffer) - position < 2:
                return position
            self._remaining = _AT_LINE
            return position + 2
        match = PLAIN_CHUNK.match(buffer, position) or CHUNK_LINE.match(buffer, position)
        if match is None:
            self._check_unfinished(buffer, position)
            return position
        if match.lastindex == 2:
            self._extensions += match.end(2) - match.start(2)
            self._check_extensions(0)
        size = int(match[1], 16)
        if size > MAX_LENGTH:
            raise RemoteProtocolError("chunk size out of range")
        if size:
            self._remaining = size
        else:
            self._scanner = HeadScanner(self._limits, trailers=True)
        return match.end()

    def _check_unfinished(self, buffer: bytes | bytearray, position: int) -> None:
        """Refuse a chunk line that can no longer become a good one."""
        if position == len(buffer):
            return
        match = CHUNK_LINE_BEGUN.match(buffer, position)
        if match is None or match.end() != len(buffer):
            raise RemoteProtocolError("malformed chunk line")
        self._check_extensions(len(buffer) - position - 16)

    def _check_extensions(self, pending: int) -> None:
        if self._extensions + pending > MAX_EXTENSIONS_SIZE:
            raise RemoteProtocolError("chunk extensions too large")

    def _read_trailers(self, scanner: HeadScanner, buffer: bytes | bytearray, position: int) -> int:
        """Trailers are the message's own and never join the head's fields (RFC 9112 section 7.1.2)."""
        end = scanner.scan(buffer, position)
        if end is None:
            return position
        self.complete = True
        self.trailers = [field for field in scanner.fields if field[0] not in FORBIDDEN_TRAILERS]
        return end


def _take_whole_chunks(buffer: bytes | bytearray, position: int, pieces: list[bytes | bytearray]) -> int:
    """Take the plain chunks that are here in whole; anything else is left for the careful way.

    A peer may send chunks of one byte, so this loop decides what a received byte can cost.
    """
    match_line = PLAIN_CHUNK.match
    while (match := match_line(buffer, position)) is not None:
        start = match.end()
        end = start + int(match[1], 16)
        if end == start or buffer[end : end + 2] != b"\r\n":
            break
        pieces.append(buffer[start:end])
        position = end + 2
    return position


def _take(buffer: bytes | bytearray, start: int, end: int) -> bytes:
    if type(buffer) is bytes:
        return buffer[start:end]  # the buffer itself when it is all of it
    return bytes(memoryview(buffer)[start:end])
