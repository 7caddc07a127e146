"""Clients that reset streams, or leave with streams in flight: who is told, who is cancelled, who goes on."""

from __future__ import annotations

import socket
import struct
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from hyperframe.frame import DataFrame, HeadersFrame, RstStreamFrame, SettingsFrame

from trioserve.asgi.errors import ClientDisconnected
from trioserve.config import Config, Http2Settings, LifecycleSettings, LoggingSettings
from trioserve.config import TimeoutSettings as Timeouts
from trioserve.server.server import serve
from trioserve.testing.http2_client import Http2Client
from trioserve.testing.http2_record import render_frame
from trioserve.testing.memory import open_memory_server

CANCEL, REFUSED_STREAM, ENHANCE_YOUR_CALM = 8, 7, 11


def settings(on_disconnect="cancel", http2=None, **timeouts):
    return Config(
        bind=("127.0.0.1:0",),
        logging=LoggingSettings(access="off"),
        lifecycle=LifecycleSettings(lifespan="off", on_disconnect=on_disconnect),
        timeouts=Timeouts(**timeouts),
        http2=http2 or Http2Settings(),
    )


@asynccontextmanager
async def open_client(app, config=None, client_settings=None):
    async with (
        open_memory_server(app, config or settings()) as server,
        Http2Client(server.connect()) as client,
    ):
        await client.start(client_settings)
        client.server = server
        yield client


@asynccontextmanager
async def open_socket_client(app, config):
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve, app, config)
            client = Http2Client(await trio.open_tcp_stream(*server.addresses[0]), timeout=5)
            await client.start()
            client.server = server
            yield client
            await client.aclose()
            server.drain()


async def all_ended(server):
    with trio.fail_after(5):
        while server.stats().requests_running:  # noqa: ASYNC110 - nothing tells of it
            await trio.sleep(0.005)


async def respond(send, body=b"ok", more=False):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body, "more_body": more})


class Sleeper:
    """Sleeps, except on /ok, and notes how each request ended and when."""

    def __init__(self, cleanup=0):
        self.cleanup = cleanup
        self.ended = {}
        self.running = 0
        self.most = 0
        self.alone = trio.Event()

    async def __call__(self, scope, receive, send):
        if scope["path"] == "/ok":
            await respond(send)
            return
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await trio.sleep_forever()
        finally:
            with trio.move_on_after(self.cleanup, shield=True):
                await trio.sleep_forever()
            self.running -= 1
            self.ended[scope["path"]] = trio.current_time()
            if not self.running:
                self.alone.set()


