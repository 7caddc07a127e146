"""A WebSocket session on its bytes: an upgraded HTTP/1.1 transport, or a stream of HTTP/2 (RFC 6455, RFC 8441).

`WebSocketConnection` is the session's life: the handshake and its refusal, the application, the closing handshake. What
comes from the client is the affair of `websocket_reader.py`, what goes to it of `websocket_writer.py`, and what ends a
session from outside of `websocket_deadlines.py`; none of them knows of the others' insides.

Invariant: the application runs in the task of its request, and a session that has begun is recorded exactly once.
"""

from __future__ import annotations

import contextlib
import logging
from math import inf
from typing import TYPE_CHECKING, Any, Protocol

import trio

from trioserve.asgi.errors import ClientDisconnected
from trioserve.asgi.request_control import RequestControl
from trioserve.asgi.session import WebSocketSession
from trioserve.asgi.session_phase import SessionPhase
from trioserve.protocols.websocket.events import Closed
from trioserve.protocols.websocket.handshake import accept_fields
from trioserve.protocols.websocket.machine import WebSocketMachine
from trioserve.server.ending import ANSWERS, Ending
from trioserve.server.exchange_rules import record_exchange
from trioserve.server.websocket_deadlines import WebSocketDeadlines
from trioserve.server.websocket_reader import GONE, RECEIVE_SIZE, WebSocketReader
from trioserve.server.websocket_writer import WebSocketWriter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from trioserve.asgi.channel import Peer, Request, ResponseChannel, Rest
    from trioserve.asgi.scope import ScopeBuilder
    from trioserve.asgi.types import Headers
    from trioserve.protocols.websocket.handshake import WebSocketRequest
    from trioserve.server.context import ServerContext
    from trioserve.server.transport import Transport

logger = logging.getLogger("trioserve.error")

OWED_ANSWER_TIMEOUT = 1.0
"""Seconds that the last words to the client of a cancelled session may take to leave."""
LINGER_TIMEOUT = 2.0
"""Seconds for which a client's bytes are still read at the end, so that it gets to read our close frame."""
LEAST_DISCARDED = 1 << 20
"""Bytes of them that are read at least; it is more where messages may be larger."""
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

    def waits_for_others(self) -> bool:
        """What is written waits for its turn behind other streams of the connection, and not for the client."""
        ...


