"""The table: what each side cost, the ratio, the target, and whether it was met.

Only the ratio is a result; the figures beside it say where it comes from and hold for this machine, now.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.measure import Outcome


_UNITS = {
    "requests": (1.0, "us/request"),
    "messages": (1.0, "us/message"),
    "memory": (1024.0, "KiB/connection"),
    "start": (1.0, "ms to answer"),
}
_TITLES = ("case", "first / second", "first", "second", "unit", "ratio", "rounds", "target", "")
_NUMERIC = (2, 3, 5, 6, 7)


def machine_line(versions: str) -> str:
    """The machine, its load, and the versions under test."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    processors = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    return f"{model}, {processors} processors, load {load:.1f}, Linux {platform.release()}\n{versions}"


def row(outcome: Outcome) -> list[str]:
    """A case as cells."""
    case = outcome.case
    divisor, unit = _UNITS[case.measure]
    target = "-" if case.target is None else f"{case.target:.2f}"
    cells = [case.name, f"{case.first} / {case.second}"]
    if outcome.error is not None:
        return [*cells, "-", "-", unit, "-", "-", target, "FAILED"]
    spread = f"{min(outcome.ratios):.2f}-{max(outcome.ratios):.2f}"
    figures = [_figure(outcome.first / divisor), _figure(outcome.second / divisor)]
    return [*cells, *figures, unit, f"{outcome.ratio:.2f}", spread, target, _verdict(outcome)]


def table(outcomes: Sequence[Outcome]) -> str:
    """All cases under each other, then the reasons of those that failed."""
    rows = [list(_TITLES), *(row(outcome) for outcome in outcomes)]
    widths = [max(len(cells[column]) for cells in rows) for column in range(len(_TITLES))]
    lines = [_line(cells, widths) for cells in rows]
    lines.insert(1, "  ".join("-" * width for width in widths).rstrip())
    return "\n".join([*lines, *_failures(outcomes)])


def _failures(outcomes: Sequence[Outcome]) -> list[str]:
    """Why cases failed; those that failed alike share one text."""
    cases: dict[str, list[str]] = {}
    for outcome in outcomes:
        if outcome.error is not None:
            cases.setdefault(outcome.error, []).append(outcome.case.name)
    return [f"\n{', '.join(names)} failed: {error}" for error, names in cases.items()]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        cell.rjust(width) if column in _NUMERIC else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(padded).rstrip()


def _figure(value: float) -> str:
    return f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def _verdict(outcome: Outcome) -> str:
    if outcome.met is None:
        return ""
    return "met" if outcome.met else "MISSED"
