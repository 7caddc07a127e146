"""The life of an HTTP/1.1 connection (RFC 9112).

Theory of operation. One Trio task per connection reads a head, runs the application in itself, writes the
response, and goes on with the next head. Per request there is no task, nursery, cancel scope, queue, event or
timer; what would need one is done otherwise:

- Deadlines are three numbers (`read_deadline`, `write_deadline`, `exchange_deadline`) that the server's sweeping task
  looks at; `expire` says what a passed one means.
- Whatever cancels a request (client gone, deadline, shutdown) ends its connection too, so one cancel scope per
  connection is enough. `ending` records why it was cancelled, and `_answer_owed` writes the 408 or 503 that is still
  owed, outside of the scope.
- A client's leaving is told by the poller (`peer_left`), so nothing has to be read to see it.
- An application may go on after its response is complete. If the client's next request comes meanwhile, a successor
  task takes the connection over, and the first one only sees its application to the end (`_hand_over`).

Exchanges begin and end in `http1_exchanges.py`, read and write in `http1_channel.py`; sessions: `http1_session.py`.
"""

from __future__ import annotations

import contextvars
import logging
from math import inf
from typing import TYPE_CHECKING, Any

import trio
import trio.lowlevel

from trioserve.asgi.errors import ClientDisconnected
from trioserve.asgi.exchange import COMPLETE
from trioserve.asgi.request_control import RequestControl
from trioserve.asgi.scope import ScopeBuilder
from trioserve.protocols.errors import RemoteProtocolError
from trioserve.protocols.http1 import CLOSED, NEED_DATA, Event, RequestHead
from trioserve.protocols.websocket.handshake import is_upgrade
from trioserve.server.ending import Ending
from trioserve.server.exchange_rules import judge_admission
from trioserve.server.h2c import SWITCHING_FIELDS, Switch, change_to_http2
from trioserve.server.http1_channel import GONE, RECEIVE_SIZE
from trioserve.server.http1_exchanges import LINGER_TIMEOUT
from trioserve.server.http1_session import Http1SessionCarrier

if TYPE_CHECKING:
    from trioserve.asgi.channel import Peer
    from trioserve.server.context import ServerContext
    from trioserve.server.transport import Transport

logger = logging.getLogger("trioserve.error")

OWED_ANSWER_TIMEOUT = 1.0
"""Seconds that the answer to a cancelled request may take to leave."""
FIRST_REQUEST_GRACE = 1.0
"""Seconds that a connection without a request is given when the server begins to finish."""
LAST_RESPONSE_GRACE = 1.0
"""Seconds after a response in which a finishing server still takes a request: it may be on its way already."""
FOREVER = 1e9
"""Seconds instead of an infinite keep-alive timeout: less this, a deadline still tells since when nothing came."""


