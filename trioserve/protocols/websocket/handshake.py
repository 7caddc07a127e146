"""The opening handshake: is this request a WebSocket, what does it ask for, and what accepts it.

RFC 6455 section 4 over HTTP/1.1 and RFC 8441 over HTTP/2 lead to the same `WebSocketRequest`. Everything malformed is
refused with the status that says so. Who may connect, and which subprotocol is spoken, is the application's business.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import TYPE_CHECKING, Final

import msgspec

from trioserve.protocols.errors import LocalProtocolError, RemoteProtocolError
from trioserve.protocols.headers import HOP_BY_HOP, parse_token_list
from trioserve.protocols.http1.policy import TOKEN
from trioserve.protocols.http1.response_fields import checked_pairs
from trioserve.protocols.websocket.deflate import EXTENSION, Parameters, agree_to_offer, render_agreement

if TYPE_CHECKING:
    from trioserve.protocols.http1 import RequestHead
    from trioserve.protocols.http2.events import Http2Request
    from trioserve.protocols.websocket.events import Deflate

Headers = list[tuple[bytes, bytes]]

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
_KEY: Final = re.compile(rb"[A-Za-z0-9+/]{22}==")  # 16 bytes in base64

_KEY_FIELD: Final = b"sec-websocket-key"
_VERSION_FIELD: Final = b"sec-websocket-version"
_PROTOCOL_FIELD: Final = b"sec-websocket-protocol"
_EXTENSIONS_FIELD: Final = b"sec-websocket-extensions"
_VERSION: Final = [(_VERSION_FIELD, b"13")]
_UPGRADE: Final = [(b"upgrade", b"websocket"), (b"connection", b"Upgrade")]

# Fields of the answer that are not the application's: ours, and those that a 101, or a 2xx to CONNECT, must not have
# (RFC 9110 sections 7.6.1, 8.6 and 6.6.2).
_OWNED: Final = HOP_BY_HOP | {
    b"sec-websocket-accept",
    _KEY_FIELD,
    _VERSION_FIELD,
    _PROTOCOL_FIELD,
    _EXTENSIONS_FIELD,
    b"content-length",
    b"trailer",
}

# RFC 6455 section 9.1: extension-list. A quoted value has to be a token once it is unquoted.
_NAME: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_PARAMETER: Final = re.compile(
    rf'[ \t]*+;[ \t]*+({_NAME})(?:[ \t]*+=[ \t]*+(?:({_NAME})|"((?:[^"\\\x00-\x1f\x7f]|\\[\x20-\x7e])++)"))?'
)
_EXTENSION: Final = re.compile(_NAME)
_BETWEEN: Final = re.compile(r"[ \t]*+,[ \t,]*+")
_ESCAPE: Final = re.compile(r"\\(.)")


class WebSocketRequest(msgspec.Struct, gc=False):
    """What a well-formed opening handshake asks for.

    Args:
        subprotocols: what the client speaks, the preferred one first.
        deflate: what we agree on for compression; None when it was not offered, or no offer can be kept.
        key: `Sec-WebSocket-Key`, still in base64; None on HTTP/2, which needs none.
    """

    subprotocols: list[str]
    deflate: Deflate | None = None
    key: bytes | None = None


class HandshakeError(RemoteProtocolError):
    """An opening handshake that is refused.

    Args:
        reason: as in `RemoteProtocolError`.
        status_hint: 400, 405, 426 or 501.
        headers: fields that the answer has to have; the version that is spoken, if not told otherwise.
    """

    def __init__(self, reason: str, status_hint: int = 400, headers: Headers | None = None) -> None:
        super().__init__(reason, status_hint)
        self.headers: Headers = _VERSION if headers is None else headers


def is_upgrade(head: RequestHead) -> bool:
    """Tell whether an HTTP/1.1 request asks to change to WebSocket, well-formed or not."""
    upgrade = head.upgrade
    if upgrade is None:
        return False
    return upgrade == b"websocket" or b"websocket" in parse_token_list(upgrade)


def judge_upgrade(head: RequestHead, *, deflate: bool) -> WebSocketRequest:
    """Read the opening handshake of HTTP/1.1 (RFC 6455 section 4.2.1) in a request that `is_upgrade`.

    Args:
        head: of the request.
        deflate: whether compression may be agreed on.

    Raises:
        HandshakeError: naming the first thing that is wrong.
    """
    if head.method != "GET":
        raise HandshakeError("a WebSocket handshake is a GET", 405, [(b"allow", b"GET"), *_VERSION])
    if head.has_body:
        raise HandshakeError("a WebSocket handshake with a body")
    _judge_version(head.headers, 426, _VERSION + _UPGRADE)  # RFC 9110 section 15.5.22
    keys = _lines(head.headers, _KEY_FIELD)
    if len(keys) != 1:
        raise HandshakeError("sec-websocket-key repeated" if keys else "sec-websocket-key is missing")
    if not _KEY.fullmatch(keys[0]):
        raise HandshakeError("sec-websocket-key is not 16 bytes in base64")
    return _read_wishes(head.headers, deflate, keys[0])


def judge_connect(request: Http2Request, *, deflate: bool) -> WebSocketRequest:
    """Read the opening handshake of HTTP/2 (RFC 8441 section 5) in an extended CONNECT.

    Args:
        request: one with a `protocol`.
        deflate: whether compression may be agreed on.

    Raises:
        HandshakeError: naming the first thing that is wrong; 501 for another protocol than `websocket`.
    """
    if request.protocol is None or request.protocol.lower() != b"websocket":
        raise HandshakeError("unknown protocol in an extended CONNECT", 501, [])
    _judge_version(request.headers, 400, _VERSION)  # 426 needs an Upgrade field, which HTTP/2 has not
    return _read_wishes(request.headers, deflate, None)


def accept_fields(request: WebSocketRequest, subprotocol: str | None, headers: Headers) -> Headers:
    """Return the fields of the answer that completes the handshake: a 101, or on HTTP/2 a 200.

    Args:
        request: what `judge_upgrade` or `judge_connect` has read.
        subprotocol: the one to speak; None for none.
        headers: the application's own.

    Raises:
        LocalProtocolError: the client has not offered the subprotocol; or a field of the application's is
            malformed, or not its to decide.
    """
    fields: Headers = []
    if request.key is not None:
        fields += [*_UPGRADE, (b"sec-websocket-accept", _accept_token(request.key))]
    if subprotocol is not None:
        if subprotocol not in request.subprotocols:
            raise LocalProtocolError(f"the client has not offered the subprotocol {subprotocol!r}")
        fields.append((_PROTOCOL_FIELD, subprotocol.encode("ascii")))
    if request.deflate is not None:
        fields.append((_EXTENSIONS_FIELD, render_agreement(request.deflate)))
    for name, value in checked_pairs(headers):
        name = name.lower()
        if name in _OWNED:
            raise LocalProtocolError(f"the field {name!r} is not the application's in a WebSocket handshake")
        fields.append((name, value))
    return fields


def _accept_token(key: bytes) -> bytes:
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def _lines(headers: Headers, field: bytes) -> list[bytes]:
    return [value for name, value in headers if name == field]


def _judge_version(headers: Headers, status: int, answer: Headers) -> None:
    versions = _lines(headers, _VERSION_FIELD)
    if len(versions) != 1:
        reason = "sec-websocket-version repeated" if versions else "sec-websocket-version is missing"
        raise HandshakeError(reason)
    if versions[0] != b"13":
        raise HandshakeError("sec-websocket-version is not 13", status, answer)


def _read_wishes(headers: Headers, deflate: bool, key: bytes | None) -> WebSocketRequest:
    agreed = None
    for name, parameters in _parse_extensions(_lines(headers, _EXTENSIONS_FIELD)):
        if deflate and agreed is None and name == EXTENSION:
            agreed = agree_to_offer(parameters)
    return WebSocketRequest(_parse_subprotocols(_lines(headers, _PROTOCOL_FIELD)), agreed, key)


def _parse_subprotocols(lines: list[bytes]) -> list[str]:
    """RFC 6455 section 4.1, point 10: tokens, each of them once."""
    if not lines:
        return []
    names = [name for part in b",".join(lines).split(b",") if (name := part.strip(b" \t"))]
    if not names or not all(TOKEN.fullmatch(name) for name in names):
        raise HandshakeError("malformed sec-websocket-protocol")
    if len(set(names)) != len(names):
        raise HandshakeError("a subprotocol is offered twice")
    return [name.decode("ascii") for name in names]


def _parse_extensions(lines: list[bytes]) -> list[tuple[str, Parameters]]:
    """Offers in order of preference; what breaks the grammar fails the handshake (RFC 6455 section 9.1)."""
    if not lines:
        return []
    text = b",".join(lines).decode("latin-1").strip(" \t,")
    offers: list[tuple[str, Parameters]] = []
    position = 0
    while True:
        extension = _EXTENSION.match(text, position)
        if extension is None:
            raise HandshakeError("malformed sec-websocket-extensions")
        position = extension.end()
        parameters: Parameters = []
        while parameter := _PARAMETER.match(text, position):
            parameters.append((parameter[1], _parameter_value(parameter)))
            position = parameter.end()
        offers.append((extension[0], parameters))
        if position == len(text):
            return offers
        between = _BETWEEN.match(text, position)
        if between is None:
            raise HandshakeError("malformed sec-websocket-extensions")
        position = between.end()


def _parameter_value(parameter: re.Match[str]) -> str | None:
    if parameter[3] is None:
        return parameter[2]
    value = _ESCAPE.sub(r"\1", parameter[3])
    if not _EXTENSION.fullmatch(value):
        raise HandshakeError("malformed sec-websocket-extensions")
    return value
