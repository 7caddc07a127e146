"""The first lines that somebody types, in a directory with nothing but a main.py."""

from __future__ import annotations

import os
import shutil
import signal
import ssl
import subprocess
import sys

import pytest

from tests.process.clients import Http1Connection, open_socket
from tests.process.load import HTTP2, Load
from tests.process.supervised import PATIENCE, Supervised
from tests.server_process import clean_environment

MAIN = """
async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "main.py").write_text(MAIN)
    return tmp_path


def test_plain(folder):
    with Supervised(folder, "main:app") as server:
        assert server.ask(server.wait_until_serving()) == b"hello"
        assert server.stop() == 0
        assert len(server.ready) == 1


def test_one_worker_for_each_processor(folder):
    with Supervised(folder, "-w", "auto", "main:app") as server:
        assert server.ask(server.wait_until_serving()) == b"hello"
        assert server.stop() == 0
        assert len(server.ready) == len(os.sched_getaffinity(0))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_tls_and_http2(folder):
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30"
    subject = "-subj /CN=localhost -addext subjectAltName=DNS:localhost -keyout key.pem -out cert.pem"
    subprocess.run(f"{command} {subject}".split(), cwd=folder, check=True, capture_output=True)
    context = ssl.create_default_context(cafile=folder / "cert.pem")
    files = ("--tls-certificate", "cert.pem", "--tls-key", "key.pem")
    with Supervised(folder, "-w", "2", *files, "main:app") as server:
        url = server.wait_until_serving()
        assert url.startswith("https://")
        with open_socket(url, context) as sock:
            assert Http1Connection(sock).ask("/") == b"hello"
        context.set_alpn_protocols(["h2", "http/1.1"])
        with open_socket(url, context) as sock:
            assert sock.selected_alpn_protocol() == "h2"
        with Load(url, mode=HTTP2, clients=2, context=context) as load:
            load.wait_for(100)
        assert load.failures == []
        assert server.stop() == 0


def test_unix_socket(folder):
    bind = f"unix:{folder}/server.sock"
    with Supervised(folder, "main:app", bind=bind) as server:
        assert server.wait_until_serving().endswith(bind)
        assert server.ask(bind) == b"hello"
        assert server.stop() == 0


@pytest.mark.skipif(shutil.which("systemd-socket-activate") is None, reason="needs systemd-socket-activate")
def test_under_systemd(folder):
    address = f"{folder}/activated.sock"
    activator = subprocess.Popen(
        ["systemd-socket-activate", "-l", address, sys.executable, "-m", "trioserve", "-w", "2", "main:app"],
        cwd=folder,
        env=clean_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        activator.stderr.readline()  # it listens
        with open_socket(
            f"unix:{address}"
        ) as sock:  # which starts the server; our request waits in the backlog
            assert Http1Connection(sock).ask("/") == b"hello"
        with Load(f"unix:{address}", clients=2) as load:
            load.wait_for(100)
        assert load.failures == []
        activator.send_signal(signal.SIGTERM)  # it has become the server
        assert activator.wait(PATIENCE) == 0
        assert "stopped" in activator.stderr.read()
    finally:
        if activator.poll() is None:
            os.killpg(activator.pid, signal.SIGKILL)
        activator.wait()
        activator.stderr.close()
