"""What may stand in a response head: status lines, field names with a rule, and the check of fields one by one.

Tables and pure functions; the framing of a response is decided in `response_writer`.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Final

from trioserve.protocols.errors import LocalProtocolError
from trioserve.protocols.http1.policy import TOKEN

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

CLOSE_LINE: Final = b"connection: close\r\n"
KEEP_ALIVE_LINE: Final = b"connection: keep-alive\r\n"
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


def checked_pairs(headers: FieldLines) -> list[tuple[bytes, bytes]]:
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
