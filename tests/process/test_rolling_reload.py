from __future__ import annotations

import os
import signal
import ssl

import pytest
import trustme

from tests.process.load import HTTP2, KEEP_ALIVE, MODES, ONE_EACH, Load
from tests.process.supervised import FULL, Supervised, preloaded_by_default, wait_until

RELOADS, REQUESTS, PAUSE = (20, 20_000, 0.0) if FULL else (2, 600, 0.005)
WORKERS = 2

MAIN = """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    body = b"VERSION"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
"""


def write_version(folder, version: str) -> None:
    (folder / "draft").write_text(MAIN.replace("VERSION", version))
    os.replace(folder / "draft", folder / "main.py")


def reload_under_load(server, mode, context=None):
    """No request is lost; returns the figures."""
    url = server.wait_until_serving()
    server.wait_for_workers(WORKERS)
    with Load(url, mode=mode, pause=PAUSE, context=context) as load:
        for _ in range(RELOADS):
            load.wait_for(REQUESTS // RELOADS)
            server.reload(WORKERS)
        load.wait_for(REQUESTS // RELOADS, total=REQUESTS)
    print(load.describe())
    assert load.failures == []
    assert len(load.pids) > RELOADS
    assert set(load.pids) <= set(server.ready)
    assert len(server.ready) == WORKERS * (RELOADS + 1)
    return load.describe()


@pytest.mark.parametrize(
    ("mode", "preload"),
    [(mode, preload) for preload in (False, True) for mode in MODES]
    if FULL
    else [(KEEP_ALIVE, False), (ONE_EACH, True), (HTTP2, False)],
)
def test_reloads_under_load_lose_no_request(tmp_path, mode, preload, record_property):
    options = ["--process-preload"] if preload else []
    with Supervised(tmp_path, "-w", str(WORKERS), *options) as server:
        record_property("figures", reload_under_load(server, mode))
        assert server.stop() == 0


@pytest.mark.skipif(not FULL, reason="a matter of size")
@pytest.mark.parametrize("mode", MODES)
def test_reloads_under_load_with_tls_lose_no_request(tmp_path, mode, record_property):
    authority = trustme.CA()
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.set_alpn_protocols(["h2"] if mode == HTTP2 else ["http/1.1"])
    with Supervised(
        tmp_path, "-w", str(WORKERS), "--tls-certificate", str(tmp_path / "server.pem")
    ) as server:
        record_property("figures", reload_under_load(server, mode, context))
        assert server.stop() == 0


@preloaded_by_default
def test_new_code_is_served_and_broken_code_is_not(tmp_path, preload):
    write_version(tmp_path, "one")
    options = ["--process-preload"] if preload else []
    with Supervised(tmp_path, "-w", "2", *options, "main:app") as server:
        url = server.wait_until_serving()
        server.wait_for_workers(2)
        with Load(url) as load:
            write_version(tmp_path, "two")
            server.reload(2)
            wait_until(lambda: {server.ask(url) for _ in range(10)} == {b"two"}, "the old ones have ended")

            (tmp_path / "main.py").write_text("def app(:\n")
            server.signal(signal.SIGHUP)
            server.wait_for_line("SyntaxError|invalid syntax")
            load.wait_for(200)
            assert {server.ask(url) for _ in range(10)} == {b"two"}

            write_version(tmp_path, "three")
            server.reload(2)
            wait_until(lambda: {server.ask(url) for _ in range(10)} == {b"three"}, "the old ones have ended")
        assert load.failures == []
        assert server.stop() == 0


def test_binds_come_and_go_with_the_configuration(tmp_path):
    file = tmp_path / "trioserve.toml"
    first, second = f"unix:{tmp_path}/first.sock", f"unix:{tmp_path}/second.sock"
    file.write_text(f'bind = ["{first}"]')
    with Supervised(tmp_path, bind=None) as server:
        server.wait_until_serving()
        with Load(first) as load:
            file.write_text(f'bind = ["{first}", "{second}"]')
            server.reload(1)
            wait_until(lambda: server.ask(second) == server.ask(first), "the former worker has left")
            load.wait_for(100)
        with Load(second) as other:
            file.write_text(f'bind = ["{second}"]')
            server.reload(1)
            wait_until(lambda: not (tmp_path / "first.sock").exists(), "the socket file is gone")
            other.wait_for(100)
        assert load.failures + other.failures == []
        with pytest.raises(OSError, match="No such file"):
            server.ask(first)

        file.write_text(f'bind = ["{second}", "unix:{tmp_path}/absent/third.sock"]')
        server.signal(signal.SIGHUP)
        server.wait_for_line("absent/third.sock")
        assert int(server.ask(second)) == server.ready[-1]
        assert server.stop() == 0
    assert not (tmp_path / "second.sock").exists()


def test_reloads_that_are_asked_for_at_once_are_not_lost(tmp_path):
    with Supervised(tmp_path, "-w", "2") as server:
        url = server.wait_until_serving()
        server.wait_for_workers(2)
        with Load(url, mode=HTTP2, clients=4) as load:
            server.signal(signal.SIGHUP)
            server.wait_for_workers(3)
            server.signal(signal.SIGHUP)  # during the first
            server.wait_for_workers(6)
            load.wait_for(100)
        wait_until(lambda: len(server.processes()) == 2, "the old ones have gone")
        with Load(url, mode=KEEP_ALIVE) as after:
            after.wait_for(100)
        assert load.failures + after.failures == []
        assert set(after.pids) <= set(server.ready[-2:])
        assert server.stop() == 0
