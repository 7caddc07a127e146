"""What the cases have found, counted and judged.

Each case has two results: of its behaviour, and of how the connection was closed. NON-STRICT (correct, though
not as early as it could be) and INFORMATIONAL are no failures; whatever is not known here is one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TypeAlias

GOOD = frozenset({"OK", "NON-STRICT", "INFORMATIONAL"})
ASPECTS = ("behavior", "behaviorClose")

Found: TypeAlias = Mapping[str, Mapping[str, object]]


def counts(found: Found, aspect: str) -> Counter[str]:
    """How many cases have each result."""
    return Counter(str(case[aspect]) for case in found.values())


def failures(found: Found) -> list[str]:
    """The cases in which either result is not a good one."""
    return [name for name, case in found.items() if any(case[aspect] not in GOOD for aspect in ASPECTS)]


def render(found: Found) -> str:
    """The counts, then a line for each case that is neither OK nor INFORMATIONAL throughout."""
    lines = [f"{aspect:14}{_counted(counts(found, aspect))}" for aspect in ASPECTS]
    for name in sorted(found, key=_in_order):
        results = [str(found[name][aspect]) for aspect in ASPECTS]
        if not set(results) <= {"OK", "INFORMATIONAL"}:
            lines.append(
                f"{name:10} {results[0]}, closing: {results[1]}, code {found[name]['remoteCloseCode']}"
            )
    return "\n".join(lines)


def _counted(counted: Counter[str]) -> str:
    return ", ".join(f"{count} {result}" for result, count in counted.most_common())


def _in_order(name: str) -> list[int]:
    return [int(number) for number in name.split(".")]
