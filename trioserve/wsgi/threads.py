"""The threads that run an application, and how they and the event loop wake each other.

Theory of operation. A hop to a thread and back costs little when nobody has to be woken for it, so wakings are saved:

- The loop adds jobs to a deque, and wakes one thread for all of them, just before it waits for I/O. Those of one round
  are put in order first, because Trio runs the tasks of a round in either direction.
- At most one woken thread at a time looks for work (it holds the `_token`, as Go's scheduler has one spinning thread).
  With a job in hand it gives the token back, and, if there is more to do, wakes the next one before it begins. While
  jobs are short, one thread runs all of them and the next one only waits for the interpreter's lock; as soon as a job
  blocks or takes long, that next one is there.
- What jobs have to tell goes to a second deque. The loop is woken when a thread has nothing else to do, or is about to
  block. While a thread is busy and has told something, a second one looks out for it in the same way.

No lock is taken anywhere: `append`, `pop`, `popleft` and `remove` of a deque are atomic, whoever takes an element
owns it, and who goes to sleep looks again after saying so. A holder of a lock could lose the interpreter to a thread
that computes, and the event loop would have to wait for both.

All threads are daemons, so one that never comes back cannot hold up the end of the process.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from operator import attrgetter
from typing import Final, Protocol

import trio
import trio.abc
import trio.lowlevel

logger = logging.getLogger("trioserve.error")

_ARRIVAL: Final = attrgetter("arrival")


class Job(Protocol):
    """What the threads run."""

    posted: bool
    """It is among those that have something to tell; belongs to `ThreadPool.post`."""

    @property
    def arrival(self) -> tuple[int, int]:
        """Sorts jobs that are submitted in one round of the event loop."""
        ...

    def run(self) -> None:
        """Do the work, in a thread. Must not raise."""
        ...

    def notify(self) -> None:
        """Take note, in the event loop, that there is something to look at. Must not raise."""
        ...


class _Worker:
    """One thread, as the others see it."""

    __slots__ = ("wake",)

    def __init__(self) -> None:
        self.wake = threading.Lock()
        self.wake.acquire()


class ThreadPool(trio.abc.Instrument):
    """Up to so many threads for one run of Trio.

    Attributes:
        size: how many there can be.
        closed: nothing can be run any more.
        stuck: how many run a job that everybody has given up.
        users: how many servers close the threads together; for them to count.

    Args:
        size: how many threads; they start when they are needed.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.closed = False
        self.stuck = 0
        self.users = 0
        self._token_of_run = trio.lowlevel.current_trio_token()
        self._submitted: list[Job] = []  # in this round
        self._jobs: deque[Job] = deque()
        self._news: deque[Job] = deque()  # jobs with something to tell
        self._parked: list[_Worker] = []
        self._permits = deque(range(size))  # numbers of the threads that have not been started
        self._token: deque[None] = deque([None])
        self._asleep = False  # the event loop waits for I/O
        self._scope = trio.CancelScope()
        trio.lowlevel.spawn_system_task(self._live, name="WSGI threads")

    async def _live(self) -> None:
        """Let threads and loop wake each other until closed; being a system task it ends with the run at last."""
        trio.lowlevel.add_instrument(self)
        try:
            with self._scope:
                await trio.sleep_forever()
        finally:
            trio.lowlevel.remove_instrument(self)
            self.closed = True
            self.after_io_wait(0)  # who posts from now on sees that it is too late
            while self._parked:
                self._parked.pop().wake.release()

    # -- called by the event loop ----------------------------------------------------------------------------------

    def close(self) -> None:
        """End the threads, each when it has done its job."""
        self._scope.cancel()

    def submit(self, job: Job) -> None:
        """Have a job run, after those that came before it."""
        self._submitted.append(job)

    def withdraw(self, job: Job) -> bool:
        """Take a job back; False when a thread has begun with it."""
        for jobs in (self._submitted, self._jobs):
            try:
                jobs.remove(job)
            except ValueError:
                continue
            return True
        return False

    @property
    def waiting(self) -> int:
        """How many jobs wait for a thread."""
        return len(self._submitted) + len(self._jobs)

    def before_io_wait(self, timeout: float) -> None:
        """See `trio.abc.Instrument`: wake a thread for what was submitted since the last time."""
        submitted = self._submitted
        if submitted:
            if len(submitted) > 1:
                submitted.sort(key=_ARRIVAL)
            self._jobs.extend(submitted)
            submitted.clear()
        if self._jobs:
            self._wake_thread()
        if timeout > 0:
            self._asleep = True
            if self._news:
                self._wake_loop()

    def after_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - the signature is Trio's
        """See `trio.abc.Instrument`: look at what the threads have to tell."""
        self._asleep = False
        news = self._news
        while news:
            job = news.popleft()
            job.posted = False  # before it looks: what comes later is posted again
            try:
                job.notify()
            except Exception:  # an instrument that raises is removed, and no request would hear again
                logger.exception("this is a bug in trioserve; one request was not told of its thread")

    # -- called by the threads -------------------------------------------------------------------------------------

    def post(self, job: Job) -> None:
        """Let the event loop look at a job soon, whatever this thread does meanwhile."""
        if not job.posted:
            job.posted = True
            self._news.append(job)
            if self._asleep:
                self._wake_thread()

    def post_and_block(self, job: Job, until: threading.Lock) -> bool:
        """Let the event loop look at a job now, and wait for it to release a lock; False if it never will."""
        if not job.posted:
            job.posted = True
            self._news.append(job)
        if self.closed:
            return False
        if self._asleep:
            self._wake_loop()
        until.acquire()
        return True

    def post_end(self, job: Job) -> None:
        """Let the event loop look at a job whose `run` is about to return."""
        if not job.posted:
            job.posted = True
            self._news.append(job)

    # -- waking ----------------------------------------------------------------------------------------------------

    def _wake_thread(self) -> None:
        """See to it that a thread looks for jobs and for news, unless one is about to."""
        token, parked = self._token, self._parked
        while True:
            try:
                token.pop()
            except IndexError:
                return  # whoever has it looks at everything after giving it back
            try:
                worker = parked.pop()
            except IndexError:
                if self._start_thread(searching=True):
                    return
                token.append(None)
                if self._news and self._asleep:
                    self._wake_loop()  # all are busy, and none can do it in our place
                if not (parked and self._jobs):
                    return
            else:
                worker.wake.release()
                return

    def _wake_loop(self) -> None:
        self._asleep = False
        try:
            self._token_of_run.run_sync_soon(_do_nothing, idempotent=True)
        except trio.RunFinishedError:
            pass

    def _start_thread(self, *, searching: bool) -> bool:
        try:
            number = self._permits.popleft()
        except IndexError:
            return False
        args = (_Worker(), searching)
        try:
            threading.Thread(target=self._work, args=args, name=f"wsgi-{number}", daemon=True).start()
        except RuntimeError:  # the system has no more
            self._permits.append(number)
            logger.error("thread %d of %d for the application cannot be started", number + 1, self.size)
            return False
        return True

    # -- the life of a thread --------------------------------------------------------------------------------------

    def _work(self, worker: _Worker, searching: bool) -> None:
        jobs, news, token = self._jobs, self._news, self._token
        while not self.closed:
            try:
                job = jobs.popleft()
            except IndexError:
                self._park(worker, searching)
                searching = True
                continue
            if searching:
                token.append(None)
                searching = False
            if jobs or (news and self._asleep):
                self._wake_thread()
            if self._permits and not self._parked:
                self._start_thread(searching=False)  # the event loop should not have to: it would wait
            job.run()
            del job

    def _park(self, worker: _Worker, searching: bool) -> None:
        """Sleep until woken to search."""
        self._parked.append(worker)
        if searching:
            self._token.append(None)
        if self._news and self._asleep:
            self._wake_loop()
        if self._jobs:
            self._wake_thread()  # perhaps this one
        if not self.closed:
            worker.wake.acquire()


def _do_nothing() -> None:
    """The end of the event loop's waiting is all that is wanted."""
