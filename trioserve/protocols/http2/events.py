"""What an HTTP/2 machine reports: requests, pieces of their bodies, and streams that ended early.

Events are plain data; they are built by the machine and belong to whoever took them. Every one names its stream.
Not here: what a request costs (`limits.py`) and what makes one acceptable (`request_policy.py`).
"""

from __future__ import annotations

import enum
from typing import Final

import msgspec

Headers = list[tuple[bytes, bytes]]

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client begins with (RFC 9113 section 3.4)."""


class Http2Request(msgspec.Struct, gc=False):
    """A request head that RFC 9113 section 8.3 and our policy accept.

    `headers` have lower-case names and stripped values, in the order of the wire, without pseudo-header fields;
    `host` is their first field, made from `:authority` where the client sent that, and the lines of `cookie`
    are joined into one.

    Args:
        stream_id: the stream it opened.
        method: any token, as it came (methods are case-sensitive).
        target: `:path`, path and query, undecoded.
        headers: all regular fields.
        scheme: `:scheme`, in lower case.
        host: the authority asked for; empty when there is none.
        has_body: at least one body event follows.
        content_length: bytes of the body; 0 without one; None when it is not announced.
        expects_continue: the client asked for 100 Continue.
        forwarded: some field tells of a proxy; see `protocols/headers.py`.
        protocol: `:protocol` of an extended CONNECT (RFC 8441), else None.
    """

    stream_id: int
    method: str
    target: bytes
    headers: Headers
    scheme: str = "https"
    host: bytes = b""
    has_body: bool = False
    content_length: int | None = 0
    expects_continue: bool = False
    forwarded: bool = False
    protocol: bytes | None = None
    http_version: str = "2"


class RefusedRequest(msgspec.Struct, gc=False):
    """A request that is well-formed HTTP/2 and that our policy does not accept: answer it, with no application.

    Args:
        stream_id: the stream it opened.
        status: what to answer, such as 431.
        reason: one sentence for the body of the answer; it never quotes the peer's bytes.
    """

    stream_id: int
    status: int
    reason: str


class BodyChunk(msgspec.Struct, gc=False):
    """Content of a request.

    Args:
        stream_id: the stream it came on.
        data: bytes of the body; may be empty only when `last`.
        last: the request ends here.
        trailers: the trailer section, on the last chunk only; names in lower case, forbidden ones left out.
    """

    stream_id: int
    data: bytes
    last: bool
    trailers: Headers


class StreamClosed(msgspec.Struct, gc=False):
    """A stream that was reset, by the peer or by the machine for the peer's mistake; nothing more comes or goes.

    Args:
        stream_id: the stream.
        code: the error code of RST_STREAM (RFC 9113 section 7).
        by_peer: the peer reset it; otherwise the machine did.
        unsent: bytes of the response that were taken from the application and never left.
    """

    stream_id: int
    code: int
    by_peer: bool
    unsent: int = 0


class Signal(enum.Enum):
    """Events without content."""

    NEED_DATA = enum.auto()  # receive more bytes, then ask again
    PONG = enum.auto()  # the peer has answered our PING


NEED_DATA: Final = Signal.NEED_DATA
PONG: Final = Signal.PONG

Event = Http2Request | RefusedRequest | BodyChunk | StreamClosed | Signal
