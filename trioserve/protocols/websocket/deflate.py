"""permessage-deflate (RFC 7692): which offer is agreed to, and inflating and deflating with a bound.

Inflating never makes more bytes than were allowed, whatever came: the bound is given to zlib, not looked at
afterwards. Windows are forgotten after each message unless the agreement says otherwise, and neither side
of a session holds one while it is idle. Fields are parsed in `handshake`, frames are read in `frame_rules`.
"""

from __future__ import annotations

import re
import zlib
from typing import Final

from trioserve.protocols.websocket.events import Deflate

EXTENSION: Final = "permessage-deflate"

# A smaller message travels in one packet either way, and compressing it takes longer than all else we do to it.
MIN_DEFLATED_SIZE: Final = 256

# Ends the last block of every message and is left out on the wire (RFC 7692 section 7.2.1).
_TAIL: Final = b"\x00\x00\xff\xff"

# Measured on JSON of 256 bytes to 100 kB: half the time of zlib's default level and 2 % more bytes; the small
# window and hash take 32 KiB for the time of a message, not 256, and zlib clears them faster.
_LEVEL: Final = 3
_WINDOW_BITS: Final = 12
_MEMORY_LEVEL: Final = 5

# RFC 7692 section 7.2.3.4 lets a message consist of finished deflate streams. Each costs a new inflater.
_MAX_STREAMS: Final = 16

_WINDOW: Final = re.compile("[89]|1[0-5]")

Parameters = list[tuple[str, str | None]]


def agree_to_offer(parameters: Parameters) -> Deflate | None:
    """Return what we agree on for one offer, or None to decline it (RFC 7692 section 7.1).

    Both sides forget their window after each message: the server may demand that unasked (sections 7.1.1.1 and
    7.1.1.2). A window of 8 bits is declined for us, since zlib cannot deflate into it; for the client it is no
    more than a promise, and is not answered, so that the client need not deflate into it either.
    """
    seen = dict(parameters)
    if len(seen) != len(parameters):
        return None
    server_bits = client_bits = 15
    for name, value in parameters:
        if name in {"server_no_context_takeover", "client_no_context_takeover"}:
            if value is not None:
                return None
        elif name == "server_max_window_bits":
            if value is None or not _WINDOW.fullmatch(value) or value == "8":
                return None
            server_bits = int(value)
        elif name == "client_max_window_bits":
            if value is not None and not _WINDOW.fullmatch(value):
                return None
            client_bits = int(value) if value not in {None, "8"} else 15
        else:
            return None
    return Deflate(server_window_bits=server_bits, client_window_bits=client_bits)


def render_agreement(deflate: Deflate) -> bytes:
    """The element of `Sec-WebSocket-Extensions` that tells the client what was agreed on."""
    words = [EXTENSION]
    if deflate.server_no_takeover:
        words.append("server_no_context_takeover")
    if deflate.client_no_takeover:
        words.append("client_no_context_takeover")
    if deflate.server_window_bits < 15:
        words.append(f"server_max_window_bits={deflate.server_window_bits}")
    if deflate.client_window_bits < 15:
        words.append(f"client_max_window_bits={deflate.client_window_bits}")
    return "; ".join(words).encode("ascii")


class InflationError(Exception):
    """The peer's bytes are no deflate stream."""


class TooLarge(Exception):
    """There is more in the peer's bytes than there is room for."""


class Inflater:
    """Inflates what the peer has deflated, message by message."""

    def __init__(self, deflate: Deflate) -> None:
        self._window_bits: Final = deflate.client_window_bits
        self._keeps: Final = not deflate.client_no_takeover
        self._stream: zlib._Decompress | None = None
        self._streams = 0

    def inflate(self, data: bytes | bytearray, room: int) -> bytes:
        """Return what a piece of a message holds.

        Args:
            data: the next bytes of the message.
            room: how many bytes may come out of them. zlib makes one more at most.

        Raises:
            TooLarge: there is more in them.
            InflationError: they are no deflate stream.
        """
        stream = self._stream
        if stream is None or stream.eof:
            stream = self._next_stream()
        try:
            inflated = stream.decompress(data, room + 1)
            while stream.eof and (data := stream.unused_data) and len(inflated) <= room:
                stream = self._next_stream()
                inflated += stream.decompress(data, room + 1 - len(inflated))
        except zlib.error as error:
            raise InflationError("malformed deflate data") from error
        if len(inflated) > room:
            raise TooLarge
        return inflated

    def finish(self, room: int) -> bytes:
        """Return what the end of the message brings to light; raises as `inflate`."""
        inflated = self.inflate(_TAIL, room)
        self._streams = 0
        if not self._keeps or self._stream is None or self._stream.eof:
            self._stream = None
        return inflated

    def _next_stream(self) -> zlib._Decompress:
        self._streams += 1
        if self._streams > _MAX_STREAMS:
            raise InflationError("too many deflate streams in a message")
        # Wider than agreed is no harm, and some deflaters say 8 bits and take 9.
        self._stream = zlib.decompressobj(-max(self._window_bits, 9))
        return self._stream


class Deflater:
    """Deflates our messages, each as a whole."""

    def __init__(self, deflate: Deflate) -> None:
        self._window_bits: Final = min(deflate.server_window_bits, _WINDOW_BITS)
        self._keeps: Final = not deflate.server_no_takeover
        self._stream: zlib._Compress | None = None

    def deflate(self, data: bytes) -> bytes | None:
        """Return a message deflated, or None when it is better sent as it is."""
        if len(data) < MIN_DEFLATED_SIZE:
            return None
        stream = self._stream or zlib.compressobj(_LEVEL, zlib.DEFLATED, -self._window_bits, _MEMORY_LEVEL)
        deflated = (stream.compress(data) + stream.flush(zlib.Z_SYNC_FLUSH))[: -len(_TAIL)]
        if self._keeps:  # then the peer's window has to see all that ours has seen
            self._stream = stream
            return deflated
        return deflated if len(deflated) < len(data) else None
