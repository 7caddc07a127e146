"""The contract of `trioserve.server.transport.Transport`, as functions that assert.

Each check opens a fresh pair, a transport and its peer, and takes nothing for granted but the contract and what the
`TransportPair` says it can do. `check_transport` runs them all; `TRANSPORT_CHECKS` names them for parametrized tests.
Kernel buffers are of unknown size, so "does not read" always means: until nothing more was taken.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import trio
import trio.abc
import trio.lowlevel
import trio.testing

from trioserve.server.transport import Transport, TransportObserver

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 5.0
"""Seconds after which what should happen is taken not to happen."""
LARGE = 10 * 1024 * 1024
PIECE = 64 * 1024


@dataclass(frozen=True, slots=True)
class TransportPair:
    """A transport, the peer's end of it, and what this kind of transport can do.

    Args:
        transport: what is checked. Its poller or pump has to run already.
        peer: the other end: a plain stream of Trio's, or one on TLS.
        bounded: the layer below holds a bounded number of bytes, so that sending can block.
        resets: the peer can tell an abort from an orderly end, and the transport a reset by its peer.
        peer_half_closes: the peer can end its sending side and go on reading.
        hears_past_unread: the peer's leaving is told though bytes that it sent before are unread.
        reads_after_eof: bytes that come after `send_eof` can still be read.
        reset_peer: lets the peer reset the connection; None where `resets` is False.
    """

    transport: Transport
    peer: trio.abc.Stream
    bounded: bool = True
    resets: bool = False
    peer_half_closes: bool = True
    hears_past_unread: bool = True
    reads_after_eof: bool = True
    reset_peer: Callable[[], None] | None = None


MakePair: TypeAlias = Callable[[], AbstractAsyncContextManager[TransportPair]]


class Recorder(TransportObserver):
    """A listener that notes what it is told."""

    def __init__(self) -> None:
        self.left: list[bool] = []
        self.told_left = trio.Event()
        self.told_broken = trio.Event()
        self.told_bytes = trio.Event()

    def peer_left(self, broken: bool) -> None:
        """Note it."""
        self.left.append(broken)
        self.told_left.set()
        if broken:
            self.told_broken.set()

    def bytes_waiting(self) -> None:
        """Note it."""
        self.told_bytes.set()


class CheckpointedTransport(trio.abc.HalfCloseableStream):
    """A transport with a checkpoint before each operation, as Trio asks of its streams.

    Transports skip checkpoints where an operation need not wait, on purpose. This puts them back, so that
    `trio.testing.check_half_closeable_stream` can judge everything else.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Checkpoint, then receive."""
        await trio.lowlevel.checkpoint()
        return await self._transport.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Checkpoint, then send."""
        await trio.lowlevel.checkpoint()
        await self._transport.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Checkpoint, then wait."""
        await trio.lowlevel.checkpoint()
        await self._transport.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Checkpoint, then end the sending side."""
        await trio.lowlevel.checkpoint()
        await self._transport.send_eof()

    async def aclose(self) -> None:
        """Close; a checkpoint already."""
        await self._transport.aclose()


async def check_transport(make_pair: MakePair) -> None:
    """Run every check on fresh pairs.

    Args:
        make_pair: opens a pair for the length of a block, with whatever has to run beside it.

    Raises:
        AssertionError: the contract is broken; the traceback names the check.
        trio.TooSlowError: something that should happen did not, within `PATIENCE` seconds.
    """
    for check in TRANSPORT_CHECKS:
        await run_check(check, make_pair)


async def run_check(check: TransportCheck, make_pair: MakePair) -> None:
    """Run one of `TRANSPORT_CHECKS` on a fresh pair."""
    with trio.fail_after(PATIENCE * 2):
        async with make_pair() as pair:
            await check(pair)


# -- what the checks are made of ---------------------------------------------------------------------------------------


@contextmanager
def _raises(expected: type[Exception]) -> Iterator[None]:
    try:
        yield
    except expected:
        return
    raise AssertionError(f"expected {expected.__name__}")


