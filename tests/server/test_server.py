"""Starting, draining, stopping, and what a running server tells."""

from __future__ import annotations

import contextlib
import socket
import ssl

import pytest
import trio
import trio.testing
import trustme

from trioserve.asgi.lifespan import LifespanFailed
from trioserve.config import (
    Config,
    HeaderSettings,
    LifecycleSettings,
    LoggingSettings,
    ProxySettings,
    TimeoutSettings,
    TlsSettings,
)
from trioserve.server.listeners import BindError
from trioserve.server.server import LifespanDied, Server, serve
from trioserve.testing.memory import open_memory_server
from trioserve.testing.raw_client import RawClient

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
SLOW = b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n"


def settings(bind=("127.0.0.1:0",), lifespan="off", access="off", insecure_bind=(), timeouts=None, **groups):
    return Config(
        bind=bind,
        insecure_bind=insecure_bind,
        logging=LoggingSettings(access=access),
        lifecycle=LifecycleSettings(lifespan=lifespan),
        timeouts=TimeoutSettings(**(timeouts or {})),
        **groups,
    )


async def connect(server, index=0):
    return RawClient(await trio.open_tcp_stream(*server.addresses[index]))


class App:
    """Answers at once, or, on /slow, when it is told to; notes its lifespan."""

    def __init__(self):
        self.go = trio.Event()
        self.running = trio.Event()
        self.notes = []

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            self.notes.append("shutdown")
            await send({"type": "lifespan.shutdown.complete"})
            return
        try:
            if scope["path"] == "/slow":
                self.running.set()
                await self.go.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"ok"})
        except trio.Cancelled:
            self.notes.append("cancelled")
            raise


