"""What a server has used so far: processor time and memory, summed over its whole process tree.

Each server is started in a session of its own (servers.py), so its tree is that session: children are found
also after their parent died. Processor time is read from each process's own clock, which counts every thread
in nanoseconds, exited ones included; /proc/PID/task/*/schedstat would lose those and lag by a scheduler tick.
A process that has ended takes its clock with it, so a measurement that lost one is refused, not guessed.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class CostError(Exception):
    """The figures of a process tree cannot be compared."""


@dataclass(frozen=True)
class ProcessorTime:
    """Nanoseconds used by each living process of a tree, and by children it has already waited for."""

    living: dict[int, int]
    reaped: int

    @property
    def total(self) -> int:
        """All of it, in nanoseconds. Reaped children are known to 10 ms only."""
        return sum(self.living.values()) + self.reaped

    def since(self, before: ProcessorTime) -> int:
        """Nanoseconds used after `before`. Raises CostError if a process ended in between."""
        if lost := before.living.keys() - self.living.keys():
            raise CostError(f"process {min(lost)} of the server ended during the measurement")
        return sum(used - before.living.get(pid, 0) for pid, used in self.living.items())


def session_processes(session: int) -> list[int]:
    """The living processes of a session, zombies left out."""
    return [pid for pid, fields in _all_processes() if int(fields[3]) == session and fields[0] not in "ZX"]


def processor_time(session: int) -> ProcessorTime:
    """Processor time of a session's processes until now."""
    living: dict[int, int] = {}
    ticks = 0
    for pid, fields in _all_processes():
        if int(fields[3]) != session or fields[0] in "ZX":
            continue
        try:
            living[pid] = time.clock_gettime_ns(_processor_clock(pid))
        except OSError:
            continue
        ticks += int(fields[13]) + int(fields[14])
    return ProcessorTime(living, ticks * 1_000_000_000 // _TICKS)


def memory(session: int) -> int:
    """Bytes of memory held by a session: proportional set size, or resident where that is unknown."""
    return sum(_memory(pid) for pid in session_processes(session))


def _processor_clock(pid: int) -> int:
    """The clock id of a process's processor time, as clock_getcpuclockid(3) makes it on Linux."""
    return (~pid << 3) | 2


def _all_processes() -> list[tuple[int, list[str]]]:
    """The pid of every process with the fields of its /proc/PID/stat that follow the name."""
    found = []
    for entry in (path.name for path in Path("/proc").iterdir()):
        if entry.isdigit():
            try:
                text = Path("/proc", entry, "stat").read_text(errors="replace")
            except OSError:
                continue
            found.append((int(entry), text.rpartition(")")[2].split()))
    return found


def _memory(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except OSError:
        return 0
