"""The task tree of a process that serves, from an imported application to its end.

Both kinds of process have it: the one that serves alone and the worker of a supervisor. They differ in who tells them
to stop, which is why `Serving` only has methods for that. The application's context manager, if it is one, gets the
deadlines of the lifespan, so that no part of a start or a stop can last for ever.
"""

from __future__ import annotations

import gc
import logging
import os
import platform
from enum import Enum
from math import inf
from typing import TYPE_CHECKING

import trio

from trioserve import __version__
from trioserve.asgi.lifespan import HURRIED_SHUTDOWN
from trioserve.process.app_loader import AppLoadError
from trioserve.process.exit_codes import CRASHED, STOPPED
from trioserve.process.exit_deadline import HURRIED_MARGIN, STOP_MARGIN, ExitDeadline
from trioserve.process.log_flusher import keep_logs_flushed
from trioserve.process.signals import Intent, render_task_tree
from trioserve.protocols.http1 import machine_class
from trioserve.server.context import Timeouts
from trioserve.server.server import Server, serve_listeners
from trioserve.telemetry.logs import reopen_logs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trioserve.config import Config, LoadedConfig
    from trioserve.process.app_loader import LoadedApp
    from trioserve.server.listeners import Listener

logger = logging.getLogger("trioserve")


class _Phase(Enum):
    """How far a process has come."""

    OPENING = "the application's factory"
    STARTING = "listeners and lifespan"
    SERVING = "requests, until the lifespan has shut down"
    CLOSING = "the end of the application's context manager"


class Serving:
    """The life of an application in this process. It is its own task status: `serve` tells it when it has started.

    Args:
        loaded: the configuration.
        application: what is served.
        deadline: bounds the end of the process.
        listeners: where connections are accepted; they are closed when the server drains.
        announce: called with the server when connections are accepted.
        level: of the lines that say what a user of this process alone wants to know.
    """

    def __init__(
        self,
        loaded: LoadedConfig,
        application: LoadedApp,
        deadline: ExitDeadline,
        listeners: Sequence[Listener],
        announce: Callable[[Server], object],
        level: int = logging.DEBUG,
    ) -> None:
        self._config = loaded.config
        self._source = loaded.source
        self._application = application
        self._deadline = deadline
        self._announce = announce
        self._listeners = listeners
        self._level = level
        self._timeouts = Timeouts.of(loaded.config.timeouts)
        self._phase = _Phase.OPENING
        self._server: Server | None = None
        self._serves = trio.Event()
        self._stops = 0
        self._whole = trio.CancelScope()  # the application's whole life
        self._serving = trio.CancelScope()

    async def run(self) -> None:
        """Open the application, serve it, close it.

        Raises:
            AppLoadError: the application could not be built, or not in time.
        """
        self._whole.deadline = trio.current_time() + self._timeouts.lifespan_startup
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_logs_flushed, name="error log")
            nursery.start_soon(self._bound_other_ends, name="end")
            with self._whole:
                await self._run()
            nursery.cancel_scope.cancel()
        if self._whole.cancelled_caught and not self._stops:
            self._report_timeout()

    async def _run(self) -> None:
        async with self._application.open() as application:
            self._whole.deadline = inf
            self._phase = _Phase.STARTING
            with self._serving:
                await serve_listeners(application, self._config, self._listeners, task_status=self)
            self._phase = _Phase.CLOSING
            grace = HURRIED_SHUTDOWN if self._stops > 1 else self._timeouts.lifespan_shutdown
            self._whole.deadline = trio.current_time() + grace
            if self._stops == 1:
                self._deadline.set(grace + STOP_MARGIN, CRASHED)

    async def _bound_other_ends(self) -> None:
        """Bound an end that nobody has asked for: a server whose lifespan has died drains by itself."""
        await self._serves.wait()
        assert self._server is not None
        await self._server.draining.wait()
        if not self._stops:
            self._deadline.set(bound_stop(self._config), CRASHED)

    def _report_timeout(self) -> None:
        if self._phase is _Phase.OPENING:
            raise AppLoadError(f"the application was not ready within {self._timeouts.lifespan_startup:g} s")
        logger.error("the application did not end within %g s", self._timeouts.lifespan_shutdown)

    def started(self, value: Server | None = None) -> None:
        """Take the running server from `serve`: its application has started, and its listeners accept."""
        assert value is not None
        self._server = server = value
        self._serves.set()
        self._phase = _Phase.SERVING
        config = self._config
        parser = machine_class(config.http1.parser).__name__.removesuffix("Machine").lower()
        versions = (__version__, platform.python_version(), os.getpid(), parser)
        logger.log(self._level, "trioserve %s, Python %s, process %d, HTTP/1.1 parser %s", *versions)
        logger.log(self._level, "configuration: %s", self._source or "no file")
        for url in server.urls:
            logger.log(self._level, "serving %s on %s", config.app, url)
        # What is there now stays until the end: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        self._announce(server)

    # -- what others ask for ---------------------------------------------------------------------------------------

    def follow(self, intent: Intent) -> None:
        """Do what a signal or an order asks for."""
        if intent is Intent.STOP:
            self.stop()
        elif intent is Intent.REOPEN_LOGS:
            self._reopen_logs()
        elif intent is Intent.DUMP_TASKS:
            logger.warning("tasks of this process", extra={"detail": render_task_tree()})
        else:
            logger.warning("cannot %s: this process has no supervisor", intent.value)

    def stop(self, *, now: bool = False) -> None:
        """Drain; asked again, or with `now`, stop at once."""
        self._stops += 2 if now and not self._stops else 1
        self._bound_the_end()
        if self._server is None:
            logger.info("stopping before the application has started")
            scope = self._whole if self._phase is _Phase.OPENING or self._stops > 1 else self._serving
            scope.cancel()
        elif self._stops == 1:
            running, limit = self._server.stats().requests_running, self._timeouts.graceful
            allowed = "" if limit == inf else f" within {limit:g} s"
            logger.info("stopping; running requests, now %d, may end%s", running, allowed)
            self._server.drain()
        else:
            logger.warning("stopping now")
            self._server.stop_now()
            if self._phase is _Phase.CLOSING:
                hurried = trio.current_time() + HURRIED_SHUTDOWN
                self._whole.deadline = min(self._whole.deadline, hurried)

    def drain(self) -> None:
        """Drain, unless that has begun."""
        if not self._stops:
            self.stop()

    def _bound_the_end(self) -> None:
        if self._stops == 1:
            self._deadline.set(bound_stop(self._config), CRASHED)
        else:
            self._deadline.set(HURRIED_MARGIN, STOPPED)  # nobody is waited for: that is what was asked for

    def _reopen_logs(self) -> None:
        reopen_logs()
        if self._server is not None:
            self._server.reopen_logs()
        logger.log(self._level, "log files were opened again")


def bound_stop(config: Config) -> float:
    """Seconds from an order to drain after which a process that still lives is stuck; inf = it is never."""
    times = Timeouts.of(config.timeouts)
    allowed = times.drain_delay + times.graceful + times.cleanup_grace + times.lifespan_shutdown
    return allowed + STOP_MARGIN
