"""The error log as the settings want it, for every kind of process.

It stands alone because a supervisor needs it at once, and nothing of a server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trioserve.telemetry.logs import configure_logging

if TYPE_CHECKING:
    from trioserve.config import Config


def apply_logging(config: Config) -> None:
    """Send the error log where the settings want it; raises `ConfigError`."""
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
