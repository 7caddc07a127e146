"""What wsproto's frame parser shall know of us: limits, compression, the order of frames, the bytes of a message.

wsproto asks its extensions at each header, at each piece of a payload and at the end of each frame; `FrameRules`
is such an extension. It refuses at the header whatever can be known there, so that nothing is held which will be
refused later. wsproto itself judges opcodes, masks, lengths, control frames, UTF-8 and close frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, Opcode, RsvBits

from trioserve.protocols.websocket.deflate import InflationError, TooLarge

if TYPE_CHECKING:
    from wsproto.frame_protocol import FrameDecoder, FrameProtocol

    from trioserve.protocols.websocket.deflate import Inflater
    from trioserve.protocols.websocket.events import WebSocketLimits

_NO_BITS: Final = RsvBits(False, False, False)
_DEFLATED: Final = RsvBits(True, False, False)
_SLACK: Final = 1024
SMALL_FRAGMENT: Final = 64
"""Frames of so many bytes carry their own weight: the size of the message bounds their number."""
_TRY_AGAIN_LATER: Final = (1013).to_bytes(2, "big")
_BAD_GATEWAY: Final = (1014).to_bytes(2, "big")

# ruff: noqa: ARG002 - which arguments there are is wsproto's choice


class FrameRules(Extension):
    """The rules for one session's frames, and the message they build.

    Args:
        limits: of a message.
        inflater: where compression was agreed on.
    """

    name = "trioserve"

    def __init__(self, limits: WebSocketLimits, inflater: Inflater | None) -> None:
        self._limits: Final = limits
        self._inflater: Final = inflater
        self.reason = ""  # why a frame was refused, where wsproto does not know
        self.payload_length = 0  # of the frame whose header was read last
        self.bad_gateway = False  # a close frame with 1014, which wsproto takes for unknown: it is shown 1013
        self.message = bytearray()
        self.in_message = False  # a frame of an unfinished message is complete
        # Of the frame that is read. A header is shown anew when it comes in pieces, so these are only set, and
        # count when the frame is complete.
        self._opcode = Opcode.BINARY
        self._deflated = False
        # Of the message so far.
        self._is_text = False
        self._small_fragments = 0
        self._wire_size = 0

    def enabled(self) -> bool:
        """Tell wsproto that these rules hold."""
        return True

    def offer(self) -> bool:
        """Tell wsproto that a client would have nothing to offer."""
        return False

    def frame_inbound_header(
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        """Judge a header: the order of frames, and what the message would become."""
        self.payload_length = payload_length
        self._opcode = opcode
        if opcode.iscontrol():
            return _NO_BITS
        begins = opcode is not Opcode.CONTINUATION
        if begins:
            self._is_text = opcode is Opcode.TEXT
        if begins is self.in_message:
            self.reason = "a message inside of another" if begins else "a continuation of nothing"
            return CloseReason.PROTOCOL_ERROR
        deflated = rsv.rsv1 and self._inflater is not None if begins else self._deflated
        if not self._has_room(payload_length, deflated):
            return CloseReason.MESSAGE_TOO_BIG
        self._deflated = deflated
        return _DEFLATED if begins and self._inflater is not None else _NO_BITS

    def _has_room(self, payload_length: int, deflated: bool) -> bool:
        limit = self._limits.max_message_size
        # No deflater makes a message twice as long; without a bound one could go on for ever with empty blocks.
        if self._wire_size + payload_length > (2 * limit + _SLACK if deflated else limit):
            self.reason = "message too large"
            return False
        if payload_length < SMALL_FRAGMENT and self._small_fragments >= self._limits.max_fragments:
            self.reason = "message in too many fragments"
            return False
        return True

    def frame_inbound_payload_data(
        self, proto: FrameDecoder | FrameProtocol, data: bytes
    ) -> bytes | CloseReason:
        """Take a piece of a payload, inflated as far as there is room."""
        if self._opcode.iscontrol():
            return self._replace_code(data) if self._opcode is Opcode.CLOSE else data
        if self._deflated:
            assert self._inflater is not None
            try:
                data = self._inflater.inflate(data, self._room())
            except (TooLarge, InflationError) as error:
                return self._refuse(error)
        self.message += data
        if self._is_text and self.message[-2:-1] == b"\xed" and self.message[-1] >= 0xA0:
            # Half a surrogate: a decoder that could be told to let it pass, as Python's, waits for the other half.
            self.reason = "invalid UTF-8"
            return CloseReason.INVALID_FRAME_PAYLOAD_DATA
        return data

    def frame_inbound_complete(
        self, proto: FrameDecoder | FrameProtocol, fin: bool
    ) -> bytes | CloseReason | None:
        """Count a complete frame; at the end of a message, inflate what is left."""
        if self._opcode.iscontrol():
            return None
        self._small_fragments += self.payload_length < SMALL_FRAGMENT
        self._wire_size += self.payload_length
        self.in_message = not fin
        if not fin or not self._deflated:
            return None
        assert self._inflater is not None
        try:
            data = self._inflater.finish(self._room())
        except (TooLarge, InflationError) as error:
            return self._refuse(error)
        self.message += data
        return data

    def _replace_code(self, data: bytes) -> bytes:
        # Control frames come here in one piece.
        self.bad_gateway = data.startswith(_BAD_GATEWAY)
        return _TRY_AGAIN_LATER + data[2:] if self.bad_gateway else data

    def take_message(self) -> bytearray:
        """Return the bytes of the message that is complete, and begin the next."""
        message, self.message = self.message, bytearray()
        self._small_fragments = self._wire_size = 0
        return message

    def _room(self) -> int:
        return self._limits.max_message_size - len(self.message)

    def _refuse(self, error: Exception) -> CloseReason:
        if isinstance(error, TooLarge):
            self.reason = "message too large"
            return CloseReason.MESSAGE_TOO_BIG
        self.reason = str(error)
        return CloseReason.INVALID_FRAME_PAYLOAD_DATA
