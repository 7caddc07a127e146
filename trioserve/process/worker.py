"""One process that serves alone, without a supervisor: from a configuration to an exit code.

`run` owns its process: it changes the environment, the logging, the signal handlers and the garbage collector. What
cannot be used is found before anything listens. All ways to the end meet in `find_exit_code`.
"""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from trioserve.process.ending import find_exit_code
from trioserve.process.exit_codes import APPLICATION_FAILED, CRASHED, STOPPED
from trioserve.process.exit_deadline import EXIT_GRACE, ExitDeadline
from trioserve.process.log_setup import apply_logging
from trioserve.process.pid_file import hold_pid_file
from trioserve.process.preparation import prepare
from trioserve.process.serving import Serving
from trioserve.process.signal_latch import ignore_signals_at_last, latch_signals
from trioserve.process.signals import Intent, open_signals
from trioserve.process.sockets import open_sockets
from trioserve.process.systemd import Notifier
from trioserve.process.title import check_title, set_title
from trioserve.server.listeners import BindError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trioserve.config import LoadedConfig
    from trioserve.process.preparation import Prepared
    from trioserve.process.signal_latch import SignalLatch
    from trioserve.process.sockets import SocketSet
    from trioserve.server.server import Server

__all__ = ["APPLICATION_FAILED", "CRASHED", "STOPPED", "BindError", "check", "run"]

logger = logging.getLogger("trioserve")


def run(loaded: LoadedConfig) -> int:
    """Serve until told to stop, in the main thread of a process that is about to end.

    Args:
        loaded: the configuration, with an application, and where it came from.

    Returns `STOPPED`, `CRASHED` or `APPLICATION_FAILED`; the reason of the latter two has been logged. Threads that
    are left then have a few seconds; after them the process ends with the same code.

    Raises:
        ConfigError: a setting turned out to be unusable.
        BindError: an address cannot be had.
    """
    deadline = ExitDeadline()
    with latch_signals() as latch, ExitStack() as stack:
        try:
            check_title(loaded.config)
            set_title(loaded.config, "server")
            apply_logging(loaded.config)
            notifier = Notifier.from_environ(os.environ)
            # Before the privileges go that a port below 1024 needs.
            sockets = open_sockets(loaded.config)
            stack.callback(sockets.close)
            stack.enter_context(hold_pid_file(loaded.config.process))
            prepared = prepare(loaded.config)
            latch.interrupts = False
            trio.run(_Alone(loaded, prepared, sockets, deadline, notifier).serve, latch)
            code = STOPPED
        except BaseException as error:
            code = find_exit_code(error, loaded.config)
    deadline.set(EXIT_GRACE, code)
    return code


def check(loaded: LoadedConfig) -> int:
    """Do everything that `run` does before it listens; a factory is not called. Raises and returns the same."""
    try:
        check_title(loaded.config)
        prepare(loaded.config, privileged=False)
    except Exception as error:
        return find_exit_code(error, loaded.config)
    return STOPPED


class _Alone:
    """The task tree of a process on its own.

    Args:
        loaded: the configuration.
        prepared: the application and the certificates.
        sockets: where it listens.
        deadline: bounds the end of the process.
        notifier: tells a service manager.
    """

    def __init__(
        self,
        loaded: LoadedConfig,
        prepared: Prepared,
        sockets: SocketSet,
        deadline: ExitDeadline,
        notifier: Notifier,
    ) -> None:
        secure = [listener for each in sockets.secure for listener in each.listeners]
        insecure = [listener for each in sockets.insecure for listener in each.listeners]
        listeners = [*(replace(each, ssl_context=prepared.ssl_context) for each in secure), *insecure]
        self._serving = Serving(
            loaded, prepared.application, deadline, listeners, self._announce, level=logging.INFO
        )
        self._notifier = notifier
        self._nursery: trio.Nursery | None = None

    async def serve(self, latch: SignalLatch) -> None:
        """Serve until the end, unless a signal to stop has come already."""
        with ignore_signals_at_last(), open_signals() as intents:
            if latch.stop_asked:
                return
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._follow, intents, name="signals")
                await self._serving.run()
                nursery.cancel_scope.cancel()
        logger.info("stopped")

    def _announce(self, server: Server) -> None:
        assert self._nursery is not None
        self._notifier.ready(f"serving on {', '.join(server.urls)}")
        self._nursery.start_soon(self._notifier.feed_while, lambda: True, name="watchdog")

    async def _follow(self, intents: AsyncIterator[Intent]) -> None:
        async for intent in intents:
            if intent is Intent.STOP:
                self._notifier.stopping()
            self._serving.follow(intent)
