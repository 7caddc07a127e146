"""Where HTTP/2 frames are cut from the byte stream and judged by their outer form (RFC 9113 sections 3.4, 4 and 6).

What passes is a whole frame with a legal length on a legal stream, in a legal place between field blocks. The
gate holds at most one incomplete frame, and counts the bytes of a field block before anybody decodes it. Not here:
the state of streams, flow control, and what is inside a field block (`machine.py`).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from trioserve.protocols.http2.events import PREFACE

HEADER_SIZE: Final = 9

DATA: Final = DataFrame.type
HEADERS: Final = HeadersFrame.type
PRIORITY: Final = PriorityFrame.type
RST_STREAM: Final = RstStreamFrame.type
SETTINGS: Final = SettingsFrame.type
PUSH_PROMISE: Final = PushPromiseFrame.type
PING: Final = PingFrame.type
GOAWAY: Final = GoAwayFrame.type
WINDOW_UPDATE: Final = WindowUpdateFrame.type
CONTINUATION: Final = ContinuationFrame.type
PRIORITY_UPDATE: Final = 0x10  # RFC 9218 section 7.1

ACK: Final = 0x1
END_STREAM: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
HAS_PRIORITY: Final = 0x20

NO_ERROR: Final = 0x0
PROTOCOL_ERROR: Final = 0x1
INTERNAL_ERROR: Final = 0x2
FLOW_CONTROL_ERROR: Final = 0x3
STREAM_CLOSED: Final = 0x5
FRAME_SIZE_ERROR: Final = 0x6
REFUSED_STREAM: Final = 0x7
CANCEL: Final = 0x8
COMPRESSION_ERROR: Final = 0x9
ENHANCE_YOUR_CALM: Final = 0xB

MAX_BLOCK_FRAMES: Final = 32
"""Frames that one field block may be cut into; the limit of its bytes is lower for all but tiny frames."""

_ON_STREAMS: Final = frozenset((DATA, HEADERS, PRIORITY, RST_STREAM, CONTINUATION))
_ON_CONNECTION: Final = frozenset((SETTINGS, PING, GOAWAY, PRIORITY_UPDATE))
_FIXED_SIZES: Final = {RST_STREAM: 4, PING: 8, WINDOW_UPDATE: 4}


class ConnectionFault(Exception):
    """The peer broke a rule whose breach ends the connection (RFC 9113 section 5.4.1).

    Args:
        code: the error code for GOAWAY.
        reason: one sentence for the log and for GOAWAY's debug data; it never quotes the peer's bytes.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class RawFrame(NamedTuple):
    """A whole frame: the parts of its header, and all its bytes with the header."""

    kind: int
    flags: int
    stream_id: int
    raw: bytes


