"""A stream of HTTP/2 that carries a WebSocket session, or refuses one (RFC 8441): the `Carrier` of HTTP/2.

It is a stream like any other until the handshake is accepted; then `Http2Duplex` moves bytes through it.
"""

from __future__ import annotations

import logging
from math import inf
from typing import TYPE_CHECKING

import trio

from trioserve.asgi.errors import ClientDisconnected
from trioserve.asgi.exchange import COMPLETE
from trioserve.protocols.http2.frame_gate import CANCEL, INTERNAL_ERROR, NO_ERROR
from trioserve.protocols.websocket.handshake import HandshakeError, judge_connect
from trioserve.server.exchange_rules import judge_admission, record_exchange
from trioserve.server.http2_duplex import Http2Duplex
from trioserve.server.http2_stream import RESET_DELAY, Http2Stream
from trioserve.server.websocket import WebSocketConnection

if TYPE_CHECKING:
    from trioserve.asgi.channel import Peer, ResponseChannel
    from trioserve.asgi.types import Headers
    from trioserve.protocols.http2.events import BodyChunk, Http2Request
    from trioserve.server.ending import Ending
    from trioserve.server.http2 import Http2Connection
    from trioserve.server.transport import Transport

logger = logging.getLogger("trioserve.error")


class Http2SessionStream(Http2Stream):
    """The stream of an extended CONNECT; the arguments are those of `Http2Stream`.

    Attributes:
        session: what runs on it, from a good handshake on.
        duplex: its bytes, once the handshake is accepted.
    """

    __slots__ = ("_all_came", "_content_over", "_lingering", "duplex", "session")

    def __init__(
        self, connection: Http2Connection, stream_id: int, request: Http2Request, peer: Peer
    ) -> None:
        super().__init__(connection, stream_id, request, peer)
        self._request_deadline = self.exchange_deadline = inf  # it is no request that takes too long
        self._all_came = not request.has_body  # the client has ended its side
        self._content_over = self._all_came  # and all of it was taken
        self._lingering: trio.CancelScope | None = None  # around the wait for that, once all is said
        self.session: WebSocketConnection | None = None
        self.duplex: Http2Duplex | None = None

    async def serve(self, request: Http2Request) -> None:
        """Run the session, or refuse it; never raises an `Exception`."""
        machine = self.connection.machine
        try:
            with self.cancel_scope:
                await self._serve_session(request)
                await self._linger()
            if self.cancel_scope.cancelled_caught:
                machine.reset_stream(self.stream_id, CANCEL)
        except Exception:
            logger.exception("this is a bug in trioserve; one stream was reset")
            machine.reset_stream(self.stream_id, INTERNAL_ERROR)
        finally:
            self._finish_session()

    async def _serve_session(self, request: Http2Request) -> None:
        context, settings = self._context, self._context.settings
        try:
            wishes = judge_connect(request, deflate=settings.websocket.deflate)
        except HandshakeError as error:
            await self._refuse(error.status_hint, f"{error}\n", error.headers)
            return
        refusal = judge_admission(context, request) if settings.refuses_requests else None
        if refusal is not None:
            await self._refuse(*refusal)
            return
        self.session = WebSocketConnection(context, self, request, wishes, self.exchange.peer)
        if self.left or self._all_came:
            self.session.peer_left(self.gone)
        await self.session.run(self.connection.scopes)

    async def _linger(self) -> None:
        """Wait until the client has ended its side, too; it has to read our last bytes before a reset comes.

        What it still sends is held, and so its window stops it.
        """
        if self.duplex is None or not self.duplex.ended or self._context.draining.is_set():
            return
        with trio.move_on_after(RESET_DELAY) as self._lingering:
            while not self._all_came and not self.gone:
                self._reading = trio.Event()
                await self._reading.wait()

    async def _refuse(self, status: int, text: str, headers: Headers) -> None:
        self.exchange.outcome = "refused"
        await self._answer(status, text, headers)
        record_exchange(self._context, self.exchange, self._now())

    def _finish_session(self) -> None:
        """End both sides of the stream."""
        self.exchange.phase = COMPLETE
        if self._over is not None:
            self._over.set()
        if self._watched:
            self._context.deadlines.discard(self)
        if self.left:
            self._context.leavers.discard(self)
        if self.duplex is not None:
            self.duplex.close()
        elif not self.framing.ended:
            self.connection.machine.reset_stream(
                self.stream_id, CANCEL
            )  # nothing is owed that could still come
        elif not self._all_came:
            self._stop_request()
        for chunk in self._chunks:
            self.connection.acknowledge(self.stream_id, len(chunk.data))
        self._chunks.clear()
        self.connection.end_stream(self)

    @property
    def transport(self) -> Transport:
        """See `Carrier`."""
        return self.connection.transport

    # -- what the session asks for --------------------------------------------------------------------------------

    @property
    def channel(self) -> ResponseChannel:
        """See `Carrier`."""
        return self

    async def open_duplex(self, fields: Headers) -> tuple[Http2Duplex, bytes]:
        """See `Carrier`."""
        if self.gone:
            raise ClientDisconnected("the client has left")
        head = [(b":status", b"200"), *fields]
        self.connection.machine.send_head(self.stream_id, head, end=False)
        self.connection.wake_writer()
        self.duplex = Http2Duplex(self)
        return self.duplex, b""

    def waits_for_others(self) -> bool:
        """See `Carrier`. Where the write-stall deadline runs it is left to that, as `is_stalled` has one asker only."""
        return self.write_deadline != inf or not self.connection.machine.is_stalled(self.stream_id)

    # -- what the duplex asks for ---------------------------------------------------------------------------------

    def take_content(self) -> bytes | None:
        """Return bytes that have come, b"" at the client's end of the stream, None when there is nothing yet."""
        while self._chunks:
            chunk = self._chunks.popleft()
            self._content_over = self._content_over or chunk.last
            if chunk.data:
                self.connection.acknowledge(self.stream_id, len(chunk.data))
                return chunk.data
        return b"" if self._content_over or (self.left and not self.gone) else None

    async def wait_for_content(self) -> None:
        """Return when `take_content` has something to say, or nothing will come any more."""
        self._reading = trio.Event()
        try:
            if not self._chunks and not self._content_over and not self.left:
                await self._reading.wait()
        finally:
            self._reading = None

    def put_content(self, data: bytes, *, last: bool) -> bool:
        """Send bytes; False when `write_rest` has to be awaited."""
        fits = self.connection.machine.send_body(self.stream_id, data, last)
        self.connection.wake_writer()
        return fits

    @property
    def unsent(self) -> int:
        """Bytes that have been put and not left."""
        return self.connection.machine.unsent(self.stream_id)

    @property
    def full(self) -> bool:
        """So much waits for the client that more should wait, too."""
        return self.unsent > 0 and not self.put_content(b"", last=False)

    def wind_up(self) -> None:
        """End the stream in order, our side behind what was put, and wake whoever waits on it.

        The client's side, or a client that reads no more, ends with a reset, when there was time to read.
        """
        self.exchange.phase = COMPLETE
        if not self.gone:
            self.put_content(b"", last=True)
        for event in (self._reading, self._room):
            if event is not None:
                event.set()
        if self._lingering is not None and self._lingering.cancelled_caught:
            self.connection.machine.reset_stream(self.stream_id, NO_ERROR)
        elif self.unsent or not self._all_came:
            self._stop_request()

    def interrupt(self, code: int) -> None:
        """End what is left of the stream, and wake whoever waits on it."""
        self.connection.machine.reset_stream(self.stream_id, code)
        self.connection.wake_writer()
        super().lose(broken=True)

    # -- what the connection tells --------------------------------------------------------------------------------

    def take_chunk(self, chunk: BodyChunk) -> None:
        """See `Http2Stream`."""
        super().take_chunk(chunk)
        self._all_came = self._all_came or chunk.last
        if self.duplex is not None:
            if chunk.data:
                self.duplex.bytes_came()
            if chunk.last:
                self.duplex.peer_left(False)
        elif chunk.last and self.session is not None:
            self.session.peer_left(False)

    def lose(self, *, broken: bool) -> None:
        """See `Http2Stream`; the session has a grace of its own."""
        super().lose(broken=broken)
        if self.duplex is not None:
            self.duplex.peer_left(broken)
            if not broken:
                self.duplex.bytes_came()  # there will be none, which is to be read
        elif self.session is not None:
            self.session.peer_left(broken)

    def _settle_exchange_deadline(self) -> None:
        """See `ControlledExchange`; the deadlines are the session's, but for that of writing."""

    def _end(self, ending: Ending) -> None:
        """See `Http2Stream`; a session is told, and ends as it has to."""
        if self.session is None:
            super()._end(ending)
        else:
            self.write_deadline = inf
            self.session.end_with(ending)

    def end(self) -> None:
        """See `Deadlined`; the session is told by itself."""
        if self.session is None:
            super().end()

    def hasten(self) -> bool:
        """See `Http2Stream`."""
        return self.session is not None and self.session.hasten()
