from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trioserve.protocols.http2.priorities import Dependency, Urgency
from trioserve.protocols.http2.scheduler import DependencyScheduler, UrgencyScheduler
from trioserve.testing.scheduler_checks import check_random_operations, check_scheduler

POLICIES = [UrgencyScheduler, DependencyScheduler]


def serve(scheduler, frames):
    return [scheduler.next() for _ in range(frames)]


def urgency_scheduler(*signals):
    """Ready streams 1, 3, 5, ... with these urgencies."""
    scheduler = UrgencyScheduler()
    for number, signal in enumerate(signals):
        scheduler.open(2 * number + 1)
        scheduler.reprioritise(2 * number + 1, signal)
        scheduler.unblock(2 * number + 1)
    return scheduler


def tree(*dependencies):
    """Ready streams 1, 3, 5, ...; a None has the default place."""
    scheduler = DependencyScheduler()
    for number, dependency in enumerate(dependencies):
        scheduler.open(2 * number + 1)
        if dependency is not None:
            scheduler.reprioritise(2 * number + 1, dependency)
        scheduler.unblock(2 * number + 1)
    return scheduler


def order_of_completion(scheduler):
    """Who is named, if each has one frame."""
    order = []
    while (stream_id := scheduler.next()) is not None:
        order.append(stream_id)
        scheduler.block(stream_id)
    return order


@pytest.mark.parametrize("build", POLICIES)
def test_the_contract(build):
    check_scheduler(build)


@pytest.mark.parametrize("build", POLICIES)
@given(seed=st.integers(0, 2**64))
@settings(max_examples=40, deadline=None)
def test_the_contract_with_any_seed(build, seed):
    check_random_operations(build, seed, steps=60)


class Forgetful(UrgencyScheduler):
    def close(self, stream_id):
        pass


class Unfair(UrgencyScheduler):
    def next(self):
        return min((stream_id for stream_id, ready in self.streams() if ready), default=None)


class Sticky(UrgencyScheduler):
    def block(self, stream_id):
        if stream_id != 7:
            super().block(stream_id)


class Restless(DependencyScheduler):
    def reprioritise(self, stream_id, signal):
        super().reprioritise(stream_id, signal)
        self.unblock(stream_id)


@pytest.mark.parametrize("build", [Forgetful, Unfair, Sticky, Restless])
def test_the_battery_finds_what_is_broken(build):
    with pytest.raises(AssertionError):
        check_scheduler(build)


# -- RFC 9218 ----------------------------------------------------------------------------------------------------------


def test_lower_urgencies_go_first():
    scheduler = urgency_scheduler(Urgency(5), Urgency(0), Urgency(7, True), Urgency(3, True), Urgency(3))
    assert order_of_completion(scheduler) in ([3, 7, 9, 1, 5], [3, 9, 7, 1, 5])


def test_an_urgent_stream_overtakes_background_downloads():
    scheduler = urgency_scheduler(*[Urgency(5, True)] * 8)
    assert sorted(serve(scheduler, 8)) == [1, 3, 5, 7, 9, 11, 13, 15]
    scheduler.open(17)
    scheduler.reprioritise(17, Urgency(0))
    assert 17 not in serve(scheduler, 3)
    scheduler.unblock(17)
    assert serve(scheduler, 5) == [17] * 5
    scheduler.block(17)
    assert sorted(serve(scheduler, 8)) == [1, 3, 5, 7, 9, 11, 13, 15]


def test_non_incremental_streams_go_in_the_order_of_their_numbers():
    scheduler = UrgencyScheduler()
    for stream_id in (5, 1, 9, 3, 7):
        scheduler.open(stream_id)
        scheduler.unblock(stream_id)
    assert serve(scheduler, 3) == [1, 1, 1]
    scheduler.block(1)
    assert serve(scheduler, 2) == [3, 3]
    scheduler.unblock(1)
    assert order_of_completion(scheduler) == [1, 3, 5, 7, 9]