async def _read_exactly(stream: trio.abc.ReceiveStream, count: int) -> bytes:
    data = bytearray()
    with trio.fail_after(PATIENCE):
        while len(data) < count:
            piece = await stream.receive_some(count - len(data))
            assert piece, f"the stream ended after {len(data)} of {count} bytes"
            data += piece
    return bytes(data)


async def _expect_end(stream: trio.abc.ReceiveStream) -> None:
    with trio.fail_after(PATIENCE):
        piece = await stream.receive_some(PIECE)
    assert piece == b"", f"expected the end of the stream, got {bytes(piece[:100])!r}"


async def _clog(transport: Transport) -> None:
    """Fill everything between a transport and a peer that does not read."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport.send_all, bytes(LARGE))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def _send_in_two_steps(transport: Transport, data: bytes) -> None:
    rest = transport.send_now(data)
    if rest is not None:
        await transport.send_rest(rest)


def _pattern(count: int, offset: int = 0) -> bytes:
    """Bytes by which a missing, doubled or moved piece shows."""
    numbers = range(offset // 8, (offset + count) // 8 + 1)
    return b"".join([number.to_bytes(8, "big") for number in numbers])[offset % 8 :][:count]


# -- reading -----------------------------------------------------------------------------------------------------------


async def receives_at_most_what_is_asked(pair: TransportPair) -> None:
    """No more than max_bytes at a time, nothing lost, and sizes are checked."""
    await pair.peer.send_all(b"abcdef")
    assert await _read_exactly(pair.transport, 1) == b"a"
    assert await pair.transport.receive_some(2) == b"bc"
    assert await pair.transport.receive_some() == b"def"
    with _raises(ValueError):
        await pair.transport.receive_some(0)


async def a_parked_reader_gets_bytes(pair: TransportPair) -> None:
    """Bytes that come while a task waits reach it, and so do those of the next time."""
    for word in (b"one", b"two", b"three"):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_assert_reads, pair.transport, word)
            await trio.testing.wait_all_tasks_blocked()
            await pair.peer.send_all(word)


async def _assert_reads(transport: Transport, expected: bytes) -> None:
    assert await _read_exactly(transport, len(expected)) == expected


async def the_end_stays_the_end(pair: TransportPair) -> None:
    """Once the peer is done, bytes that it sent before come first, then b"" for ever."""
    await pair.peer.send_all(b"last words")
    await _end_peer(pair)
    assert await _read_exactly(pair.transport, 10) == b"last words"
    for _ in range(3):
        await _expect_end(pair.transport)


async def _end_peer(pair: TransportPair) -> None:
    if pair.peer_half_closes and isinstance(pair.peer, trio.abc.HalfCloseableStream):
        await pair.peer.send_eof()
    else:
        await pair.peer.aclose()


async def a_parked_reader_is_told_of_the_end(pair: TransportPair) -> None:
    """b"" reaches a task that waits already."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_expect_end, pair.transport)
        await trio.testing.wait_all_tasks_blocked()
        await _end_peer(pair)


