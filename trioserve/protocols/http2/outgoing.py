"""What streams still have to send, and the order and the portions in which it leaves (RFC 9113 sections 5.2 and 6.9).

`Outgoing` holds the content of responses until the peer's windows and the scheduler let it go; h2 turns it into
frames and keeps the windows. Heads are never held back. Invariant: a stream is ready in the scheduler exactly while
it has something to send that its own window lets go; the connection's window is looked at separately, because it
holds back all streams alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trioserve.protocols.http2.priorities import Dependency
from trioserve.protocols.http2.scheduler import DependencyScheduler, StreamScheduler, UrgencyScheduler

if TYPE_CHECKING:
    from collections import deque

    from trioserve.protocols.http2.events import Headers
    from trioserve.protocols.http2.lean_connection import LeanConnection
    from trioserve.protocols.http2.priorities import Urgency
    from trioserve.protocols.http2.streams import StreamState

LARGEST_FRAME: Final = 16384
"""Bytes of content in one frame; a peer that allows more gets no more, so that urgent streams come in between."""
FRAME_OVERHEAD: Final = 9
LEAST_PROGRESS: Final = 4096
"""Bytes that a connection's window has to let go between two looks for it not to be a stall."""
DIRECT_SIZE: Final = 32768
"""Bytes of content that may pass by the scheduler before they are fetched, while nobody else is waiting."""
WORTHY_FRAME: Final = 256
"""Bytes from which on a DATA frame earns its receiver window updates; a trickle of window earns none."""


