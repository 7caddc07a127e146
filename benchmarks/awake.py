"""Keep the processors awake while servers are measured.

With few connections both sides sleep after every request, and on a virtual machine waking a halted processor
is a call into the hypervisor, billed to the one who wakes: the same server then costs several times more in
one second than in the next. A loop of the lowest class (SCHED_IDLE) on each processor prevents the halt and
runs only when nothing else wants to, so it takes next to nothing from the server.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


# Ends by itself when the parent is gone, however the parent ended.
_LOOP = """
import os, sys
from typing import TYPE_CHECKING
os.sched_setaffinity(0, {int(sys.argv[1])})
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
while os.getppid() == int(sys.argv[2]):
    for _ in range(1_000_000):
        pass
"""


@contextlib.contextmanager
def awake(processors: set[int]) -> Iterator[None]:
    """Hold each processor awake inside the block."""
    with contextlib.ExitStack() as stack:
        for processor in processors:
            command = [sys.executable, "-c", _LOOP, str(processor), str(os.getpid())]
            loop = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
            stack.callback(_end, loop)
        yield


def _end(loop: subprocess.Popen[bytes]) -> None:
    loop.kill()
    loop.wait()
