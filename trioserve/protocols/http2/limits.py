"""What one HTTP/2 connection may cost, and how fast it may spend.

Plain numbers that the machine enforces; the settings of `[http2]` say where they come from.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """So many events in so many seconds."""

    count: int
    seconds: float


RESETS = Rate(200, 10.0)
CONTROL_FRAMES = Rate(1000, 10.0)


@dataclass(frozen=True, slots=True)
class Http2Limits:
    """The limits of one connection.

    Args:
        max_concurrent_streams: streams that may be open, and applications that may run, at a time.
        max_head_size: bytes of a head as RFC 9113 section 6.5.2 counts them (32 more for each field); also the
            bytes of a field block on the wire.
        max_fields: fields of a head, once the crumbs of `cookie` are joined.
        window: bytes of one request body that are held until the application takes them.
        connection_window: the flow-control window of the connection.
        max_frame_size: bytes of the largest frame that is accepted, 16384 to 16777215.
        send_buffer: bytes of one response that are held before the application has to wait.
        resets: streams that may be reset, by either side.
        control_frames: frames that carry no request and no content.
        extended_connect: whether RFC 8441 is offered.
    """

    max_concurrent_streams: int = 100
    max_head_size: int = 65536
    max_fields: int = 100
    window: int = 1 << 20
    connection_window: int = 1 << 20
    max_frame_size: int = 16384
    send_buffer: int = 65536
    resets: Rate = RESETS
    control_frames: Rate = CONTROL_FRAMES
    extended_connect: bool = False
