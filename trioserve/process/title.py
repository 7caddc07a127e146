"""The names of our processes in lists such as those of `ps` and `top`.

Names are set with setproctitle (extra `title`). Without it nothing is set, which is an error only when the
settings ask for a title.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trioserve.config import Config


def check_title(config: Config) -> None:
    """Raise `ConfigError` when a title is asked for that cannot be set."""
    if config.process.title is not None and importlib.util.find_spec("setproctitle") is None:
        raise config.process.refuse("title", "needs setproctitle: pip install 'trioserve[title]'")


def set_title(config: Config, role: str) -> None:
    """Name this process, if that is possible.

    Args:
        config: its title (default "trioserve") and its application are parts of the name.
        role: what the process is, such as "worker 2".
    """
    try:
        setproctitle = importlib.import_module("setproctitle").setproctitle
    except ImportError:
        return
    setproctitle(render_title(config, role))


def render_title(config: Config, role: str) -> str:
    """The name, such as "trioserve: worker 2 [main:app]"."""
    return f"{config.process.title or 'trioserve'}: {role} [{config.app}]"
