"""What an HTTP/1.1 machine reports: a head, pieces of a body, and three signals without content.

Events are plain data; they are built by the machine and belong to whoever took them.
"""

from __future__ import annotations

import enum
from typing import Final

import msgspec

Headers = list[tuple[bytes, bytes]]


class RequestHead(msgspec.Struct, gc=False):
    """A request head that the policy accepts.

    `headers` have lower-case names and stripped values, in the order of the wire. `target` is in origin-form,
    or `*`: an absolute-form target has been split into it and `host`, and the Host field says the same (RFC
    9112 section 3.2.2).

    Args:
        method: any token, as it came (methods are case-sensitive).
        target: path and query, undecoded.
        headers: all fields, framing fields included.
        http_version: "1.1" or "1.0".
        has_body: at least one body event follows.
        content_length: bytes of the body; 0 without one; None when chunked.
        chunked: the body comes in chunks.
        expects_continue: the client asked for 100 Continue (never on HTTP/1.0).
        keep_alive: what version and Connection say together.
        upgrade: the Upgrade value, only when Connection lists it on HTTP/1.1.
        host: the authority asked for; empty when absent on HTTP/1.0.
        forwarded: some field tells of a proxy; see `protocols/headers.py`.
    """

    method: str
    target: bytes
    headers: Headers
    http_version: str
    has_body: bool = False
    content_length: int | None = 0
    chunked: bool = False
    expects_continue: bool = False
    keep_alive: bool = True
    upgrade: bytes | None = None
    host: bytes = b""
    forwarded: bool = False


class BodyChunk(msgspec.Struct, gc=False):
    """Content of the request.

    Args:
        data: decoded bytes; may be empty only when `last`.
        last: the message ends here.
        trailers: the trailer section, on the last chunk only; names in lower case, forbidden ones left out.
    """

    data: bytes
    last: bool
    trailers: Headers


class Signal(enum.Enum):
    """Events without content."""

    NEED_DATA = enum.auto()  # receive more bytes, then ask again
    PAUSED = enum.auto()  # the request is complete; start_next_cycle() goes on
    CLOSED = enum.auto()  # the peer ended its side between requests


NEED_DATA: Final = Signal.NEED_DATA
PAUSED: Final = Signal.PAUSED
CLOSED: Final = Signal.CLOSED

Event = RequestHead | BodyChunk | Signal
