"""One HTTP/2 stream: a request, the task and the scope its application runs in, and the response (RFC 9113).

`Http2Stream` is the `ResponseChannel` of HTTP/2. It writes into the machine, and never to the transport: a cancelled
application cannot cut a frame in two. Its body waits here until the application takes it, bounded by the
window that the client was given. Not here: the connection's bytes, and what its other streams do (`http2.py`).
"""

from __future__ import annotations

import logging
import os
from collections import deque
from math import inf
from typing import TYPE_CHECKING

import trio

from trioserve.asgi.errors import ClientDisconnected
from trioserve.asgi.exchange import AWAITING_HEAD, COMPLETE, HEAD_HELD, HttpExchange
from trioserve.asgi.request_control import RequestControl
from trioserve.protocols.errors import LocalProtocolError
from trioserve.protocols.http2.frame_gate import CANCEL, INTERNAL_ERROR, NO_ERROR
from trioserve.protocols.http2.response_framing import ResponseFraming
from trioserve.server.controlled import ControlledExchange
from trioserve.server.ending import ANSWERS, Ending
from trioserve.server.exchange_rules import judge_admission, record_exchange

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trioserve.asgi.channel import BodyPiece, Peer, Request, Rest
    from trioserve.asgi.types import Headers
    from trioserve.protocols.http2.events import BodyChunk, Http2Request, StreamClosed
    from trioserve.server.http2 import Http2Connection

logger = logging.getLogger("trioserve.error")

FILE_CHUNK = 262144
OWED_ANSWER_TIMEOUT = 1.0
"""Seconds that the answer to a cancelled request may take to leave."""
JOINED_SIZE = 4096
"""Bytes up to which pieces of a body are joined while they wait."""
RESET_DELAY = 2.0
"""Seconds between an answer and the reset that ends a request which nobody reads; till then it is thrown away."""
STALL_PROGRESS = 4096
"""Bytes that have to leave within the write-stall timeout: a window opened by single bytes is a stall."""


