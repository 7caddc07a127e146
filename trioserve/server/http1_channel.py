"""One HTTP/1.1 exchange after the other, as the application's side needs it: a body in, a response out (RFC 9112).

`Http1Channel` is the `ResponseChannel` of HTTP/1.1. It moves bytes between the machine and the transport and keeps the
deadlines of reading and writing. Not here: the connection's loop, and what ends it (`http1.py`).

The head waits for the first piece of the body, so that a response in one piece leaves in one write.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import trio

from trioserve.asgi.errors import ClientDisconnected
from trioserve.asgi.exchange import AWAITING_HEAD, COMPLETE, HEAD_HELD, HttpExchange
from trioserve.protocols.errors import LocalProtocolError, RemoteProtocolError
from trioserve.protocols.http1 import NEED_DATA, BodyChunk

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trioserve.asgi.channel import Rest
    from trioserve.asgi.types import Headers
    from trioserve.server.context import ServerContext
    from trioserve.server.transport import Transport

RECEIVE_SIZE = 65536
SMALL_BODY = 65536
"""Bytes up to which a piece of a body is copied behind its head, so that both leave in one write."""
UNREAD_BODY_LIMIT = 256 * 1024
"""Bytes of a body which the application did not read that are discarded to keep the connection."""
READS_BETWEEN_CHECKPOINTS = 4
HAND_OVER_DELAY = 0.05
"""Seconds after which a pipelined request no longer waits for the end of the application before it."""

GONE = (trio.BrokenResourceError, trio.ClosedResourceError)


class Http1Channel:
    """The exchanges of one connection, one at a time.

    Args:
        context: what all connections share.
        transport: the byte stream.

    Attributes:
        exchange: the one that runs.
        left: the client has ended its sending side, or the transport broke.
        gone: nothing that is written can reach the client.
        read_deadline, write_deadline, exchange_deadline: times on Trio's clock, for the sweeping task.
    """

    # Slots, because thousands of connections are idle at a time.
    __slots__ = (
        "_bytes_at_stall",
        "_closing",
        "_logged",
        "_now",
        "_over",
        "_pipelined",
        "_reads",
        "_timeouts",
        "_writing",
        "context",
        "exchange",
        "exchange_deadline",
        "gone",
        "left",
        "machine",
        "prepare_head",
        "read_deadline",
        "transport",
        "write_deadline",
    )

    def __init__(self, context: ServerContext, transport: Transport) -> None:
        self.context = context
        self.transport = transport
        self.machine = context.build_machine()
        self.prepare_head = self.machine.prepare_head  # see `ResponseChannel`
        self.exchange: HttpExchange | None = None
        self.left = False
        self.gone = False
        self.read_deadline = inf
        self.write_deadline = inf
        self.exchange_deadline = inf
        self._now = trio.lowlevel.current_clock().current_time
        self._timeouts = context.settings.timeouts
        self._logged = context.access_log is not None
        self._closing = False  # the response under way, or the next one, is the last
        self._pipelined = False  # bytes behind the request that was answered last are here already
        self._over: trio.Event | None = None  # set when the exchange is over or the client has left
        self._bytes_at_stall = 0
        self._writing = False  # a task waits for the transport to take the rest of a response
        self._reads = 0

    # -- reading --------------------------------------------------------------------------------------------------

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
            self._reads += 1
            if self._reads % READS_BETWEEN_CHECKPOINTS == 0:
                await trio.lowlevel.checkpoint()  # a fast upload must not stop the others

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

    async def _discard_body(self) -> bool:
        """Read the rest of a body that the application left; whether the machine is ready for the next request."""
        machine = self.machine
        left = UNREAD_BODY_LIMIT
        if self._closing or not machine.continues or machine.wants_continue:
            return False
        while left > 0:
            try:
                chunk = await self._read_body()
            except RemoteProtocolError:
                return False  # the request has had its answer
            if chunk.last:
                self._pipelined = True
                return machine.start_next_cycle()
            left -= len(chunk.data)
        return False

    async def wait_disconnected(self) -> None:
        """See `ResponseChannel`."""
        if self._over is None:
            self._over = trio.Event()
        await self._over.wait()

    # -- writing --------------------------------------------------------------------------------------------------

    def write_head(self, data: bytes, last: bool, length: int | None = None) -> Rest | None:
        """See `ResponseChannel`."""
        machine = self.machine
        # A client that ended its side still gets answers to what it had sent before.
        close = self._closing or machine.wants_continue or (self.left and not machine.unread)
        fields = self.context.fields.current()
        if self._logged and self.exchange is not None:
            self.exchange.first_byte = self._now()
        if not last or len(data) > SMALL_BODY:
            length = len(data) if last else length
            start = machine.send_prepared_head(defaults=fields, body_known=length, close=close)
            return self._write(start, data, last)
        payload = machine.send_prepared_response(data, defaults=fields, close=close)
        try:
            rest = self.transport.send_now(payload)
        except GONE as error:
            raise self._client_gone() from error
        if rest is not None:
            return [rest]
        self._end_response()
        return [] if machine.closes else None

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
                    return [rest, *pieces[index + 1 :]]
        except GONE as error:
            raise self._client_gone() from error
        if last:
            self._end_response()
            if self.machine.closes:
                return []
        return None

    def _end_response(self) -> None:
        """Note that the response is complete, and tell who waits for that."""
        if self._over is not None:
            self._over.set()
        # What the application does from here on is its own affair; a pipelined request shall not wait for it long.
        pipelined = self._pipelined = self.machine.unread
        if pipelined:
            self.exchange_deadline = self._now() + HAND_OVER_DELAY
            self._hurry()
        else:
            self.exchange_deadline = inf

    def _hurry(self) -> None:
        """Have the deadlines looked at soon, because one of them is near."""
        raise NotImplementedError

    async def write_rest(self, rest: Rest) -> None:
        """See `ResponseChannel`; waits under the write-stall deadline."""
        try:
            for index, piece in enumerate(rest):
                left = memoryview(piece) if index == 0 else self.transport.send_now(piece)
                if left is not None:
                    await self._write_slowly(left)
            exchange = self.exchange
            if exchange is not None and exchange.phase is COMPLETE:
                if self.machine.closes:
                    await self._end_sending()  # whatever the application still has to do
                self._end_response()
                # The next request may have come meanwhile.
                self.exchange_deadline = self._now() + HAND_OVER_DELAY
                self._hurry()
        except GONE as error:
            raise self._client_gone() from error

    async def _end_sending(self) -> None:
        """End our side of the stream. On TLS this writes, so nobody else may, and it has to wait."""
        self.write_deadline = self._now() + self._timeouts.write_stall
        self._writing = True
        try:
            await self.transport.send_eof()
        finally:
            self._writing = False
            self.write_deadline = inf

    async def _write_slowly(self, piece: memoryview) -> None:
        transport = self.transport
        before = self._bytes_at_stall = transport.bytes_sent
        self.write_deadline = self._now() + self._timeouts.write_stall
        self._writing = True
        try:
            await transport.send_rest(piece)
        except BaseException:
            self._uncount(len(piece) - (transport.bytes_sent - before))
            raise
        finally:
            self._writing = False
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
        if last:
            self._end_response()

    async def _transmit(self, data: bytes) -> None:
        rest = self._send_pieces([data], last=False)
        if rest is not None:
            await self.write_rest(rest)

    async def write_information(self, status: int, headers: Headers) -> None:
        """See `ResponseChannel`."""
        data = self.machine.send_information(status, headers)
        if data:
            await self._transmit(data)

    def push(self, path: str, headers: Iterable[tuple[bytes, bytes]]) -> None:  # noqa: ARG002
        """See `ResponseChannel`; the extension is not offered here."""
        raise LocalProtocolError(f"HTTP/1.1 cannot push {path!r}")

    def _client_gone(self) -> ClientDisconnected:
        self.left = self.gone = True
        if self.exchange is not None:
            self.exchange.outcome = "disconnected"
        return ClientDisconnected("the client has left")

    def abort(self) -> None:
        """See `ResponseChannel`."""
        self._closing = True
        if self.machine.ends_by_close:
            self.transport.abort()  # an orderly end would make the body look complete
