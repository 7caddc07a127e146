from __future__ import annotations

import h11
import pytest
import trio

from tests.security.recording_app import NO_LIFESPAN, QUIET, Recorder, connect, respond, serving, until
from trioserve import Config
from trioserve.config import Http1Settings, LimitSettings
from trioserve.testing.raw_client import RawClient

HOST = b"Host: a\r\n"
POST = b"POST / HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
LAST_GET = b"GET / HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"

TEN_TIMES = {
    "head": (431, b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"y" * 655_360 + b"\r\n\r\n"),
    "head in many fields": (
        431,
        b"GET / HTTP/1.1\r\n" + HOST + b"X: " * 1 + (b"y" * 60_000 + b"\r\nX: ") * 10,
    ),
    "empty lines": (431, b"\r\n" * 327_680),
    "target": (414, b"GET /" + b"a" * 163_840 + b" HTTP/1.1\r\n" + HOST + b"\r\n"),
    "fields": (431, b"GET / HTTP/1.1\r\n" + HOST + b"X: y\r\n" * 1000 + b"\r\n"),
    "body by its length": (413, POST + b"Content-Length: 100000\r\n\r\n" + b"x" * 100_000),
    "body in one chunk": (413, CHUNKED + b"186a0\r\n" + b"x" * 100_000 + b"\r\n0\r\n\r\n"),
    "body in small chunks": (413, CHUNKED + b"1\r\nx\r\n" * 100_000 + b"0\r\n\r\n"),
    "chunk extensions": (400, CHUNKED + b"1;" + b"a" * 40_960 + b"\r\nx\r\n0\r\n\r\n"),
    "chunk extensions together": (400, CHUNKED + b"1;a=bcdefg\r\nx\r\n" * 5000 + b"0\r\n\r\n"),
    "trailers": (431, CHUNKED + b"0\r\nX: " + b"y" * 655_360 + b"\r\n\r\n"),
    "trailer fields": (431, CHUNKED + b"0\r\n" + b"X: y\r\n" * 1000 + b"\r\n"),
}


async def send_all(client: RawClient, raw: bytes) -> None:
    try:
        await client.send(raw)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass


@pytest.mark.parametrize("parser", ["h11", "httptools"])
@pytest.mark.parametrize(("status", "raw"), TEN_TIMES.values(), ids=TEN_TIMES)
async def test_ten_times_a_limit_is_answered_and_readable(parser, status, raw):
    app = Recorder()
    settings = {"http1": Http1Settings(parser=parser), "limits": LimitSettings(body_size=10_000)}
    async with (
        serving(app, **settings) as server,
        await connect(server) as client,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(send_all, client, raw)
        with trio.fail_after(8):
            response = await client.receive_response()
            assert response.status == status
            assert response.header("connection") == b"close"
            await client.wait_closed()
    assert not app.seen


class Gate:
    """An application that holds its requests until it is opened, and counts them."""

    def __init__(self) -> None:
        self.open = trio.Event()
        self.running = self.most = self.total = 0

    async def __call__(self, scope, receive, send):
        self.running += 1
        self.total += 1
        self.most = max(self.most, self.running)
        try:
            await self.open.wait()
        finally:
            self.running -= 1
        await respond(send)


async def get(server, results, raw=LAST_GET, path=0):
    host, port = server.addresses[path][:2]
    async with RawClient(await trio.open_tcp_stream(host, port)) as client:
        await send_all(client, raw)
        try:
            results.append(await client.receive_response())
        except h11.RemoteProtocolError:
            results.append(None)


async def test_running_applications():
    app, results = Gate(), []
    async with serving(app, limits=LimitSettings(requests=5)) as server, trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(get, server, results)
        await until(lambda: len(results) == 45)
        assert {r.status for r in results} == {503}
        assert all(int(r.header("retry-after")) > 0 for r in results)
        assert app.total == app.most == 5
        app.open.set()
        await until(lambda: len(results) == 50)
        assert [r.status for r in results[45:]] == [200] * 5
        await get(server, results)
        assert results[-1].status == 200


async def test_an_application_that_goes_on_behind_its_response_still_counts():
    over = trio.Event()

    async def app(scope, receive, send):
        await respond(send)
        await over.wait()

    async with serving(app, limits=LimitSettings(requests=3)) as server, await connect(server) as client:
        await client.send(GET * 30)
        with trio.fail_after(10):
            statuses = [(await client.receive_response()).status for _ in range(30)]
        assert statuses == [200] * 3 + [503] * 27
        over.set()


@pytest.mark.parametrize("listeners", [1, 2])
async def test_connections_over_the_limit_wait_and_are_served(listeners):
    app, results = Gate(), []
    config = Config(
        bind=["127.0.0.1:0"] * listeners,
        limits=LimitSettings(connections=5),
        logging=QUIET,
        lifecycle=NO_LIFESPAN,
    )
    async with serving(app, config) as server, trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(get, server, results, LAST_GET, number % listeners)
        await until(lambda: app.running == 5)
        app.open.set()
        await until(lambda: len(results) == 50)
        assert {r.status for r in results} == {200}
        assert app.most == 5


async def test_connections_of_one_address():
    app, results = Gate(), []
    limits = LimitSettings(connections_per_ip=3)
    async with serving(app, limits=limits) as server, trio.open_nursery() as nursery:
        for _ in range(30):
            nursery.start_soon(get, server, results)
        await until(lambda: len(results) == 27)
        assert results == [None] * 27
        app.open.set()
        await until(lambda: len(results) == 30)
        assert [r.status for r in results[27:]] == [200] * 3
        await until(lambda: server.stats().connections_open == 0)
        await get(server, results)
        assert results[-1].status == 200


async def test_requests_of_one_connection():
    app = Recorder()
    limit = Http1Settings(max_requests_per_connection=3)
    async with serving(app, http1=limit) as server, await connect(server) as client:
        await client.send(GET * 30)
        responses = [await client.receive_response() for _ in range(3)]
        assert [r.header("connection") for r in responses] == [None, None, b"close"]
        with trio.fail_after(5):
            await client.wait_closed()
    assert len(next(iter(app.seen.values()))) == 3


@pytest.mark.parametrize(
    ("host", "status"), [(b"A.example:80", 200), (b"b.example", 421), (b"a.example.", 421)]
)
async def test_hosts_that_are_not_served(host, status):
    app = Recorder()
    async with serving(app, server_names=("a.example",)) as server, await connect(server) as client:
        await client.send(GET.replace(b"Host: a", b"Host: " + host))
        assert (await client.receive_response()).status == status
    assert bool(app.seen) is (status == 200)
