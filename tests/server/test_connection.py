"""The boundary around one connection, and what comes before HTTP."""

from __future__ import annotations

import ssl
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
import trustme

from trioserve.config import Config, LifecycleSettings, LoggingSettings, TlsSettings
from trioserve.server.http1 import Http1Connection
from trioserve.server.server import serve
from trioserve.testing.memory import open_memory_server
from trioserve.testing.raw_client import RawClient

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


def settings(**groups):
    return Config(
        bind=("127.0.0.1:0",),
        logging=LoggingSettings(access="off"),
        lifecycle=LifecycleSettings(lifespan="off"),
        **groups,
    )


class App:
    def __init__(self):
        self.scope = None

    async def __call__(self, scope, receive, send):
        self.scope = scope
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})


@asynccontextmanager
async def serving(app, **groups):
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve, app, settings(**groups))
            yield server
            server.stop_now()


async def raise_key_error(connection, *args):
    raise KeyError


class TestBoundary:
    """A bug of ours ends one connection."""

    async def test_over_a_stream(self, error_log, monkeypatch):
        async with open_memory_server(App(), settings()) as server:
            client = server.raw_client()
            await trio.testing.wait_all_tasks_blocked()
            with monkeypatch.context() as broken:
                broken.setattr(Http1Connection, "_complete_head", raise_key_error)
                await client.send(b"GET")
                await client.wait_closed()
            other = server.raw_client()
            await other.send(GET)
            assert (await other.receive_response()).body == b"ok"
            assert server.stats().connections_open == 1
        assert error_log() == ["this is a bug in trioserve; one connection was closed"]

    async def test_over_a_socket(self, error_log, monkeypatch):
        async with serving(App()) as server:
            async with RawClient(await trio.open_tcp_stream(*server.addresses[0])) as client:
                monkeypatch.setattr(Http1Connection, "_complete_head", raise_key_error)
                await client.send(b"GET")
                await client.receive_all()
                monkeypatch.undo()
            async with RawClient(await trio.open_tcp_stream(*server.addresses[0])) as client:
                await client.send(GET)
                assert (await client.receive_response()).body == b"ok"
                assert server.stats().connections_open == 1
        assert error_log() == ["this is a bug in trioserve; one connection was closed"]


class TestTls:
    @pytest.fixture
    def authority(self):
        return trustme.CA()

    @pytest.fixture
    def tls(self, authority, tmp_path):
        certificate = tmp_path / "certificate.pem"
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
        return {"certificate": str(certificate)}

    async def test_the_extension(self, authority, tls):
        app = App()
        context = ssl.create_default_context()
        authority.configure_trust(context)
        async with serving(app, tls=TlsSettings(**tls)) as server:
            stream = await trio.open_tcp_stream(*server.addresses[0])
            secure = trio.SSLStream(stream, context, server_hostname="127.0.0.1", https_compatible=True)
            async with RawClient(secure) as client:
                await client.send(GET)
                assert (await client.receive_response()).body == b"ok"
        extension = app.scope["extensions"]["tls"]
        assert extension["tls_version"] in (0x0303, 0x0304)
        assert type(extension["cipher_suite"]) is int
        assert app.scope["scheme"] == "https"

    async def test_no_extension_without_tls(self):
        app = App()
        async with open_memory_server(app, settings()) as server, server.raw_client() as client:
            await client.send(GET)
            await client.receive_response()
        assert "tls" not in app.scope["extensions"]

    @pytest.mark.parametrize("beginning", [b"", b"\x16\x03\x01"])
    async def test_a_handshake_that_does_not_come(self, tls, beginning, error_log):
        settings_of_tls = TlsSettings(**tls, handshake_timeout=0.05)
        async with serving(App(), tls=settings_of_tls) as server:
            client = RawClient(await trio.open_tcp_stream(*server.addresses[0]))
            await client.send(beginning)
            await client.wait_closed()
            await trio.sleep(0.01)
            assert server.stats().connections_open == 0
            await client.aclose()
        assert error_log() == []

    async def test_a_client_that_leaves_in_the_handshake(self, tls, error_log):
        async with serving(App(), tls=TlsSettings(**tls)) as server:
            async with RawClient(await trio.open_tcp_stream(*server.addresses[0])) as client:
                await client.send(b"\x16\x03\x01")
            await trio.sleep(0.05)
            assert server.stats().connections_open == 0
        assert error_log() == []

    async def test_nonsense_instead_of_a_handshake(self, tls, error_log):
        async with serving(App(), tls=TlsSettings(**tls)) as server:
            async with RawClient(await trio.open_tcp_stream(*server.addresses[0])) as client:
                await client.send(b"\x00" * 100)
                await client.receive_all()
            await trio.sleep(0.01)
            assert server.stats().connections_open == 0
        assert error_log() == []
