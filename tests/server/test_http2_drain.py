"""Draining HTTP/2 connections: two GOAWAY frames, what runs goes on, what comes later is refused for another try."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from hyperframe.frame import DataFrame, GoAwayFrame, HeadersFrame, PingFrame, RstStreamFrame, SettingsFrame

from trioserve.config import Config, LifecycleSettings, LoggingSettings
from trioserve.config import TimeoutSettings as Timeouts
from trioserve.server.server import serve
from trioserve.testing.http2_client import PREFACE, Http2Client
from trioserve.testing.memory import open_memory_server

ANY_STREAM = 2**31 - 1
REFUSED_STREAM = 7


def settings(**timeouts):
    return Config(
        bind=("127.0.0.1:0",),
        logging=LoggingSettings(access="off"),
        lifecycle=LifecycleSettings(lifespan="off"),
        timeouts=Timeouts(**timeouts),
    )


@asynccontextmanager
async def open_client(app, config=None, client_settings=None):
    """The server ends with the block, and has to."""
    with trio.fail_after(1000):
        async with open_memory_server(app, config or settings()) as server:
            client = Http2Client(server.connect())
            await client.start(client_settings)
            client.server = server
            yield client


async def respond(send, body=b"ok", more=False):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body, "more_body": more})


class Held:
    """Answers when it is told to."""

    def __init__(self, head=False):
        self.go = trio.Event()
        self.head = head
        self.cancelled = 0

    async def __call__(self, scope, receive, send):
        try:
            if self.head:
                await respond(send, b"some", more=True)
                await self.go.wait()
                await send({"type": "http.response.body", "body": b"thing"})
            else:
                await self.go.wait()
                await respond(send)
        except trio.Cancelled:
            self.cancelled += 1
            raise


@pytest.mark.parametrize("head", [True, False])
async def test_all_streams_in_flight_complete(head, autojump_clock):
    app = Held(head)
    async with open_client(app) as client:
        streams = [await client.request() for _ in range(100)]
        await client.ping()
        client.answer_pings = False
        await client.server.drain()
        first = await client.wait_for(GoAwayFrame)
        assert (first.last_stream_id, first.error_code) == (ANY_STREAM, 0)
        ping = await client.wait_for(PingFrame)
        # What the client sends before it has answered is still served, if there is room for it.
        await client.send(PingFrame(opaque_data=ping.opaque_data, flags=["ACK"]))
        second = await client.wait_for(GoAwayFrame)
        assert (second.last_stream_id, second.error_code) == (streams[-1], 0)
        assert all(not client.record(stream_id).ended for stream_id in streams)
        app.go.set()
        bodies = {(await client.response(stream_id)).body for stream_id in streams}
        assert bodies == {b"something" if head else b"ok"}
        await client.wait_closed()
        assert client.server.stats().requests_total == 100
    assert app.cancelled == 0


async def test_between_the_two_a_request_is_served_and_after_them_refused(autojump_clock):
    app = Held()
    async with open_client(app) as client:
        early = await client.request()
        client.answer_pings = False
        await client.server.drain()
        await client.wait_for(GoAwayFrame)
        between = await client.request()
        begun = trio.current_time()
        last = await client.wait_for(GoAwayFrame)  # the client's answer is not waited for long
        assert trio.current_time() - begun <= 1.1
        assert last.last_stream_id == between
        late = [await client.request() for _ in range(50)]
        upload = await client.request("POST", body=b"x" * 1000)
        for stream_id in (*late, upload):
            reset = await client.wait_for(RstStreamFrame, stream_id)
            assert reset.error_code == REFUSED_STREAM
        app.go.set()
        for stream_id in (early, between):
            assert (await client.response(stream_id)).status == 200
        await client.wait_closed()
        assert client.server.stats().requests_total == 2


async def test_an_upload_in_flight_goes_on(autojump_clock):
    async def app(scope, receive, send):
        size = 0
        while True:
            message = await receive()
            size += len(message["body"])
            if not message["more_body"]:
                break
        await respond(send, b"%d" % size)

    async with open_client(app) as client:
        stream_id = await client.request("POST", end_stream=False)
        await client.server.drain()
        await trio.sleep(5)
        for _ in range(3):
            await client.send_body(stream_id, b"x" * 700_000, end_stream=False)
        await client.send(DataFrame(stream_id, b"", flags=["END_STREAM"]))
        assert (await client.response(stream_id)).body == b"2100000"
        await client.wait_closed()


@pytest.mark.parametrize("used", [True, False])
async def test_idle_connections_end_soon(used, autojump_clock):
    app = Held()
    app.go.set()
    async with open_client(app) as client:
        if used:
            await client.get()
        begun = trio.current_time()
        await client.server.drain()
        await client.wait_closed()
        assert trio.current_time() - begun < 0.1
        assert [frame.last_stream_id for frame in client.frames if isinstance(frame, GoAwayFrame)] == [
            ANY_STREAM,
            1 if used else 0,
        ]


@pytest.mark.parametrize("sent", [0, 10, 24])
async def test_a_connection_in_its_preface(sent, autojump_clock):
    async with open_memory_server(Held(), settings()) as server:
        stream = server.connect()
        await stream.send_all((PREFACE + SettingsFrame().serialize())[:sent])
        await trio.testing.wait_all_tasks_blocked()
        begun = trio.current_time()
        await server.drain()
        while await stream.receive_some(1000):
            pass
        assert trio.current_time() - begun < 17
    assert trio.current_time() - begun < 20


@pytest.mark.parametrize("head", [True, False])
async def test_the_grace_ends(head, autojump_clock):
    """Heads that are owed become 503, and what has begun is reset."""
    app = Held(head)
    async with open_client(app, settings(graceful=30)) as client:
        streams = [await client.request() for _ in range(10)]
        await client.ping()
        begun = trio.current_time()
        await client.server.drain()
        for stream_id in streams:
            if head:
                await client.wait_for(RstStreamFrame, stream_id)
            else:
                response = await client.response(stream_id)
                assert (response.status, response.header("retry-after")) == (503, b"1")
        assert trio.current_time() - begun == pytest.approx(30, abs=0.1)
        await client.wait_closed()
    assert app.cancelled == 10
    assert trio.current_time() - begun < 32


async def test_stopping_at_once(autojump_clock):
    app = Held()
    async with open_client(app) as client:
        stream_id = await client.request()
        await client.ping()
        begun = trio.current_time()
        client.server.server.stop_now()
        assert (await client.response(stream_id)).status == 503
        await client.wait_closed()
    assert trio.current_time() - begun < 2


async def test_a_client_that_does_not_read_cannot_hold_up_the_end(autojump_clock):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x" * 10_000, "more_body": True})

    with trio.fail_after(1000):
        async with open_memory_server(app, settings(graceful=30, write_stall=0, cleanup_grace=3)) as server:
            client = Http2Client(server.connect(lockstep=True))
            await client.start({SettingsFrame.INITIAL_WINDOW_SIZE: 1 << 20}, window=1 << 20)
            await client.request()
            await trio.testing.wait_all_tasks_blocked()
            begun = trio.current_time()
    assert trio.current_time() - begun < 37


async def test_the_application_is_told(autojump_clock):
    async def app(scope, receive, send):
        await scope["extensions"]["trioserve"].draining.wait()
        await respond(send, b"bye")

    async with open_client(app) as client:
        stream_id = await client.request()
        await client.ping()
        await client.server.drain()
        assert (await client.response(stream_id)).body == b"bye"
        await client.wait_closed()


@pytest.mark.parametrize(
    "where", ["read_body", "write_rest", "push", "continue", "reset", "client goaway", "half closed"]
)
async def test_draining_in_odd_moments(where, autojump_clock, error_log):
    async def app(scope, receive, send):
        if where == "push" and scope["path"] != "/pushed":
            await send({"type": "http.response.push", "path": "/pushed"})
            await trio.sleep(5)
            await send({"type": "http.response.push", "path": "/pushed"})
        if where in {"read_body", "continue"}:
            await receive()
        await respond(send, b"x" * 100_000)

    no_window = {SettingsFrame.INITIAL_WINDOW_SIZE: 0} if where == "write_rest" else None
    async with open_client(app, client_settings=no_window) as client:
        uploads = where in {"read_body", "continue", "reset"}
        fields = [(b"expect", b"100-continue")] if where == "continue" else []
        stream_id = await client.request("POST" if uploads else "GET", headers=fields, end_stream=not uploads)
        await client.ping()
        await client.server.drain()
        await client.wait_for(GoAwayFrame)
        if where == "write_rest":
            await client.send(SettingsFrame(settings={SettingsFrame.INITIAL_WINDOW_SIZE: 1 << 20}))
        elif where == "reset":
            await client.send(RstStreamFrame(stream_id, 8))
        elif where == "client goaway":
            await client.send(GoAwayFrame(0, 0))
        elif where == "half closed":
            await client.stream.send_eof()
            client.update_windows = client.answer_pings = False
        elif uploads:
            await client.send_body(stream_id, b"abc")
        if where not in {"reset", "half closed"}:
            assert len((await client.response(stream_id)).body) == 100_000
        if where == "half closed":
            await client.wait_for(HeadersFrame, stream_id)
        await client.wait_closed()
    assert error_log() == []


async def test_on_a_real_socket():
    app = Held()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve, app, settings())
            client = Http2Client(await trio.open_tcp_stream(*server.addresses[0]), timeout=5)
            await client.start()
            streams = [await client.request() for _ in range(100)]
            await client.ping()
            server.drain()
            await client.wait_for(GoAwayFrame)
            await client.wait_for(GoAwayFrame)
            app.go.set()
            for stream_id in streams:
                assert (await client.response(stream_id)).body == b"ok"
            await client.wait_closed()
            await client.aclose()


async def test_a_client_that_says_goodbye_without_streams_is_let_go(autojump_clock):
    async def app(scope, receive, send):
        await respond(send)

    async with open_client(app, settings(keep_alive=3600)) as client:
        assert (await client.get("/")).body == b"ok"
        start = trio.current_time()
        await client.send(GoAwayFrame(0))
        await client.wait_closed()
        assert trio.current_time() - start < 5
