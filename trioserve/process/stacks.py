"""The Python stacks of a process whose event loop does not run, written by its own signal handler in C.

A Python signal handler has to wait for the interpreter, which sleeps or computes; faulthandler's does not. The
process registers a descriptor at its start, its supervisor keeps the same open file, sends `STACKS_SIGNAL`, and reads.
The text is faulthandler's own: for each thread "most recent call first", which is the reverse of a traceback.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import tempfile

STACKS_SIGNAL: int | None = (
    signal.SIGRTMIN + 3 if hasattr(signal, "SIGRTMIN") and hasattr(faulthandler, "register") else None
)
"""What makes a process write its stacks; None where the system has no such signal."""

LONGEST = 256 * 1024
"""Bytes of stacks that are read; a process may have any number of threads."""


def open_stacks_file(name: str = "trioserve-stacks") -> int:
    """Open a file that no other process can find, to be inherited by the one that writes; returns a descriptor."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name)
    with tempfile.TemporaryFile(prefix=name) as file:
        return os.dup(file.fileno())


def register_stacks(fd: int) -> None:
    """Let `STACKS_SIGNAL` append the stacks of all threads of this process to a file that stays open."""
    if STACKS_SIGNAL is not None:
        faulthandler.register(STACKS_SIGNAL, file=fd, all_threads=True, chain=False)


def read_stacks(fd: int) -> str:
    """What has been written since the last call, in one piece or more; "" when nothing came yet.

    The whole file is handed over and emptied. The signal is followed within a millisecond or so unless the system is
    very busy or the process is stopped, but nothing tells when the text is whole: call again a moment later.
    """
    data = os.pread(fd, LONGEST, 0)
    # Both processes share one position, so the next text begins at the beginning.
    os.ftruncate(fd, 0)
    os.lseek(fd, 0, os.SEEK_SET)
    return data.decode("utf-8", "replace")
