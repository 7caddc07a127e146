"""A WebSocket session on its bytes: an upgraded HTTP/1.1 transport, or a stream of HTTP/2 (RFC 6455, RFC 8441).

Theory of operation. The application runs in the task of its request, and there is no other: when it waits for a message
it reads itself. While it does not, bytes that come are taken where the transport tells of them, so pings are answered
and a close is noticed; up to `[websocket] queue` messages are kept for it, and then nothing more is read. Nobody leaves
bytes unlooked at for another reason, for they will not be told of again. Whoever finds the transport busy waits for
his turn; a pong that has to wait is left in the machine, which keeps the latest only.

Invariant: a frame is never inside another. `_writing` is set from the moment the transport leaves a part of a frame.
"""

from __future__ import annotations

import logging
from collections import deque
from math import inf
from typing import TYPE_CHECKING, Protocol

import trio

from trioserve.asgi.errors import ClientDisconnected
from trioserve.asgi.request_control import RequestControl
from trioserve.asgi.session import WebSocketSession
from trioserve.asgi.session_phase import SessionPhase
from trioserve.protocols.websocket.events import NEED_DATA, PONG, Closed, Message
from trioserve.protocols.websocket.handshake import accept_fields
from trioserve.protocols.websocket.machine import WebSocketMachine
from trioserve.server.controlled import ControlledExchange
from trioserve.server.ending import ANSWERS, Ending
from trioserve.server.exchange_rules import record_exchange

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trioserve.asgi.channel import Peer, Request, ResponseChannel, Rest
    from trioserve.asgi.scope import ScopeBuilder
    from trioserve.asgi.types import Headers
    from trioserve.protocols.websocket.events import Event
    from trioserve.protocols.websocket.handshake import WebSocketRequest
    from trioserve.server.context import ServerContext
    from trioserve.server.transport import Transport

logger = logging.getLogger("trioserve.error")

GONE = (trio.BrokenResourceError, trio.ClosedResourceError)
RECEIVE_SIZE = 32768  # a read of nothing but tiny frames is all worked through before others get their turn
QUEUE_SIZE = 1 << 20
"""Bytes of messages that wait for the application before nothing more is read, whatever their number."""
MESSAGES_AT_ONCE = 64
"""Messages, or signals, that are taken in before others have their turn; of bytes it is one read."""
OWED_ANSWER_TIMEOUT = 1.0
"""Seconds that the last words to the client of a cancelled session may take to leave."""
LINGER_TIMEOUT = 2.0
"""Seconds for which a client's bytes are still read at the end, so that it gets to read our close frame."""
VANISHED = Closed(1006, "")
_LAST_WORDS = {
    Ending.SHUTDOWN: (1012, "the server restarts"),
    Ending.REQUEST_TIMEOUT: (1011, "the session took too long"),
}


class Carrier(Protocol):
    """The protocol that a session begins on."""

    @property
    def channel(self) -> ResponseChannel:
        """How the handshake is answered when it is refused."""
        ...

    @property
    def transport(self) -> Transport:
        """What that answer goes over."""
        ...

    async def open_duplex(self, fields: Headers) -> tuple[Transport, bytes]:
        """Accept the handshake with these fields; return the bytes of both directions, and those that came already."""
        ...


