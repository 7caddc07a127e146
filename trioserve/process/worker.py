"""One process that serves: from a configuration to an exit code.

`run` owns its process: it changes the environment, the logging, the signal handlers and the garbage collector. What
cannot be used is found before anything listens. All ways to the end meet in `_find_exit_code`; whoever asked for the
end, and when, is `_Worker.follow`'s matter. The application's context manager, if it is one, gets the deadlines of
the lifespan, so that no part of a start or a stop can last for ever.
"""

from __future__ import annotations

import gc
import logging
import os
import platform
import signal
from contextlib import contextmanager
from enum import Enum
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from trioserve import __version__
from trioserve.asgi.lifespan import HURRIED_SHUTDOWN, LifespanFailed
from trioserve.config import ConfigError
from trioserve.process.app_loader import AppLoadError, LoadedApp, load_app
from trioserve.process.env_file import apply_env_file
from trioserve.process.signals import INTENTS, Intent, open_signals, render_task_tree
from trioserve.protocols.http1 import machine_class
from trioserve.server.context import Timeouts
from trioserve.server.listeners import BindError
from trioserve.server.server import ALPN, LifespanDied, Server, serve
from trioserve.server.tls import build_tls_contexts
from trioserve.telemetry.access_log import AccessLog
from trioserve.telemetry.logs import configure_logging, reopen_logs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from trioserve.config import Config, LoadedConfig

__all__ = ["APPLICATION_FAILED", "CRASHED", "STOPPED", "BindError", "check", "run"]

STOPPED, CRASHED, APPLICATION_FAILED = 0, 1, 3
"""Exit codes; 2 stands for the errors that `run` raises."""

logger = logging.getLogger("trioserve")


def run(loaded: LoadedConfig) -> int:
    """Serve until told to stop, in the main thread of a process that is about to end.

    Args:
        loaded: the configuration, with an application, and where it came from.

    Returns `STOPPED`, `CRASHED` or `APPLICATION_FAILED`; the reason of the latter two has been logged.

    Raises:
        ConfigError: a setting turned out to be unusable.
        BindError: an address cannot be had.
    """
    with _latch_signals() as latch:
        try:
            application = _prepare(loaded)
            latch.interrupts = False
            trio.run(_Worker(loaded, application, latch).run)
        except BaseException as error:
            return _find_exit_code(error, loaded.config)
    return STOPPED


def check(loaded: LoadedConfig) -> int:
    """Do everything that `run` does before it listens; a factory is not called. Raises and returns the same."""
    try:
        _prepare(loaded)
    except Exception as error:
        return _find_exit_code(error, loaded.config)
    return STOPPED


# -- before anything listens ---------------------------------------------------------------------------------------


def _prepare(loaded: LoadedConfig) -> LoadedApp:
    config = loaded.config
    assert config.app is not None
    _configure_logging(config)
    _check_access_log(config)
    if config.tls.enabled:
        build_tls_contexts(config.tls, ALPN)
    try:
        machine_class(config.http1.parser)
    except ImportError as error:
        raise config.http1.refuse("parser", str(error)) from None
    if config.env_file is not None:
        apply_env_file(Path(config.env_file), os.environ)
    folder = Path(config.app_dir)
    return load_app(
        config.app,
        app_dir=folder,
        factory=config.factory,
        interface=config.interface,
        wsgi=config.wsgi,
        multiprocess=config.process.workers not in (0, 1),
    )


def _configure_logging(config: Config) -> None:
    settings = config.logging
    key = "config" if settings.config is not None else "file"
    try:
        configure_logging(
            level=settings.level,
            format=settings.format,
            colour=settings.colour,
            file=settings.file,
            config=settings.config,
        )
    except OSError as error:
        raise settings.refuse(key, f"{getattr(settings, key)}: {error.strerror or error}") from None
    except Exception as error:  # whatever a class that dictConfig was told to build may raise
        raise settings.refuse(key, str(error)) from None


def _check_access_log(config: Config) -> None:
    settings = config.logging
    if settings.access == "off":
        return
    try:
        AccessLog(settings.access, settings.access_format or settings.format).close()
    except ValueError as error:
        raise settings.refuse("access_format", str(error)) from None
    except OSError as error:
        raise settings.refuse("access", f"{settings.access}: {error.strerror}") from None


# -- serving -------------------------------------------------------------------------------------------------------


class _Phase(Enum):
    """How far a worker has come."""

    OPENING = "the application's factory"
    STARTING = "listeners and lifespan"
    SERVING = "requests, until the lifespan has shut down"
    CLOSING = "the end of the application's context manager"


