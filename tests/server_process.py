"""A real `trioserve` process: started, waited for by its own lines, told to stop. Nothing here sleeps."""

from __future__ import annotations

import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE = 20.0
URL = re.compile(r"serving \S+ on (\S+)")


class ServerProcess:
    """`python -m trioserve` in a directory; its lines of stderr are collected as they come."""

    command: tuple[str, ...] = (sys.executable, "-m", "trioserve")
    url = URL  # finds where it listens in the line that says so

    def __init__(self, directory: Path, *arguments: str, env: dict[str, str] | None = None, **options):
        self.lines: list[str] = []
        self._news: queue.Queue[str | None] = queue.Queue()
        options.setdefault("stdout", subprocess.DEVNULL)
        self.process = subprocess.Popen(
            [*self.command, *arguments],
            cwd=directory,
            env=clean_environment() | (env or {}),
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        self.process.stderr.close()
        if self.process.stdout:
            self.process.stdout.close()

    def _read(self) -> None:
        for line in self.process.stderr:
            self._news.put(line.rstrip("\n"))
        self._news.put(None)

    def wait_for_line(self, pattern: str) -> re.Match[str]:
        """The next line of stderr that matches, among those that nobody has waited for yet."""
        end = time.monotonic() + PATIENCE
        try:
            while (line := self._news.get(timeout=max(0.0, end - time.monotonic()))) is not None:
                self.lines.append(line)
                if match := re.search(pattern, line):
                    return match
        except queue.Empty:
            raise AssertionError(f"{pattern!r} has not come in {PATIENCE:g} s:\n{self.errors}") from None
        raise AssertionError(f"{pattern!r} never came:\n{self.errors}")

    def wait_until_serving(self) -> str:
        """The URL that it listens on."""
        return self.wait_for_line(self.url.pattern)[1]

    @property
    def errors(self) -> str:
        """What stderr has had so far."""
        return "\n".join(self.lines)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """The exit code; all lines are in `lines` then."""
        code = self.process.wait(PATIENCE)
        while (line := self._news.get(timeout=PATIENCE)) is not None:
            self.lines.append(line)
        self._news.put(None)
        return code

    def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return self.wait()


def clean_environment() -> dict[str, str]:
    """This process's environment without what trioserve would read, and with streams buffered as usual."""
    unwanted = ("TRIOSERVE_", "PYTHONUNBUFFERED")
    return {
        name: value for name, value in os.environ.items() if name != "PORT" and not name.startswith(unwanted)
    }


def connect(url: str) -> socket.socket:
    """A connection to a plain http URL."""
    host, _, port = url.partition("://")[2].rpartition(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE)


def send_request(url: str, path: str = "/") -> socket.socket:
    """A connection with a request on its way, the last one."""
    sock = connect(url)
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode())
    return sock


def read_all(sock: socket.socket) -> bytes:
    """What comes until the server closes; closes the socket."""
    received = b""
    with sock:
        while data := sock.recv(65536):
            received += data
    return received


def get(url: str, path: str = "/") -> tuple[int, bytes]:
    """Status and body of one response with a length."""
    head, _, body = read_all(send_request(url, path)).partition(b"\r\n\r\n")
    return int(head.split()[1]), body
