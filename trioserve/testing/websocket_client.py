"""A WebSocket client for tests that must be able to send anything, right or wrong, over HTTP/1.1 and over HTTP/2.

`open_http1_session` and `open_http2_session` shake hands on a connection that is there, and give a `WebSocketClient`,
which speaks in frames. There is no background task: pings are answered while somebody waits for something.
`Http2Tunnel` is the client's end of an extended CONNECT as a stream of Trio's. Everything that came is kept.
"""

from __future__ import annotations

import base64
import operator
import struct
import zlib
from typing import TYPE_CHECKING, NamedTuple

import h11
import trio
import trio.abc
import trio.lowlevel
from hyperframe.frame import DataFrame, RstStreamFrame, WindowUpdateFrame

from trioserve.protocols.websocket.masking import unmask
from trioserve.testing.http2_client import Http2Client
from trioserve.testing.raw_client import Response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Fields = list[tuple[bytes, bytes]]

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
FIN, RSV1 = 0x80, 0x40
KEY = base64.b64encode(b"the sample nonce")
MASK = b"\x37\xfa\x21\x3d"
RECEIVE_SIZE = 65536


def client_frame(first: int, payload: bytes = b"", *, mask: bytes | None = MASK) -> bytes:
    """Render a frame as a client does (RFC 6455 section 5.2).

    Args:
        first: its first byte: FIN, the reserved bits and the opcode.
        payload: before masking.
        mask: four bytes; None sends it unmasked, which no client may.
    """
    size = len(payload)
    masked = 0 if mask is None else 0x80
    if size < 126:
        head = bytes((first, masked | size))
    elif size < 65536:
        head = struct.pack("!BBH", first, masked | 126, size)
    else:
        head = struct.pack("!BBQ", first, masked | 127, size)
    return head + payload if mask is None else head + mask + unmask(payload, mask)


def close_payload(code: int, reason: str = "") -> bytes:
    """Render the payload of a close frame."""
    return struct.pack("!H", code) + reason.encode()


class ReceivedFrame(NamedTuple):
    """A frame that the server has sent."""

    first: int
    payload: bytes

    @property
    def opcode(self) -> int:
        """What it is: `TEXT`, `CLOSE` and so on."""
        return self.first & 0x0F

    @property
    def code(self) -> int:
        """The code of a close frame, 1005 if it has none."""
        return struct.unpack("!H", self.payload[:2])[0] if self.payload else 1005

    @property
    def reason(self) -> str:
        """The words of a close frame."""
        return self.payload[2:].decode()


class WebSocketClient:
    """One session, driven by hand.

    Args:
        stream: the bytes of both directions, after the handshake.
        response: what the handshake was answered with.
        unread: bytes that came with it.

    Attributes:
        answer_pings: whether a ping is answered while something else is waited for.
        frames: everything that came.
        reset: whether the transport broke rather than ended, as far as it was read.
    """

    def __init__(self, stream: trio.abc.Stream, response: Response, unread: bytes = b"") -> None:
        self.stream = stream
        self.response = response
        self.answer_pings = True
        self.frames: list[ReceivedFrame] = []
        self.reset = False
        self._unread = unread

    @property
    def accepted(self) -> bool:
        """Whether there is a session."""
        return self.response.status == (200 if self.response.http_version == "2" else 101)

    async def send(self, message: str | bytes) -> None:
        """Send a whole message in one frame: text for `str`, binary for `bytes`."""
        if isinstance(message, str):
            await self.send_frame(FIN | TEXT, message.encode())
        else:
            await self.send_frame(FIN | BINARY, message)

    async def send_frame(self, first: int, payload: bytes = b"", *, mask: bytes | None = MASK) -> None:
        """Send one frame; see `client_frame`."""
        await self.stream.send_all(client_frame(first, payload, mask=mask))

    async def send_bytes(self, data: bytes) -> None:
        """Send bytes as they are.

        Raises:
            trio.BrokenResourceError: the server has gone.
        """
        await self.stream.send_all(data)

    async def next_frame(self) -> ReceivedFrame | None:
        """Return the next frame, whatever it is; None at the end of the stream."""
        while (frame := self._cut_frame()) is None:
            try:
                data = bytes(await self.stream.receive_some(RECEIVE_SIZE))
            except trio.BrokenResourceError:
                self.reset = True
                data = b""
            if not data:
                assert not self._unread, f"the stream ended inside a frame: {self._unread[:100]!r}"
                return None
            self._unread += data
        self.frames.append(frame)
        return frame

    async def receive(self) -> str | bytes | ReceivedFrame | None:
        """Return the next message, or the close frame, or None at the end of the stream."""
        parts: list[bytes] = []
        first = 0
        while (frame := await self.next_frame()) is not None:
            if frame.opcode == PING and self.answer_pings:
                await self.send_frame(FIN | PONG, frame.payload)
            elif frame.opcode == CLOSE:
                return frame
            elif frame.opcode < CLOSE:
                first = first or frame.first
                parts.append(frame.payload)
                if frame.first & FIN:
                    data = b"".join(parts)
                    if first & RSV1:
                        data = zlib.decompressobj(-15).decompress(data + b"\x00\x00\xff\xff")
                    return data.decode() if first & 0x0F == TEXT else data
        return None

    async def close(self, code: int | None = 1000, reason: str = "") -> ReceivedFrame | None:
        """Send a close frame, and return the server's."""
        await self.send_frame(FIN | CLOSE, b"" if code is None else close_payload(code, reason))
        return await self.wait_close()

    async def wait_close(self) -> ReceivedFrame | None:
        """Return the server's close frame, whatever comes before it; None if the stream ends without one."""
        while True:
            message = await self.receive()
            if message is None or isinstance(message, ReceivedFrame):
                return message

    async def wait_end(self) -> None:
        """Return when the server has ended its side, or has gone; `reset` tells which."""
        while await self.next_frame() is not None:
            pass

    async def aclose(self) -> None:
        """Leave without a word."""
        await self.stream.aclose()

    def _cut_frame(self) -> ReceivedFrame | None:
        data = self._unread
        if len(data) < 2:
            return None
        assert not data[1] & 0x80, "a server's frames are not masked (RFC 6455 section 5.1)"
        size, start = data[1], 2
        if size == 126:
            start, size = 4, int.from_bytes(data[2:4], "big")
        elif size == 127:
            start, size = 10, int.from_bytes(data[2:10], "big")
        if len(data) < start or len(data) < start + size:
            return None
        self._unread = data[start + size :]
        return ReceivedFrame(data[0], data[start : start + size])


