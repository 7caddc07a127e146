"""The life of one worker process, as its supervisor sees it: started, ready, told to drain, ended.

`run` is the worker's task, from its start until the process has gone and is reaped; nothing is shielded, and whoever
cancels it leaves the worker to itself, which drains when its control socket closes. What is asked of a worker
(`drain`, `stop_now`) never waits. Every way to the end has a bound, after which the process is killed. Time in which
we do not run ourselves, stopped or blocked or in a machine that sleeps, is held against nobody.
"""

from __future__ import annotations

import enum
import logging
import os
import signal
from math import inf
from typing import TYPE_CHECKING, Final

import trio

from trioserve.process.control import Beat, Command, ControlChannel, Failed, Order, Ready, Retire
from trioserve.process.exit_deadline import EXIT_GRACE
from trioserve.process.launcher import Launched, describe_status
from trioserve.process.stacks import STACKS_SIGNAL

if TYPE_CHECKING:
    from collections.abc import Callable

    from trioserve.config import Config
    from trioserve.process.control import Message

LAST_WORDS: Final = 0.2
"""Seconds that messages of a process that has ended may take; a child of it may hold its control socket open."""
SILENT_END: Final = 1.0
"""Seconds between the end of a worker's control socket and its own."""
DRAIN_MARGIN: Final = 5.0
"""Seconds that a worker gets for its end beside what its settings allow."""
ABANDON_GRACE: Final = 5.0
"""Seconds for one that has not been ready yet: there is nothing to finish."""
TERMINATE_GRACE: Final = 2.0
STOP_NOW_GRACE: Final = 0.7
OVERSLEPT: Final = 1.0
"""Seconds after a deadline that only pass when we have been stopped, and perhaps the worker with us."""
LOOPLESS: Final = EXIT_GRACE + 1.0
"""Seconds for which a worker that ends may live on without its event loop: the interpreter's own end."""
STACKS_TIMEOUT: Final = 0.5
_PIECES: Final = 4
_STACKS_PAUSE: Final = 0.1
_LARGEST_STACKS: Final = 1 << 20

logger = logging.getLogger("trioserve")


class Stage(enum.Enum):
    """How far a worker has come. The order is that of its life; stages may be left out."""

    STARTING = "starting"
    SERVING = "serving"
    LEAVING = "serving until its successor is ready"
    ENDING = "finishing, or being ended"
    ENDED = "ended"


