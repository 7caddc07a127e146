"""HTTP/1.1 over a transport (RFC 9112).

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
"""

from __future__ import annotations

import contextvars
import logging
from enum import Enum
from math import inf
from typing import TYPE_CHECKING, Any

import trio
import trio.lowlevel

from trioserve.asgi.errors import ClientDisconnected
from trioserve.asgi.exchange import AWAITING_HEAD, COMPLETE, HEAD_HELD, HttpExchange, Peer, Rest
from trioserve.asgi.request_control import RequestControl
from trioserve.asgi.scope import ScopeBuilder
from trioserve.protocols.errors import RemoteProtocolError
from trioserve.protocols.headers import has_forwarding_fields
from trioserve.protocols.http1 import CLOSED, NEED_DATA, BodyChunk, RequestHead
from trioserve.server.transport import Listener, Transport

if TYPE_CHECKING:
    from trioserve.asgi.background import Background
    from trioserve.asgi.types import Headers
    from trioserve.server.context import ServerContext

logger = logging.getLogger("trioserve.error")

RECEIVE_SIZE = 65536
SMALL_BODY = 65536
"""Bytes up to which a piece of a body is copied behind its head, so that both leave in one write."""
LINGER_TIMEOUT = 2.0
"""Seconds for which a refused client's bytes are still read, so that it gets to read our answer."""
OWED_ANSWER_TIMEOUT = 1.0
"""Seconds that the answer to a cancelled request may take to leave."""
UNREAD_BODY_LIMIT = 256 * 1024
"""Bytes of a body which the application did not read that are discarded to keep the connection."""
HAND_OVER_DELAY = 0.05
"""Seconds after which a pipelined request no longer waits for the end of the application before it."""
FIRST_REQUEST_GRACE = 1.0
"""Seconds that a connection without a request is given when the server begins to finish."""

GONE = (trio.BrokenResourceError, trio.ClosedResourceError)


class Ending(Enum):
    """Why a connection's scope was cancelled: the status owed if no head was sent, and the outcome logged."""

    IDLE = (0, "complete")
    HEAD_TIMEOUT = (408, "timeout")
    BODY_STALL = (408, "stalled")
    WRITE_STALL = (0, "timeout")
    REQUEST_TIMEOUT = (503, "timeout")
    DISCONNECTED = (0, "disconnected")
    SHUTDOWN = (503, "cancelled")

    def __init__(self, status: int, outcome: str) -> None:
        self.status = status
        self.outcome = outcome


_ANSWERS: dict[int, str] = {
    408: "The request took too long to arrive\n",
    503: "The server could not finish this request in time\n",
}


class Unreadable:
    """Stands for a request whose head could not be read, in the access log."""

    method = "-"
    target = b"-"
    http_version = "1.1"
    has_body = False

    def __init__(self) -> None:
        self.headers: Headers = []


