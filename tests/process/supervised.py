"""A supervisor with its workers in a session of their own, so that nothing of it outlives a test."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from pathlib import Path

import pytest

from tests.process.clients import Http1Connection, open_socket
from tests.server_process import PATIENCE, ServerProcess

FULL = os.environ.get("TRIOSERVE_PROCESS_TESTS") == "full"
"""Whether tests have the size that a release is judged by; it takes minutes."""

_WAYS = {False: "spawned", True: "preloaded"}
spawned_by_default, preloaded_by_default = (
    pytest.mark.parametrize("preload", [*_WAYS] if FULL else [way], ids=_WAYS.get) for way in _WAYS
)
"""Both ways of starting workers in the full size, one of them otherwise."""

HERE = Path(__file__).parent
APP = ("--app-dir", str(HERE), "apps:app")
READY = re.compile(r"worker \d+ \((\d+)\) is ready")
_TIME = re.compile(r"^\d+-\d+-\d+ (\d+):(\d+):(\d+\.\d+)")


class Supervised(ServerProcess):
    """`python -m trioserve` on a free port, without an access log, with the application of apps.py by default."""

    def __init__(
        self,
        directory: Path,
        *arguments: str,
        bind: str | None = "127.0.0.1:0",
        env: dict[str, str] | None = None,
        **options,
    ):
        self.journal = directory / "journal"
        if bind is not None:
            arguments = ("--bind", bind, *arguments)
        if not any(word.endswith(":app") for word in arguments):
            arguments = (*arguments, *APP)
        env = {"APP_JOURNAL": str(self.journal)} | (env or {})
        options.setdefault("start_new_session", True)
        super().__init__(directory, "--logging-access", "off", *arguments, env=env, **options)

    def __exit__(self, *details: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        super().__exit__(*details)

    def wait_for_workers(self, total: int) -> list[int]:
        """Wait until so many workers have been ready since the start; returns their pids in that order."""
        while len(self.ready) < total:
            self.wait_for_line(READY.pattern)
        return self.ready

    @property
    def ready(self) -> list[int]:
        """Pids of the workers that have been ready so far, as far as the lines have been read."""
        return [int(match[1]) for line in self.lines if (match := READY.search(line))]

    def reload(self, workers: int) -> None:
        """Ask for a rolling reload and wait until as many new workers are ready."""
        total = len(self.ready) + workers
        self.signal(signal.SIGHUP)
        self.wait_for_workers(total)

    def ask(self, url: str, path: str = "/") -> bytes:
        """The body of an answer."""
        with open_socket(url) as sock:
            return Http1Connection(sock).ask(path, close=True)

    def processes(self) -> set[int]:
        """Pids of what is alive in the session, without the supervisor and without zombies."""
        return processes_of_session(self.process.pid) - {self.process.pid}

    def events(self, kind: str) -> list[int]:
        """Pids that have noted such an event, in order."""
        lines = self.journal.read_text().splitlines() if self.journal.exists() else []
        return [int(line.split()[1]) for line in lines if line.split()[0] == kind]

    def times(self, pattern: str) -> list[float]:
        """Seconds of the day in the lines that match, in order."""
        found = [_TIME.match(line) for line in self.lines if re.search(pattern, line)]
        return [
            int(hour) * 3600 + int(minute) * 60 + float(second) for hour, minute, second in map(_parts, found)
        ]


def _parts(match: re.Match[str] | None) -> tuple[str, str, str]:
    assert match is not None
    return match[1], match[2], match[3]


def processes_of_session(session: int) -> set[int]:
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state, _, _, its_session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(its_session) == session and state != "Z":
                    found.add(int(entry.name))
    return found


def wait_until(condition, what: str, patience: float = PATIENCE) -> None:
    """For facts that nobody tells, such as a file that another process writes: looks often, and not for ever."""
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, f"never came true: {what}"
        time.sleep(0.01)