def test_incremental_streams_take_turns():
    scheduler = urgency_scheduler(*[Urgency(3, True)] * 3)
    assert serve(scheduler, 7) == [1, 3, 5, 1, 3, 5, 1]
    scheduler.block(3)
    assert serve(scheduler, 4) == [5, 1, 5, 1]
    scheduler.unblock(3)
    assert serve(scheduler, 3) == [5, 1, 3]


def test_both_kinds_of_one_urgency_take_turns():
    scheduler = urgency_scheduler(Urgency(3), Urgency(3, True), Urgency(3), Urgency(3, True))
    assert serve(scheduler, 8) == [1, 3, 1, 7, 1, 3, 1, 7]


def test_turns_are_counted_for_each_urgency():
    scheduler = urgency_scheduler(Urgency(3), Urgency(3, True), Urgency(0), Urgency(0, True))
    seen = Counter()
    for _ in range(40):
        for stream_id in (5, 7):
            scheduler.block(stream_id)
        seen[scheduler.next()] += 1
        for stream_id in (5, 7):
            scheduler.unblock(stream_id)
        seen[scheduler.next()] += 1
    assert seen == {1: 20, 3: 20, 5: 20, 7: 20}


def test_a_ready_stream_changes_its_queue_with_its_priority():
    scheduler = urgency_scheduler(Urgency(3), Urgency(3), Urgency(3, True))
    scheduler.reprioritise(3, Urgency(1))
    assert serve(scheduler, 2) == [3, 3]
    scheduler.reprioritise(5, Urgency(1, True))
    assert sorted(serve(scheduler, 2)) == [3, 5]
    scheduler.reprioritise(3, Urgency(7))
    scheduler.reprioritise(5, Urgency(6))
    assert order_of_completion(scheduler) == [1, 5, 3]


def test_the_same_priority_again_keeps_the_turn():
    scheduler = urgency_scheduler(*[Urgency(3, True)] * 3)
    served = []
    for _ in range(6):
        scheduler.reprioritise(1, Urgency(3, True))
        served += serve(scheduler, 1)
    assert served == [1, 3, 5, 1, 3, 5]


def test_urgencies_out_of_range_are_brought_into_it():
    scheduler = urgency_scheduler(Urgency(9), Urgency(7), Urgency(-4, True), Urgency(0))
    assert sorted(serve(scheduler, 2)) == [5, 7]
    scheduler.block(5)
    assert order_of_completion(scheduler) == [7, 1, 3]


def test_the_largest_stream_number_has_room():
    scheduler = urgency_scheduler(Urgency(2))
    largest = 2**31 - 1
    scheduler.open(largest)
    scheduler.reprioritise(largest, Urgency(1))
    scheduler.unblock(largest)
    assert order_of_completion(scheduler) == [largest, 1]


def test_dependencies_do_not_matter_to_urgencies():
    scheduler = urgency_scheduler(Urgency(), Urgency())
    scheduler.reprioritise(1, Dependency(3, 1))
    assert order_of_completion(scheduler) == [1, 3]


# -- RFC 7540 ----------------------------------------------------------------------------------------------------------


def test_a_stream_waits_for_the_one_it_depends_on():
    scheduler = tree(Dependency(0), Dependency(1), Dependency(3, 256))
    assert serve(scheduler, 4) == [1] * 4
    scheduler.block(1)
    assert serve(scheduler, 4) == [3] * 4
    scheduler.unblock(1)
    assert order_of_completion(scheduler) == [1, 3, 5]


@pytest.mark.parametrize("weights", [(16, 16), (256, 128, 64), (1, 256), (3, 7, 11, 13), (1, 2, 4)])
def test_siblings_share_by_weight(weights):
    scheduler = tree(*[Dependency(0, weight) for weight in weights])
    rounds = 40 * sum(weights)
    counts = Counter(serve(scheduler, rounds))
    for number, weight in enumerate(weights):
        assert counts[2 * number + 1] == pytest.approx(rounds * weight / sum(weights), rel=0.05, abs=2)


def test_dependents_share_the_part_of_a_blocked_parent():
    scheduler = tree(Dependency(0, 48), Dependency(0, 16), Dependency(1), Dependency(1))
    scheduler.block(1)
    counts = Counter(serve(scheduler, 800))
    assert counts[3] == pytest.approx(200, abs=4)
    assert counts[5] == pytest.approx(300, abs=4)
    assert counts[7] == pytest.approx(300, abs=4)


