"""From HTTP/1.1 to HTTP/2 on cleartext: by its first bytes (RFC 9113 section 3.3), or with `Upgrade: h2c`.

A `Switch` recognises HTTP/2 before HTTP/1.1 has read anything, and says with what it has to go on.

The upgrade (RFC 7540 section 3.2; RFC 9113 has retired it) is off by default, and for trusted peers only: a request
that a proxy has judged as HTTP/1.1 must not become a tunnel that it does not look into. It is a function of a request
head; the connection writes the 101.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from trioserve.protocols.errors import RemoteProtocolError
from trioserve.protocols.headers import HOP_BY_HOP, parse_token_list
from trioserve.protocols.http2.events import PREFACE, Http2Request
from trioserve.server.http1_channel import GONE, RECEIVE_SIZE

if TYPE_CHECKING:
    from trioserve.protocols.http1 import Http1Machine, RequestHead
    from trioserve.protocols.http2.limits import Http2Limits
    from trioserve.protocols.http2.machine import Http2Machine
    from trioserve.server.transport import Transport

SWITCHING_FIELDS: Final = [(b"connection", b"Upgrade"), (b"upgrade", b"h2c")]
_SETTINGS: Final = b"http2-settings"
_HTTP2_LINE: Final = PREFACE[: PREFACE.index(b"\r\n") + 2]
_NOT_HTTP: Final = re.compile(rb"\x00|[^ /*\r\n]+ [^ /*\r\n]+ [^ /\r\n]+\r\n")
"""What is neither HTTP/1.1 nor HTTP/2, and may be a broken attempt at the latter: nobody would read an answer."""


def build_http2_machine(limits: Http2Limits) -> Http2Machine:
    """Build a machine; what it stands on is imported with the first one, since many servers never need it."""
    from trioserve.protocols.http2.machine import Http2Machine

    return Http2Machine(limits)


class Switch:
    """How a connection comes from HTTP/1.1 to HTTP/2.

    Args:
        limits: of the connection to come.

    Attributes:
        machine: it does, with this one, which knows of the request that asked for it, if one did.
        received: the bytes that HTTP/2 has to begin with.
    """

    __slots__ = ("_limits", "machine", "received")

    def __init__(self, limits: Http2Limits) -> None:
        self._limits = limits
        self.machine: Http2Machine | None = None
        self.received = b""

    async def begins_otherwise(self, transport: Transport, http1: Http1Machine) -> bool:
        """Read the client's first bytes; whether they are not HTTP/1.1, or the client has gone.

        Args:
            transport: nothing was read from it; cancelling loses what has come.
            http1: gets the bytes where they are not HTTP/2.
        """
        data = b""
        try:
            while True:
                more = await transport.receive_some(RECEIVE_SIZE)
                data += more
                if not more or len(data) >= len(_HTTP2_LINE) or not _HTTP2_LINE.startswith(data):
                    break
        except GONE:
            return True
        if data.startswith(_HTTP2_LINE):
            self.machine, self.received = build_http2_machine(self._limits), data
            return True
        http1.receive_data(data)
        if not more and data:
            http1.receive_data(b"")
        return _NOT_HTTP.match(data) is not None


def change_to_http2(head: RequestHead, limits: Http2Limits) -> Http2Machine | None:
    """Let a request be the first of an HTTP/2 connection; None when it does not ask for that, or not rightly.

    Args:
        head: of a trusted peer. One with a body goes on as HTTP/1.1: its body would have to be read first.
        limits: of the connection to come.

    Raises:
        RemoteProtocolError: HTTP2-Settings is malformed, or given more than once.
    """
    if head.upgrade is None or b"h2c" not in parse_token_list(head.upgrade) or head.has_body:
        return None
    settings = [value for name, value in head.headers if name == _SETTINGS]
    connection = b",".join(value for name, value in head.headers if name == b"connection")
    if not settings or _SETTINGS not in parse_token_list(connection):
        return None
    if len(settings) > 1:
        raise RemoteProtocolError("http2-settings repeated")
    dropped = {*HOP_BY_HOP, *parse_token_list(connection), _SETTINGS}
    request = Http2Request(
        stream_id=1,
        method=head.method,
        target=head.target,
        headers=[field for field in head.headers if field[0] not in dropped],
        scheme="http",
        host=head.host,
        forwarded=head.forwarded,
    )
    machine = build_http2_machine(limits)
    machine.upgrade(settings[0], request)
    return machine
