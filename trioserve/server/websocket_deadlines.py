"""When a WebSocket session is over without its application's doing: silence, stalls, idleness, cancellation.

The deadlines are numbers for the server's sweeping task. A client that says nothing is pinged, and dropped if no answer
comes; one that does not answer a close, or takes nothing of what is written, is dropped too; the application is
cancelled when its time is up, or a grace after its client has left.

Invariant: `ending` is set once, when the application is cancelled, and says why.
"""

from __future__ import annotations

import logging
from math import inf
from typing import TYPE_CHECKING

import trio

from trioserve.server.controlled import ControlledExchange
from trioserve.server.ending import Ending

if TYPE_CHECKING:
    from trioserve.server.context import ServerContext
    from trioserve.server.transport import Transport
    from trioserve.server.websocket import WebSocketConnection

logger = logging.getLogger("trioserve.error")


class WebSocketDeadlines(ControlledExchange):
    """The deadlines of one session, and what happens when they pass.

    Args:
        context: what all connections share.
        connection: the session's.
        write_stall: seconds without progress after which a write has stalled.

    Attributes:
        cancel_scope: what the application runs in.
        ending: why it was cancelled, if it was.
        heard, spoke: when bytes came last, and when a message passed in either direction.
        read_deadline, write_deadline, exchange_deadline: times on Trio's clock, for the sweeping task.
    """

    __slots__ = (
        "_awaits_pong",
        "_bytes_at_stall",
        "_close_deadline",
        "_connection",
        "_left_at",
        "_ping_sent",
        "_settings",
        "_taken",
        "_taken_at",
        "_taken_below",
        "_taken_below_at",
        "_write_stall",
        "cancel_scope",
        "ending",
        "exchange_deadline",
        "heard",
        "read_deadline",
        "spoke",
        "write_deadline",
    )

    def __init__(self, context: ServerContext, connection: WebSocketConnection, write_stall: float) -> None:
        self._context = context
        self._connection = connection
        self._settings = context.settings.websocket
        self._timeouts = context.settings.timeouts
        self._write_stall = write_stall
        self._awaits_pong = False
        self._bytes_at_stall = 0
        self._taken = self._taken_below = (
            0  # bytes that the client has taken, and that its whole connection has
        )
        self._taken_at = self._taken_below_at = -inf  # when more of them were found to be
        self._left_at = self._close_deadline = self._request_deadline = inf
        self._cancel_on_disconnect = context.settings.lifecycle.on_disconnect == "cancel"
        self.heard = self.spoke = self._ping_sent = -inf
        self.cancel_scope = trio.CancelScope()
        self.ending: Ending | None = None
        self.read_deadline = self.write_deadline = self.exchange_deadline = inf

    # -- what the session tells -----------------------------------------------------------------------------------

    def begin(self) -> None:
        """The handshake was accepted: from now on the client has to be heard of."""
        self.heard = self.spoke = trio.current_time()
        self.read_deadline = self.heard + self._settings.ping_interval
        self.settle()

    def note_pong(self) -> None:
        """The client has answered a ping."""
        self._awaits_pong = False
        self.read_deadline = self.heard + self._settings.ping_interval
        self._context.deadlines.hurry(self)

    def watch_write(self, transport: Transport) -> None:
        """Something has to be waited for until it is written."""
        self._bytes_at_stall, self._taken = transport.bytes_sent, transport.bytes_delivered
        self._taken_at = trio.current_time()
        self.write_deadline = self._taken_at + self._write_stall

    def end_write(self) -> None:
        """Nothing has to be waited for any more."""
        self._taken_at = trio.current_time()
        self.write_deadline = inf

    def await_close(self) -> None:
        """We have closed; the client has to answer, if it has not closed before."""
        if self._connection.reader.end is None:
            self._close_deadline = trio.current_time() + self._settings.close_timeout
            self.settle()

    def lose(self) -> None:
        """The client has closed or left; the application has a grace."""
        self.read_deadline = self._close_deadline = inf
        self._left_at = min(self._left_at, trio.current_time())
        self.settle()

    def clear(self) -> None:
        """Watch nothing any more."""
        self.read_deadline = self.write_deadline = self.exchange_deadline = inf

    def settle(self) -> None:
        """Put it where the request's own, its client's leaving, a close that is not answered, or idleness ask for."""
        connection = self._connection
        if connection.app_over:
            self.exchange_deadline = self._close_deadline
            return
        if self.ending is not None:
            return
        grace = self._left_at + self._timeouts.disconnect_grace if self._cancel_on_disconnect else inf
        idle = self.spoke + self._settings.idle_timeout if connection.reader.end is None else inf
        if not connection.accepted or self._settings.idle_timeout == inf:
            idle = inf
        self.exchange_deadline = min(self._request_deadline, grace, self._close_deadline, idle)
        self._context.deadlines.hurry(self)

    # -- what the application steers ------------------------------------------------------------------------------

    @property
    def _goes_on(self) -> bool:
        """See `ControlledExchange`."""
        return not self._connection.gone and not self._connection.app_over

    @property
    def _client_left(self) -> bool:
        """See `ControlledExchange`."""
        return self._connection.left or self._connection.gone

    def _settle_exchange_deadline(self) -> None:
        """See `ControlledExchange`."""
        self.settle()

    # -- what the sweeping task tells -----------------------------------------------------------------------------

    def expire(self, now: float) -> None:
        """See `Deadlined`."""
        connection = self._connection
        if self.ending is not None:
            self._give_up()
        elif self.write_deadline <= now:
            self._expire_write(now)
        elif self.read_deadline <= now:
            self._expire_silence(now)
        elif self._request_deadline <= now:
            self.end_with(Ending.REQUEST_TIMEOUT)
        elif self._close_deadline <= now:
            connection.abort()
        elif self._cancel_on_disconnect and self._left_at + self._timeouts.disconnect_grace <= now:
            self.end_with(Ending.DISCONNECTED)
        elif connection.reader.end is None and self.spoke + self._settings.idle_timeout <= now:
            self.spoke = now
            self.settle()
            connection.spawn(connection.writer.close_quietly, 1001, "nothing was said for too long")
        else:
            self.settle()

    def _expire_write(self, now: float) -> None:
        sent = self._connection.transport.bytes_sent
        if sent != self._bytes_at_stall:
            self._bytes_at_stall = sent
            self.write_deadline = now + self._write_stall
        else:
            self.end_with(Ending.WRITE_STALL)

    def _expire_silence(self, now: float) -> None:
        """Nothing has come for a while: ask for a sign of life, or take its absence for the end."""
        settings, writer = self._settings, self._connection.writer
        answer_due = max(self._ping_sent, self._taken_at) + settings.ping_timeout
        unanswered = self._awaits_pong and self.heard <= self._ping_sent
        if not self._awaits_pong and self.heard + settings.ping_interval > now:
            self.read_deadline = self.heard + settings.ping_interval
        elif writer.busy and not self._connection.reader.paused:
            self._expire_busy(now)
        elif unanswered and answer_due <= now and not self._connection.reader.paused:
            self._connection.abort()
        elif writer.busy or writer.transport is None or writer.close_sent:
            self.read_deadline = now + settings.ping_interval  # the write-stall deadline watches
        else:
            self._awaits_pong = True
            self._ping_sent = now
            wait = settings.ping_interval if settings.ping_timeout == inf else settings.ping_timeout
            self.read_deadline = now + wait
            writer.send_ping()

    def _expire_busy(self, now: float) -> None:
        """Nothing has come, and a ping cannot be sent inside a frame; but a client that takes the frame lives.

        A ping that is behind a large message is answered when that was read, which may take longer than pings may.
        """
        connection, settings = self._connection, self._settings
        taken, below = connection.transport.bytes_delivered, connection.carrier.transport.bytes_delivered
        if taken != self._taken:
            self._taken, self._taken_at = taken, now
        if below != self._taken_below:
            self._taken_below, self._taken_below_at = below, now
        quiet = settings.ping_interval + settings.ping_timeout
        due = max(self.heard, self._taken_at) + quiet
        if due <= now < self._taken_below_at + quiet and connection.carrier.waits_for_others():
            self._taken_at = now
        elif due <= now:
            connection.abort()
            return
        self.read_deadline = min(now + settings.ping_interval, max(self.heard, self._taken_at) + quiet)

    def _give_up(self) -> None:
        """The application did not end within the grace after its cancellation: let its client go."""
        self.exchange_deadline = inf
        connection = self._connection
        line, why = connection.session.request_line, "" if self.ending is None else self.ending.text
        logger.warning("the application does not end after its cancellation (%s): %s", why, line)
        connection.left = connection.gone = True
        connection.abort()

    def drain(self) -> None:
        """Tell the client to come again elsewhere (1012); the application gets `websocket.disconnect` for it."""
        connection = self._connection
        if connection.accepted and not connection.writer.close_sent and connection.reader.end is None:
            connection.spawn(connection.writer.close_quietly, 1012, "the server restarts")

    def end(self) -> None:
        """Cancel the application; the client is told 1012, or 503."""
        self.end_with(Ending.SHUTDOWN)

    def hasten(self) -> bool:
        """Cancel the application now if its client has left; whether that was so."""
        if self._connection.left and self._cancel_on_disconnect:
            self.end_with(Ending.DISCONNECTED)
        return self.ending is not None

    def end_with(self, ending: Ending) -> None:
        """Cancel the application; its client is told what is owed to it then."""
        if self._connection.app_over:
            self._connection.abort()
        elif self.ending is None:
            self.ending = ending
            self.read_deadline = self.write_deadline = self._close_deadline = inf
            self.exchange_deadline = trio.current_time() + self._timeouts.cleanup_grace
            self._context.deadlines.hurry(self)
            self.cancel_scope.cancel()
