"""h2's connection with the usual frames on a shorter way: requests in one frame, heads and content of responses.

Four fifths of what h2 costs for a small exchange is spent on building, checking and taking apart objects for three
frames. Here those frames are read and written directly, while the state of each stream stays where it was, in h2's
stream machines and windows; only names without an underscore are used. Everything else is h2 as it is. Frames leave in
the order in which they were made, ours and h2's.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from h2.config import H2Configuration
from h2.connection import ConnectionInputs, ConnectionState, H2Connection
from h2.exceptions import FlowControlError
from h2.stream import H2Stream, StreamInputs

from trioserve.protocols.http2 import frame_gate as wire
from trioserve.protocols.http2.events import PREFACE
from trioserve.protocols.http2.field_codec import FieldEncoder
from trioserve.protocols.http2.settings import local_settings

if TYPE_CHECKING:
    from trioserve.protocols.http2.events import Headers
    from trioserve.protocols.http2.field_codec import FieldDecoder
    from trioserve.protocols.http2.limits import Http2Limits

_PACK: Final = struct.Struct(">HBBBL").pack

_SEND_HEADERS: Final = StreamInputs.SEND_HEADERS
_SEND_INFORMATION: Final = StreamInputs.SEND_INFORMATIONAL_HEADERS
_SEND_END: Final = StreamInputs.SEND_END_STREAM
_RECEIVE_HEADERS: Final = StreamInputs.RECV_HEADERS
_RECEIVE_END: Final = StreamInputs.RECV_END_STREAM


def render_frame_header(size: int, kind: int, flags: int, stream_id: int) -> bytes:
    """The nine bytes before a payload (RFC 9113 section 4.1)."""
    return _PACK(size >> 8, size & 0xFF, kind, flags, stream_id)


class LeanConnection(H2Connection):
    """An `H2Connection` of a server.

    Attributes:
        ready: the frames that have to be sent, for whoever sends to take away.
    """

    MAX_CLOSED_STREAMS = 1024

    def __init__(self, config: H2Configuration) -> None:
        super().__init__(config)
        self.ready = bytearray()

    def emit(self, frame: bytes) -> None:
        """Put a frame behind those that were made before."""
        self.collect()
        self.ready += frame

    def collect(self) -> bytearray:
        """Return all that has to be sent; the caller may take it away by putting a new one in the place of `ready`."""
        made = self.data_to_send()
        if made:
            self.ready += made
        return self.ready

    def open_stream(self, stream_id: int, ended: bool) -> None:
        """Open a stream for a request whose head has come in one frame and was decoded (RFC 9113 section 5.1).

        Args:
            stream_id: odd, and higher than that of every stream before.
            ended: the head has END_STREAM.
        """
        if self.state_machine.state is ConnectionState.IDLE:
            self.state_machine.process_input(ConnectionInputs.RECV_HEADERS)
        stream = H2Stream(
            stream_id,
            self.config,
            self.local_settings.initial_window_size,
            self.remote_settings.initial_window_size,
        )
        stream.max_outbound_frame_size = self.max_outbound_frame_size
        stream.state_machine.process_input(_RECEIVE_HEADERS)
        if ended:
            stream.state_machine.process_input(_RECEIVE_END)
        self.streams[stream_id] = stream
        self.highest_inbound_stream_id = stream_id

    def end_request(self, stream_id: int) -> None:
        """End the peer's side of a stream with trailers, which have come and were decoded."""
        machine = self.streams[stream_id].state_machine
        machine.process_input(_RECEIVE_HEADERS)
        machine.process_input(_RECEIVE_END)

    def send_fields(self, stream_id: int, fields: Headers, *, end: bool, final: bool = True) -> None:
        """Send a head or trailers, in as many frames as they need (RFC 9113 sections 6.2 and 6.10).

        Args:
            stream_id: a stream that is open on our side.
            fields: checked.
            end: our side ends with them.
            final: false for an informational response.
        """
        machine = self.streams[stream_id].state_machine
        machine.process_input(_SEND_HEADERS if final else _SEND_INFORMATION)
        if end:
            machine.process_input(_SEND_END)
        block = self.encoder.encode(fields)
        size, most = len(block), self.max_outbound_frame_size
        flags = wire.END_STREAM if end else 0
        if size <= most:
            self.emit(render_frame_header(size, wire.HEADERS, flags | wire.END_HEADERS, stream_id) + block)
            return
        self.emit(render_frame_header(most, wire.HEADERS, flags, stream_id) + block[:most])
        for start in range(most, size, most):
            piece = block[start : start + most]
            last = wire.END_HEADERS if start + most >= size else 0
            self.emit(render_frame_header(len(piece), wire.CONTINUATION, last, stream_id) + piece)

    def send_content(self, stream_id: int, data: bytes | memoryview, *, end: bool) -> None:
        """Send one DATA frame (RFC 9113 section 6.1).

        Raises:
            FlowControlError: the windows do not let it go.
        """
        size = len(data)
        stream = self.streams[stream_id]
        if size and (size > stream.outbound_flow_control_window or size > self.outbound_flow_control_window):
            raise FlowControlError(f"{size} bytes are more than the windows of stream {stream_id} allow")
        stream.outbound_flow_control_window -= size
        self.outbound_flow_control_window -= size
        if end:
            stream.state_machine.process_input(_SEND_END)
        self.emit(render_frame_header(size, wire.DATA, wire.END_STREAM if end else 0, stream_id))
        self.ready += data

    def close_stream(self, stream_id: int) -> None:
        """Forget a stream that has ended on both sides."""
        self.streams.pop(stream_id, None)


def build_connection(limits: Http2Limits, decoder: FieldDecoder) -> LeanConnection:
    """Return a connection that has read the preface.

    h2's checks of fields are off: `request_policy` and `response_framing` do them better and faster.

    Args:
        limits: say what h2 takes our settings to be.
        decoder: decodes the peer's fields.
    """
    conn = LeanConnection(
        H2Configuration(
            client_side=False,
            header_encoding=None,
            validate_inbound_headers=False,
            normalize_inbound_headers=False,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
    )
    conn.local_settings = local_settings(limits)
    conn.max_inbound_frame_size = limits.max_frame_size
    conn.decoder = decoder
    conn.encoder = FieldEncoder()
    conn.receive_data(PREFACE)  # the gate has seen the real one
    return conn