class TestStart:
    async def test_addresses_and_urls(self):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve, App(), settings(("127.0.0.1:0", "127.0.0.1:0")))
            assert isinstance(server, Server)
            ports = [port for _, port in server.addresses]
            assert all(host == "127.0.0.1" for host, _ in server.addresses)
            assert len(set(ports)) == 2
            assert 0 not in ports
            assert server.urls == [f"http://127.0.0.1:{port}" for port in ports]
            for index in range(2):
                async with await connect(server, index) as client:
                    await client.send(GET)
                    assert (await client.receive_response()).body == b"ok"
            server.drain()

    async def test_two_servers_in_one_nursery(self):
        async with trio.open_nursery() as nursery:
            first = await nursery.start(serve, App(), settings())
            second = await nursery.start(serve, App(), settings())
            first.drain()
            async with await connect(second) as client:
                await client.send(GET)
                assert (await client.receive_response()).body == b"ok"
            assert first.stats().requests_total == 0
            assert second.stats().requests_total == 1
            second.drain()

    async def test_a_unix_socket(self, tmp_path):
        async def app(scope, receive, send):
            seen.update(scope)
            await App()(scope, receive, send)

        seen = {}
        path = tmp_path / "socket"
        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve, app, settings((f"unix:{path}",)))
            assert server.addresses == [str(path)]
            async with RawClient(await trio.open_unix_socket(path)) as client:
                await client.send(GET)
                await client.receive_response()
            server.drain()
        assert seen["client"] is None
        assert seen["server"] == (str(path), None)
        assert not path.exists()

    async def test_addresses_of_a_request(self):
        async def app(scope, receive, send):
            seen.update(scope)
            await App()(scope, receive, send)

        seen = {}
        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve, app, settings())
            async with await connect(server) as client:
                await client.send(GET)
                await client.receive_response()
                assert seen["client"] == client.stream.socket.getsockname()
            assert seen["server"] == server.addresses[0]
            assert seen["scheme"] == "http"
            assert type(seen["client"]) is tuple
            server.drain()

    async def test_a_bind_that_cannot_be_had(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            bind = f"127.0.0.1:{taken.getsockname()[1]}"
            with pytest.raises(BindError):
                await serve(App(), settings((bind,)))

    async def test_a_failed_start_is_raised_as_it_is(self, error_log):
        async def app(scope, receive, send):
            await receive()
            raise RuntimeError

        with pytest.raises(LifespanFailed):
            await serve(app, settings(lifespan="auto"))
        assert len(error_log()) == 1

    async def test_a_failed_start_never_listens_for_long(self, error_log):
        """The port can be bound again at once."""

        async def app(scope, receive, send):
            await receive()
            raise RuntimeError

        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        for _ in range(2):
            with pytest.raises(LifespanFailed):
                await serve(app, settings((f"127.0.0.1:{port}",), lifespan="on"))

    async def test_fields_of_every_response(self):
        headers = HeaderSettings(server=False, date=False, extra=(("x-served-by", "me"),))
        config = settings(headers=headers)
        async with open_memory_server(App(), config) as server, server.raw_client() as client:
            await client.send(GET + b"nonsense\r\n\r\n")
            for _ in range(2):
                response = await client.receive_response()
                assert response.header("x-served-by") == b"me"
                assert response.header("server") is None
                assert response.header("date") is None


class TestDrain:
    async def test_new_ones_are_refused_idle_ones_closed_running_ones_finished(self):
        app = App()
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                server = await nursery.start(serve, app, settings(lifespan="on"))
                idle, busy = await connect(server), await connect(server)
                await idle.send(GET)
                assert (await idle.receive_response()).header("connection") is None
                await busy.send(SLOW)
                await app.running.wait()
                server.drain()
                await idle.wait_closed()
                with pytest.raises(OSError, match="all attempts to connect"):
                    await connect(server)
                assert app.notes == []
                app.go.set()
                response = await busy.receive_response()
                assert (response.status, response.header("connection")) == (200, b"close")
                await busy.wait_closed()
                await idle.aclose()
                await busy.aclose()
        assert app.notes == ["shutdown"]

    async def test_the_backlog_is_served(self):
        """Whoever was connected when the server was told to finish gets an answer."""
        with contextlib.ExitStack() as sockets, trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                server = await nursery.start(serve, App(), settings())
                address = server.addresses[0]
                waiting = [sockets.enter_context(socket.create_connection(address)) for _ in range(300)]
                for sock in waiting:
                    sock.sendall(GET)
                server.drain()
            for sock in waiting:
                assert sock.recv(100).startswith(b"HTTP/1.1 200 ")

    async def test_a_connection_that_begins_late_is_told_too(self):
        """One whose first bytes come when the server is finishing already."""
        config = settings(proxy=ProxySettings(protocol="v1"))
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                server = await nursery.start(serve, App(), config)
                talking, silent = await connect(server), await connect(server)
                await trio.sleep(0.02)
                server.drain()
                await server.draining.wait()
                start = trio.current_time()
                await talking.send(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + GET)
                assert (await talking.receive_response()).header("connection") == b"close"
                await silent.send(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n")
                await silent.wait_closed()
                assert trio.current_time() - start < 3
                await talking.aclose()
                await silent.aclose()

    async def test_a_fresh_connection_gets_a_moment(self, autojump_clock):
        async with open_memory_server(App(), settings()) as server:
            client, silent = server.raw_client(), server.raw_client()
            await trio.testing.wait_all_tasks_blocked()
            start = trio.current_time()
            await server.drain()
            await trio.sleep(0.5)
            await client.send(GET)
            assert (await client.receive_response()).header("connection") == b"close"
            await silent.wait_closed()
            assert trio.current_time() - start == pytest.approx(1, abs=0.05)

    async def test_a_head_under_way_is_finished(self, autojump_clock):
        async with open_memory_server(App(), settings()) as server:
            client = server.raw_client()
            await client.send(GET[:10])
            await trio.testing.wait_all_tasks_blocked()
            await server.drain()
            await trio.sleep(5)
            await client.send(GET[10:])
            assert (await client.receive_response()).header("connection") == b"close"

    async def test_what_runs_too_long_gets_503(self, autojump_clock):
        app = App()
        async with open_memory_server(app, settings(lifespan="on", timeouts={"graceful": 20})) as server:
            client = server.raw_client()
            await client.send(SLOW)
            await app.running.wait()
            start = trio.current_time()
            await server.drain()
            assert (await client.receive_response()).status == 503
            assert trio.current_time() - start == pytest.approx(20, abs=0.05)
        assert app.notes == ["cancelled", "shutdown"]

    async def test_what_ignores_its_cancellation_cannot_hold_the_server(self, autojump_clock, error_log):
        async def app(scope, receive, send):
            try:
                await trio.sleep_forever()
            finally:
                for _ in range(1000):
                    with contextlib.suppress(trio.Cancelled), trio.CancelScope(shield=True):
                        await trio.sleep(0.01)

        times = {"graceful": 10, "cleanup_grace": 2}
        start = trio.current_time()
        async with open_memory_server(app, settings(timeouts=times)) as server:
            await server.raw_client().send(GET)
            await trio.testing.wait_all_tasks_blocked()
        assert trio.current_time() - start < 25
        assert len(error_log()) == 1

    async def test_a_delay_before_it(self):
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                server = await nursery.start(serve, App(), settings(timeouts={"drain_delay": 0.2}))
                server.drain()
                await trio.sleep(0.05)
                assert not server.draining.is_set()
                async with await connect(server) as client:
                    await client.send(GET)
                    assert (await client.receive_response()).header("connection") is None
                    await client.wait_closed()
                assert server.draining.is_set()

    async def test_a_second_word_ends_the_delay(self, autojump_clock):
        start = trio.current_time()
        async with open_memory_server(App(), settings(timeouts={"drain_delay": 100})) as server:
            server.server.drain()
            await trio.sleep(10)
            server.server.stop_now()
        assert trio.current_time() - start < 12


class TestStop:
    async def test_stop_now(self, autojump_clock):
        app = App()
        async with open_memory_server(app, settings(lifespan="on")) as server:
            client = server.raw_client()
            await client.send(SLOW)
            await app.running.wait()
            start = trio.current_time()
            server.server.stop_now()
            assert (await client.receive_response()).status == 503
        assert trio.current_time() - start < 3
        assert app.notes == ["cancelled", "shutdown"]

    async def test_stop_now_while_draining(self, autojump_clock):
        app = App()
        async with open_memory_server(app, settings(lifespan="on")) as server:
            client = server.raw_client()
            await client.send(SLOW)
            await app.running.wait()
            await server.drain()
            await trio.sleep(5)
            start = trio.current_time()
            server.server.stop_now()
            assert (await client.receive_response()).status == 503
            assert trio.current_time() == start
        assert app.notes == ["cancelled", "shutdown"]

    async def test_cancelling_the_nursery_is_a_hard_stop(self):
        app = App()
        with trio.fail_after(10):
            async with trio.open_nursery() as outer:
                async with trio.open_nursery() as nursery:
                    server = await nursery.start(serve, app, settings(lifespan="on"))
                    client = await connect(server)
                    await client.send(SLOW)
                    await app.running.wait()
                    start = trio.current_time()
                    nursery.cancel_scope.cancel()
                assert trio.current_time() - start < 1
                await client.wait_closed()
                await client.aclose()
                outer.cancel_scope.cancel()
        assert app.notes == ["cancelled", "shutdown"]

    async def test_a_lifespan_that_dies_drains_and_is_raised(self, error_log):
        async def app(scope, receive, send):
            if scope["type"] == "http":
                await slow(scope, receive, send)
                return
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await die.wait()
            raise RuntimeError

        slow, die = App(), trio.Event()
        with pytest.raises(LifespanDied):
            async with open_memory_server(app, settings(lifespan="auto")) as server:
                client = server.raw_client()
                await client.send(SLOW)
                await slow.running.wait()
                die.set()
                await server.server.draining.wait()
                slow.go.set()
                assert (await client.receive_response()).body == b"ok"
        assert error_log() == ["the application's lifespan ended while it was serving"]


class TestStats:
    async def test_every_counter_of_http_counts(self, error_log, autojump_clock):
        async def app(scope, receive, send):
            if scope["path"] == "/crash":
                raise RuntimeError
            if scope["path"] == "/slow":
                await trio.sleep(100)
            message = await receive()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": message["body"] * 2})

        async with open_memory_server(app, settings(timeouts={"request": 10})) as server:
            async with server.raw_client() as client:
                await client.send(GET.replace(b"/ ", b"/crash "))
                await client.receive_response()
                await client.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc")
                await client.receive_response()
                await client.send(SLOW)
                assert (await client.receive_response()).status == 503
            async with server.raw_client() as client:
                await client.send(b"nonsense\r\n\r\n")
                await client.receive_response()
            async with server.raw_client() as client:
                await client.send(SLOW)
                await trio.sleep(1)
                assert server.stats().requests_running == 1
                assert server.stats().connections_open == 1
            await trio.sleep(20)
            stats = server.stats()
        assert stats.connections_accepted == 3
        assert (stats.connections_open, stats.requests_running) == (0, 0)
        assert stats.requests_total == 4
        assert stats.requests_refused == 1
        assert stats.bytes_received == 3
        assert stats.bytes_sent >= 6
        assert (stats.errors, stats.timeouts, stats.disconnects) == (1, 1, 1)


class TestStreams:
    async def test_any_stream_can_be_served(self):
        async def app(scope, receive, send):
            seen.update(scope)
            await App()(scope, receive, send)

        seen = {}
        async with open_memory_server(app, settings()) as server:
            ours, theirs = trio.testing.memory_stream_pair()
            async with trio.open_nursery() as nursery:

                async def run():
                    await server.server.serve_stream(theirs, client=("192.0.2.9", 9), scheme="https")
                    nursery.cancel_scope.cancel()

                nursery.start_soon(run)
                client = RawClient(ours)
                await client.send(GET)
                assert (await client.receive_response()).body == b"ok"
                assert server.stats().connections_open == 1
                await client.aclose()
                await trio.sleep_forever()
            assert server.stats().connections_open == 0
        assert (seen["client"], seen["scheme"]) == (("192.0.2.9", 9), "https")

    async def test_cancelling_it_closes_the_stream(self):
        app = App()
        async with open_memory_server(app, settings()) as server:
            ours, theirs = trio.testing.memory_stream_pair()
            client = RawClient(ours)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.server.serve_stream, theirs)
                await client.send(SLOW)
                await app.running.wait()
                nursery.cancel_scope.cancel()
            await client.receive_all()
        assert app.notes == ["cancelled"]


class TestLogs:
    async def test_reopen(self, tmp_path, autojump_clock):
        path = tmp_path / "access.log"
        config = settings(access=str(path))
        async with open_memory_server(App(), config) as server, server.raw_client() as client:
            await client.send(GET)
            await client.receive_response()
            await trio.sleep(1)
            path.rename(tmp_path / "old.log")
            server.server.reopen_logs()
            await client.send(SLOW.replace(b"/slow", b"/second"))
            await client.receive_response()
        assert '"GET / HTTP/1.1" 200' in (tmp_path / "old.log").read_text()
        assert '"GET /second HTTP/1.1" 200' in path.read_text()
        assert "/second" not in (tmp_path / "old.log").read_text()


class TestTls:
    async def test_plain_beside_tls(self, tmp_path):
        async def app(scope, receive, send):
            seen.append((scope["scheme"], "tls" in scope["extensions"]))
            await App()(scope, receive, send)

        seen = []
        authority = trustme.CA()
        certificate = tmp_path / "certificate.pem"
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
        config = settings(insecure_bind=("127.0.0.1:0",), tls=TlsSettings(certificate=str(certificate)))
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                server = await nursery.start(serve, app, config)
                assert [url.partition(":")[0] for url in server.urls] == ["https", "http"]
                context = ssl.create_default_context()
                authority.configure_trust(context)
                stream = await trio.open_tcp_stream(*server.addresses[0])
                tls = trio.SSLStream(stream, context, server_hostname="127.0.0.1")
                async with RawClient(tls) as client:
                    await client.send(GET)
                    assert (await client.receive_response()).body == b"ok"
                async with await connect(server, 1) as client:
                    await client.send(GET)
                    assert (await client.receive_response()).body == b"ok"
                async with await connect(server, 0) as client:
                    await client.send(GET)
                    response = await client.receive_response()
                    assert response.status == 400
                    assert b"HTTPS" in response.body
                server.drain()
        assert seen == [("https", True), ("http", False)]
