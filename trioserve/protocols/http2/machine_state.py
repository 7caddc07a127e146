"""What both halves of the HTTP/2 machine stand on: its parts, and how streams and the connection end.

What the peer sends (`receiver.py`) and what we send (`machine.py`) meet here, since either can be what ends a stream.

Invariant: `_forget` alone takes a stream out of `Streams.open`, and with it h2's state and what waits to be sent.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from h2.events import StreamReset
from hyperframe.frame import GoAwayFrame

from trioserve.protocols.http2 import frame_gate as wire
from trioserve.protocols.http2.allowance import Allowance
from trioserve.protocols.http2.events import Event, StreamClosed
from trioserve.protocols.http2.field_block import FieldBlock
from trioserve.protocols.http2.field_codec import FieldDecoder
from trioserve.protocols.http2.frame_gate import ConnectionFault, FrameGate
from trioserve.protocols.http2.inbound_credit import InboundCredit
from trioserve.protocols.http2.lean_connection import build_connection
from trioserve.protocols.http2.outgoing import Outgoing
from trioserve.protocols.http2.streams import Streams

if TYPE_CHECKING:
    from h2.events import Event as H2Event

    from trioserve.protocols.http2.limits import Http2Limits
    from trioserve.protocols.http2.streams import StreamState


class MachineState:
    """One HTTP/2 connection, without what is said on it.

    Args:
        limits: what the connection may cost.

    Attributes:
        failed: the connection has ended with an error; only what is queued may still be sent.
        peer_leaving: the peer has sent GOAWAY and opens no more streams.
    """

    __slots__ = (
        "_allowance",
        "_block",
        "_conn",
        "_credit",
        "_decoder",
        "_error",
        "_events",
        "_gate",
        "_goaway",
        "_limits",
        "_outgoing",
        "_ping",
        "_streams",
        "failed",
        "peer_leaving",
    )

    def __init__(self, limits: Http2Limits) -> None:
        self._limits = limits
        self._gate = FrameGate(limits.max_frame_size, limits.max_head_size)
        self._streams = Streams()
        # A head above the limit is answered; one above twice the limit is not even decoded.
        self._decoder = FieldDecoder(2 * limits.max_head_size)
        self._block = FieldBlock()
        self._conn = build_connection(limits, self._decoder)
        self._outgoing = Outgoing(self._conn, self._streams.open, limits.send_buffer)
        self._credit = InboundCredit(self._conn, limits)
        self._allowance = Allowance(limits)
        self._events: deque[Event] = deque()
        self._error = ""  # what the connection has failed for
        self._goaway: int | None = None  # the last stream that we promised to answer, once promised
        self._ping: bytes | None = None  # what we have sent and the peer has not answered
        self.failed = False
        self.peer_leaving = False

    def end_input(self) -> None:
        """Forget what has come and is not complete; nothing more comes.

        h2 refers to itself, so that a machine lives on until garbage is collected, and a thousand may.
        """
        self._gate.drop()
        self._block.drop()

    def _fail(self, code: int, reason: str) -> None:
        """End the connection with GOAWAY (RFC 9113 section 5.4.1); what h2 has queued is dropped."""
        if not self.failed:
            self._error = reason
            self.failed = True
            self._conn.clear_outbound_data_buffer()
            self._conn.emit(
                GoAwayFrame(0, self._streams.highest, int(code), additional_data=reason.encode()).serialize()
            )
            self.end_input()
            self._streams.open.clear()
            self._events.clear()

    def _reset_for(self, stream: StreamState, code: int, *, known: bool = True) -> None:
        """Answer the peer's mistake on a stream by resetting it; `known` if an event has told of the stream."""
        unsent = stream.unsent
        self.reset_stream(stream.stream_id, code)
        if known:
            self._events.append(StreamClosed(stream.stream_id, code, False, unsent))
        self._allowance.spend_reset()

    def reset_stream(self, stream_id: int, code: int = wire.NO_ERROR) -> None:
        """Reset a stream (RFC 9113 section 5.4.2), and drop what waits on it; nothing happens on a closed one."""
        stream = self._streams.open.get(stream_id)
        if stream is not None:
            self._conn.reset_stream(stream_id, code)
            self._forget(stream, self._streams.reset_by_us)

    def _forget(self, stream: StreamState, memory: dict[int, None]) -> None:
        """Close a stream; `memory` is where `Streams` shall keep that it ended so."""
        self._streams.close(stream, memory)
        if not stream.answered:
            self._outgoing.drop(stream)
        self._conn.close_stream(stream.stream_id)

    def _closed_by_h2(self, event: H2Event) -> None:
        """Take note that h2 itself has reset a stream for the peer's mistake."""
        assert isinstance(event, StreamReset)
        stream = self._streams.open.get(event.stream_id)
        if stream is not None:
            closed = StreamClosed(event.stream_id, int(event.error_code or 0), False, stream.unsent)
            self._forget(stream, self._streams.reset_by_us)
            self._events.append(closed)
        self._allowance.spend_reset()

    def _refuse_idle(self, stream_id: int) -> None:
        if self._streams.is_idle(stream_id):
            raise ConnectionFault(wire.PROTOCOL_ERROR, "a frame came on an idle stream")
