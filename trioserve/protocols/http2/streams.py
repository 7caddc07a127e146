"""What is known of a connection's streams: those to come, the open ones, those that ended (RFC 9113 section 5.1).

Nothing is decided here; the receiver asks, since the right error for a frame depends on what its stream has come to.
Open streams are bounded by whoever opens them. Invariant: what a peer can make us remember of all others is bounded
here, and the oldest is forgotten first.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from trioserve.protocols.http2.events import Headers
    from trioserve.protocols.http2.priorities import Urgency

REMEMBERED_STREAMS: Final = 1024
"""Closed streams of each kind of which it is known how they ended, for frames that come late."""


class StreamState:
    """What the machine knows of an open stream.

    Attributes:
        stream_id: its number.
        request_ended: the peer has ended its side.
        answered: we have ended our side.
        owed: bytes of the request that its Content-Length still promises; None without one.
        credit: bytes that the application took and the peer's window was not yet widened for.
        unsent: bytes of the response that wait for the peer's windows.
        ending: our side ends behind them: with these trailers, if any; None as long as it does not end.
        urgency: what the request said of its priority; None for nothing.
        filled: more was waiting than the high-water mark; whoever waits is told when that has changed.
        mark: bytes that the whole connection had sent when somebody last looked whether this stream is stalled.
    """

    __slots__ = (
        *("answered", "credit", "ending", "filled", "mark", "owed", "pending", "request_ended", "scheduled"),
        *("stream_id", "unsent", "urgency"),
    )

    def __init__(self, stream_id: int, request_ended: bool) -> None:
        self.stream_id = stream_id
        self.request_ended = request_ended
        self.owed: int | None = None
        self.urgency: Urgency | None = None
        self.credit = 0
        self.answered = False
        self.pending: deque[bytes | memoryview] = deque()
        self.unsent = 0
        self.ending: Headers | None = None
        self.filled = False
        self.mark = 0
        self.scheduled = False  # the scheduler knows it


class Streams:
    """The streams of one connection. Those with odd numbers are the peer's, those with even ones were pushed.

    Attributes:
        open: what has not ended on both sides, by number.
        highest: the highest stream that the peer has opened.
        pushed: how many of the open ones are ours.
        ended: closed, since both sides had ended. This and the next two are ordered sets, to be given to `close`.
        reset_by_us: closed by us; frames that were under way are expected on these.
        reset_by_peer: closed by the peer.
    """

    __slots__ = (
        "_early",
        "_highest_pushed",
        "ended",
        "highest",
        "open",
        "pushed",
        "reset_by_peer",
        "reset_by_us",
    )

    def __init__(self) -> None:
        self.open: dict[int, StreamState] = {}
        self.highest = 0
        self.pushed = 0
        self.ended: dict[int, None] = {}
        self.reset_by_us: dict[int, None] = {}
        self.reset_by_peer: dict[int, None] = {}
        self._highest_pushed = 0
        self._early: dict[int, Urgency] = {}  # for streams that are not open yet (RFC 9218 section 7.1)

    def is_idle(self, stream_id: int) -> bool:
        """Whether a stream was never opened, nor passed over (RFC 9113 section 5.1.1)."""
        return stream_id > (self.highest if stream_id % 2 else self._highest_pushed)

    def add(self, stream_id: int, request_ended: bool) -> StreamState:
        """Open a stream that was idle; if a priority has come before it, the stream has it."""
        stream = self.open[stream_id] = StreamState(stream_id, request_ended)
        if stream_id % 2 == 0:
            self._highest_pushed = stream_id
            self.pushed += 1
            return stream
        self.highest = stream_id
        if self._early:
            stream.urgency = self._early.pop(stream_id, None)
        return stream

    def close(self, stream: StreamState, memory: dict[int, None]) -> None:
        """Close a stream, and remember for a while in what way."""
        stream_id = stream.stream_id
        del self.open[stream_id]
        if stream_id % 2 == 0:
            self.pushed -= 1
        if len(memory) >= REMEMBERED_STREAMS:
            del memory[next(iter(memory))]
        memory[stream_id] = None

    def expect(self, stream_id: int, urgency: Urgency, most: int) -> None:
        """Keep the priority of a stream that may come.

        Args:
            stream_id: an idle stream.
            urgency: replaces what was kept for it.
            most: streams of which it is kept; those that were passed over make room.
        """
        early = self._early
        if len(early) >= most:
            for passed in [number for number in early if not self.is_idle(number)]:
                del early[passed]
        if len(early) < most or stream_id in early:
            early[stream_id] = urgency
