"""What an HTTP/2 client of the tests received: frames, field sections, and what they mean for each stream.

Without I/O, and without judgement: a peer's mistakes are noted as they came, unless nothing can be read after them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from h2.errors import ErrorCodes
from hpack import Decoder, Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from trioserve.testing.raw_client import Response

Fields = list[tuple[bytes, bytes]]

DEFAULT_WINDOW = 65535
DEFAULT_TABLE_SIZE = 4096
FRAME_HEAD_SIZE = 9
MAX_HEAD_SIZE = 1 << 24


def render_frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream_id: int = 0) -> bytes:
    """Return a frame of any type, with any flags and payload, right or wrong (RFC 9113 section 4.1)."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream_id.to_bytes(4, "big") + payload


def name_of(code: int) -> str:
    """Return an error code with its name (RFC 9113 section 7)."""
    known = code in {known.value for known in ErrorCodes}
    return f"{code} ({ErrorCodes(code).name})" if known else str(code)


class Failure(NamedTuple):
    """An error that the server told: of one stream, or with stream 0 of the connection (RFC 9113 section 5.4)."""

    stream_id: int
    code: int


@dataclass(slots=True)
class StreamRecord:
    """What came on one stream.

    Args:
        frames: in their order, with CONTINUATION, WINDOW_UPDATE and so on.
        heads: the field sections with their pseudo-header fields: informational ones, the response's, the trailers.
        promise: the request of a pushed stream.
        body: the content so far.
        ended: the server has ended its side.
        reset: the code of its RST_STREAM.
        window: bytes of content that may still be sent on it.
    """

    frames: list[Frame] = field(default_factory=list)
    heads: list[Fields] = field(default_factory=list)
    promise: Fields | None = None
    body: bytearray = field(default_factory=bytearray)
    ended: bool = False
    reset: int | None = None
    window: int = DEFAULT_WINDOW

    def response(self) -> Response:
        """Return what came as a response; without a final head that is an AssertionError."""
        informational: list[Response] = []
        for index, head in enumerate(self.heads):
            status = int(dict(head).get(b":status", b"0"))
            fields = [(name, value) for name, value in head if not name.startswith(b":")]
            if status >= 200:
                trailers = [pair for later in self.heads[index + 1 :] for pair in later]
                return Response(status, "", fields, bytes(self.body), trailers, "2", informational)
            informational.append(Response(status, "", fields, http_version="2"))
        raise AssertionError(f"the stream has no response, only {self.heads}")


