"""A server that is told to stop while WSGI applications run in threads, willing and unwilling ones."""

from __future__ import annotations

import socket
import time
from contextlib import closing, contextmanager

import pytest

from tests.e2e.servers import ROOT
from tests.server_process import ServerProcess, read_all, send_request

THREADS = 8
PATIENCE = 20
APP = ("tests.wsgi.apps.gated:app", "--bind=127.0.0.1:0", "--logging-access=off", "--workers=0")
GRACEFUL = 0.5
MORE = 2.0
"""Seconds for what a busy machine may add to the graces."""


class Gate:
    """Where applications wait until they are let go."""

    def __init__(self):
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self._listener.settimeout(PATIENCE)
        self._held = []

    @property
    def environment(self):
        return {"GATE_PORT": str(self._listener.getsockname()[1])}

    def wait_for(self, count):
        """Return when so many applications are here."""
        while len(self._held) < count:
            self._held.append(self._listener.accept()[0])

    def open(self):
        while self._held:
            self._held.pop().close()

    def close(self):
        self.open()
        self._listener.close()


@pytest.fixture
def gate():
    with closing(Gate()) as gate:
        yield gate


@contextmanager
def serving(*arguments, env=None):
    with ServerProcess(ROOT, *APP, *arguments, env=env) as process:
        yield process, process.wait_until_serving()


def answer_of(sock):
    head, _, body = read_all(sock).partition(b"\r\n\r\n")
    return head.split(b" ")[1], body


def test_what_runs_and_what_waits_for_a_thread_is_answered_when_the_server_drains(gate):
    with serving(f"--wsgi-threads={THREADS}", env=gate.environment) as (process, url):
        running = [send_request(url, "/gate") for _ in range(THREADS)]
        gate.wait_for(THREADS)
        waiting = [send_request(url, "/done") for _ in range(THREADS)]
        process.signal(15)
        process.wait_for_line("stopping")
        gate.open()
        for sock in running + waiting:
            assert answer_of(sock) == (b"200", b"done")
        assert process.wait() == 0, process.errors
        assert "error" not in process.errors


def test_streamed_response_is_completed_when_the_server_drains(gate):
    with serving(env=gate.environment) as (process, url):
        sock = send_request(url, "/stream")
        gate.wait_for(1)
        process.signal(15)
        process.wait_for_line("stopping")
        gate.open()
        status, body = answer_of(sock)
        assert status == b"200"
        assert body == b"6\r\nfirst \r\n4\r\nlast\r\n0\r\n\r\n"
        assert process.wait() == 0, process.errors


@pytest.mark.parametrize("kind", ["sleep", "wait", "compute"])
def test_thread_that_never_ends_cannot_hold_up_the_end(kind):
    graces = (f"--timeouts-graceful={GRACEFUL}", "--timeouts-cleanup-grace=60")
    with serving("--wsgi-threads=2", *graces) as (process, url):
        sock = send_request(url, f"/{kind}")
        process.wait_for_line("stuck")
        begin = time.monotonic()
        process.signal(15)
        status, _ = answer_of(sock)
        assert process.wait() == 0, process.errors
        lasted = time.monotonic() - begin
        assert status == b"503"
        assert GRACEFUL < lasted < GRACEFUL + MORE
        assert kind in process.errors.partition("stopping")[2]  # the name of the function that it is in


def test_second_signal_does_not_wait_for_threads():
    with serving() as (process, url):
        sock = send_request(url, "/wait")
        process.wait_for_line("stuck")
        begin = time.monotonic()
        process.signal(15)
        process.wait_for_line("stopping")
        process.signal(15)
        assert answer_of(sock)[0] == b"503"
        assert process.wait() == 0, process.errors
        assert time.monotonic() - begin < MORE


def test_client_has_its_answer_at_the_deadline_whatever_its_thread_does():
    with serving("--timeouts-cleanup-grace=60", "--timeouts-request=0.3") as (_, url):
        begin = time.monotonic()
        assert answer_of(send_request(url, "/wait"))[0] == b"503"
        assert time.monotonic() - begin < 0.3 + MORE


def test_stuck_threads_are_reported_at_the_deadline_and_others_go_on():
    graces = (f"--timeouts-graceful={GRACEFUL}", "--timeouts-cleanup-grace=0.2", "--timeouts-request=0.3")
    with serving("--wsgi-threads=3", *graces) as (process, url):
        for kind in ("sleep", "wait"):
            assert answer_of(send_request(url, f"/{kind}"))[0] == b"503"
            process.wait_for_line("sleep_for_an_hour" if kind == "sleep" else "wait_for_ever")
        assert answer_of(send_request(url, "/done")) == (b"200", b"done")
        begin = time.monotonic()
        assert process.stop() == 0, process.errors
        assert time.monotonic() - begin < GRACEFUL + 0.2 + MORE


def test_clients_that_left_stuck_threads_behind_do_not_hold_up_the_end():
    graces = (
        f"--timeouts-graceful={GRACEFUL}",
        "--timeouts-cleanup-grace=0.2",
        "--timeouts-disconnect-grace=0.2",
    )
    with serving("--wsgi-threads=4", *graces) as (process, url):
        for _ in range(3):
            sock = send_request(url, "/wait")
            process.wait_for_line("stuck")
            sock.close()
            process.wait_for_line("wait_for_ever")
        assert answer_of(send_request(url, "/done")) == (b"200", b"done")
        begin = time.monotonic()
        assert process.stop() == 0, process.errors
        assert time.monotonic() - begin < GRACEFUL + 0.2 + MORE