class WebSocketConnection(ControlledExchange):
    """One session; a `SessionChannel`.

    Args:
        context: what all connections share.
        carrier: the connection or stream that the handshake came on.
        request: its head.
        wishes: what it asks for.
        peer: the addresses, after the proxy rules.

    Attributes:
        session: the application's side.
        cancel_scope: what the application runs in.
        left: the client has closed, or has ended its sending side.
        gone: nothing that is written can reach the client.
        read_deadline, write_deadline, exchange_deadline: times on Trio's clock, for the sweeping task.
    """

    __slots__ = (
        *(
            "_app_over",
            "_awaits_pong",
            "_bytes_at_stall",
            "_carrier",
            "_close_deadline",
            "_end",
            "_heard",
            "_http",
            "_idle",
        ),
        *(
            "_left_at",
            "_machine",
            "_now",
            "_over",
            "_parked",
            "_paused",
            "_ping_sent",
            "_queue",
            "_queued",
            "_reads_on",
        ),
        *(
            "_settings",
            "_spoke",
            "_transport",
            "_wishes",
            "_write_stall",
            "_writing",
            "cancel_scope",
            "ending",
            "exchange_deadline",
            "gone",
            "left",
        ),
        *("read_deadline", "session", "write_deadline"),
    )

    def __init__(
        self, context: ServerContext, carrier: Carrier, request: Request, wishes: WebSocketRequest, peer: Peer
    ) -> None:
        self._context = context
        self._carrier = carrier
        self._http = carrier.channel
        self._wishes = wishes
        self._settings = context.settings.websocket
        self._timeouts = context.settings.timeouts
        # A stream of HTTP/2 watches its own writes, since it knows whose fault a stall is.
        self._write_stall = inf if request.http_version == "2" else self._timeouts.write_stall
        self._now = trio.lowlevel.current_clock().current_time
        self._machine = WebSocketMachine(self._settings.limits, wishes.deflate)
        self._transport: Transport | None = None  # once accepted
        self._queue: deque[Message] = deque()
        self._queued = 0  # bytes of them
        self._paused = False  # nothing is read because the queue is full
        self._reads_on = False  # a task does, in pieces
        self._parked = False  # the application waits for bytes, or has just been given some
        self._app_over = False  # the application has ended, and what is left is to close
        self._end: Closed | None = None
        self._writing = False
        self._idle: trio.Event | None = None  # set when nobody writes any more
        self._over: trio.Event | None = None  # set when the client has left, or the session is over
        self._awaits_pong = False
        self._heard = self._spoke = (
            self._ping_sent
        ) = -inf  # when something came, a message passed, a ping left
        self._bytes_at_stall = 0
        self._left_at = self._close_deadline = self._request_deadline = inf
        self._cancel_on_disconnect = context.settings.lifecycle.on_disconnect == "cancel"
        self.cancel_scope = trio.CancelScope()
        self.ending: Ending | None = None
        self.left = False
        self.gone = False
        self.read_deadline = self.write_deadline = self.exchange_deadline = inf
        self.session = WebSocketSession(request, self, peer, self._now())

    # -- life -----------------------------------------------------------------------------------------------------

    async def run(self, scopes: ScopeBuilder) -> None:
        """Run the application and see the session to its end, whatever happens; never raises an `Exception`.

        The carrier closes what is below afterwards.
        """
        context, session = self._context, self.session
        context.deadlines.add(self)
        context.counters.requests_running += 1
        try:
            with self.cancel_scope:
                control = RequestControl(self, session)
                scope = scopes.build_websocket(
                    session.request, session.peer, control, self._wishes.subprotocols
                )
                await session.run(context.app, scope)
            self._app_over = True
            self._settle_exchange_deadline()
            if self.cancel_scope.cancelled_caught:
                await self._end_cancelled(self.ending or Ending.REQUEST_TIMEOUT)
            elif self._transport is not None:
                await self._end_in_order(self._transport)
        except Exception:
            logger.exception("this is a bug in trioserve; one session was closed")
            self.abort()
        finally:
            context.counters.requests_running -= 1
            context.deadlines.discard(self)
            self._app_over = True
            if self._over is not None:
                self._over.set()
            record_exchange(context, session, self._now())

    async def _end_in_order(self, transport: Transport) -> None:
        """Complete the closing handshake, and end our side of the stream (RFC 6455 section 7.1.1)."""
        try:
            with trio.move_on_after(self._settings.close_timeout):
                await self._wait_for_close()
                await self._wait_for_turn()
            if self._end is None or self._writing:
                self.abort()  # it does not close, or does not read
                return
            with trio.move_on_after(LINGER_TIMEOUT):
                await transport.send_eof()
                if self._end.failed:
                    await _discard_rest(transport)
        except GONE:
            pass

    async def _wait_for_close(self) -> None:
        """Drop what still comes before the client's close frame."""
        while self._end is None:
            try:
                await self.receive_message()
            except trio.BusyResourceError:  # a task that outlives the application receives
                await self.wait_disconnected()
            await trio.lowlevel.checkpoint()  # a client that says much must not stop the others

    async def _end_cancelled(self, ending: Ending) -> None:
        """Tell the client of a cancelled session why, if it can still be told."""
        session, transport = self.session, self._transport
        session.outcome = ending.outcome
        self.read_deadline = self.write_deadline = self.exchange_deadline = inf
        told = False
        with trio.move_on_after(OWED_ANSWER_TIMEOUT):
            try:
                if transport is None:
                    if ending.status and session.phase in (SessionPhase.HANDSHAKE, SessionPhase.DENIAL_HELD):
                        fields = [(b"retry-after", b"1")] if ending.status == 503 else []
                        await session.answer(ending.status, ANSWERS[ending.status], fields)
                    return
                if ending in _LAST_WORDS and not self.gone:
                    await self.close(*_LAST_WORDS[ending])
                    told = True
                    await transport.send_eof()
                    await _discard_rest(transport)
            except (*GONE, ClientDisconnected, trio.BusyResourceError):
                pass
        if transport is not None and not told:
            self.abort()

    # -- the handshake, and its refusal ---------------------------------------------------------------------------

    async def accept(self, subprotocol: str | None, headers: Headers) -> None:
        """See `SessionChannel`."""
        fields = accept_fields(self._wishes, subprotocol, headers)
        if self.gone:
            raise ClientDisconnected("the client has left")
        transport, data = await self._carrier.open_duplex(fields)
        self._transport = transport
        transport.observe(self)
        self._heard = self._spoke = self._now()
        self.read_deadline = self._heard + self._settings.ping_interval
        self._settle_exchange_deadline()
        if data:
            self._machine.receive_data(data)
        self.bytes_waiting()
        if self._context.draining.is_set():
            self.drain()

    def prepare_head(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """See `ResponseChannel`."""
        self._http.prepare_head(status, headers)

    def write_head(self, data: bytes, last: bool, length: int | None = None) -> Rest | None:
        """See `ResponseChannel`."""
        return self._http.write_head(data, last, length)

    def write_body(self, data: bytes, last: bool) -> Rest | None:
        """See `ResponseChannel`."""
        return self._http.write_body(data, last)

    async def wait_disconnected(self) -> None:
        """See `ResponseChannel`."""
        if self._over is None:
            self._over = trio.Event()
        await self._over.wait()

    # -- reading --------------------------------------------------------------------------------------------------

    async def receive_message(self) -> Message | Closed:
        """See `SessionChannel`."""
        transport, machine = self._transport, self._machine
        assert transport is not None
        others_wait = False
        while True:
            if self._queue:
                return self._take_queued()
            if self._end is not None:
                return self._end
            event = machine.next_event()
            if type(event) is Message:
                if self._settings.idle_timeout != inf:
                    self._spoke = self._now()
                if (machine.unread or transport.readable) and not self._reads_on:
                    # Not at once: the application shall have answered before what follows can end the session.
                    self._reads_on = True
                    self._context.spawn(self._read_on, transport)
                return event
            if event is NEED_DATA:
                self._send_answers()
                if others_wait or machine.unread:
                    others_wait = False
                    await trio.lowlevel.checkpoint()
                    continue
                try:
                    data = transport.receive_now(RECEIVE_SIZE)
                    if data is None:
                        data = await self._wait_for_bytes(transport)
                    else:
                        others_wait = True
                except GONE:
                    data = b""
                if data:
                    self._heard = self._now()
                    machine.receive_data(data)
                else:
                    self._vanish()
            else:
                self._note(event)

    async def _wait_for_bytes(self, transport: Transport) -> bytes:
        """Wait; until the task goes on, nobody else may read, for what it was given comes before that."""
        self._parked = True
        try:
            return await transport.parked_receive(RECEIVE_SIZE)
        finally:
            self._parked = False

    def _note(self, event: Event) -> None:
        """Act on what is no message."""
        if isinstance(event, Closed):
            self._close_received(event)
        elif event is PONG:
            self._awaits_pong = False
            self.read_deadline = self._heard + self._settings.ping_interval
            self._context.deadlines.hurry(self)

    def _take_queued(self) -> Message:
        message = self._queue.popleft()
        self._queued -= len(message.data)
        if self._paused and not self._queue:
            self._paused = False
            self.bytes_waiting()
        return message

    def bytes_waiting(self) -> None:
        """See `TransportObserver`: read for an application that does not, as far as its queue goes."""
        if self._transport is not None and not self._reads_on and self._take_in(self._transport):
            self._reads_on = True
            self._context.spawn(self._read_on, self._transport)

    async def _read_on(self, transport: Transport) -> None:
        """Go on where `bytes_waiting` has stopped in order not to hold others up."""
        try:
            await trio.lowlevel.checkpoint()
            while self._take_in(transport):
                await trio.lowlevel.checkpoint()
        finally:
            self._reads_on = False

    def _take_in(self, transport: Transport) -> bool:
        """Read, answer and queue; whether there may be more to do, in a while."""
        queue, machine = self._queue, self._machine
        size = 0
        for _ in range(MESSAGES_AT_ONCE):
            if self._end is not None or self._parked:
                return False
            if len(queue) >= self._settings.queue or self._queued >= QUEUE_SIZE:
                self._paused = True
                return False
            event = machine.next_event()
            if isinstance(event, Message):
                self._enqueue(event)
            elif event is NEED_DATA:
                self._send_answers()
                if size >= RECEIVE_SIZE or machine.unread:
                    return True
                data = self._read_now(transport)
                if not data:
                    return False
                size += len(data)
                machine.receive_data(data)
            else:
                self._note(event)
        return True

    def _enqueue(self, message: Message) -> None:
        if (
            self.session.phase is not SessionPhase.CLOSED
        ):  # after its own close an application expects the end alone
            self._spoke = self._now()
            self._queue.append(message)
            self._queued += len(message.data)

    def _read_now(self, transport: Transport) -> bytes | None:
        """Return what has come; nothing if there is nothing now, or if the client is found to be gone."""
        try:
            data = transport.receive_now(RECEIVE_SIZE)
        except trio.BusyResourceError:
            return None
        except GONE:
            data = b""
        if data:
            self._heard = self._now()
        elif data is not None:
            self._vanish()
        return data

    def _close_received(self, closed: Closed) -> None:
        """The client has closed, or broke the protocol: answer, and let the application go."""
        self._end = closed
        if closed.failed:
            self.session.outcome = "refused"
        self._send_answers()
        self._lose(broken=False)

    def _vanish(self) -> None:
        """The client is gone without a word."""
        if self._end is None:
            self._end = VANISHED
        self._lose(broken=True)

    def _lose(self, *, broken: bool) -> None:
        self.left = True
        self.gone = self.gone or broken or (self._transport is not None and self._end is not None)
        if self._over is not None:
            self._over.set()
        self.read_deadline = self._close_deadline = inf
        self._left_at = min(self._left_at, self._now())
        self._settle_exchange_deadline()

    def peer_left(self, broken: bool) -> None:
        """See `TransportObserver`."""
        if self._transport is None:
            self._lose(broken=broken)
        elif self._end is not None:
            return
        elif self._queue:
            self._lose(broken=broken)  # the application is told when it has taken what came before
        elif broken:
            self._vanish()

    # -- writing --------------------------------------------------------------------------------------------------

    def write_message(self, data: str | bytes) -> Rest | None:
        """See `SessionChannel`."""
        transport, machine = self._transport, self._machine
        if self.gone or transport is None or machine.close_sent:
            raise ClientDisconnected("the session is closed")
        answers = machine.data_to_send()  # pongs for what came before this
        payload = machine.send_message(data)
        if answers:
            payload = answers + payload
        if self._settings.idle_timeout != inf:
            self._spoke = self._now()
        if self._writing:
            return [payload]
        try:
            rest = transport.send_now(payload)
        except GONE as error:
            self._vanish()
            raise ClientDisconnected("the client has left") from error
        if rest is None:
            return None
        self._writing = True
        return [rest]

    async def write_rest(self, rest: Rest) -> None:
        """See `ResponseChannel`; waits under the write-stall deadline."""
        if self._transport is None:
            await self._write_denial(rest)
            return
        for piece in rest:
            if not isinstance(piece, memoryview):
                await self._wait_for_turn()
                if self.gone or self._machine.close_sent:
                    raise ClientDisconnected("the session is closed")
            await self._write_frame(self._transport, piece)

    async def _write_denial(self, rest: Rest) -> None:
        self._watch_write(self._carrier.transport)
        try:
            await self._http.write_rest(rest)
        finally:
            self.write_deadline = inf

    def _watch_write(self, transport: Transport) -> None:
        self._bytes_at_stall = transport.bytes_sent
        self.write_deadline = self._now() + self._write_stall

    async def _wait_for_turn(self) -> None:
        while self._writing:
            if self._idle is None:
                self._idle = trio.Event()
            await self._idle.wait()

    async def _write_frame(self, transport: Transport, piece: bytes | memoryview) -> None:
        """Write a frame, or what the transport has left of one. Nobody else is writing."""
        self._watch_write(transport)
        self._writing = True
        try:
            rest = piece if isinstance(piece, memoryview) else transport.send_now(piece)
            if rest is not None:
                await transport.send_rest(rest)
        except GONE as error:
            self._vanish()
            raise ClientDisconnected("the client has left") from error
        finally:
            self._writing = False
            self.write_deadline = inf
            if self._idle is not None:
                self._idle.set()
                self._idle = None
        self._send_answers()

    def _send_answers(self) -> None:
        """Send what the machine answers by itself: the latest pongs, the echo of a close."""
        transport = self._transport
        if self._writing or transport is None or (self.gone and self._end is VANISHED):
            return
        data = self._machine.data_to_send()
        if data:
            self._send_soon(transport, data)

    def _send_soon(self, transport: Transport, frame: bytes) -> None:
        """Send a frame from where one cannot wait; nobody is writing."""
        try:
            rest = transport.send_now(frame)
        except GONE:
            self._vanish()
            return
        if rest is not None:
            self._writing = True
            self._context.spawn(self._send_later, transport, rest)

    async def _send_later(self, transport: Transport, rest: memoryview) -> None:
        try:
            await self._write_frame(transport, rest)
        except ClientDisconnected:
            pass

    async def close(self, code: int, reason: str) -> None:
        """See `SessionChannel`."""
        transport = self._transport
        assert transport is not None
        await self._wait_for_turn()
        if self.gone and self._end is VANISHED:
            raise ClientDisconnected("the client has left")
        frame = self._machine.send_close(code, reason)
        if frame:
            if self._end is None:
                self._close_deadline = self._now() + self._settings.close_timeout
                self._settle_exchange_deadline()
            await self._write_frame(transport, frame)

    def abort(self) -> None:
        """See `ResponseChannel`."""
        if self._transport is None:
            self._http.abort()
        else:
            self._vanish()  # also to whoever waits for his turn
            self._transport.abort()

    # -- deadlines and stopping -----------------------------------------------------------------------------------

    @property
    def _goes_on(self) -> bool:
        """See `ControlledExchange`."""
        return not self.gone and not self._app_over

    def _settle_exchange_deadline(self) -> None:
        """Put it where the request's own, its client's leaving, a close that is not answered, or idleness ask for."""
        if self._app_over:
            self.exchange_deadline = self._close_deadline
            return
        if self.ending is not None:
            return
        grace = self._left_at + self._timeouts.disconnect_grace if self._cancel_on_disconnect else inf
        idle = self._spoke + self._settings.idle_timeout if self._end is None else inf
        if self._transport is None or self._settings.idle_timeout == inf:
            idle = inf
        self.exchange_deadline = min(self._request_deadline, grace, self._close_deadline, idle)
        self._context.deadlines.hurry(self)

    def expire(self, now: float) -> None:
        """See `Deadlined`."""
        if self.ending is not None:
            self._give_up()
        elif self.write_deadline <= now:
            self._expire_write(now)
        elif self.read_deadline <= now:
            self._expire_silence(now)
        elif self._request_deadline <= now:
            self.end_with(Ending.REQUEST_TIMEOUT)
        elif self._close_deadline <= now:
            self.abort()
        elif self._cancel_on_disconnect and self._left_at + self._timeouts.disconnect_grace <= now:
            self.end_with(Ending.DISCONNECTED)
        elif self._end is None and self._spoke + self._settings.idle_timeout <= now:
            self._spoke = now
            self._settle_exchange_deadline()
            self._context.spawn(self._close_quietly, 1001, "nothing was said for too long")
        else:
            self._settle_exchange_deadline()

    def _expire_write(self, now: float) -> None:
        sent = (self._transport or self._carrier.transport).bytes_sent
        if sent != self._bytes_at_stall:
            self._bytes_at_stall = sent
            self.write_deadline = now + self._write_stall
        else:
            self.end_with(Ending.WRITE_STALL)

    def _expire_silence(self, now: float) -> None:
        """Nothing has come for a while: ask for a sign of life, or take its absence for the end."""
        settings = self._settings
        answer_due = self._ping_sent + settings.ping_timeout
        if not self._awaits_pong and self._heard + settings.ping_interval > now:
            self.read_deadline = self._heard + settings.ping_interval
        elif self._awaits_pong and self._heard <= self._ping_sent and answer_due <= now and not self._paused:
            self.abort()
        elif self._writing or self._transport is None or self._machine.close_sent:
            self.read_deadline = now + settings.ping_interval  # the write-stall deadline watches
        else:
            self._awaits_pong = True
            self._ping_sent = now
            wait = settings.ping_interval if settings.ping_timeout == inf else settings.ping_timeout
            self.read_deadline = now + wait
            self._send_soon(self._transport, self._machine.send_ping())

    def _give_up(self) -> None:
        """The application did not end within the grace after its cancellation: let its client go."""
        self.exchange_deadline = inf
        line, why = self.session.request_line, "" if self.ending is None else self.ending.text
        logger.warning("the application does not end after its cancellation (%s): %s", why, line)
        self.gone = self.left = True
        self.abort()

    def drain(self) -> None:
        """Tell the client to come again elsewhere (1012); the application gets `websocket.disconnect` for it."""
        if self._transport is not None and not self._machine.close_sent and self._end is None:
            self._context.spawn(self._close_quietly, 1012, "the server restarts")

    async def _close_quietly(self, code: int, reason: str) -> None:
        try:
            await self.close(code, reason)
        except (ClientDisconnected, *GONE):
            pass

    def end(self) -> None:
        """Cancel the application; the client is told 1012, or 503."""
        self.end_with(Ending.SHUTDOWN)

    def hasten(self) -> bool:
        """Cancel the application now if its client has left; whether that was so."""
        if self.left and self._cancel_on_disconnect:
            self.end_with(Ending.DISCONNECTED)
        return self.ending is not None

    def end_with(self, ending: Ending) -> None:
        """Cancel the application; its client is told what is owed to it then."""
        if self._app_over:
            self.abort()
        elif self.ending is None:
            self.ending = ending
            self.read_deadline = self.write_deadline = self._close_deadline = inf
            self.exchange_deadline = self._now() + self._timeouts.cleanup_grace
            self._context.deadlines.hurry(self)
            self.cancel_scope.cancel()


async def _discard_rest(transport: Transport) -> None:
    """Read what the client still sends: closing before would reset the connection, and our last bytes with it."""
    while await transport.receive_some(RECEIVE_SIZE):
        await trio.lowlevel.checkpoint()
