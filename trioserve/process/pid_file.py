"""The file with the number of the process that takes the signals: the supervisor, or one that serves alone.

Whether it is stale is not guessed from the number in it, which another program may have by now: its process holds a
lock on the file for its whole life, and the kernel takes the lock away when it dies. Children do not inherit it. The
file is removed at the end if it still is the one that was locked.
"""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trioserve.config import ProcessSettings


@contextmanager
def hold_pid_file(settings: ProcessSettings) -> Iterator[None]:
    """Keep `[process] pid_file` up to date while the body runs; without that setting do nothing.

    Raises:
        ConfigError: the file cannot be written, or another server holds it.
    """
    if settings.pid_file is None:
        yield
        return
    path = Path(settings.pid_file)
    fd = _lock(path, settings)
    try:
        _write(fd, path, settings)
        yield
    finally:
        if _is_still(fd, path):
            path.unlink(missing_ok=True)
        os.close(fd)


def _lock(path: Path, settings: ProcessSettings) -> int:
    while True:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o644)
        except OSError as error:
            raise settings.refuse("pid_file", f"{path}: {error.strerror}") from None
        flaw = _find_flaw(fd)
        if flaw is None and _is_still(fd, path):
            return fd
        os.close(fd)
        if flaw is not None:
            raise settings.refuse("pid_file", f"{path}{flaw}")
        # Otherwise its former owner has removed it between our two steps.


def _find_flaw(fd: int) -> str | None:
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        return " is not a file"
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        number = os.read(fd, 20).decode("ascii", "replace").strip()
        return f" is held by process {number or '?'}"
    except OSError as error:  # a file system without locks
        return f": {error.strerror}"
    return None


def _write(fd: int, path: Path, settings: ProcessSettings) -> None:
    text = b"%d\n" % os.getpid()
    try:
        os.ftruncate(fd, 0)
        while text:  # a part of a number is worse than none
            text = text[os.write(fd, text) :]
    except OSError as error:
        raise settings.refuse("pid_file", f"{path}: {error.strerror}") from None


def _is_still(fd: int, path: Path) -> bool:
    ours = os.fstat(fd)
    try:
        there = path.lstat() if not path.is_symlink() else path.stat()
    except OSError:
        return False
    return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)