class ConnectionRecord:
    """What came on one connection, and what an honest client answers to it by itself.

    Attributes:
        acknowledge_settings, answer_pings, update_windows: what is answered; set to False to be a worse peer.
        frames: everything that came, in order.
        unseen: those of them that no wait has taken.
        streams: by number; see `record`.
        server_settings: by number; None before the server's SETTINGS came.
        goaway: the last GOAWAY.
        closed: the server has closed the connection, as far as it was read.
        window: bytes of content that may still be sent on the connection.
        encoder, decoder: the state of field compression, for what is sent and what came.
    """

    def __init__(self) -> None:
        self.acknowledge_settings = self.answer_pings = self.update_windows = True
        self.frames: list[Frame] = []
        self.unseen: list[Frame] = []
        self.streams: dict[int, StreamRecord] = {}
        self.server_settings: dict[int, int] | None = None
        self.goaway: GoAwayFrame | None = None
        self.closed = False
        self.window = DEFAULT_WINDOW
        self.encoder = Encoder()
        self.decoder = Decoder(MAX_HEAD_SIZE)
        self._partial = bytearray()
        self._opening: HeadersFrame | PushPromiseFrame | None = None
        self._block = b""

    def record(self, stream_id: int) -> StreamRecord:
        """Return what came on a stream, nothing at first."""
        if stream_id not in self.streams:
            self.streams[stream_id] = StreamRecord(window=_initial_window(self.server_settings))
        return self.streams[stream_id]

    def take_in(self, data: bytes) -> list[Frame]:
        """Note what came and return the answers to it.

        Raises:
            hyperframe.exceptions.HyperframeError: that is no frame.
            hpack.exceptions.HPACKError: that is no field section.
        """
        self._partial += data
        answers: list[Frame] = []
        credit: dict[int, int] = {}
        while (frame := self._next_frame()) is not None:
            self.frames.append(frame)
            self.unseen.append(frame)
            if frame.stream_id:
                self.record(frame.stream_id).frames.append(frame)
            self._note(frame, credit)
            if isinstance(frame, SettingsFrame) and "ACK" not in frame.flags and self.acknowledge_settings:
                answers.append(SettingsFrame(flags=["ACK"]))
            elif isinstance(frame, PingFrame) and "ACK" not in frame.flags and self.answer_pings:
                answers.append(PingFrame(opaque_data=frame.opaque_data, flags=["ACK"]))
        if self.update_windows:
            answers += [WindowUpdateFrame(stream_id, size) for stream_id, size in credit.items() if size]
        return answers

    def complaint(self, what: str) -> str:
        """Return `what` with a list of what came last."""
        came = [f"  {str(frame)[:160]}" for frame in self.frames[-30:]]
        heads = [
            f"  stream {number}: {stream.heads}" for number, stream in self.streams.items() if stream.heads
        ]
        return "\n".join([f"{what}; {len(self.frames)} frames came, the last of them:", *came, *heads[-10:]])

    def _next_frame(self) -> Frame | None:
        if len(self._partial) < FRAME_HEAD_SIZE:
            return None
        frame, length = Frame.parse_frame_header(memoryview(bytes(self._partial[:FRAME_HEAD_SIZE])))
        end = FRAME_HEAD_SIZE + length
        if len(self._partial) < end:
            return None
        frame.parse_body(memoryview(bytes(self._partial[FRAME_HEAD_SIZE:end])))
        del self._partial[:end]
        return frame

    def _note(self, frame: Frame, credit: dict[int, int]) -> None:
        match frame:
            case DataFrame():
                self._note_data(frame, credit)
            case HeadersFrame() | PushPromiseFrame():
                self._opening, self._block = frame, frame.data
                self._note_end_of_block(frame)
            case ContinuationFrame():
                self._block += frame.data
                self._note_end_of_block(frame)
            case SettingsFrame() if "ACK" not in frame.flags:
                self._note_settings(frame.settings)
            case WindowUpdateFrame(stream_id=0):
                self.window += frame.window_increment
            case WindowUpdateFrame():
                self.record(frame.stream_id).window += frame.window_increment
            case RstStreamFrame():
                self.record(frame.stream_id).reset = frame.error_code
            case GoAwayFrame():
                self.goaway = frame

    def _note_data(self, frame: DataFrame, credit: dict[int, int]) -> None:
        stream, size = self.record(frame.stream_id), frame.flow_controlled_length
        stream.body += frame.data
        stream.ended = "END_STREAM" in frame.flags
        credit[0] = credit.get(0, 0) + size
        credit[frame.stream_id] = 0 if stream.ended else credit.get(frame.stream_id, 0) + size

    def _note_end_of_block(self, frame: Frame) -> None:
        if "END_HEADERS" not in frame.flags or self._opening is None:
            return
        fields = [(bytes(name), bytes(value)) for name, value in self.decoder.decode(self._block, raw=True)]
        if isinstance(self._opening, HeadersFrame):
            stream = self.record(self._opening.stream_id)
            stream.heads.append(fields)
            stream.ended = "END_STREAM" in self._opening.flags
        else:
            self.record(self._opening.promised_stream_id).promise = fields
        self._opening = None

    def _note_settings(self, settings: dict[int, int]) -> None:
        before = _initial_window(self.server_settings)
        self.server_settings = (self.server_settings or {}) | settings
        for stream in self.streams.values():
            stream.window += _initial_window(self.server_settings) - before  # RFC 9113 section 6.9.2
        table_size = self.server_settings.get(SettingsFrame.HEADER_TABLE_SIZE, DEFAULT_TABLE_SIZE)
        if table_size < self.encoder.header_table_size:
            self.encoder.header_table_size = table_size


def _initial_window(settings: dict[int, int] | None) -> int:
    return (settings or {}).get(SettingsFrame.INITIAL_WINDOW_SIZE, DEFAULT_WINDOW)
