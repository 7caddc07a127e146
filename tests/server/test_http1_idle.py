"""A client may send its next request in the moment in which its idle connection is closed: it is not lost."""

from __future__ import annotations

import socket
import ssl
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
import trustme

from trioserve.config import (
    Config,
    Http2Settings,
    LifecycleSettings,
    LoggingSettings,
    TimeoutSettings,
    TlsSettings,
)
from trioserve.server.poller import READABLE
from trioserve.server.server import serve
from trioserve.testing.memory import open_memory_server
from trioserve.testing.raw_client import RawClient

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
REST = b"GET /rest HTTP/1.1\r\nhost: a\r\n\r\n"
UPLOAD = b"POST /unread HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\n"


def settings(tls=None, **timeouts):
    return Config(
        bind=("127.0.0.1:0",),
        logging=LoggingSettings(access="off"),
        lifecycle=LifecycleSettings(lifespan="off"),
        http2=Http2Settings(enabled=False),
        timeouts=TimeoutSettings(**timeouts),
        tls=tls or TlsSettings(),
    )


async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/slow":
        await send({"type": "http.response.body", "body": b"o", "more_body": True})
        await trio.sleep(5)
        await send({"type": "http.response.body", "body": b"k"})
    else:
        await send({"type": "http.response.body", "body": b"ok"})
    if scope["path"] == "/rest":
        await trio.sleep(100)


async def ask(client, request=GET):
    await client.send(request)
    return await client.receive_response()


def connection_of(server):
    """The server's side of its only connection."""
    (connection,) = server._deadlines.connections
    return connection


class TestDrain:
    @pytest.mark.parametrize("keep_alive", [75, 0, 0.8])
    async def test_a_client_that_was_just_answered_gets_a_moment(self, keep_alive, autojump_clock):
        async with open_memory_server(app, settings(keep_alive=keep_alive)) as server:
            asking, silent = server.raw_client(), server.raw_client()
            for client in (asking, silent):
                assert (await ask(client)).header("connection") is None
            answered = trio.current_time()
            await trio.sleep(0.4)
            await server.drain()
            await trio.sleep(0.3)
            response = await ask(asking)
            assert (response.status, response.header("connection")) == (200, b"close")
            await asking.wait_closed()
            await silent.wait_closed()
            assert trio.current_time() - answered == pytest.approx(min(keep_alive or 1, 1), abs=0.05)

    @pytest.mark.parametrize("keep_alive", [75, 0])
    async def test_one_that_is_idle_for_longer_is_let_go_at_once(self, keep_alive, autojump_clock):
        async with open_memory_server(app, settings(keep_alive=keep_alive)) as server:
            client = server.raw_client()
            await ask(client)
            await trio.sleep(1.1)
            start = trio.current_time()
            await server.drain()
            await client.wait_closed()
            assert trio.current_time() == start

    async def test_a_head_that_begins_in_that_moment_is_finished(self, autojump_clock):
        async with open_memory_server(app, settings()) as server:
            client = server.raw_client()
            await ask(client)
            await server.drain()
            await trio.sleep(0.5)
            await client.send(GET[:9])
            await trio.sleep(5)
            assert (await ask(client, GET[9:])).header("connection") == b"close"

    @pytest.mark.parametrize("path", [b"/slow", b"/unread"])
    async def test_a_response_that_had_begun_said_that_there_can_be_more(self, path, autojump_clock):
        async with open_memory_server(app, settings()) as server:
            client = server.raw_client()
            upload = path == b"/unread"
            await client.send(UPLOAD if upload else GET.replace(b"/ ", path + b" "))
            if upload:
                assert (await client.receive_response()).header("connection") is None
            await trio.testing.wait_all_tasks_blocked()
            await server.drain()
            if upload:
                await trio.sleep(0.5)
                await client.send(b"body")
            else:
                assert (await client.receive_response()).header("connection") is None
            ended = trio.current_time()
            await trio.sleep(0.5)
            assert (await ask(client)).header("connection") == b"close"
            await client.wait_closed()
            assert trio.current_time() - ended == pytest.approx(0.5, abs=0.05)

    async def test_the_rest_of_a_body_is_not_waited_for_long(self, autojump_clock):
        async with open_memory_server(app, settings()) as server:
            client = server.raw_client()
            await ask(client, UPLOAD)
            start = trio.current_time()
            await server.drain()
            await client.wait_closed()
            assert trio.current_time() - start == pytest.approx(1, abs=0.05)

    async def test_a_client_whose_application_goes_on_gets_a_moment(self, autojump_clock):
        async with open_memory_server(app, settings(graceful=10)) as server:
            asking, silent = server.raw_client(), server.raw_client()
            for client in (asking, silent):
                await ask(client, REST)
            start = trio.current_time()
            await server.drain()
            await trio.sleep(0.5)
            assert (await ask(asking)).header("connection") == b"close"
            await silent.wait_closed()
            assert trio.current_time() - start == pytest.approx(1, abs=0.05)

    async def test_stop_now_ends_the_moment(self, autojump_clock):
        async with open_memory_server(app, settings()) as server:
            client = server.raw_client()
            await ask(client)
            await server.drain()
            start = trio.current_time()
            server.server.stop_now()
            await client.wait_closed()
            assert trio.current_time() == start

    async def test_nothing_is_lost_under_load(self):
        """Each client asks again and again; a connection may only end behind a response that says so, or at rest."""
        lost = []

        async def keep_asking(address):
            async with RawClient(await trio.open_tcp_stream(*address)) as client:
                while True:
                    response = await ask(client)
                    if response.header("connection") == b"close":
                        return

        async def note_loss(address):
            try:
                await keep_asking(address)
            except (OSError, EOFError, trio.BrokenResourceError, AssertionError) as error:
                lost.append(error)

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                server = await nursery.start(serve, app, settings())
                for _ in range(30):
                    nursery.start_soon(note_loss, server.addresses[0])
                await trio.sleep(0.1)
                server.drain()
        assert server.stats().requests_total > 30
        assert lost == []


