"""The settings of HTTP/2: what is spoken where, and what one connection may cost.

The numbers are enforced by the machine of `protocols/http2`, which knows nothing of settings. The bounds are
those of the wire (RFC 9113 section 6.5.2) wherever a value is announced to the peer.
"""

from __future__ import annotations

from typing import Annotated

from .fields import Settings, count, rate, size, switch
from .units import EventRate

_KIB = 1024
_MIB = 1024 * 1024
_LARGEST_WINDOW = 2**31 - 1
# Windows begin at this size on every connection, and a smaller one would cut what the peer was already allowed.
_SMALLEST_WINDOW = 65535
_SMALLEST_FRAME, _LARGEST_FRAME = 2**14, 2**24 - 1


class Http2Settings(Settings, frozen=True, kw_only=True):
    """Where HTTP/2 is spoken, and what one of its connections may cost."""

    TABLE = "http2"

    enabled: Annotated[bool, switch("Speak HTTP/2; when off, HTTP/1.1 is all there is.")] = True
    h2c: Annotated[
        bool, switch("Without TLS, take HTTP/2 from clients that begin with it (prior knowledge).")
    ] = True
    h2c_upgrade: Annotated[
        bool,
        switch("Without TLS, let peers of `[proxy] trusted` change from HTTP/1.1 with `Upgrade: h2c`."),
    ] = False
    max_concurrent_streams: Annotated[
        int,
        count(
            "Requests that one connection may have open at a time; more are refused, to be tried again.",
            least=1,
            most=2**31 - 1,
        ),
    ] = 100
    max_head_size: Annotated[
        int,
        size(
            "Largest request head, counting 32 more for each field; a larger one gets 431.",
            least=_KIB,
            most=2**31 - 1,
        ),
    ] = 64 * _KIB
    max_fields: Annotated[int, count("Most fields in a head or in trailers; more get 431.", least=1)] = 100
    window: Annotated[
        int,
        size(
            "Bytes of one request body that may wait for the application; the client sends no more.",
            least=_SMALLEST_WINDOW,
            most=_LARGEST_WINDOW,
        ),
    ] = _MIB
    connection_window: Annotated[
        int,
        size(
            "Flow-control window of one connection; request bodies that wait for applications may reach five of it.",
            least=_SMALLEST_WINDOW,
            most=_LARGEST_WINDOW,
        ),
    ] = _MIB
    max_frame_size: Annotated[
        int, size("Largest frame that a client may send.", least=_SMALLEST_FRAME, most=_LARGEST_FRAME)
    ] = _SMALLEST_FRAME
    reset_budget: Annotated[
        EventRate,
        rate("Requests that may be reset, by either side; more end the connection."),
    ] = EventRate(200, 10.0)
    control_budget: Annotated[
        EventRate,
        rate("Frames that carry no request and no content; more end the connection."),
    ] = EventRate(1000, 10.0)
