"""What is a request: our acceptance policy for HTTP/1.1 heads, stated once (RFC 9110, RFC 9112).

The rules here are the authority; the parser libraries only give a second opinion (docs/decisions/0001). This
module knows request lines, targets, hosts and the fields that frame a message or steer the connection. It
does not know how bytes arrive: `head_scanner` splits them into lines, `request_reader` holds the state of a
connection.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

from trioserve.protocols.errors import RemoteProtocolError
from trioserve.protocols.headers import has_forwarding_fields
from trioserve.protocols.http1.events import Headers, RequestHead

TOKEN_CHARACTERS: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
TOKEN: Final = re.compile(TOKEN_CHARACTERS + rb"+")

MAX_METHOD_SIZE: Final = 64
MAX_LENGTH: Final = 2**63 - 1
MAX_LENGTH_DIGITS: Final = 20

# A whole head that raises no question. It accepts only: what it does not match is judged line by line.
# Possessive quantifiers (`*+`) leave nothing to backtrack into, so a mismatch costs one pass. Trailing blanks
# of a value do not match, because the libraries disagree about stripping them.
_FAST_LINE: Final = rb"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) (/[\x21\x22\x24-\x7e]*+) HTTP/1\.([01])\r\n"
FAST_LINE: Final = re.compile(_FAST_LINE)
FAST_HEAD: Final = re.compile(
    _FAST_LINE + rb"(?:" + TOKEN_CHARACTERS + rb"++:[\t\x20-\x7e\x80-\xff]*+(?<![ \t])\r\n)*+\r\n"
)

REQUEST_LINE: Final = re.compile(
    rb"(" + TOKEN_CHARACTERS + rb"{1,64}) ([\x21\x22\x24-\x7e]+) HTTP/([0-9])\.([0-9])"
)
ABSOLUTE_FORM: Final = re.compile(rb"(?i:https?)://([^/?]*)(/[^?]*)?(\?.*)?")

# RFC 9110 section 7.2: uri-host [":" port]. Narrower than RFC 3986 in three ways: no comma (two Host lines
# that an intermediary has joined look like that), no zone or future-version literals, a port of at most five
# digits.
HOST: Final = re.compile(
    rb"(?:(?:[0-9A-Za-z\-._~!$&'()*+;=]|%[0-9A-Fa-f]{2})+|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{0,5})?"
)

# Fields that decide something below. The first three may come once; the rest are lists whose lines are joined
# (RFC 9110 section 5.3).
SINGLE_FIELDS: Final = frozenset((b"host", b"content-length", b"content-type"))
RULED_FIELDS: Final = SINGLE_FIELDS | {b"transfer-encoding", b"connection", b"expect", b"upgrade"}


@dataclass(frozen=True, slots=True)
class Http1Limits:
    """What one connection may cost, and the two leniencies that exist.

    Args:
        max_head_size: bytes from the first byte of a head (blank lines before it included) through its empty
            line; also the limit of a trailer section. Above it: 431.
        max_target_size: bytes of the request target. Above it: 414.
        max_fields: field lines in a head, or in a trailer section. Above it: 431.
        lenient_bare_lf: a bare LF ends a line of a head (RFC 9112 section 2.2).
        lenient_folding: folded field lines are joined with one space (RFC 9112 section 5.2).
    """

    max_head_size: int = 65536
    max_target_size: int = 16384
    max_fields: int = 100
    lenient_bare_lf: bool = False
    lenient_folding: bool = False


class RequestLine(NamedTuple):
    """A request line that the policy accepts; `authority` only when the target was in absolute-form."""

    method: str
    target: bytes
    http_version: str
    authority: bytes | None


def parse_request_line(line: bytes) -> RequestLine:
    """Judge a request line without its line end (RFC 9112 section 3).

    Raises:
        RemoteProtocolError: 505 for another well-formed version, 501 for CONNECT, else 400.
    """
    match = REQUEST_LINE.fullmatch(line)
    if match is None:
        raise RemoteProtocolError("malformed request line")
    method, target, major, minor = match.groups()
    if major != b"1" or minor not in b"01":
        raise RemoteProtocolError("unsupported HTTP version", 505)
    if method == b"CONNECT":
        raise RemoteProtocolError("CONNECT is not offered", 501)
    target, authority = _split_target(target, method)
    return RequestLine(method.decode("ascii"), target, "1.1" if minor == b"1" else "1.0", authority)


def _split_target(target: bytes, method: bytes) -> tuple[bytes, bytes | None]:
    """Any allowed form -> (origin-form or `*`, authority or None); RFC 9112 section 3.2."""
    if target[:1] == b"/":
        return target, None
    if target == b"*":
        if method != b"OPTIONS":
            raise RemoteProtocolError("target * without OPTIONS")
        return target, None
    match = ABSOLUTE_FORM.fullmatch(target)
    if match is None:
        raise RemoteProtocolError("request target in the wrong form")
    authority, path, query = match.groups()
    if HOST.fullmatch(authority) is None:
        raise RemoteProtocolError("malformed authority in the request target")
    if method == b"OPTIONS" and path is None and query is None:
        return b"*", authority  # RFC 9112 section 3.2.4
    return (path or b"/") + (query or b""), authority


def judge_head(
    method: str, target: bytes, http_version: str, headers: Headers, known_host: bytes
) -> RequestHead:
    """Apply every rule that needs the fields; the lines themselves are known to be well-formed.

    Args:
        method: from the request line.
        target: in origin-form or `*`.
        http_version: "1.1" or "1.0".
        headers: lower-case names and stripped values; becomes the head's own, and may be changed.
        known_host: a Host value that was found good before on this connection; saves judging it again.

    Raises:
        RemoteProtocolError: 400, 417 or 501.
    """
    ruled: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in RULED_FIELDS:
            if name in ruled:
                if name in SINGLE_FIELDS:
                    raise RemoteProtocolError(f"{name.decode()} repeated")
                value = ruled[name] + b"," + value
            ruled[name] = value
    is_1_1 = http_version == "1.1"
    host = ruled.get(b"host")
    if host is None:
        if is_1_1:
            raise RemoteProtocolError("host missing")  # RFC 9112 section 3.2
        host = b""
    elif host != known_host and host and HOST.fullmatch(host) is None:
        raise RemoteProtocolError("malformed host")
    head = RequestHead(method, target, headers, http_version, False, 0, False, False, is_1_1, None, host)
    head.forwarded = has_forwarding_fields(headers)
    if len(ruled) > 1 or not host:
        _judge_framing(head, ruled)
        _judge_connection(head, ruled)
        _judge_expectation(head, ruled)
    return head


def replace_host(head: RequestHead, authority: bytes) -> None:
    """Put the target's authority in the place of what Host said (RFC 9112 section 3.2.2)."""
    if not any(name == b"host" for name, _ in head.headers):
        head.headers.insert(0, (b"host", authority))
    head.headers[:] = [(name, authority if name == b"host" else value) for name, value in head.headers]
    head.host = authority


