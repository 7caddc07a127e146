"""Turns of several processes at one pipe, socket or terminal, so that what one writes in pieces stays together.

The kernel writes up to PIPE_BUF bytes at once or not at all, but a long line, or a record with a traceback, goes in
pieces, and another worker's line could come between. Whoever writes takes the turn first: a record lock (fcntl) on
the pipe itself, which all processes that have inherited it share, which needs no file, and which the kernel ends
with its process. Taking a turn never waits. Regular files need none: an append is one write.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
from weakref import WeakValueDictionary

_BUSY = (errno.EACCES, errno.EAGAIN)


class Turns:
    """The turns at one open thing, for all writers of this process; the lock is one for the whole process.

    Use `turns_of`, which gives all writers of a thing the same object.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._writer: object = None

    def take(self, writer: object, fd: int) -> bool:
        """Whether it is now the turn of `writer`, as it may have been before; never waits."""
        with self._mutex:
            if self._writer is not None:
                return self._writer is writer
            try:
                fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in _BUSY:
                    return False
                # This system locks no pipes: lines stay whole up to PIPE_BUF, longer ones may be torn.
            self._writer = writer
            return True

    def is_taken_here(self, writer: object) -> bool:
        """Whether it is the turn of another writer of this process, which waiting would not change."""
        return self._writer is not None and self._writer is not writer

    def end(self, writer: object, fd: int) -> None:
        """End the turn of `writer`, if it is its turn."""
        with self._mutex:
            if self._writer is not writer:
                return
            self._writer = None
            try:
                fcntl.lockf(fd, fcntl.LOCK_UN)
            except OSError:
                pass

    def forget(self) -> None:
        """Begin anew, in a process that was forked: the lock stayed with its parent."""
        self._mutex = threading.Lock()
        self._writer = None


_known: WeakValueDictionary[tuple[int, int], Turns] = WeakValueDictionary()


def turns_of(fd: int) -> Turns | None:
    """The turns at an open descriptor; None where no turns are needed."""
    status = os.fstat(fd)
    if not (stat.S_ISFIFO(status.st_mode) or stat.S_ISSOCK(status.st_mode) or os.isatty(fd)):
        return None
    return _known.setdefault((status.st_dev, status.st_ino), Turns())


def _forget_all() -> None:
    for turns in tuple(_known.values()):
        turns.forget()


os.register_at_fork(after_in_child=_forget_all)
