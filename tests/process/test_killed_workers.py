from __future__ import annotations

import os
import signal
import time
from itertools import pairwise

import pytest

from tests.process.clients import open_socket
from tests.process.load import KEEP_ALIVE, Load
from tests.process.supervised import FULL, Supervised, preloaded_by_default, spawned_by_default, wait_until

KILLS = 20 if FULL else 3
WORKERS = 3


@spawned_by_default
def test_killed_workers_are_replaced_and_hurt_nobody_else(tmp_path, preload, record_property):
    options = ["--process-preload"] if preload else []
    with Supervised(tmp_path, "-w", str(WORKERS), *options) as server:
        url = server.wait_until_serving()
        server.wait_for_workers(WORKERS)
        alive, killed = list(server.ready), {}
        with Load(url, mode=KEEP_ALIVE, clients=12) as load:
            load.wait_for(200)
            for number in range(KILLS):
                started = time.monotonic()
                victim = alive.pop(0)
                killed[victim] = time.monotonic()
                os.kill(victim, signal.SIGKILL)
                server.wait_for_line(rf"\({victim}\) has died \(SIGKILL\)")
                alive.append(server.wait_for_workers(WORKERS + number + 1)[-1])
                load.wait_for(100)
                if FULL:
                    time.sleep(max(0.0, started + 1.0 - time.monotonic()))
        print(load.describe())
        record_property("figures", load.describe())

        others = [failure for failure in load.failures if failure.pid and failure.pid not in killed]
        assert others == []
        # Connections that had no answer yet died with the worker that had accepted them.
        nobody = [failure for failure in load.failures if not failure.pid]
        assert all(any(0 <= failure.when - when < 1.0 for when in killed.values()) for failure in nobody)
        assert len(load.failures) <= KILLS * 12
        assert len(server.ready) == WORKERS + KILLS
        assert server.stop() == 0


DYING_LIFESPAN = """
import os
import trio

over = trio.Event()

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await over.wait()
        raise LookupError("connection pool lost")
    if scope["path"] == "/die":
        over.set()
    body = str(os.getpid()).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if scope["path"] == "/slow":
        await send({"type": "http.response.body", "body": body[:1], "more_body": True})
        await trio.sleep(20)
    await send({"type": "http.response.body", "body": body})
"""


def test_a_worker_whose_lifespan_dies_has_a_successor_before_its_requests_have_ended(tmp_path):
    (tmp_path / "main.py").write_text(DYING_LIFESPAN)
    with Supervised(tmp_path, "main:app") as server:
        url = server.wait_until_serving()
        with open_socket(url) as slow:
            slow.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
            assert slow.recv(1)
            first = int(server.ask(url, "/die"))
            server.wait_for_line(rf"worker 1 \({first}\) is to be replaced: it drains")
            server.wait_for_workers(2)
            assert int(server.ask(url)) == server.ready[1] != first
            assert first in server.processes()  # it finishes


def test_a_worker_that_is_told_to_end_by_somebody_is_replaced_without_loss(tmp_path):
    with Supervised(tmp_path, "-w", "2") as server:
        url = server.wait_until_serving()
        server.wait_for_workers(2)
        with Load(url) as load:
            load.wait_for(100)
            os.kill(server.ready[0], signal.SIGTERM)
            server.wait_for_workers(3)
            load.wait_for(100)
        assert load.failures == []
        assert server.stop() == 0


def test_a_crash_at_start_backs_off_and_ends(tmp_path):
    env = {"APP_AT_IMPORT": "os.kill(os.getpid(), 9)"}
    with Supervised(tmp_path, env=env) as server:
        for _ in range(8):
            server.wait_for_line("ended before it was ready")
        assert server.wait() == 1

        times = server.times("ended before it was ready")
        gaps = [(later - earlier) % 86400 for earlier, later in pairwise(times)]
        assert len(times) == 8
        assert len(server.events("import")) == 8
        assert all(gap >= 0.1 * 2**number for number, gap in enumerate(gaps)), gaps
        assert server.processes() == set()


