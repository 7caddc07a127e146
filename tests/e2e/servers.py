"""Servers for the end-to-end tests, each a process of its own.

`start_server` runs this module as a script in a new process: it serves an application until its standard input
ends, so a server can never outlive the test that started it. Whatever the server logs at WARNING or above is kept,
and a test that does not expect it fails.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
DEFAULTS = {
    "bind": "127.0.0.1:0",
    "logging_access": "off",
    "timeouts_graceful": "2s",
    "timeouts_lifespan_shutdown": "2s",
}
END_TIMEOUT = 10
START_TIMEOUT = 20


class RunningServer:
    """A server in a process of its own."""

    def __init__(self, target: str, process: subprocess.Popen[str], url: str, log: TextIO) -> None:
        self.target = target
        self.process = process
        self.url = url
        self._log = log

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.rpartition("://")[2].rpartition(":")
        return host, int(port)

    def logged(self) -> str:
        """What the server has logged since the last call, at WARNING or above."""
        return self._log.read()

    def reset_peak_memory(self) -> int:
        """Forget the peak; return the bytes that are resident now."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")
        return self._memory("VmRSS")

    def peak_memory(self) -> int:
        """The most bytes that were resident at any time since `reset_peak_memory`."""
        return self._memory("VmHWM")

    def _memory(self, key: str) -> int:
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"no {key} in /proc/PID/status")


@contextmanager
def start_server(target: str, **settings: str) -> Iterator[RunningServer]:
    """Serve `target` ("module:attribute", seen from the project's root) until the block ends.

    Settings go by their flags' names, such as `timeouts_graceful="1s"`. At the end the server drains; that it does
    not end by itself, or with another exit code than 0, is an error.
    """
    words = [f"{name}={value}" for name, value in {**DEFAULTS, "app": target, **settings}.items()]
    with tempfile.NamedTemporaryFile("w+", encoding="utf-8") as log, Path(log.name).open() as reader:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.servers", *words],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        watchdog = threading.Timer(START_TIMEOUT, process.kill)
        watchdog.start()
        try:
            url = process.stdout.readline().strip()
            watchdog.cancel()
            assert url, f"the server did not start:\n{reader.read()}"
            yield RunningServer(target, process, url, reader)
            process.stdin.close()
            code = process.wait(END_TIMEOUT)
            assert code == 0, f"the server ended with {code}:\n{reader.read()}"
        finally:
            watchdog.cancel()
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()


async def _serve_until_eof(words: list[str]) -> None:
    import trio

    from trioserve import serve
    from trioserve.config import load_config
    from trioserve.process.app_loader import load_app

    flags = dict(word.split("=", 1) for word in words)
    config = load_config(None, {}, flags, cwd=ROOT).config
    assert config.app is not None
    loaded = load_app(config.app, app_dir=Path(config.app_dir), interface=config.interface)
    async with loaded.open() as app, trio.open_nursery() as nursery:
        server = await nursery.start(serve, app, config)
        print(server.urls[0], flush=True)
        await trio.lowlevel.wait_readable(sys.stdin)
        server.drain()


if __name__ == "__main__":
    import trio

    logging.basicConfig(level=logging.WARNING)
    trio.run(_serve_until_eof, sys.argv[1:])
