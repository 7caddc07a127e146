from __future__ import annotations

import contextlib
import itertools
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from tests.server_process import PATIENCE, clean_environment, get, read_all, send_request
from trioserve.config import Config, LoadedConfig, ProcessSettings, TimeoutSettings
from trioserve.process import control
from trioserve.process.control import Assignment, Beat, Command, Failed, InheritedSocket, Order, Ready, Retire
from trioserve.process.stacks import STACKS_SIGNAL

APP = """
    import os, subprocess, sys, threading, time
    import trio

    def tell(text):
        print(text, file=sys.stderr, flush=True)

    async def respond(send, body):
        length = str(len(body)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        await send({"type": "http.response.body", "body": body})

    dead = trio.Event()

    async def lifespan(receive, send):
        await receive()
        await send({"type": "lifespan.startup.complete"})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(die)
            await receive()
            nursery.cancel_scope.cancel()
        tell("lifespan shutdown")
        await send({"type": "lifespan.shutdown.complete"})

    async def die():
        await dead.wait()
        raise LookupError("no database")

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            return await lifespan(receive, send)
        path = scope["path"]
        if path == "/die":
            dead.set()
        elif path == "/endless":
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

    def __init__(self, directory, *, slot=1, assign=True, stacks=-1, closed=False, **options):
        self.lines: list[str] = []
        self._news: queue.Queue[str | None] = queue.Queue()
        self._received = b""
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.url = "http://127.0.0.1:{1}".format(*self.listening.getsockname())
        self.control, theirs = socket.socketpair()
        self.control.settimeout(PATIENCE)
        fds = [fd for fd in (theirs.fileno(), self.listening.fileno(), stacks) if fd >= 0]
        command = [sys.executable, "-m", "trioserve.process.worker_process", str(theirs.fileno())]
        self.process = subprocess.Popen(
            ["sh", "-c", f'exec "$0" "$@" {"<&- >&- 2>&-" if closed else ""}', *command],
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


# -- starting ------------------------------------------------------------------------------------------------------

START_FAILURES = {
    "import": ("1 / 0", "importing 'main' failed: ZeroDivisionError: division by zero", 3),
    "lifespan": (
        "async def app(scope, receive, send):\n    await receive()\n    raise LookupError('no database')",
        "the application failed to start",
        3,
    ),
    "nothing": ("", "no attribute 'app' for 'main:app'", 3),
}


@pytest.mark.parametrize("name", START_FAILURES)
def test_an_application_that_cannot_start_is_told_in_one_line(tmp_path, name):
    source, reason, status = START_FAILURES[name]
    write_app(tmp_path, source)
    with Worker(tmp_path) as worker:
        assert worker.receive() == Failed(reason)
        assert worker.receive() is None
        assert worker.wait() == status
    assert any(reason in line for line in worker.lines)


def test_a_setting_that_cannot_be_used_is_told_and_left_to_the_supervisor_to_say(directory):
    (directory / "bad.env").write_text("A")
    with Worker(directory, env_file=str(directory / "bad.env")) as worker:
        assert "bad.env: line 1: expected NAME=value" in worker.receive_of(Failed).reason
        assert worker.wait() == 2
    assert "bad.env" not in worker.errors


@pytest.mark.parametrize("cut", [0, 3, 100])
def test_an_assignment_that_is_cut_short_ends_it_quietly(directory, cut):
    with Worker(directory, assign=False) as worker:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            control.send_assignment(ours, Assignment(LoadedConfig(Config(app="main:app"), None), (), 1))
            worker.control.sendall(theirs.recv(65536)[:cut])
        worker.control.close()
        assert worker.wait() == 0
    assert worker.lines == []


SLOW_STARTS = {
    "import": "tell(); time.sleep(60)",
    "lifespan": """
        async def app(scope, receive, send):
            await receive()
            tell()
            await trio.sleep_forever()
    """,
    "stubborn import": """
        try:
            tell(); time.sleep(60)
        except BaseException:
            pass
        async def app(scope, receive, send):
            raise NotImplementedError
    """,
}
TELL = """
import sys, time, trio
def tell():
    print("waiting", file=sys.stderr, flush=True)
