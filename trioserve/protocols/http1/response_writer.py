"""The sending side of HTTP/1.1: status line, framing decision, chunking (RFC 9112 sections 4, 6 and 7).

It is shared by all machines, because no parser library is needed to write. It holds the framing of one
response at a time and refuses what would break it: an illegal field, bytes beyond Content-Length, a body that
ends too early. It does not know the clock: the Date line is given.
"""

from __future__ import annotations

import enum
from typing import Final

from trioserve.protocols.errors import LocalProtocolError
from trioserve.protocols.http1.framing import FORBIDDEN_TRAILERS
from trioserve.protocols.http1.policy import MAX_LENGTH_DIGITS, TOKEN, split_list
from trioserve.protocols.http1.response_fields import (
    CLOSE_LINE,
    KEEP_ALIVE_LINE,
    RULES,
    STATUS_LINES,
    DefaultLines,
    FieldLines,
    Rule,
    checked_pairs,
)

__all__ = ["DefaultLines", "Framing", "Phase", "ResponseWriter"]

# Module names instead of attributes of the enum: they are read once per field.
_KEEP: Final = Rule.KEEP
_CHECK_NAME: Final = Rule.CHECK_NAME
_OWN_LENGTH: Final = Rule.LENGTH
_TIMELESS: Final = (Rule.KEEP, None)


class Phase(enum.Enum):
    """Where the response stands."""

    NOT_BEGUN = enum.auto()
    UNDER_WAY = enum.auto()
    ENDED = enum.auto()


class Framing(enum.Enum):
    """How the content of the response is delimited."""

    UNDECIDED = enum.auto()
    BODYLESS = enum.auto()  # HEAD, 204, 304: content is swallowed
    LENGTH = enum.auto()
    CHUNKED = enum.auto()
    UNTIL_CLOSE = enum.auto()


# Fields that applications sent before, and their lines. Most responses repeat most of their fields to the letter.
_known_fields: dict[tuple[bytes, bytes], bytes] = {}
KNOWN_FIELDS: Final = 1024
"""Fields that are remembered before all are forgotten."""
KNOWN_SIZE: Final = 128
"""Bytes of the longest line that is remembered."""


def _remember_fields(fields: list[tuple[tuple[bytes, bytes], bytes]]) -> None:
    """Keep lines that passed every check; not those of fields that say something about one response only."""
    if len(_known_fields) >= KNOWN_FIELDS:
        _known_fields.clear()
    _known_fields.update(
        (field, line)
        for field, line in fields
        if type(field) is tuple and len(line) <= KNOWN_SIZE and RULES.get(field[0].lower()) in _TIMELESS
    )


def _render_upgrade(headers: FieldLines) -> bytes:
    """Render what a 426 has to say (RFC 9110 section 15.5.22), which of other final responses is left out."""
    fields = [value for name, value in checked_pairs(headers) if name.lower() == b"upgrade"]
    return b"upgrade: %b\r\nconnection: upgrade\r\n" % b", ".join(fields) if fields else b""


_NOT_BEGUN: Final = Phase.NOT_BEGUN
_UNDER_WAY: Final = Phase.UNDER_WAY
_ENDED: Final = Phase.ENDED
_WITHOUT_CONTENT: Final = frozenset((204, 304))
_BODYLESS: Final = Framing.BODYLESS
_LENGTH: Final = Framing.LENGTH
_CHUNKED: Final = Framing.CHUNKED