SHORT_LIVED = """
import fcntl
import os

import trio

lock = open("lock", "w")
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    first = True
except BlockingIOError:
    first = False

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await trio.sleep(0.05)  # its begin is seen before its end
        END
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})
"""
ENDS = ["raise RuntimeError('lifespan died')", "os._exit(5)"]


@pytest.mark.parametrize("end", ENDS, ids=["lifespan", "exit"])
@preloaded_by_default
def test_workers_that_end_as_soon_as_they_serve_back_off_and_end_the_server(tmp_path, end, preload):
    (tmp_path / "main.py").write_text(SHORT_LIVED.replace("END", end))
    options = ["--process-preload"] if preload else []
    with Supervised(tmp_path, *options, "main:app") as server:
        for _ in range(8):
            server.wait_for_line("is ready")
        assert server.wait() == 1
        times = server.times("is ready")
        gaps = [(later - earlier) % 86400 for earlier, later in pairwise(times)]
        assert len(times) == 8
        assert all(gap >= 0.1 * 2**number for number, gap in enumerate(gaps)), gaps
        assert "8 starts in a row have failed, and no worker serves: giving up" in server.errors
        assert server.processes() == set()


def test_one_that_ends_as_soon_as_it_serves_does_not_end_a_server_with_others(tmp_path):
    (tmp_path / "main.py").write_text(SHORT_LIVED.replace("END", "first or os._exit(5)"))
    with Supervised(tmp_path, "-w", "2", "main:app") as server:
        url = server.wait_until_serving()
        for _ in range(8):
            server.wait_for_line(r"has died \(exit status 5\)")
        assert server.ask(url) == b""
        assert server.stop() == 0
        assert "giving up" not in server.errors


@pytest.mark.parametrize(
    "env",
    [{"APP_AT_IMPORT": "import absent_module"}, {"APP_AT_STARTUP": "raise RuntimeError('no database')"}],
    ids=["import", "lifespan"],
)
@preloaded_by_default
def test_an_application_that_cannot_start_ends_everything_at_once(tmp_path, env, preload):
    options = ["--process-preload"] if preload else []
    start = time.monotonic()
    with Supervised(tmp_path, "-w", "2", *options, env=env) as server:
        assert server.wait() == 3
        assert time.monotonic() - start < 8.0
        assert "absent_module" in server.errors or "no database" in server.errors
        assert len(server.events("import")) <= 2
        assert server.processes() == set()


def test_a_crash_loop_after_serving_ends_with_exit_1(tmp_path):
    broken = tmp_path / "broken"
    env = {"APP_AT_IMPORT": f"os.path.exists({str(broken)!r}) and os._exit(1)"}
    with Supervised(tmp_path, env=env) as server:
        server.wait_until_serving()
        broken.touch()
        os.kill(server.wait_for_workers(1)[0], signal.SIGKILL)
        server.wait_for_line("ended before it was ready")
        server.wait_for_line("ended before it was ready")
        broken.unlink()
        server.wait_for_workers(2)  # it recovers as soon as it can
        assert server.stop() == 0


def test_one_slot_that_fails_does_not_end_those_that_serve(tmp_path):
    broken = tmp_path / "broken"
    env = {"APP_AT_IMPORT": f"os.path.exists({str(broken)!r}) and os._exit(1)"}
    with Supervised(tmp_path, "-w", "2", env=env) as server:
        url = server.wait_until_serving()
        server.wait_for_workers(2)
        broken.touch()
        with Load(url) as load:
            load.wait_for(100)
            os.kill(server.ready[0], signal.SIGKILL)
            for _ in range(3):
                server.wait_for_line("ended before it was ready")
            load.wait_for(100)
            broken.unlink()
            server.wait_for_workers(3)
        assert {failure.pid for failure in load.failures} <= {server.ready[0], 0}
        wait_until(lambda: len(server.processes()) == 2, "two workers")
        assert server.stop() == 0
