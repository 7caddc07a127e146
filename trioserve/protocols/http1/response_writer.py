"""The sending side of HTTP/1.1: status line, framing decision, chunking (RFC 9112 sections 4, 6 and 7).

It is shared by all machines, because no parser library is needed to write. It holds the framing of one
response at a time and refuses what would break it: an illegal field, bytes beyond Content-Length, a body that
ends too early. It does not know the clock: the Date line is given.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Final

from trioserve.protocols.errors import LocalProtocolError
from trioserve.protocols.http1.framing import FORBIDDEN_TRAILERS
from trioserve.protocols.http1.policy import MAX_LENGTH_DIGITS, TOKEN, split_list

FieldLines = Iterable[tuple[bytes, bytes]]

_CLASS_PHRASES: Final = {
    1: "Informational",
    2: "Success",
    3: "Redirection",
    4: "Client Error",
    5: "Server Error",
}


def _render_status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = _CLASS_PHRASES[status // 100]
    return f"HTTP/1.1 {status} {phrase}\r\n".encode("ascii")


# The phrases of http.HTTPStatus change between Python versions; ours do not.
_RENAMED: Final = {
    413: b"HTTP/1.1 413 Content Too Large\r\n",
    414: b"HTTP/1.1 414 URI Too Long\r\n",
    416: b"HTTP/1.1 416 Range Not Satisfiable\r\n",
    422: b"HTTP/1.1 422 Unprocessable Content\r\n",
}
STATUS_LINES: Final = {status: _render_status_line(status) for status in range(100, 600)} | _RENAMED

_BREAKS_FIELD: Final = re.compile(rb"[\r\n\x00]")

CONTINUE: Final = STATUS_LINES[100] + b"\r\n"


class Rule(enum.Enum):
    """What becomes of a response field."""

    KEEP = enum.auto()
    CHECK_NAME = enum.auto()
    DROP = enum.auto()
    LENGTH = enum.auto()
    CONNECTION = enum.auto()
    DATE = enum.auto()
    SERVER = enum.auto()


# Module names instead of attributes of the enum: they are read once per field.
_KEEP: Final = Rule.KEEP
_CHECK_NAME: Final = Rule.CHECK_NAME

# The common names, which need no further check, and the names that have a rule. Hop-by-hop fields are ours to
# decide (RFC 9110 section 7.6.1).
RULES: Final[dict[bytes, Rule]] = {
    **dict.fromkeys(
        (
            *(
                b"content-type",
                b"content-encoding",
                b"content-language",
                b"content-location",
                b"content-range",
            ),
            *(b"content-disposition", b"content-security-policy", b"cache-control", b"etag", b"expires"),
            *(b"last-modified", b"vary", b"location", b"set-cookie", b"accept-ranges", b"age", b"allow"),
            *(b"access-control-allow-origin", b"access-control-allow-credentials", b"access-control-max-age"),
            *(
                b"access-control-allow-headers",
                b"access-control-allow-methods",
                b"access-control-expose-headers",
            ),
            *(
                b"strict-transport-security",
                b"x-content-type-options",
                b"x-frame-options",
                b"referrer-policy",
            ),
            *(
                b"permissions-policy",
                b"link",
                b"retry-after",
                b"www-authenticate",
                b"x-request-id",
                b"trailer",
            ),
        ),
        Rule.KEEP,
    ),
    **dict.fromkeys((b"transfer-encoding", b"keep-alive", b"proxy-connection", b"te", b"upgrade"), Rule.DROP),
    b"content-length": Rule.LENGTH,
    b"connection": Rule.CONNECTION,
    b"date": Rule.DATE,
    b"server": Rule.SERVER,
}


class DefaultLines:
    """Field lines that go into every response, rendered ahead; each ends in CRLF.

    Args:
        date: the Date line; left out when the application sends one.
        server: the Server line; left out when the application sends one.
        extra: lines that are always sent.
    """

    __slots__ = ("all", "date", "extra", "server")

    def __init__(self, date: bytes = b"", server: bytes = b"", extra: bytes = b"") -> None:
        self.date = date
        self.server = server
        self.extra = extra
        self.all = date + server + extra


NO_LINES: Final = DefaultLines()


class Framing(enum.Enum):
    """Where the response stands, and how its body is delimited."""

    NOT_BEGUN = enum.auto()
    BODYLESS = enum.auto()  # HEAD, 204, 304: content is swallowed
    LENGTH = enum.auto()
    CHUNKED = enum.auto()
    UNTIL_CLOSE = enum.auto()
    ENDED = enum.auto()


_NOT_BEGUN: Final = Framing.NOT_BEGUN
_BODYLESS: Final = Framing.BODYLESS
_LENGTH: Final = Framing.LENGTH
_CHUNKED: Final = Framing.CHUNKED
_ENDED: Final = Framing.ENDED


class ResponseWriter:
    """Frames one response after the other.

    `framing` tells where the current one stands; put it back to NOT_BEGUN for the next one. `closes` is set
    before the head and says afterwards whether the head told the peer that the connection ends.
    """

    __slots__ = ("_length", "_lines", "_own_close", "_own_date", "_own_server", "_status", "closes", "framing")

    def __init__(self) -> None:
        self.framing = Framing.NOT_BEGUN
        self.closes = False
        self._length: int | None = None  # of the whole body, then of what is still owed
        self._status = 0
        self._lines: list[bytes] = []
        self._own_close = False
        self._own_date = False
        self._own_server = False

    def render_information(self, status: int, headers: FieldLines) -> bytes:
        """Render an interim response (RFC 9110 section 15.2); on 101 Connection and Upgrade are kept."""
        if self.framing is not _NOT_BEGUN:
            raise LocalProtocolError("an interim response after the final one")
        if not 100 <= status < 200:
            raise LocalProtocolError(f"status {status} is not informational")
        kept = (b"connection", b"upgrade") if status == 101 else ()
        fields = [
            (name, value)
            for name, value in _checked_pairs(headers)
            if (key := name.lower()) in kept
            or RULES.get(key) not in (Rule.DROP, Rule.LENGTH, Rule.CONNECTION)
        ]
        return b"".join((STATUS_LINES[status], *(b"%b: %b\r\n" % field for field in fields), b"\r\n"))

    def prepare_head(self, status: int, headers: FieldLines) -> None:
        """Check and render what the application gave for a final response's head; nothing is settled yet.

        May be called again, with another head, until `render_head`.

        Args:
            status: 200 to 599.
            headers: the application's fields, pairs of bytes; read once, unless there is something to
                complain about.

        Raises:
            LocalProtocolError: a response has begun already, or status or a field is illegal.
        """
        if self.framing is not _NOT_BEGUN:
            raise LocalProtocolError("a second response head")
        status_line = STATUS_LINES.get(status)
        if status_line is None or status < 200:
            raise LocalProtocolError(f"status {status!r} cannot begin a final response")
        self._length = None
        self._own_date = self._own_server = self._own_close = False
        lines = [status_line]
        self._render_fields(lines, headers)
        self._status = status
        self._lines = lines

    def render_head(self, request: tuple[bool, bool], defaults: DefaultLines, length: int | None) -> bytes:
        """Complete the prepared head and settle its framing; `closes` is read and may be set.

        Args:
            request: (the method was HEAD, the version is 1.1).
            defaults: lines for every response.
            length: bytes of the whole body when that is known, else None.
        """
        lines = self._lines
        self.closes = self.closes or self._own_close
        lines.append(self._settle_framing(request, self._status, length))
        if self.closes:
            lines.append(b"connection: close\r\n")
        elif not request[1]:
            lines.append(b"connection: keep-alive\r\n")
        if self._own_date or self._own_server:
            lines.append(b"" if self._own_date else defaults.date)
            lines.append(b"" if self._own_server else defaults.server)
            lines.append(defaults.extra)
        else:
            lines.append(defaults.all)
        lines.append(b"\r\n")
        return b"".join(lines)

    def _render_fields(self, lines: list[bytes], headers: FieldLines) -> None:
        """Append the application's fields. A value with a line end in it shows up as a line too many."""
        first = len(lines)
        try:
            for name, value in headers:
                rule = RULES.get(name.lower(), _CHECK_NAME)
                if rule is _KEEP or self._obey(rule, name, value):
                    lines.append(b"%b: %b\r\n" % (name, value.strip(b" \t")))
        except (TypeError, ValueError, AttributeError):
            _checked_pairs(headers)
            raise
        block = b"".join(lines[first:])
        count = len(lines) - first
        if block.count(b"\n") != count or block.count(b"\r") != count or b"\x00" in block:
            _checked_pairs(headers)

    def _obey(self, rule: Rule, name: bytes, value: bytes) -> bool:
        """Do what a field's rule says; True when the field is sent as it is."""
        if rule is _CHECK_NAME:
            if TOKEN.fullmatch(name) is None:
                raise LocalProtocolError(f"illegal response field name {name!r}")
            return True
        if rule is Rule.LENGTH:
            if self._length is not None or not value.isdigit() or len(value) > MAX_LENGTH_DIGITS:
                raise LocalProtocolError(f"illegal or repeated content-length {value!r}")
            self._length = int(value)
            return False  # rendered with the framing
        if rule is Rule.CONNECTION:
            self._own_close = self._own_close or b"close" in split_list(value)
            return False
        self._own_date = self._own_date or rule is Rule.DATE
        self._own_server = self._own_server or rule is Rule.SERVER
        return rule is not Rule.DROP

    def _settle_framing(self, request: tuple[bool, bool], status: int, known: int | None) -> bytes:
        """RFC 9112 section 6.3, from the sender's side: the framing field, and the state it leads to."""
        is_head, is_1_1 = request
        length = self._length
        if is_head or status in (204, 304):
            self.framing = _BODYLESS
            if length is None and status != 304:
                length = known or None
            return b"" if length is None or status == 204 else b"content-length: %d\r\n" % length
        if length is None:
            length = self._length = known
        if length is not None:
            self.framing = _LENGTH
            return b"content-length: %d\r\n" % length
        if is_1_1:
            self.framing = _CHUNKED
            return b"transfer-encoding: chunked\r\n"
        self.framing = Framing.UNTIL_CLOSE
        self.closes = True
        return b""

    def frame_body(self, data: bytes) -> bytes:
        """Frame a piece of content; nothing may come back, for an empty piece or a response without content.

        Raises:
            LocalProtocolError: more than Content-Length says, or no response is under way.
        """
        framing = self.framing
        if framing is _LENGTH:
            assert self._length is not None
            if len(data) > self._length:
                raise LocalProtocolError("response content is longer than its content-length")
            self._length -= len(data)
            return data
        if framing is _CHUNKED:
            return b"%x\r\n%b\r\n" % (len(data), data) if data else b""
        if framing is _BODYLESS:
            return b""
        if framing is Framing.UNTIL_CLOSE:
            return data
        raise LocalProtocolError("response content without a response under way")

    def frame_large_body(self, size: int) -> tuple[bytes, bytes]:
        """Frame `size` bytes of content that are not at hand here: what goes before and what behind them.

        Raises:
            LocalProtocolError: more than Content-Length says, or no response is under way.
        """
        framing = self.framing
        if framing is _CHUNKED:
            return (b"%x\r\n" % size, b"\r\n") if size else (b"", b"")
        if framing is _LENGTH:
            assert self._length is not None
            if size > self._length:
                raise LocalProtocolError("response content is longer than its content-length")
            self._length -= size
        elif framing is _NOT_BEGUN or framing is _ENDED:
            raise LocalProtocolError("response content without a response under way")
        return b"", b""

    def frame_end(self, trailers: FieldLines = ()) -> bytes:
        """End the response; trailers go out in chunked framing only.

        Those that RFC 9110 section 6.5.1 forbids are left out.

        Raises:
            LocalProtocolError: less content than Content-Length says, an illegal trailer, or no response
                under way.
        """
        framing = self.framing
        if framing is _NOT_BEGUN or framing is _ENDED:
            raise LocalProtocolError("the end of a response without a response under way")
        if framing is _LENGTH and self._length:
            raise LocalProtocolError("response content is shorter than its content-length")
        self.framing = _ENDED
        if framing is not _CHUNKED:
            return b""
        if not trailers:
            return b"0\r\n\r\n"
        fields = [field for field in _checked_pairs(trailers) if field[0].lower() not in FORBIDDEN_TRAILERS]
        return b"".join((b"0\r\n", *(b"%b: %b\r\n" % field for field in fields), b"\r\n"))


def _checked_pairs(headers: FieldLines) -> list[tuple[bytes, bytes]]:
    """Check field by field, values stripped.

    Raises:
        LocalProtocolError: naming the first field that is wrong.
    """
    fields = []
    for field in headers:
        try:
            name, value = field
            well_formed = TOKEN.fullmatch(name) is not None
            broken = _BREAKS_FIELD.search(value) is not None
            fields.append((bytes(name), bytes(value.strip(b" \t"))))
        except (TypeError, ValueError, AttributeError) as error:
            raise LocalProtocolError(f"a response field must be a pair of bytes, not {field!r}") from error
        if not well_formed:
            raise LocalProtocolError(f"illegal response field name {name!r}")
        if broken:
            raise LocalProtocolError(f"illegal byte in the value of response field {name!r}")
    return fields