"""
ENDS = {
    "drain": lambda worker: worker.order(Order.DRAIN),
    "stop now": lambda worker: worker.order(Order.STOP_NOW),
    "end of file": lambda worker: worker.control.close(),
    "SIGTERM": lambda worker: worker.process.send_signal(signal.SIGTERM),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", SLOW_STARTS)
def test_a_start_that_takes_long_can_be_ended(tmp_path, name, end):
    write_app(tmp_path, TELL + textwrap.dedent(SLOW_STARTS[name]))
    with Worker(tmp_path) as worker:
        worker.wait_for_line("^waiting$")
        ENDS[end](worker)
        assert worker.wait() == 0
    assert "Traceback" not in worker.errors


def test_orders_that_are_not_to_stop_do_not_interrupt_the_import(tmp_path):
    source = """
        import os, select, sys, time
        print("waiting", file=sys.stderr, flush=True)
        while not os.path.exists("go"):
            time.sleep(0.01)
    """
    write_app(tmp_path, textwrap.dedent(source) + textwrap.dedent(APP))
    with Worker(tmp_path) as worker:
        worker.wait_for_line("^waiting$")
        worker.order(Order.REOPEN_LOGS)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR1):
            worker.process.send_signal(number)
        (tmp_path / "go").touch()
        worker.receive_of(Ready)
        assert get(worker.url) == (200, b"hello")
        worker.order(Order.DRAIN)
        assert worker.wait() == 0


# -- signals and orders --------------------------------------------------------------------------------------------


def test_signals_that_are_the_supervisors_do_nothing_and_reach_no_subprocess(directory):
    with Worker(directory) as worker:
        worker.receive_of(Ready)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU):
            worker.process.send_signal(number)
        worker.receive_of(Beat)
        answer = get(worker.url, "/signals")[1]
        ignored = int(answer.split()[1], 16)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGTERM):
            assert not ignored >> (number - 1) & 1
        worker.process.send_signal(signal.SIGTERM)
        assert worker.wait() == 0
    assert "stopping; running requests, now 0" in worker.errors


def test_a_second_sigterm_stops_now(directory):
    with Worker(directory, timeouts=TimeoutSettings(graceful=0)) as worker:
        worker.receive_of(Ready)
        request = send_request(worker.url, "/endless")
        worker.wait_for_line("endless began")
        worker.process.send_signal(signal.SIGTERM)
        worker.wait_for_line("stopping; running requests, now 1")
        worker.process.send_signal(signal.SIGTERM)
        assert read_all(request).startswith(b"HTTP/1.1 503 ")
        assert worker.wait() == 0


def test_a_thousand_orders_at_once(directory):
    with Worker(directory) as worker:
        worker.receive_of(Ready)
        for _ in range(1000):
            worker.order(Order.REOPEN_LOGS)
        for _ in range(10):
            worker.order(Order.DUMP_TASKS)
        worker.receive_of(Beat)
        assert get(worker.url) == (200, b"hello")
        worker.control.sendall((control._encoder.encode(Command(Order.DRAIN)) + b"\n") * 1000)
        assert worker.wait() == 0
    assert len([line for line in worker.lines if "stopping; " in line]) == 1
    assert len([line for line in worker.lines if "tasks of this process" in line]) == 10


def test_what_is_no_order_counts_as_the_end(directory):
    with Worker(directory) as worker:
        worker.receive_of(Ready)
        worker.control.sendall(b"\xff\x00nonsense\n")
        assert worker.wait() == 0
    assert "the supervisor is gone" in worker.errors


def test_limits_ask_for_a_successor_once_and_serving_goes_on(directory):
    with Worker(directory, process=ProcessSettings(max_requests=2)) as worker:
        worker.receive_of(Ready)
        for _ in range(2):
            assert get(worker.url) == (200, b"hello")
        assert worker.receive_of(Retire) == Retire("it has served 2 requests", accepts=True)
        assert get(worker.url) == (200, b"hello")
        for _ in range(2):
            assert isinstance(worker.receive(), Beat)
        worker.order(Order.DRAIN)
        assert worker.wait() == 0


def test_it_writes_its_stacks_while_its_loop_is_blocked(directory):
    reading, writing = os.pipe()
    with Worker(directory, stacks=writing) as worker:
        os.close(writing)
        worker.receive_of(Ready)
        request = send_request(worker.url, "/block")
        worker.wait_for_line("^blocks$")
        worker.process.send_signal(STACKS_SIGNAL)
        text = ""
        while "main.py" not in text:
            text += os.read(reading, 65536).decode()
        worker.process.kill()
        worker.process.wait()
        request.close()
    os.close(reading)


# -- what an application leaves behind -----------------------------------------------------------------------------


def test_nothing_inherited_reaches_the_applications_subprocesses(directory):
    reading, writing = os.pipe()
    with Worker(directory, stacks=writing) as worker:
        os.close(writing)
        worker.receive_of(Ready)
        assert get(worker.url, "/descriptors")[1].split() == [b"0", b"1", b"2"]
        worker.order(Order.DRAIN)
        assert worker.wait() == 0
    os.close(reading)


def test_a_thread_that_never_ends_is_named_and_left(directory):
    with Worker(directory) as worker:
        worker.receive_of(Ready)
        assert get(worker.url, "/thread") == (200, b"hello")
        worker.order(Order.DRAIN)
        assert worker.wait() == 0
    assert "lifespan shutdown" in worker.lines
    assert "the process ends although it has not finished; threads: MainThread, left behind" in worker.errors
    assert any("time.sleep" in line or "threading.py" in line for line in worker.lines)


def test_a_daemon_thread_holds_up_nothing(directory):
    with Worker(directory) as worker:
        worker.receive_of(Ready)
        assert get(worker.url, "/daemon") == (200, b"hello")
        worker.order(Order.DRAIN)
        assert worker.wait() == 0
    assert "has not finished" not in worker.errors


@pytest.mark.parametrize("path", ["/trio-thread", "/block"])
def test_what_cannot_be_cancelled_ends_with_the_process(directory, path):
    timeouts = TimeoutSettings(graceful=0.2, cleanup_grace=0, lifespan_shutdown=0.2)
    with Worker(directory, timeouts=timeouts) as worker:
        worker.receive_of(Ready)
        request = send_request(worker.url, path)
        worker.wait_for_line("^(in a thread|blocks)$")
        worker.control.close()  # nobody is left to kill it
        assert worker.wait() == 1
        request.close()
    assert "the process ends although it has not finished" in worker.errors
    assert any(line.startswith("  thread MainThread") for line in worker.lines)


def test_a_lifespan_that_dies_while_a_thread_is_stuck_ends_the_process(directory):
    timeouts = TimeoutSettings(graceful=0.2, cleanup_grace=0, lifespan_shutdown=0.2)
    with Worker(directory, timeouts=timeouts) as worker:
        worker.receive_of(Ready)
        request = send_request(worker.url, "/trio-thread")
        worker.wait_for_line("in a thread")
        assert get(worker.url, "/die") == (200, b"hello")
        assert worker.wait() == 1
        request.close()
    assert "the process ends although it has not finished" in worker.errors


def test_closed_standard_streams_are_survived(directory):
    with Worker(directory, closed=True) as worker:
        worker.receive_of(Ready)
        assert get(worker.url) == (200, b"hello")
        assert get(worker.url, "/descriptors")[0] == 200
        worker.order(Order.DRAIN)
        assert worker.process.wait(PATIENCE) == 0


def test_signals_and_orders_until_the_very_end_make_no_noise(directory):
    with Worker(directory) as worker:
        worker.receive_of(Ready)
        worker.order(Order.DRAIN)
        numbers = itertools.cycle([signal.SIGHUP, signal.SIGINT, signal.SIGIO])
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            with contextlib.suppress(subprocess.TimeoutExpired):  # not faster than handlers run
                worker.process.wait(0.0002)
                break
            worker.process.send_signal(next(numbers))
        assert worker.wait() == 0
    assert worker.lines[-1] == "lifespan shutdown"
