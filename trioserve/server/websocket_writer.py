"""The writing half of a WebSocket session: messages, pongs and the close frame, each whole and in its turn.

Whoever finds the transport busy waits for his turn; a pong that has to wait is left in the machine, which keeps the
latest only. Not here: the deadline of a write (`websocket_deadlines.py`), and how a handshake is refused.

Invariant: a frame is never inside another. `busy` is set from the moment the transport leaves a part of a frame.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import trio

from trioserve.asgi.errors import ClientDisconnected
from trioserve.server.websocket_reader import GONE

if TYPE_CHECKING:
    from trioserve.asgi.channel import Rest
    from trioserve.protocols.websocket.machine import WebSocketMachine
    from trioserve.server.context import ServerContext
    from trioserve.server.transport import Transport
    from trioserve.server.websocket import WebSocketConnection


class WebSocketWriter:
    """What goes to the client.

    Args:
        context: what all connections share.
        connection: the session's, which is told when the client is found to be gone.
        machine: the frames of both directions.

    Attributes:
        transport: what is written to, once the handshake is accepted.
        busy: a frame is on its way.
    """

    __slots__ = (
        "_connection",
        "_context",
        "_deadlines",
        "_idle",
        "_machine",
        "_notes_messages",
        "_now",
        "busy",
        "transport",
    )

    def __init__(
        self, context: ServerContext, connection: WebSocketConnection, machine: WebSocketMachine
    ) -> None:
        self._context = context
        self._connection = connection
        self._deadlines = connection.deadlines
        self._machine = machine
        self._notes_messages = context.settings.websocket.idle_timeout != inf
        self._now = trio.lowlevel.current_clock().current_time
        self._idle: trio.Event | None = None  # set when nobody writes any more
        self.transport: Transport | None = None
        self.busy = False

    @property
    def close_sent(self) -> bool:
        """Our close frame is out, or on its way; no message can follow."""
        return self._machine.close_sent

    def write_message(self, data: str | bytes) -> Rest | None:
        """See `SessionChannel`."""
        transport, machine = self.transport, self._machine
        if self._connection.gone or transport is None or machine.close_sent:
            raise ClientDisconnected("the session is closed")
        answers = machine.data_to_send()  # pongs for what came before this
        payload = machine.send_message(data)
        if answers:
            payload = answers + payload
        if self._notes_messages:
            self._deadlines.spoke = self._now()
        if self.busy:
            return [payload]
        try:
            rest = transport.send_now(payload)
        except GONE as error:
            self._connection.vanish()
            raise ClientDisconnected("the client has left") from error
        if rest is None:
            return None
        self.busy = True
        return [rest]

    async def write_rest(self, transport: Transport, rest: Rest) -> None:
        """Write what `write_message` has left, when it is its turn; waits under the write-stall deadline."""
        for piece in rest:
            if not isinstance(piece, memoryview):
                await self.wait_for_turn()
                if self._connection.gone or self._machine.close_sent:
                    raise ClientDisconnected("the session is closed")
            await self._write_frame(transport, piece)

    async def wait_for_turn(self) -> None:
        """Return when no frame is on its way."""
        while self.busy:
            if self._idle is None:
                self._idle = trio.Event()
            await self._idle.wait()

    async def _write_frame(self, transport: Transport, piece: bytes | memoryview) -> None:
        """Write a frame, or what the transport has left of one. Nobody else is writing."""
        self._deadlines.watch_write(transport)
        self.busy = True
        try:
            rest = piece if isinstance(piece, memoryview) else transport.send_now(piece)
            if rest is not None:
                await transport.send_rest(rest)
        except GONE as error:
            self._connection.vanish()
            raise ClientDisconnected("the client has left") from error
        finally:
            self.busy = False
            self._deadlines.end_write()
            if self._idle is not None:
                self._idle.set()
                self._idle = None
        self.send_answers()

    def send_answers(self) -> None:
        """Send what the machine answers by itself: the latest pongs, the echo of a close."""
        transport = self.transport
        if self.busy or transport is None:
            return
        data = self._machine.data_to_send()
        if data and not self._connection.vanished:
            self._send_soon(transport, data)

    def send_ping(self) -> None:
        """Ask the client for a sign of life; nobody is writing."""
        assert self.transport is not None
        self._send_soon(self.transport, self._machine.send_ping())

    def _send_soon(self, transport: Transport, frame: bytes) -> None:
        """Send a frame from where one cannot wait; nobody is writing."""
        try:
            rest = transport.send_now(frame)
        except GONE:
            self._connection.vanish()
            return
        if rest is not None:
            self.busy = True
            self._connection.spawn(self._send_later, transport, rest)

    async def _send_later(self, transport: Transport, rest: memoryview) -> None:
        try:
            await self._write_frame(transport, rest)
        except ClientDisconnected:
            pass

    async def close(self, code: int, reason: str) -> None:
        """See `SessionChannel`."""
        assert self.transport is not None
        await self.wait_for_turn()
        if self._connection.gone and self._connection.vanished:
            raise ClientDisconnected("the client has left")
        frame = self._machine.send_close(code, reason)
        if frame:
            self._deadlines.await_close()
            await self._write_frame(self.transport, frame)

    async def close_quietly(self, code: int, reason: str) -> None:
        """The same for a client that may have left."""
        try:
            await self.close(code, reason)
        except (ClientDisconnected, *GONE):
            pass
