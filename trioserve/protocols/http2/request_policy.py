"""What is a request on HTTP/2: the acceptance policy for decoded field sections (RFC 9113 section 8, RFC 8441).

Two kinds of mistakes are told apart. What RFC 9113 calls malformed raises `MalformedRequest` and costs the peer
its stream. What is good HTTP/2 but refused by the policy that holds for every version of HTTP raises
`RemoteProtocolError`, with the status that `protocols/http1/policy.py` gives the same mistake. The first mistake
found decides: a malformed request may be answered too (section 8.1.1). Not here: frames, HPACK, and whether the
body keeps to its content-length.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from trioserve.protocols.errors import ProtocolError, RemoteProtocolError
from trioserve.protocols.headers import HOP_BY_HOP, has_forwarding_fields
from trioserve.protocols.http1.framing import FORBIDDEN_TRAILERS
from trioserve.protocols.http1.head_scanner import FORBIDDEN
from trioserve.protocols.http1.policy import (
    HOST,
    MAX_METHOD_SIZE,
    SINGLE_FIELDS,
    TOKEN,
    parse_content_length,
    split_list,
)
from trioserve.protocols.http2.events import Headers, Http2Request

if TYPE_CHECKING:
    from trioserve.protocols.http2.limits import Http2Limits


class MalformedRequest(ProtocolError):
    """A request that RFC 9113 calls malformed: a stream error PROTOCOL_ERROR (section 8.1.1).

    The text is one sentence for the log; it never quotes the peer's bytes.
    """


SCHEME: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.\-]*+")  # RFC 3986 section 3.1

# The alphabets, for bytes.translate, which takes half the time of a regular expression. Paths have the bytes of a
# request target on HTTP/1.1, without a fragment; names have no capitals (RFC 9113 section 8.2.1); values lack the
# control bytes that HTTP/1.1 refuses, of which RFC 9113 calls only some malformed.
_BYTES: Final = [bytes((byte,)) for byte in range(256)]
_PATH_BYTES: Final = b"".join(byte for byte in _BYTES if b"!" <= byte <= b"~" and byte != b"#")
_NAME_BYTES: Final = b"".join(byte for byte in _BYTES if TOKEN.fullmatch(byte) and not byte.isupper())
_VALUE_BYTES: Final = b"".join(byte for byte in _BYTES if not FORBIDDEN.match(byte) and byte not in b"\r\n")
_BLANKS: Final = b" \t"
_BREAKS_FIELD: Final = re.compile(rb"[\x00\r\n]")

_CONNECTION_SPECIFIC: Final = HOP_BY_HOP - {b"te"}  # RFC 9113 section 8.2.2
_HOP_BY_HOP_OR_EMPTY: Final = HOP_BY_HOP | {b""}
_PSEUDO_FIELDS: Final = frozenset((b":method", b":scheme", b":authority", b":path", b":protocol"))
_CONNECT_FIELDS: Final = frozenset((b":method", b":authority"))  # RFC 9113 section 8.5
_METHODS: Final = {
    name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
}
_SCHEMES: Final = {b"https": "https", b"http": "http"}
_DEFAULT_PORTS: Final = {"https": b":443", "http": b":80"}

# Fields whose rule needs more than themselves, or that are joined.
_RULED_FIELDS: Final = SINGLE_FIELDS | {b"expect", b"cookie"}

# What was found good before, on any connection: clients say the same about themselves with every request. Each
# authority has the field that is made of it.
_known_fields: dict[tuple[bytes, bytes], tuple[bytes, bytes]] = {}
_known_hosts: dict[bytes, tuple[bytes, bytes]] = {}
KNOWN_FIELDS: Final = 1024
"""Fields, or authorities, that are remembered before all are forgotten."""
KNOWN_SIZE: Final = 256
"""Bytes of the longest name and value, together, that are remembered."""
_NOT_REMEMBERED: Final = _RULED_FIELDS | {b"authorization", b"proxy-authorization"}


def judge_request(
    stream_id: int, fields: Headers, ended: bool, limits: Http2Limits, size: int
) -> Http2Request:
    """Judge a request head.

    Args:
        stream_id: the stream that it opens.
        fields: as decoded by HPACK, pseudo-header fields included; not changed.
        ended: the head ends the stream: no body and no trailers follow.
        limits: of the connection.
        size: bytes of the field list as RFC 9113 section 6.5.2 counts them.

    Raises:
        MalformedRequest: to be answered with a stream error.
        RemoteProtocolError: 400, 417, 431 or 501, to be answered with a response.
    """
    if size > limits.max_head_size:
        raise RemoteProtocolError("header section too large", 431)
    pseudo: dict[bytes, bytes] = {}
    count = 0
    for name, value in fields:
        if name not in _PSEUDO_FIELDS:
            break
        pseudo[name] = value
        count += 1
    known = _recognise_start(stream_id, pseudo, ended) if count == 4 else None
    if known is None:
        _check_start(pseudo, count, limits)
    request = known or _begin_request(stream_id, pseudo, ended)
    ruled = _judge_fields(request, fields[count:])
    if known is None:
        _judge_start(request, pseudo)
    if len(request.headers) > limits.max_fields:
        raise RemoteProtocolError("too many fields", 431)
    if ruled or not request.host:
        _judge_ruled_fields(request, ruled, ended)
    return request


def judge_trailers(fields: Headers) -> Headers:
    """Judge the trailer section of a request; fields that RFC 9110 section 6.5.1 forbids there are left out.

    Args:
        fields: as decoded by HPACK; not changed.

    Raises:
        MalformedRequest: a pseudo-header field (RFC 9113 section 8.1), or a field that no request may have.
    """
    try:
        for name, value in fields:
            _check_field(name, value)
    except RemoteProtocolError as error:  # the answer may have begun: a status comes too late
        raise MalformedRequest(str(error)) from None
    return [(name, value) for name, value in fields if name not in FORBIDDEN_TRAILERS]


def _recognise_start(stream_id: int, pseudo: dict[bytes, bytes], ended: bool) -> Http2Request | None:
    """The quick way for four pseudo-header fields; None when anything calls for the careful way."""
    try:
        target = pseudo[b":path"]
        host = _known_hosts[pseudo[b":authority"]]
        if not target.startswith(b"/") or target.translate(None, _PATH_BYTES):
            return None
        return Http2Request(
            stream_id,
            _METHODS[pseudo[b":method"]],
            target,
            [host],
            _SCHEMES[pseudo[b":scheme"]],
            host[1],
            not ended,
            0 if ended else None,
        )
    except KeyError:
        return None


def _check_start(pseudo: dict[bytes, bytes], count: int, limits: Http2Limits) -> None:
    """RFC 9113 sections 8.3, 8.3.1 and 8.5, RFC 8441 section 4: what is malformed in the pseudo-header fields."""
    if len(pseudo) != count:
        raise MalformedRequest("pseudo-header field repeated")
    method = pseudo.get(b":method", b"")
    if TOKEN.fullmatch(method) is None:
        raise MalformedRequest("missing or malformed :method")
    if b":authority" in pseudo and HOST.fullmatch(pseudo[b":authority"]) is None:
        raise MalformedRequest("malformed :authority")
    if b":protocol" in pseudo:
        if method != b"CONNECT" or not limits.extended_connect:
            raise MalformedRequest(":protocol where no extended CONNECT is possible")
        if TOKEN.fullmatch(pseudo[b":protocol"]) is None:
            raise MalformedRequest("malformed :protocol")
    elif method == b"CONNECT":
        if pseudo.keys() != _CONNECT_FIELDS:
            raise MalformedRequest("CONNECT takes :authority alone")
        return
    _check_target(method, pseudo)


def _check_target(method: bytes, pseudo: dict[bytes, bytes]) -> None:
    """RFC 9113 section 8.3.1: :scheme, and :path as http and https have it."""
    scheme, path = pseudo.get(b":scheme"), pseudo.get(b":path")
    if scheme is None or path is None:
        raise MalformedRequest(":scheme or :path missing")
    if SCHEME.fullmatch(scheme) is None:
        raise MalformedRequest("malformed :scheme")
    if scheme.lower() not in _SCHEMES or (path == b"*" and method == b"OPTIONS"):
        return
    if not path.startswith(b"/") or path.translate(None, _PATH_BYTES):
        raise MalformedRequest("malformed :path")


def _begin_request(stream_id: int, pseudo: dict[bytes, bytes], ended: bool) -> Http2Request:
    """A request of which the target alone is certain; its first field keeps the place of host."""
    authority = pseudo.get(b":authority", b"")
    host = (b"host", authority)
    if len(authority) <= KNOWN_SIZE and authority:
        if len(_known_hosts) >= KNOWN_FIELDS:
            _known_hosts.clear()
        _known_hosts[authority] = host
    target = pseudo.get(b":path", b"")
    return Http2Request(stream_id, "", target, [host], "", authority, not ended, 0 if ended else None)


def _judge_start(request: Http2Request, pseudo: dict[bytes, bytes]) -> None:
    """What is well-formed in :method, :scheme and :protocol, and may be refused all the same."""
    method = pseudo[b":method"]
    if len(method) > MAX_METHOD_SIZE:
        raise RemoteProtocolError("method too long")
    request.method = method.decode("ascii")
    request.protocol = pseudo.get(b":protocol")
    if method == b"CONNECT" and request.protocol is None:
        raise RemoteProtocolError("CONNECT is not offered", 501)
    request.scheme = pseudo[b":scheme"].decode("ascii").lower()
    if request.scheme not in _DEFAULT_PORTS:
        raise RemoteProtocolError("the scheme is neither http nor https")


def _judge_fields(request: Http2Request, fields: Headers) -> dict[bytes, bytes]:
    """Give the request its fields, but host; return the values of those that have a rule of their own.

    Cookie crumbs become one field at the place of the first (RFC 9113 section 8.2.3).
    """
    headers = request.headers
    find_known = _known_fields.get
    append = headers.append
    fresh: Headers = []
    crumbs: list[bytes] = []
    ruled: dict[bytes, bytes] = {}
    for field in fields:
        good = find_known(field)
        if good is None:
            name, value = field
            _check_field(name, value)
            good = (name, value)
            if name == b"cookie":
                crumbs.append(value)
            elif name in _RULED_FIELDS:
                _gather(ruled, name, value)
            fresh.append(good)
            if name == b"host" or (len(crumbs) > 1 and name == b"cookie"):
                continue
        append(good)
    if fresh:
        request.forwarded = has_forwarding_fields(fresh)
        if len(crumbs) > 1:
            headers[headers.index((b"cookie", crumbs[0]))] = (b"cookie", b"; ".join(crumbs))
        _remember(fresh)
    return ruled


def _check_field(name: bytes, value: bytes) -> None:
    """RFC 9113 sections 8.2.1 and 8.2.2: what one field alone can have wrong with it."""
    if (
        name.translate(None, _NAME_BYTES)
        or name in _HOP_BY_HOP_OR_EMPTY
        or value.translate(None, _VALUE_BYTES)
        or value.strip(_BLANKS) != value
    ):
        _check_odd_field(name, value)


def _check_odd_field(name: bytes, value: bytes) -> None:
    """Find words for what is wrong; `te: trailers` alone is not."""
    if name[:1] == b":":
        raise MalformedRequest("unknown or misplaced pseudo-header field")  # section 8.3
    if TOKEN.fullmatch(name) is None:
        raise MalformedRequest("malformed field name")
    if name != name.lower():
        raise MalformedRequest("field name with capitals")
    if name in _CONNECTION_SPECIFIC:
        raise MalformedRequest("connection-specific field")
    if name == b"te" and value.lower() != b"trailers":
        raise MalformedRequest("te other than trailers")
    if _BREAKS_FIELD.search(value) is not None:
        raise MalformedRequest("NUL, CR or LF in a field value")
    if value.strip(_BLANKS) != value:
        raise MalformedRequest("blanks around a field value")
    if value.translate(None, _VALUE_BYTES):
        raise RemoteProtocolError("control byte in a field value")


def _gather(ruled: dict[bytes, bytes], name: bytes, value: bytes) -> None:
    """Note the value of a field that is a list, or may come once only."""
    if name not in ruled:
        ruled[name] = value
    elif name not in SINGLE_FIELDS:
        ruled[name] += b"," + value
    elif name == b"content-length" and ruled[name] != value:
        raise MalformedRequest("content-length repeated with another value")
    else:
        raise RemoteProtocolError(f"{name.decode()} repeated")


def _remember(fields: Headers) -> None:
    """Keep fields that are good by themselves, and no secrets; those of proxies have to be noticed every time."""
    for field in fields:
        name, value = field
        if name in _NOT_REMEMBERED or len(name) + len(value) > KNOWN_SIZE or has_forwarding_fields([field]):
            continue
        if len(_known_fields) >= KNOWN_FIELDS:
            _known_fields.clear()
        _known_fields[field] = field


def _judge_ruled_fields(request: Http2Request, ruled: dict[bytes, bytes], ended: bool) -> None:
    """The rules of content-length, host and expect."""
    length = ruled.get(b"content-length")
    if length is not None:
        request.content_length = _judge_length(length, ended)
    host = ruled.get(b"host")
    if host is not None or not request.host:
        _judge_host(request, host)
    if b"expect" in ruled:
        expectations = split_list(ruled[b"expect"])
        if any(expectation != b"100-continue" for expectation in expectations):
            raise RemoteProtocolError("unknown expectation", 417)
        request.expects_continue = bool(expectations)


def _judge_length(value: bytes, ended: bool) -> int:
    """RFC 9113 section 8.1.1. That the content keeps to it is for the machine to see."""
    try:
        length = parse_content_length(value)
    except RemoteProtocolError as error:
        raise MalformedRequest(str(error)) from None
    if ended and length:
        raise MalformedRequest("content-length on a request without content")
    return length


def _judge_host(request: Http2Request, host: bytes | None) -> None:
    """Host says the same as :authority, or stands in for it; as on HTTP/1.1 it may be empty then."""
    if host is None:
        raise RemoteProtocolError("host missing")
    if host and HOST.fullmatch(host) is None:
        raise RemoteProtocolError("malformed host")
    if not request.host:
        request.host = host
        request.headers[0] = (b"host", host)
    elif not _is_same_authority(host, request.host, request.scheme):
        raise RemoteProtocolError("host and :authority differ")


def _is_same_authority(host: bytes, authority: bytes, scheme: str) -> bool:
    """Compare as RFC 9113 section 8.3.1 wants it: without regard to case and to the scheme's default port."""
    port = _DEFAULT_PORTS[scheme]
    first, second = (text.lower().removesuffix(port).removesuffix(b":") for text in (host, authority))
    return first == second
