"""Reaping processes that somebody else has left, where this process is the first of a container.

The kernel gives it every process whose parent has ended, such as those of an application whose worker was killed, and
whatever nobody waits for stays a zombie for ever. Elsewhere an init process does this.
"""

from __future__ import annotations

import os
from typing import Final

import trio

from trioserve.process.launcher import is_child_of_ours

INIT: Final = 1
"""The pid that makes a process responsible for orphans."""
INTERVAL: Final = 1.0
"""Seconds between two looks."""


async def reap_orphans() -> None:
    """Reap them until cancelled; returns at once where that is not this process's duty."""
    if os.getpid() != INIT:
        return
    while True:
        await trio.sleep(INTERVAL)
        _reap()


def _reap() -> None:
    # How one of ours has ended its own task asks.
    while (pid := _find_zombie()) and not is_child_of_ours(pid):
        os.waitpid(pid, 0)


def _find_zombie() -> int:
    """A child that has ended, and is not reaped by that; 0 if there is none."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return 0
    return 0 if found is None else found.si_pid
