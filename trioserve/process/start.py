"""The beginning of a supervisor, before Trio: the log, the sockets, the pid file, the first workers.

The order is chosen for the first answer: workers start to import the server while this process imports Trio; of the
server it imports the listeners alone. A signal that comes meanwhile is noted, and followed when Trio runs.
"""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from trioserve.config import ConfigError
from trioserve.process.exit_codes import CRASHED
from trioserve.process.launcher import SpawnLauncher
from trioserve.process.log_setup import apply_logging
from trioserve.process.pid_file import hold_pid_file
from trioserve.process.processors import count_workers
from trioserve.process.signal_latch import latch_signals
from trioserve.process.sockets import open_sockets
from trioserve.process.title import check_title, set_title
from trioserve.server.listeners import BindError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trioserve.config import LoadedConfig
    from trioserve.process.launcher import Launched, Launcher
    from trioserve.process.signal_latch import SignalLatch
    from trioserve.process.sockets import SocketSet

__all__ = ["supervise"]

_MANAGER = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""A service manager's variables, which are meant for nobody but us."""

_OWN_DESCRIPTORS = 16
"""What Trio and the supervisor itself need, however many workers there are to be."""

logger = logging.getLogger("trioserve")


def supervise(loaded: LoadedConfig, load: Callable[[], LoadedConfig]) -> int:
    """Start workers and supervise them until told to stop, in the main thread of a process that is about to end.

    Args:
        loaded: the configuration, with an application.
        load: reads it again; raises `ConfigError`.

    Returns the exit code.

    Raises:
        ConfigError: a setting turned out to be unusable.
        BindError: an address cannot be had.
    """
    check_title(loaded.config)
    if loaded.config.reload:
        from trioserve.process.reload import check_watchfiles

        check_watchfiles(loaded.config)
    with latch_signals() as latch, ExitStack() as stack:
        apply_logging(loaded.config)
        try:
            sockets = open_sockets(loaded.config)
            stack.callback(sockets.close)
            stack.enter_context(hold_pid_file(loaded.config.process))
            latch.interrupts = False
            return _supervise(loaded, load, sockets, latch)
        except (ConfigError, BindError) as error:
            if (loaded.config.logging.file or loaded.config.logging.config) and logger.hasHandlers():
                # The caller's line on stderr may be seen by nobody.
                logger.critical("%s", error)
            raise


def _supervise(
    loaded: LoadedConfig, load: Callable[[], LoadedConfig], sockets: SocketSet, latch: SignalLatch
) -> int:
    launcher = build_launcher(loaded, sockets)
    manager = {name: os.environ.pop(name) for name in _MANAGER if name in os.environ}
    launched = _launch(launcher, count_workers(loaded.config.process))
    set_title(loaded.config, "supervisor")
    import trio

    from trioserve.process.slot import Generation
    from trioserve.process.supervisor import Supervisor
    from trioserve.process.systemd import Notifier

    generation = Generation(loaded, sockets, launcher)
    notifier = Notifier.from_environ(manager)
    supervisor = Supervisor(generation, launched, load, build_launcher, lambda: latch.stop_asked, notifier)
    try:
        return trio.run(supervisor.run)
    except ConfigError:
        raise
    except BaseException as error:
        logger.critical("the supervisor has crashed", exc_info=error)
        return CRASHED


def build_launcher(loaded: LoadedConfig, sockets: SocketSet) -> Launcher:
    """Make what starts the workers of a configuration."""
    if loaded.config.process.preload:
        from trioserve.process.template_launcher import TemplateLauncher

        return TemplateLauncher(loaded, sockets)
    return SpawnLauncher(loaded, sockets)


def _launch(launcher: Launcher, count: int) -> list[Launched]:
    """Start the first workers; those that the system refuses are left to the supervisor, which tries again."""
    launched: list[Launched] = []
    try:
        with _keep_descriptors():
            for slot in range(1, count + 1):
                launched.append(launcher.start(slot))  # noqa: PERF401 - what was started before an error counts
    except OSError as error:
        logger.error("worker %d cannot be started yet: %s", len(launched) + 1, error)
    return launched


@contextmanager
def _keep_descriptors() -> Iterator[None]:
    """Hold the descriptors that are needed later while the body takes as many as it wants."""
    with ExitStack() as stack:
        for _ in range(_OWN_DESCRIPTORS):
            stack.callback(os.close, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        yield
