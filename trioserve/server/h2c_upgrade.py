"""From HTTP/1.1 to HTTP/2 on cleartext with `Upgrade: h2c` (RFC 7540 section 3.2; RFC 9113 has retired it).

Off by default, and for trusted peers only: a request that a proxy has judged as HTTP/1.1 must not become a tunnel
that it does not look into. A function of a request head; the connection writes the 101 and hands itself over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trioserve.protocols.errors import RemoteProtocolError
from trioserve.protocols.headers import HOP_BY_HOP, parse_token_list
from trioserve.protocols.http2.events import Http2Request
from trioserve.protocols.http2.machine import Http2Machine

if TYPE_CHECKING:
    from trioserve.protocols.http1 import RequestHead
    from trioserve.protocols.http2.limits import Http2Limits

SWITCHING_FIELDS: Final = [(b"connection", b"Upgrade"), (b"upgrade", b"h2c")]
_SETTINGS: Final = b"http2-settings"


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
    machine = Http2Machine(limits)
    machine.upgrade(settings[0], request)
    return machine
