"""What a process does before anything listens, in the order that privileges and the application's import need.

Everything that can be found unusable is found here. What only a privileged user may read (certificates, `env_file`)
is read first, then the process becomes who it shall be, then it opens its logs, and only then does code of the
application run. The steps change the whole process; each is a function of its own for whoever needs only some.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trioserve.process.app_loader import load_app
from trioserve.process.env_file import apply_env_file
from trioserve.process.log_setup import apply_logging
from trioserve.process.privileges import find_identity, take_identity
from trioserve.protocols.http1 import machine_class
from trioserve.server.server import build_ssl_context
from trioserve.telemetry.access_log import AccessLog

if TYPE_CHECKING:
    import ssl

    from trioserve.config import Config
    from trioserve.process.app_loader import LoadedApp


@dataclass(frozen=True, eq=False)
class Prepared:
    """What `prepare` has made. A fork can use it.

    Args:
        application: it has been imported.
        ssl_context: for the binds with TLS; None without TLS.
    """

    application: LoadedApp
    ssl_context: ssl.SSLContext | None


def prepare(config: Config, *, privileged: bool = True) -> Prepared:
    """Do all of it, and import the application.

    Args:
        config: the settings, with an application.
        privileged: become the user and group of the settings; false where only a check is wanted.

    Raises:
        ConfigError: a setting turned out to be unusable.
        AppLoadError: the application cannot be loaded.
    """
    apply_logging(config)
    ssl_context = check_files(config)
    read_env_file(config)
    if privileged:
        take_identity(config.process)
    check_access_log(config)
    return Prepared(load_application(config), ssl_context)


def check_files(config: Config) -> ssl.SSLContext | None:
    """Find out whether certificates and parser can be used; raises `ConfigError`. Changes nothing.

    Returns the TLS context of the certificates, None without TLS.
    """
    try:
        machine_class(config.http1.parser)
    except ImportError as error:
        raise config.http1.refuse("parser", str(error)) from None
    return build_ssl_context(config)


def check_access_log(config: Config) -> None:
    """Find out whether the access log can be written; raises `ConfigError`. It may create the file."""
    settings = config.logging
    if settings.access == "off":
        return
    owner = find_identity(
        config.process
    ).owner  # a check by root must not make a file that workers cannot use
    try:
        AccessLog(settings.access, settings.access_format or settings.format, owner=owner).close()
    except ValueError as error:
        raise settings.refuse("access_format", str(error)) from None
    except OSError as error:
        raise settings.refuse("access", f"{settings.access}: {error.strerror}") from None


def read_env_file(config: Config) -> None:
    """Add the variables of `env_file` to the environment; raises `ConfigError`."""
    if config.env_file is not None:
        apply_env_file(Path(config.env_file), os.environ)


def load_application(config: Config) -> LoadedApp:
    """Import the application; raises `AppLoadError`."""
    assert config.app is not None
    folder = Path(config.app_dir)
    return load_app(
        config.app,
        app_dir=folder,
        factory=config.factory,
        interface=config.interface,
        wsgi=config.wsgi,
        multiprocess=config.process.workers not in (0, 1),
    )
