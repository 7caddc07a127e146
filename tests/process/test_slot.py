"""Slots with real processes that say what they are told to say, and start faster than workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager

import pytest
import trio

from trioserve.config import Config, LoadedConfig
from trioserve.process.control import Order
from trioserve.process.launcher import ChildProcess, WorkerEnds
from trioserve.process.slot import Generation, Slot, SlotState
from trioserve.process.sockets import SocketSet
from trioserve.process.supervised_worker import Crew, Stage

STAND_IN = """
import os, socket, sys
sock, how = socket.socket(fileno=int(sys.argv[1])), sys.argv[2]
def say(text): sock.sendall(text.encode() + b"\\n")
if how == "fail":
    say('{"type":"failed","reason":"no luck"}'); sys.exit(3)
if how == "die":
    sys.exit(1)
if how != "hang":
    say('{"type":"ready","urls":["here"]}')
if how == "nonsense":
    say("what?")
if how == "retire":
    say('{"type":"retire","reason":"old","accepts":true}')
if how in ("drain", "finish"):
    say('{"type":"retire","reason":"ill"}')
if how == "crash":
    sys.exit(5)
if how == "finish":
    sys.exit(1)
received = b""
while data := sock.recv(4096):
    received += data
    if b"drain" in received or b"stop" in received:
        if how != "stubborn":
            sys.exit(0)