class WebSocketConnection:
    """One session; a `SessionChannel`.

    Args:
        context: what all connections share.
        carrier: the connection or stream that the handshake came on.
        request: its head.
        wishes: what it asks for.
        peer: the addresses, after the proxy rules.

    Attributes:
        carrier: see above.
        session: the application's side.
        reader, writer: the frames of both directions.
        deadlines: what ends the session from outside.
        left: the client has closed, or has ended its sending side.
        gone: nothing that is written can reach the client.
        app_over: the application has ended, and what is left is to close.
    """

    __slots__ = (
        "_context",
        "_over",
        "_transport",
        "_wishes",
        "app_over",
        "carrier",
        "deadlines",
        "gone",
        "left",
        "reader",
        "receive_message",
        "session",
        "write_message",
        "writer",
    )

    def __init__(
        self, context: ServerContext, carrier: Carrier, request: Request, wishes: WebSocketRequest, peer: Peer
    ) -> None:
        self._context = context
        self.carrier = carrier
        self._wishes = wishes
        self._transport: Transport | None = None  # once accepted
        self._over: trio.Event | None = None  # set when the client has left, or the session is over
        self.left = False
        self.gone = False
        self.app_over = False
        machine = WebSocketMachine(context.settings.websocket.limits, wishes.deflate)
        # A stream of HTTP/2 watches its own writes, since it knows whose fault a stall is.
        write_stall = inf if request.http_version == "2" else context.settings.timeouts.write_stall
        self.deadlines = WebSocketDeadlines(context, self, write_stall)
        self.writer = WebSocketWriter(context, self, machine)
        self.reader = WebSocketReader(context, self, machine)
        self.receive_message = self.reader.receive_message  # see `SessionChannel`
        self.write_message = self.writer.write_message
        self.session = WebSocketSession(request, self, peer, trio.current_time())

    @property
    def accepted(self) -> bool:
        """The handshake was."""
        return self._transport is not None

    @property
    def vanished(self) -> bool:
        """The client went without a word."""
        return self.reader.end is VANISHED

    @property
    def transport(self) -> Transport:
        """What is written to: until the handshake is accepted, what its refusal would go over."""
        return self._transport or self.carrier.transport

    # -- life -----------------------------------------------------------------------------------------------------

    async def run(self, scopes: ScopeBuilder) -> None:
        """Run the application and see the session to its end, whatever happens; never raises an `Exception`.

        The carrier closes what is below afterwards.
        """
        context, session, deadlines = self._context, self.session, self.deadlines
        context.deadlines.add(deadlines)
        if self.left:
            deadlines.settle()  # its grace began before anybody looked at it
        context.counters.requests_running += 1
        try:
            with deadlines.cancel_scope:
                control = RequestControl(deadlines, session)
                scope = scopes.build_websocket(
                    session.request, session.peer, control, self._wishes.subprotocols
                )
                await session.run(context.app, scope)
            self.app_over = True
            deadlines.settle()
            if deadlines.cancel_scope.cancelled_caught:
                await self._end_cancelled(deadlines.ending or Ending.REQUEST_TIMEOUT)
            elif self._transport is not None:
                await self._end_in_order(self._transport)
        except Exception:
            logger.exception("this is a bug in trioserve; one session was closed")
            self.abort()
        finally:
            context.counters.requests_running -= 1
            context.deadlines.discard(deadlines)
            self.app_over = True
            if self._over is not None:
                self._over.set()
            record_exchange(context, session, trio.current_time())

    async def _end_in_order(self, transport: Transport) -> None:
        """Complete the closing handshake, and end our side of the stream (RFC 6455 section 7.1.1)."""
        reader, writer = self.reader, self.writer
        try:
            with trio.move_on_after(self._context.settings.websocket.close_timeout):
                await self._wait_for_close()
                await writer.wait_for_turn()
            if reader.end is None or writer.busy:
                self.abort()  # it does not close, or does not read
                return
            with trio.move_on_after(LINGER_TIMEOUT):
                await transport.send_eof()
                # On a stream of HTTP/2 it is the window that stops the client.
                if reader.end.failed and transport is self.carrier.transport:
                    await self._discard_rest(transport)
        except GONE:
            pass

    async def _wait_for_close(self) -> None:
        """Drop what still comes before the client's close frame."""
        while self.reader.end is None:
            try:
                await self.reader.receive_message()
            except trio.BusyResourceError:  # a task that outlives the application receives
                await self.wait_disconnected()
            await trio.lowlevel.checkpoint()  # a client that says much must not stop the others

    async def _end_cancelled(self, ending: Ending) -> None:
        """Tell the client of a cancelled session why, if it can still be told."""
        transport = self._transport
        self.session.outcome = ending.outcome
        self.deadlines.clear()
        told = transport is None  # then an answer of HTTP is owed, and its channel ends the rest
        expected = (*GONE, ClientDisconnected, trio.BusyResourceError)
        with trio.move_on_after(OWED_ANSWER_TIMEOUT), contextlib.suppress(*expected):
            if transport is None:
                await self._answer_owed(ending)
            elif ending in _LAST_WORDS and not self.gone:
                await self.close(*_LAST_WORDS[ending])
                told = True
                await transport.send_eof()
                await self._discard_rest(transport)
        if not told:
            self.abort()

    async def _discard_rest(self, transport: Transport) -> None:
        """Read what the client still sends, as far as a message may go: to close before would take our last bytes."""
        left = max(self._context.settings.websocket.limits.max_message_size, LEAST_DISCARDED)
        while left > 0 and (data := await transport.receive_some(RECEIVE_SIZE)):
            left -= len(data)
            await trio.lowlevel.checkpoint()

    async def _answer_owed(self, ending: Ending) -> None:
        """Refuse a handshake whose application was cancelled before it had decided."""
        if ending.status and self.session.phase in (SessionPhase.HANDSHAKE, SessionPhase.DENIAL_HELD):
            fields = [(b"retry-after", b"1")] if ending.status == 503 else []
            await self.session.answer(ending.status, ANSWERS[ending.status], fields)

    # -- the handshake, and its refusal ---------------------------------------------------------------------------

    async def accept(self, subprotocol: str | None, headers: Headers) -> None:
        """See `SessionChannel`."""
        fields = accept_fields(self._wishes, subprotocol, headers)
        names = {name for name, _ in fields}
        defaults = self._context.fields.current_fields()
        fields += [field for field in (*defaults.date, *defaults.server) if field[0] not in names]
        fields += defaults.extra
        if self.gone:
            raise ClientDisconnected("the client has left")
        self.deadlines.watch_write(self.carrier.transport)
        try:
            transport, data = await self.carrier.open_duplex(fields)
        finally:
            self.deadlines.end_write()
        self._transport = self.reader.transport = self.writer.transport = transport
        transport.observe(self)
        self.deadlines.begin()
        self.reader.begin(data)
        if self._context.draining.is_set():
            self.deadlines.drain()

    def prepare_head(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """See `ResponseChannel`."""
        self.carrier.channel.prepare_head(status, headers)

    def write_head(self, data: bytes, last: bool, length: int | None = None) -> Rest | None:
        """See `ResponseChannel`."""
        return self.carrier.channel.write_head(data, last, length)

    def write_body(self, data: bytes, last: bool) -> Rest | None:
        """See `ResponseChannel`."""
        return self.carrier.channel.write_body(data, last)

    async def write_rest(self, rest: Rest) -> None:
        """See `ResponseChannel`; waits under the write-stall deadline."""
        if self._transport is not None:
            await self.writer.write_rest(self._transport, rest)
            return
        self.deadlines.watch_write(self.carrier.transport)
        try:
            await self.carrier.channel.write_rest(rest)
        finally:
            self.deadlines.end_write()

    # -- the end --------------------------------------------------------------------------------------------------

    async def close(self, code: int, reason: str) -> None:
        """See `SessionChannel`."""
        await self.writer.close(code, reason)

    async def wait_disconnected(self) -> None:
        """See `ResponseChannel`."""
        if self._over is None:
            self._over = trio.Event()
        await self._over.wait()

    def abort(self) -> None:
        """See `ResponseChannel`."""
        if self._transport is None:
            self.carrier.channel.abort()
        else:
            self.vanish()  # also to whoever waits for his turn
            self._transport.abort()

    def end_with(self, ending: Ending) -> None:
        """Cancel the application; its client is told what is owed to it then."""
        self.deadlines.end_with(ending)

    def hasten(self) -> bool:
        """Cancel the application now if its client has left; whether that was so."""
        return self.deadlines.hasten()

    # -- what reader and writer find, and what the transport tells ------------------------------------------------

    def spawn(self, async_function: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Do something beside the application; as in `run`, what goes wrong ends the session and nothing else."""
        self._context.spawn(self._run_beside, async_function, args)

    async def _run_beside(
        self, async_function: Callable[..., Awaitable[None]], args: tuple[Any, ...]
    ) -> None:
        try:
            await async_function(*args)
        except Exception:
            logger.exception("this is a bug in trioserve; one session was closed")
            self.abort()

    def close_received(self, closed: Closed) -> None:
        """The client has closed, or broke the protocol: answer, and let the application go."""
        if closed.failed:
            self.session.outcome = "refused"
        self.writer.send_answers()
        self._lose(broken=False)

    def vanish(self) -> None:
        """The client is gone without a word."""
        if self.reader.end is None:
            self.reader.end = VANISHED
        self._lose(broken=True)

    def _lose(self, *, broken: bool) -> None:
        self.left = True
        if broken or (self._transport is not None and self.reader.end is not None):
            self.gone = True
        if self._over is not None:
            self._over.set()
        self.deadlines.lose()

    def bytes_waiting(self) -> None:
        """See `TransportObserver`."""
        self.reader.read_ahead()

    def peer_left(self, broken: bool) -> None:
        """See `TransportObserver`."""
        if self._transport is None:
            self._lose(broken=broken)
        elif self.reader.end is not None:
            return
        elif self.reader.holds_messages:
            self._lose(broken=broken)  # the application is told when it has taken what came before
        elif broken:
            self.vanish()
