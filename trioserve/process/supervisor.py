"""The supervisor: a Trio program that keeps workers serving and serves nothing itself.

Theory of operation. Three nurseries enclose each other. The outer one follows signals until the end. In the middle
live the workers, a task for each process (`supervised_worker.py`). The inner one holds the duties: a task for each
slot, and the one that reloads; only duties start processes. Stopping is therefore a sequence of statements: cancel
the duties, so that nobody starts anything any more; close the listening sockets, so that the port is free with the
last worker; drain all workers; leave the middle nursery with the last of them.

A reload makes a `Generation`, what workers are started with, which takes the place of the former one or does not
(`succession.py`). There is one reload at a time, and however many are asked for meanwhile, one more follows.
"""

from __future__ import annotations

import logging
import os
import platform
from typing import TYPE_CHECKING

import trio

from trioserve import __version__
from trioserve.config import ConfigError
from trioserve.process.bell import Bell
from trioserve.process.control import Order
from trioserve.process.exit_codes import APPLICATION_FAILED, CRASHED, STOPPED, UNUSABLE
from trioserve.process.launcher import describe_status
from trioserve.process.log_flusher import keep_logs_flushed
from trioserve.process.orphans import reap_orphans
from trioserve.process.processors import count_workers
from trioserve.process.reloading import CodeWatch, check_reload, find_restart_settings, restore_log
from trioserve.process.signal_latch import ignore_signals_at_last
from trioserve.process.signals import Intent, open_signals, render_task_tree
from trioserve.process.slot import Slot
from trioserve.process.succession import Succession
from trioserve.process.supervised_worker import Crew
from trioserve.server.listeners import BindError
from trioserve.telemetry.logs import reopen_logs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from trioserve.config import Config, LoadedConfig
    from trioserve.process.launcher import Launched, Launcher
    from trioserve.process.slot import Generation
    from trioserve.process.sockets import SocketSet
    from trioserve.process.supervised_worker import SupervisedWorker
    from trioserve.process.systemd import Notifier

MOST_WORKERS = 1024

logger = logging.getLogger("trioserve")


