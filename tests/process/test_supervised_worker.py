"""One worker with a stand-in for its process, exact to the moment; real ones are in test_blocked_workers."""

from __future__ import annotations

import logging
import os
import signal
import socket
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from trioserve.config import Config, ProcessSettings, TimeoutSettings
from trioserve.process.control import Beat, ControlChannel, Order, Ready, Retire
from trioserve.process.launcher import Launched
from trioserve.process.supervised_worker import Stage, SupervisedWorker

SILENCE = "has not run its event loop"
ORDERS = range(10)
"""Which of two tasks runs first is left to chance when both can run: often enough for both orders."""


class StandIn:
    """Ends when it is killed or told to, and says what a test says through it."""

    def __init__(self):
        self.pid = 4711
        self.signals = []
        ours, theirs = socket.socketpair()
        reading, self._stacks = os.pipe()
        self.socket = theirs
        self.channel = ControlChannel(theirs)
        self.launched = Launched(self, ours, reading)
        self._status = None
        self._ended = trio.Event()

    async def wait(self):
        await self._ended.wait()
        return self._status

    def send_signal(self, number):
        self.signals.append(number)
        if number == signal.SIGKILL:
            self.end(-number)

    def beat(self):
        assert self.channel.send(Beat(0, 0))

    def end(self, status):
        self._status = status
        self._ended.set()
        self.channel.close()

    def close(self):
        self.channel.close()
        os.close(self._stacks)


@asynccontextmanager
async def running(*, ready=True, timeouts=None, **process):
    stand_in = StandIn()
    config = Config(
        app="main:app", process=ProcessSettings(**process), timeouts=timeouts or TimeoutSettings()
    )
    worker = SupervisedWorker("worker 1", config, stand_in.launched, lambda: None)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.run)
            if ready:
                stand_in.channel.send(Ready(["here"]))
            await trio.testing.wait_all_tasks_blocked()
            yield worker, stand_in
            nursery.cancel_scope.cancel()
    finally:
        stand_in.close()


async def stop_everything(clock, seconds):
    """A machine that sleeps, a paused container: the clock goes on, and nobody does anything."""
    clock.jump(seconds)
    await trio.testing.wait_all_tasks_blocked()


def lives_on(worker, stand_in, caplog):
    return worker.stage is Stage.SERVING and stand_in.signals == [] and SILENCE not in caplog.text


async def test_beats_at_uneven_gaps_keep_a_worker_alive(autojump_clock, caplog):
    async with running(heartbeat=2.0) as (worker, stand_in):
        for gap in (1.9, 0.1, 1.9, 1.0, 1.8, 0.05, 1.95, 1.95, 0.7, 1.6) * 3:
            await trio.sleep(gap)
            stand_in.beat()
            await trio.testing.wait_all_tasks_blocked()
        assert lives_on(worker, stand_in, caplog)


@pytest.mark.parametrize("heartbeat", [0.5, 2.0, 2.6, 30.0])
async def test_silence_is_noticed_and_ended(heartbeat, autojump_clock, caplog):
    async with running(heartbeat=heartbeat) as (worker, stand_in):
        for _ in range(3):
            await trio.sleep(0.3)
            stand_in.beat()
            await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(heartbeat - 0.05)
        assert lives_on(worker, stand_in, caplog)
        await trio.sleep(0.1)
        assert f"worker 1 (4711) {SILENCE} for {heartbeat:g} s" in caplog.text
        assert worker.stage is Stage.ENDING
        await trio.sleep(0.5)
        assert signal.SIGTERM in stand_in.signals
        await trio.sleep(2.0)
        assert worker.status == -signal.SIGKILL


async def test_without_a_heartbeat_nobody_is_judged(autojump_clock, caplog):
    async with running(heartbeat=0.0) as (worker, stand_in):
        await stop_everything(autojump_clock, 1000)
        await trio.sleep(10)
        assert lives_on(worker, stand_in, caplog)


@pytest.mark.parametrize("before", [0.0, 0.7, 1.9, 2.2])
@pytest.mark.parametrize("asleep", [3.9, 3600.0])
@pytest.mark.parametrize("late", [0.0, 1.4])
async def test_a_machine_that_sleeps_costs_no_life(before, asleep, late, autojump_clock, caplog):
    """Processes are woken one after the other, and whoever was swapped out takes a while to come back."""
    async with running(heartbeat=4.0) as (worker, stand_in):
        await trio.sleep(before)
        await stop_everything(autojump_clock, asleep)
        await trio.sleep(late)
        stand_in.beat()
        await trio.sleep(1.0)
        assert lives_on(worker, stand_in, caplog)
        await trio.sleep(5.0)
        assert SILENCE in caplog.text


async def test_one_that_hangs_is_found_by_a_supervisor_that_hardly_runs(autojump_clock, caplog):
    async with running(heartbeat=2.0) as (_, stand_in):
        for _ in range(3):
            await stop_everything(autojump_clock, 1.3)
            stand_in.beat()
        for _ in range(5):
            assert SILENCE not in caplog.text
            await stop_everything(autojump_clock, 1.3)
        await trio.sleep(0.6)
        assert SILENCE in caplog.text


