"""Deadlines of HTTP/2 connections and streams, on a clock that jumps."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from hyperframe.frame import (
    DataFrame,
    GoAwayFrame,
    HeadersFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from trioserve.config import Config, LifecycleSettings, LoggingSettings
from trioserve.config import TimeoutSettings as Timeouts
from trioserve.testing.http2_client import PREFACE, Http2Client
from trioserve.testing.memory import open_memory_server

CANCEL = 8


def settings(**timeouts):
    return Config(
        logging=LoggingSettings(access="off"),
        lifecycle=LifecycleSettings(lifespan="off"),
        timeouts=Timeouts(**timeouts),
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


async def respond(send, body=b"ok", more=False):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def hello(scope, receive, send):
    await respond(send)


async def sleeps(scope, receive, send):
    await trio.sleep(float(scope["path"][1:]))
    await respond(send)


async def closed_after(client):
    """Seconds until the server has closed the connection."""
    begun = trio.current_time()
    await client.wait_closed()
    return trio.current_time() - begun


class TestHeads:
    @pytest.mark.parametrize("sent", [0, 5, 17, 20, 24, 30])
    async def test_a_slow_preface(self, sent, autojump_clock):
        data = (PREFACE + SettingsFrame().serialize())[:sent]
        async with open_memory_server(hello, settings(head=15, keep_alive=75)) as server:
            client = Http2Client(server.connect())
            await client.stream.send_all(data)
            begun = trio.current_time()
            while await client.stream.receive_some(1000):
                pass
            # A whole preface is as good as a first request: what follows it is idle.
            assert trio.current_time() - begun == pytest.approx(75 if sent == 24 else 15, abs=0.1)

    async def test_a_preface_that_trickles(self, autojump_clock):
        async with open_memory_server(hello, settings(head=15)) as server:
            stream = server.connect()
            begun = trio.current_time()
            for byte in PREFACE[:20]:
                await trio.sleep(1)
                try:
                    await stream.send_all(bytes([byte]))
                except trio.BrokenResourceError:
                    break
            assert trio.current_time() - begun == pytest.approx(16, abs=1.1)

    @pytest.mark.parametrize("busy", [True, False])
    async def test_a_field_block_that_trickles(self, busy, autojump_clock):
        """Nothing else can come while a block is open, so the connection ends also while another stream runs."""
        async with open_client(sleeps, settings(head=15, keep_alive=75)) as client:
            running = await client.request(path="/40") if busy else None
            frames = client.request_frames(path="/0")
            block = frames[0].data
            begun = trio.current_time()
            head = HeadersFrame(frames[0].stream_id, b"", flags=["END_STREAM"]).serialize()
            await client.send(head[:3])
            await trio.sleep(5)
            await client.send(head[3:])
            await trio.sleep(5)
            await client.send(b"\x00\x00" + bytes([len(block)]) + b"\x09\x04")
            goaway = await client.wait_for(GoAwayFrame)
            assert goaway.error_code == 0
            assert trio.current_time() - begun == pytest.approx(20 if busy else 15, abs=0.1)
            if running is not None:
                await trio.sleep(1)
                assert not client.record(running).ended

    async def test_a_frame_in_pieces_on_an_idle_connection(self, autojump_clock):
        async with open_client(hello, settings(head=15, keep_alive=75)) as client:
            await client.send(b"\x00\x00")
            assert await closed_after(client) == pytest.approx(15, abs=0.1)


class TestKeepAlive:
    async def test_an_idle_connection_ends_with_goaway(self, autojump_clock):
        async with open_client(hello, settings(keep_alive=75)) as client:
            await trio.sleep(50)
            last = await client.request()
            await client.response(last)
            assert await closed_after(client) == pytest.approx(75, abs=0.1)
            assert (client.goaway.error_code, client.goaway.last_stream_id) == (0, last)

    async def test_one_that_waits_for_an_answer_is_not_idle(self, autojump_clock):
        async with open_client(sleeps, settings(keep_alive=75)) as client:
            assert (await client.get("/300", timeout=400)).body == b"ok"
            assert await closed_after(client) == pytest.approx(75, abs=0.1)

    async def test_nor_one_with_an_unread_upload(self, autojump_clock):
        async with open_client(sleeps, settings(keep_alive=75, head=15, body_stall=10)) as client:
            stream_id = await client.request("POST", "/300", end_stream=False)
            frame = DataFrame(stream_id, b"abc").serialize()
            await client.send(frame[:5])
            await trio.sleep(200)
            await client.send(frame[5:])
            assert (await client.response(stream_id)).body == b"ok"

    async def test_a_connection_without_a_timeout_stays(self, autojump_clock):
        async with open_client(hello, settings(keep_alive=0)) as client:
            await trio.sleep(10_000)
            assert (await client.get()).body == b"ok"


class TestStreams:
    async def test_each_has_its_own_request_timeout(self, autojump_clock):
        async with open_client(sleeps, settings(request=10)) as client:
            slow = await client.request(path="/100")
            await trio.sleep(5)
            later = await client.request(path="/9")
            response = await client.response(slow)
            assert (response.status, response.header("retry-after")) == (503, b"1")
            assert (await client.response(later)).status == 200
            assert client.server.stats().timeouts == 1

    async def test_a_response_that_has_begun_is_reset(self, autojump_clock):
        async def app(scope, receive, send):
            await respond(send, more=True)
            await trio.sleep_forever()

        async with open_client(app, settings(request=10)) as client:
            stream_id = await client.request()
            assert (await client.wait_for(RstStreamFrame, stream_id)).error_code == CANCEL
            await trio.testing.wait_all_tasks_blocked()
            assert client.server.stats().timeouts == 1
            assert client.server.stats().requests_running == 0

    async def test_the_owed_answer_is_not_waited_for_long(self, autojump_clock):
        """The client has no window for it."""
        async with open_client(
            sleeps, settings(request=10), {SettingsFrame.INITIAL_WINDOW_SIZE: 0}
        ) as client:
            stream_id = await client.request(path="/100")
            begun = trio.current_time()
            assert (await client.wait_for(RstStreamFrame, stream_id)).error_code == CANCEL
            assert trio.current_time() - begun <= 12

    async def test_a_refusal_that_the_client_does_not_read(self, autojump_clock):
        no_window = {SettingsFrame.INITIAL_WINDOW_SIZE: 0}
        async with open_client(hello, settings(write_stall=20), no_window) as client:
            stream_id = await client.request(headers=[(b"x-%d" % n, b"") for n in range(200)])
            head = await client.wait_for(HeadersFrame, stream_id)
            assert "END_STREAM" not in head.flags
            assert (await client.wait_for(RstStreamFrame, stream_id)).error_code == CANCEL
            assert client.server.stats().requests_refused == 1

    async def test_cleanup_has_its_grace_and_the_client_does_not_wait_for_more(
        self, autojump_clock, error_log
    ):
        async def app(scope, receive, send):
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(50)

        async with open_client(app, settings(request=10, cleanup_grace=4)) as client:
            stream_id = await client.request()
            begun = trio.current_time()
            await client.wait_for(RstStreamFrame, stream_id)
            assert trio.current_time() - begun == pytest.approx(14, abs=0.1)
            assert len(error_log()) == 1
            assert "does not end after its cancellation (request timeout): GET / HTTP/2" in error_log()[0]
            await trio.sleep(50)
            assert client.server.stats().requests_running == 0

    async def test_a_body_stall_is_the_streams_alone(self, autojump_clock):
        async def app(scope, receive, send):
            if scope["method"] == "POST":
                while (await receive())["more_body"]:
                    pass
            await trio.sleep(50)
            await respond(send)

        async with open_client(app, settings(body_stall=20)) as client:
            stalling = await client.request("POST", end_stream=False)
            other = await client.request()
            assert (await client.response(stalling)).status == 408
            assert (await client.wait_for(RstStreamFrame, stalling)).error_code in {0, CANCEL}
            assert (await client.response(other)).status == 200

    async def test_a_deadline_that_the_application_sets(self, autojump_clock):
        async def app(scope, receive, send):
            control = scope["extensions"]["trioserve"]
            control.deadline = trio.current_time() + 1.5
            await trio.sleep(20)

        async with open_client(app) as client:
            begun = trio.current_time()
            assert (await client.get()).status == 503
            assert trio.current_time() - begun == pytest.approx(1.5, abs=0.05)

    @pytest.mark.parametrize(
        "priority",
        [b"u=3", b"u=3, i"],
    )
    async def test_a_stream_that_waits_for_its_turn_does_not_stall(self, priority, autojump_clock):
        """A slow client takes long over the first of two large responses, and the connection's window is shared."""

        async def app(scope, receive, send):
            await respond(send, b"x" * 400_000)

        async with open_client(
            app, settings(write_stall=60), {SettingsFrame.INITIAL_WINDOW_SIZE: 1 << 20}
        ) as client:
            client.update_windows = False
            streams = [await client.request(headers=[(b"priority", priority)]) for _ in range(2)]
            for _ in range(100):
                await trio.sleep(10)
                await client.send(WindowUpdateFrame(0, 10_000))
            await client.ping()
            assert [client.record(number).reset for number in streams] == [None, None]
            for stream_id in streams:
                assert len((await client.response(stream_id)).body) == 400_000