class ResponseWriter:
    """Frames one response after the other.

    `phase` and `framing` tell where the current one stands; putting `phase` back to NOT_BEGUN makes ready for
    the next. `closes` tells whether the head said that the connection ends.
    """

    __slots__ = (
        "_own_close",
        "_own_date",
        "_own_server",
        "_plain",
        "_remaining",
        "_start",
        "_status",
        "closes",
        "framing",
        "phase",
    )

    def __init__(self) -> None:
        self.phase = Phase.NOT_BEGUN
        self.framing = Framing.UNDECIDED
        self.closes = False
        # What the application said in the prepared head.
        self._status = 0
        self._start: bytes | None = None
        self._remaining: int | None = None  # content still owed; None until a length is known
        self._own_close = self._own_date = self._own_server = False
        self._plain = False  # nothing in the prepared head asks for a second thought

    def render_information(self, status: int, headers: FieldLines) -> bytes:
        """Render an interim response (RFC 9110 section 15.2); on 101 Connection and Upgrade are kept."""
        if self.phase is not _NOT_BEGUN:
            raise LocalProtocolError("an interim response after the final one")
        if not 100 <= status < 200:
            raise LocalProtocolError(f"status {status} is not informational")
        kept = (b"connection", b"upgrade") if status == 101 else ()
        fields = [
            (name, value)
            for name, value in checked_pairs(headers)
            if (key := name.lower()) in kept
            or RULES.get(key) not in (Rule.DROP, Rule.LENGTH, Rule.CONNECTION)
        ]
        return b"".join((STATUS_LINES[status], *(b"%b: %b\r\n" % field for field in fields), b"\r\n"))

    def prepare_head(self, status: int, headers: FieldLines) -> None:
        """Check and hold the application's head; a head that was prepared and not rendered is replaced.

        Args:
            status: 200 to 599.
            headers: pairs of bytes; read once, unless there is something to complain about.

        Raises:
            LocalProtocolError: a response has begun already, or status or a field is illegal.
        """
        if self.phase is not _NOT_BEGUN:
            raise LocalProtocolError("a second response head")
        self._start = None
        status_line = STATUS_LINES.get(status)
        if status_line is None or status < 200:
            raise LocalProtocolError(f"status {status!r} cannot begin a final response")
        self._remaining = None
        self._own_close = self._own_date = self._own_server = False
        if status == 426:
            headers = list(headers)
            status_line += _render_upgrade(headers)
        start = status_line + self._render_fields(headers)
        self._status = status
        self._start = start
        self._plain = not (
            self._own_close or self._own_date or self._own_server or status in _WITHOUT_CONTENT
        )

    def render_head(
        self, request: tuple[bool, bool], defaults: DefaultLines, length: int | None, close: bool
    ) -> bytes:
        """Render the prepared head and settle its framing; the response is under way.

        Args:
            request: (the method was HEAD, the version is 1.1).
            defaults: lines for every response.
            length: bytes of the whole content when they are known, else None.
            close: the connection ends after this response; the prepared head may say so too.

        Raises:
            LocalProtocolError: no head was prepared, or its Content-Length is not `length`.
        """
        start = self._start
        if start is None or self.phase is not _NOT_BEGUN:
            raise LocalProtocolError("no response head was prepared")
        self.closes = close or self._own_close
        framing = self._settle_framing(request, length)
        connection = CLOSE_LINE if self.closes else b"" if request[1] else KEEP_ALIVE_LINE
        if self._own_date or self._own_server:
            date = b"" if self._own_date else defaults.date
            server = b"" if self._own_server else defaults.server
            more = date + server + defaults.extra
        else:
            more = defaults.all
        self._start = None
        self.phase = _UNDER_WAY
        return b"".join((start, framing, connection, more, b"\r\n"))

    def _render_fields(self, headers: FieldLines) -> bytes:
        """Render the application's fields; those that were seen before are known to be good."""
        lines: list[bytes] = []
        fresh: list[tuple[tuple[bytes, bytes], bytes]] = []
        find_known = _known_fields.get
        try:
            for field in headers:
                line = find_known(field) if type(field) is tuple else None
                if line is not None:
                    lines.append(line)
                    continue
                name, value = field
                if name == b"content-length":
                    self._set_length(value)
                else:
                    line = self._judge_field(name, value)
                    if line:
                        lines.append(line)
                        fresh.append((field, line))
        except (TypeError, ValueError, AttributeError) as error:
            checked_pairs(headers)  # names the field, unless the fields could be read only once
            raise LocalProtocolError("a response field must be a pair of bytes") from error
        block = b"".join(lines)
        if fresh:
            # A value with a line end in it shows up as a line too many.
            count = len(lines)
            if block.count(b"\n") != count or block.count(b"\r") != count or b"\x00" in block:
                checked_pairs(headers)
                raise LocalProtocolError("illegal byte in the value of a response field")
            _remember_fields(fresh)
        return block

    def _set_length(self, value: bytes) -> None:
        """Take over the application's Content-Length, which is rendered with the framing."""
        if self._remaining is not None or not value.isdigit() or len(value) > MAX_LENGTH_DIGITS:
            raise LocalProtocolError(f"illegal or repeated content-length {value!r}")
        self._remaining = int(value)

    def _judge_field(self, name: bytes, value: bytes) -> bytes:
        """Return the line of a field as it is sent; nothing for one that is left out, or rendered elsewhere."""
        rule = RULES.get(name) or RULES.get(name.lower(), _CHECK_NAME)
        if rule is _CHECK_NAME:
            if TOKEN.fullmatch(name) is None:
                raise LocalProtocolError(f"illegal response field name {name!r}")
        elif rule is _OWN_LENGTH:
            self._set_length(value)
            return b""
        elif rule is not _KEEP:
            self._own_date = self._own_date or rule is Rule.DATE
            self._own_server = self._own_server or rule is Rule.SERVER
            if rule is Rule.CONNECTION:
                self._own_close = self._own_close or b"close" in split_list(value)
            if rule is Rule.CONNECTION or rule is Rule.DROP:
                return b""
        return b"%b: %b\r\n" % (name, value.strip(b" \t"))

    def _settle_framing(self, request: tuple[bool, bool], known: int | None) -> bytes:
        """RFC 9112 section 6.3, from the sender's side: the framing field, and the state it leads to."""
        is_head, is_1_1 = request
        status, length = self._status, self._remaining
        if is_head or status == 204 or status == 304:
            self.framing = _BODYLESS
            if length is None and status != 304:
                length = known or None
            return b"" if length is None or status == 204 else b"content-length: %d\r\n" % length
        if length is None:
            length = self._remaining = known
        elif known is not None and known != length:
            raise LocalProtocolError(f"response content of {known} bytes with content-length {length}")
        if length is not None:
            self.framing = _LENGTH
            return b"content-length: %d\r\n" % length
        if is_1_1:
            self.framing = _CHUNKED
            return b"transfer-encoding: chunked\r\n"
        self.framing = Framing.UNTIL_CLOSE
        self.closes = True
        return b""

    def render_plain_response(self, defaults: DefaultLines, data: bytes) -> bytes | None:
        """Render the prepared head with its whole content for a GET or the like over HTTP/1.1 that goes on.

        The same as `render_response` does in its careful way, which is to be asked when this returns None.
        """
        start = self._start
        size = len(data)
        length = self._remaining
        if (
            not self._plain
            or start is None
            or self.phase is not _NOT_BEGUN
            or (length is not None and length != size)
        ):
            return None
        self._start = None
        self.framing = _LENGTH
        self.closes = False
        self.phase = _ENDED
        return b"%bcontent-length: %d\r\n%b\r\n%b" % (start, size, defaults.all, data)

    def render_response(
        self, request: tuple[bool, bool], defaults: DefaultLines, data: bytes, close: bool
    ) -> bytes:
        """Render the prepared head with its whole content, and the end; see render_head."""
        head = self.render_head(request, defaults, len(data), close)
        self.phase = _ENDED
        return head if self.framing is _BODYLESS else head + data

    def frame_body(self, data: bytes) -> bytes:
        """Frame a piece of content; nothing comes back for an empty piece, or where no content is allowed.

        Raises:
            LocalProtocolError: more than Content-Length says, or no response is under way.
        """
        self._count(len(data))
        if self.framing is _CHUNKED:
            return b"%x\r\n%b\r\n" % (len(data), data) if data else b""
        return b"" if self.framing is _BODYLESS else data

    def frame_large_body(self, size: int) -> tuple[bytes, bytes]:
        """Return what goes before and after a piece of content that the caller sends itself.

        Raises:
            LocalProtocolError: as in frame_body.
        """
        self._count(size)
        return (b"%x\r\n" % size, b"\r\n") if size and self.framing is _CHUNKED else (b"", b"")

    def _count(self, size: int) -> None:
        """Hold the application to its own Content-Length."""
        if self.phase is not _UNDER_WAY:
            raise LocalProtocolError("response content without a response under way")
        if self.framing is _LENGTH:
            assert self._remaining is not None
            if size > self._remaining:
                raise LocalProtocolError("response content is longer than its content-length")
            self._remaining -= size

    def frame_end(self, trailers: FieldLines = ()) -> bytes:
        """End the response; trailers go out in chunked framing only.

        Those that RFC 9110 section 6.5.1 forbids are left out.

        Raises:
            LocalProtocolError: less content than Content-Length says, an illegal trailer, or no response
                under way.
        """
        if self.phase is not _UNDER_WAY:
            raise LocalProtocolError("the end of a response without a response under way")
        if self.framing is _LENGTH and self._remaining:
            raise LocalProtocolError("response content is shorter than its content-length")
        if self.framing is not _CHUNKED or not trailers:
            self.phase = Phase.ENDED
            return b"0\r\n\r\n" if self.framing is _CHUNKED else b""
        fields = [field for field in checked_pairs(trailers) if field[0].lower() not in FORBIDDEN_TRAILERS]
        self.phase = Phase.ENDED
        return b"".join((b"0\r\n", *(b"%b: %b\r\n" % field for field in fields), b"\r\n"))