@pytest.mark.parametrize("_", ORDERS)
async def test_what_came_while_we_were_blocked_is_read_before_a_verdict(_, autojump_clock, caplog):
    async with running(heartbeat=2.0) as (worker, stand_in):
        for gap in (0.95, 1.0, 0.9):  # each a disk that takes its time for a line of the log
            stand_in.beat()
            autojump_clock.jump(gap)
            await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(1.0)
        stand_in.beat()
        autojump_clock.jump(0.9)
        await trio.testing.wait_all_tasks_blocked()
        assert lives_on(worker, stand_in, caplog)


@pytest.mark.parametrize(("accepts", "stage"), [(True, Stage.LEAVING), (False, Stage.ENDING)])
async def test_one_that_wants_a_successor_serves_on_only_if_it_says_so(accepts, stage, autojump_clock):
    async with running(timeouts=TimeoutSettings(graceful=2, lifespan_shutdown=1)) as (worker, stand_in):
        stand_in.channel.send(Retire("old", accepts=accepts))
        await trio.testing.wait_all_tasks_blocked()
        assert worker.stage is stage
        for _ in range(20):
            stand_in.channel.send(Beat(0, 0))
            await trio.sleep(1)
        assert (worker.status == -signal.SIGKILL) is not accepts


async def test_one_that_retires_may_stop_accepting_before_it_is_told_to(autojump_clock):
    async with running() as (worker, stand_in):
        stand_in.channel.send(Retire("old", accepts=True))
        stand_in.channel.send(Retire("it drains"))
        await trio.testing.wait_all_tasks_blocked()
        assert worker.stage is Stage.ENDING


async def test_a_slow_start_is_ended(autojump_clock, caplog):
    async with running(ready=False, startup=2.6) as (worker, stand_in):
        await trio.sleep(2.5)
        assert stand_in.signals == []
        await trio.sleep(0.2)
        assert "worker 1 (4711) was not ready within 2.6 s" in caplog.text
        assert stand_in.signals == [signal.SIGTERM]
        assert worker.stage is Stage.ENDING


@pytest.mark.parametrize("_", ORDERS)
async def test_a_start_during_which_everything_slept_is_not_slow(_, autojump_clock, caplog):
    async with running(ready=False, startup=2.0) as (worker, stand_in):
        await trio.sleep(1.0)
        await stop_everything(autojump_clock, 3600)
        await trio.sleep(0.6)
        autojump_clock.jump(0.45)
        stand_in.channel.send(Ready(["here"]))
        await trio.sleep(1.0)
        assert lives_on(worker, stand_in, caplog)
        assert worker.urls == ["here"]


async def test_one_that_has_left_its_event_loop_gets_time_for_its_end(autojump_clock, caplog):
    """Threads of the application have three seconds."""
    async with running(heartbeat=0.5) as (worker, stand_in):
        worker.drain()
        await trio.sleep(3.2)
        assert stand_in.signals == []
        assert SILENCE not in caplog.text
        stand_in.end(0)
        await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(0.3)
        assert worker.stage is Stage.ENDED


async def test_one_that_hangs_while_it_drains_is_noticed(autojump_clock, caplog):
    timeouts = TimeoutSettings(graceful=0.0)
    async with running(heartbeat=0.5, timeouts=timeouts) as (worker, stand_in):
        worker.drain()
        for _ in range(20):
            await trio.sleep(0.4)
            stand_in.beat()
        assert stand_in.signals == []
        await trio.sleep(10.0)
        assert SILENCE in caplog.text
        assert worker.status == -signal.SIGKILL


def fill(worker):
    while worker.command(Order.DUMP_TASKS):
        pass


async def test_one_that_cannot_be_told_to_drain_gets_a_signal(autojump_clock):
    async with running(heartbeat=0.0, timeouts=TimeoutSettings(graceful=0.0)) as (worker, stand_in):
        fill(worker)
        worker.drain()
        assert stand_in.signals == [signal.SIGTERM]


async def test_one_that_has_closed_its_control_socket_gets_a_signal_too(autojump_clock):
    async with running() as (worker, stand_in):
        stand_in.channel.close()
        worker.drain()
        assert stand_in.signals == [signal.SIGTERM]


async def test_one_that_was_stopped_with_us_gets_a_moment_for_its_end(autojump_clock, caplog):
    async with running() as (worker, stand_in):
        worker.drain()
        await stop_everything(autojump_clock, 3600)
        await trio.sleep(1.5)
        assert stand_in.signals == []
        await trio.sleep(1.0)
        assert stand_in.signals == [signal.SIGKILL]
        assert "did not end in time and is killed" in caplog.text


@pytest.mark.parametrize("_", ORDERS)
async def test_one_that_has_ended_while_we_were_blocked_is_not_called_late(_, autojump_clock, caplog):
    caplog.set_level(logging.INFO, "trioserve")
    async with running() as (worker, stand_in):
        worker.stop_now()
        stand_in.end(0)
        autojump_clock.jump(0.75)
        await trio.sleep(0.3)
        assert stand_in.signals == []
        assert "is killed" not in caplog.text
        assert "has ended" in caplog.text
