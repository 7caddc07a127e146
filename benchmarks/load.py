"""The load of the request cases: `wrk` on a processor of its own, for a bounded time.

A run counts only if every answer was a success: one socket error, timeout or status outside 2xx and 3xx makes
it invalid, because a server that fails early is cheap.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


_REQUESTS = re.compile(r"^\s*(\d+) requests in ", re.MULTILINE)
_SOCKET_ERRORS = re.compile(r"^\s*Socket errors: (.*)$", re.MULTILINE)
_STATUS_ERRORS = re.compile(r"^\s*Non-2xx or 3xx responses: (\d+)", re.MULTILINE)
_ANSWER_TIMEOUT = 10


class LoadError(Exception):
    """The load could not be made, or its result does not count."""


@dataclass(frozen=True)
class Load:
    """What wrk does: the number of connections, a script that changes the request, on all processors or one."""

    connections: int
    script: Path | None = None
    spread: bool = False

    def require(self) -> None:
        """Raise LoadError with the way to install it when wrk is missing."""
        if shutil.which("wrk") is None:
            raise LoadError("wrk is not installed; on Debian and Ubuntu: apt-get install wrk")

    def run(self, url: str, _size: int, seconds: int, processor: int) -> int:
        """The number of complete answers within the given seconds; wrk knows only whole ones."""
        places = f"0-{(os.cpu_count() or 1) - 1}" if self.spread else str(processor)
        command = ["taskset", "--cpu-list", places, "wrk", "--threads", "1"]
        command += ["--connections", str(self.connections), "--duration", f"{seconds}s"]
        command += ["--timeout", f"{_ANSWER_TIMEOUT}s"]
        command += ["--script", str(self.script)] if self.script else []
        try:
            done = subprocess.run(
                [*command, url], capture_output=True, text=True, timeout=seconds + 20, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise LoadError("wrk did not end in time") from error
        return _requests(done.stdout, done.stdout + done.stderr)


def _requests(report: str, everything: str) -> int:
    found = _REQUESTS.search(report)
    if found is None or int(found[1]) == 0:
        raise LoadError(f"wrk reports no answers:\n{everything.strip()}")
    if errors := _SOCKET_ERRORS.search(report):
        raise LoadError(f"socket errors: {errors[1]} (of {found[1]} requests)")
    if errors := _STATUS_ERRORS.search(report):
        raise LoadError(f"{errors[1]} of {found[1]} answers were not 2xx or 3xx")
    return int(found[1])