class TestResets:
    async def test_one_handler_is_cancelled_after_the_grace_and_the_others_go_on(self, autojump_clock):
        app = Sleeper()
        async with open_client(app, settings(disconnect_grace=7)) as client:
            streams = [await client.request(path=f"/{number}") for number in range(3)]
            await trio.sleep(20)
            await client.send(RstStreamFrame(streams[1], CANCEL))
            left = trio.current_time()
            await trio.sleep(30)
            assert list(app.ended) == ["/1"]
            assert app.ended["/1"] - left == pytest.approx(7, abs=0.02)
            assert (await client.get("/ok")).body == b"ok"
            assert client.server.stats().requests_running == 2
            assert client.server.stats().disconnects == 1
            client.server.server.stop_now()

    async def test_a_response_that_ends_within_the_grace_is_no_cancellation(self, autojump_clock):
        async def app(scope, receive, send):
            await trio.sleep(5)
            with pytest.raises(ClientDisconnected):
                await respond(send)
            ended.append(True)

        ended = []
        async with open_client(app, settings(disconnect_grace=10)) as client:
            await client.send(RstStreamFrame(await client.request(), CANCEL))
            await trio.sleep(20)
        assert ended == [True]

    async def test_notify_never_cancels(self, autojump_clock):
        async def app(scope, receive, send):
            await receive()
            assert await receive() == {"type": "http.disconnect"}
            await trio.sleep(1000)
            ended.append(True)

        ended = []
        async with open_client(app, settings("notify", graceful=0)) as client:
            await client.send(RstStreamFrame(await client.request(), CANCEL))
            await trio.sleep(2000)
        assert ended == [True]

    async def test_what_runs_after_the_response_is_not_cancelled(self, autojump_clock):
        async def app(scope, receive, send):
            await respond(send)
            await trio.sleep(100)
            ended.append(True)

        ended = []
        async with open_client(app) as client:
            stream_id = await client.request()
            await client.response(stream_id)
            await client.send(RstStreamFrame(stream_id, CANCEL))
            await client.aclose()
            await trio.sleep(200)
        assert ended == [True]
        assert client.server.stats().disconnects == 0

    async def test_the_rest_of_a_reset_body_is_still_handed_over(self):
        async def app(scope, receive, send):
            await go.wait()
            for _ in range(3):
                received.append(await receive())
            done.set()

        received, go, done = [], trio.Event(), trio.Event()
        async with open_client(app) as client:
            stream_id = await client.request("POST", body=b"abc", end_stream=False)
            await client.send(RstStreamFrame(stream_id, CANCEL))
            await client.ping()
            go.set()
            await done.wait()
        assert received == [
            {"type": "http.request", "body": b"abc", "more_body": True},
            *[{"type": "http.disconnect"}] * 2,
        ]

    @pytest.mark.parametrize("wrong", ["too much", "too little"])
    async def test_a_body_that_belies_its_length_is_never_complete(self, wrong, error_log):
        async def app(scope, receive, send):
            while (message := await receive())["type"] == "http.request":
                assert message["more_body"]
            told.set()

        told = trio.Event()
        async with open_client(app) as client:
            stream_id = await client.request("POST", headers=[(b"content-length", b"5")], end_stream=False)
            piece = b"123456" if wrong == "too much" else b"1234"
            await client.send(DataFrame(stream_id, piece, flags=["END_STREAM"]))
            assert await client.wait_error() == (stream_id, 1)
            await told.wait()
        assert error_log() == []


class TestRunningApplications:
    async def test_they_never_exceed_the_streams_beside_those_being_cancelled(self, autojump_clock):
        app = Sleeper(cleanup=2)
        config = settings(http2=Http2Settings(max_concurrent_streams=10), disconnect_grace=3)
        async with open_client(app, config) as client:
            for _ in range(15):  # 150 resets: within the budget
                for _ in range(10):
                    stream_id = await client.request(path="/x")
                    await client.send(RstStreamFrame(stream_id, CANCEL))
                await client.ping()
                stats = client.server.stats()
                assert stats.requests_running <= app.running
                await trio.sleep(1)
            # Each is cancelled when the next needs its place, and has its two seconds of cleanup.
            assert app.most <= 10 + 10 * 3
            await trio.sleep(20)
            assert app.running == 0
            assert (await client.get("/ok")).body == b"ok"

    async def test_where_none_is_cancelled_no_more_are_begun(self, autojump_clock):
        app = Sleeper()
        config = settings("notify", http2=Http2Settings(max_concurrent_streams=10), graceful=5)
        async with open_client(app, config) as client:
            streams = [await client.request() for _ in range(10)]
            for stream_id in streams:
                await client.send(RstStreamFrame(stream_id, CANCEL))
            for _ in range(50):
                stream_id = await client.request()
                assert await client.wait_error() == (stream_id, REFUSED_STREAM)
            assert app.most == 10

    async def test_a_flood_of_resets_ends_the_connection_and_its_applications(self, autojump_clock):
        app = Sleeper()
        async with open_client(app, settings(disconnect_grace=3)) as client:
            for _ in range(3000):
                stream_id = await client.request()
                await client.send(RstStreamFrame(stream_id, CANCEL))
                await trio.lowlevel.checkpoint()
            await client.wait_closed()
            assert client.goaway.error_code == ENHANCE_YOUR_CALM
            await trio.sleep(5)
            assert app.running == 0
        assert app.most <= 200

    async def test_a_loop_on_send_after_a_reset_slows_nobody(self):
        async def app(scope, receive, send):
            if scope["path"] == "/ok":
                await respond(send)
                return
            await respond(send, more=True)
            await receive()
            while True:
                try:
                    await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
                except OSError:
                    looped.append(True)

        looped = []
        async with open_client(app, settings(disconnect_grace=0.2, graceful=0.1)) as client:
            streams = [await client.request() for _ in range(3)]
            for stream_id in streams:
                await client.send(RstStreamFrame(stream_id, CANCEL))
            begun = trio.current_time()
            for _ in range(20):
                assert (await client.get("/ok")).body == b"ok"
            assert trio.current_time() - begun < 1
            await client.ping()
            await all_ended(client.server)
        assert looped