async def two_readers_are_refused(pair: TransportPair) -> None:
    """The second one gets BusyResourceError, and the first one its bytes."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_assert_reads, pair.transport, b"for the first")
        await trio.testing.wait_all_tasks_blocked()
        with _raises(trio.BusyResourceError):
            await pair.transport.receive_some(1)
        await pair.peer.send_all(b"for the first")


async def a_cancelled_read_loses_nothing(pair: TransportPair) -> None:
    """Also when the bytes come together with the cancellation."""
    for number in range(20):
        word = b"%04d" % number
        received = bytearray()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_receive_into, pair.transport, received)
                await trio.testing.wait_all_tasks_blocked()
                await pair.peer.send_all(word)
                scope.cancel()
        received += await _read_exactly(pair.transport, len(word) - len(received))
        assert received == word


async def _receive_into(transport: Transport, buffer: bytearray) -> None:
    buffer += await transport.receive_some(PIECE)


async def bytes_are_read_before_any_checkpoint(pair: TransportPair) -> None:
    """What has come is returned inside a cancelled scope too."""
    recorder = Recorder()
    pair.transport.observe(recorder)
    await pair.peer.send_all(b"here")
    with trio.fail_after(PATIENCE):
        await recorder.told_bytes.wait()
    with trio.CancelScope() as scope:
        scope.cancel()
        assert await pair.transport.receive_some(PIECE) == b"here"
        await pair.transport.receive_some(PIECE)
    assert scope.cancelled_caught


# -- writing -----------------------------------------------------------------------------------------------------------


async def sends_every_kind_of_bytes(pair: TransportPair) -> None:
    """bytes, bytearray, memoryviews of any shape, and none at all."""
    await pair.transport.send_all(b"ab")
    await pair.transport.send_all(b"")
    await pair.transport.send_all(bytearray(b"cd"))
    await pair.transport.send_all(memoryview(b"ef"))
    await _send_in_two_steps(pair.transport, b"gh")
    assert await _read_exactly(pair.peer, 8) == b"abcdefgh"


async def large_bodies_arrive_in_both_directions(pair: TransportPair) -> None:
    """10 MB each way at the same time, in pieces of any size."""
    data = _pattern(LARGE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_send_in_pieces, pair.transport, data)
        nursery.start_soon(_send_in_pieces, pair.peer, data[::-1])
        nursery.start_soon(_assert_receives, pair.peer, data)
        nursery.start_soon(_assert_receives, pair.transport, data[::-1])


async def one_large_send_arrives(pair: TransportPair) -> None:
    """10 MB in one call, through a peer that reads slowly."""
    data = _pattern(LARGE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.transport.send_all, data)
        await trio.testing.wait_all_tasks_blocked()
        await _assert_receives(pair.peer, data)


async def _send_in_pieces(stream: trio.abc.SendStream, data: bytes) -> None:
    left = memoryview(data)
    size = 1
    while left:
        await stream.send_all(left[:size])
        left = left[size:]
        size = size * 3 % 300_007 + 1
        await trio.lowlevel.checkpoint()


async def _assert_receives(stream: trio.abc.ReceiveStream, data: bytes) -> None:
    received = bytearray()
    size = 1
    while len(received) < len(data):
        with trio.fail_after(PATIENCE):
            piece = await stream.receive_some(size)
        assert piece, f"the stream ended after {len(received)} of {len(data)} bytes"
        received += piece
        size = size * 5 % 200_003 + 1
        await trio.lowlevel.checkpoint()
    assert received == data, "bytes were changed"


async def sending_waits_for_the_peer(pair: TransportPair) -> None:
    """It blocks while the peer does not read, goes on when it does, and all of it arrives in order."""
    if not pair.bounded:
        return
    data = _pattern(LARGE)
    done = trio.Event()

    async def send() -> None:
        await pair.transport.send_all(data)
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        assert not done.is_set(), "send_all() took everything though the peer reads nothing"
        assert await _read_exactly(pair.peer, LARGE // 2) == data[: LARGE // 2]
        assert await _read_exactly(pair.peer, LARGE - LARGE // 2) == data[LARGE // 2 :]
        with trio.fail_after(PATIENCE):
            await done.wait()


async def sending_can_be_cancelled(pair: TransportPair) -> None:
    """A writer that waits for its peer ends at once; what was sent until then is a beginning of the data."""
    if not pair.bounded:
        return
    data = _pattern(LARGE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.transport.send_all, data)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    pair.transport.abort()
    await pair.transport.aclose()
    received = await _read_what_comes(pair.peer)
    assert data.startswith(received)


async def _read_what_comes(stream: trio.abc.ReceiveStream) -> bytes:
    received = bytearray()
    try:
        while piece := await stream.receive_some(PIECE):
            received += piece
    except trio.BrokenResourceError:
        pass
    return bytes(received)


async def two_writers_are_refused(pair: TransportPair) -> None:
    """While one waits, each way to write raises BusyResourceError."""
    if not pair.bounded:
        return
    transport = pair.transport
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport.send_all, bytes(LARGE))
        await trio.testing.wait_all_tasks_blocked()
        with _raises(trio.BusyResourceError):
            await _send_in_two_steps(transport, b"x")
        with _raises(trio.BusyResourceError):
            await transport.send_all(b"x")
        with _raises(trio.BusyResourceError):
            await transport.send_eof()
        with _raises(trio.BusyResourceError):
            await transport.wait_send_all_might_not_block()
        nursery.cancel_scope.cancel()


async def sent_bytes_are_counted(pair: TransportPair) -> None:
    """`bytes_sent` grows with what the layer below takes: at least the payload, and while a writer still waits."""
    transport = pair.transport
    before = transport.bytes_sent
    await transport.send_all(bytes(1000))
    assert 1000 <= transport.bytes_sent - before <= 1100
    await _read_exactly(pair.peer, 1000)
    if not pair.bounded:
        return
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport.send_all, bytes(LARGE))
        await trio.testing.wait_all_tasks_blocked()
        stalled = transport.bytes_sent
        assert stalled - before < LARGE
        await _read_exactly(pair.peer, LARGE // 2)
        await trio.testing.wait_all_tasks_blocked()
        assert transport.bytes_sent > stalled
        await _read_exactly(pair.peer, LARGE - LARGE // 2)
    assert transport.bytes_sent - before >= LARGE


async def a_file_is_sent(pair: TransportPair) -> None:
    """From its position, which moves, or from an offset, which moves nothing; a short file is an error."""
    transport = pair.transport
    content = _pattern(3 * 1024 * 1024)
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        descriptor = file.fileno()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_assert_receives, pair.peer, content + content[100:200])
            os.lseek(descriptor, 0, os.SEEK_SET)
            await transport.send_file(descriptor, None, len(content))
            assert os.lseek(descriptor, 0, os.SEEK_CUR) == len(content)
            await transport.send_file(descriptor, 100, 100)
            assert os.lseek(descriptor, 0, os.SEEK_CUR) == len(content)
        with _raises(EOFError):
            await transport.send_file(descriptor, len(content) - 10, 20)
    assert await _read_exactly(pair.peer, 10) == content[-10:]


# -- half-closing ------------------------------------------------------------------------------------------------------


async def our_side_can_be_ended(pair: TransportPair) -> None:
    """The peer reads what was sent and then the end; we may not write, may end again, and may still read."""
    transport = pair.transport
    await transport.send_all(b"goodbye")
    await transport.send_eof()
    await transport.send_eof()
    assert await _read_exactly(pair.peer, 7) == b"goodbye"
    await _expect_end(pair.peer)
    with _raises(trio.ClosedResourceError):
        await _send_in_two_steps(transport, b"more")
    with _raises(trio.ClosedResourceError):
        await transport.send_all(b"more")
    if pair.reads_after_eof:
        await pair.peer.send_all(b"still here")
        assert await _read_exactly(transport, 10) == b"still here"


async def the_peer_may_end_its_side_alone(pair: TransportPair) -> None:
    """After that we can still send to it."""
    if not pair.peer_half_closes:
        return
    await _end_peer(pair)
    await _expect_end(pair.transport)
    await pair.transport.send_all(b"still here")
    assert await _read_exactly(pair.peer, 10) == b"still here"
    assert not pair.transport.broken


# -- what a listener is told -------------------------------------------------------------------------------------------


async def a_half_close_is_told_while_nobody_reads(pair: TransportPair) -> None:
    """peer_left(False), once, and no error."""
    if not pair.peer_half_closes:
        return
    recorder = Recorder()
    pair.transport.observe(recorder)
    await _end_peer(pair)
    with trio.fail_after(PATIENCE):
        await recorder.told_left.wait()
    assert recorder.left == [False]
    assert pair.transport.half_closed
    assert not pair.transport.broken
    await _expect_end(pair.transport)
    assert recorder.left == [False]


async def a_close_behind_unread_bytes_is_told(pair: TransportPair) -> None:
    """Pipelined bytes do not hide that the peer has left, and can be read afterwards."""
    if not pair.hears_past_unread:
        return
    recorder = Recorder()
    pair.transport.observe(recorder)
    await pair.peer.send_all(b"pipelined")
    with trio.fail_after(PATIENCE):
        await recorder.told_bytes.wait()
    await pair.peer.aclose()
    with trio.fail_after(PATIENCE):
        await recorder.told_left.wait()
    assert await _read_exactly(pair.transport, 9) == b"pipelined"
    await _expect_end(pair.transport)


async def what_follows_a_read_is_told(pair: TransportPair) -> None:
    """A transport that was read from hears of more bytes, and then of the end, without another read."""
    transport = pair.transport
    recorder = Recorder()
    transport.observe(recorder)
    for reader_first in (True, False):
        async with trio.open_nursery() as nursery:
            if reader_first:
                nursery.start_soon(_assert_reads, transport, b"request")
                await trio.testing.wait_all_tasks_blocked()
            await pair.peer.send_all(b"request")
            if not reader_first:
                await _assert_reads(transport, b"request")
    await trio.testing.wait_all_tasks_blocked()
    recorder.told_bytes = trio.Event()
    await pair.peer.send_all(b"more")
    with trio.fail_after(PATIENCE):
        await recorder.told_bytes.wait()
    await _assert_reads(transport, b"more")
    if not (pair.hears_past_unread or pair.peer_half_closes):
        return
    await _end_peer(pair)
    with trio.fail_after(PATIENCE):
        await recorder.told_left.wait()


async def a_close_is_told_while_nobody_reads(pair: TransportPair) -> None:
    """The peer closes both directions."""
    if not (pair.hears_past_unread or pair.peer_half_closes):
        return  # TLS says goodbye in bytes
    recorder = Recorder()
    pair.transport.observe(recorder)
    await pair.peer.aclose()
    with trio.fail_after(PATIENCE):
        await recorder.told_left.wait()
    assert pair.transport.half_closed


async def a_reset_is_told_while_nobody_reads(pair: TransportPair) -> None:
    """peer_left(True); then reading and writing raise BrokenResourceError."""
    if pair.reset_peer is None:
        return
    recorder = Recorder()
    pair.transport.observe(recorder)
    pair.reset_peer()
    with trio.fail_after(PATIENCE):
        await recorder.told_broken.wait()
    assert pair.transport.broken
    with _raises(trio.BrokenResourceError):
        await pair.transport.receive_some(1)
    with _raises(trio.BrokenResourceError):
        await pair.transport.send_all(b"x")


async def a_reset_wakes_a_reader(pair: TransportPair) -> None:
    """It gets BrokenResourceError."""
    if pair.reset_peer is None:
        return
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_assert_broken, pair.transport.receive_some, 1)
        await trio.testing.wait_all_tasks_blocked()
        pair.reset_peer()


async def a_reset_wakes_a_writer(pair: TransportPair) -> None:
    """It gets BrokenResourceError."""
    if pair.reset_peer is None or not pair.bounded:
        return
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_assert_broken, pair.transport.send_all, bytes(LARGE))
        await trio.testing.wait_all_tasks_blocked()
        pair.reset_peer()


async def _assert_broken(operation: Callable[..., Awaitable[object]], argument: object) -> None:
    with trio.fail_after(PATIENCE), _raises(trio.BrokenResourceError):
        await operation(argument)


async def waiting_bytes_are_told(pair: TransportPair) -> None:
    """When nobody reads; and they are still there afterwards."""
    recorder = Recorder()
    pair.transport.observe(recorder)
    await pair.peer.send_all(b"hello?")
    with trio.fail_after(PATIENCE):
        await recorder.told_bytes.wait()
    assert recorder.left == []
    assert await _read_exactly(pair.transport, 6) == b"hello?"


# -- closing -----------------------------------------------------------------------------------------------------------


async def closing_wakes_who_waits(pair: TransportPair) -> None:
    """Reader and writer get ClosedResourceError, at once, and so does whoever comes later."""
    transport = pair.transport
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_assert_closed, transport.receive_some, 1)
        if pair.bounded:
            nursery.start_soon(_assert_closed, transport.send_all, bytes(LARGE))
        await trio.testing.wait_all_tasks_blocked()
        await transport.aclose()
    await _assert_closed(transport.receive_some, 1)
    await _assert_closed(transport.send_all, b"x")
    await transport.aclose()


async def _assert_closed(operation: Callable[..., Awaitable[object]], argument: object) -> None:
    with trio.fail_after(PATIENCE), _raises(trio.ClosedResourceError):
        await operation(argument)


async def closing_wakes_who_waits_for_room(pair: TransportPair) -> None:
    """wait_send_all_might_not_block raises ClosedResourceError."""
    if not pair.bounded:
        return
    await _clog(pair.transport)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_assert_closed, _wait_for_room, pair.transport)
        await trio.testing.wait_all_tasks_blocked()
        await pair.transport.aclose()


async def _wait_for_room(transport: Transport) -> None:
    await transport.wait_send_all_might_not_block()


async def a_cancelled_close_closes(pair: TransportPair) -> None:
    """And what was sent before still arrives."""
    await pair.transport.send_all(b"last words")
    await trio.aclose_forcefully(pair.transport)
    with _raises(trio.ClosedResourceError):
        await pair.transport.receive_some(1)
    assert await _read_exactly(pair.peer, 10) == b"last words"
    await _expect_end(pair.peer)


async def an_abort_is_an_error_to_the_peer(pair: TransportPair) -> None:
    """Not an orderly end; and our side is closed, or as good as that."""
    if not pair.resets:
        return
    pair.transport.abort()
    await pair.transport.aclose()
    with trio.fail_after(PATIENCE), _raises(trio.BrokenResourceError):
        await pair.peer.receive_some(1)
    pair.transport.abort()


async def a_observer_is_told_nothing_after_close(pair: TransportPair) -> None:
    """Neither of our own closing nor of what the peer does then."""
    recorder = Recorder()
    pair.transport.observe(recorder)
    await pair.transport.aclose()
    await pair.peer.aclose()
    await trio.testing.wait_all_tasks_blocked()
    assert recorder.left == []


TransportCheck: TypeAlias = Callable[[TransportPair], Awaitable[None]]

TRANSPORT_CHECKS: tuple[TransportCheck, ...] = (
    receives_at_most_what_is_asked,
    a_parked_reader_gets_bytes,
    the_end_stays_the_end,
    a_parked_reader_is_told_of_the_end,
    two_readers_are_refused,
    a_cancelled_read_loses_nothing,
    bytes_are_read_before_any_checkpoint,
    sends_every_kind_of_bytes,
    large_bodies_arrive_in_both_directions,
    one_large_send_arrives,
    sending_waits_for_the_peer,
    sending_can_be_cancelled,
    two_writers_are_refused,
    sent_bytes_are_counted,
    a_file_is_sent,
    our_side_can_be_ended,
    the_peer_may_end_its_side_alone,
    a_half_close_is_told_while_nobody_reads,
    a_close_is_told_while_nobody_reads,
    a_close_behind_unread_bytes_is_told,
    what_follows_a_read_is_told,
    a_reset_is_told_while_nobody_reads,
    a_reset_wakes_a_reader,
    a_reset_wakes_a_writer,
    waiting_bytes_are_told,
    closing_wakes_who_waits,
    closing_wakes_who_waits_for_room,
    a_cancelled_close_closes,
    an_abort_is_an_error_to_the_peer,
    a_observer_is_told_nothing_after_close,
)
