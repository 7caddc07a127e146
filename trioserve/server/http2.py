"""The life of an HTTP/2 connection (RFC 9113): one task that reads, one that writes, and one for each stream.

Theory of operation. The reader takes bytes into the machine and hands its events to streams; it never waits for an
application, since a body waits in its stream, bounded by the window. Applications write into the machine; the
writer alone sends what the machine makes of that, in pieces small enough for an urgent stream to come in between.
It is woken once for all that happened in a turn of the loop. What ends a stream ends that stream alone; what ends the
connection takes from its streams the client, and leaves them their grace.

Not here: which frames are mistakes and what leaves first (`protocols/http2`), the life of a stream (`http2_stream.py`).
"""

from __future__ import annotations

import logging
from math import inf
from typing import TYPE_CHECKING, Any

import trio
import trio.lowlevel

from trioserve.asgi.scope import ScopeBuilder
from trioserve.protocols.errors import RemoteProtocolError
from trioserve.protocols.http2.events import (
    NEED_DATA,
    PONG,
    BodyChunk,
    Event,
    Http2Request,
    RefusedRequest,
    StreamClosed,
)
from trioserve.server.ending import Unreadable
from trioserve.server.exchange_rules import apply_proxy_rules
from trioserve.server.http2_session import Http2SessionStream
from trioserve.server.http2_stream import Http2Stream, check_push

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trioserve.asgi.channel import Peer
    from trioserve.protocols.http2.machine import Http2Machine
    from trioserve.server.context import ServerContext
    from trioserve.server.transport import Transport

logger = logging.getLogger("trioserve.error")

GONE = (trio.BrokenResourceError, trio.ClosedResourceError)

RECEIVE_SIZE = 65536
SEND_SIZE = 32768
"""Bytes of content that leave in one write: what an urgent stream has to wait for at most."""
QUEUE_SIZE = 262144
"""Bytes that may wait for a client which does not read before nothing more is read of it."""
EVENTS_BETWEEN_CHECKPOINTS = 64
SECONDS_BETWEEN_CHECKPOINTS = 0.005
WRITES_BETWEEN_CHECKPOINTS = 4
GOAWAY_DELAY = 1.0
"""Seconds between the two GOAWAY frames, if the client does not answer the PING that comes with the first."""
LINGER_TIMEOUT = 1.0
"""Seconds for which a client's bytes are still read at the end, so that it gets to read our last ones."""
DRAIN_PING = b"draining"


