"""Who a serving process is: user, groups, file mode creation mask.

`find_identity` reads names and changes nothing, so a mistake is found before anything is given up; `take_identity`
gives up in the only order that works: supplementary groups, group, user. There is no way back, and no half way: a
refusal of the system is a `ConfigError` that names the key, and the process must end then.
"""

from __future__ import annotations

import grp
import os
import pwd
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from trioserve.config.process import ProcessSettings

_MOST_DIGITS = 10
_NOBODY_AT_ALL = 2**32 - 1  # (uid_t) -1, which means "leave it as it is" to the system


@dataclass(frozen=True)
class Identity:
    """Who a process shall be; None leaves a thing as it is.

    Args:
        uid: the user's number.
        gid: the group's number.
        account: the user's entry in the password database, if there is one.
    """

    uid: int | None
    gid: int | None
    account: pwd.struct_passwd | None

    @property
    def owner(self) -> tuple[int, int] | None:
        """Who log files are to belong to when we create them for the workers; None when nobody changes."""
        if self.uid in (None, os.geteuid()) and self.gid in (None, os.getegid()):
            return None
        return (-1 if self.uid is None else self.uid, -1 if self.gid is None else self.gid)


def find_identity(settings: ProcessSettings) -> Identity:
    """Look up the user and the group of the settings.

    Raises:
        ConfigError: there is no such user or group, or the group of a user without an account is not named.
    """
    uid, account = _find_user(settings)
    gid = _find_group(settings)
    if gid is None and account is not None:
        gid = account.pw_gid
    if uid is not None and gid is None:
        raise settings.refuse("user", f"{settings.user} has no account, so the group has to be named too")
    return Identity(uid, gid, account)


def take_identity(settings: ProcessSettings, environ: MutableMapping[str, str] = os.environ) -> None:
    """Become the user and the group of the settings, for good, and set the mask.

    HOME, USER and LOGNAME follow the user, as they do under systemd: what belongs to root cannot be read any more.

    Args:
        settings: `user`, `group` and `umask`.
        environ: the variables that follow.

    Raises:
        ConfigError: there is no such user or group, or we may not become it.
    """
    identity = find_identity(settings)
    if settings.umask is not None:
        os.umask(int(settings.umask, 8))
    if identity.uid == os.geteuid() and settings.group is None:
        return  # it is us
    if identity.gid is not None:
        _take_group(settings, identity, identity.gid)
    if identity.uid is None or identity.uid == os.geteuid():
        return
    try:
        os.setuid(identity.uid)
    except OSError as error:
        raise _refuse(settings, "user", error) from None
    if identity.account is not None:
        environ["HOME"] = identity.account.pw_dir
        environ["USER"] = environ["LOGNAME"] = identity.account.pw_name


def _take_group(settings: ProcessSettings, identity: Identity, gid: int) -> None:
    key = "user" if settings.group is None else "group"
    try:
        if os.geteuid() != 0 and gid == os.getegid():
            return  # nothing to change, and other groups are not ours to give up
        if identity.account is not None:
            os.initgroups(identity.account.pw_name, gid)
        else:
            os.setgroups([gid])
        os.setgid(gid)
    except OSError as error:
        raise _refuse(settings, key, error) from None


def _refuse(settings: ProcessSettings, key: str, error: OSError) -> Exception:
    name = getattr(settings, key)
    if isinstance(error, PermissionError):
        return settings.refuse(key, f"only root can become {key} {name}")
    return settings.refuse(key, f"cannot become {key} {name}: {error.strerror}")


def _find_user(settings: ProcessSettings) -> tuple[int | None, pwd.struct_passwd | None]:
    if settings.user is None:
        return None, None
    try:
        if not settings.user.isdecimal():
            account = pwd.getpwnam(settings.user)
            return account.pw_uid, account
    except KeyError:
        raise settings.refuse("user", f"no user {settings.user}") from None
    number = _parse_number(settings, "user")
    try:
        return number, pwd.getpwuid(number)
    except KeyError:
        return number, None


def _find_group(settings: ProcessSettings) -> int | None:
    if settings.group is None:
        return None
    if settings.group.isdecimal():
        return _parse_number(settings, "group")
    try:
        return grp.getgrnam(settings.group).gr_gid
    except KeyError:
        raise settings.refuse("group", f"no group {settings.group}") from None


def _parse_number(settings: ProcessSettings, key: str) -> int:
    written = getattr(settings, key)
    if len(written) > _MOST_DIGITS or int(written) >= _NOBODY_AT_ALL:
        raise settings.refuse(key, f"no {key} can have a number as large as {written}")
    return int(written)
