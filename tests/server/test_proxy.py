"""Behind a proxy: whose word is taken, over headers and over the PROXY protocol."""

from __future__ import annotations

import ssl
import struct
from contextlib import asynccontextmanager

import pytest
import trio
import trustme

from trioserve.config import (
    Config,
    LifecycleSettings,
    LoggingSettings,
    ProxySettings,
    TimeoutSettings,
    TlsSettings,
)
from trioserve.server.server import serve
from trioserve.testing.memory import open_memory_server
from trioserve.testing.raw_client import RawClient

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
V1 = b"PROXY TCP4 192.0.2.1 192.0.2.2 1111 443\r\n"
V2 = (
    b"\r\n\r\n\x00\r\nQUIT\n\x21\x11"
    + struct.pack("!H", 12)
    + bytes([192, 0, 2, 1, 192, 0, 2, 2])
    + struct.pack("!HH", 1111, 443)
)


class Recorder:
    """Answers with nothing and keeps the scope."""

    def __init__(self):
        self.scope = None

    async def __call__(self, scope, receive, send):
        self.scope = scope
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})


def settings(proxy, root_path="", **groups):
    return Config(
        bind=("127.0.0.1:0",),
        root_path=root_path,
        proxy=proxy,
        logging=LoggingSettings(access="off"),
        lifecycle=LifecycleSettings(lifespan="off"),
        **groups,
    )


async def ask(proxy, fields, client=("127.0.0.1", 5), **options):
    app = Recorder()
    config = settings(proxy, **options)
    async with open_memory_server(app, config) as server, server.raw_client(client) as connection:
        await connection.send(b"GET /x HTTP/1.1\r\nhost: a\r\n" + fields + b"\r\n")
        assert (await connection.receive_response()).status == 200
    return app.scope


X_FORWARDED = b"x-forwarded-for: 198.51.100.7, 203.0.113.9\r\nx-forwarded-proto: https\r\n"


class TestHeaders:
    async def test_from_a_trusted_peer(self):
        scope = await ask(ProxySettings(trusted=("127.0.0.1",)), X_FORWARDED)
        assert scope["client"][0] == "203.0.113.9"
        assert scope["scheme"] == "https"

    async def test_the_rightmost_that_is_not_trusted(self):
        scope = await ask(ProxySettings(trusted=("127.0.0.1", "203.0.113.0/24")), X_FORWARDED)
        assert scope["client"][0] == "198.51.100.7"

    async def test_from_others_it_is_taken_away(self):
        scope = await ask(
            ProxySettings(trusted=("192.0.2.0/24",)), X_FORWARDED + b"forwarded: for=1.2.3.4\r\n"
        )
        assert scope["client"] == ("127.0.0.1", 5)
        assert scope["scheme"] == "http"
        assert [name for name, _ in scope["headers"]] == [b"host"]

    async def test_the_standard_header(self):
        scope = await ask(ProxySettings(), b'forwarded: for="[2001:db8::1]:4711";proto=https;host=b\r\n')
        assert scope["client"] == ("2001:db8::1", 4711)
        assert scope["scheme"] == "https"

    async def test_over_a_unix_socket(self):
        scope = await ask(ProxySettings(trusted=("unix",)), X_FORWARDED, client=None)
        assert scope["client"][0] == "203.0.113.9"
        scope = await ask(ProxySettings(trusted=("127.0.0.1",)), X_FORWARDED, client=None)
        assert scope["client"] is None

    async def test_a_prefix_is_behind_the_root_path(self):
        scope = await ask(ProxySettings(), X_FORWARDED + b"x-forwarded-prefix: /front\r\n", root_path="/app")
        assert (scope["root_path"], scope["path"]) == ("/app/front", "/app/front/x")

    async def test_one_request_leaves_nothing_to_the_next(self):
        app = Recorder()
        async with (
            open_memory_server(app, settings(ProxySettings())) as server,
            server.raw_client() as client,
        ):
            await client.send(b"GET /x HTTP/1.1\r\nhost: a\r\n" + X_FORWARDED + b"\r\n")
            await client.receive_response()
            await client.send(GET)
            await client.receive_response()
        assert app.scope["client"][0] == "127.0.0.1"
        assert app.scope["scheme"] == "http"

    async def test_the_access_log_has_the_client(self, tmp_path):
        path = tmp_path / "access.log"
        config = Config(
            logging=LoggingSettings(access=str(path)), lifecycle=LifecycleSettings(lifespan="off")
        )
        async with open_memory_server(Recorder(), config) as server, server.raw_client() as client:
            await client.send(b"GET /x HTTP/1.1\r\nhost: a\r\n" + X_FORWARDED + b"\r\n")
            await client.receive_response()
        assert "203.0.113.9" in path.read_text()


@asynccontextmanager
async def serving(proxy, **groups):
    app = Recorder()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve, app, settings(proxy, **groups))
            stream = await trio.open_tcp_stream(*server.addresses[0])
            async with RawClient(stream) as client:
                yield app, server, client
            server.stop_now()


class TestProxyProtocol:
    @pytest.mark.parametrize(("version", "header"), [("v1", V1), ("v2", V2), ("any", V1), ("any", V2)])
    @pytest.mark.parametrize("whole", [True, False])
    async def test_the_addresses(self, version, header, whole):
        async with serving(ProxySettings(protocol=version)) as (app, _, client):
            data = header + GET
            for piece in [data] if whole else [data[i : i + 1] for i in range(len(data))]:
                await client.send(piece)
                await trio.lowlevel.checkpoint()
            assert (await client.receive_response()).body == b"ok"
        assert app.scope["client"] == ("192.0.2.1", 1111)
        assert app.scope["server"] == ("192.0.2.2", 443)

    @pytest.mark.parametrize(
        ("version", "data"),
        [("v1", GET), ("any", GET), ("v2", V1 + GET), ("v1", V2 + GET), ("v1", b"PROXY x\r\n")],
    )
    async def test_without_it_nothing_is_served(self, version, data):
        async with serving(ProxySettings(protocol=version)) as (app, server, client):
            await client.send(data)
            assert await client.receive_all() == b""
            await trio.sleep(0.01)
            assert server.stats().connections_open == 0
        assert app.scope is None

    async def test_from_others_it_is_no_request(self):
        async with serving(ProxySettings(protocol="v1", trusted=("192.0.2.1",))) as (app, _, client):
            await client.send(V1 + GET)
            assert (await client.receive_response()).status == 400
        assert app.scope is None

    async def test_a_proxy_that_says_nothing(self, caplog):
        times = TimeoutSettings(head=0.05)
        async with serving(ProxySettings(protocol="v1"), timeouts=times) as (_, server, client):
            await client.send(V1[:10])
            assert await client.receive_all() == b""
            await trio.sleep(0.01)
            assert server.stats().connections_open == 0
        assert [record for record in caplog.records if record.levelname == "ERROR"] == []

    @pytest.mark.parametrize("header", [V1, V2])
    async def test_before_tls(self, header, tmp_path):
        authority = trustme.CA()
        certificate = tmp_path / "certificate.pem"
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
        context = ssl.create_default_context()
        authority.configure_trust(context)
        tls = TlsSettings(certificate=str(certificate))
        async with serving(ProxySettings(protocol="any"), tls=tls) as (app, _, client):
            await client.send(header)
            secure = RawClient(trio.SSLStream(client.stream, context, server_hostname="127.0.0.1"))
            await secure.send(GET)
            assert (await secure.receive_response()).body == b"ok"
        assert app.scope["client"] == ("192.0.2.1", 1111)
        assert app.scope["scheme"] == "https"
