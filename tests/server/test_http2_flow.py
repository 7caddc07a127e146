"""Flow control end to end: clients that read slowly or not at all, applications that do not take what is sent."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from math import inf

import pytest
import trio
import trio.testing
from hyperframe.frame import DataFrame, HeadersFrame, RstStreamFrame, SettingsFrame, WindowUpdateFrame

from trioserve.asgi.errors import ClientDisconnected
from trioserve.config import Config, LifecycleSettings, LimitSettings, LoggingSettings
from trioserve.config import TimeoutSettings as Timeouts
from trioserve.server.server import serve
from trioserve.testing.http2_client import Http2Client
from trioserve.testing.memory import open_memory_server

NO_WINDOW = {SettingsFrame.INITIAL_WINDOW_SIZE: 0}
CANCEL = 8
KIB, MIB = 1 << 10, 1 << 20


def settings(limits=None, **timeouts):
    return Config(
        bind=("127.0.0.1:0",),
        logging=LoggingSettings(access="off"),
        lifecycle=LifecycleSettings(lifespan="off"),
        timeouts=Timeouts(**timeouts),
        limits=limits or LimitSettings(),
    )


@asynccontextmanager
async def open_client(app, config=None, client_settings=None, window=None, lockstep=False):
    async with (
        open_memory_server(app, config or settings()) as server,
        Http2Client(server.connect(lockstep=lockstep)) as client,
    ):
        await client.start(client_settings, window=window)
        client.server = server
        yield client


async def respond(send, body=b"ok", more=False):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body, "more_body": more})


class Sender:
    """Sends pieces of one size until it has sent all of them or may not."""

    def __init__(self, pieces=2000, size=64 * KIB):
        self.pieces = pieces
        self.size = size
        self.taken = 0
        self.ended_at = inf
        self.finished = False

    async def __call__(self, scope, receive, send):
        if scope["path"] == "/ok":
            await respond(send)
            return
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(self.pieces):
                await send({"type": "http.response.body", "body": b"x" * self.size, "more_body": True})
                self.taken += self.size
            await send({"type": "http.response.body"})
            self.finished = True
        finally:
            self.ended_at = trio.current_time()


class TestSlowReaders:
    @pytest.mark.parametrize("send_buffer", [64 * KIB, 256 * KIB])
    async def test_window_zero(self, send_buffer, autojump_clock):
        """The application waits at the high-water mark; the stall ends the stream, and that alone."""
        app = Sender()
        config = settings(LimitSettings(send_buffer=send_buffer), write_stall=60)
        async with open_client(app, config, NO_WINDOW) as client:
            begun = trio.current_time()
            stream_id = await client.request()
            await client.wait_for(HeadersFrame, stream_id)
            await trio.sleep(50)
            assert app.taken == send_buffer  # and one more piece waits
            reset = await client.wait_for(RstStreamFrame, stream_id)
            assert reset.error_code == CANCEL
            assert app.ended_at - begun == pytest.approx(60, abs=0.1)
            assert client.server.stats().timeouts == 1
            assert client.server.stats().bytes_sent == 0
            await client.send(SettingsFrame(settings={SettingsFrame.INITIAL_WINDOW_SIZE: 100}))
            assert (await client.get("/ok")).body == b"ok"

    @pytest.mark.parametrize("opens", ["stream", "connection"])
    async def test_a_trickle_of_window_is_a_stall(self, opens, autojump_clock):
        app = Sender()
        initial = NO_WINDOW if opens == "stream" else {}
        async with open_client(app, settings(write_stall=60), initial) as client:
            client.update_windows = False
            begun = trio.current_time()
            stream_id = await client.request()
            for _ in range(500):
                await trio.sleep(1)
                await client.send(WindowUpdateFrame(stream_id if opens == "stream" else 0, 1))
                if app.ended_at != inf:
                    break
            assert app.ended_at - begun < 150
            await client.wait_for(RstStreamFrame, stream_id)

    async def test_one_that_reads_slowly_but_does_read_is_none(self, autojump_clock):
        app = Sender(10)
        async with open_client(app, settings(write_stall=60), NO_WINDOW, window=MIB) as client:
            client.update_windows = False
            stream_id = await client.request()
            for _ in range(64):
                await trio.sleep(50)
                await client.send(WindowUpdateFrame(stream_id, 10 * KIB))
            assert len((await client.response(stream_id)).body) == 640 * KIB
        assert app.finished

    async def test_the_last_piece_is_waited_for_too(self, autojump_clock):
        async def app(scope, receive, send):
            await respond(send, b"x" * 1000)
            after.append(trio.current_time())

        after = []
        async with open_client(app, settings(), NO_WINDOW) as client:
            stream_id = await client.request()
            await trio.sleep(20)
            assert after == []
            await client.send(WindowUpdateFrame(stream_id, 1000))
            opened = trio.current_time()
            assert len((await client.response(stream_id)).body) == 1000
            await trio.testing.wait_all_tasks_blocked()
            assert after[0] - opened < 0.1
            assert client.server.stats().bytes_sent == 1000

    async def test_a_client_that_does_not_read_its_socket(self, autojump_clock):
        """It is the connection that stalls: all of its streams end, and it does."""
        app = Sender()
        async with open_client(app, settings(write_stall=60), window=2**31 - 1, lockstep=True) as client:
            begun = trio.current_time()
            await client.request()
            await client.request()
            await trio.sleep(200)
            assert app.taken <= 2 * 256 * KIB
            assert 60 <= app.ended_at - begun < 140
            stats = client.server.stats()
            assert (stats.requests_running, stats.connections_open) == (0, 0)

    async def test_on_a_real_socket(self):
        app = Sender()
        config = settings(write_stall=0.3, disconnect_grace=0.1)
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                server = await nursery.start(serve, app, config)
                stream = await trio.open_tcp_stream(*server.addresses[0])
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client = Http2Client(stream)
                await client.start({SettingsFrame.INITIAL_WINDOW_SIZE: 2**31 - 1}, window=2**31 - 1)
                await client.request()
                while server.stats().connections_open:  # noqa: ASYNC110 - nothing tells of it
                    await trio.sleep(0.01)
                assert app.ended_at != inf
                assert app.taken < 20 * MIB
                assert server.stats().requests_running == 0
                await client.aclose()
                server.drain()

    async def test_requests_without_reading_make_no_queue(self, autojump_clock):
        """Answers have a place to wait, and once it is full nothing more is read of the client."""
        head = [(b"x-large", b"%d" % n * 1000) for n in range(10)]

        async def app(scope, receive, send):
            await send({"type": "http.response.start", "status": 200, "headers": head})
            await send({"type": "http.response.body", "body": b"x" * 10_000})

        async with open_client(app, settings(write_stall=1000)) as client:
            server = client.server
            ours, theirs = trio.testing.lockstep_stream_pair()
            server.server.start_stream(theirs)
            flooder = Http2Client(ours)
            await flooder.start()
            with trio.move_on_after(50):
                for _ in range(3000):
                    await flooder.request()
            stats = server.stats()
            assert stats.requests_total < 1500
            assert stats.requests_running <= 100
            assert (await client.get()).status == 200
            await flooder.aclose()


class TestUploads:
    async def app(self, scope, receive, send):
        if scope["path"] == "/stuck":
            await self.go.wait()
        size = 0
        while scope["method"] == "POST":
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnected
            size += len(message["body"])
            if not message["more_body"]:
                break
        await respond(send, b"%d" % size)

    @pytest.fixture(autouse=True)
    def begin(self):
        self.go = trio.Event()

    async def upload(self, client, path, size, done=None):
        stream_id = await client.request("POST", path, end_stream=False)
        await client.send_body(stream_id, b"x" * size)
        response = await client.response(stream_id)
        assert response.body == b"%d" % size
        if done is not None:
            done.append(path)

    async def test_one_that_nobody_reads_holds_up_no_other(self):
        done = []
        async with open_client(self.app) as client, trio.open_nursery() as nursery:
            stuck = await client.request("POST", "/stuck", end_stream=False)
            nursery.start_soon(client.send_body, stuck, b"x" * 2 * MIB)
            await trio.testing.wait_all_tasks_blocked()
            assert (
                client.record(stuck).window == 0
            )  # it has used up its stream's, which is the bound of what is held
            for number in range(100):
                if number % 3:
                    assert (await client.get()).body == b"0"
                else:
                    await self.upload(client, "/", 100)
            for _ in range(3):
                await self.upload(client, "/", 3 * MIB, done)
            await client.ping()
            assert client.record(stuck).window == 0
            assert not client.record(stuck).ended
            self.go.set()
            assert (await client.response(stuck)).body == b"%d" % (2 * MIB)
        assert len(done) == 3

    async def test_all_that_nobody_reads_is_bounded(self):
        """Each stream by its window, and all together: then the connection as a whole has to wait."""
        async with open_client(self.app) as client:
            with trio.CancelScope() as enough:
                async with trio.open_nursery() as nursery:
                    for _ in range(50):
                        stream_id = await client.request("POST", "/stuck", end_stream=False)
                        nursery.start_soon(client.send_body, stream_id, b"x" * MIB)
                    await trio.testing.wait_all_tasks_blocked()
                    enough.cancel()
            sent = sum(
                frame_size(client, number) for number, record in client.streams.items() if record.window < MIB
            )
            assert sent <= 7 * MIB
            self.go.set()

    async def test_padding_and_empty_frames_are_given_credit_for(self):
        async with open_client(self.app) as client:
            window = client.window
            for _ in range(3):
                stream_id = await client.request("POST", end_stream=False)
                for _ in range(100):
                    frame = DataFrame(stream_id, b"x" * 10, flags=["PADDED"], pad_length=255)
                    await client.send(frame)
                    client.window -= 256
                await client.send(DataFrame(stream_id, b"", flags=["END_STREAM"]))
                assert (await client.response(stream_id)).body == b"1000"
            for _ in range(30):
                await self.upload(client, "/", 100_000)
            assert client.window > window // 3


def frame_size(client, number):
    return MIB - client.record(number).window