"""


class Script:
    """Starts stand-ins; `plan` says how each behaves, the last one again and again."""

    def __init__(self, *plan):
        self.plan = list(plan)
        self.pids = []

    def start(self, slot):
        how = self.plan.pop(0) if len(self.plan) > 1 else self.plan[0]
        if how == "refuse":
            raise OSError(11, "Resource temporarily unavailable")
        with WorkerEnds() as ends:
            fd = ends.control.fileno()
            command = [sys.executable, "-I", "-S", "-c", STAND_IN, str(fd), how]
            process = ChildProcess(subprocess.Popen(command, pass_fds=[fd]))
            self.pids.append(process.pid)
            return ends.launch(process)

    def close(self):
        pass

    async def run(self):
        pass


class Watcher:
    """Remembers what happened, and lets a test wait for facts."""

    def __init__(self):
        self.ready = []
        self.failures = []
        self.ends = 0
        self._changed = trio.Event()

    def note_ready(self, worker):
        self.ready.append(str(worker))

    def note_failure(self, slot, worker):
        self.failures.append(worker.failure)

    def note_end(self, slot):
        self.ends += 1

    def note_change(self):
        self._changed.set()
        self._changed = trio.Event()

    async def wait_for(self, fact):
        with trio.fail_after(20):
            while not fact():
                await self._changed.wait()


def generation(*plan, **process):
    config = Config(app="main:app", process=Config().process.__class__(**process))
    return Generation(LoadedConfig(config, None), SocketSet(), Script(*plan))


@asynccontextmanager
async def running_slot(first, **options):
    watcher = Watcher()
    async with trio.open_nursery() as lives:
        crew = Crew(lives)
        slot = Slot(1, first, crew, watcher, **options)
        async with trio.open_nursery() as duties:
            duties.start_soon(slot.run)
            yield slot, watcher, crew
            duties.cancel_scope.cancel()
        for worker in crew.workers:
            worker.stop_now()


async def wait_for_the_end(crew):
    with trio.fail_after(20):
        while crew.workers:
            await trio.lowlevel.checkpoint()


def serves(slot):
    return lambda: slot.state is SlotState.SERVING


async def test_a_slot_is_filled():
    async with running_slot(generation("serve")) as (slot, watcher, crew):
        assert slot.state is SlotState.EMPTY
        await watcher.wait_for(serves(slot))
        assert slot.urls == ["here"]
        assert len(watcher.ready) == len(crew.workers) == 1
    assert not crew.workers


async def test_a_failed_start_is_tried_again_after_a_while():
    first = generation("die", "fail", "refuse", "serve")
    async with running_slot(first) as (slot, watcher, _):
        before = trio.current_time()
        await watcher.wait_for(serves(slot))
        assert trio.current_time() - before >= 0.1 + 0.2 + 0.4
        assert watcher.failures == [None, "no luck"]
        assert slot.backoff.failures == 3


async def test_a_patient_slot_waits_for_other_code_when_the_application_fails():
    async with running_slot(generation("fail"), patient=True) as (slot, watcher, _):
        await watcher.wait_for(lambda: watcher.failures == ["no luck"])
        assert slot.state is SlotState.EMPTY
        with trio.fail_after(20):
            assert not await slot.replace(generation("fail"))
            assert await slot.replace(generation("serve"))
        assert serves(slot)()
        assert slot.generation.launcher.plan == ["serve"]


async def test_a_worker_that_is_not_ready_in_time_is_ended():
    async with running_slot(generation("hang", "serve", startup=0.3)) as (slot, watcher, crew):
        await watcher.wait_for(serves(slot))
        assert watcher.failures == [None]
        await watcher.wait_for(lambda: len(crew.workers) == 1)


async def test_a_worker_that_dies_soon_counts_as_a_failed_start():
    first = generation("serve")
    async with running_slot(first) as (slot, watcher, _):
        await watcher.wait_for(serves(slot))
        os.kill(first.launcher.pids[0], signal.SIGKILL)
        await watcher.wait_for(lambda: len(watcher.ready) == 2)
        assert slot.backoff.failures == 1


@pytest.mark.parametrize("how", ["crash", "drain", "finish"])
async def test_workers_that_stop_serving_at_once_count_as_failed_starts(how):
    first = generation(how, how, how, "serve")
    async with running_slot(first) as (slot, watcher, _):
        before = trio.current_time()
        await watcher.wait_for(lambda: len(first.launcher.pids) == 4 and serves(slot)())
        assert trio.current_time() - before >= 0.1 + 0.2 + 0.4
        assert slot.backoff.failures == 3
        assert watcher.ends + len(watcher.failures) == 3  # its end may be seen together with its begin


async def test_workers_that_retire_at_once_are_no_failures():
    plan = ["die"] + ["retire"] * 12 + ["serve"]
    async with running_slot(generation(*plan)) as (slot, watcher, crew):
        await watcher.wait_for(lambda: len(watcher.ready) == 13)
        assert slot.backoff.failures == 0
        assert watcher.ends == 0
        await watcher.wait_for(lambda: len(crew.workers) == 1)


async def test_who_retires_and_dies_before_the_successor_is_ready_has_failed():
    first = generation("retire", "hang")
    async with running_slot(first) as (slot, watcher, _):
        await watcher.wait_for(lambda: slot.state is SlotState.REPLACING)
        os.kill(first.launcher.pids[0], signal.SIGKILL)
        await watcher.wait_for(lambda: slot.state is SlotState.FILLING)
        assert slot.backoff.failures == watcher.ends == 1


async def test_who_wishes_to_retire_serves_until_the_successor_is_ready():
    first = generation("retire", "hang", "serve")
    async with running_slot(first) as (slot, watcher, crew):
        await watcher.wait_for(lambda: slot.state is SlotState.REPLACING)
        assert slot.serving
        os.kill(first.launcher.pids[1], signal.SIGKILL)
        await watcher.wait_for(lambda: len(watcher.failures) == 1)
        assert slot.serving
        await watcher.wait_for(lambda: len(watcher.ready) == 2)
        await watcher.wait_for(lambda: len(crew.workers) == 1 and serves(slot)())


async def test_a_replacement_that_fails_leaves_the_old_worker():
    async with running_slot(generation("serve")) as (slot, watcher, crew):
        await watcher.wait_for(serves(slot))
        former = slot.generation
        for how in ("fail", "die", "refuse"):
            with trio.fail_after(20):
                assert not await slot.replace(generation(how))
        assert slot.generation is former
        assert serves(slot)()
        assert len(watcher.ready) == 1
        await watcher.wait_for(lambda: len(crew.workers) == 1)


async def test_a_replacement_while_another_one_starts_gives_that_up():
    first, second = generation("hang"), generation("serve")
    async with running_slot(first) as (slot, watcher, _):
        await watcher.wait_for(lambda: slot.state is SlotState.FILLING)
        with trio.fail_after(4):
            assert await slot.replace(second)
        assert slot.generation is second
        assert watcher.failures == []


async def test_a_replacement_that_is_given_up_while_it_starts_fails_and_ends_its_worker():
    second = generation("hang")
    async with running_slot(generation("serve")) as (slot, watcher, crew), trio.open_nursery() as nursery:
        await watcher.wait_for(serves(slot))
        decided = []

        async def replace():
            decided.append(await slot.replace(second))

        nursery.start_soon(replace)
        await watcher.wait_for(lambda: slot.state is SlotState.REPLACING)
        slot.give_up_replacement()
        await watcher.wait_for(lambda: len(crew.workers) == 1 and serves(slot)())
        assert decided == [False]
        assert watcher.failures == []
        assert len(second.launcher.pids) == len(watcher.ready) == 1


async def test_a_replacement_whose_worker_is_ready_is_not_given_up():
    async with running_slot(generation("serve")) as (slot, watcher, crew), trio.open_nursery() as nursery:
        await watcher.wait_for(serves(slot))
        slot.give_up_replacement()  # there is none
        second = generation("hang")
        nursery.start_soon(slot.replace, second)
        await watcher.wait_for(lambda: slot.state is SlotState.REPLACING)
        _, successor = crew.workers
        successor.stage = Stage.SERVING  # the slot has not been told yet
        slot.give_up_replacement()
        slot.close()
        assert successor.stage is Stage.ENDING
        assert slot.generation is not second


async def test_a_replacement_during_the_back_off_does_not_wait():
    async with running_slot(generation("die")) as (slot, watcher, _):
        await watcher.wait_for(lambda: slot.backoff.failures == 5)  # the next attempt is 1.6 s away
        before = trio.current_time()
        assert await slot.replace(generation("serve"))
        assert trio.current_time() - before < 1.5
        assert slot.backoff.failures == 0


async def test_a_worker_that_dies_while_it_is_replaced_is_simply_succeeded():
    first, second = generation("serve"), generation("serve")
    async with running_slot(first) as (slot, watcher, _):
        await watcher.wait_for(serves(slot))
        os.kill(first.launcher.pids[0], signal.SIGKILL)
        with trio.fail_after(20):
            assert await slot.replace(second)
        assert len(first.launcher.pids) + len(second.launcher.pids) <= 3


async def test_closing_ends_the_task_and_drains_whoever_is_there():
    async with running_slot(generation("serve")) as (slot, watcher, crew):
        await watcher.wait_for(serves(slot))
        slot.close()
        await wait_for_the_end(crew)
        assert len(slot.generation.launcher.pids) == 1


async def test_closing_decides_a_replacement_that_is_waited_for():
    async with running_slot(generation("serve")) as (slot, watcher, _), trio.open_nursery() as nursery:
        await watcher.wait_for(serves(slot))
        nursery.start_soon(slot.replace, generation("hang"))
        await watcher.wait_for(lambda: slot.state is SlotState.REPLACING)
        slot.close()


async def test_a_slot_that_has_been_closed_needs_no_replacement():
    async with running_slot(generation("serve")) as (slot, watcher, crew):
        await watcher.wait_for(serves(slot))
        slot.close()
        await wait_for_the_end(crew)
        other = generation("serve")
        with trio.fail_after(20):
            assert await slot.replace(other)
        assert other.launcher.pids == []


async def test_a_start_that_fails_just_when_other_code_is_wished_for_delays_nothing():
    async with running_slot(generation("hang"), patient=True) as (slot, watcher, crew):
        await watcher.wait_for(lambda: slot.state is SlotState.FILLING)
        (worker,) = crew.workers
        worker.failure, worker.stage = "no luck", Stage.ENDING  # the slot has not been told yet
        with trio.fail_after(20):
            assert await slot.replace(generation("serve"))
        assert watcher.failures == ["no luck"]
        worker.command(Order.DRAIN)


async def test_nonsense_from_a_worker_ends_it_and_nobody_else():
    first = generation("nonsense", "serve")
    async with running_slot(first) as (slot, watcher, crew):
        await watcher.wait_for(lambda: len(watcher.ready) == 2)
        await watcher.wait_for(lambda: len(crew.workers) == 1 and serves(slot)())


async def test_a_worker_that_does_not_stop_at_once_is_killed_within_a_second():
    first = generation("stubborn")
    async with running_slot(first) as (slot, watcher, crew):
        await watcher.wait_for(serves(slot))
        before = trio.current_time()
        for worker in crew.workers:
            worker.drain()
            worker.stop_now()
        slot.close()
        (worker,) = crew.workers
        await wait_for_the_end(crew)
        assert worker.status == -signal.SIGKILL
        assert trio.current_time() - before < 1.0


@pytest.mark.parametrize("plan", [("serve",), ("die",)])
async def test_all_that_was_opened_is_closed(plan):
    before = len(os.listdir("/proc/self/fd"))
    async with running_slot(generation(*plan)) as (_, watcher, _):
        await watcher.wait_for(lambda: watcher.ready or len(watcher.failures) == 2)
    assert len(os.listdir("/proc/self/fd")) == before