def test_an_exclusive_dependency_puts_the_siblings_below():
    scheduler = tree(Dependency(0), Dependency(1), Dependency(1), Dependency(1, 16, exclusive=True))
    assert order_of_completion(scheduler) == [1, 7, 3, 5]
    scheduler = tree(None, None, Dependency(0, 16, exclusive=True))
    assert order_of_completion(scheduler)[0] == 5


def test_dependents_of_a_closed_stream_move_up():
    scheduler = tree(Dependency(0), Dependency(1), Dependency(3), Dependency(5))
    scheduler.close(3)
    assert order_of_completion(scheduler) == [1, 5, 7]
    for stream_id in (1, 5, 7):
        scheduler.unblock(stream_id)
    scheduler.close(1)
    assert order_of_completion(scheduler) == [5, 7]


@pytest.mark.parametrize("signal", [Dependency(1, 32), Dependency(99, 32), Dependency(99, 32, True)])
def test_to_depend_on_itself_or_on_a_stranger_is_to_depend_on_the_root(signal):
    scheduler = tree(None, None)
    scheduler.reprioritise(1, Dependency(3))
    scheduler.reprioritise(1, signal)
    counts = Counter(serve(scheduler, 300))
    assert counts[1] == pytest.approx(200, abs=4)


@pytest.mark.parametrize(("weight", "stands_for"), [(0, 1), (-3, 1), (257, 256), (10**9, 256)])
def test_weights_out_of_range_are_brought_into_it(weight, stands_for):
    scheduler = tree(Dependency(0, weight), Dependency(0, stands_for))
    counts = Counter(serve(scheduler, 300))
    assert counts[1] == pytest.approx(150, abs=2)


def test_a_loop_moves_the_new_parent_up_first():
    # RFC 7540 section 5.3.3, figure 5: A(1) <- B(3), C(5); C <- D(7), E(9); D <- F(11). A comes to depend on D.
    def family(exclusive):
        scheduler = tree(None, Dependency(1), Dependency(1), Dependency(5), Dependency(5), Dependency(7))
        scheduler.reprioritise(1, Dependency(7, 16, exclusive))
        return scheduler

    for exclusive in (False, True):
        scheduler = family(exclusive)
        assert serve(scheduler, 20) == [7] * 20  # D leads
        scheduler.block(7)
        counts = Counter(serve(scheduler, 20))
        assert counts == ({1: 20} if exclusive else {1: 10, 11: 10})  # F is below A, or beside it
        scheduler.block(1)
        scheduler.block(11)
        assert set(serve(scheduler, 20)) == {3, 5}  # both stay with A
        scheduler.block(5)
        scheduler.block(3)
        assert serve(scheduler, 20) == [9] * 20  # and E with C


def test_a_loop_takes_the_weight_of_the_new_parent_along():
    scheduler = tree(Dependency(0, 16), Dependency(1, 64), Dependency(0, 32))
    scheduler.reprioritise(1, Dependency(3))
    counts = Counter(serve(scheduler, 300))
    assert counts == {3: pytest.approx(200, abs=4), 5: pytest.approx(100, abs=4)}


def test_streams_of_an_untied_loop_can_be_closed():
    scheduler = tree(None, Dependency(1), Dependency(3))
    scheduler.reprioritise(1, Dependency(3))
    scheduler.reprioritise(3, Dependency(5))
    scheduler.close(5)
    scheduler.block(1)
    assert serve(scheduler, 3) == [3, 3, 3]


def test_loops_again_and_again_lose_nobody():
    choice = random.Random(7)
    scheduler = tree(*[None] * 12)
    ids = [2 * number + 1 for number in range(12)]
    for _ in range(2000):
        scheduler.reprioritise(choice.choice(ids), Dependency(choice.choice(ids), 16, choice.random() < 0.3))
    assert sorted(order_of_completion(scheduler)) == ids


