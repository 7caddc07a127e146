"""A `SessionChannel` over memory: the messages of one WebSocket session without frames, and the client's end of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from trioserve.asgi.errors import ClientDisconnected
from trioserve.protocols.errors import LocalProtocolError
from trioserve.protocols.websocket.events import Closed, Message


@dataclass
class HandshakeHead:
    """The head of an opening handshake."""

    method: str = "GET"
    target: bytes = b"/chat?room=1"
    http_version: str = "1.1"
    headers: list = field(default_factory=list)
    has_body: bool = False


class MemorySessionChannel:
    """Both ends of a session.

    Args:
        offered: the subprotocols that the client offers.
        room: messages that are taken at once; one more has to wait until the client `takes`.
    """

    def __init__(self, offered=(), room=1000):
        self.left = False
        self.gone = False
        self.offered = offered
        self.room = room
        self.answered = []  # what the client has got: ("accept", ...), ("head", ...), messages, ("close", ...), "abort"
        self._told, self._arriving = trio.open_memory_channel(1000)
        self._end = None
        self._over = trio.Event()
        self._prepared = None
        self._room_made = trio.Event()
        self._receiving = False

    # -- the client's end

    def say(self, data):
        self._told.send_nowait(Message(data))

    def say_close(self, code=1000, reason=""):
        self._told.send_nowait(Closed(code, reason))
        self._over.set()

    def vanish(self):
        self.left = self.gone = True
        self._told.send_nowait(Closed(1006, ""))
        self._over.set()
        self._room_made.set()

    def end_sending(self):
        self.left = True
        self._over.set()

    def take(self):
        self.room = 1000
        self._room_made.set()

    # -- an answer

    async def wait_disconnected(self):
        await self._over.wait()

    def prepare_head(self, status, headers):
        if not 200 <= status < 600:
            raise LocalProtocolError(f"status {status} cannot begin a final response")
        self._prepared = (status, _checked(headers))

    def write_head(self, data, last, length=None):
        assert length is None
        return self._write([("head", *self._prepared), *([("body", data)] if data else [])], last)

    def write_body(self, data, last):
        return self._write([("body", data)], last)

    def _write(self, pieces, last):
        if self.gone:
            raise ClientDisconnected("the client has left")
        self.answered += pieces
        self.room -= len(pieces)
        if last:
            self._over.set()
        return [b""] if self.room < 0 else None

    async def write_rest(self, rest):
        assert rest == [b""]
        await self._room_made.wait()
        await trio.lowlevel.checkpoint()
        if self.gone:
            raise ClientDisconnected("the client has left")

    def abort(self):
        self.answered.append("abort")
        self.left = self.gone = True
        self._over.set()

    # -- a session

    async def accept(self, subprotocol, headers):
        await trio.lowlevel.checkpoint()
        if self.gone:
            raise ClientDisconnected("the client has left")
        if subprotocol is not None and subprotocol not in self.offered:
            raise LocalProtocolError(f"the client does not offer the subprotocol {subprotocol!r}")
        self.answered.append(("accept", subprotocol, _checked(headers)))

    async def receive_message(self):
        if self._receiving:
            raise trio.BusyResourceError
        self._receiving = True
        try:
            while self._end is None:
                try:
                    event = self._arriving.receive_nowait()
                except trio.WouldBlock:
                    event = await self._arriving.receive()
                if isinstance(event, Message):
                    return event
                self._end = event
                self.left = self.gone = True
            return self._end
        finally:
            self._receiving = False

    def write_message(self, data):
        assert type(data) in (str, bytes)
        return self._write([data], False)

    async def close(self, code, reason):
        await trio.lowlevel.checkpoint()
        if self.gone:
            raise ClientDisconnected("the client has left")
        self.answered.append(("close", code, reason))


def _checked(headers):
    fields = list(headers)
    for name, value in fields:
        if b" " in name or b"\n" in value:
            raise LocalProtocolError(f"the field {name!r} is illegal")
    return fields
