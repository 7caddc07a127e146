"""One WebSocket session without I/O, on the server's side: bytes to whole messages, and messages to bytes.

There are two ways to read a frame. Whole messages and pings that are complete in the buffer, nearly all there
are, are read here. Every other frame is handed to wsproto, alone and never with a byte of the next one, so that
the next can be read here again; what wsproto is given it also judges, so each rule of RFC 6455 for odd frames is
applied in one place. A property test holds both ways to the same answers.

Nothing here raises for what the peer sent: it becomes `Closed`, and then nothing is read any more.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import TYPE_CHECKING, Final

from wsproto.frame_protocol import CloseReason, Frame, FrameProtocol, Opcode, ParseFailed

from trioserve.protocols.errors import LocalProtocolError
from trioserve.protocols.websocket.deflate import Deflater, Inflater, InflationError, TooLarge
from trioserve.protocols.websocket.events import NEED_DATA, PONG, Closed, Event, Message
from trioserve.protocols.websocket.frame_rules import FrameRules
from trioserve.protocols.websocket.masking import unmask

if TYPE_CHECKING:
    from trioserve.protocols.websocket.events import Deflate, WebSocketLimits

NO_STATUS: Final = 1005

_FIN: Final = 0x80
_DEFLATED: Final = 0x40
_TEXT: Final = 0x81
_BINARY: Final = 0x82
_CLOSE: Final = 0x88
_PING: Final = 0x89
_PONG: Final = 0x8A

# Of these a whole frame may be read without wsproto.
_WHOLE_MESSAGES: Final = frozenset((_TEXT, _BINARY, _TEXT | _DEFLATED, _BINARY | _DEFLATED))
_PING_OR_PONG: Final = frozenset((_PING, _PONG))

# RFC 6455 section 5.5.3: only the latest ping has to be answered. A few are, as some peers count; the rest of a
# storm is not.
_MAX_PONGS: Final = 16

_STEPS_AT_ONCE: Final = 256
"""Frames and parts of frames that are read before the caller gets a chance to do something else."""
_MAX_REASON: Final = 123  # bytes: a control frame holds 125, and the code takes two
_SENDABLE: Final = frozenset((1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)))


def render_frame(first: int, payload: bytes) -> bytes:
    """Render an unmasked frame; `first` is its first byte: FIN, the reserved bits and the opcode."""
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 65536:
        return struct.pack("!BBH", first, 126, size) + payload
    return struct.pack("!BBQ", first, 127, size) + payload


class WebSocketMachine:
    """The state of one session, from the bytes behind the handshake to the closing handshake.

    After `next_event` has given `Closed` it gives the same for ever, and further bytes are dropped. What the
    machine answers by itself waits in `data_to_send`; messages may be sent until the close frame has left it.

    Args:
        limits: what the session may cost.
        deflate: what was agreed on in the handshake.
    """

    def __init__(self, limits: WebSocketLimits, deflate: Deflate | None) -> None:
        # Fixed.
        self._limits: Final = limits
        self._inflater: Final = None if deflate is None else Inflater(deflate)
        self._deflater: Final = None if deflate is None else Deflater(deflate)
        # Reading.
        self._buffer = b""
        self._start = 0
        self._rules: Final = FrameRules(limits, self._inflater)
        self._wsproto: Final = FrameProtocol(client=False, extensions=[self._rules])
        self._header = bytearray()  # the part of a header that wsproto has
        self._frame_left = 0  # bytes of a payload that wsproto has not
        self._end: Closed | None = None
        # Sending.
        self.close_sent = False  # our close frame has been handed out
        self._pongs: Final[deque[bytes]] = deque(maxlen=_MAX_PONGS)
        self._close_frame = b""  # for `data_to_send`, unless one has been sent
        self._pings = 0
        self._ping: bytes | None = None  # the latest, until it is answered

    @property
    def close_received(self) -> bool:
        """Whether the peer's close frame has been read."""
        return self._end is not None and not self._end.failed

    @property
    def unread(self) -> int:
        """How many bytes wait to be looked at."""
        return len(self._buffer) - self._start

    # -- receiving -----------------------------------------------------------------------------------------------

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the peer; ask `next_event` what they mean."""
        if self._end is not None:
            return
        if self._start < len(self._buffer):
            data = self._buffer[self._start :] + data
        self._buffer = data
        self._start = 0

    def next_event(self) -> Event:
        """Return what the peer sent next: `Message`, `PONG`, `Closed`, or `NEED_DATA`. Never raises.

        `NEED_DATA` while there are `unread` bytes: so many frames said nothing that others should get their turn
        before this is asked again.
        """
        if self._end is not None:
            return self._end
        steps = 0
        while self._start < len(self._buffer):
            if steps == _STEPS_AT_ONCE:
                return NEED_DATA
            steps += 1
            event = None
            if not (self._header or self._frame_left):
                event = self._read_whole_frame()
            if event is None:
                event = self._read_through_wsproto()
            if event is not NEED_DATA:
                return event
        return NEED_DATA

    def _read_whole_frame(self) -> Event | None:
        """Read a frame at the beginning of the buffer; None leaves it, and all opinion of it, to wsproto.

        NEED_DATA means that it was read and that there is nothing to tell.
        """
        buffer, start = self._buffer, self._start
        if len(buffer) - start < 6:
            return None
        first, size = buffer[start], buffer[start + 1] - 128
        begin = start + 6
        if size == 126:
            size = buffer[start + 2] << 8 | buffer[start + 3]
            begin = start + 8
            if size < 126:
                return None
        elif not 0 <= size < 126:
            return None
        end = begin + size
        if end > len(buffer):
            return None
        if first in _WHOLE_MESSAGES:
            return self._read_whole_message(first, begin, end)
        if first in _PING_OR_PONG and size < 126:
            self._start = end
            payload = unmask(buffer[begin:end], buffer[begin - 4 : begin])
            return self._receive_control(first, bytes(payload))
        return None

    def _read_whole_message(self, first: int, begin: int, end: int) -> Event | None:
        if self._rules.in_message:
            return None
        limit = self._limits.max_message_size
        if first & _DEFLATED:
            if self._inflater is None or end - begin > limit:
                return None
        elif end - begin > limit:
            return None
        self._start = end
        payload = unmask(self._buffer[begin:end], self._buffer[begin - 4 : begin])
        if first & _DEFLATED:
            assert self._inflater is not None
            try:
                payload = self._inflater.inflate(payload, limit)
                payload += self._inflater.finish(limit - len(payload))
            except TooLarge:
                return self._fail(1009, "message too large")
            except InflationError as error:
                return self._fail(1007, str(error))
        return self._build_message(bool(first & 1), payload)

    def _build_message(self, is_text: bool, payload: bytes | bytearray) -> Event:
        if not is_text:
            return Message(bytes(payload))
        try:
            return Message(payload.decode())
        except UnicodeDecodeError:
            return self._fail(1007, "invalid UTF-8")

    def _read_through_wsproto(self) -> Event:
        """Give wsproto the next bytes of the frame that it is in, and no more."""
        piece = self._take(self._frame_left or _header_left(self._header))
        if self._frame_left:
            self._frame_left -= len(piece)
        else:
            self._header += piece
        self._wsproto.receive_bytes(piece)
        try:
            frames = list(self._wsproto.received_frames())
            if self._header and not _header_left(self._header):
                self._header.clear()
                self._frame_left = self._rules.payload_length
        except ParseFailed as error:
            return self._fail(int(error.code), self._rules.reason or _explain(error))
        return self._read_frame(frames[-1]) if frames else NEED_DATA

    def _take(self, count: int) -> bytes:
        piece = self._buffer[self._start : self._start + count]
        self._start += len(piece)
        return piece

    def _read_frame(self, frame: Frame) -> Event:
        if frame.opcode is Opcode.CLOSE:
            assert isinstance(frame.payload, tuple)
            code, reason = frame.payload
            return self._receive_close(1014 if self._rules.bad_gateway else int(code), reason)
        if frame.opcode.iscontrol():
            assert isinstance(frame.payload, bytes)
            return self._receive_control(_FIN | frame.opcode, frame.payload)
        if not frame.message_finished:
            return NEED_DATA
        return self._build_message(frame.opcode is Opcode.TEXT, self._rules.take_message())

    def _receive_control(self, first: int, payload: bytes) -> Event:
        if first == _PING:
            self._pongs.append(payload)
        elif payload == self._ping:
            self._ping = None
            return PONG
        return NEED_DATA

    def _receive_close(self, code: int, reason: str) -> Closed:
        echo = b"" if code == NO_STATUS else code.to_bytes(2, "big")
        return self._finish(Closed(code, reason), echo)

    def _fail(self, code: int, reason: str) -> Closed:
        end = Closed(code, _cut(reason).decode(), failed=True)
        return self._finish(end, code.to_bytes(2, "big") + end.reason.encode())

    def _finish(self, end: Closed, close_payload: bytes) -> Closed:
        self._close_frame = render_frame(_CLOSE, close_payload)
        self._end = end
        self._buffer, self._start = b"", 0
        self._rules.take_message()
        return end

    # -- sending -------------------------------------------------------------------------------------------------

    def send_message(self, data: str | bytes | bytearray | memoryview) -> bytes:
        """Return a message as bytes for the peer: text as a text frame, anything else as a binary one.

        Raises:
            LocalProtocolError: the close frame has been sent; or the text holds lone surrogates, which no UTF-8
                can carry.
        """
        if self.close_sent:
            raise LocalProtocolError("a message after the close frame")
        first = _TEXT if isinstance(data, str) else _BINARY
        try:
            payload = data.encode() if isinstance(data, str) else bytes(data)
        except UnicodeEncodeError as error:
            raise LocalProtocolError("a text message with a lone surrogate") from error
        if self._deflater is not None:
            deflated = self._deflater.deflate(payload)
            if deflated is not None:
                return render_frame(first | _DEFLATED, deflated)
        return render_frame(first, payload)

    def send_ping(self) -> bytes:
        """Return a ping; `PONG` tells when this one is answered, and no longer of earlier ones.

        Raises:
            LocalProtocolError: the close frame has been sent.
        """
        if self.close_sent:
            raise LocalProtocolError("a ping after the close frame")
        self._pings += 1
        self._ping = struct.pack("!I", self._pings & 0xFFFFFFFF)
        return render_frame(_PING, self._ping)

    def send_close(self, code: int, reason: str) -> bytes:
        """Return our close frame, which begins the closing handshake or completes the peer's.

        Where the peer broke the protocol it is told that, whatever is asked for here; where a close frame has
        been sent already, there is nothing left to send.

        Args:
            code: 1000 to 1003, 1007 to 1014, 3000 to 4999 (RFC 6455 section 7.4), or 1005 for a frame without one.
            reason: cut to 123 bytes of UTF-8, at a character.

        Raises:
            LocalProtocolError: the code is one that must not be sent.
        """
        if code not in _SENDABLE and (code != NO_STATUS or reason):
            raise LocalProtocolError(f"close code {code} must not be sent")
        if self.close_sent:
            return b""
        if self._end is not None and self._end.failed:
            return self.data_to_send()
        payload = b"" if code == NO_STATUS else code.to_bytes(2, "big") + _cut(reason)
        self.close_sent = True
        return render_frame(_CLOSE, payload)

    def data_to_send(self) -> bytes:
        """Return what the machine answers by itself: pongs for the latest pings, then the close frame."""
        if not (self._pongs or self._close_frame) or self.close_sent:
            return b""
        frames = [render_frame(_PONG, payload) for payload in self._pongs]
        self._pongs.clear()
        if self._close_frame:
            frames.append(self._close_frame)
            self._close_frame = b""
            self.close_sent = True
        return b"".join(frames)


def _header_left(header: bytearray) -> int:
    """How many bytes a header lacks (RFC 6455 section 5.2); first of all the two that tell."""
    if len(header) < 2:
        return 2 - len(header)
    extended = {126: 2, 127: 8}.get(header[1] & 0x7F, 0)
    mask = 4 if header[1] & 0x80 else 0
    return 2 + extended + mask - len(header)


def _cut(reason: str) -> bytes:
    encoded = reason.encode(errors="replace")
    if len(encoded) <= _MAX_REASON:
        return encoded
    return encoded[:_MAX_REASON].decode(errors="ignore").encode()


def _explain(error: ParseFailed) -> str:
    return "invalid UTF-8" if error.code == CloseReason.INVALID_FRAME_PAYLOAD_DATA else str(error)