class _Worker:
    """The task tree of one serving process. It is its own task status: `serve` tells it when it has started.

    Args:
        loaded: the configuration.
        application: what is served.
        latch: knows of signals that came too early.
    """

    def __init__(self, loaded: LoadedConfig, application: LoadedApp, latch: _SignalLatch) -> None:
        self._loaded = loaded
        self._application = application
        self._latch = latch
        self._timeouts = Timeouts.of(loaded.config.timeouts)
        self._phase = _Phase.OPENING
        self._server: Server | None = None
        self._stops = 0
        self._whole = trio.CancelScope()  # the application's whole life
        self._serving = trio.CancelScope()

    async def run(self) -> None:
        """Open the application, serve it, close it, and follow signals meanwhile."""
        with open_signals() as intents:
            if self._latch.stop_asked:
                return
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._follow, intents, name="signals")
                self._whole.deadline = trio.current_time() + self._timeouts.lifespan_startup
                with self._whole:
                    await self._serve()
                nursery.cancel_scope.cancel()
        if self._whole.cancelled_caught and not self._stops:
            self._report_timeout()
        logger.info("stopped")

    async def _serve(self) -> None:
        async with self._application.open() as application:
            self._whole.deadline = inf
            self._phase = _Phase.STARTING
            with self._serving:
                await serve(application, self._loaded.config, task_status=self)
            self._phase = _Phase.CLOSING
            grace = HURRIED_SHUTDOWN if self._stops > 1 else self._timeouts.lifespan_shutdown
            self._whole.deadline = trio.current_time() + grace

    def _report_timeout(self) -> None:
        if self._phase is _Phase.OPENING:
            raise AppLoadError(f"the application was not ready within {self._timeouts.lifespan_startup:g} s")
        logger.error("the application did not end within %g s", self._timeouts.lifespan_shutdown)

    def started(self, value: Server | None = None) -> None:
        """Take the running server from `serve`: its application has started, and its listeners accept."""
        assert value is not None
        self._server = server = value
        self._phase = _Phase.SERVING
        config = self._loaded.config
        parser = machine_class(config.http1.parser).__name__.removesuffix("Machine").lower()
        versions = (__version__, platform.python_version(), os.getpid(), parser)
        logger.info("trioserve %s, Python %s, process %d, HTTP/1.1 parser %s", *versions)
        logger.info("configuration: %s", self._loaded.source or "no file")
        for url in server.urls:
            logger.info("serving %s on %s", config.app, url)
        # What is there now stays until the end: the collector need not look at it again.
        gc.collect()
        gc.freeze()

    # -- signals ---------------------------------------------------------------------------------------------------

    async def _follow(self, intents: AsyncIterator[Intent]) -> None:
        async for intent in intents:
            if intent is Intent.STOP:
                self._stop()
            elif intent is Intent.REOPEN_LOGS:
                self._reopen_logs()
            else:
                logger.warning("tasks of this process", extra={"detail": render_task_tree()})

    def _stop(self) -> None:
        self._stops += 1
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

    def _reopen_logs(self) -> None:
        reopen_logs()
        if self._server is not None:
            self._server.reopen_logs()
        logger.info("log files were opened again")


class _SignalLatch:
    """The handler of our signals while Trio does not receive them.

    Attributes:
        interrupts: a stop signal raises KeyboardInterrupt; otherwise it is only noted. The import of an application
            may take long and has to be interrupted, Trio must not be.
        stop_asked: a stop signal has come.
    """

    def __init__(self) -> None:
        self.interrupts = True
        self.stop_asked = False

    def __call__(self, number: int, _: object) -> None:
        """Note a signal; all but stop signals would only have ended us by their default action."""
        if INTENTS[signal.Signals(number)] is Intent.STOP:
            self.stop_asked = True
            if self.interrupts:
                raise KeyboardInterrupt


@contextmanager
def _latch_signals() -> Iterator[_SignalLatch]:
    """Latch our signals, and ignore them at last: the process ends, and its exit code must be ours."""
    latch = _SignalLatch()
    try:
        for number in INTENTS:
            signal.signal(number, latch)
        yield latch
    finally:
        latch.interrupts = False
        for number in INTENTS:
            signal.signal(number, signal.SIG_IGN)


# -- the end -------------------------------------------------------------------------------------------------------


def _find_exit_code(error: BaseException, config: Config) -> int:
    """Log what has ended us and give the exit code; errors of the configuration are raised again, by themselves."""
    causes = list(_flatten(error))
    expected = (ConfigError, BindError, AppLoadError, LifespanFailed, LifespanDied, KeyboardInterrupt)
    if not all(isinstance(cause, expected) for cause in causes):
        logger.critical("the server has crashed", exc_info=error)
        return CRASHED
    for cause in causes:
        if isinstance(cause, (ConfigError, BindError)):
            if (config.logging.file or config.logging.config) and logger.hasHandlers():
                # The caller's line on stderr may be seen by nobody.
                logger.critical("%s", cause)
            raise cause from None
        if isinstance(cause, AppLoadError):
            logger.critical("%s", cause.message, extra={"detail": cause.traceback_text})
            return APPLICATION_FAILED
        if isinstance(cause, LifespanFailed):
            return APPLICATION_FAILED
        if isinstance(cause, LifespanDied):
            return CRASHED
    return STOPPED  # nothing but KeyboardInterrupt


def _flatten(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from _flatten(member)
    else:
        yield error
