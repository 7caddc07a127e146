"""Which stream of a connection sends the next frame: one contract, two policies.

`UrgencyScheduler` follows RFC 9218; `DependencyScheduler` keeps the tree of RFC 7540 for peers that still use it.
A scheduler knows streams by number, and of each whether it has something to send; frames, windows and sizes
are the caller's. The caller names only streams that are open, so no signal of a peer makes a scheduler grow.
Priorities are hints: no call raises for what a peer said.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, Protocol

from priority.priority import PriorityTree

from trioserve.protocols.http2.priorities import Dependency, Urgency

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trioserve.protocols.http2.priorities import PrioritySignal


class StreamScheduler(Protocol):
    """The contract; `trioserve.testing.scheduler_checks` says it in asserts.

    Every method may be called with any stream that was opened before; one that is closed, or that has the state
    asked for already, is left as it is.
    """

    def open(self, stream_id: int) -> None:
        """Add a stream with the default priority; it is blocked, because it has nothing to send yet."""

    def close(self, stream_id: int) -> None:
        """Forget a stream."""

    def reprioritise(self, stream_id: int, signal: PrioritySignal) -> None:
        """Give an open stream another priority; a signal of the kind that the policy does not follow is ignored."""

    def block(self, stream_id: int) -> None:
        """Note that a stream cannot send: it has nothing left, or its window is used up."""

    def unblock(self, stream_id: int) -> None:
        """Note that a stream has something to send."""

    def next(self) -> int | None:
        """Name the stream that sends the next frame, of at most 16 KiB; None when all are blocked.

        The stream stays ready: the caller sends one frame of it and blocks it when nothing is left.
        """

    def streams(self) -> Iterable[tuple[int, bool]]:
        """List the open streams and whether each is ready, as they are now, in the order of opening."""

    @property
    def ready(self) -> bool:
        """Whether `next` would name a stream."""


_STREAM_BITS: Final = 32
_STREAM_MASK: Final = (1 << _STREAM_BITS) - 1
_DEFAULT_KEY: Final = Urgency().urgency << _STREAM_BITS


class UrgencyScheduler:
    """RFC 9218 section 10: the most urgent first; among equals one answer after the other, or all in turn.

    Non-incremental streams of one urgency go in the order of their numbers, which is the order of the requests;
    incremental ones share, a frame each. Where one urgency has both kinds, every other frame belongs to
    the first non-incremental stream, so that neither kind starves.

    No object stands for a stream, only its key: of a non-incremental one the urgency above the stream number, so
    that the sorted list of those which are ready begins with the next; of an incremental one `~urgency`,
    which is negative.
    """

    __slots__ = ("_keys", "_rings", "_sequence", "_shared_turns")

    def __init__(self) -> None:
        self._keys: dict[int, int] = {}
        self._sequence: list[int] = []  # keys of the non-incremental streams that are ready, sorted
        self._rings: dict[
            int, OrderedDict[int, None]
        ] = {}  # urgency -> incremental streams, ready; never empty
        self._shared_turns = 0  # a bit for each urgency whose next frame is for its incremental streams

    def open(self, stream_id: int) -> None:
        """Add a stream, blocked."""
        if stream_id not in self._keys:
            self._keys[stream_id] = _DEFAULT_KEY | stream_id

    def close(self, stream_id: int) -> None:
        """Forget a stream."""
        self.block(stream_id)
        self._keys.pop(stream_id, None)

    def reprioritise(self, stream_id: int, signal: PrioritySignal) -> None:
        """Follow an `Urgency`, moving a stream behind its new equals; ignore a `Dependency`."""
        old = self._keys.get(stream_id)
        if old is None or not isinstance(signal, Urgency):
            return
        urgency = min(max(signal.urgency, 0), 7)
        key = ~urgency if signal.incremental else urgency << _STREAM_BITS | stream_id
        if key == old:
            return
        if not self._is_ready(stream_id, old):
            self._keys[stream_id] = key
            return
        self.block(stream_id)
        self._keys[stream_id] = key
        self.unblock(stream_id)

    def block(self, stream_id: int) -> None:
        """Take a stream out of its queue."""
        key = self._keys.get(stream_id)
        if key is None:
            return
        if key >= 0:
            sequence = self._sequence
            index = bisect_left(sequence, key)
            if index < len(sequence) and sequence[index] == key:
                del sequence[index]
        elif (ring := self._rings.get(~key)) is not None:
            ring.pop(stream_id, None)
            if not ring:
                del self._rings[~key]

    def unblock(self, stream_id: int) -> None:
        """Put a stream into its queue, an incremental one at the end."""
        key = self._keys.get(stream_id)
        if key is None:
            return
        if key >= 0:
            sequence = self._sequence
            index = bisect_left(sequence, key)
            if index == len(sequence) or sequence[index] != key:
                sequence.insert(index, key)
        elif (ring := self._rings.get(~key)) is not None:
            ring.setdefault(stream_id)
        else:
            self._rings[~key] = OrderedDict.fromkeys((stream_id,))

    def next(self) -> int | None:
        """Name the next stream; an incremental one goes to the end of its queue."""
        sequence = self._sequence
        if not self._rings:
            return sequence[0] & _STREAM_MASK if sequence else None
        urgency = min(self._rings)  # of eight at most
        if sequence:
            most_urgent = sequence[0] >> _STREAM_BITS
            if most_urgent < urgency:
                return sequence[0] & _STREAM_MASK
            if most_urgent == urgency:
                self._shared_turns ^= 1 << urgency
                if self._shared_turns >> urgency & 1:
                    return sequence[0] & _STREAM_MASK
        ring = self._rings[urgency]
        stream_id = next(iter(ring))
        ring.move_to_end(stream_id)
        return stream_id

    def streams(self) -> Iterable[tuple[int, bool]]:
        """List the open streams and whether each is ready."""
        return [(stream_id, self._is_ready(stream_id, key)) for stream_id, key in self._keys.items()]

    @property
    def ready(self) -> bool:
        """Whether any stream is ready."""
        return bool(self._sequence or self._rings)

    def _is_ready(self, stream_id: int, key: int) -> bool:
        if key < 0:
            return stream_id in self._rings.get(~key, ())
        index = bisect_left(self._sequence, key)
        return index < len(self._sequence) and self._sequence[index] == key


# More streams than this stand beside each other. The tree is walked by recursion, and a chain of dependencies
# is as deep as it has streams; besides, PriorityTree refuses one that is deeper.
_DEEPEST: Final = 100
_NO_LIMIT: Final = 1 << 31  # the caller bounds the open streams
_AT_ROOT: Final = Dependency()


class DependencyScheduler:
    """RFC 7540 section 5.3: a stream is served before those that depend on it; siblings share by weight.

    The tree holds the open streams and nothing else: idle and closed ones, which the RFC would let a peer
    use as inner nodes, count as unknown, and what depends on those depends on the root. A stream is planted when it
    is first ready or part of a dependency, because each that stands in the tree makes every step there longer.

    Loops are untied here before PriorityTree sees them. It would hand the children of the moved stream to another
    parent without taking them from the first, and then name a stream long after it was removed.
    """

    __slots__ = ("_places", "_planted", "_ready", "_tree")

    def __init__(self) -> None:
        self._tree = PriorityTree(maximum_streams=_NO_LIMIT)
        # Where each open stream stands, or would: those not planted are blocked, at the root, of the default weight.
        self._places: dict[int, Dependency] = {}  # never exclusive: that is an act, not a place
        self._planted: set[int] = set()
        self._ready: dict[int, None] = {}

    def open(self, stream_id: int) -> None:
        """Add a stream, blocked."""
        if stream_id not in self._places:
            self._places[stream_id] = _AT_ROOT

    def close(self, stream_id: int) -> None:
        """Forget a stream; those that depend on it move up (RFC 7540 section 5.3.4), each with its own weight."""
        place = self._places.pop(stream_id, None)
        if place is None or stream_id not in self._planted:
            return
        self._ready.pop(stream_id, None)
        self._planted.remove(stream_id)
        self._tree.remove_stream(stream_id)
        self._hand_over(stream_id, place.parent)

    def reprioritise(self, stream_id: int, signal: PrioritySignal) -> None:
        """Follow a `Dependency` with the streams that depend on this one; ignore an `Urgency`.

        To depend on itself or on a stream that is not open is to depend on the root.
        """
        place = self._places.get(stream_id)
        if place is None or not isinstance(signal, Dependency):
            return
        parent, weight, exclusive = signal
        weight = min(max(weight, 1), 256)
        unknown = parent != 0 and parent not in self._places
        if unknown or parent == stream_id or len(self._places) > _DEEPEST:
            parent, exclusive = 0, False
        if not exclusive and (parent, weight) == place[:2]:
            return
        if self._depends_on(parent, stream_id):
            # Section 5.3.3: the new parent first takes our place, with its own weight.
            self._move(parent, Dependency(place.parent, self._places[parent].weight))
        self._move(stream_id, Dependency(parent, weight, exclusive))

    def block(self, stream_id: int) -> None:
        """Note that a stream cannot send."""
        if stream_id in self._ready:
            del self._ready[stream_id]
            self._tree.block(stream_id)

    def unblock(self, stream_id: int) -> None:
        """Note that a stream has something to send."""
        if stream_id in self._places:
            self._plant(stream_id)
            self._ready[stream_id] = None
            self._tree.unblock(stream_id)

    def next(self) -> int | None:
        """Name the next stream; one that is ready alone is not charged for it."""
        ready = self._ready
        if len(ready) > 1:
            return self._tree.next()
        for stream_id in ready:
            return stream_id
        return None

    def streams(self) -> Iterable[tuple[int, bool]]:
        """List the open streams and whether each is ready."""
        return [(stream_id, stream_id in self._ready) for stream_id in self._places]

    @property
    def ready(self) -> bool:
        """Whether any stream is ready."""
        return bool(self._ready)

    def _depends_on(self, stream_id: int, ancestor: int) -> bool:
        """Whether a stream depends on another, by however many steps; the root depends on nothing."""
        while stream_id:
            stream_id = self._places[stream_id].parent
            if stream_id == ancestor:
                return True
        return False

    def _plant(self, stream_id: int) -> None:
        if stream_id and stream_id not in self._planted:
            self._planted.add(stream_id)
            self._tree.insert_stream(stream_id)
            self._tree.block(stream_id)

    def _move(self, stream_id: int, place: Dependency) -> None:
        """Hang a stream under a parent that does not depend on it."""
        parent = place.parent
        self._plant(parent)
        self._plant(stream_id)
        if place.exclusive:
            for sibling, other in self._places.items():
                if other.parent == parent:
                    self._plant(sibling)
            self._hand_over(parent, stream_id)
        self._tree.reprioritize(stream_id, parent, place.weight, place.exclusive)
        self._places[stream_id] = place._replace(exclusive=False)

    def _hand_over(self, parent: int, heir: int) -> None:
        """Write down that the streams of one parent are another's now."""
        for stream_id, place in self._places.items():
            if place.parent == parent:
                self._places[stream_id] = place._replace(parent=heir)
