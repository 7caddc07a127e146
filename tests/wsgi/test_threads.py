"""The pool of threads: order, concurrency, waking, ends."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
import trio
import trio.testing

from trioserve.wsgi.threads import ThreadPool


class Work:
    """A job that a task waits for."""

    posted = False

    def __init__(self, pool, function, arrival=(0, 0)):
        self.pool = pool
        self.arrival = arrival
        self.function = function
        self.told = trio.Event()

    def run(self):
        self.function()
        self.pool.post_end(self)

    def notify(self):
        self.told.set()

    async def wait(self):
        with trio.fail_after(10):
            await self.told.wait()


@pytest.fixture
async def pool():
    pool = ThreadPool(4)
    yield pool
    pool.close()


def submit(pool, function):
    work = Work(pool, function)
    pool.submit(work)
    return work


async def test_runs_jobs_in_daemon_threads_of_its_own(pool):
    threads = []
    for _ in range(3):
        await submit(pool, lambda: threads.append(threading.current_thread())).wait()
    assert threading.main_thread() not in threads
    assert all(thread.daemon and thread.name.startswith("wsgi-") for thread in threads)


async def test_starts_threads_when_they_are_needed(pool):
    before = threading.active_count()
    await submit(pool, list).wait()
    assert threading.active_count() <= before + 2  # one works, one is spare


async def test_runs_as_many_at_once_as_it_has_threads(pool):
    barrier = threading.Barrier(4, timeout=5)
    jobs = [submit(pool, barrier.wait) for _ in range(8)]
    for job in jobs:
        await job.wait()


async def test_never_runs_more_at_once():
    pool = ThreadPool(2)
    running, most = [], []

    def run():
        running.append(1)
        most.append(len(running))
        threading.Event().wait(0.001)
        running.pop()

    for job in [submit(pool, run) for _ in range(50)]:
        await job.wait()
    assert max(most) == 2
    pool.close()


async def test_those_that_wait_run_in_their_order():
    pool = ThreadPool(1)
    order = []
    release = threading.Event()
    blocking = submit(pool, lambda: release.wait(5))
    jobs = [submit(pool, lambda number=number: order.append(number)) for number in range(20)]
    await trio.testing.wait_all_tasks_blocked()
    release.set()
    await blocking.wait()
    for job in jobs:
        await job.wait()
    assert order == list(range(20))
    pool.close()


async def test_those_of_one_round_run_in_the_order_of_their_arrival():
    pool = ThreadPool(1)
    order = []

    def build(number):
        return Work(pool, lambda: order.append(number), (number // 5, number % 5))

    for _ in range(10):
        order.clear()
        jobs = [build(number) for number in range(20)]
        for job in reversed(jobs):
            pool.submit(job)
        for job in jobs:
            await job.wait()
        assert order == list(range(20))
    pool.close()


async def test_a_job_can_be_withdrawn_in_the_round_in_which_it_was_submitted():
    pool = ThreadPool(1)
    ran = []
    job, other = Work(pool, lambda: ran.append(1)), Work(pool, lambda: ran.append(2))
    pool.submit(job)
    pool.submit(other)
    assert pool.waiting == 2
    assert pool.withdraw(job)
    assert not pool.withdraw(job)
    await other.wait()
    assert ran == [2]
    pool.close()


async def test_a_job_that_blocks_holds_up_no_other(pool):
    release = threading.Event()
    blocking = submit(pool, lambda: release.wait(5))
    for _ in range(3):
        await submit(pool, list).wait()
    # Also when all are submitted together, with the one that blocks before, among, and behind the others.
    for place in range(3):
        jobs = [submit(pool, list) for _ in range(3)]
        jobs.insert(place, submit(pool, lambda: release.wait(5)) if place == 0 else submit(pool, list))
        for job in jobs[1:]:
            await job.wait()
    assert not blocking.told.is_set()
    release.set()
    await blocking.wait()


async def test_what_was_told_is_heard_although_its_thread_goes_on(pool):
    class Telling(Work):
        def run(self):
            self.pool.post(self)
            go_on.wait(5)

    go_on = threading.Event()
    for size in (4, 1):
        single = ThreadPool(size)
        go_on.clear()
        job = Telling(single, None)
        single.submit(job)
        await job.wait()
        go_on.set()
        single.close()


async def test_what_was_told_is_heard_although_the_same_thread_runs_the_next_job():
    pool = ThreadPool(1)
    release = threading.Event()
    first = submit(pool, list)
    second = submit(pool, lambda: release.wait(5))
    await first.wait()
    assert not second.told.is_set()
    release.set()
    await second.wait()
    pool.close()


async def test_a_job_can_be_withdrawn_until_it_has_begun():
    pool = ThreadPool(1)
    begun, release = threading.Event(), threading.Event()

    def block():
        begun.set()
        release.wait(5)

    first = submit(pool, block)
    second = submit(pool, list)
    assert await trio.to_thread.run_sync(begun.wait, 5)
    assert pool.waiting == 1
    assert pool.withdraw(second)
    assert not pool.withdraw(first)
    assert pool.waiting == 0
    release.set()
    await first.wait()
    await trio.testing.wait_all_tasks_blocked()
    assert not second.told.is_set()
    pool.close()


async def test_many_short_jobs_of_many_tasks_all_come_back(pool):
    async def repeat():
        for _ in range(200):
            await submit(pool, list).wait()

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(repeat)


async def test_jobs_that_wait_for_the_loop_all_come_back(pool):
    class Asking(Work):
        def run(self):
            for _ in range(50):
                self.lock = threading.Lock()
                self.lock.acquire()
                assert self.pool.post_and_block(self, self.lock)
            self.lock = None
            self.pool.post_end(self)

        def notify(self):
            if self.lock is None:
                self.told.set()
            else:
                self.lock.release()

    jobs = [Asking(pool, None) for _ in range(20)]
    for job in jobs:
        pool.submit(job)
    for job in jobs:
        await job.wait()


async def test_closing_ends_the_threads(pool):
    threads = []
    barrier = threading.Barrier(4, timeout=5)

    def meet():
        threads.append(threading.current_thread())
        barrier.wait()

    for job in [submit(pool, meet) for _ in range(4)]:
        await job.wait()
    pool.close()
    for thread in threads:
        await trio.to_thread.run_sync(thread.join, 5)
        assert not thread.is_alive()
    assert pool.closed


async def test_a_thread_that_is_late_finds_nobody_and_ends(pool):
    class Late(Work):
        def run(self):
            threads.append(threading.current_thread())
            begun.set()
            release.wait(5)
            lock = threading.Lock()
            lock.acquire()
            answers.append(self.pool.post_and_block(self, lock))
            self.pool.post(self)

    threads, answers = [], []
    begun, release = threading.Event(), threading.Event()
    pool.submit(Late(pool, None))
    assert await trio.to_thread.run_sync(begun.wait, 5)
    pool.close()
    await trio.testing.wait_all_tasks_blocked()
    release.set()
    await trio.to_thread.run_sync(threads[0].join, 5)
    assert answers == [False]


async def test_a_system_without_threads_is_survived(pool, monkeypatch, caplog):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    release = threading.Event()
    first = submit(pool, lambda: release.wait(5))
    await trio.testing.wait_all_tasks_blocked()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        jobs = [submit(pool, list) for _ in range(8)]
        await trio.testing.wait_all_tasks_blocked()
    release.set()
    for job in [first, *jobs]:
        await job.wait()


PROGRAM = """
import sys, threading, time
import trio
from trioserve.testing.memory import open_memory_server
from trioserve.wsgi import WsgiApplication

def app(environ, start_response):
    begun.set()
    {block}

async def main():
    with trio.CancelScope() as scope:
        async with open_memory_server(WsgiApplication(app)) as server:
            await server.connect().send_all(b"GET / HTTP/1.1\\r\\nhost: a\\r\\n\\r\\n")
            await trio.to_thread.run_sync(begun.wait)
            scope.cancel()
    assert scope.cancelled_caught

begun = threading.Event()
trio.run(main)
print("the run has ended", flush=True)
"""


@pytest.mark.parametrize("block", ["time.sleep(3600)", "threading.Event().wait()", "sys.stdin.read()"])
def test_a_thread_that_never_returns_does_not_hold_up_the_end_of_the_process(block):
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(block=block)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.wait(20) == 0
            assert process.stdout.read() == "the run has ended\n"
            assert "31 of 32 threads are left: GET / HTTP/1.1" in process.stderr.read()
        finally:
            process.kill()