class Supervisor:
    """The workers of one server.

    Args:
        generation: what the first workers are started with.
        launched: those that have been started already, for the first slots.
        load: reads the configuration again; raises `ConfigError`.
        build_launcher: makes what starts the workers of a configuration.
        stop_asked: tells whether a signal to stop has come before Trio ran.
        notifier: tells a service manager how we are.
    """

    def __init__(
        self,
        generation: Generation,
        launched: Sequence[Launched],
        load: Callable[[], LoadedConfig],
        build_launcher: Callable[[LoadedConfig, SocketSet], Launcher],
        stop_asked: Callable[[], bool],
        notifier: Notifier,
    ) -> None:
        self._launched = launched
        self._load = load
        self._stop_asked = stop_asked
        self._notifier = notifier
        self._slots: list[Slot] = []
        self._succession = Succession(generation, self._slots, build_launcher)
        self._urls: list[str] = []  # what has been announced
        self._ever_ready = False
        self._failure: str | None = None  # of the configuration, found by a worker
        self._exit_code = STOPPED
        self._stops = 0
        self._stop_wanted = trio.Event()
        self._reload_wanted = Bell()
        self._code_watch = CodeWatch(lambda: self._loaded, self._reload_code)
        self._crew: Crew | None = None
        self._lives: trio.Nursery | None = None
        self._duties: trio.Nursery | None = None

    @property
    def _loaded(self) -> LoadedConfig:
        """The configuration in force."""
        return self._succession.generation.loaded

    # -- its life --------------------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Supervise until told to stop; return the exit code.

        Raises:
            ConfigError: a worker of the first start found a setting unusable.
        """
        with ignore_signals_at_last(), open_signals() as intents:
            self._introduce()
            if self._stop_asked():
                self.stop()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._follow, intents, name="signals")
                nursery.start_soon(keep_logs_flushed, name="error log")
                nursery.start_soon(reap_orphans, name="orphans")
                nursery.start_soon(self._notifier.feed_while, self._is_healthy, name="watchdog")
                async with trio.open_nursery() as lives:
                    self._lives = lives
                    self._crew = Crew(lives)
                    self._lives.start_soon(self._succession.generation.launcher.run, name="launcher")
                    await self._do_duties(self._crew)
                    self._begin_to_stop(self._crew)
                self._succession.remove_files()
                nursery.cancel_scope.cancel()
        if self._failure is not None:
            raise ConfigError("", None, self._failure)
        logger.info("stopped")
        return self._exit_code

    async def _do_duties(self, crew: Crew) -> None:
        config = self._loaded.config
        async with trio.open_nursery() as self._duties:
            for launched in self._launched:
                self._open_slot(crew).adopt(launched)
            self._fit_slots(count_workers(config.process))
            self._duties.start_soon(self._reload_when_wanted, name="reloads")
            self._duties.start_soon(self._code_watch.run, name="code")
            await self._stop_wanted.wait()
            self._duties.cancel_scope.cancel()

    def _begin_to_stop(self, crew: Crew) -> None:
        """Close the ports, and let all workers finish. Nobody starts one any more."""
        self._succession.close()
        for worker in tuple(crew.workers):
            worker.drain()
        if self._stops > 1:
            self._stop_now()

    def stop(self, exit_code: int = STOPPED) -> None:
        """Let the workers finish and end; asked a second time, at once."""
        self._stops += 1
        if self._stops == 1:
            self._exit_code = exit_code
            workers = len(self._crew.workers) if self._crew is not None else 0
            if workers and exit_code != UNUSABLE:
                logger.info("stopping; workers, now %d, may finish", workers)
            self._notifier.stopping()
            self._stop_wanted.set()
        else:
            logger.warning("stopping now")
            self._stop_now()

    def _is_healthy(self) -> bool:
        """Whether somebody serves in every place, or the end has begun, which has bounds of its own."""
        return self._stop_wanted.is_set() or all(slot.serving for slot in self._slots)

    def _stop_now(self) -> None:
        assert self._crew is not None
        for worker in tuple(self._crew.workers):
            worker.stop_now()

    # -- signals ---------------------------------------------------------------------------------------------------

    async def _follow(self, intents: AsyncIterator[Intent]) -> None:
        async for intent in intents:
            if intent is Intent.STOP:
                self.stop()
            elif intent is Intent.RELOAD:
                self.reload()
            elif intent is Intent.ADD_WORKER:
                self._fit_slots(len(self._slots) + 1)
            elif intent is Intent.REMOVE_WORKER:
                self._fit_slots(len(self._slots) - 1)
            elif intent is Intent.REOPEN_LOGS:
                self._reopen_logs()
            else:
                self._dump_tasks()

    def _reopen_logs(self) -> None:
        reopen_logs()
        logger.info("log files were opened again")
        if self._crew is not None:
            self._crew.command(Order.REOPEN_LOGS)

    def _dump_tasks(self) -> None:
        logger.warning("tasks of the supervisor", extra={"detail": render_task_tree()})
        if self._crew is not None:
            self._crew.command(Order.DUMP_TASKS)

    # -- slots -----------------------------------------------------------------------------------------------------

    def _fit_slots(self, wanted: int) -> None:
        """Have so many slots; at least one, and not too many."""
        if self._crew is None or self._stop_wanted.is_set():
            return
        wanted = min(max(wanted, 1), MOST_WORKERS)
        if self._slots and wanted != len(self._slots):
            logger.info("workers: %d, before %d", wanted, len(self._slots))
        while len(self._slots) < wanted:
            self._open_slot(self._crew)
        while len(self._slots) > wanted:
            self._slots.pop().close()

    def _open_slot(self, crew: Crew) -> Slot:
        assert self._duties is not None
        patient = self._loaded.config.reload
        slot = Slot(len(self._slots) + 1, self._succession.generation, crew, self, patient=patient)
        self._slots.append(slot)
        self._duties.start_soon(slot.run, name=f"slot {slot.number}")
        return slot

    def note_ready(self, worker: SupervisedWorker) -> None:
        """See `SlotWatcher`."""
        logger.info("%s is ready", worker)
        self._ever_ready = True

    def note_change(self) -> None:
        """See `SlotWatcher`."""
        if self._succession.following is None and self._slots and all(slot.serving for slot in self._slots):
            self._announce(self._slots[0].urls)

    def note_failure(self, slot: Slot, worker: SupervisedWorker) -> None:
        """See `SlotWatcher`."""
        if self._stop_wanted.is_set():
            return
        patient = self._loaded.config.reload
        alone = not any(each.serving for each in self._slots)
        first = alone and not self._ever_ready and not patient and worker.failure is not None
        if first and worker.status == UNUSABLE:
            self._failure = worker.failure  # whoever has called us says it, and nothing else is said
            self.stop(UNUSABLE)
            return
        logger.error("%s %s", worker, _describe_failure(worker))
        if first and worker.status == APPLICATION_FAILED:
            self.stop(APPLICATION_FAILED)
        else:
            self._stop_if_hopeless(slot)

    def note_end(self, slot: Slot) -> None:
        """See `SlotWatcher`."""
        self._stop_if_hopeless(slot)

    def _stop_if_hopeless(self, slot: Slot) -> None:
        """Give up when one place has failed too often, and no other one serves or may do so in a moment."""
        if self._stop_wanted.is_set() or self._loaded.config.reload or not slot.backoff.hopeless:
            return
        if any(each.serving or not each.backoff.failures for each in self._slots):
            return
        attempts = slot.backoff.failures
        logger.critical("%d starts in a row have failed, and no worker serves: giving up", attempts)
        self.stop(CRASHED)

    def _introduce(self) -> None:
        """Say who we are, before the first worker is ready: an application may take long."""
        loaded = self._loaded
        names = (__version__, platform.python_version(), os.getpid(), count_workers(loaded.config.process))
        logger.info("trioserve %s, Python %s, supervisor %d, workers: %d", *names)
        logger.info("configuration: %s", loaded.source or "no file")

    def _announce(self, urls: list[str]) -> None:
        """Say where we serve, at the start and when it has changed."""
        if urls == self._urls:
            return
        self._urls = urls
        for url in urls:
            logger.info("serving %s on %s", self._loaded.config.app, url)
        self._notifier.ready(f"serving on {', '.join(urls)}")

    # -- reloading -------------------------------------------------------------------------------------------------

    def reload(self) -> None:
        """Read the configuration again and replace all workers, one after the other; returns at once."""
        self._reload_wanted.ring()

    def _reload_code(self) -> None:
        """Reload; a worker that only starts, perhaps for ever, is not waited for any more: its code is old."""
        self._succession.give_up_following()
        self.reload()

    async def _reload_when_wanted(self) -> None:
        assert self._lives is not None
        while True:
            await self._reload_wanted.wait()
            logger.info("reloading")
            self._notifier.reloading()
            former = self._loaded
            try:
                loaded = check_reload(self._load(), former)
                if await self._succession.take_up(loaded, self._lives):
                    self._settle(former.config, loaded.config)
            except (ConfigError, BindError) as error:
                restore_log(former.config)  # first, because that of the new configuration may be what fails
                logger.error("not reloaded, nothing has changed: %s", error)
            if self._urls:
                self._notifier.ready(f"serving on {', '.join(self._urls)}")

    def _settle(self, former: Config, config: Config) -> None:
        """Do what is to be done once all workers are new."""
        for name in find_restart_settings(former, config):
            logger.warning("%s has changed, which needs a restart", name)
        if former.process.backlog != config.process.backlog:
            self._succession.generation.sockets.relisten(config.process.backlog)
        if former.process.workers != config.process.workers:
            self._fit_slots(count_workers(config.process))
        if _what_is_watched(former) != _what_is_watched(config):
            self._code_watch.restart()
        logger.info("reloaded; configuration: %s", self._loaded.source or "no file")
        serving = next((slot for slot in self._slots if slot.serving), None)
        if serving is not None:
            self._announce(serving.urls)


def _what_is_watched(config: Config) -> tuple[object, ...]:
    rules = (config.reload_dirs, config.reload_include, config.reload_exclude)
    return (config.reload, config.app_dir, config.env_file, *rules)


def _describe_failure(worker: SupervisedWorker) -> str:
    if worker.urls:
        return "stopped serving in the moment in which it was ready"
    if worker.status is None:
        return "has to be ended before it was ready"
    if worker.failure is not None:
        return f"did not start: {worker.failure} ({describe_status(worker.status)})"
    return f"ended before it was ready ({describe_status(worker.status)})"
