"""How many processors we may use: what `workers = "auto"` means.

The smallest of what the scheduler allows (affinity) and what the control groups above us grant (their quota of
processor time, both versions). A machine's number of processors says nothing in a container.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trioserve.config import ProcessSettings

_GROUPS: Final = Path("sys/fs/cgroup")
_V1_HOMES: Final = ("cpu", "cpu,cpuacct", "cpuacct,cpu")


def count_workers(settings: ProcessSettings) -> int:
    """How many worker processes the settings ask for."""
    return count_processors() if settings.workers == "auto" else settings.workers


def count_processors(root: Path = Path("/")) -> int:
    """Return the number, at least 1.

    Args:
        root: where proc and sys are found.
    """
    try:
        allowed = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # not on this system
        allowed = os.cpu_count() or 1
    return max(1, min([allowed, *(math.ceil(quota) for quota in _find_quotas(root))]))


def _find_quotas(root: Path) -> Iterator[float]:
    """Quotas in processors, of our control group and of those that it is in."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            yield from _find_v2_quotas(root / _GROUPS, path)
        elif "cpu" in controllers.split(","):
            for home in _V1_HOMES:
                yield from _find_v1_quotas(root / _GROUPS / home, path)


def _find_v2_quotas(home: Path, path: str) -> Iterator[float]:
    for group in _ancestry(home, path):
        quota, _, period = _read(group / "cpu.max").partition(" ")
        yield from _divide(quota, period)


def _find_v1_quotas(home: Path, path: str) -> Iterator[float]:
    for group in _ancestry(home, path):
        yield from _divide(_read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us"))


def _ancestry(home: Path, path: str) -> Iterator[Path]:
    """The group and those above it; a path that does not lie in our view of the tree leaves the root."""
    names = [name for name in path.split("/") if name not in ("", ".", "..")]
    for depth in range(len(names), -1, -1):
        yield home.joinpath(*names[:depth])


def _divide(quota: str, period: str) -> Iterator[float]:
    """One number, or none: "max" and -1 say that there is no limit, as do files that are not there."""
    try:
        share, whole = int(quota), int(period)
    except ValueError:
        return
    if share > 0 and whole > 0:
        yield share / whole


def _read(file: Path) -> str:
    try:
        return file.read_text("utf-8").strip()
    except (OSError, ValueError):
        return ""
