from __future__ import annotations

import hashlib

import trio

from examples import wsgi
from tests.wsgi.outcomes import fetch
from tests.wsgi.serving import serving, until


async def test_it_digests_what_it_is_sent():
    content = bytes(range(256)) * 10_000
    async with serving(wsgi.app) as (_, address):
        outcome = await fetch(address, "HTTP/1.1", "/", method="PUT", body=content)
    assert outcome.body.decode() == hashlib.sha256(content).hexdigest() + "\n"


async def test_it_counts_until_the_client_leaves(monkeypatch):
    monkeypatch.setattr(wsgi, "INTERVAL", 0.01)
    async with serving(wsgi.app, threads=1) as (server, address):
        async with await trio.open_tcp_stream(*address) as stream:
            await stream.send_all(b"GET / HTTP/1.0\r\n\r\n")
            received = b""
            while not received.endswith(b"\r\n\r\n1\n2\n3\n"):
                received += await stream.receive_some()
        await until(lambda: not server.stats().requests_running)


def test_it_is_recognised():
    from trioserve.process.app_loader import detect_interface

    assert detect_interface(wsgi.app) == "wsgi"
