from __future__ import annotations

import resource
import time

import pytest
import trio
import trio.testing

from trioserve.config import ConfigError, ProcessSettings
from trioserve.process.control import Beat, Retire
from trioserve.process.heartbeat import beat_interval, measure_rss, send_beats
from trioserve.process.retirement import Retirement


async def follow(seconds, settings, count_requests=lambda: 0, delivered=lambda moment: True):
    """What is sent within so many seconds, each with its time since the start."""
    sent = []
    start = trio.current_time()

    def send(message):
        moment = trio.current_time() - start
        sent.append((moment, message))
        return delivered(moment)

    interval = beat_interval(settings.heartbeat)
    with trio.move_on_after(seconds):
        await send_beats(send, count_requests, Retirement(settings, start), interval)
    return sent


def moments(sent, kind):
    return [moment for moment, message in sent if type(message) is kind]


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


@pytest.mark.parametrize(
    ("heartbeat", "interval"), [(0.0, 1.0), (0.5, 0.125), (2.0, 0.5), (4.0, 1.0), (30.0, 1.0)]
)
async def test_a_short_heartbeat_has_four_beats(heartbeat, interval, autojump_clock):
    sent = await follow(3 * interval + 0.01, ProcessSettings(heartbeat=heartbeat))
    assert moments(sent, Beat) == [0, interval, 2 * interval, 3 * interval]


@pytest.mark.parametrize(("heartbeat", "looks"), [(0.5, 8), (1.0, 4), (2.0, 4), (3.0, 4), (0.0, 4)])
async def test_limits_are_looked_at_at_least_four_times_a_second(heartbeat, looks, autojump_clock):
    settings = ProcessSettings(heartbeat=heartbeat, max_requests=1000)
    count, asked = iter(range(1000)), []
    await follow(2.99, settings, lambda: asked.append(next(count)) or asked[-1])
    assert len(asked) == 3 * looks


async def test_a_wish_to_retire_is_sent_until_it_can_be(autojump_clock):
    settings = ProcessSettings(max_requests=1)
    sent = await follow(2.9, settings, lambda: 1, lambda moment: moment > 0.6)
    assert moments(sent, Retire) == [0, 0.25, 0.5, 0.75]


@pytest.mark.parametrize("heartbeat", [0.01, 0.499])
def test_a_heartbeat_that_nobody_could_keep_is_refused(heartbeat):
    with pytest.raises(ConfigError, match=r"heartbeat: expected a duration of at least 0\.5 s, or 0 = never"):
        ProcessSettings(heartbeat=heartbeat)


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


def test_memory_is_unknown_rather_than_that_of_the_past_when_no_descriptor_is_left():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        assert measure_rss() == 0
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert measure_rss() > 0


def test_a_look_costs_little():
    start = time.perf_counter()
    for _ in range(100):
        measure_rss()
    assert time.perf_counter() - start < 0.5