class Http2Stream(ControlledExchange):
    """One exchange on a stream of its own.

    Args:
        connection: the connection it belongs to.
        stream_id: its number.
        request: the head, or a stand-in for one that was refused.
        peer: the addresses, after the proxy rules.

    Attributes:
        exchange: the request and its response.
        cancel_scope: what the application runs in.
        left: the client is not interested any more, or has ended its sending side.
        gone: nothing that is written can reach the client.
        read_deadline, write_deadline, exchange_deadline: times on Trio's clock, for the sweeping task.
    """

    __slots__ = (
        *("_chunks", "_left_at", "_now", "_over", "_owes_continue", "_reading", "_reset_due", "_room"),
        *("_unread", "_unsent_at_stall", "_watched"),
        *("cancel_scope", "connection", "ending", "exchange", "exchange_deadline", "framing", "gone", "left"),
        *("prepare_head", "read_deadline", "stream_id", "write_deadline"),
    )

    def __init__(self, connection: Http2Connection, stream_id: int, request: Request, peer: Peer) -> None:
        context = connection.context
        self.connection = connection
        self.stream_id = stream_id
        self.framing = ResponseFraming()
        self.prepare_head = self.framing.prepare_head  # see `ResponseChannel`
        self.cancel_scope = trio.CancelScope()
        self.ending: Ending | None = None
        self.left = False
        self.gone = False
        self.read_deadline = inf
        self.write_deadline = inf
        self._context = context
        self._timeouts = context.settings.timeouts
        self._now = connection.now
        self.exchange = HttpExchange(request, self, peer, self._now())
        self._request_deadline = self.exchange_deadline = self.exchange.started + self._timeouts.request
        self._chunks: deque[BodyChunk] = deque()
        self._unread = request.has_body
        self._owes_continue = False
        self._reading: trio.Event | None = None  # set when something has come for the task that waits for it
        self._room: trio.Event | None = None  # set when what was sent has left
        self._over: trio.Event | None = None  # set when the exchange is over or the client has left
        self._left_at = inf
        self._cancel_on_disconnect = context.settings.lifecycle.on_disconnect == "cancel"
        self._unsent_at_stall = 0
        self._watched = False
        self._reset_due = False  # all is over but the request

    @property
    def arrival(self) -> tuple[int, int]:
        """See `ControlledConnection`."""
        return self.exchange.peer.connection, self.stream_id

    # -- life -----------------------------------------------------------------------------------------------------

    async def serve(self, request: Http2Request) -> None:
        """Run the application and see the response to its end, whatever happens; never raises an `Exception`."""
        self._owes_continue = request.expects_continue
        exchange, context = self.exchange, self._context
        if self.exchange_deadline != inf:
            self._watch()
        try:
            with self.cancel_scope:
                refusal = judge_admission(context, request) if context.settings.refuses_requests else None
                if refusal is None:
                    context.counters.requests_running += 1
                    try:
                        scope = self.connection.scopes.build_http(
                            request, exchange.peer, RequestControl(self, exchange)
                        )
                        await exchange.run(context.app, scope)
                    finally:
                        context.counters.requests_running -= 1
                else:
                    exchange.outcome = "refused"
                    await self._answer(*refusal)
            if self.cancel_scope.cancelled_caught:
                await self._answer_owed(self.ending or Ending.REQUEST_TIMEOUT)
        except Exception:
            logger.exception("this is a bug in trioserve; one stream was reset")
            self.connection.machine.reset_stream(self.stream_id, INTERNAL_ERROR)
        finally:
            self._finish()

    async def refuse(self, status: int, text: str) -> None:
        """Answer a request that never becomes one for the application; never raises an `Exception`."""
        self.exchange.outcome = "refused"
        try:
            with self.cancel_scope:
                await self._answer(status, text)
        finally:
            self._unread = True  # the client may still be sending what nobody wants
            self._finish()

    async def _answer(self, status: int, text: str, headers: Headers | None = None) -> None:
        try:
            await self.exchange.answer(status, text, headers)
        except ClientDisconnected:
            self.exchange.outcome = "disconnected"

    async def _answer_owed(self, ending: Ending) -> None:
        """Write what a cancelled request is still owed; otherwise the stream is reset."""
        exchange = self.exchange
        self.read_deadline = self.write_deadline = self.exchange_deadline = inf
        if exchange.phase is COMPLETE and not exchange.cut:
            return  # the response was out before the cancellation struck
        exchange.outcome = ending.outcome
        if ending.status and exchange.phase in (AWAITING_HEAD, HEAD_HELD):
            fields = [(b"retry-after", b"1")] if ending.status == 503 else []
            with trio.move_on_after(OWED_ANSWER_TIMEOUT) as scope:
                await self._answer(ending.status, ANSWERS[ending.status], fields)
            if not scope.cancelled_caught:
                return
        exchange.phase = COMPLETE
        self.connection.machine.reset_stream(self.stream_id, CANCEL)

    def _finish(self) -> None:
        """Record the exchange, and give back what was not read."""
        connection, machine = self.connection, self.connection.machine
        exchange = self.exchange
        if exchange.phase is not COMPLETE:  # a hard stop
            exchange.outcome = "cancelled"
            exchange.cut = True
        if exchange.cut:
            machine.reset_stream(self.stream_id, CANCEL)
        if self._over is not None:
            self._over.set()
        if self._watched:
            self._context.deadlines.discard(self)
        if self.left:
            self._context.leavers.discard(self)
        if self._unread:
            # The response is out, or never will be; the rest of the request is of no use (RFC 9113 section 8.1).
            self._stop_request()
            for chunk in self._chunks:
                connection.acknowledge(self.stream_id, len(chunk.data))
            self._chunks.clear()
        record_exchange(self._context, exchange, self._now())
        connection.end_stream(self)

    def _stop_request(self) -> None:
        """Have the client send no more of a request that nobody reads.

        Not at once when it still has an answer to read: some clients drop that when the reset comes with it, and
        get over a short rest sooner.
        """
        if self.gone or self.exchange.cut or self.exchange.phase is not COMPLETE:
            self.connection.machine.reset_stream(self.stream_id, NO_ERROR)
        else:
            self._reset_due = True
            self.read_deadline = self.write_deadline = inf
            self.exchange_deadline = self._now() + RESET_DELAY
            self._watched = False
            self._hurry()

    # -- what the connection tells --------------------------------------------------------------------------------

    def take_chunk(self, chunk: BodyChunk) -> None:
        """Hold a piece of the body until the application asks for it; small ones are joined, for each costs memory."""
        chunks = self._chunks
        if chunks and len(chunks[-1].data) + len(chunk.data) <= JOINED_SIZE:
            last = chunks[-1]
            last.data += chunk.data
            last.last, last.trailers = chunk.last, chunk.trailers
        else:
            chunks.append(chunk)
        if self._reading is not None:
            self._reading.set()

    def close(self, closed: StreamClosed) -> None:
        """The stream was reset; the application is told, and cancelled when its grace is over."""
        exchange = self.exchange
        if exchange.phase is not COMPLETE or self._room is not None:
            exchange.outcome = "disconnected"
        if closed.unsent:
            exchange.cut = True
            exchange.body_bytes_sent = max(0, exchange.body_bytes_sent - closed.unsent)
        self.lose(broken=True)

    def lose(self, *, broken: bool) -> None:
        """The client has ended its sending side, or, if `broken`, nothing can reach it any more."""
        self.left = True
        self.gone = self.gone or broken
        for event in (self._over, self._reading, self._room if broken else None):
            if event is not None:
                event.set()
        if self.exchange.phase is not COMPLETE or self._room is not None:
            self._left_at = min(self._left_at, self._now())
            self._settle_exchange_deadline()
            if self._cancel_on_disconnect:
                self._context.leavers.add(self)

    def make_room(self) -> None:
        """What was sent has left, and more may come."""
        if self._room is not None:
            self._room.set()

    # -- reading --------------------------------------------------------------------------------------------------

    async def read_body(self) -> BodyPiece:
        """See `ResponseChannel`. Sends 100 Continue on the first call if the client waits for it."""
        chunks = self._chunks
        if not chunks:
            if self._reading is not None:
                raise trio.BusyResourceError("another task is reading this body")
            await self._wait_for_chunk()
        if not chunks:
            raise ClientDisconnected("the client has left")
        chunk = chunks.popleft()
        self._owes_continue = False
        size = len(chunk.data)
        if chunk.last:
            self._unread = False
        if size:
            self.connection.acknowledge(self.stream_id, size)
        limit = self._context.settings.limits.body_size
        if limit and self.exchange.bytes_received + size > limit:
            await self._refuse_body()
        return chunk

    async def _wait_for_chunk(self) -> None:
        if self._owes_continue and not self.left and not self.framing.begun:
            self._owes_continue = False
            self.connection.machine.send_information(self.stream_id, [(b":status", b"100")])
            self.connection.wake_writer()
        self.read_deadline = self._now() + self._timeouts.body_stall
        self._watch()
        self._reading = trio.Event()
        try:
            while not self._chunks and not self.left:
                await self._reading.wait()
        finally:
            self._reading = None
            self.read_deadline = inf

    async def _refuse_body(self) -> None:
        """Answer a body that is too large in place of the application, if it has not begun to answer."""
        exchange = self.exchange
        self._unread = True
        if exchange.phase in (AWAITING_HEAD, HEAD_HELD):
            exchange.outcome = "refused"
            await exchange.answer(413, "the request body is too large\n")
        raise ClientDisconnected("the request body is too large")

    async def wait_disconnected(self) -> None:
        """See `ResponseChannel`."""
        if self._over is None:
            self._over = trio.Event()
        await self._over.wait()

    # -- writing --------------------------------------------------------------------------------------------------

    def write_head(self, data: bytes, last: bool, length: int | None = None) -> Rest | None:
        """See `ResponseChannel`."""
        self._check_client()
        framing, machine = self.framing, self.connection.machine
        size = len(data)
        is_head = self.exchange.request.method == "HEAD"
        fields = framing.render_head(is_head, self._context.fields.current_fields(), size if last else length)
        self.exchange.first_byte = self._now()
        if framing.bodyless:
            data = b""
        else:
            framing.count(size)
        if last:
            framing.end()
        ends = last and not data
        machine.send_head(self.stream_id, fields, ends, framing.priority)
        fits = machine.send_body(self.stream_id, data, last) if data else True
        return self._after_write(fits, last)

    def write_body(self, data: bytes, last: bool) -> Rest | None:
        """See `ResponseChannel`."""
        self._check_client()
        framing = self.framing
        if framing.bodyless:
            data = b""
        else:
            framing.count(len(data))
        if last:
            framing.end()
        fits = self.connection.machine.send_body(self.stream_id, data, last) if data or last else True
        return self._after_write(fits, last)

    def write_trailers(self, headers: Headers) -> Rest | None:
        """See `ResponseChannel`."""
        self._check_client()
        framing, machine = self.framing, self.connection.machine
        fields = framing.render_trailers(headers)
        framing.end()
        if fields and not framing.bodyless:
            fits = machine.send_trailers(self.stream_id, fields)
        else:
            fits = machine.send_body(self.stream_id, b"", True)
        return self._after_write(fits, True)

    def _check_client(self) -> None:
        if self.gone:
            raise ClientDisconnected("the client has left")

    def _after_write(self, fits: bool, last: bool) -> Rest | None:
        self.connection.wake_writer()
        if not fits:
            return []
        if last:
            self._end_response()
        return None

    def _end_response(self) -> None:
        """Note that the response is complete: what the application does from here on is its own affair."""
        self.exchange_deadline = inf
        if self._over is not None:
            self._over.set()

    async def write_rest(self, rest: Rest) -> None:  # noqa: ARG002 - what is left is in the machine
        """See `ResponseChannel`; waits under the write-stall deadline until the client has opened its windows."""
        machine = self.connection.machine
        self._unsent_at_stall = machine.unsent(self.stream_id)
        self.write_deadline = self._now() + self._timeouts.write_stall
        self._watch()
        room = self._room = trio.Event()
        try:
            await room.wait()
        except BaseException:
            unsent = machine.unsent(self.stream_id)
            self.exchange.cut = self.exchange.cut or unsent > 0
            self.exchange.body_bytes_sent = max(0, self.exchange.body_bytes_sent - unsent)
            raise
        finally:
            self._room = None
            self.write_deadline = inf
        self._check_client()
        if self.exchange.phase is COMPLETE:
            self._end_response()

    async def write_file(self, file: int, offset: int | None, count: int, last: bool) -> None:
        """See `ResponseChannel`; the bytes are read in a thread, in pieces."""
        position = os.lseek(file, 0, os.SEEK_CUR) if offset is None else offset
        end = position + count
        while position < end and not self.framing.bodyless:
            size = min(end - position, FILE_CHUNK)
            data = await trio.to_thread.run_sync(os.pread, file, size, position)
            if not data:
                raise EOFError("the file is shorter than was announced")
            position += len(data)
            rest = self.write_body(data, last and position == end)
            if rest is not None:
                await self.write_rest(rest)
        if offset is None:
            os.lseek(file, end, os.SEEK_SET)
        if last and (count == 0 or self.framing.bodyless):
            self.write_body(b"", last)
        elif last:
            self._end_response()

    async def write_information(self, status: int, headers: Headers) -> None:
        """See `ResponseChannel`."""
        self._check_client()
        fields = self.framing.render_information(status, headers)
        self.connection.machine.send_information(self.stream_id, fields)
        self.connection.wake_writer()

    def push(self, path: str, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """See `ResponseChannel`."""
        self._check_client()
        self.connection.push(self, path, headers)

    def abort(self) -> None:
        """See `ResponseChannel`."""
        code = INTERNAL_ERROR if self.ending is None else CANCEL
        self.connection.machine.reset_stream(self.stream_id, code)
        self.connection.wake_writer()

    @property
    def _goes_on(self) -> bool:
        """See `ControlledExchange`."""
        return self.exchange.phase is not COMPLETE

    @property
    def _client_left(self) -> bool:
        """See `ControlledExchange`."""
        return self.left or self.gone

    def _settle_exchange_deadline(self) -> None:
        """Put the deadline where the request's own and its client's leaving ask for."""
        grace = self._left_at + self._timeouts.disconnect_grace if self._cancel_on_disconnect else inf
        self.exchange_deadline = min(self._request_deadline, grace)
        self._hurry()

    # -- deadlines ------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Have the deadlines looked at from now on."""
        if not self._watched:
            self._watched = True
            self._context.deadlines.add(self)

    def _hurry(self) -> None:
        """Have them looked at soon, because one of them is near."""
        self._watch()
        self._context.deadlines.hurry(self)

    def expire(self, now: float) -> None:
        """See `Deadlined`."""
        if self._reset_due:
            self.exchange_deadline = inf
            self._context.deadlines.discard(self)
            self.connection.machine.reset_stream(self.stream_id, NO_ERROR)
            self.connection.wake_writer()
        elif self.ending is not None:
            self._give_up()
        elif self.write_deadline <= now:
            self._expire_write(now)
        elif self.exchange_deadline <= now:
            left = self._request_deadline > now
            self._end(Ending.DISCONNECTED if left else Ending.REQUEST_TIMEOUT)
        else:
            self._end(Ending.BODY_STALL)

    def _expire_write(self, now: float) -> None:
        """A stream that waits for its turn, or for the connection, is not stalled by its own window."""
        machine = self.connection.machine
        unsent = machine.unsent(self.stream_id)
        if self._unsent_at_stall - unsent >= STALL_PROGRESS or not machine.is_stalled(self.stream_id):
            self._unsent_at_stall = unsent
            self.write_deadline = now + self._timeouts.write_stall
        else:
            self._end(Ending.WRITE_STALL)

    def _give_up(self) -> None:
        """The application did not end within the grace after its cancellation: let its client go."""
        self.exchange_deadline = inf
        line, why = self.exchange.request_line, "" if self.ending is None else self.ending.text
        logger.warning("the application does not end after its cancellation (%s): %s", why, line)
        self.gone = self.left = True
        self.abort()

    def drain(self) -> None:
        """See `Deadlined`; the connection does it for all of its streams."""

    def end(self) -> None:
        """Cancel what runs; a head that is still owed becomes 503."""
        self._end(Ending.SHUTDOWN)

    def hasten(self) -> bool:
        """Cancel the application now if its client has left; whether that was so."""
        if self._left_at != inf and self._cancel_on_disconnect and self.ending is None:
            self._end(Ending.DISCONNECTED)
        return self.ending is not None

    def _end(self, ending: Ending) -> None:
        if self.ending is None:
            self.ending = ending
            self.read_deadline = self.write_deadline = inf
            self.exchange_deadline = self._now() + self._timeouts.cleanup_grace
            if self._watched or ending is not Ending.SHUTDOWN:  # the server's end has a bound of its own
                self._hurry()
            self.cancel_scope.cancel()


def check_push(path: object, headers: Iterable[tuple[bytes, bytes]]) -> tuple[bytes, Headers]:
    """The target and the fields of a request that the application wants to be pushed.

    Raises:
        LocalProtocolError: the path is not absolute, or a field is illegal.
    """
    if not isinstance(path, str) or not path.startswith("/") or not path.isascii() or not path.isprintable():
        raise LocalProtocolError("http.response.push: path has to be absolute and escaped")
    return path.encode().replace(b" ", b"%20"), ResponseFraming().render_trailers(headers)
