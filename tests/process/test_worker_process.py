from __future__ import annotations

import queue
import re
import socket
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from tests.server_process import PATIENCE, clean_environment, get, read_all, send_request
from trioserve.config import Config, LoadedConfig
from trioserve.process import control
from trioserve.process.control import Assignment, Beat, Command, InheritedSocket, Order, Ready

APP = """
    import os, subprocess, sys, threading, time
    import trio

    def tell(text):
        print(text, file=sys.stderr, flush=True)

    async def respond(send, body):
        length = str(len(body)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        await send({"type": "http.response.body", "body": body})

    async def lifespan(receive, send):
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        tell("lifespan shutdown")
        await send({"type": "lifespan.shutdown.complete"})

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            return await lifespan(receive, send)
        path = scope["path"]
        if path == "/endless":
            tell("endless began")
            await trio.sleep_forever()
        elif path == "/slow":
            tell("slow began")
            await trio.sleep(0.5)
        elif path == "/block":
            tell("blocks")
            time.sleep(60)
        elif path == "/thread":
            threading.Thread(target=time.sleep, args=(3600,), name="left behind").start()
        elif path == "/daemon":
            threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
        elif path == "/trio-thread":
            tell("in a thread")
            await trio.to_thread.run_sync(time.sleep, 3600)
        elif path == "/descriptors":
            code = "import os; print(*sorted(map(int, os.listdir('/proc/self/fd')))[:-1])"
            body = subprocess.run([sys.executable, "-c", code], capture_output=True, close_fds=False).stdout
            return await respond(send, body)
        elif path == "/signals":
            lines = subprocess.run(["grep", "^SigIgn", "/proc/self/status"], capture_output=True).stdout
            return await respond(send, lines)
        await respond(send, b"hello")
"""


@pytest.fixture
def directory(tmp_path):
    write_app(tmp_path, APP)
    return tmp_path


def write_app(directory, source):
    (directory / "main.py").write_text(textwrap.dedent(source), encoding="utf-8")


class Worker:
    """A worker process, and the supervisor's end of its control socket, which this test holds."""

    def __init__(self, directory, *, slot=1, assign=True, stacks=-1, **options):
        self.lines: list[str] = []
        self._news: queue.Queue[str | None] = queue.Queue()
        self._received = b""
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.url = "http://127.0.0.1:{1}".format(*self.listening.getsockname())
        self.control, theirs = socket.socketpair()
        self.control.settimeout(PATIENCE)
        fds = [fd for fd in (theirs.fileno(), self.listening.fileno(), stacks) if fd >= 0]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "trioserve.process.worker_process", str(theirs.fileno())],
            cwd=directory,
            env=clean_environment(),
            pass_fds=fds,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        theirs.close()
        if assign:
            config = Config(app="main:app", app_dir=str(directory), **options)
            sockets = (InheritedSocket(self.listening.fileno(), "127.0.0.1:0", False),)
            control.send_assignment(
                self.control, Assignment(LoadedConfig(config, None), sockets, slot, stacks)
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        self.process.stderr.close()
        self.control.close()
        self.listening.close()

    def _read(self):
        for line in self.process.stderr:
            self._news.put(line.rstrip("\n"))
        self._news.put(None)

    def receive(self):
        """The next message of the worker, None at the end of the stream."""
        while b"\n" not in self._received:
            data = self.control.recv(65536)
            if not data:
                return None
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return control._decoder.decode(line)

    def receive_of(self, kind):
        """The next message of a kind; others are passed over."""
        while not isinstance(message := self.receive(), kind):
            assert message is not None, f"no {kind.__name__} came:\n{self.errors}"
        return message

    def order(self, order):
        self.control.sendall(control._encoder.encode(Command(order)) + b"\n")

    def wait_for_line(self, pattern):
        end = time.monotonic() + PATIENCE
        while (line := self._news.get(timeout=max(0.0, end - time.monotonic()))) is not None:
            self.lines.append(line)
            if re.search(pattern, line):
                return line
        raise AssertionError(f"{pattern!r} never came:\n{self.errors}")

    @property
    def errors(self):
        return "\n".join(self.lines)

    def wait(self):
        """The exit status; all lines are in `lines` then."""
        status = self.process.wait(PATIENCE)
        while (line := self._news.get(timeout=PATIENCE)) is not None:
            self.lines.append(line)
        self._news.put(None)
        return status


# -- serving -------------------------------------------------------------------------------------------------------


def test_it_is_ready_serves_and_beats(directory):
    with Worker(directory) as worker:
        assert worker.receive() == Ready([worker.url])
        assert get(worker.url) == (200, b"hello")
        while not (beat := worker.receive_of(Beat)).requests:
            pass
        assert beat.requests == 1
        assert beat.rss > 10_000_000
        worker.order(Order.DRAIN)
        assert worker.wait() == 0
    assert worker.lines[-1] == "lifespan shutdown"
    assert not any(" serving " in line for line in worker.lines)


def test_drain_lets_requests_end_and_beats_go_on(directory):
    with Worker(directory) as worker:
        worker.receive_of(Ready)
        request = send_request(worker.url, "/endless")
        worker.wait_for_line("endless began")
        worker.order(Order.DRAIN)
        worker.wait_for_line("stopping; running requests, now 1")
        for _ in range(2):
            worker.receive_of(Beat)
        worker.order(Order.DRAIN)  # asked again: nothing changes
        worker.receive_of(Beat)
        worker.order(Order.STOP_NOW)
        assert read_all(request).startswith(b"HTTP/1.1 503 ")
        assert worker.wait() == 0


def test_the_end_of_the_control_socket_drains(directory):
    with Worker(directory) as worker:
        worker.receive_of(Ready)
        request = send_request(worker.url, "/slow")
        worker.wait_for_line("slow began")
        worker.control.close()
        assert read_all(request).endswith(b"hello")
        assert worker.wait() == 0
    assert len([line for line in worker.lines if "the supervisor is gone" in line]) == 1
    assert worker.lines[-1] == "lifespan shutdown"
