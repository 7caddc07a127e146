from __future__ import annotations

import time

import trio
import trio.testing

from trioserve.config import ProcessSettings
from trioserve.process.control import Beat, Retire
from trioserve.process.heartbeat import measure_rss, send_beats
from trioserve.process.retirement import Retirement


async def follow(seconds, settings, count_requests=lambda: 0):
    """What is sent within so many seconds, each with its time since the start."""
    sent = []
    start = trio.current_time()
    with trio.move_on_after(seconds):
        await send_beats(
            lambda message: sent.append((trio.current_time() - start, message)),
            count_requests,
            Retirement(settings, start),
        )
    return sent


async def test_one_beat_a_second_from_the_start_on(autojump_clock):
    sent = await follow(3.5, ProcessSettings(), lambda: 7)
    assert [moment for moment, _ in sent] == [0, 1, 2, 3]
    assert {type(beat) for _, beat in sent} == {Beat}
    assert {beat.requests for _, beat in sent} == {7}


async def test_limits_are_looked_at_four_times_a_second_and_beats_stay_as_many(autojump_clock):
    looks = []

    def count_requests():
        looks.append(trio.current_time())
        return len(looks)

    sent = await follow(2.9, ProcessSettings(max_requests=3), count_requests)
    assert len(looks) == 12
    assert [(moment, type(message)) for moment, message in sent] == [
        (0, Beat),
        (0.5, Retire),
        (1, Beat),
        (2, Beat),
    ]


async def test_a_loop_that_was_blocked_makes_up_for_nothing(mock_clock):
    sent = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_beats, sent.append, lambda: 0, Retirement(ProcessSettings(), 0.0))
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(10.5)
        await trio.testing.wait_all_tasks_blocked()
        assert len(sent) == 2
        mock_clock.jump(0.9)
        await trio.testing.wait_all_tasks_blocked()
        assert len(sent) == 2
        mock_clock.jump(0.1)
        await trio.testing.wait_all_tasks_blocked()
        assert len(sent) == 3
        nursery.cancel_scope.cancel()


def test_memory_is_that_of_now():
    before = measure_rss()
    assert before > 1 << 20
    ballast = bytearray(64 << 20)
    with_ballast = measure_rss()
    del ballast
    assert with_ballast - before > 32 << 20
    assert measure_rss() < with_ballast - (32 << 20)


def test_a_look_costs_little():
    start = time.perf_counter()
    for _ in range(100):
        measure_rss()
    assert time.perf_counter() - start < 0.5
