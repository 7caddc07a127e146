"""The Python stacks of a process whose event loop does not run, written by a signal handler in C.

A Python signal handler waits for the interpreter, which sleeps or computes; faulthandler's does not. The process
registers the writing end of a pipe at its start; its supervisor sends `STACKS_SIGNAL` and reads the other end. The
text is faulthandler's own: for each thread "most recent call first", which is the reverse of a traceback.
"""

from __future__ import annotations

import faulthandler
import os
import signal

STACKS_SIGNAL: int | None = (
    signal.SIGRTMIN + 3 if hasattr(signal, "SIGRTMIN") and hasattr(faulthandler, "register") else None
)
"""What makes a process write its stacks; None where the system has no such signal."""


def register_stacks(fd: int) -> None:
    """Let `STACKS_SIGNAL` write the stacks of all threads of this process.

    Args:
        fd: the writing end of a pipe, which stays open. It is made non-blocking: what does not fit is cut off, for
            the process would wait for its reader otherwise.
    """
    if STACKS_SIGNAL is not None:
        os.set_blocking(fd, False)
        faulthandler.register(STACKS_SIGNAL, file=fd, all_threads=True, chain=False)