class FrameGate:
    """Cuts frames from what the client sends.

    Args:
        max_frame_size: bytes of the largest payload that is accepted.
        max_block_size: bytes of one field block, all its frames together.

    Attributes:
        begun: the connection preface is complete.
    """

    __slots__ = (
        *("_block_frames", "_block_size", "_block_stream", "_buffer", "_max_block_size", "_max_frame_size"),
        *("_position", "_settled", "begun"),
    )

    def __init__(self, max_frame_size: int, max_block_size: int) -> None:
        self._max_frame_size = max_frame_size
        self._max_block_size = max_block_size
        self._buffer: bytes | bytearray = b""  # a bytearray only while something has to be added to
        self._position = 0
        self._block_stream = 0  # the stream whose field block is not complete; 0 for none
        self._block_size = 0
        self._block_frames = 0
        self._settled = False  # the first SETTINGS has come
        self.begun = False

    def receive_data(self, data: bytes) -> None:
        """Add bytes from the peer."""
        buffer = self._buffer
        if self._position == len(buffer):
            self._buffer = data
        elif type(buffer) is bytearray:
            del buffer[: self._position]
            buffer += data
        else:
            self._buffer = bytearray(memoryview(buffer)[self._position :])
            self._buffer += data
        self._position = 0

    def drop(self) -> None:
        """Forget what was added and not looked at."""
        self._buffer = b""
        self._position = 0

    @property
    def in_progress(self) -> bool:
        """A preface, frame or field block has begun and is not complete."""
        return self._position < len(self._buffer) or self._block_stream != 0

    @property
    def block_in_progress(self) -> bool:
        """A field block has begun and is not complete."""
        return self._block_stream != 0

    def next_frame(self) -> RawFrame | None:
        """Return the next whole frame; None when more bytes are needed.

        Raises:
            ConnectionFault: preface or frame are malformed; nothing behind them may be looked at.
        """
        if not self.begun and not self._read_preface():
            return None
        buffer, start = self._buffer, self._position
        if len(buffer) - start < HEADER_SIZE:
            return None
        size = int.from_bytes(buffer[start : start + 3], "big")
        kind = buffer[start + 3]
        flags = buffer[start + 4]
        stream_id = int.from_bytes(buffer[start + 5 : start + HEADER_SIZE], "big") & 0x7FFFFFFF
        if size > self._max_frame_size:
            raise ConnectionFault(FRAME_SIZE_ERROR, "a frame is too large")
        end = start + HEADER_SIZE + size
        if self._block_stream or kind in (HEADERS, CONTINUATION):
            self._check_block(kind, stream_id, size)  # before its bytes are waited for
        if end > len(buffer):
            return None
        self._check_form(kind, flags, stream_id, size)
        raw = buffer[start:end] if type(buffer) is bytes else bytes(memoryview(buffer)[start:end])
        if kind in (HEADERS, DATA):
            _check_padding(kind, flags, raw)
        if kind in (HEADERS, CONTINUATION):
            self._follow_block(flags, stream_id, size)
        self._position = end
        return RawFrame(kind, flags, stream_id, raw)

    def _read_preface(self) -> bool:
        """RFC 9113 section 3.4; what cannot become the preface is refused at its first wrong byte."""
        seen = bytes(self._buffer[: len(PREFACE)])
        if not PREFACE.startswith(seen):
            raise ConnectionFault(PROTOCOL_ERROR, "the connection preface is malformed")
        self.begun = len(seen) == len(PREFACE)
        if self.begun:
            self._position = len(PREFACE)
        return self.begun

    def _check_block(self, kind: int, stream_id: int, size: int) -> None:
        """RFC 9113 section 4.3: the frames of one field block follow each other, and nothing comes between."""
        if self._block_stream:
            if kind != CONTINUATION or stream_id != self._block_stream:
                raise ConnectionFault(PROTOCOL_ERROR, "a field block was interrupted")
        elif kind == CONTINUATION:
            raise ConnectionFault(PROTOCOL_ERROR, "CONTINUATION without a field block")
        if self._block_size + size > self._max_block_size or self._block_frames >= MAX_BLOCK_FRAMES:
            raise ConnectionFault(ENHANCE_YOUR_CALM, "a field block is too large")

    def _follow_block(self, flags: int, stream_id: int, size: int) -> None:
        if flags & END_HEADERS:
            self._block_stream = self._block_size = self._block_frames = 0
        else:
            self._block_stream = stream_id
            self._block_size += size
            self._block_frames += 1

    def _check_form(self, kind: int, flags: int, stream_id: int, size: int) -> None:
        """Check what RFC 9113 section 6 says of each frame's stream and length, connection errors only."""
        if not self._settled:
            if kind != SETTINGS or flags & ACK:
                raise ConnectionFault(PROTOCOL_ERROR, "the preface lacks SETTINGS")
            self._settled = True
        if stream_id == 0:
            if kind in _ON_STREAMS:
                raise ConnectionFault(PROTOCOL_ERROR, "a frame that belongs to a stream came without one")
        elif kind in _ON_CONNECTION:
            raise ConnectionFault(PROTOCOL_ERROR, "a frame that belongs to the connection came on a stream")
        if kind == PUSH_PROMISE:
            raise ConnectionFault(PROTOCOL_ERROR, "a client cannot push")
        wrong = size != _FIXED_SIZES.get(kind, size)
        if kind == SETTINGS:
            wrong = size > 0 if flags & ACK else size % 6 != 0
        elif kind == GOAWAY:
            wrong = size < 8
        elif kind == PRIORITY_UPDATE:
            wrong = size < 4
        if wrong:
            raise ConnectionFault(FRAME_SIZE_ERROR, "a frame has the wrong length")


def _check_padding(kind: int, flags: int, raw: bytes) -> None:
    """RFC 9113 sections 6.1 and 6.2: what a flag announces has to be there, and padding leaves room for it."""
    size = len(raw) - HEADER_SIZE
    needed = 5 if kind == HEADERS and flags & HAS_PRIORITY else 0
    if flags & PADDED:
        needed += 1
    if size < needed:
        raise ConnectionFault(FRAME_SIZE_ERROR, "a frame is shorter than its flags say")
    if flags & PADDED and raw[HEADER_SIZE] > size - needed:
        raise ConnectionFault(PROTOCOL_ERROR, "a frame has more padding than room")
