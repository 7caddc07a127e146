"""The real `trioserve` command serving an application, and the programs that are its clients."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.server_process import ServerProcess, clean_environment

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 60
CHROMIUM_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--ignore-certificate-errors",
]


class Served(NamedTuple):
    """A server and what is needed to trust it."""

    process: ServerProcess
    url: str
    authority: Path
    log: Path

    def logged(self) -> list[str]:
        """Stop the server and return the lines of its access log: protocol, method, target, status, outcome."""
        assert self.process.stop() == 0, self.process.errors
        assert not re.search(" (warning|error): ", self.process.errors), self.process.errors
        return self.log.read_text().splitlines()


@contextmanager
def serve(app: str, certificates: Path, log: Path, *flags: str) -> Iterator[Served]:
    """Serve `app` ("module:attribute", seen from the project's root) until the block ends; without TLS unless asked."""
    access = ["--logging-access", str(log), "--logging-access-format", "%(H)s %(m)s %(Uq)s %(s)s %(outcome)s"]
    with ServerProcess(ROOT, app, "-b", "127.0.0.1:0", *access, *flags) as process:
        yield Served(process, process.wait_until_serving(), certificates / "ca.pem", log)


def tls(certificates: Path) -> tuple[str, str]:
    """The flags for TLS."""
    return "--tls-certificate", str(certificates / "both.pem")


def require(program: str) -> str:
    """The path of a program that has to be there on the project's own machines; elsewhere the test is skipped."""
    path = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if path is None:
        missing = f"{program} is not installed"
        pytest.fail(missing) if os.environ.get("CI") == "true" else pytest.skip(missing)
    return path


def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a program, see `require`; nothing of it survives this call."""
    require(program)
    with subprocess.Popen(
        [program, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(),
        start_new_session=True,
    ) as process:
        try:
            output, errors = process.communicate(timeout=TIMEOUT)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, (
        f"{program} ended with {process.returncode}:\n{output[-4000:]}\n{errors[-4000:]}"
    )
    return subprocess.CompletedProcess(process.args, 0, output, errors)