async def open_http1_session(
    stream: trio.abc.Stream,
    path: str = "/",
    headers: Iterable[tuple[bytes, bytes]] = (),
    *,
    first: bytes = b"",
) -> WebSocketClient:
    """Ask for a session over HTTP/1.1 and return it, accepted or not (RFC 6455 section 4.1).

    Args:
        stream: a connection.
        path: what to ask for.
        headers: besides those that each handshake has.
        first: sent in the same segment as the request.
    """
    parser = h11.Connection(h11.CLIENT)
    fields = [
        *((b"host", b"localhost"), (b"upgrade", b"websocket"), (b"connection", b"Upgrade")),
        *((b"sec-websocket-key", KEY), (b"sec-websocket-version", b"13"), *headers),
    ]
    request = parser.send(h11.Request(method="GET", target=path, headers=fields))
    parser.send(h11.EndOfMessage())
    await stream.send_all((request or b"") + first)
    head: h11.Response | h11.InformationalResponse | None = None
    body = b""
    while True:
        event = parser.next_event()
        if event is h11.NEED_DATA:
            parser.receive_data(bytes(await stream.receive_some(RECEIVE_SIZE)))
        elif isinstance(event, h11.InformationalResponse | h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        else:
            assert head is not None, f"no response to the handshake, but {event!r}"
            response = Response(head.status_code, bytes(head.reason).decode(), list(head.headers), body)
            return WebSocketClient(stream, response, parser.trailing_data[0])


async def open_http2_session(
    client: TunnelClient,
    path: str = "/",
    headers: Iterable[tuple[bytes, bytes]] = (),
    *,
    first: bytes = b"",
) -> WebSocketClient:
    """Ask for a session over HTTP/2 and return it, accepted or not (RFC 8441).

    Args:
        client: a connection, started.
        path: what to ask for.
        headers: besides those that each handshake has.
        first: sent in the same segment as the request.
    """
    fields = [(b"sec-websocket-version", b"13"), *headers]
    tunnel = await client.open_tunnel(path, fields, first=first)
    response = await client.wait_head(tunnel.stream_id)
    if response.status != 200:
        response = await client.response(tunnel.stream_id)
    return WebSocketClient(tunnel, response)


class TunnelClient(Http2Client):
    """An HTTP/2 client that opens tunnels by extended CONNECT (RFC 8441)."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        super().__init__(stream)
        self.update_windows = False  # credit is given for what somebody has read

    async def open_tunnel(
        self, path: str = "/", headers: Iterable[tuple[bytes, bytes]] = (), *, first: bytes = b""
    ) -> Http2Tunnel:
        """Send an extended CONNECT, with `first` in the same write; see `wait_head` for the answer."""
        stream_id, self.next_stream_id = self.next_stream_id, self.next_stream_id + 2
        pseudo = [
            *((b":method", b"CONNECT"), (b":protocol", b"websocket"), (b":scheme", self.scheme.encode())),
            *((b":path", path.encode()), (b":authority", self.authority.encode())),
        ]
        frames = self.head_frames(stream_id, [*pseudo, *headers], end_stream=False)
        await self.send(*frames, *([DataFrame(stream_id, first)] if first else []))
        return Http2Tunnel(self, stream_id)

    async def wait_head(self, stream_id: int) -> Response:
        """Return the head of the final response, once it has come."""
        record = self.record(stream_id)

        def came() -> bool | None:
            assert record.reset is None, self.complaint(f"stream {stream_id} was reset")
            return True if record.heads else None

        await self._wait_until(came, f"head on stream {stream_id}", None)
        return record.response()

    async def wait_for_news(self, found: Callable[[], bool], wanted: str) -> None:
        """Read until something is so, or the server has closed the connection."""
        await self._wait_until(lambda: True if found() or self.closed else None, wanted, None)


class Http2Tunnel(trio.abc.HalfCloseableStream):
    """The client's end of a tunnel.

    Closing it ends the stream in both directions: END_STREAM, then RST_STREAM.

    Args:
        client: the connection.
        stream_id: the stream of the extended CONNECT.
    """

    def __init__(self, client: TunnelClient, stream_id: int) -> None:
        self.client = client
        self.stream_id = stream_id
        self._record = client.record(stream_id)
        self._read = 0  # bytes of what came that were taken
        self._ended = self._closed = False
        self._busy: dict[str, trio.CancelScope] = {}

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return the next bytes, b"" at the end of the stream; see `trio.abc.ReceiveStream`."""
        if max_bytes is not None and operator.index(max_bytes) < 1:
            raise ValueError("max_bytes must be at least 1")
        record = self._record

        def found() -> bool:
            return len(record.body) > self._read or record.ended or record.reset is not None

        await self._alone("receive", found, f"bytes on stream {self.stream_id}")
        data = bytes(record.body[self._read :][:max_bytes])
        self._read += len(data)
        if data:
            await self._give_credit(len(data))
        elif not record.ended:
            raise trio.BrokenResourceError(f"the stream was reset ({record.reset})")
        return data

    async def _give_credit(self, size: int) -> None:
        frames = [WindowUpdateFrame(0, size)]
        if not self._record.ended and self._record.reset is None:
            frames.append(WindowUpdateFrame(self.stream_id, size))
        try:
            with trio.CancelScope(shield=True):
                await self.client.send(*frames)
        except trio.BrokenResourceError:
            pass

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send as fast as the server's windows allow; see `trio.abc.SendStream`."""
        left = memoryview(data).cast("B")
        client, record = self.client, self._record
        while True:
            await self._alone("send", self._can_send, f"window on stream {self.stream_id}")
            if self._ended:
                raise trio.ClosedResourceError("the sending side of this stream was closed")
            if record.reset is not None or client.closed:
                raise trio.BrokenResourceError(f"the stream was reset ({record.reset})")
            if not left:
                return
            size = min(len(left), 16384, client.window, record.window)
            await client.send(DataFrame(self.stream_id, bytes(left[:size])))
            left = left[size:]

    def _can_send(self) -> bool:
        return min(self.client.window, self._record.window) > 0 or self._record.reset is not None

    async def wait_send_all_might_not_block(self) -> None:
        """Return when there is a window."""
        await self._alone("send", self._can_send, f"window on stream {self.stream_id}")
        if self._ended:
            raise trio.ClosedResourceError("the sending side of this stream was closed")

    async def _alone(self, what: str, found: Callable[[], bool], wanted: str) -> None:
        """Wait until something is so, as the only task that waits for it, and until the tunnel is closed."""
        if what in self._busy:
            raise trio.BusyResourceError(f"another task is busy with {what} on this stream")
        with trio.CancelScope() as self._busy[what]:
            try:
                if self._closed:
                    await trio.lowlevel.checkpoint()
                    raise trio.ClosedResourceError("this stream was closed")
                await trio.lowlevel.checkpoint()
                await self.client.wait_for_news(found, wanted)
            finally:
                del self._busy[what]
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")

    async def send_eof(self) -> None:
        """Send END_STREAM."""
        if "send" in self._busy:
            raise trio.BusyResourceError("another task is busy with send on this stream")
        await trio.lowlevel.checkpoint()
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")
        if not self._ended:
            self._ended = True
            await self.client.send(DataFrame(self.stream_id, flags=["END_STREAM"]))

    async def aclose(self) -> None:
        """End both directions."""
        if not self._closed:
            self._closed = True
            for scope in self._busy.values():
                scope.cancel()
            frames: list[DataFrame | RstStreamFrame] = []
            if self._record.reset is None:
                if not self._ended:
                    frames.append(DataFrame(self.stream_id, flags=["END_STREAM"]))
                if not self._record.ended:
                    frames.append(RstStreamFrame(self.stream_id))
            try:
                with trio.CancelScope(shield=True):
                    await self.client.send(*frames)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
        await trio.lowlevel.checkpoint()

    async def reset(self, code: int = 8) -> None:
        """Send RST_STREAM, CANCEL if not told otherwise."""
        await self.client.send(RstStreamFrame(self.stream_id, code))