class TestConnections:
    async def test_a_half_closed_client_gets_what_it_asked_for(self):
        async def app(scope, receive, send):
            await receive()
            assert await receive() == {"type": "http.disconnect"}
            await respond(send, b"x" * 30_000)

        async with open_client(app) as client:
            streams = [await client.request() for _ in range(2)]
            await client.stream.send_eof()
            client.update_windows = False
            for stream_id in streams:
                assert len((await client.response(stream_id)).body) == 30_000
            await client.wait_closed()

    async def test_an_upload_that_ends_with_the_connection_is_not_complete(self):
        async def app(scope, receive, send):
            while (message := await receive())["type"] == "http.request":
                received.append(message["more_body"])
            told.set()

        received, told = [], trio.Event()
        async with open_client(app) as client:
            await client.request("POST", body=b"abc", end_stream=False)
            await client.stream.send_eof()
            await told.wait()
        assert received == [True]

    @pytest.mark.parametrize("breaks", [True, False])
    async def test_all_handlers_are_told_and_cancelled(self, breaks):
        async def app(scope, receive, send):
            await respond(send, more=True)
            await receive()
            try:
                await receive()
                told.append(True)
                while breaks:
                    await send({"type": "http.response.body", "body": b"x", "more_body": True})
                await trio.sleep_forever()
            finally:
                ended.append(True)

        told, ended = [], []
        async with open_socket_client(app, settings(disconnect_grace=0.05)) as client:
            streams = [await client.request() for _ in range(20)]
            for stream_id in streams:
                await client.wait_for(HeadersFrame, stream_id)
            if breaks:
                sock = client.stream.socket
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await client.aclose()
            await all_ended(client.server)
            assert client.server.stats().disconnects == 20
            assert client.server.stats().errors == 0
        assert len(told) == len(ended) == 20

    async def test_the_protocols_mistakes_take_the_client_from_all_streams(self, autojump_clock):
        app = Sleeper()
        async with open_client(app, settings(disconnect_grace=3)) as client:
            streams = [await client.request(path=f"/{number}") for number in range(3)]
            await client.send(render_frame(SettingsFrame.type, stream_id=streams[0]))
            await client.wait_closed()
            assert client.goaway.error_code == 1
            assert app.ended == {}
            begun = trio.current_time()
            await app.alone.wait()
            assert trio.current_time() - begun <= 3.1
        assert len(app.ended) == 3

    async def test_the_connection_ends_before_its_applications_do(self, autojump_clock):
        app = Sleeper(cleanup=1)
        async with open_client(app, settings("notify", graceful=2)) as client:
            await client.request()
            await client.aclose()
            await trio.sleep(10)
            assert client.server.stats().requests_running == 1


class TestLateRelease:
    async def test_credit_for_held_bodies_on_a_connection_that_failed(self, error_log):
        """Many bytes are held when the connection fails; giving credit for them then must hurt nobody."""

        async def app(scope, receive, send):
            await go.wait()
            while (await receive())["type"] == "http.request":
                received.append(True)
            ended.append(True)

        go, received, ended = trio.Event(), [], []
        http2 = Http2Settings(window=1 << 20, connection_window=1 << 16)
        async with open_client(app, settings(http2=http2)) as client:
            async with trio.open_nursery() as nursery:
                for _ in range(6):
                    stream_id = await client.request("POST", end_stream=False)
                    nursery.start_soon(client.send_body, stream_id, b"x" * 90_000)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            assert client.window <= 0
            # A window beyond 2**31 - 1 is a mistake that h2 finds.
            await client.send(b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x7f\xff\xff\xff")
            await client.wait_closed()
            go.set()
            await all_ended(client.server)
        assert error_log() == []
        assert received
