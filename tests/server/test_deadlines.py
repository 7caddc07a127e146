from __future__ import annotations

from math import inf

import pytest
import trio
import trio.testing

from trioserve.server.deadlines import SHORTEST_SLEEP, Deadlines


class Recorded:
    """A connection that notes when it was told, and clears what has passed."""

    def __init__(self):
        self.read_deadline = self.write_deadline = self.exchange_deadline = inf
        self.told = []

    def expire(self, now):
        self.told.append(now)
        for name in ("read_deadline", "write_deadline", "exchange_deadline"):
            if getattr(self, name) <= now:
                setattr(self, name, inf)

    def drain(self): ...

    def end(self): ...


@pytest.fixture
async def running(nursery):
    deadlines = Deadlines((10.0, 60.0, 0.0, inf))
    nursery.start_soon(deadlines.run)
    await trio.testing.wait_all_tasks_blocked()
    return deadlines


@pytest.mark.parametrize("name", ["read_deadline", "write_deadline", "exchange_deadline"])
@pytest.mark.parametrize("phase", [0, 0.3, 3, 9.99])
@pytest.mark.parametrize("timeout", [10, 10.001, 15, 60])
async def test_a_deadline_of_any_timeout_is_exact_whenever_it_is_set(
    running, name, phase, timeout, autojump_clock
):
    connection = Recorded()
    running.add(connection)
    await trio.sleep(phase)
    deadline = trio.current_time() + timeout
    setattr(connection, name, deadline)
    await trio.sleep(timeout + 5)
    assert connection.told == [pytest.approx(deadline, abs=2 * SHORTEST_SLEEP)]
    assert connection.told[0] >= deadline


async def test_a_nearer_deadline_is_seen_when_hurried(running, autojump_clock):
    connection = Recorded()
    running.add(connection)
    await trio.sleep(1)
    deadline = connection.exchange_deadline = trio.current_time() + 0.5
    running.hurry(connection)
    await trio.sleep(20)
    assert connection.told == [pytest.approx(deadline, abs=2 * SHORTEST_SLEEP)]


async def test_hurrying_for_one_leaves_the_others_alone(running, autojump_clock):
    connection, others = Recorded(), [Recorded() for _ in range(3)]
    for each in (connection, *others):
        running.add(each)
    await trio.sleep(1)
    looked_at = []
    sweep = running.sweep
    running.sweep = lambda connections, now: looked_at.append(set(connections)) or sweep(connections, now)
    connection.exchange_deadline = trio.current_time() + 0.5
    running.hurry(connection)
    await trio.sleep(0.1)
    assert looked_at == [{connection}]
    others[0].read_deadline = trio.current_time() + 10  # in the ordinary way, beside the urgent one
    await trio.sleep(20)
    assert len(connection.told) == len(others[0].told) == 1


async def test_a_deadline_that_moves_away_is_not_told(running, autojump_clock):
    connection = Recorded()
    running.add(connection)
    for _ in range(10):
        connection.read_deadline = trio.current_time() + 10
        await trio.sleep(9)
    assert connection.told == []


async def test_one_that_is_discarded_is_not_told(running, autojump_clock):
    connection, other = Recorded(), Recorded()
    running.add(connection)
    running.add(other)
    connection.read_deadline = other.read_deadline = trio.current_time() + 10
    await trio.sleep(5)
    running.discard(connection)
    running.discard(connection)
    await trio.sleep(20)
    assert connection.told == []
    assert len(other.told) == 1


async def test_one_that_is_not_watched_cannot_hurry(running, autojump_clock):
    connection, other = Recorded(), Recorded()
    running.add(connection)
    running.add(other)
    running.discard(connection)
    connection.exchange_deadline = trio.current_time() + 0.5
    running.hurry(connection)
    await trio.sleep(20)
    assert connection.told == []


async def test_one_that_fails_does_not_end_the_others(running, error_log, autojump_clock):
    class Failing(Recorded):
        def expire(self, now):
            super().expire(now)
            raise RuntimeError

    failing, others = Failing(), [Recorded() for _ in range(3)]
    for each in (failing, *others):
        running.add(each)
        each.read_deadline = trio.current_time() + 5
    await trio.sleep(20)
    assert len(error_log()) == len(failing.told) == 1
    assert [len(each.told) for each in others] == [1, 1, 1]


async def test_it_sleeps_while_there_is_nothing_to_watch(running, autojump_clock):
    sweeps = []
    sweep = running.sweep
    running.sweep = lambda connections, now: sweeps.append(now) or sweep(connections, now)
    await trio.sleep(1000)
    assert sweeps == []
    connection = Recorded()
    running.add(connection)
    connection.read_deadline = trio.current_time() + 10
    await trio.sleep(11)
    assert len(connection.told) == 1


async def test_tiny_timeouts_do_not_make_it_spin(autojump_clock, nursery):
    deadlines = Deadlines((0.0001,))
    sweeps = []
    sweep = deadlines.sweep
    deadlines.sweep = lambda connections, now: sweeps.append(now) or sweep(connections, now)
    nursery.start_soon(deadlines.run)
    connection = Recorded()
    deadlines.add(connection)
    for _ in range(100):
        deadlines.hurry(connection)
        await trio.sleep(0.001)
    assert len(sweeps) <= 0.1 / SHORTEST_SLEEP + 3


def test_sweep_returns_the_earliest_that_is_left():
    deadlines = Deadlines(())
    first, second = Recorded(), Recorded()
    deadlines.add(first)
    deadlines.add(second)
    assert deadlines.sweep(deadlines.connections, 0) == inf
    first.read_deadline, first.write_deadline, second.exchange_deadline = 5, 3, 4
    assert deadlines.sweep(deadlines.connections, 2) == 3
    assert deadlines.sweep(deadlines.connections, 3) == 4
    assert (first.told, second.told) == ([3], [])
