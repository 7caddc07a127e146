"""How a process ends: exit codes, and which one an exception stands for.

All ways to the end of a serving process meet in `find_exit_code`, which also logs the reason. What the user has to
mend in the configuration is raised again by itself: its caller knows where to say it, and exits with `UNUSABLE`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from trioserve.asgi.lifespan import LifespanFailed
from trioserve.config import ConfigError
from trioserve.process.app_loader import AppLoadError
from trioserve.process.exit_codes import APPLICATION_FAILED, CRASHED, STOPPED
from trioserve.server.listeners import BindError
from trioserve.server.server import LifespanDied

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trioserve.config import Config

_EXPECTED = (ConfigError, BindError, AppLoadError, LifespanFailed, LifespanDied, KeyboardInterrupt)

logger = logging.getLogger("trioserve")


def find_exit_code(error: BaseException, config: Config) -> int:
    """Log what has ended us and give the exit code.

    Raises:
        ConfigError: a setting turned out to be unusable.
        BindError: an address cannot be had.
    """
    causes = list(_flatten(error))
    if not all(isinstance(cause, _EXPECTED) for cause in causes):
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


def summarise(error: BaseException) -> str:
    """One line for somebody else's log: what has ended this process, without the details that its own log has."""
    for cause in _flatten(error):
        if isinstance(cause, AppLoadError):
            return cause.message
        if isinstance(cause, (ConfigError, BindError, LifespanFailed, LifespanDied)):
            return str(cause)
    return f"it crashed: {type(error).__name__}: {error}"


def _flatten(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from _flatten(member)
    else:
        yield error
