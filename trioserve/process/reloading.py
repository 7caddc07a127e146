"""What is found out about a new configuration before any worker is started with it.

A reload that cannot succeed should change nothing, and say so at once. What needs the application is left to the
first new worker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trioserve.process.log_setup import apply_logging

if TYPE_CHECKING:
    from trioserve.config import Config, LoadedConfig

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


def find_restart_settings(former: Config, config: Config) -> list[str]:
    """Name the settings that differ and are the supervisor's own: it does not start again at a reload."""
    return [
        f"[{table}] {key}"
        for table, keys in _RESTART.items()
        for key in keys
        if getattr(getattr(former, table), key) != getattr(getattr(config, table), key)
    ]