def test_signals_for_idle_streams_do_nothing():
    scheduler = DependencyScheduler()
    for stream_id in range(1, 2 * 1005, 2):
        scheduler.reprioritise(stream_id, Dependency(0, 200))
    assert not list(scheduler.streams())
    assert scheduler.next() is None
    assert nodes(scheduler) == 0


def test_the_tree_is_never_larger_than_the_open_streams():
    scheduler = DependencyScheduler()
    for stream_id in range(1, 4001, 2):
        scheduler.open(stream_id)
        scheduler.unblock(stream_id)
        scheduler.reprioritise(stream_id, Dependency(stream_id + 2, 5))
        scheduler.reprioritise(stream_id, Dependency(stream_id - 2, 5, True))
        scheduler.reprioritise(stream_id + 2, Dependency(stream_id))
        scheduler.next()
        if stream_id > 20:
            scheduler.close(stream_id - 20)
        assert nodes(scheduler) <= 10


def nodes(scheduler):
    """How many streams hang in the tree, however often; the one look inside, because growth cannot be seen outside."""
    waiting, count = [scheduler._tree._root_stream], 0
    while waiting:
        node = waiting.pop()
        assert len(node.children) == len(node.child_queue)
        count += len(node.children)
        waiting += node.children
    assert count == len(scheduler._tree._streams) - 1
    return count


@pytest.mark.parametrize("exclusive", [False, True])
def test_many_streams_never_make_a_chain_too_deep_to_walk(exclusive):
    scheduler = DependencyScheduler()
    ids = range(1, 6000, 2)
    for stream_id in ids:
        scheduler.open(stream_id)
        scheduler.reprioritise(stream_id, Dependency(0 if exclusive else stream_id - 2, 16, exclusive))
    for stream_id in (1, 199, 5999):
        scheduler.unblock(stream_id)
    assert sorted(order_of_completion(scheduler)) == [1, 199, 5999]


def test_the_tree_has_room_for_any_number_of_streams():
    scheduler = tree(*[None] * 1200)
    assert len(set(serve(scheduler, 1200))) == 1200


def test_a_chain_of_all_streams_is_served_from_its_head():
    scheduler = tree(*[Dependency(2 * number - 1) for number in range(100)])
    assert order_of_completion(scheduler) == [2 * number + 1 for number in range(100)]


def test_blocked_streams_go_below_an_exclusive_one_too():
    scheduler = DependencyScheduler()
    for stream_id in (1, 3, 5):
        scheduler.open(stream_id)
    scheduler.reprioritise(5, Dependency(0, 16, exclusive=True))
    for stream_id in (1, 3, 5):
        scheduler.unblock(stream_id)
    assert serve(scheduler, 3) == [5] * 3
    scheduler.block(5)
    assert sorted(serve(scheduler, 2)) == [1, 3]


def test_a_stream_can_depend_on_one_that_had_nothing_to_send_yet():
    scheduler = DependencyScheduler()
    for stream_id in (1, 3, 5):
        scheduler.open(stream_id)
    scheduler.unblock(3)
    scheduler.unblock(5)
    scheduler.reprioritise(3, Dependency(1))
    scheduler.unblock(1)
    assert set(serve(scheduler, 10)) == {1, 5}
    scheduler.block(5)
    scheduler.close(1)
    assert serve(scheduler, 2) == [3, 3]


def test_streams_that_wait_for_their_applications_are_not_in_the_tree():
    scheduler = DependencyScheduler()
    for stream_id in range(1, 201, 2):
        scheduler.open(stream_id)
        scheduler.reprioritise(stream_id, Dependency())
    scheduler.unblock(7)
    scheduler.unblock(9)
    assert nodes(scheduler) == 2
    scheduler.close(7)
    assert nodes(scheduler) == 1


def test_the_same_place_again_wins_nothing():
    scheduler = tree(None, None, None)
    counts = Counter()
    for _ in range(60):
        scheduler.reprioritise(1, Dependency())
        counts[scheduler.next()] += 1
    assert counts == {1: 20, 3: 20, 5: 20}


def test_urgencies_do_not_matter_to_the_tree():
    scheduler = tree(None, Dependency(1))
    scheduler.reprioritise(3, Urgency(0))
    assert order_of_completion(scheduler) == [1, 3]
