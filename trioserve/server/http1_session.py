"""An HTTP/1.1 connection that carries a WebSocket session, or refuses one (RFC 6455): the `Carrier` of HTTP/1.1.

The request is an exchange like any other until the handshake is accepted; then the transport itself is the session's.
Either ends the connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trioserve.protocols.websocket.handshake import HandshakeError, judge_upgrade
from trioserve.server.exchange_rules import judge_admission
from trioserve.server.http1_exchanges import Http1Exchanges

if TYPE_CHECKING:
    from trioserve.asgi.channel import ResponseChannel
    from trioserve.asgi.scope import ScopeBuilder
    from trioserve.asgi.types import Headers
    from trioserve.protocols.http1 import RequestHead
    from trioserve.server.transport import Transport
    from trioserve.server.websocket import WebSocketConnection


class Http1SessionCarrier(Http1Exchanges):
    """A connection on which a session can begin; the arguments are those of `Http1Exchanges`."""

    __slots__ = ()

    async def _begin_session(self, head: RequestHead) -> WebSocketConnection | None:
        """Make a session that is to be run, or refuse it and return None; the connection ends with either."""
        context, settings = self.context, self.context.settings
        self._closing = True
        exchange = self._begin_exchange(head)
        refusal = judge_admission(context, head) if settings.refuses_requests else None
        try:
            wishes = judge_upgrade(head, deflate=settings.websocket.deflate)
        except HandshakeError as error:
            refusal = (error.status_hint, f"{error}\n", error.headers)
        else:
            if refusal is None:
                from trioserve.server.websocket import WebSocketConnection  # with the first session only

                session = WebSocketConnection(context, self, head, wishes, exchange.peer)
                self.exchange = session.session  # type: ignore[assignment] # what is written is its
                self.transport.observe(session)
                if self.transport.half_closed:
                    session.peer_left(self.transport.broken)
                return session
        exchange.outcome = "refused"
        await exchange.answer(*refusal)
        self._end_exchange(exchange)
        await self._linger()
        return None

    async def _run_session(self, session: WebSocketConnection, scopes: ScopeBuilder) -> None:
        """Run it to its end."""
        await session.run(scopes)
        self.exchange = None
        if not session.accepted:
            await self._linger()  # messages may be on their way that the client has sent too early

    # -- what the session asks for --------------------------------------------------------------------------------

    @property
    def channel(self) -> ResponseChannel:
        """See `Carrier`."""
        return self

    async def open_duplex(self, fields: Headers) -> tuple[Transport, bytes]:
        """See `Carrier`."""
        await self._transmit(self.machine.send_information(101, fields))
        return self.transport, self.machine.trailing_data

    def waits_for_others(self) -> bool:
        """See `Carrier`; there is nobody else."""
        return False
