"""An HTTP/2 client for tests that must be able to send anything, right or wrong.

Built on frames (hyperframe) and field compression (hpack), not on h2, which refuses to send what a hostile client
sends. What an honest client answers by itself (SETTINGS, PING, flow control) is done here too, each can be switched
off. There is no background task: the client reads while somebody waits for something, and several tasks may wait at
once. Everything that came is kept, so do not use it for downloads that do not fit into memory.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, TypeVar, cast

import trio
import trio.abc
from h2.errors import ErrorCodes
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from trioserve.testing.http2_record import DEFAULT_WINDOW, ConnectionRecord, Failure, name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from trioserve.testing.raw_client import Response

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DEFAULT_FRAME_SIZE = 16384
RECEIVE_SIZE = 65536
TIMEOUT = 120.0
"""Seconds that a wait may take: more than the server's own default deadlines, so that theirs pass first also with a
clock that jumps."""

T = TypeVar("T")
FrameType = TypeVar("FrameType", bound=Frame)


class Http2Client(ConnectionRecord):
    """One connection, driven by hand. Usable in `async with`, which closes the stream.

    Every wait takes a `timeout` in seconds and fails with an AssertionError that lists what did come; it fails at
    once when the server closes the connection.

    Args:
        stream: the client's end of a connection, TLS done.
        scheme: for `:scheme`.
        authority: for `:authority`.
        timeout: seconds for waits that do not say otherwise.
        unread: bytes that were read from the stream already, as after an upgrade.

    Attributes:
        next_stream_id: for the next request; 3 after an upgrade.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        *,
        scheme: str = "http",
        authority: str = "localhost",
        timeout: float = TIMEOUT,
        unread: bytes = b"",
    ) -> None:
        super().__init__()
        self.stream = stream
        self.scheme = scheme
        self.authority = authority
        self.timeout = timeout
        self.next_stream_id = 1
        self._unread = unread
        self._pings = 0
        self._reads = 0
        self._reading = trio.Lock()
        self._sending = trio.Lock()

    async def __aenter__(self) -> Http2Client:
        """Return itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the stream."""
        await self.aclose()

    # -- sending -----------------------------------------------------------------------------------------------------

    async def start(
        self,
        settings: dict[int, int] | None = None,
        *,
        window: int | None = None,
        timeout: float | None = None,
    ) -> None:
        """Send the preface and SETTINGS, and return once both sides' settings are in force.

        Args:
            settings: by number, such as `SettingsFrame.INITIAL_WINDOW_SIZE`.
            window: bytes of the connection's window for responses, if more than 65535.
            timeout: seconds.
        """
        settings = settings or {}
        self.decoder.max_allowed_table_size = settings.get(SettingsFrame.HEADER_TABLE_SIZE, 4096)
        opening: list[Frame | bytes] = [PREFACE, SettingsFrame(settings=settings)]
        if window is not None:
            opening.append(WindowUpdateFrame(0, window - DEFAULT_WINDOW))
        await self.send(*opening)
        for acknowledgement in (False, True):
            await self._wait_unseen(
                lambda frame, wanted=acknowledgement: (  # type: ignore[misc]
                    isinstance(frame, SettingsFrame) and ("ACK" in frame.flags) is wanted
                ),
                "SETTINGS" + " with ACK" * acknowledgement,
                timeout,
            )

    async def send(self, *items: Frame | bytes) -> None:
        """Send frames and bytes as they are, in one write.

        Raises:
            trio.BrokenResourceError: the server has closed the connection.
        """
        data = b"".join(item if isinstance(item, bytes) else item.serialize() for item in items)
        for item in items:
            if isinstance(item, DataFrame):
                self.window -= item.body_len
                self.record(item.stream_id).window -= item.body_len
        async with self._sending:
            await self.stream.send_all(data)

    def request_frames(
        self,
        method: str = "GET",
        path: str = "/",
        *,
        headers: Iterable[tuple[bytes, bytes]] = (),
        body: bytes | None = None,
        end_stream: bool = True,
        stream_id: int | None = None,
    ) -> list[Frame]:
        """Return the frames of a request, whatever the windows are.

        Args:
            method: for `:method`.
            path: for `:path`.
            headers: after the pseudo-header fields, as they are.
            body: content, in frames of 16 KiB.
            end_stream: whether the last frame ends the stream.
            stream_id: default: the next one.
        """
        if stream_id is None:
            stream_id, self.next_stream_id = self.next_stream_id, self.next_stream_id + 2
        target = [(b":scheme", self.scheme.encode()), (b":path", path.encode("latin-1"))]
        pseudo = [(b":method", method.encode("latin-1")), *target, (b":authority", self.authority.encode())]
        fields = [*pseudo, *headers]
        frames = self.head_frames(stream_id, fields, end_stream=end_stream and body is None)
        if body is not None:
            pieces = [body[i : i + DEFAULT_FRAME_SIZE] for i in range(0, len(body), DEFAULT_FRAME_SIZE)]
            frames += [DataFrame(stream_id, piece) for piece in pieces or [b""]]
            if end_stream:
                frames[-1].flags.add("END_STREAM")
        return frames

    def head_frames(
        self, stream_id: int, fields: Iterable[tuple[bytes, bytes]], *, end_stream: bool = True
    ) -> list[Frame]:
        """Return HEADERS, and CONTINUATION where one is not enough, for a section of any fields or trailers.

        They have to be sent, and in the order in which they were made: compression has a state.
        """
        block = self.encoder.encode(fields)
        frames: list[Frame] = [HeadersFrame(stream_id, block[:DEFAULT_FRAME_SIZE])]
        frames += [
            ContinuationFrame(stream_id, block[start : start + DEFAULT_FRAME_SIZE])
            for start in range(DEFAULT_FRAME_SIZE, len(block), DEFAULT_FRAME_SIZE)
        ]
        if end_stream:
            frames[0].flags.add("END_STREAM")
        frames[-1].flags.add("END_HEADERS")
        return frames

    async def request(
        self,
        method: str = "GET",
        path: str = "/",
        *,
        headers: Iterable[tuple[bytes, bytes]] = (),
        body: bytes | None = None,
        end_stream: bool = True,
    ) -> int:
        """Send a request as an honest client does, and return its stream; see `request_frames`."""
        stream_id = self.next_stream_id
        only_head = end_stream and body is None
        await self.send(*self.request_frames(method, path, headers=headers, end_stream=only_head))
        if body is not None:
            await self.send_body(stream_id, body, end_stream=end_stream)
        return stream_id

    async def send_body(
        self, stream_id: int, body: bytes, *, end_stream: bool = True, timeout: float | None = None
    ) -> None:
        """Send content as fast as the server's windows allow, and give up quietly when it resets the stream."""
        record, sent = self.record(stream_id), 0
        while record.reset is None:
            size = min(len(body) - sent, DEFAULT_FRAME_SIZE, self.window, record.window)
            if size <= 0 and sent < len(body):
                await self._wait_until(
                    lambda: min(self.window, record.window) > 0 or record.reset is not None or None,
                    f"window on stream {stream_id}",
                    timeout,
                )
                continue
            frame = DataFrame(stream_id, body[sent : sent + size])
            sent += size
            if sent == len(body) and end_stream:
                frame.flags.add("END_STREAM")
            await self.send(frame)
            if sent == len(body):
                return

    async def get(
        self,
        path: str = "/",
        *,
        headers: Iterable[tuple[bytes, bytes]] = (),
        timeout: float | None = None,
    ) -> Response:
        """Ask for a path and return the whole response."""
        return await self.response(await self.request(path=path, headers=headers), timeout)

    async def ping(self, timeout: float | None = None) -> None:
        """Send PING and wait for its answer: everything that the server had to say before has come then."""
        self._pings += 1
        data = struct.pack(">Q", self._pings)
        await self.send(PingFrame(opaque_data=data))
        await self._wait_unseen(
            lambda frame: isinstance(frame, PingFrame) and "ACK" in frame.flags and frame.opaque_data == data,
            "the answer to PING",
            timeout,
        )

    # -- waiting -----------------------------------------------------------------------------------------------------

    async def response(self, stream_id: int, timeout: float | None = None) -> Response:
        """Wait for the whole response on a stream.

        Raises:
            AssertionError: it was reset or not processed; or nothing came in time.
        """
        record = self.record(stream_id)

        def ended() -> bool | None:
            if not record.ended:
                assert record.reset is None, self.complaint(
                    f"stream {stream_id} was reset with {name_of(record.reset or 0)}"
                )
                assert self.goaway is None or stream_id <= self.goaway.last_stream_id, self.complaint(
                    f"stream {stream_id} is not processed"
                )
            return record.ended or None

        await self._wait_until(ended, f"the end of stream {stream_id}", timeout)
        return record.response()

    async def next_frame(self, timeout: float | None = None) -> Frame:
        """Return the next frame that nobody has waited for yet."""
        return await self._wait_unseen(lambda frame: True, "frame", timeout)  # noqa: ARG005

    async def wait_for(
        self, kind: type[FrameType], stream_id: int | None = None, timeout: float | None = None
    ) -> FrameType:
        """Return the next frame of a kind that nobody has waited for yet; others stay for later waits.

        Args:
            kind: such as `RstStreamFrame`.
            stream_id: default: any.
            timeout: seconds.
        """
        where = "" if stream_id is None else f" on stream {stream_id}"
        frame = await self._wait_unseen(
            lambda frame: isinstance(frame, kind) and stream_id in {None, frame.stream_id},
            kind.__name__ + where,
            timeout,
        )
        return cast(FrameType, frame)

    async def wait_error(self, timeout: float | None = None) -> Failure:
        """Return the next error that the server tells, by RST_STREAM, or by GOAWAY with a code."""
        frame = await self._wait_unseen(
            lambda frame: (
                isinstance(frame, RstStreamFrame)
                or (isinstance(frame, GoAwayFrame) and frame.error_code != ErrorCodes.NO_ERROR)
            ),
            "RST_STREAM or GOAWAY",
            timeout,
        )
        assert isinstance(frame, RstStreamFrame | GoAwayFrame)
        return Failure(frame.stream_id, frame.error_code)

    async def wait_closed(self, timeout: float | None = None) -> None:
        """Return when the server has closed the connection, whatever it sends before that."""
        await self._wait_until(lambda: self.closed or None, "the end of the connection", timeout)

    async def aclose(self) -> None:
        """Close the connection, as a client does that leaves."""
        await self.stream.aclose()

    # -- receiving ---------------------------------------------------------------------------------------------------

    async def _read_more(self) -> None:
        """Read once, or let the task that reads already do it; answer what is answered without being asked."""
        before = self._reads
        async with self._reading:
            if self._reads != before:
                return
            data, self._unread = self._unread, b""
            try:
                data = data or bytes(await self.stream.receive_some(RECEIVE_SIZE))
            except trio.BrokenResourceError:
                pass  # a reset ends a connection as well
            self._reads += 1
            self.closed = not data
            answers = self.take_in(data)
        if answers:
            try:
                await self.send(*answers)
            except trio.BrokenResourceError:
                pass  # the next read tells

    async def _wait_unseen(
        self, matches: Callable[[Frame], bool], wanted: str, timeout: float | None
    ) -> Frame:
        frame = await self._wait_until(lambda: next(filter(matches, self.unseen), None), wanted, timeout)
        self.unseen.remove(frame)
        return frame

    async def _wait_until(self, found: Callable[[], T | None], wanted: str, timeout: float | None) -> T:
        seconds = self.timeout if timeout is None else timeout
        try:
            with trio.fail_after(seconds):
                while (result := found()) is None:
                    assert not self.closed, self.complaint(f"the server closed the connection, no {wanted}")
                    await self._read_more()
                return result
        except trio.TooSlowError:
            raise AssertionError(self.complaint(f"no {wanted} within {seconds:g} s")) from None
