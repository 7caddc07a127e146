from __future__ import annotations

import time

import pytest

from tests.process.load import HTTP2, KEEP_ALIVE, MODES, Load
from tests.process.supervised import FULL, Supervised, wait_until

REQUESTS, WORKERS, PAUSE = (10_000, 20, 0.0) if FULL else (400, 6, 0.005)


@pytest.mark.parametrize("mode", MODES if FULL else [KEEP_ALIVE, HTTP2])
def test_workers_that_retire_after_a_number_of_requests_lose_none(tmp_path, mode, record_property):
    options = ("-w", "4", "--process-max-requests", "100", "--process-max-requests-jitter", "50")
    with Supervised(tmp_path, *options) as server:
        url = server.wait_until_serving()
        with Load(url, mode=mode, pause=PAUSE) as load:
            load.wait_for(total=REQUESTS)
            wait_until(lambda: len(load.pids) >= WORKERS, "answers of successors")
        print(load.describe())
        record_property("figures", load.describe())
        assert load.failures == []
        assert server.stop() == 0
        assert len(server.events("shutdown")) >= WORKERS


def test_workers_that_retire_after_one_request_are_no_crash_loop(tmp_path):
    with Supervised(tmp_path, "--process-max-requests", "1", "--process-preload") as server:
        url = server.wait_until_serving()
        with Load(url, clients=4, pause=PAUSE) as load:
            server.wait_for_workers(12)
        assert load.failures == []
        assert "giving up" not in server.errors
        times = server.times("is ready")
        assert (times[-1] - times[0]) % 86400 < 11 * 1.5
        assert server.stop() == 0


@pytest.mark.parametrize("preload", [False, True] if FULL else [True])
def test_a_worker_that_leaks_retires_and_loses_no_request(tmp_path, preload, record_property):
    options = ["--process-preload"] if preload else []
    with Supervised(tmp_path, "--process-max-rss", "120MiB", *options) as server:
        url = server.wait_until_serving()
        with Load(url, clients=4, path="/leak/400000") as load:
            server.wait_for_line(r"worker 1 \(\d+\) is to be replaced: .*")
            server.wait_for_workers(2)
            server.wait_for_workers(3)
            load.wait_for(20)
        print(load.describe())
        record_property("figures", load.describe())
        assert load.failures == []
        assert len(load.pids) >= 3
        assert server.stop() == 0


def test_a_worker_retires_at_its_age(tmp_path):
    with Supervised(tmp_path, "--process-max-lifetime", "2") as server:
        url = server.wait_until_serving()
        start = time.monotonic()
        with Load(url, clients=2) as load:
            server.wait_for_workers(2)
            assert 1.5 < time.monotonic() - start < 8.0
            load.wait_for(50)
        assert load.failures == []
        assert server.stop() == 0
