"""The error log as the settings want it, for every kind of process.

It stands alone because a supervisor needs it at once, and nothing of a server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trioserve.process.privileges import find_identity
from trioserve.telemetry.logs import configure_logging

if TYPE_CHECKING:
    from trioserve.config import Config


def apply_logging(config: Config) -> None:
    """Send the error log where the settings want it; raises `ConfigError`.

    A file that root opens is given to the user of the workers, who append to it and open it again.
    """
    settings = config.logging
    owner = find_identity(config.process).owner
    key = "config" if settings.config is not None else "file"
    try:
        configure_logging(
            level=settings.level,
            format=settings.format,
            colour=settings.colour,
            file=settings.file,
            config=settings.config,
            owner=owner,
        )
    except OSError as error:
        raise settings.refuse(key, f"{getattr(settings, key)}: {error.strerror or error}") from None
    except Exception as error:  # whatever a class that dictConfig was told to build may raise
        raise settings.refuse(key, str(error)) from None