class SupervisedWorker:
    """One worker process.

    Args:
        name: for the log, such as "worker 1".
        config: what it was started with.
        launched: the process.
        tell: called at every change of what the attributes say.

    Attributes:
        stage: how far it has come.
        urls: where it serves, once it is ready.
        failure: why it says that it cannot start, None if it does not.
        status: how it ended, as a subprocess's returncode.
        served: how long it has served, in seconds.
    """

    def __init__(self, name: str, config: Config, launched: Launched, tell: Callable[[], None]) -> None:
        self.stage = Stage.STARTING
        self.urls: list[str] = []
        self.failure: str | None = None
        self.status: int | None = None
        self._name = name
        self._process_settings = config.process
        self._drain_bound = drain_bound(config)
        self._launched = launched
        self._process = launched.process
        self._channel = ControlChannel(launched.control)
        self._tell = tell
        self._abandoned = False  # nobody wants it any more, and nobody has seen it serve
        self._start = trio.CancelScope()  # cancelled when it is ready
        self._ready_since = inf
        self._last_sign = -inf
        self._ending = trio.CancelScope()  # its deadline is the moment at which the process is killed
        self._silent = trio.Event()  # its control socket has ended

    def __str__(self) -> str:
        return f"{self._name} ({self._process.pid or 'not forked yet'})"

    @property
    def served(self) -> float:
        """Seconds since it was ready."""
        return max(0.0, trio.current_time() - self._ready_since)

    # -- what is asked of it ---------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Let it finish; kill it when it takes longer than its settings allow."""
        serves = self.stage in (Stage.SERVING, Stage.LEAVING)
        if serves:
            self._end_within(self._drain_bound)
        elif self.stage is Stage.STARTING:
            self._abandoned = True
            self._end_within(ABANDON_GRACE)
        if not self.command(Order.DRAIN) and serves:
            self._process.send_signal(signal.SIGTERM)  # it has not read for long, but may go on one day

    def stop_now(self) -> None:
        """Make it end at once."""
        if self.stage is not Stage.ENDED:
            self.command(Order.STOP_NOW)
            self._end_within(STOP_NOW_GRACE)

    def command(self, order: Order) -> bool:
        """Send an order; whether it could be delivered, for otherwise it is lost."""
        return self._channel.send(Command(order))

    def _terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._end_within(TERMINATE_GRACE)

    def _end_within(self, seconds: float) -> None:
        self._ending.deadline = min(self._ending.deadline, trio.current_time() + seconds)
        self._enter(Stage.ENDING)

    def _enter(self, stage: Stage) -> None:
        if stage is not self.stage and self.stage is not Stage.ENDED:
            self.stage = stage
            self._tell()

    # -- its life --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Look after it until it has ended."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read)
                nursery.start_soon(self._watch)
                nursery.start_soon(self._watch_silence)
                nursery.start_soon(self._kill_at_deadline)
                self.status = await self._process.wait()
                with trio.move_on_after(LAST_WORDS):
                    await self._silent.wait()
                nursery.cancel_scope.cancel()
        finally:
            self._channel.close()
            os.close(self._launched.stacks)
            self._report_end()
            self._enter(Stage.ENDED)

    async def _read(self) -> None:
        while (message := await self._channel.receive()) is not None:
            self._last_sign = trio.current_time()
            self._take(message)
        self._silent.set()

    def _take(self, message: Message) -> None:
        if isinstance(message, Ready) and self.stage is Stage.STARTING:
            self.urls = message.urls
            self._ready_since = trio.current_time()
            self._start.cancel()
            self._enter(Stage.SERVING)
        elif isinstance(message, Retire) and self.stage in (Stage.SERVING, Stage.LEAVING):
            logger.info("%s is to be replaced: %s", self, message.reason)
            if message.accepts:
                self._enter(Stage.LEAVING)
            else:
                self._end_within(self._drain_bound)
        elif isinstance(message, Failed):
            self.failure = message.reason
        else:
            assert isinstance(message, (Beat, Ready, Retire, Command))  # a sign of life

    async def _watch(self) -> None:
        startup, heartbeat = self._process_settings.startup, self._process_settings.heartbeat
        with self._start:
            await self._miss_signs(startup)
            if self.stage is Stage.STARTING:
                logger.error("%s was not ready within %g s", self, startup)
                self._terminate()
            return
        await self._miss_signs(heartbeat)
        if self.stage is not Stage.SERVING and heartbeat < LOOPLESS:
            await self._miss_signs(LOOPLESS)
        logger.error("%s has not run its event loop for %g s", self, heartbeat)
        self._enter(Stage.ENDING)
        await self._log_stacks()
        self._terminate()

    async def _miss_signs(self, seconds: float) -> None:
        """Return when there was no sign of life for so long, in which we have listened; 0 = never.

        The time is cut into pieces. One that lasted much longer than it should is not counted, because we were not
        there to listen; nor was the worker, if it is the machine that was not. Several in a row are, except the
        first: whoever is well has had its chances.
        """
        if not 0 < seconds < inf:
            await trio.sleep_forever()
        piece = seconds / _PIECES
        begin, missed, late, last = trio.current_time(), 0, False, self._last_sign
        while missed < _PIECES:
            await trio.sleep_until(begin + piece)
            end = trio.current_time()
            await trio.lowlevel.checkpoint()  # what has come meanwhile may have been about to be read
            if self._last_sign != last:
                begin = last = self._last_sign
                missed, late = 0, False
            else:
                was_late, late = late, end > begin + 2 * piece
                missed += was_late or not late
                begin = end

    async def _log_stacks(self) -> None:
        """Ask for the stacks of its threads, which faulthandler writes even when no Python code runs."""
        if STACKS_SIGNAL is None:
            return
        self._process.send_signal(STACKS_SIGNAL)
        text = await _read_pipe(self._launched.stacks)
        if text:
            logger.error("stacks of %s", self, extra={"detail": text})
        else:
            logger.error("stacks of %s cannot be had; it may have been stopped", self)

    async def _watch_silence(self) -> None:
        """End a process that has closed its control socket and lives on: it could not be told anything."""
        await self._silent.wait()
        await trio.sleep(SILENT_END)
        if self.stage is not Stage.ENDING:
            logger.error("%s has closed its control socket, and is told to end", self)
            self._process.send_signal(signal.SIGTERM)
            self._end_within(self._drain_bound)

    async def _kill_at_deadline(self) -> None:
        with self._ending:
            await trio.sleep_forever()
        if trio.current_time() > self._ending.deadline + OVERSLEPT:
            await trio.sleep(TERMINATE_GRACE)  # it may have been stopped as well
        await trio.lowlevel.checkpoint()  # whoever waits for its end may have been about to run
        if self.status is not None:
            return
        logger.warning("%s did not end in time and is killed", self)
        self._process.send_signal(signal.SIGKILL)

    def _report_end(self) -> None:
        if self.status is None or self.stage is Stage.STARTING:
            return  # we are cancelled, or its slot tells
        if self._abandoned:
            logger.debug("%s has ended (%s)", self, describe_status(self.status))
        elif self.status == 0:
            logger.info("%s has ended", self)
        else:
            verb = "has ended" if self.stage is Stage.ENDING else "has died"
            logger.warning("%s %s (%s)", self, verb, describe_status(self.status))


class Crew:
    """All workers that live, also those that nobody's slot knows any more.

    Args:
        nursery: for their tasks; it is open until the last one has ended.

    Attributes:
        workers: they, in order of their start.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.workers: dict[SupervisedWorker, None] = {}

    def add(self, worker: SupervisedWorker) -> None:
        """Look after a worker from now on."""
        self.workers[worker] = None
        self._nursery.start_soon(self._live, worker, name=str(worker))

    async def _live(self, worker: SupervisedWorker) -> None:
        try:
            await worker.run()
        finally:
            del self.workers[worker]

    def command(self, order: Order) -> None:
        """Send an order to all."""
        for worker in self.workers:
            worker.command(order)


def drain_bound(config: Config) -> float:
    """Seconds that a worker may take from being told to drain until its end; infinite if a setting says so."""
    timeouts = config.timeouts
    if not timeouts.graceful or not timeouts.lifespan_shutdown:
        return inf
    parts = (timeouts.graceful, timeouts.drain_delay, timeouts.cleanup_grace, timeouts.lifespan_shutdown)
    return sum(parts) + DRAIN_MARGIN


async def _read_pipe(fd: int) -> str:
    """Read what is written in answer to a signal: until a pause, with a bound for the whole."""
    os.set_blocking(fd, False)
    data = b""
    with trio.move_on_after(STACKS_TIMEOUT):
        while len(data) < _LARGEST_STACKS:
            with trio.move_on_after(_STACKS_PAUSE if data else inf) as pause:
                await trio.lowlevel.wait_readable(fd)
            if pause.cancelled_caught:
                break
            part = os.read(fd, 65536)
            if not part:
                break
            data += part
    return data.decode("utf-8", "replace")
