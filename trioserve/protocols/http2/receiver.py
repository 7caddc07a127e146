"""The receiving half of the HTTP/2 machine: frames in, events out, and the right error for every mistake.

h2 keeps the states of streams and windows, but answers many mistakes on one stream by ending the connection. So each
frame comes by here first, alone: what RFC 9113 lets us treat as an error of one stream is, and what h2 would not
notice is found. Budgets bound what a peer can make us do for nothing. Not here: sending (`machine.py`, `outgoing.py`),
the form of frames (`frame_gate.py`), what is in a head (`request_policy.py`).

Invariants: nothing but `RemoteProtocolError` leaves `receive_data` and `next_event`, and after it nothing more is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from h2.events import DataReceived, StreamReset
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes
from hpack.exceptions import HPACKError, OversizedHeaderListError
from hyperframe.frame import PingFrame, RstStreamFrame, SettingsFrame

from trioserve.protocols.errors import RemoteProtocolError
from trioserve.protocols.http2 import frame_gate as wire
from trioserve.protocols.http2.events import NEED_DATA, PONG, BodyChunk, Event, RefusedRequest, StreamClosed
from trioserve.protocols.http2.frame_gate import ConnectionFault, RawFrame
from trioserve.protocols.http2.machine_state import MachineState
from trioserve.protocols.http2.priorities import parse_dependency, parse_priority, parse_priority_update
from trioserve.protocols.http2.request_policy import MalformedRequest, judge_request, judge_trailers
from trioserve.protocols.http2.settings import SETTING_SIZE, read_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from trioserve.protocols.http2.streams import StreamState

SETTINGS_PER_FRAME: Final = 32
"""Settings that count as one control frame."""
STREAMS_PER_FRAME: Final = 4
"""Open streams whose windows are changed by a setting that count as one control frame."""


class Http2Receiver(MachineState):
    """What the peer sends on one connection.

    Args:
        limits: what the connection may cost.

    Attributes:
        failed: the connection has ended with an error; only what is queued may still be sent.
        peer_leaving: the peer has sent GOAWAY and opens no more streams.
    """

    __slots__ = ()

    def receive_data(self, data: bytes, now: float) -> None:
        """Add bytes from the peer.

        Args:
            data: what was read; it is held until `next_event` has got through it, so the caller bounds it.
            now: the time in seconds, on a clock that never goes back.
        """
        self._allowance.now = now
        self._gate.receive_data(data)

    def next_event(self) -> Event:
        """Return what the bytes so far amount to.

        Raises:
            RemoteProtocolError: the connection has to end, and GOAWAY is ready to be sent.
        """
        if self.failed:
            raise RemoteProtocolError(self._error)
        events = self._events
        try:
            while not events:
                frame = self._gate.next_frame()
                if frame is None:
                    return NEED_DATA
                receive = _RECEIVE.get(frame.kind)
                if receive is not None:
                    receive(self, frame)
                else:
                    self._allowance.spend_control()
            return events.popleft()
        except ConnectionFault as fault:
            self._fail(fault.code, str(fault))
        except (ProtocolError, HPACKError) as error:
            self._fail(_code_of(error), "a frame broke the protocol")
        # Out here, since a context would keep what was read, by the frames of its traceback.
        raise RemoteProtocolError(self._error)

    @property
    def begun(self) -> bool:
        """The peer's preface is complete."""
        return self._gate.begun

    @property
    def frame_in_progress(self) -> bool:
        """The peer has begun a preface, a frame or a field block and not completed it."""
        return self._gate.in_progress

    @property
    def block_in_progress(self) -> bool:
        """The peer has begun a field block and not completed it: nothing else can come on the connection."""
        return self._gate.block_in_progress

    def acknowledge(self, stream_id: int, size: int) -> None:
        """Widen the peer's windows: the application took `size` bytes of a body, or nobody will."""
        self._credit.release(size)
        stream = self._streams.open.get(stream_id)
        if stream is not None and not stream.request_ended:
            self._credit.widen(stream, size)

    # -- heads ----------------------------------------------------------------------------------------------------

    def _receive_head(self, frame: RawFrame) -> None:
        """HEADERS: a request or trailers (RFC 9113 section 6.2)."""
        block = self._block.begin(frame)
        if block is not None:
            self._take_block(frame.stream_id, block)

    def _receive_continuation(self, frame: RawFrame) -> None:
        """CONTINUATION (RFC 9113 section 6.10)."""
        block = self._block.extend(frame)
        if block is not None:
            self._take_block(frame.stream_id, block)

    def _take_block(self, stream_id: int, block: bytes) -> None:
        """A whole field block; it has to be decoded for HPACK's sake, also where nobody wants it."""
        self._decoder.decode(block)
        streams, ended = self._streams, self._block.ends_stream
        stream = streams.open.get(stream_id)
        if stream_id % 2 == 0:
            raise ConnectionFault(wire.PROTOCOL_ERROR, "a client's streams have odd numbers")
        if stream is not None:
            if stream.request_ended:
                self._reset_for(stream, wire.STREAM_CLOSED)
            elif not ended or self._block.depends_on_itself:  # RFC 9113 section 8.1
                self._reset_for(stream, wire.PROTOCOL_ERROR)
            else:
                self._conn.end_request(stream_id)
                self._end_with_trailers(stream)
        elif stream_id > streams.highest:
            self._open_stream(stream_id, ended)
        elif stream_id in streams.reset_by_us:
            self._allowance.spend_control()  # trailers that were under way
        elif stream_id in streams.reset_by_peer:
            self._conn.emit(RstStreamFrame(stream_id, wire.STREAM_CLOSED).serialize())
            self._allowance.spend_reset()
        elif stream_id in streams.ended:
            raise ConnectionFault(wire.STREAM_CLOSED, "fields came after the end of their stream")
        else:  # RFC 9113 section 5.1.1: passed over, and closed by that
            raise ConnectionFault(wire.PROTOCOL_ERROR, "a stream has a lower number than the one before")

    def _open_stream(self, stream_id: int, ended: bool) -> None:
        """Judge a request, and report it or refuse it."""
        streams, promised = self._streams, self._goaway
        stream = streams.add(stream_id, ended)
        self._conn.open_stream(stream_id, ended)
        if len(streams.open) - streams.pushed > self._limits.max_concurrent_streams or (
            promised is not None and stream_id > promised
        ):  # RFC 9113 sections 5.1.2 and 6.8: the peer may try again
            self._reset_for(stream, wire.REFUSED_STREAM, known=False)
            return
        if self._block.depends_on_itself:
            self._reset_for(stream, wire.PROTOCOL_ERROR, known=False)
            return
        decoder = self._decoder
        try:
            request = judge_request(stream_id, decoder.fields, ended, self._limits, decoder.size)
        except MalformedRequest:
            self._reset_for(stream, wire.PROTOCOL_ERROR, known=False)
            return
        except RemoteProtocolError as error:
            self._events.append(RefusedRequest(stream_id, error.status_hint, str(error)))
            return
        if not ended:
            stream.owed = request.content_length
        priority = [value for name, value in request.headers if name == b"priority"]
        if priority:
            self._outgoing.refuse_tree()
            if stream.urgency is None:  # RFC 9218 section 7: a frame overrides the field
                stream.urgency = parse_priority(b", ".join(priority))
        signal = stream.urgency or self._block.dependency
        if signal is not None:
            self._outgoing.reprioritise(stream, signal)
        self._events.append(request)

    def _end_with_trailers(self, stream: StreamState) -> None:
        stream.request_ended = True
        fields, limits = self._decoder.fields, self._limits
        try:
            trailers = judge_trailers(fields)
        except MalformedRequest:
            self._reset_for(stream, wire.PROTOCOL_ERROR)
            return
        too_much = self._decoder.size > limits.max_head_size or len(fields) > limits.max_fields
        if stream.owed or too_much:  # RFC 9113 section 8.1.1
            self._reset_for(stream, wire.PROTOCOL_ERROR)
            return
        self._events.append(BodyChunk(stream.stream_id, b"", True, trailers))
        if stream.answered:
            self._forget(stream, self._streams.ended)

    # -- bodies ---------------------------------------------------------------------------------------------------

    def _receive_body(self, frame: RawFrame) -> None:
        """DATA (RFC 9113 section 6.1)."""
        stream_id = frame.stream_id
        stream = self._streams.open.get(stream_id)
        if stream is None:
            self._receive_late_body(frame)
            return
        if stream_id % 2 == 0:  # reserved or half-closed (section 5.1): nobody can send here by accident
            raise ConnectionFault(wire.PROTOCOL_ERROR, "content came on a stream that was pushed")
        if len(frame.raw) - wire.HEADER_SIZE > self._conn.remote_flow_control_window(stream_id):
            self._reset_for(stream, wire.FLOW_CONTROL_ERROR)  # h2 would end the connection
            self._receive_late_body(frame)
            return
        event = self._conn.receive_data(frame.raw)[0]
        if type(event) is not DataReceived:  # the request had ended
            self._closed_by_h2(event)
            return
        data = event.data or b""
        size, ended = len(data), event.stream_ended is not None
        padding = (event.flow_controlled_length or 0) - size
        if not size and not ended:
            self._allowance.spend_control()
        self._credit.receive(size + padding)
        if ended:
            stream.request_ended = True
        elif padding:
            self._credit.widen(stream, padding)
        if stream.owed is not None:
            stream.owed -= size
            if stream.owed < 0 or (ended and stream.owed):  # RFC 9113 section 8.1.1
                self._reset_for(stream, wire.PROTOCOL_ERROR)
                return
        if size or ended:
            self._credit.hold(size)
            self._events.append(BodyChunk(stream_id, data, ended, []))
        if ended and stream.answered:
            self._forget(stream, self._streams.ended)

    def _receive_late_body(self, frame: RawFrame) -> None:
        """DATA on a stream that is not open: what was under way when we reset it is no mistake."""
        stream_id, size = frame.stream_id, len(frame.raw) - wire.HEADER_SIZE
        self._refuse_idle(stream_id)
        if stream_id in self._streams.reset_by_us:
            if not size:
                self._allowance.spend_control()
            self._credit.ignore(size)
        elif stream_id in self._streams.reset_by_peer:
            self._conn.receive_data(frame.raw)  # answers STREAM_CLOSED
            self._allowance.spend_reset()
        else:
            raise ConnectionFault(wire.STREAM_CLOSED, "content came after the end of its stream")

    # -- other frames ---------------------------------------------------------------------------------------------

    def _receive_reset(self, frame: RawFrame) -> None:
        """RST_STREAM (RFC 9113 section 6.4)."""
        self._refuse_idle(frame.stream_id)
        stream = self._streams.open.get(frame.stream_id)
        if stream is None:
            self._allowance.spend_control()
            return
        self._conn.receive_data(frame.raw)
        code = int.from_bytes(frame.raw[wire.HEADER_SIZE :], "big")
        self._events.append(StreamClosed(frame.stream_id, code, True, stream.unsent))
        self._forget(stream, self._streams.reset_by_peer)
        self._allowance.spend_reset()

    def _receive_settings(self, frame: RawFrame) -> None:
        """SETTINGS (RFC 9113 section 6.5); h2 applies and acknowledges them."""
        if frame.flags & wire.ACK:
            self._allowance.spend_control()
            return
        payload = frame.raw[wire.HEADER_SIZE :]
        self._allowance.spend_control(1 + len(payload) // (SETTING_SIZE * SETTINGS_PER_FRAME))
        known = self._read_settings(payload)
        if SettingCodes.INITIAL_WINDOW_SIZE in known:  # every stream's window has to be changed
            self._allowance.spend_control(len(self._streams.open) // STREAMS_PER_FRAME)
        self._conn.receive_data(SettingsFrame(0, known).serialize())
        if SettingCodes.INITIAL_WINDOW_SIZE in known:
            self._outgoing.widen_all()

    def _read_settings(self, payload: bytes) -> dict[int, int]:
        """Do what the peer's settings ask of us; return those that h2 has to do with."""
        known, table_sizes, refuses_tree = read_settings(payload)
        for size in table_sizes:
            self._conn.encoder.header_table_size = size
        if refuses_tree:
            self._outgoing.refuse_tree()
        return known

    def _receive_ping(self, frame: RawFrame) -> None:
        """PING (RFC 9113 section 6.7)."""
        data = frame.raw[wire.HEADER_SIZE :]
        if frame.flags & wire.ACK and data == self._ping:
            self._ping = None
            self._events.append(PONG)
            return
        self._allowance.spend_control()
        if not frame.flags & wire.ACK:
            self._conn.emit(PingFrame(0, data, flags=("ACK",)).serialize())

    def _receive_goaway(self, frame: RawFrame) -> None:  # noqa: ARG002 - h2 would refuse all that follows it
        """GOAWAY (RFC 9113 section 6.8): what is open goes on."""
        self._allowance.spend_control()
        self.peer_leaving = True

    def _receive_window_update(self, frame: RawFrame) -> None:
        """WINDOW_UPDATE (RFC 9113 section 6.9)."""
        stream_id = frame.stream_id
        self._allowance.spend_update()
        raw, start = frame.raw, wire.HEADER_SIZE
        if raw[start] & 0x80:  # reserved, and of no meaning
            raw = raw[:start] + bytes((raw[start] & 0x7F,)) + raw[start + 1 :]
        empty = not any(raw[start:])
        if stream_id == 0:
            if empty:
                raise ConnectionFault(wire.PROTOCOL_ERROR, "a window update of nothing")
            self._conn.receive_data(raw)
            return
        self._refuse_idle(stream_id)
        stream = self._streams.open.get(stream_id)
        if stream is None:
            return
        if empty:
            self._reset_for(stream, wire.PROTOCOL_ERROR)
            return
        for event in self._conn.receive_data(raw):
            if isinstance(event, StreamReset):  # the window grew too large
                self._closed_by_h2(event)
                return
        self._outgoing.widen(stream)

    def _receive_dependency(self, frame: RawFrame) -> None:
        """PRIORITY (RFC 7540 section 6.3), which may come in any state of a stream, and costs."""
        self._allowance.spend_control()
        stream_id, payload = frame.stream_id, frame.raw[wire.HEADER_SIZE :]
        stream = self._streams.open.get(stream_id)
        dependency = parse_dependency(payload) if len(payload) == 5 else None
        if dependency is not None and dependency.parent != stream_id:
            if stream is not None:  # it is of no effect otherwise
                self._outgoing.reprioritise(stream, dependency)
            return
        code = wire.FRAME_SIZE_ERROR if dependency is None else wire.PROTOCOL_ERROR
        if stream is not None:
            self._reset_for(stream, code)
        elif self._streams.is_idle(stream_id):  # which cannot be reset
            raise ConnectionFault(code, "malformed PRIORITY")

    def _receive_priority_update(self, frame: RawFrame) -> None:
        """PRIORITY_UPDATE (RFC 9218 section 7.1)."""
        self._allowance.spend_control()
        self._outgoing.refuse_tree()
        stream_id, urgency = parse_priority_update(frame.raw[wire.HEADER_SIZE :])
        if stream_id == 0 or (stream_id % 2 == 0 and self._streams.is_idle(stream_id)):
            raise ConnectionFault(wire.PROTOCOL_ERROR, "PRIORITY_UPDATE for no stream")
        stream = self._streams.open.get(stream_id)
        if stream is not None:
            stream.urgency = urgency
            self._outgoing.reprioritise(stream, urgency)
        elif self._streams.is_idle(stream_id):
            self._streams.expect(stream_id, urgency, self._limits.max_concurrent_streams)


def _code_of(error: ProtocolError | HPACKError) -> int:
    """The error code of RFC 9113 section 7 for what h2, or hpack below it, does not take."""
    cause = error.__cause__ if isinstance(error, ProtocolError) else error
    if isinstance(cause, OversizedHeaderListError):
        return wire.ENHANCE_YOUR_CALM
    if isinstance(error, HPACKError) or isinstance(cause, HPACKError):
        return wire.COMPRESSION_ERROR
    return int(error.error_code)


_RECEIVE: Final[dict[int, Callable[[Http2Receiver, RawFrame], None]]] = {
    wire.DATA: Http2Receiver._receive_body,
    wire.HEADERS: Http2Receiver._receive_head,
    wire.CONTINUATION: Http2Receiver._receive_continuation,
    wire.PRIORITY: Http2Receiver._receive_dependency,
    wire.RST_STREAM: Http2Receiver._receive_reset,
    wire.SETTINGS: Http2Receiver._receive_settings,
    wire.PING: Http2Receiver._receive_ping,
    wire.GOAWAY: Http2Receiver._receive_goaway,
    wire.WINDOW_UPDATE: Http2Receiver._receive_window_update,
    wire.PRIORITY_UPDATE: Http2Receiver._receive_priority_update,
}
"""What each kind of frame is for; others are ignored (RFC 9113 section 5.5)."""
