from __future__ import annotations

import os
import signal
import socket
import time

import pytest

from tests.process.clients import Http1Connection, open_socket
from tests.process.load import MODES, Load
from tests.process.supervised import FULL, Supervised, preloaded_by_default, spawned_by_default, wait_until

REQUESTS, SECONDS = 100, 2.0 if FULL else 1.0


def begin(url: str, count: int, seconds: float) -> list[Http1Connection]:
    """Requests whose answers have begun and will be complete after some seconds."""
    connections = [Http1Connection(open_socket(url)) for _ in range(count)]
    for connection in connections:
        connection.send(f"/slow/{seconds:g}")
    for connection in connections:
        connection.wait_for_begin()
    return connections


def finish(connections: list[Http1Connection]) -> set[int]:
    """The workers that have answered; all answers have to be whole."""
    pids = set()
    for connection in connections:
        answer = connection.read_answer()
        assert answer == b"begun %d" % connection.pid
        pids.add(connection.pid)
        connection.close()
    return pids


def check_port_is_free(url: str) -> None:
    host, _, port = url.partition("://")[2].rpartition(":")
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, int(port)))
        sock.listen()


@spawned_by_default
def test_all_workers_finish_what_runs(tmp_path, preload):
    options = ["--process-preload"] if preload else []
    with Supervised(tmp_path, "-w", "4", *options) as server:
        url = server.wait_until_serving()
        connections = begin(url, REQUESTS, SECONDS)
        server.signal(signal.SIGTERM)
        answered = finish(connections)
        assert server.wait() == 0

        assert answered <= set(server.events("shutdown"))
        assert sorted(server.events("shutdown")) == sorted(server.events("startup"))
        assert len(server.events("shutdown")) == 4
        check_port_is_free(url)


def test_ctrl_c_reaches_the_whole_group_and_ends_it_as_gracefully(tmp_path):
    with Supervised(tmp_path, "-w", "2") as server:
        url = server.wait_until_serving()
        connections = begin(url, 10, 1.0)
        os.killpg(server.process.pid, signal.SIGINT)
        finish(connections)
        assert server.wait() == 0
        assert len(server.events("shutdown")) == 2
        assert "Traceback" not in server.errors


def test_a_second_signal_ends_it_within_a_second(tmp_path):
    with Supervised(tmp_path, "-w", "4") as server:
        url = server.wait_until_serving()
        connections = begin(url, 20, 60.0)
        server.signal(signal.SIGTERM)
        server.wait_for_line("stopping")
        start = time.monotonic()
        server.signal(signal.SIGTERM)
        code = server.wait()
        assert time.monotonic() - start < 1.0
        assert code == 0
        assert server.processes() == set()
        check_port_is_free(url)
        for connection in connections:
            connection.close()


def test_a_second_signal_ends_workers_that_do_not_obey(tmp_path):
    with Supervised(tmp_path, "-w", "2") as server:
        url = server.wait_until_serving()
        connection = Http1Connection(open_socket(url))
        connection.send("/block/60")
        wait_until(lambda: server.events("blocked"), "a worker is blocked")
        server.signal(signal.SIGTERM)
        server.wait_for_line("stopping")
        start = time.monotonic()
        server.signal(signal.SIGTERM)
        server.wait()
        assert time.monotonic() - start < 1.0
        assert server.processes() == set()
        connection.close()


def test_requests_that_last_too_long_are_ended(tmp_path):
    with Supervised(tmp_path, "-w", "2", "--timeouts-graceful", "0.5") as server:
        url = server.wait_until_serving()
        connections = begin(url, 4, 60.0)
        start = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - start < 5.0
        assert len(server.events("shutdown")) == 2
        for connection in connections:
            connection.close()


@preloaded_by_default
def test_workers_whose_supervisor_is_killed_finish_and_end(tmp_path, preload):
    options = ["--process-preload"] if preload else []
    with Supervised(tmp_path, "-w", "4", *options) as server:
        url = server.wait_until_serving()
        connections = begin(url, 20, 1.0)
        server.signal(signal.SIGKILL)
        answered = finish(connections)
        assert server.wait() == -signal.SIGKILL
        wait_until(lambda: not server.processes(), "the workers have ended")

        assert answered <= set(server.events("shutdown"))
        assert len(server.events("shutdown")) == 4
        check_port_is_free(url)


def test_workers_without_supervisor_are_bound_by_the_grace(tmp_path):
    with Supervised(tmp_path, "-w", "2", "--timeouts-graceful", "0.5") as server:
        url = server.wait_until_serving()
        connections = begin(url, 4, 60.0)
        server.signal(signal.SIGKILL)
        server.wait()
        wait_until(lambda: not server.processes(), "the workers have ended", 8.0)
        check_port_is_free(url)
        for connection in connections:
            connection.close()


def test_a_signal_during_the_start_ends_it(tmp_path):
    env = {"APP_AT_IMPORT": "time.sleep(60)"}
    with Supervised(tmp_path, "-w", "2", env=env) as server:
        wait_until(lambda: len(server.events("import")) == 2, "both workers import")
        start = time.monotonic()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert time.monotonic() - start < 8.0
        assert server.processes() == set()


@pytest.mark.parametrize("mode", MODES)
def test_stopping_under_load_ends_connections_properly(tmp_path, mode):
    """Whoever gets a connection gets an answer; the others are refused."""
    with Supervised(tmp_path, "-w", "2") as server:
        url = server.wait_until_serving()
        with Load(url, mode=mode, pause=0.0) as load:
            load.wait_for(500)
            server.signal(signal.SIGTERM)
            assert server.wait() == 0
        assert [failure for failure in load.failures if "refused" not in failure.reason] == []
