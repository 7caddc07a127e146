"""How an HTTP/1.1 exchange begins and ends, and what is answered in the application's place.

`Http1Exchanges` stands between the bytes of an exchange (`http1_channel.py`) and the connection's life (`http1.py`),
which says when there is one. It counts and records exchanges, keeps the deadline that an application can steer, and
gives the answers that clients are owed when a head is malformed or a request was cancelled.

Invariant: an exchange that has begun is recorded exactly once, by `_end_exchange`.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import trio
import trio.lowlevel

from trioserve.asgi.errors import ClientDisconnected
from trioserve.asgi.exchange import AWAITING_HEAD, COMPLETE, HEAD_HELD, HttpExchange
from trioserve.server.ending import ANSWERS, Ending, Unreadable
from trioserve.server.exchange_rules import apply_proxy_rules, record_exchange
from trioserve.server.http1_channel import GONE, RECEIVE_SIZE, Http1Channel

if TYPE_CHECKING:
    from trioserve.asgi.background import Background
    from trioserve.asgi.channel import Peer
    from trioserve.protocols.errors import RemoteProtocolError
    from trioserve.protocols.http1 import RequestHead
    from trioserve.server.context import ServerContext
    from trioserve.server.transport import Transport

LINGER_TIMEOUT = 2.0
"""Seconds for which a refused client's bytes are still read, so that it gets to read our answer."""


class Http1Exchanges(Http1Channel):
    """The exchanges of one connection, from head to record.

    Args:
        context: what all connections share.
        transport: the byte stream.
        peer: the addresses of the connection, before the proxy rules.
    """

    __slots__ = (
        "_cancel_on_disconnect",
        "_cancels",
        "_last_request",
        "_left_at",
        "_request_deadline",
        "_requests",
        "_trusted",
        "peer",
    )

    def __init__(self, context: ServerContext, transport: Transport, peer: Peer) -> None:
        super().__init__(context, transport)
        settings = context.settings
        self.peer = peer
        self._trusted = context.proxies.trusts(peer.client)
        self._requests = 0
        self._last_request = settings.http1.max_requests_per_connection
        self._cancels = settings.lifecycle.on_disconnect == "cancel"
        self._cancel_on_disconnect = self._cancels
        self._request_deadline = inf
        self._left_at = inf  # when the client left, or the request behind which it had left already began

    def peer_left(self, broken: bool) -> None:
        """See `TransportObserver`."""
        raise NotImplementedError

    def _begin_exchange(self, head: RequestHead) -> HttpExchange:
        """Let a request become the exchange that runs, and set its deadline."""
        self.context.counters.requests_total += 1
        self._requests += 1
        if self._requests == self._last_request:
            self._closing = True
        peer = self.peer
        if head.forwarded:
            peer = apply_proxy_rules(self.context, head, peer, trusted=self._trusted)
        now = self._now()
        exchange = self.exchange = HttpExchange(head, self, peer, now)
        self._cancel_on_disconnect = self._cancels
        self._request_deadline = self.exchange_deadline = now + self._timeouts.request
        if self.transport.half_closed:
            self._left_at = now
            self.peer_left(self.transport.broken)
        return exchange

    def _end_exchange(self, exchange: HttpExchange) -> None:
        """Count and log an exchange that is over, and forget it."""
        self.exchange = None
        self.exchange_deadline = inf
        if self._over is not None:
            self._over.set()
            self._over = None
        record_exchange(self.context, exchange, self._now())

    # -- answers in the application's place -----------------------------------------------------------------------

    async def _refuse(self, error: RemoteProtocolError) -> None:
        """Answer a request whose head is malformed, and close."""
        exchange = HttpExchange(Unreadable("1.1"), self, self.peer, self._now())
        exchange.outcome = "refused"
        self._closing = True
        self.read_deadline = inf
        try:
            try:
                await exchange.answer(error.status_hint, f"{error}\n")
            finally:
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
            exchange = HttpExchange(Unreadable("1.1"), self, self.peer, self._now())
        elif exchange.phase is COMPLETE and not exchange.cut:
            self._end_exchange(exchange)  # the response was out before the cancellation struck
            return
        owed = exchange.phase is AWAITING_HEAD or exchange.phase is HEAD_HELD
        exchange.outcome = ending.outcome
        try:
            try:
                if owed and ending.status:
                    fields = [(b"retry-after", b"1")] if ending.status == 503 else []
                    await exchange.answer(ending.status, ANSWERS[ending.status], fields)
            finally:
                self._end_exchange(exchange)
            if owed and ending.status:
                await self._linger()
            elif not owed:
                self.transport.abort()
        except (*GONE, ClientDisconnected):
            pass

    async def _linger(self) -> None:
        """End our side, and read for a while what the client still sends.

        Closing with unread bytes would reset the connection, and the client might never read our answer
        (RFC 9112 section 9.6).
        """
        with trio.move_on_after(LINGER_TIMEOUT):
            await self.transport.send_eof()
            if not (self.machine.unread or self.transport.readable):
                return
            while await self.transport.receive_some(RECEIVE_SIZE):
                await trio.lowlevel.checkpoint()

    # -- what RequestControl needs ----------------------------------------------------------------------------------

    @property
    def background(self) -> Background:
        """See `ControlledConnection`."""
        return self.context.background

    @property
    def draining(self) -> trio.Event:
        """See `ControlledConnection`."""
        return self.context.draining

    @property
    def cleanup_grace(self) -> float:
        """See `ControlledConnection`."""
        return self._timeouts.cleanup_grace

    @property
    def arrival(self) -> tuple[int, int]:
        """See `ControlledConnection`."""
        return self.peer.connection, 0

    def deadline_of(self, exchange: object) -> float:
        """See `ControlledConnection`."""
        return self._request_deadline if exchange is self.exchange else inf

    def set_deadline(self, exchange: object, at: float) -> None:
        """See `ControlledConnection`."""
        if exchange is self.exchange:
            self._request_deadline = at
            self._settle_exchange_deadline()

    def has_lost(self, exchange: object) -> bool:
        """See `ControlledConnection`."""
        return self.left or self.gone or exchange is not self.exchange

    def cancels(self, exchange: object) -> bool:
        """See `ControlledConnection`."""
        return exchange is self.exchange and self._cancel_on_disconnect

    def set_cancels(self, exchange: object, wanted: bool) -> None:
        """See `ControlledConnection`."""
        if exchange is self.exchange:
            self._cancel_on_disconnect = wanted
            self._settle_exchange_deadline()

    def _settle_exchange_deadline(self) -> None:
        """Put the deadline of the running exchange where its own and its client's leaving ask for."""
        grace = self._left_at + self._timeouts.disconnect_grace if self._cancel_on_disconnect else inf
        self.exchange_deadline = min(self._request_deadline, grace)
        self._hurry()
