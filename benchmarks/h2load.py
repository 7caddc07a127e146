"""The load of the HTTP/2 cases: `h2load` on a processor of its own, for a counted number of requests.

h2load can also load for a time, but then it leaves requests without an answer at the end, and what they cost
belongs to nobody. With a count, a run is valid only if every request was answered with 2xx and with as many bytes
as the application sends: a server that resets streams, refuses them or closes early is cheap.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass

from benchmarks.load import LoadError

_STALL_TIMEOUT = 15
_TIMEOUT = 300  # the slowest server on a busy machine; h2load itself ends when nothing moves

_PROTOCOL = re.compile(r"^Application protocol: (.*)$", re.MULTILINE)
_REQUESTS = re.compile(r"^requests: (.*)$", re.MULTILINE)
_STATUS = re.compile(r"^status codes: (.*)$", re.MULTILINE)
_DATA = re.compile(r"^traffic: .*\((\d+)\) data", re.MULTILINE)


@dataclass(frozen=True)
class Http2Load:
    """What h2load does over TLS.

    Args:
        connections: how many, all opened at the start and kept.
        streams: requests that each connection has open at a time.
        requests: how many there are for each second that a round is asked to take.
        window: bits of the receive window of streams and of connections; 30, the default of h2load, is as good as
            endless.
    """

    connections: int
    streams: int
    requests: int
    window: int = 30

    def require(self) -> None:
        """Raise LoadError with the way to install it when h2load is missing."""
        for tool in ("h2load", "nghttp"):
            if shutil.which(tool) is None:
                raise LoadError(
                    f"{tool} is not installed; on Debian and Ubuntu: apt-get install nghttp2-client"
                )

    def run(self, url: str, size: int, seconds: int, processor: int) -> int:
        """Make all requests and return how many there were.

        Args:
            url: what to ask for.
            size: bytes of content that each answer must have.
            seconds: how long a round is asked to take; the number of requests follows from it.
            processor: where h2load runs.

        Raises:
            LoadError: a request was not answered, or not with 2xx, or not with all its content, or not over HTTP/2.
        """
        requests = self.requests * seconds
        command = ["taskset", "--cpu-list", str(processor), "h2load", "--npn-list=h2"]
        command += [f"--requests={requests}", f"--clients={min(self.connections, requests)}"]
        command += [f"--max-concurrent-streams={self.streams}"]
        command += [f"--window-bits={self.window}", f"--connection-window-bits={self.window}"]
        command += [f"--connection-inactivity-timeout={_STALL_TIMEOUT}"]
        try:
            done = subprocess.run(
                [*command, url], capture_output=True, text=True, timeout=_TIMEOUT, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise LoadError("h2load did not end in time") from error
        check_report(done.stdout, requests, size)
        return requests


def check_report(report: str, requests: int, size: int) -> None:
    """Raise LoadError unless the report of h2load says that every request was answered in full.

    Args:
        report: what h2load printed.
        requests: how many there were to be.
        size: bytes of content of each answer.
    """
    expected = {
        _PROTOCOL: "h2",
        _REQUESTS: f"{requests} total, {requests} started, {requests} done, {requests} succeeded, "
        "0 failed, 0 errored, 0 timeout",
        _STATUS: f"{requests} 2xx, 0 3xx, 0 4xx, 0 5xx",
        _DATA: str(requests * size),
    }
    for line, wanted in expected.items():
        found = line.search(report)
        if found is None:
            raise LoadError(f"h2load reports no answers:\n{report.strip()}")
        if found[1] != wanted:
            raise LoadError(f'h2load reports "{found[0]}", where "{wanted}" was expected')


def fetch(url: str) -> bytes:
    """The content of one answer over HTTP/2, by `nghttp`. Raises LoadError if there is none."""
    command = ["nghttp", "--no-verify-peer", f"--timeout={_STALL_TIMEOUT}", url]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_STALL_TIMEOUT * 2, check=False)
    except subprocess.TimeoutExpired as error:
        raise LoadError("the first request failed: nghttp did not end in time") from error
    if done.returncode != 0 or not done.stdout:
        reason = done.stderr.decode(errors="replace").strip()
        raise LoadError(f"the first request failed: nghttp exit status {done.returncode}: {reason}")
    return done.stdout
