"""The contract of `trioserve.protocols.http2.scheduler.StreamScheduler`, as functions that assert.

What holds for every policy: who may be named, that nobody ready is forgotten, that repeated and unknown calls
change nothing. Which of two unequal streams comes first is the policy's own affair and not asked here.
Random operations come from seeds, so that a failure names the run that repeats it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import TypeAlias

from trioserve.protocols.http2.priorities import Dependency, PrioritySignal, Urgency
from trioserve.protocols.http2.scheduler import StreamScheduler

BuildStreamScheduler: TypeAlias = Callable[[], StreamScheduler]

_RUNS = 60
_STEPS = 150
_EQUALS = 12


def check_scheduler(build: BuildStreamScheduler) -> None:
    """Assert that a scheduler keeps the contract of `StreamScheduler`.

    Args:
        build: makes a new scheduler without streams.

    Raises:
        AssertionError: naming what is broken, and the seed where operations were random.
    """
    for rule in _RULES:
        rule(build)
    for seed in range(_RUNS):
        check_random_operations(build, seed)


def check_random_operations(build: BuildStreamScheduler, seed: int, steps: int = _STEPS) -> None:
    """Assert that a scheduler agrees with a plain model through operations chosen by a seed."""
    pair = _SchedulerAndModel(build(), random.Random(seed))  # noqa: S311 - it has to be repeatable
    for step in range(steps):
        pair.do_something()
        try:
            pair.compare()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, step {step}: {error}") from error
    _expect_each_once(pair.scheduler, {stream_id for stream_id, ready in pair.model.items() if ready})
    for stream_id in list(pair.model):
        pair.scheduler.close(stream_id)
    _expect_nothing(pair.scheduler)
    assert not list(pair.scheduler.streams()), f"seed {seed}: closed streams are still listed"


class _SchedulerAndModel:
    """A scheduler, and beside it what must be true of it: which streams are open, and whether each is ready."""

    def __init__(self, scheduler: StreamScheduler, choice: random.Random) -> None:
        self.scheduler = scheduler
        self.model: dict[int, bool] = {}
        self._choice = choice
        self._next_id = 1
        self._largest = choice.choice((2, 5, 30, 130))

    def do_something(self) -> None:
        operation = self._choice.choice(
            (self._open, self._open, self._close, self._block, self._unblock, self._unblock)
            + (self._reprioritise,) * 4
        )
        operation()

    def compare(self) -> None:
        scheduler, model = self.scheduler, self.model
        assert dict(scheduler.streams()) == model, "streams() differs from what was opened and unblocked"
        assert scheduler.ready == any(model.values()), f"ready is {scheduler.ready}"
        named = scheduler.next()
        if named is None:
            assert not any(model.values()), "nothing is named though a stream is ready"
        else:
            assert named in model, f"{named} is named, which is not open"
            assert model[named], f"{named} is named, which is blocked"

    def _open(self) -> None:
        if len(self.model) < self._largest:
            self.scheduler.open(self._next_id)
            self.model[self._next_id] = False
            self._next_id += 2

    def _close(self) -> None:
        stream_id = self._any_id()
        self.scheduler.close(stream_id)
        self.model.pop(stream_id, None)

    def _block(self) -> None:
        self._set_ready(self.scheduler.block, False)

    def _unblock(self) -> None:
        self._set_ready(self.scheduler.unblock, True)

    def _set_ready(self, tell: Callable[[int], None], ready: bool) -> None:
        stream_id = self._any_id()
        tell(stream_id)
        if stream_id in self.model:
            self.model[stream_id] = ready

    def _reprioritise(self) -> None:
        self.scheduler.reprioritise(self._any_id(), self._any_signal())

    def _any_id(self) -> int:
        """Mostly an open stream; now and then one that is closed, idle or the connection."""
        if self.model and self._choice.random() < 0.9:
            return self._choice.choice(list(self.model))
        return self._choice.randrange(self._next_id + 10)

    def _any_signal(self) -> PrioritySignal:
        choice = self._choice
        if choice.random() < 0.3:
            return Urgency(choice.randrange(8), choice.random() < 0.5)
        parent = 0 if choice.random() < 0.2 else self._any_id()
        return Dependency(parent, choice.randint(1, 256), choice.random() < 0.3)


# -- what the rules are made of ----------------------------------------------------------------------------------------


def _ready_equals(build: BuildStreamScheduler) -> tuple[StreamScheduler, list[int]]:
    """Ready streams that share under every policy: of one urgency and incremental, or of one parent and weight."""
    scheduler = build()
    stream_ids = list(range(1, 2 * _EQUALS, 2))
    for stream_id in stream_ids:
        scheduler.open(stream_id)
        scheduler.reprioritise(stream_id, Urgency(3, True))
        scheduler.reprioritise(stream_id, Dependency())
        scheduler.unblock(stream_id)
    return scheduler, stream_ids


def _expect_nothing(scheduler: StreamScheduler) -> None:
    assert not scheduler.ready, "a scheduler is ready though no stream is"
    assert scheduler.next() is None, "a stream is named though none is ready"


def _expect_each_once(scheduler: StreamScheduler, ready: set[int]) -> None:
    """When each stream has one frame left, each is named once, whatever the priorities, and then none."""
    named: list[int] = []
    for _ in range(len(ready)):
        stream_id = scheduler.next()
        assert stream_id is not None, f"of {sorted(ready)} only {named} were named"
        named.append(stream_id)
        scheduler.block(stream_id)
    assert sorted(named) == sorted(ready), f"of {sorted(ready)} these were named: {named}"
    _expect_nothing(scheduler)


# -- rules -------------------------------------------------------------------------------------------------------------


def _rule_opened_streams_are_blocked(build: BuildStreamScheduler) -> None:
    """A stream is named from unblock to block, and as often as is asked."""
    scheduler = build()
    _expect_nothing(scheduler)
    scheduler.open(1)
    assert list(scheduler.streams()) == [(1, False)], "a new stream is listed as blocked"
    _expect_nothing(scheduler)
    scheduler.unblock(1)
    assert list(scheduler.streams()) == [(1, True)]
    assert scheduler.ready
    assert [scheduler.next() for _ in range(3)] == [1, 1, 1], "the only ready stream is named again and again"
    scheduler.block(1)
    _expect_nothing(scheduler)


def _rule_closed_streams_are_gone(build: BuildStreamScheduler) -> None:
    """Closing is for good, also of a stream that is ready or that others depend on."""
    scheduler, stream_ids = _ready_equals(build)
    for stream_id in stream_ids[1:]:
        scheduler.reprioritise(stream_id, Dependency(stream_id - 2))
    while stream_ids:
        gone = stream_ids.pop(len(stream_ids) // 2)
        scheduler.close(gone)
        scheduler.unblock(gone)
        scheduler.reprioritise(gone, Urgency(0))
        scheduler.reprioritise(gone, Dependency(0, 256, True))
        assert dict(scheduler.streams()) == dict.fromkeys(stream_ids, True)
        if stream_ids:
            assert scheduler.next() in stream_ids, f"{gone} was closed"
    _expect_nothing(scheduler)


def _rule_a_number_opened_again_is_a_new_stream(build: BuildStreamScheduler) -> None:
    """Nothing of a closed stream is left: neither its readiness nor its priority nor its dependents."""
    scheduler, (first, second, *_) = _ready_equals(build)
    for signal in (Urgency(7), Dependency(second, 1)):
        scheduler.reprioritise(first, signal)
    scheduler.close(first)
    scheduler.open(first)
    assert dict(scheduler.streams())[first] is False, "a stream opened again is blocked"
    scheduler.reprioritise(first, Urgency(3, True))
    scheduler.unblock(first)
    counts = Counter(scheduler.next() for _ in range(_EQUALS * 20))
    assert counts[first] >= 18, f"{first} was opened again and still has its old priority: {counts}"


def _rule_repetition_changes_nothing(build: BuildStreamScheduler) -> None:
    """Every call twice is the call once."""
    scheduler, stream_ids = _ready_equals(build)
    for stream_id in stream_ids:
        scheduler.open(stream_id)
        scheduler.unblock(stream_id)
    assert dict(scheduler.streams()) == dict.fromkeys(stream_ids, True), "opening again keeps a stream ready"
    for stream_id in stream_ids[:2]:
        counts: Counter[int | None] = Counter()
        for _ in range(_EQUALS * 20):
            scheduler.unblock(stream_id)
            scheduler.block(2 * _EQUALS + 1)
            counts[scheduler.next()] += 1
        assert min(counts[each] for each in stream_ids) >= 18, f"unblocking again changes the turns: {counts}"
    _expect_each_once(scheduler, set(stream_ids))
    for stream_id in stream_ids:
        scheduler.block(stream_id)
        scheduler.close(stream_id)
        scheduler.close(stream_id)
    _expect_nothing(scheduler)
    assert not list(scheduler.streams())


def _rule_unknown_streams_are_ignored(build: BuildStreamScheduler) -> None:
    """Nothing that is said of streams that are not open, in whatever number, has an effect."""
    scheduler = build()
    for stream_id in range(2010):
        scheduler.reprioritise(stream_id, Dependency(stream_id // 2, 256, stream_id % 3 == 0))
        scheduler.reprioritise(stream_id, Urgency(0, True))
        scheduler.unblock(stream_id)
        scheduler.block(stream_id)
        scheduler.close(stream_id)
    assert not list(scheduler.streams())
    _expect_nothing(scheduler)


def _rule_equals_share(build: BuildStreamScheduler) -> None:
    """Among equals each gets every n-th frame, also while others come and go."""
    scheduler, stream_ids = _ready_equals(build)
    counts = Counter(scheduler.next() for _ in range(_EQUALS * 20))
    assert set(counts) == set(stream_ids), f"of {stream_ids} only {sorted(filter(None, counts))} were named"
    assert max(counts.values()) - min(counts.values()) <= 2, f"equals are served unequally: {counts}"
    visitor = stream_ids[-1]
    counts.clear()
    for _ in range(_EQUALS * 20):
        named = scheduler.next()
        counts[named] += 1
        if named == visitor:  # it has a frame at a time: the next one comes when another stream was served
            scheduler.block(visitor)
            counts[scheduler.next()] += 1
            scheduler.unblock(visitor)
    assert set(counts) == set(stream_ids), "a stream that comes and goes starves another, or is starved"
    assert min(counts.values()) >= 10, f"a stream that comes and goes changes the shares: {counts}"


def _rule_signals_keep_readiness(build: BuildStreamScheduler) -> None:
    """A signal of either kind moves a stream and neither blocks nor unblocks it; none of them raises."""
    signals: list[PrioritySignal] = [Urgency(urgency, bool(urgency % 2)) for urgency in range(8)]
    signals += [Dependency(parent, 1 + parent, bool(parent % 2)) for parent in range(2 * _EQUALS + 3)]
    for signal in signals:
        scheduler, stream_ids = _ready_equals(build)
        for stream_id in stream_ids[::2]:
            scheduler.block(stream_id)
        before = list(scheduler.streams())
        for stream_id in stream_ids:
            scheduler.reprioritise(stream_id, signal)
            assert list(scheduler.streams()) == before, f"{signal} changes who is ready"
        _expect_each_once(scheduler, set(stream_ids[1::2]))


_RULES = (
    _rule_opened_streams_are_blocked,
    _rule_closed_streams_are_gone,
    _rule_a_number_opened_again_is_a_new_stream,
    _rule_repetition_changes_nothing,
    _rule_unknown_streams_are_ignored,
    _rule_equals_share,
    _rule_signals_keep_readiness,
)