class Outgoing:
    """The responses of one connection on their way out.

    Args:
        connection: turns content into frames.
        streams: the open streams by number; owned by the machine.
        high_water: bytes of one response above which its application has to wait.

    Attributes:
        drained: streams that were filled and no longer are, or ended, since somebody last emptied the list.
    """

    __slots__ = (
        "_connection",
        "_direct",
        "_high_water",
        "_scheduler",
        "_sent",
        "_streams",
        "_tree_refused",
        "_worthy_frames",
        "drained",
    )

    def __init__(self, connection: LeanConnection, streams: dict[int, StreamState], high_water: int) -> None:
        self._connection = connection
        self._streams = streams
        self._high_water = high_water
        self._scheduler: StreamScheduler = UrgencyScheduler()
        self._tree_refused = False
        self.drained: list[int] = []
        self._worthy_frames = 0
        self._direct = 0
        self._sent = 0  # bytes of content, of all streams

    # -- priorities -----------------------------------------------------------------------------------------------

    def refuse_tree(self) -> None:
        """Go by RFC 9218 for good: the peer has used it, or said that it does not use RFC 7540's tree."""
        if not self._tree_refused:
            self._tree_refused = True
            if not isinstance(self._scheduler, UrgencyScheduler):
                self._change_scheduler(UrgencyScheduler())

    def reprioritise(self, stream: StreamState, signal: Urgency | Dependency) -> None:
        """Take a priority signal; the first one of RFC 7540 makes its tree decide, if nothing speaks against it."""
        if isinstance(signal, Dependency):
            if self._tree_refused:
                return
            if not isinstance(self._scheduler, DependencyScheduler):
                self._change_scheduler(DependencyScheduler())
            parent = self._streams.get(signal.parent)
            if parent is not None:  # also one that has sent nothing yet
                self._introduce(parent)
        self._introduce(stream)
        self._scheduler.reprioritise(stream.stream_id, signal)

    def _change_scheduler(self, scheduler: StreamScheduler) -> None:
        for stream_id, ready in self._scheduler.streams():
            scheduler.open(stream_id)
            if ready:
                scheduler.unblock(stream_id)
        self._scheduler = scheduler

    def _introduce(self, stream: StreamState) -> None:
        if not stream.scheduled:
            stream.scheduled = True
            self._scheduler.open(stream.stream_id)

    # -- filling --------------------------------------------------------------------------------------------------

    def add(self, stream: StreamState, data: bytes | memoryview, ending: Headers | None) -> bool:
        """Take a piece of content, and the end when `ending` is not None; False when the caller should wait.

        That is while more than the high-water mark is waiting, and behind the end, while anything is.
        """
        size = len(data)
        if (
            not stream.unsent
            and size <= LARGEST_FRAME
            and not ending
            and not self._scheduler.ready
            and self._direct + size <= DIRECT_SIZE
            and size <= self._connection.local_flow_control_window(stream.stream_id)
            and size <= self._connection.max_outbound_frame_size
        ):
            # Nobody is waiting: the usual way of a small answer.
            self._direct += size
            if size or ending is not None:
                self._send_frame(stream, data, ending is not None)
            return True
        if size:
            stream.pending.append(data)
            stream.unsent += size
        if ending is not None:
            stream.ending = ending
        if stream.unsent:
            self._introduce(stream)
            self._scheduler.unblock(stream.stream_id)
        else:
            self._end(stream)
        stream.filled = stream.unsent > (self._high_water if ending is None else 0)
        stream.mark = self._sent
        return not stream.filled

    def drop(self, stream: StreamState) -> None:
        """Forget a stream with all that it still has to send."""
        stream.pending.clear()
        stream.unsent = 0
        stream.ending = None
        stream.answered = True
        if stream.filled:
            stream.filled = False
            self.drained.append(stream.stream_id)
        if stream.scheduled:
            stream.scheduled = False
            self._scheduler.close(stream.stream_id)

    def widen(self, stream: StreamState) -> None:
        """Look at a stream again, whose window was widened."""
        if stream.unsent:
            self._scheduler.unblock(stream.stream_id)

    def is_stalled(self, stream_id: int) -> bool:
        """Whether the peer's windows hold a stream back that has something to send.

        The connection's window does where it has let next to nothing go, of any stream, since this was asked last or
        since the stream's sender began to wait: otherwise it is only not this stream's turn.
        """
        stream = self._streams.get(stream_id)
        if stream is None or not stream.unsent:
            return False
        if self._connection.streams[stream_id].outbound_flow_control_window <= 0:
            return True
        progress, stream.mark = self._sent - stream.mark, self._sent
        return self._connection.outbound_flow_control_window <= 0 and progress < LEAST_PROGRESS

    def widen_all(self) -> None:
        """Look at all streams again."""
        for stream in self._streams.values():
            self.widen(stream)

    def take_count(self) -> int:
        """Say that all frames were fetched; return how many of them earn the peer a window update."""
        count, self._worthy_frames = self._worthy_frames, 0
        self._direct = 0
        return count

    # -- sending --------------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> bool:
        """Some stream has something to send, and the windows let it."""
        return self._scheduler.ready and self._connection.outbound_flow_control_window > 0

    def fill(self, budget: int) -> list[StreamState]:
        """Make frames of about `budget` bytes, the most important streams first; return streams that ended."""
        connection, scheduler = self._connection, self._scheduler
        ended: list[StreamState] = []
        while budget > 0 and connection.outbound_flow_control_window > 0:
            stream_id = scheduler.next()
            if stream_id is None:
                break
            stream = self._streams[stream_id]
            room = min(
                connection.local_flow_control_window(stream_id),
                connection.max_outbound_frame_size,
                LARGEST_FRAME,
            )
            if room <= 0:
                scheduler.block(stream_id)
                continue
            data = _take(stream.pending, room)
            size = len(data)
            stream.unsent -= size
            budget -= size + FRAME_OVERHEAD
            if stream.filled and stream.unsent <= (self._high_water if stream.ending is None else 0):
                stream.filled = False
                self.drained.append(stream_id)
            if not stream.unsent:
                scheduler.block(stream_id)
            ends = not stream.unsent and stream.ending is not None and not stream.ending
            self._send_frame(stream, data, ends)
            if not stream.unsent and stream.ending:
                self._end(stream)
            if stream.answered:
                ended.append(stream)
        return ended

    def _end(self, stream: StreamState) -> None:
        """End our side behind the content: with trailers, or with an empty frame."""
        if stream.ending:
            stream.answered = True
            self._connection.send_fields(stream.stream_id, stream.ending, end=True)
            self._leave(stream)
        elif stream.ending is not None:
            self._send_frame(stream, b"", True)

    def _send_frame(self, stream: StreamState, data: bytes | memoryview, end: bool) -> None:
        if end or len(data) >= WORTHY_FRAME:
            self._worthy_frames += 1
        self._sent += len(data)
        self._connection.send_content(stream.stream_id, data, end=end)
        if end:
            stream.answered = True
            self._leave(stream)

    def _leave(self, stream: StreamState) -> None:
        if stream.scheduled:
            stream.scheduled = False
            self._scheduler.close(stream.stream_id)


def _take(pending: deque[bytes | memoryview], room: int) -> bytes | memoryview:
    """Take up to `room` bytes from the front; small pieces are joined."""
    first = pending.popleft()
    size = len(first)
    if size > room:
        view = memoryview(first)
        pending.appendleft(view[room:])
        return view[:room]
    if size == room or not pending:
        return first
    pieces: list[bytes | memoryview] = [first]
    room -= size
    while pending and room:
        piece = pending.popleft()
        if len(piece) > room:
            view = memoryview(piece)
            pending.appendleft(view[room:])
            piece = view[:room]
        pieces.append(piece)
        room -= len(piece)
    return b"".join(pieces)