def _judge_framing(head: RequestHead, ruled: dict[bytes, bytes]) -> None:
    """RFC 9112 section 6: one framing field, once, in its plainest form."""
    length = ruled.get(b"content-length")
    codings = ruled.get(b"transfer-encoding")
    if codings is not None:
        if length is not None:
            raise RemoteProtocolError("content-length with transfer-encoding")
        if head.http_version == "1.0":
            raise RemoteProtocolError("transfer-encoding on HTTP/1.0")
        if codings != b"chunked":
            _judge_codings(codings)
            head.headers[:] = [
                (name, b"chunked" if name == b"transfer-encoding" else value) for name, value in head.headers
            ]
        head.has_body = head.chunked = True
        head.content_length = None
    elif length is not None:
        head.content_length = parse_content_length(length)
        head.has_body = head.content_length > 0


def parse_content_length(value: bytes) -> int:
    """RFC 9110 section 8.6, digits only: no sign, no list, no blanks, no more than 2**63 - 1."""
    if not value.isdigit() or len(value) > MAX_LENGTH_DIGITS:
        raise RemoteProtocolError("malformed content-length")
    length = int(value)
    if length > MAX_LENGTH:
        raise RemoteProtocolError("content-length out of range")
    return length


def _judge_codings(value: bytes) -> None:
    """Return when the value names `chunked` alone, in whatever case."""
    codings = [coding.strip(b" \t").lower() for coding in value.split(b",")]
    if codings == [b"chunked"]:
        return
    names = [coding.partition(b";")[0].rstrip(b" \t") for coding in codings]
    if any(TOKEN.fullmatch(name) is None for name in names):
        raise RemoteProtocolError("malformed transfer-encoding")
    if b"chunked" in names[:-1] or (names[-1] == b"chunked" and codings[-1] != b"chunked"):
        raise RemoteProtocolError("chunked is not the one final transfer coding")
    raise RemoteProtocolError("unknown transfer coding", 501)


def split_list(value: bytes) -> list[bytes]:
    """The elements of a comma list, lower-case, empty ones left out (RFC 9110 section 5.6.1)."""
    return [element for part in value.lower().split(b",") if (element := part.strip(b" \t"))]


def _judge_connection(head: RequestHead, ruled: dict[bytes, bytes]) -> None:
    """RFC 9112 section 9.3 and RFC 9110 section 7.8: `close` wins; Upgrade means nothing on HTTP/1.0."""
    value = ruled.get(b"connection")
    if value is None:
        return
    options = split_list(value)
    if b"close" in options:
        head.keep_alive = False
    elif b"keep-alive" in options:
        head.keep_alive = True
    if b"upgrade" in options and head.http_version == "1.1":
        head.upgrade = ruled.get(b"upgrade") or None


def _judge_expectation(head: RequestHead, ruled: dict[bytes, bytes]) -> None:
    """RFC 9110 section 10.1.1: 100-continue is the only expectation; HTTP/1.0 clients cannot have it."""
    value = ruled.get(b"expect")
    if value is None:
        return
    expectations = split_list(value)
    if any(expectation != b"100-continue" for expectation in expectations):
        raise RemoteProtocolError("unknown expectation", 417)
    head.expects_continue = bool(expectations) and head.http_version == "1.1"