class Http2Connection:
    """One HTTP/2 connection.

    Args:
        context: what all connections share.
        transport: the byte stream.
        peer: the addresses of the connection, before the proxy rules.
        extensions: the ASGI extensions that this connection offers.
        machine: a fresh one, or one that has taken over a request from HTTP/1.1.
        received: bytes that were read already.

    Attributes:
        read_deadline, write_deadline, exchange_deadline: times on Trio's clock, for the sweeping task.
    """

    __slots__ = (
        *("_bytes_at_stall", "_finished", "_final", "_head_begun", "_io", "_nursery", "_peer", "_reading"),
        *("_received", "_room", "_streams", "_streams_over", "_timeouts", "_trusted", "_writer"),
        *("_writer_wanted", "context", "exchange_deadline", "machine", "now", "read_deadline", "scopes"),
        *("transport", "write_deadline"),
    )

    def __init__(
        self,
        context: ServerContext,
        transport: Transport,
        peer: Peer,
        extensions: dict[str, Any],
        machine: Http2Machine,
        received: bytes = b"",
    ) -> None:
        self.context = context
        self.transport = transport
        self.machine = machine
        self.now = trio.lowlevel.current_clock().current_time
        self.scopes = ScopeBuilder(
            context.settings.root_path, context.state, {**extensions, "http.response.push": {}}
        )
        self.read_deadline = self.write_deadline = self.exchange_deadline = inf
        self._peer = peer
        self._trusted = context.proxies.trusts(peer.client)
        self._timeouts = context.settings.timeouts
        self._received = received
        self._streams: dict[int, Http2Stream] = {}
        self._streams_over: trio.Event | None = None  # set when the last stream has ended
        self._nursery: trio.Nursery | None = None
        self._io = trio.CancelScope()  # around reading and writing; the applications outlive it
        self._reading = trio.CancelScope()
        self._writer: trio.lowlevel.Task | None = None  # while it has nothing to do
        self._writer_wanted = True
        self._finished = False  # the writer ends when it has sent everything
        self._room: trio.Event | None = None  # set when the writer is not held back any more
        self._bytes_at_stall = 0
        self._head_begun = True  # the deadline of an incomplete preface or head runs
        self._final = False  # the last GOAWAY was sent

    # -- the connection's life ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve streams until the connection ends, then close the transport and see the applications to their end.

        Raises nothing for what the peer or an application does; cancelling it closes at once.
        """
        self.context.deadlines.add(self)
        self.transport.observe(self)
        self.read_deadline = self.now() + self._timeouts.head
        if self.context.draining.is_set():
            self.drain()
        try:
            async with trio.open_nursery() as self._nursery:
                try:
                    with self._io:
                        await self._serve()
                finally:
                    # Also when cancelled: shielded applications may wait to send.
                    self._lose_streams(broken=True)
                await self._close()
        finally:
            self.context.deadlines.discard(self)
            self.machine.end_input()
            with trio.CancelScope(shield=True, deadline=self.now() + LINGER_TIMEOUT):
                await self.transport.aclose()

    async def _serve(self) -> None:
        """Read and write until there is no more of either."""
        async with trio.open_nursery() as io:
            io.start_soon(self._write)
            try:
                with self._reading:
                    await self._read()
                # The client has ended its side, or was told to open nothing more; what it asked for is answered.
                self._lose_streams(broken=False)
                self.read_deadline = inf
                if self._streams:
                    self._streams_over = trio.Event()
                    await self._streams_over.wait()
            except RemoteProtocolError as error:
                logger.debug("an HTTP/2 connection was ended for a mistake of its client: %s", error)
                self._lose_streams(broken=True)
                self._io.deadline = self.now() + LINGER_TIMEOUT  # for GOAWAY to leave
            except GONE:
                self._lose_streams(broken=True)
            self._finished = True
            self.wake_writer()

    async def _close(self) -> None:
        """End our side, and read for a while what the client still sends, so that it gets to read our last bytes.

        Closing with unread bytes would reset the connection.
        """
        try:
            with trio.move_on_after(LINGER_TIMEOUT):
                await self.transport.send_eof()
                while await self.transport.receive_some(RECEIVE_SIZE):
                    await trio.lowlevel.checkpoint()
        except GONE:
            pass
        await self.transport.aclose()  # the applications may take longer

    # -- reading --------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        """Take what the client sends until it ends its side.

        Raises:
            RemoteProtocolError: it broke the protocol.
            trio.BrokenResourceError, trio.ClosedResourceError: it cannot be reached any more.
        """
        transport = self.transport
        self._take_events()  # of a machine that has taken over a request
        data: bytes | None = self._received
        self._received = b""
        while True:
            if data:
                self.machine.receive_data(data, self.now())
                del data
                while self._take_events():
                    await trio.lowlevel.checkpoint()  # many small frames must not stop the others
                self.wake_writer()
                self._settle_read_deadline()
                if self.machine.peer_leaving and not self._streams:
                    return
                if self.write_deadline != inf and self.machine.queued > QUEUE_SIZE:
                    await self._wait_for_room()
            data = transport.receive_now(RECEIVE_SIZE)
            if data is None:
                data = await transport.parked_receive(RECEIVE_SIZE)
            else:
                await trio.lowlevel.checkpoint()
            if not data:
                return

    async def _wait_for_room(self) -> None:
        """Read nothing more of a client that does not read: each answer would have to be held."""
        self._room = trio.Event()
        await self._room.wait()

    def _take_events(self) -> bool:
        """Pass on what the machine reports; whether there may be more."""
        next_event, now = self.machine.next_event, self.now
        end = now() + SECONDS_BETWEEN_CHECKPOINTS
        for _ in range(EVENTS_BETWEEN_CHECKPOINTS):
            event = next_event()
            if event is NEED_DATA:
                return False
            self._take(event)
            if now() >= end:  # a head may cost as much as thirty others
                break
        return True

    def _take(self, event: Event) -> None:
        kind = type(event)
        if kind is Http2Request:
            self._start_stream(event)  # type: ignore[arg-type]
        elif kind is BodyChunk:
            stream = self._streams.get(event.stream_id)  # type: ignore[union-attr]
            if stream is not None:
                stream.take_chunk(event)  # type: ignore[arg-type]
            else:  # nobody reads it; a client that is let go on may come to the answer
                self.machine.acknowledge(event.stream_id, len(event.data))  # type: ignore[union-attr]
        elif isinstance(event, StreamClosed):
            stream = self._streams.get(event.stream_id)
            if stream is not None:
                stream.close(event)
        elif isinstance(event, RefusedRequest):
            stream = self._add_stream(event.stream_id, Unreadable("2"), self._peer)
            if stream is not None and self._nursery is not None:
                self._nursery.start_soon(stream.refuse, event.status, f"{event.reason}\n")
        elif event is PONG:
            self._finish_opening()

    def _start_stream(self, request: Http2Request) -> None:
        """Let a request reach the application, unless too many run."""
        peer = self._peer
        if request.forwarded:
            peer = apply_proxy_rules(self.context, request, peer, trusted=self._trusted)
        kind = Http2Stream if request.protocol is None else Http2SessionStream
        stream = self._add_stream(request.stream_id, request, peer, kind)
        if stream is not None and self._nursery is not None:
            self._nursery.start_soon(stream.serve, request)

    def _add_stream(
        self, stream_id: int, request: Any, peer: Peer, kind: type[Http2Stream] = Http2Stream
    ) -> Http2Stream | None:
        """Take a stream in; None when it was refused, to be tried again (RFC 9113 section 8.7).

        Applications that run are what is limited: one goes on for a while after its stream was reset. Those
        make room by being cancelled before their time.
        """
        streams = self._streams
        most = self.context.settings.http2.max_concurrent_streams
        if len(streams) >= most and sum(not stream.hasten() for stream in streams.values()) >= most:
            self.machine.refuse_stream(stream_id)
            return None
        self.context.counters.requests_total += 1
        stream = streams[stream_id] = kind(self, stream_id, request, peer)
        return stream

    def end_stream(self, stream: Http2Stream) -> None:
        """Forget a stream whose exchange is over."""
        del self._streams[stream.stream_id]
        self.wake_writer()
        if not self._streams:
            if self._streams_over is not None:
                self._streams_over.set()
            elif self._final or self.machine.peer_leaving:
                self._reading.cancel()
            else:
                self._settle_read_deadline()

    def _lose_streams(self, *, broken: bool) -> None:
        """Tell all streams that the client has ended its side, or that nothing can reach it any more."""
        for stream in tuple(self._streams.values()):
            stream.lose(broken=broken)

    def acknowledge(self, stream_id: int, size: int) -> None:
        """Give the client credit for bytes of a body that the application took, if it can still use any."""
        if not self.machine.failed:
            self.machine.acknowledge(stream_id, size)
            self.wake_writer()

    def push(self, stream: Http2Stream, path: str, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Answer a request that the application makes in its client's name; nothing if the client wants none.

        Raises:
            LocalProtocolError: path or headers are illegal.
        """
        target, fields = check_push(path, headers)
        if 2 * len(self._streams) >= self.context.settings.http2.max_concurrent_streams:
            return  # the room that is left is for what the client asks for
        request = stream.exchange.request
        assert isinstance(request, Http2Request)
        scheme = stream.exchange.peer.scheme
        pushed = self.machine.push(stream.stream_id, target, scheme, request.host, fields)
        if pushed is not None:
            self._start_stream(pushed)
            self.wake_writer()

    # -- writing --------------------------------------------------------------------------------------------------

    def wake_writer(self) -> None:
        """Have the writer look whether there is something to send, once this turn of the loop is over."""
        task, self._writer = self._writer, None
        if task is not None:
            trio.lowlevel.reschedule(task)
        else:
            self._writer_wanted = True

    async def _write(self) -> None:
        """Send what the machine makes, until told that it is finished."""
        machine = self.machine
        writes = 0
        try:
            while True:
                self._writer_wanted = False
                data = machine.data_to_send(SEND_SIZE)
                self._make_room()
                if data:
                    await self._send(data)
                    writes += 1
                    if writes % WRITES_BETWEEN_CHECKPOINTS == 0:
                        # A client that takes everything must not stop the others.
                        await trio.lowlevel.checkpoint()
                elif self._finished:
                    return
                elif not self._writer_wanted:
                    self._writer = trio.lowlevel.current_task()
                    await trio.lowlevel.wait_task_rescheduled(self._abort_wait)
        except GONE:
            self._lose_streams(broken=True)
            self._io.cancel()

    def _abort_wait(self, _: object) -> trio.lowlevel.Abort:
        self._writer = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _make_room(self) -> None:
        """Let those go on who waited for what has just left the machine."""
        drained = self.machine.drained
        if drained:
            for stream_id in drained:
                stream = self._streams.get(stream_id)
                if stream is not None:
                    stream.make_room()
            drained.clear()

    async def _send(self, data: bytearray) -> None:
        transport = self.transport
        rest = transport.send_now(data)
        if rest is None:
            return
        self._bytes_at_stall = transport.bytes_sent
        self.write_deadline = self.now() + self._timeouts.write_stall
        try:
            await transport.send_rest(rest)
        finally:
            self.write_deadline = inf
            if self._room is not None:
                self._room.set()

    # -- the end --------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Finish what runs and let nothing new be opened: GOAWAY twice (RFC 9113 section 6.8).

        What the client sends before it has seen the first one is served; its answer to a PING tells that it has.
        """
        if not self._final and self.exchange_deadline == inf:
            self.machine.send_goaway(final=False)
            self.machine.send_ping(DRAIN_PING)
            self.exchange_deadline = self.now() + GOAWAY_DELAY
            self.context.deadlines.hurry(self)
            self.wake_writer()

    def _finish_opening(self) -> None:
        """Send the last GOAWAY, and end when the streams have."""
        self.exchange_deadline = inf
        if not self._final:
            self._final = True
            self.machine.send_goaway(final=True)
            self.wake_writer()
            if not self._streams:
                self._reading.cancel()

    def end(self) -> None:
        """Cancel what runs; heads that are still owed become 503."""
        self._finish_opening()
        for stream in tuple(self._streams.values()):
            stream.end()

    # -- what the sweeping task and the transport tell ------------------------------------------------------------

    def _settle_read_deadline(self) -> None:
        """Set the time until which something has to come, depending on what is awaited."""
        machine = self.machine
        idle = not self._streams
        if machine.block_in_progress or (idle and machine.frame_in_progress) or not machine.begun:
            if not self._head_begun:
                self._head_begun = True
                self.read_deadline = self.now() + self._timeouts.head
        else:
            self._head_begun = False
            self.read_deadline = self.now() + self._timeouts.keep_alive if idle else inf

    def expire(self, now: float) -> None:
        """See `Deadlined`."""
        if self.write_deadline <= now:
            sent = self.transport.bytes_sent
            if sent != self._bytes_at_stall:
                self._bytes_at_stall = sent
                self.write_deadline = now + self._timeouts.write_stall
                return
            self.write_deadline = inf
            self.transport.abort()
            self._lose_streams(broken=True)
            self._io.cancel()  # not every transport wakes who waits for it
        elif self.exchange_deadline <= now:
            self._finish_opening()
        else:
            self.read_deadline = inf
            self._finish_opening()
            self._reading.cancel()

    def bytes_waiting(self) -> None:
        """See `TransportObserver`; the reader comes by itself."""

    def peer_left(self, broken: bool) -> None:
        """See `TransportObserver`; unless it is broken, the reader finds the end behind the last bytes."""
        if broken:
            self._lose_streams(broken=True)