class Http1Connection(Http1SessionCarrier):
    """One HTTP/1.1 connection.

    Args:
        context: what all connections share.
        transport: the byte stream.
        peer: the addresses of the connection, before the proxy rules.
        extensions: the ASGI extensions that this connection offers.
        switches: whether the client may begin with HTTP/2, or change to it.

    Attributes:
        switch: once `run` has returned: the connection goes on with HTTP/2, and the transport is open.
    """

    __slots__ = (
        "_ended",
        "_keep_alive",
        "_scopes",
        "cancel_scope",
        "ending",
        "switch",
    )

    def __init__(
        self,
        context: ServerContext,
        transport: Transport,
        peer: Peer,
        extensions: dict[str, Any],
        *,
        switches: bool = False,
    ) -> None:
        super().__init__(context, transport, peer)
        self.switch: Switch | None = Switch(context.http2_limits) if switches else None
        self.cancel_scope = trio.CancelScope()
        self.ending: Ending | None = None
        self._ended: trio.Event | None = None  # there once the connection was handed over
        self._keep_alive = min(self._timeouts.keep_alive, FOREVER)
        self._scopes = ScopeBuilder(context.settings.root_path, context.state, extensions)

    # -- the connection's life ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve requests until the connection ends, then close the transport.

        Or until another task has taken the connection over: then that one closes, and this one waits for it.
        Raises nothing for what the peer or the application does; cancelling it closes at once.
        """
        self.context.deadlines.add(self)
        self.transport.observe(self)
        if not self._requests:
            self.read_deadline = self._now() + self._timeouts.head
            if self.context.draining.is_set():
                self.drain()  # it came out of the backlog, or took long to shake hands
        scope = self.cancel_scope
        begun = False
        try:
            with scope:
                if await self._begins_otherwise():
                    return
                begun = True  # cancelled before, it may have lost bytes
                await self._serve(scope)
            while begun and scope is self.cancel_scope and await self._resume():
                scope = self.cancel_scope
                with scope:
                    await self._serve(scope)
            if scope is self.cancel_scope and scope.cancelled_caught:
                with trio.move_on_after(OWED_ANSWER_TIMEOUT + LINGER_TIMEOUT):
                    await self._answer_owed(self.ending or Ending.REQUEST_TIMEOUT)
        finally:
            if scope is self.cancel_scope:
                self.context.deadlines.discard(self)
            if scope is self.cancel_scope and (self.switch is None or self.switch.machine is None):
                if self._ended is not None:
                    self._ended.set()
                with trio.CancelScope(shield=True, deadline=self._now() + OWED_ANSWER_TIMEOUT):
                    await self.transport.aclose()
        if self._ended is not None:
            await self._ended.wait()  # a successor may still use the transport

    async def _begins_otherwise(self) -> bool:
        """Look at the client's first bytes; whether there is no more to do here, since they are not HTTP/1.1."""
        if self.switch is None or self._requests or not self.context.settings.http2.h2c:
            return False
        self._pipelined = True  # they have to be looked at without a read
        if await self.switch.begins_otherwise(self.transport, self.machine):
            return True
        if not self.context.settings.http2.h2c_upgrade:
            self.switch = None  # thousands of these may be idle
        return False

    async def _upgrade(self, head: RequestHead) -> bool:
        """Serve a WebSocket session, or go on with HTTP/2, if the request asks for it; whether that was so."""
        if self.context.settings.websocket.enabled and is_upgrade(head):
            session = await self._begin_session(head)
            if session is not None:
                self.context.deadlines.discard(self)  # it has its own
                await self._run_session(session, self._scopes)
            return True
        if self.switch is None or not self._trusted or not self.context.settings.http2.h2c_upgrade:
            return False
        machine = change_to_http2(head, self.context.http2_limits)
        if machine is None:
            return False
        await self._transmit(self.machine.send_information(101, SWITCHING_FIELDS))
        self.switch.machine, self.switch.received = machine, self.machine.trailing_data
        return True

    def _hand_over(self) -> None:
        """Let a new task go on with the connection, while the present one sees its application to the end."""
        exchange = self.exchange
        if exchange is not None and self.ending is None:
            self._end_exchange(exchange)
            if self._ended is None:  # an event has no truth value
                self._ended = trio.Event()
            self.cancel_scope = trio.CancelScope()
            self.context.spawn(self._succeed)

    async def _succeed(self) -> None:
        """Go on with the connection; as in `connection.py`, what goes wrong ends it and nothing else."""
        try:
            await self.run()
        except Exception:
            logger.exception("this is a bug in trioserve; one connection was closed")

    async def _serve(self, scope: trio.CancelScope) -> None:  # noqa: C901 - a life in its order, parted nowhere better
        """Serve one request after the other, until the connection ends or another task has taken it over."""
        machine, transport = self.machine, self.transport
        context, counters = self.context, self.context.counters
        clean = contextvars.copy_context()
        try:
            if machine.head is not None and not await self._finish_cycle():
                return  # a successor begins where its predecessor has left
            while True:
                if self._pipelined:
                    await trio.lowlevel.checkpoint()  # a pipeline must not stop the others
                elif self._closing and self._requests and not context.draining.is_set():
                    return
                else:
                    if self._requests:
                        self.read_deadline = self._now() + self._keep_alive
                    data = transport.receive_now(RECEIVE_SIZE)
                    if data is None:
                        data = await transport.parked_receive(RECEIVE_SIZE)
                    machine.receive_data(data)
                    del data
                    if self.ending is not None and self.ending is Ending.IDLE:
                        return  # these bytes came in the moment of the end; `_resume` goes on with them
                event = machine.next_event()
                head = event if type(event) is RequestHead else await self._complete_head(event)
                if head is None:
                    return
                self.read_deadline = inf
                if head.upgrade is not None and await self._upgrade(head):
                    return
                exchange = self._begin_exchange(head)
                refusal = judge_admission(context, head) if context.settings.refuses_requests else None
                if refusal is None:
                    counters.requests_running += 1
                    try:
                        await exchange.run(
                            context.app,
                            self._scopes.build_http(head, exchange.peer, RequestControl(self, exchange)),
                        )
                    finally:
                        counters.requests_running -= 1
                else:
                    exchange.outcome = "refused"
                    self._closing = self._closing or refusal[0] == 413  # its body is not waited for
                    await exchange.answer(*refusal)
                # A cancellation does not come by here: what is owed then is the affair of `_answer_owed`.
                if self.exchange is exchange:
                    self._end_exchange(exchange)
                if scope is not self.cancel_scope:
                    counters.errors += exchange.crashed
                    return
                del event, head, exchange  # an idle connection keeps nothing of its last request
                if not machine.start_next_cycle() and not await self._finish_cycle():
                    return
                if contextvars.copy_context() != clean:
                    # Nothing that one request sets may be seen by the next. Takes effect with the next step.
                    trio.lowlevel.current_task().context = clean.copy()
                    await trio.lowlevel.checkpoint()
        except RemoteProtocolError as error:
            await self._refuse(error)
        except (*GONE, ClientDisconnected):
            pass

    async def _finish_cycle(self) -> bool:
        """Get over the rest of a request; False when the connection ends with it."""
        if self.machine.start_next_cycle() or await self._discard_body():
            self._pipelined = True  # at the least, it has to be looked
            return True
        await self._linger()
        return False

    async def _complete_head(self, event: Event) -> RequestHead | None:
        """Read on until a head is complete; None when the connection ends before one begins."""
        machine = self.machine
        begun = False
        while event is NEED_DATA:
            if machine.request_in_progress:
                if not begun and self._requests:
                    self.read_deadline = self._now() + self._timeouts.head
                begun = True
            elif self._closing and self._requests and not self.context.draining.is_set():
                return None
            elif self.read_deadline == inf:
                self.read_deadline = self._now() + self._keep_alive
            machine.receive_data(await self.transport.receive_some(RECEIVE_SIZE))
            if self.ending is Ending.IDLE:
                return None  # as in `_serve`
            event = machine.next_event()
        assert event is CLOSED or isinstance(event, RequestHead)
        return event if isinstance(event, RequestHead) else None

    # -- the end of the connection --------------------------------------------------------------------------------

    def drain(self) -> None:
        """Finish what runs and begin nothing new.

        A client that has just had a response may have sent its next request by now. It is still answered, as the
        last; who has been idle for longer is let go.
        """
        self._closing = True
        keep_alive, self._keep_alive = self._keep_alive, min(self._keep_alive, LAST_RESPONSE_GRACE)
        if self.exchange is not None:
            if self._answered:
                self._hand_over()
        elif self.read_deadline != inf and not self.machine.request_in_progress:
            now = self._now()
            if not self._requests:
                end = now + FIRST_REQUEST_GRACE
            elif self.machine.head is not None:  # the rest of a body is awaited
                end = now + LAST_RESPONSE_GRACE
            else:
                end = self.read_deadline - keep_alive + LAST_RESPONSE_GRACE
            self.read_deadline = min(self.read_deadline, end)
            if self.read_deadline > now:
                self._hurry()
            else:
                self._end(Ending.IDLE)

    async def _resume(self) -> bool:
        """Look once more before a connection is closed for being idle; whether a request has come after all.

        Closing over bytes that the client has sent would lose its request, and reset the connection.
        """
        machine, ending = self.machine, self.ending
        if ending is not Ending.IDLE or machine.head is not None:
            return False
        if not machine.request_in_progress:
            await trio.lowlevel.checkpoint()  # the poller, or the task that reads ahead, may have news
            self.transport.readable = True  # whatever they told
            try:
                with trio.move_on_after(0):
                    machine.receive_data(await self.transport.receive_some(RECEIVE_SIZE))
            except GONE:
                return False
            if self.ending is not Ending.IDLE or not machine.request_in_progress:
                return False
        self.ending = None
        self.exchange_deadline = inf
        self.read_deadline = self._now() + self._timeouts.head
        self.cancel_scope = trio.CancelScope()
        self._pipelined = True  # the machine has it
        return True

    def end(self) -> None:
        """Cancel what runs; a head that is still owed becomes 503."""
        self._end(Ending.SHUTDOWN)

    def _end(self, ending: Ending) -> None:
        if self.ending is None or self.ending is Ending.IDLE:  # which `_resume` might take back
            self.ending = ending
            self.read_deadline = self.write_deadline = inf
            self.exchange_deadline = self._now() + self._timeouts.cleanup_grace
            self._hurry()
            self.cancel_scope.cancel()

    # -- what the sweeping task and the transport tell --------------------------------------------------------------

    def _hurry(self) -> None:
        self.context.deadlines.hurry(self)

    def expire(self, now: float) -> None:
        """See `Deadlined`."""
        if self.ending is not None:
            self._give_up()
        elif self.write_deadline <= now:
            self._expire_write(now)
        elif self.exchange_deadline <= now and self._answered:
            self.exchange_deadline = inf
            self._hand_over()
        elif self.exchange_deadline <= now:
            left = self._request_deadline > now
            self._end(Ending.DISCONNECTED if left else Ending.REQUEST_TIMEOUT)
        elif self.exchange is not None:
            self._end(Ending.BODY_STALL)
        else:
            self._end(Ending.HEAD_TIMEOUT if self.machine.request_in_progress else Ending.IDLE)

    def _expire_write(self, now: float) -> None:
        sent = self.transport.bytes_sent
        if sent != self._bytes_at_stall:
            self._bytes_at_stall = sent
            self.write_deadline = now + self._timeouts.write_stall
        else:
            self._end(Ending.WRITE_STALL)

    def _give_up(self) -> None:
        """The application did not end within the grace after its cancellation: let its client go."""
        self.exchange_deadline = inf
        if self.exchange is not None and self.ending is not None:
            line, why = self.exchange.request_line, self.ending.text
            logger.warning("the application does not end after its cancellation (%s): %s", why, line)
        self.gone = self.left = True
        self.transport.abort()

    def bytes_waiting(self) -> None:
        """See `TransportObserver`. The next request need not wait for what the application still does."""
        if self._answered:
            self._hand_over()

    @property
    def _answered(self) -> bool:
        """The response is out; two must not be written at once."""
        return self.exchange is not None and self.exchange.phase is COMPLETE and not self._writing

    def peer_left(self, broken: bool) -> None:
        """See `TransportObserver`."""
        self.left = True
        self.gone = self.gone or broken
        if self._over is not None:
            self._over.set()
        if self._answered:
            self._hand_over()  # nobody is there for whom the connection has to stay open
        elif self.exchange is not None and self.exchange.phase is not COMPLETE:
            self._left_at = min(self._left_at, self._now())
            self._settle_exchange_deadline()