def arrive_unseen(connection):
    """A request is in the socket's buffer, and neither poller nor task know of it."""


def arrive_at_the_task(connection):
    """The poller has read the request for the task, which has not run yet."""
    connection.transport.notify(READABLE)


ARRIVALS = pytest.mark.parametrize("arrive", [arrive_unseen, arrive_at_the_task])


@pytest.fixture(params=["plain", "tls"])
def secure(request, tmp_path):
    if request.param == "plain":
        return None, None
    ca = trustme.CA()
    certificate = ca.issue_cert("127.0.0.1")
    path = tmp_path / "server.pem"
    certificate.private_key_and_cert_chain_pem.write_to_path(str(path))
    context = ssl.create_default_context()
    ca.configure_trust(context)
    return TlsSettings(certificate=str(path), key=str(path)), context


@asynccontextmanager
async def one_connection(secure, **timeouts):
    """A server on a real socket and one client that has had a response; gives server, client, and a way to send."""
    tls, context = secure
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve, app, settings(tls, **timeouts))
            stream = await trio.open_tcp_stream(*server.addresses[0])
            if context is None:
                sock = stream.socket

                def send_at_once(data):
                    socket.socket.send(sock._sock, data)
            else:
                incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
                tls_object = context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
                stream = MemoryTlsStream(stream, tls_object, incoming, outgoing)
                send_at_once = stream.send_at_once
            async with RawClient(stream) as client:
                await ask(client)
                await trio.testing.wait_all_tasks_blocked(0.01)
                yield server, client, send_at_once
            server.stop_now()


class MemoryTlsStream(trio.abc.Stream):
    """A TLS client that can send without an await."""

    def __init__(self, stream, tls_object, incoming, outgoing):
        self.stream, self.tls, self.incoming, self.outgoing = stream, tls_object, incoming, outgoing
        self.shaken = False

    async def _retry(self, operation, *args):
        while True:
            try:
                result = operation(*args)
            except ssl.SSLWantReadError:
                if self.outgoing.pending:
                    await self.stream.send_all(self.outgoing.read())
                data = await self.stream.receive_some()
                self.incoming.write(data) if data else self.incoming.write_eof()
                continue
            if self.outgoing.pending:
                await self.stream.send_all(self.outgoing.read())
            return result

    async def send_all(self, data):
        if not self.shaken:
            await self._retry(self.tls.do_handshake)
            self.shaken = True
        await self._retry(self.tls.write, data)

    def send_at_once(self, data):
        self.tls.write(data)
        socket.socket.send(self.stream.socket._sock, self.outgoing.read())

    async def receive_some(self, max_bytes=65536):
        try:
            return await self._retry(self.tls.read, max_bytes or 65536)
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""

    async def wait_send_all_might_not_block(self):
        await trio.lowlevel.checkpoint()

    async def aclose(self):
        await self.stream.aclose()


class TestRequestsThatComeInTheMomentOfTheEnd:
    @ARRIVALS
    async def test_of_the_keep_alive_timeout(self, arrive, secure):
        async with one_connection(secure) as (server, client, send_at_once):
            connection = connection_of(server)
            send_at_once(GET)
            arrive(connection)
            connection.read_deadline = now = trio.current_time()
            connection.expire(now)
            for _ in range(2):
                response = await client.receive_response()
                assert (response.status, response.header("connection")) == (200, None)
                await client.send(GET)

    @ARRIVALS
    async def test_of_draining(self, arrive, secure):
        async with one_connection(secure, keep_alive=1) as (server, client, send_at_once):
            connection = connection_of(server)
            connection.read_deadline -= 2  # idle for longer than the grace
            send_at_once(GET)
            arrive(connection)
            server.draining.set()
            connection.drain()
            response = await client.receive_response()
            assert (response.status, response.header("connection")) == (200, b"close")
            await client.wait_closed()

    @ARRIVALS
    async def test_half_a_head(self, arrive):
        async with one_connection((None, None), head=0.1) as (server, client, send_at_once):
            connection = connection_of(server)
            send_at_once(GET[:10])
            arrive(connection)
            connection.read_deadline = now = trio.current_time()
            connection.expire(now)
            assert (await client.receive_response()).status == 408

    async def test_empty_lines_are_no_request(self):
        async with one_connection((None, None)) as (server, client, send_at_once):
            connection = connection_of(server)
            send_at_once(b"\r\n")
            connection.read_deadline = now = trio.current_time()
            connection.expire(now)
            await client.wait_closed()

    @ARRIVALS
    async def test_a_stop_in_the_same_moment_ends_all(self, arrive):
        async with one_connection((None, None)) as (server, client, send_at_once):
            connection = connection_of(server)
            send_at_once(GET)
            arrive(connection)
            connection.read_deadline = now = trio.current_time()
            connection.expire(now)
            connection.end()
            start = trio.current_time()
            while await client.receive_some():
                pass  # a 503, if the task had the request already
            assert trio.current_time() - start < 3

    async def test_on_a_stream(self, autojump_clock):
        async with open_memory_server(app, settings()) as server, server.raw_client() as client:
            await ask(client)
            await trio.testing.wait_all_tasks_blocked()
            connection = connection_of(server.server)
            client.stream.send_stream._outgoing.put(GET)  # as `send_all`, without its checkpoint
            trio.testing.memory_stream_pump(
                client.stream.send_stream, connection.transport._stream.receive_stream
            )
            connection.read_deadline = now = trio.current_time()
            connection.expire(now)
            assert (await client.receive_response()).status == 200