class Http1Connection(Listener):
    """One HTTP/1.1 connection; the `ResponseChannel` of its exchanges, one after the other.

    Args:
        context: what all connections share.
        transport: the byte stream.
        peer: the addresses of the connection, before the proxy rules.
        extensions: the ASGI extensions that this connection offers.
    """

    def __init__(
        self, context: ServerContext, transport: Transport, peer: Peer, extensions: dict[str, dict[str, Any]]
    ) -> None:
        settings = context.settings
        # Fixed.
        self.context = context
        self.transport = transport
        self.machine = context.build_machine()
        self.peer = peer
        self._timeouts = settings.timeouts
        self._cancels = settings.lifecycle.on_disconnect == "cancel"
        self._last_request = settings.http1.max_requests_per_connection
        self._trusted = context.proxies.trusts(peer.client)
        self._scopes = ScopeBuilder(settings.root_path, context.state, extensions)
        self._now = trio.lowlevel.current_clock().current_time
        self._logged = context.access_log is not None
        self.prepare_head = self.machine.prepare_head  # see `ResponseChannel`
        # How the connection stands.
        self.cancel_scope = trio.CancelScope()
        self.ending: Ending | None = None
        self.left = False
        self.gone = False
        self._closing = False  # the response under way, or the next one, is the last
        self._pipelined = False  # bytes behind the request that was answered last are here already
        self._requests = 0
        # The exchange that runs, and what belongs to it.
        self.exchange: HttpExchange | None = None
        self._over: trio.Event | None = None
        self._cancel_on_disconnect = True
        self._request_deadline = inf
        # Deadlines, on Trio's clock, for the sweeping task.
        self.read_deadline = inf
        self.write_deadline = inf
        self.exchange_deadline = inf
        self._bytes_at_stall = 0

    # -- the connection's life ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve requests until the connection ends, then close the transport.

        Raises nothing for what the peer or the application does; cancelling it closes at once.
        """
        self.context.deadlines.add(self)
        self.transport.listen(self)
        await self._own()

    async def _own(self) -> None:
        """Serve until the connection ends, or until another task has taken it over."""
        scope = self.cancel_scope
        try:
            with scope:
                await self._serve()
            if scope is self.cancel_scope and scope.cancelled_caught:
                with trio.move_on_after(OWED_ANSWER_TIMEOUT + LINGER_TIMEOUT):
                    await self._answer_owed(self.ending or Ending.REQUEST_TIMEOUT)
        finally:
            if scope is self.cancel_scope:
                self.context.deadlines.discard(self)
                with trio.CancelScope(shield=True, deadline=self._now() + OWED_ANSWER_TIMEOUT):
                    await self.transport.aclose()

    def _hand_over(self) -> None:
        """Let a new task go on with the connection, while the present one sees its application to the end."""
        exchange = self.exchange
        if exchange is not None and self.machine.reusable and self.ending is None:
            self._end_exchange(exchange)
            self.machine.start_next_cycle()
            self._pipelined = True  # at the least, it has to be looked
            self.cancel_scope = trio.CancelScope()
            self.context.connections.start_soon(self._own, name="successor on a connection")

    async def _serve(self) -> None:
        """Serve one request after the other, until the connection ends or another task has taken it over."""
        clean = contextvars.copy_context()
        try:
            while (head := await self._next_head()) is not None:
                if not await self._serve_request(head):
                    return
                if not self.machine.reusable and not await self._discard_body():
                    await self._linger()
                    return
                self.machine.start_next_cycle()
                if contextvars.copy_context() != clean:
                    # Nothing that one request sets may be seen by the next. Takes effect with the next step.
                    trio.lowlevel.current_task().context = clean.copy()
                    await trio.lowlevel.checkpoint()
        except RemoteProtocolError as error:
            await self._refuse(error)
        except (*GONE, ClientDisconnected):
            pass

    async def _next_head(self) -> RequestHead | None:
        machine, timeouts = self.machine, self._timeouts
        event = machine.next_event() if self._pipelined else NEED_DATA
        if event is NEED_DATA:
            if self._closing:
                return None
            self.read_deadline = self._now() + (timeouts.keep_alive if self._requests else timeouts.head)
            slow = not self._requests  # whether the deadline for a whole head is running already
            while True:
                machine.receive_data(await self.transport.receive_some(RECEIVE_SIZE))
                event = machine.next_event()
                if event is not NEED_DATA:
                    break
                if not slow and machine.request_in_progress:
                    slow = True
                    self.read_deadline = self._now() + timeouts.head
            self.read_deadline = inf
        else:
            await trio.lowlevel.checkpoint()  # a pipeline must not stop the others
        if event is CLOSED:
            return None
        assert isinstance(event, RequestHead)
        return event

    async def _serve_request(self, head: RequestHead) -> bool:
        """Serve one request; False when another task has taken the connection over."""
        context = self.context
        counters = context.counters
        counters.requests_total += 1
        self._requests += 1
        peer = self.peer
        root_path = ""
        if has_forwarding_fields(head.headers):
            forwarded = context.proxies.apply(head.headers, peer.client, peer.scheme, trusted=self._trusted)
            head.headers = forwarded.headers
            head.host = head.host if forwarded.host is None else forwarded.host
            peer = Peer(forwarded.client, peer.server, forwarded.scheme)
            root_path = forwarded.root_path
        exchange = self.exchange = HttpExchange(head, self, peer, self._now())
        self._begin_exchange(exchange.started)
        refusal = self._refusal(head) if context.settings.refuses_requests else None
        if refusal is not None:
            exchange.outcome = "refused"
            await exchange.answer(*refusal)
        else:
            counters.requests_running += 1
            try:
                scope = self._scopes.build_http(head, peer, RequestControl(self), root_path)
                await exchange.run(context.app, scope)
            finally:
                counters.requests_running -= 1
        # A cancellation does not come by here: what is owed then is the affair of `_answer_owed`.
        if self.exchange is not exchange:
            return False
        self._end_exchange(exchange)
        return True

    def _begin_exchange(self, now: float) -> None:
        if self._requests == self._last_request:
            self._closing = True
        self._cancel_on_disconnect = self._cancels
        self._request_deadline = self.exchange_deadline = now + self._timeouts.request
        if self.transport.half_closed:
            self.peer_left(self.transport.broken)

    def _refusal(self, head: RequestHead) -> tuple[int, str, Headers] | None:
        """Say what answers a request that does not reach the application: status, text, fields."""
        settings = self.context.settings
        limits = settings.limits
        if settings.server_names and _host_name(head.host) not in settings.server_names:
            return 421, "This server does not serve this host\n", []
        if limits.body_size and head.content_length is not None and head.content_length > limits.body_size:
            self._closing = True
            return 413, "The request body is too large\n", []
        if limits.requests and self.context.counters.requests_running >= limits.requests:
            return 503, "The server is busy\n", [(b"retry-after", b"1")]
        return None

    def _end_exchange(self, exchange: HttpExchange) -> None:
        """Count and log an exchange that is over, and forget it."""
        self.exchange = None
        self.exchange_deadline = inf
        if self._over is not None:
            self._over.set()
            self._over = None
        context = self.context
        counters = context.counters
        counters.bytes_sent += exchange.body_bytes_sent
        counters.bytes_received += exchange.bytes_received
        counters.errors += exchange.crashed
        if exchange.outcome != "complete":
            counters.count_outcome(exchange.outcome)
        if context.access_log is not None:
            exchange.finished = self._now()
            context.access_log.add(exchange)

    # -- ResponseChannel: reading ---------------------------------------------------------------------------------

    async def read_body(self) -> BodyChunk:
        """See `ResponseChannel`. Sends 100 Continue on the first call if the client waits for it."""
        try:
            return await self._read_body()
        except RemoteProtocolError as error:
            await self._refuse_body(error)
            raise ClientDisconnected("the request body is malformed") from error
        except GONE as error:
            self.left = self.gone = True
            raise ClientDisconnected("the client has left") from error

    async def _read_body(self) -> BodyChunk:
        machine = self.machine
        while True:
            event = machine.next_event()
            if isinstance(event, BodyChunk):
                self._check_body_size(len(event.data))
                return event
            assert event is NEED_DATA
            if machine.wants_continue:
                await self._transmit(machine.send_continue())
            self.read_deadline = self._now() + self._timeouts.body_stall
            try:
                data = await self.transport.receive_some(RECEIVE_SIZE)
            finally:
                self.read_deadline = inf
            machine.receive_data(data)

    def _check_body_size(self, more: int) -> None:
        limit = self.context.settings.limits.body_size
        if limit and self.exchange is not None and self.exchange.bytes_received + more > limit:
            raise RemoteProtocolError("the request body is too large", 413)

    async def _refuse_body(self, error: RemoteProtocolError) -> None:
        """Answer a malformed or too large body in place of the application, if it has not begun to answer."""
        self._closing = True
        exchange = self.exchange
        assert exchange is not None
        if exchange.phase is AWAITING_HEAD or exchange.phase is HEAD_HELD:
            exchange.outcome = "refused"
            await exchange.answer(error.status_hint, f"{error}\n")

    # -- what RequestControl needs ----------------------------------------------------------------------------------

    @property
    def background(self) -> Background:
        """See `ControlledExchange`."""
        return self.context.background

    @property
    def draining(self) -> trio.Event:
        """See `ControlledExchange`."""
        return self.context.draining

    @property
    def cleanup_grace(self) -> float:
        """See `ControlledExchange`."""
        return self._timeouts.cleanup_grace

    @property
    def deadline(self) -> float:
        """See `ControlledExchange`."""
        return self._request_deadline

    @deadline.setter
    def deadline(self, at: float) -> None:
        self._request_deadline = at
        self._settle_exchange_deadline()

    @property
    def cancel_on_disconnect(self) -> bool:
        """See `ControlledExchange`."""
        return self._cancel_on_disconnect

    @cancel_on_disconnect.setter
    def cancel_on_disconnect(self, wanted: bool) -> None:
        self._cancel_on_disconnect = wanted
        self._settle_exchange_deadline()

    def _settle_exchange_deadline(self) -> None:
        """Put the deadline of the running exchange where its own and its client's leaving ask for."""
        grace = self._timeouts.disconnect_grace if self.left and self._cancel_on_disconnect else inf
        self.exchange_deadline = min(self._request_deadline, self._now() + grace)
        self.context.deadlines.hurry()

    async def _discard_body(self) -> bool:
        """Read the rest of a body that the application left; whether the connection can go on after it."""
        machine = self.machine
        left = UNREAD_BODY_LIMIT
        if self._closing or not machine.continues or machine.wants_continue:
            return False
        while left > 0:
            chunk = await self._read_body()
            if chunk.last:
                self._pipelined = True
                return machine.reusable
            left -= len(chunk.data)
        return False

    async def wait_disconnected(self) -> None:
        """See `ResponseChannel`."""
        if self._over is None:
            self._over = trio.Event()
        await self._over.wait()

    # -- ResponseChannel: writing ---------------------------------------------------------------------------------

    def write_head(self, data: bytes, last: bool, length: int | None = None) -> Rest | None:
        """See `ResponseChannel`."""
        machine = self.machine
        close = self._closing or self.left or machine.wants_continue
        fields = self.context.fields.current()
        if self._logged and self.exchange is not None:
            self.exchange.first_byte = self._now()
        if last and len(data) <= SMALL_BODY:
            return self._send_pieces(
                [machine.send_prepared_response(data, defaults=fields, close=close)], True
            )
        if last and length is None:
            length = len(data)
        start = machine.send_prepared_head(defaults=fields, body_known=length, close=close)
        return self._write(start, data, last)

    def write_body(self, data: bytes, last: bool) -> Rest | None:
        """See `ResponseChannel`."""
        return self._write(b"", data, last)

    def _write(self, start: bytes, data: bytes, last: bool) -> Rest | None:
        """Write the head, if there is one, and a piece of the body, in as few writes as is cheap."""
        machine = self.machine
        if len(data) <= SMALL_BODY:
            payload = start + machine.send_body(data)
            if last:
                payload += machine.send_end()
            pieces: Rest = [payload]
        else:
            before, after = machine.send_large_body(len(data))
            end = machine.send_end() if last else b""
            pieces = [start + before, b"" if machine.bodyless else data, after + end]
        return self._send_pieces(pieces, last)

    def write_trailers(self, headers: Headers) -> Rest | None:
        """See `ResponseChannel`. Without chunked framing they are dropped (RFC 9110 section 6.5.1)."""
        return self._send_pieces([self.machine.send_end(headers)], True)

    def _send_pieces(self, pieces: Rest, last: bool) -> Rest | None:
        """Hand pieces to the transport; return those that it did not take at once."""
        transport = self.transport
        try:
            for index, piece in enumerate(pieces):
                rest = transport.send_now(piece) if piece else None
                if rest is not None:
                    if last:
                        self._end_response()
                    return [rest, *pieces[index + 1 :]]
        except GONE as error:
            raise self._client_gone() from error
        if last:
            self._end_response()
            if self.machine.ends_by_close:
                return []
        return None

    def _end_response(self) -> None:
        """Tell who waits for the end of the exchange."""
        if self._over is not None:
            self._over.set()
        # What the application does from here on is its own affair; a pipelined request shall not wait for it long.
        self._pipelined = self.machine.unread
        self.exchange_deadline = self._now() + HAND_OVER_DELAY if self._pipelined else inf

    async def write_rest(self, rest: Rest) -> None:
        """See `ResponseChannel`; waits under the write-stall deadline."""
        try:
            for index, piece in enumerate(rest):
                left = memoryview(piece) if index == 0 else self.transport.send_now(piece)
                if left is not None:
                    await self._write_slowly(left)
            exchange = self.exchange
            if self.machine.ends_by_close and exchange is not None and exchange.phase is COMPLETE:
                await self.transport.send_eof()
        except GONE as error:
            raise self._client_gone() from error

    async def _write_slowly(self, piece: memoryview) -> None:
        transport = self.transport
        before = self._bytes_at_stall = transport.bytes_sent
        self.write_deadline = self._now() + self._timeouts.write_stall
        try:
            await transport.send_rest(piece)
        except BaseException:
            self._uncount(len(piece) - (transport.bytes_sent - before))
            raise
        finally:
            self.write_deadline = inf

    def _uncount(self, unsent: int) -> None:
        """Take back from the count of body bytes what was not sent after all."""
        exchange = self.exchange
        if exchange is not None:
            exchange.cut = True
            exchange.body_bytes_sent = max(0, exchange.body_bytes_sent - unsent)

    async def write_file(self, file: int, offset: int | None, count: int, last: bool) -> None:
        """See `ResponseChannel`. On plain sockets the kernel copies the bytes."""
        machine = self.machine
        before, after = machine.send_large_body(count)
        await self._transmit(before)
        if count and not machine.bodyless:
            self._bytes_at_stall = self.transport.bytes_sent
            self.write_deadline = self._now() + self._timeouts.write_stall
            before_file = self.transport.bytes_sent
            try:
                await self.transport.send_file(file, offset, count)
            except BaseException as error:
                self._uncount(count - (self.transport.bytes_sent - before_file))
                if isinstance(error, GONE):
                    raise self._client_gone() from error
                raise
            finally:
                self.write_deadline = inf
        rest = self._send_pieces([after + machine.send_end() if last else after], last)
        if rest is not None:
            await self.write_rest(rest)

    async def _transmit(self, data: bytes) -> None:
        rest = self._send_pieces([data], last=False)
        if rest is not None:
            await self.write_rest(rest)

    async def write_information(self, status: int, headers: Headers) -> None:
        """See `ResponseChannel`."""
        data = self.machine.send_information(status, headers)
        if data:
            await self._transmit(data)

    def _client_gone(self) -> ClientDisconnected:
        self.left = self.gone = True
        return ClientDisconnected("the client has left")

    def abort(self) -> None:
        """See `ResponseChannel`."""
        self._closing = True
        if self.machine.ends_by_close:
            self.transport.abort()  # an orderly end would make the body look complete

    # -- the end of the connection --------------------------------------------------------------------------------

    async def _refuse(self, error: RemoteProtocolError) -> None:
        """Answer a request whose head is malformed, and close."""
        exchange = HttpExchange(Unreadable(), self, self.peer, self._now())
        exchange.outcome = "refused"
        self._closing = True
        self.read_deadline = inf
        try:
            await exchange.answer(error.status_hint, f"{error}\n")
            self._end_exchange(exchange)
            await self._linger()
        except (*GONE, ClientDisconnected):
            pass

    async def _answer_owed(self, ending: Ending) -> None:
        """Write what a cancelled request is still owed, and log it."""
        exchange = self.exchange
        self.read_deadline = self.write_deadline = self.exchange_deadline = inf
        self._closing = True
        if exchange is None:
            if ending is not Ending.HEAD_TIMEOUT:
                return
            exchange = HttpExchange(Unreadable(), self, self.peer, self._now())
        elif exchange.phase is COMPLETE and not exchange.cut:
            self._end_exchange(exchange)  # the response was out before the cancellation struck
            return
        owed = exchange.phase is AWAITING_HEAD or exchange.phase is HEAD_HELD
        exchange.outcome = ending.outcome
        try:
            if owed and ending.status:
                fields = [(b"retry-after", b"1")] if ending.status == 503 else []
                await exchange.answer(ending.status, _ANSWERS[ending.status], fields)
                await self._linger()
            elif not owed:
                self.transport.abort()
        except (*GONE, ClientDisconnected):
            pass
        finally:
            self._end_exchange(exchange)

    async def _linger(self) -> None:
        """End our side, and read for a while what the client still sends.

        Closing with unread bytes would reset the connection, and the client might never read our answer
        (RFC 9112 section 9.6).
        """
        await self.transport.send_eof()
        if not self.machine.unread:
            return
        with trio.move_on_after(LINGER_TIMEOUT):
            while await self.transport.receive_some(RECEIVE_SIZE):
                await trio.lowlevel.checkpoint()

    def drain(self) -> None:
        """Finish what runs and begin nothing new."""
        self._closing = True
        if self.exchange is None and not self.machine.request_in_progress:
            if self._requests:
                self._end(Ending.IDLE)
            else:
                self.read_deadline = min(self.read_deadline, self._now() + FIRST_REQUEST_GRACE)

    def end(self) -> None:
        """Cancel what runs; a head that is still owed becomes 503."""
        self._end(Ending.SHUTDOWN)

    def _end(self, ending: Ending) -> None:
        if self.ending is None:
            self.ending = ending
            self.read_deadline = self.write_deadline = inf
            self.exchange_deadline = self._now() + self._timeouts.cleanup_grace
            self.cancel_scope.cancel()

    # -- what the sweeping task and the transport tell --------------------------------------------------------------

    def expire(self, now: float) -> None:
        """See `Deadlined`."""
        if self.ending is not None:
            self._give_up()
        elif self.write_deadline <= now:
            self._expire_write(now)
        elif self.exchange_deadline <= now and self.exchange is not None and self.exchange.phase is COMPLETE:
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
        if self.exchange is not None:
            logger.warning("a cancelled application does not end: %s", self.exchange.request_line)
        self.gone = self.left = True
        self.transport.abort()

    def bytes_waiting(self) -> None:
        """See `Listener`. If only the application's own rest is running, the next request need not wait for it."""
        if self.exchange is not None and self.exchange.phase is COMPLETE:
            self._hand_over()

    def peer_left(self, broken: bool) -> None:
        """See `Listener`."""
        self.left = True
        self.gone = self.gone or broken
        if self._over is not None:
            self._over.set()
        if self.exchange is not None and self.exchange.phase is not COMPLETE:
            self._settle_exchange_deadline()


def _host_name(host: bytes) -> bytes:
    """The host of a Host field, in lower case and without its port."""
    name, _, port = host.lower().rpartition(b":")
    return name if port.isdigit() and name else host.lower()
