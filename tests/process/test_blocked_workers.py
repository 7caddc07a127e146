from __future__ import annotations

import os
import re
import signal
import time

import pytest

from tests.process.clients import Http1Connection, open_socket
from tests.process.load import ONE_EACH, Load
from tests.process.supervised import Supervised

HEARTBEAT = ("--process-heartbeat", "2")
SILENCE = "has not run its event loop"


def test_a_blocked_worker_is_replaced_with_its_stack_in_the_log(tmp_path):
    with Supervised(tmp_path, "-w", "2", *HEARTBEAT) as server:
        url = server.wait_until_serving()
        server.wait_for_workers(2)
        with open_socket(url) as sock:
            victim = Http1Connection(sock)
            pid = int(victim.ask("/"))
            start = time.monotonic()
            victim.send("/block/60")
            with Load(url, clients=4) as load:
                load.wait_for(100)
                server.wait_for_line(rf"\({pid}\) {SILENCE} for 2 s")
                server.wait_for_workers(3)
                assert time.monotonic() - start < 8.0
                server.wait_for_line(rf"\({pid}\) .*(SIGKILL|SIGTERM|killed|ended)")
                load.wait_for(100)
        assert server.stop() == 0
        assert re.search(r'apps\.py", line \d+ in app', server.errors)
        assert pid not in server.events("shutdown")
        assert pid not in load.pids
        assert {failure.pid for failure in load.failures} <= {0}
        assert server.processes() == set()


def test_a_worker_that_computes_in_slices_lives_on(tmp_path):
    with Supervised(tmp_path, *HEARTBEAT) as server:
        url = server.wait_until_serving()
        (pid,) = server.wait_for_workers(1)
        assert server.ask(url, "/compute/4") == b"%d" % pid
        assert server.stop() == 0
        assert SILENCE not in server.errors


def test_an_import_may_last_longer_than_the_heartbeat(tmp_path):
    env = {"APP_AT_IMPORT": "time.sleep(3.5)"}
    with Supervised(tmp_path, *HEARTBEAT, env=env) as server:
        url = server.wait_until_serving()
        server.ask(url)
        assert server.stop() == 0
        assert SILENCE not in server.errors
        assert len(server.ready) == 1


def test_a_start_has_its_own_bound(tmp_path):
    env = {"APP_AT_IMPORT": "time.sleep(60)"}
    with Supervised(tmp_path, "--process-startup", "1", env=env) as server:
        server.wait_for_line("not ready within 1 s")
        server.wait_for_line("not ready within 1 s")
        assert server.stop() == 0
        assert server.processes() == set()


def test_a_supervisor_that_was_stopped_for_a_while_kills_nobody(tmp_path):
    with Supervised(tmp_path, "-w", "2", *HEARTBEAT) as server:
        url = server.wait_until_serving()
        pids = set(server.wait_for_workers(2))
        server.signal(signal.SIGSTOP)
        with Load(url, mode=ONE_EACH, clients=2) as load:  # workers serve on meanwhile
            end = time.monotonic() + 3.5
            while time.monotonic() < end:
                load.wait_for(50)
            server.signal(signal.SIGCONT)
            load.wait_for(200)
        assert load.failures == []
        assert set(load.pids) <= pids
        assert server.stop() == 0
        assert SILENCE not in server.errors


@pytest.mark.parametrize("path", ["/", "/compute/0.1"], ids=["idle", "busy"])
def test_the_shortest_heartbeat_suits_a_healthy_worker(path, tmp_path):
    with Supervised(tmp_path, "--process-heartbeat", "0.5") as server:
        url = server.wait_until_serving()
        pids = set(server.wait_for_workers(1))
        end = time.monotonic() + 4.0
        with Load(url, clients=1, path=path, pause=0.2) as load:
            while time.monotonic() < end:
                load.wait_for(1)
        assert load.failures == []
        assert set(load.pids) == pids
        assert server.stop() == 0
        assert SILENCE not in server.errors


def test_a_short_heartbeat_finds_a_blocked_worker_soon(tmp_path):
    with Supervised(tmp_path, "--process-heartbeat", "0.5") as server:
        url = server.wait_until_serving()
        with open_socket(url) as sock:
            start = time.monotonic()
            Http1Connection(sock).send("/block/60")
            server.wait_for_line(rf"{SILENCE} for 0\.5 s")
            assert 0.4 < time.monotonic() - start < 2.0
            server.wait_for_workers(2)
            server.wait_for_line(rf"\({server.ready[0]}\) has ended \(SIG")
            assert time.monotonic() - start < 6.0
        assert server.stop() == 0


def test_one_that_ends_slowly_has_not_lost_its_event_loop(tmp_path):
    thread = "import threading; threading.Thread(target=time.sleep, args=(1.5,)).start()"
    late = {"APP_AT_STARTUP": f"import atexit; atexit.register(time.sleep, 1.5); {thread}"}
    with Supervised(tmp_path, "--process-heartbeat", "0.5", env=late) as server:
        server.wait_until_serving()
        assert server.stop() == 0
        assert SILENCE not in server.errors
        assert "SIGKILL" not in server.errors


def test_a_group_that_is_stopped_and_woken_one_by_one_stays_whole(tmp_path):
    with Supervised(tmp_path, "-w", "2", *HEARTBEAT) as server:
        url = server.wait_until_serving()
        pids = server.wait_for_workers(2)
        os.killpg(server.process.pid, signal.SIGSTOP)
        pause(4.0)
        server.signal(signal.SIGCONT)
        pause(1.2)  # memory that has to come back from the disk
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        pause(2.5)
        assert int(server.ask(url)) in pids
        assert server.stop() == 0
        assert SILENCE not in server.errors
        assert server.ready == pids


def test_a_worker_that_is_stopped_for_less_than_its_heartbeat_stays(tmp_path):
    with Supervised(tmp_path, *HEARTBEAT) as server:
        url = server.wait_until_serving()
        (pid,) = server.wait_for_workers(1)
        for _ in range(3):
            os.kill(pid, signal.SIGSTOP)
            pause(1.2)
            os.kill(pid, signal.SIGCONT)
            assert server.ask(url) == b"%d" % pid
        assert server.stop() == 0
        assert SILENCE not in server.errors


def test_a_worker_that_reads_no_orders_for_long_drains_when_it_goes_on(tmp_path):
    """As after an hour in a debugger; with no bound for its end nothing else would end it."""
    with Supervised(tmp_path, "--process-heartbeat", "0", "--timeouts-graceful", "0") as server:
        url = server.wait_until_serving()
        (pid,) = server.wait_for_workers(1)
        os.kill(pid, signal.SIGSTOP)
        for _ in range(600):  # more than what its control socket takes
            server.signal(signal.SIGUSR1)
            server.wait_for_line("log files were opened again")
        server.reload(1)
        server.wait_for_line("reloaded")
        os.kill(pid, signal.SIGCONT)
        server.wait_for_line(rf"\({pid}\) has ended")
        assert int(server.ask(url)) != pid
        assert server.stop() == 0


def pause(seconds):
    """Let real time pass for processes that are stopped; there is nothing to wait for."""
    time.sleep(seconds)
