"""The reading half of a WebSocket session: bytes to messages, and the queue in which they wait for the application.

Theory of operation. The application runs in the task of its request, and there is no other: when it waits for a message
it reads itself. While it does not, bytes that come are taken where the transport tells of them, so pings are answered
and a close is noticed; up to `[websocket] queue` messages are kept for it, and then nothing more is read. Nobody leaves
bytes unlooked at for another reason, for they will not be told of again.

Invariant: messages are taken in the order in which their bytes came, whoever has read them.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import TYPE_CHECKING

import trio

from trioserve.asgi.session_phase import SessionPhase
from trioserve.protocols.websocket.events import NEED_DATA, PONG, Closed, Message

if TYPE_CHECKING:
    from trioserve.protocols.websocket.events import Event
    from trioserve.protocols.websocket.machine import WebSocketMachine
    from trioserve.server.context import ServerContext
    from trioserve.server.transport import Transport
    from trioserve.server.websocket import WebSocketConnection

GONE = (trio.BrokenResourceError, trio.ClosedResourceError)
RECEIVE_SIZE = 32768  # a read of nothing but tiny frames is all worked through before others get their turn
QUEUE_SIZE = 1 << 20
"""Bytes of messages that wait for the application before nothing more is read, whatever their number."""
MESSAGES_AT_ONCE = 64
"""Messages, or signals, that are taken in before others have their turn; of bytes it is one read."""


class WebSocketReader:
    """What comes from the client.

    Args:
        context: what all connections share.
        connection: the session's, which is told when the client closes or vanishes.
        machine: the frames of both directions.

    Attributes:
        transport: what is read from, once the handshake is accepted.
        end: how the client has ended the session, if it has.
        paused: nothing is read because the queue is full.
    """

    __slots__ = (
        "_connection",
        "_context",
        "_deadlines",
        "_machine",
        "_now",
        "_parked",
        "_queue",
        "_queued",
        "_reads_on",
        "_settings",
        "_writer",
        "end",
        "paused",
        "transport",
    )

    def __init__(
        self, context: ServerContext, connection: WebSocketConnection, machine: WebSocketMachine
    ) -> None:
        self._context = context
        self._connection = connection
        self._deadlines = connection.deadlines
        self._writer = connection.writer
        self._machine = machine
        self._settings = context.settings.websocket
        self._now = trio.lowlevel.current_clock().current_time
        self._queue: deque[Message] = deque()
        self._queued = 0  # bytes of them
        self._reads_on = False  # a task does, in pieces
        self._parked = False  # the application waits for bytes, or has just been given some
        self.transport: Transport | None = None
        self.end: Closed | None = None
        self.paused = False

    def begin(self, data: bytes) -> None:
        """Take what came behind the handshake, now that it is accepted."""
        if data:
            self._machine.receive_data(data)
        self.read_ahead()

    @property
    def holds_messages(self) -> bool:
        """Something that came is still to be taken by the application."""
        return bool(self._queue)

    async def receive_message(self) -> Message | Closed:  # noqa: C901 - each message comes by, so nothing is parted
        """See `SessionChannel`."""
        transport, machine = self.transport, self._machine
        assert transport is not None
        others_wait = False
        while True:
            if self._queue:
                return self._take_queued()
            if self.end is not None:
                return self.end
            event = machine.next_event()
            if type(event) is Message:
                if self._settings.idle_timeout != inf:
                    self._deadlines.spoke = self._now()
                if (machine.unread or transport.readable) and not self._reads_on:
                    # Not at once: the application shall have answered before what follows can end the session.
                    self._reads_on = True
                    self._connection.spawn(self._read_on, transport)
                return event
            if event is not NEED_DATA:
                self._note(event)
                continue
            self._writer.send_answers()
            try:
                if others_wait or machine.unread:
                    others_wait = False
                    await trio.lowlevel.checkpoint()
                    continue
                data = transport.receive_now(RECEIVE_SIZE)
                if data is None:
                    data = await self._wait_for_bytes(transport)
                else:
                    others_wait = True
            except GONE:
                data = b""
            except trio.Cancelled:
                self.read_ahead()  # what has come was left to this task, and nobody will be told of it again
                raise
            if data:
                self._deadlines.heard = self._now()
                machine.receive_data(data)
            else:
                self._connection.vanish()

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
            self.end = event
            self._connection.close_received(event)
        elif event is PONG:
            self._deadlines.note_pong()

    def _take_queued(self) -> Message:
        message = self._queue.popleft()
        self._queued -= len(message.data)
        if self.paused and not self._queue:
            self.paused = False
            self.read_ahead()
        return message

    def read_ahead(self) -> None:
        """Read for an application that does not, as far as its queue goes."""
        if self.transport is not None and not self._reads_on and self._take_in(self.transport):
            self._reads_on = True
            self._connection.spawn(self._read_on, self.transport)

    async def _read_on(self, transport: Transport) -> None:
        """Go on where `read_ahead` has stopped in order not to hold others up."""
        try:
            await trio.lowlevel.checkpoint()
            while self._take_in(transport):
                await trio.lowlevel.checkpoint()
        finally:
            self._reads_on = False

    def _take_in(self, transport: Transport) -> bool:
        """Read, answer and queue; whether there may be more to do, in a while."""
        machine = self._machine
        size = 0
        for _ in range(MESSAGES_AT_ONCE):
            if self.end is not None or self._parked or self._pause_if_full():
                return False
            event = machine.next_event()
            if isinstance(event, Message):
                self._enqueue(event)
                if len(event.data) >= QUEUE_SIZE:
                    return True  # to inflate it may have taken long
            elif event is NEED_DATA:
                self._writer.send_answers()
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

    def _pause_if_full(self) -> bool:
        self.paused = len(self._queue) >= self._settings.queue or self._queued >= QUEUE_SIZE
        return self.paused

    def _enqueue(self, message: Message) -> None:
        # After its own close an application expects the end alone.
        if self._connection.session.phase is not SessionPhase.CLOSED:
            self._deadlines.spoke = self._now()
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
            self._deadlines.heard = self._now()
        elif data is not None:
            self._connection.vanish()
        return data
