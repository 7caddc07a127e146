"""What is found out about a new configuration before any worker is started with it.

A reload that cannot succeed should change nothing, and say so at once. What needs the application is left to the
first new worker. Here also begin the reloads that nobody asks for: those of `reload = true`, when code has changed.
"""

from __future__ import annotations

import errno
import logging
import os
from typing import TYPE_CHECKING, Final

import trio

from trioserve.config import ConfigError
from trioserve.process.log_setup import apply_logging

if TYPE_CHECKING:
    from collections.abc import Callable

    from trioserve.config import Config, LoadedConfig

logger = logging.getLogger("trioserve")

_RESTART: Final = {
    "process": ("pid_file", "title", "user", "group", "umask"),
    "unix": ("mode", "user", "group"),
}


def check_reload(loaded: LoadedConfig, former: LoadedConfig) -> LoadedConfig:
    """Check a configuration, and let the supervisor's log follow it.

    Args:
        loaded: what has been read.
        former: what is in force.

    Returns `loaded`.

    Raises:
        ConfigError: it cannot be used, or not without a restart.
    """
    config = loaded.config
    if former.source is not None and loaded.source is None:
        # A file that was found by itself; the defaults are not what its absence means.
        raise ConfigError("", str(former.source), os.strerror(errno.ENOENT))
    if config.app is None:
        raise config.refuse("app", "missing")
    if config.process.workers == 0:
        raise config.process.refuse("workers", "serving without workers needs a restart")
    if config.tls.enabled:
        from trioserve.server.tls import build_tls_contexts  # many a supervisor never needs it

        build_tls_contexts(config.tls, ())
    if config.logging != former.config.logging:
        apply_logging(config)
    return loaded


def restore_log(config: Config) -> None:
    """Go back to the log of the configuration that stays in force; if that cannot be had any more, keep what is."""
    try:
        apply_logging(config)
    except ConfigError as error:
        logger.error("the former log cannot be opened again: %s", error)


def find_restart_settings(former: Config, config: Config) -> list[str]:
    """Name the settings that differ and are the supervisor's own: it does not start again at a reload."""
    return [
        f"[{table}] {key}"
        for table, keys in _RESTART.items()
        for key in keys
        if getattr(getattr(former, table), key) != getattr(getattr(config, table), key)
    ]


class CodeWatch:
    """Asks for a reload whenever something has changed that the configuration says matters.

    Args:
        read_config: returns the configuration in force.
        reload: asks for a reload.
    """

    def __init__(self, read_config: Callable[[], LoadedConfig], reload: Callable[[], None]) -> None:
        self._read_config = read_config
        self._reload = reload
        self._round = trio.CancelScope()

    def restart(self) -> None:
        """Watch what a new configuration says."""
        self._round.cancel()

    async def run(self) -> None:
        """Watch until cancelled, while `reload` is on."""
        while True:
            self._round = trio.CancelScope()
            with self._round:
                if self._read_config().config.reload:
                    await self._watch()
                await trio.sleep_forever()

    async def _watch(self) -> None:
        from trioserve.process.reload import Watch, open_changes, render_changes

        watch = Watch.of(self._read_config())
        async with open_changes(watch) as changes:
            logger.info("watching %s for changes", ", ".join(map(str, watch.folders)))
            async for paths in changes:
                logger.info("%s changed; replacing the workers", render_changes(paths))
                self._reload()
