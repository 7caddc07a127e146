"""HEADERS and the CONTINUATION frames behind it become one field block (RFC 9113 sections 4.3, 6.2 and 6.10).

The frame gate has seen to it that they follow each other, and that padding and length are right. Not here: what the
block says once it is decoded (`field_codec.py`), and what that means (`request_policy.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trioserve.protocols.http2 import frame_gate as wire
from trioserve.protocols.http2.priorities import Dependency, parse_dependency

if TYPE_CHECKING:
    from trioserve.protocols.http2.frame_gate import RawFrame


class FieldBlock:
    """The field block that the peer sent last, or sends now.

    Attributes:
        ends_stream: HEADERS says that nothing follows.
        dependency: what HEADERS says of the stream's priority, if anything.
        depends_on_itself: HEADERS says that of its stream, which RFC 7540 section 5.3.1 forbids.
    """

    __slots__ = ("_pieces", "dependency", "depends_on_itself", "ends_stream")

    def __init__(self) -> None:
        self._pieces = bytearray()
        self.ends_stream = False
        self.dependency: Dependency | None = None
        self.depends_on_itself = False

    def begin(self, frame: RawFrame) -> bytes | None:
        """Take a HEADERS frame; return the block, if it is whole."""
        _, flags, stream_id, raw = frame
        start, end = wire.HEADER_SIZE, len(raw)
        if flags & wire.PADDED:
            end -= raw[start]
            start += 1
        self.dependency = None
        self.depends_on_itself = False
        if flags & wire.HAS_PRIORITY:
            self.dependency = parse_dependency(raw[start : start + 5])
            self.depends_on_itself = self.dependency.parent == stream_id
            start += 5
        self.ends_stream = flags & wire.END_STREAM != 0
        if flags & wire.END_HEADERS:
            return raw[start:end]
        self._pieces = bytearray(raw[start:end])
        return None

    def extend(self, frame: RawFrame) -> bytes | None:
        """Take a CONTINUATION frame; return the block, if it is whole."""
        self._pieces += frame.raw[wire.HEADER_SIZE :]
        if not frame.flags & wire.END_HEADERS:
            return None
        block, self._pieces = bytes(self._pieces), bytearray()
        return block

    def drop(self) -> None:
        """Forget the frames of a block that is not whole."""
        self._pieces = bytearray()
