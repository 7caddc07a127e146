from __future__ import annotations

import gc
import tracemalloc

import pytest
import trio
import trio.testing
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    GoAwayFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from tests.security.recording_app import NO_LIFESPAN, QUIET, read_body, respond
from trioserve import Config
from trioserve.config import Http2Settings, LimitSettings, TimeoutSettings
from trioserve.protocols.errors import RemoteProtocolError
from trioserve.protocols.http2.limits import Http2Limits
from trioserve.protocols.http2.machine import Http2Machine
from trioserve.testing.http2_client import PREFACE, Http2Client
from trioserve.testing.memory import open_memory_server

MB = 1 << 20
NO_ERROR, REFUSED_STREAM, CANCEL, CALM = 0x0, 0x7, 0x8, 0xB
WINDOW = SettingsFrame.INITIAL_WINDOW_SIZE


class Served:
    """An application by paths; it counts what runs."""

    def __init__(self):
        self.running = self.most = self.sends = 0
        self.ended = []
        self.go_on = trio.Event()

    async def __call__(self, scope, receive, send):
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await getattr(self, scope["path"].strip("/") or "root")(receive, send)
        except BaseException as error:
            self.ended.append(type(error).__name__)
            raise
        finally:
            self.running -= 1

    async def root(self, receive, send):
        await respond(send)

    async def empty(self, receive, send):
        await respond(send, b"", 204)

    async def wait(self, receive, send):
        await self.go_on.wait()
        await respond(send)

    async def upload(self, receive, send):
        body = await read_body(receive)
        await respond(send, b"%d" % len(body[0]))

    async def large(self, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(2000):
            await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})
            self.sends += 1
        await send({"type": "http.response.body"})

    async def deaf(self, receive, send):
        """Never stops sending, whatever it is told."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            try:
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
            except OSError:
                self.sends += 1


@pytest.fixture
def app():
    return Served()


def settings(**groups):
    return Config(logging=QUIET, lifecycle=NO_LIFESPAN, **groups)


async def open_client(server, first=None, *, lockstep=False, **options):
    client = Http2Client(server.connect(lockstep=lockstep))
    await client.start(first, **options)
    return client


# -- 1: a mistake of one client ends the worker --------------------------------------------------------------------


async def content_after_an_answer(client):
    stream = await client.request("POST", end_stream=False)
    await client.wait_for(RstStreamFrame, stream)
    await client.send(*[DataFrame(stream, b"late")] * 100)
    await client.ping()


async def odd_path(client):
    await client.request(path="/\xff")
    await client.wait_error()


async def odd_method(client):
    await client.request("G\xffT")
    await client.wait_error()


async def thousand_priorities(client):
    frames = [PriorityFrame(stream, stream_weight=15) for stream in range(1, 2 * 1005, 2)]
    await client.send(*frames)
    await client.wait_closed()


MISTAKES = (content_after_an_answer, odd_path, odd_method, thousand_priorities)


@pytest.mark.parametrize("mistake", MISTAKES)
async def test_a_mistake_ends_no_other_connection(app, autojump_clock, mistake):
    async with open_memory_server(app, settings()) as server:
        other = await open_client(server)
        upload = await other.request("POST", "/upload", end_stream=False)
        client = await open_client(server)
        await mistake(client)
        await client.aclose()
        await other.send_body(upload, b"abc")
        assert (await other.response(upload)).body == b"3"
        await other.aclose()


@pytest.mark.parametrize("value", [b"A", b"\xff", b"=", b"AAQAAP__\r\nHTTP2-Settings: AAQAAP__", b"AAIAAAAF"])
async def test_malformed_upgrade_settings_are_a_bad_request(app, autojump_clock, value):
    lines = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: " + value
    async with open_memory_server(app, settings(http2=Http2Settings(h2c_upgrade=True))) as server:
        async with server.raw_client() as client:
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n\r\n")
            assert (await client.receive_response()).status == 400
            await client.wait_closed()
        assert app.most == 0
        other = await open_client(server)
        assert (await other.get()).status == 200
        await other.aclose()


# -- 2: an application that never listens --------------------------------------------------------------------------


async def test_a_loop_on_send_after_a_reset_stops_nobody_and_is_cancelled(app):
    config = settings(timeouts=TimeoutSettings(disconnect_grace=0.2))
    async with open_memory_server(app, config) as server:
        client = await open_client(server)
        deaf = await client.request(path="/deaf")
        await client.wait_for(DataFrame, deaf)
        await client.send(RstStreamFrame(deaf, CANCEL))
        for _ in range(20):
            assert (await client.get()).status == 200
        with trio.fail_after(5):
            while app.running:
                await client.get()
        assert app.sends > 0
        assert app.ended == ["Cancelled"]
        await client.aclose()


# -- 3: a client that does not read, at the end --------------------------------------------------------------------


async def test_a_client_that_does_not_read_cannot_hold_up_the_end(app, autojump_clock):
    timeouts = TimeoutSettings(graceful=5, write_stall=0, cleanup_grace=1)
    async with open_memory_server(app, settings(timeouts=timeouts)) as server:
        client = await open_client(server, {WINDOW: 1 << 30}, window=1 << 30, lockstep=True)
        for _ in range(10):
            await client.send(*client.request_frames(path="/large"))
        start = trio.current_time()
    assert trio.current_time() - start < 10


# -- 4: a window of zero -------------------------------------------------------------------------------------------


async def test_a_window_of_zero_holds_the_application_back_until_the_stream_is_ended(app, autojump_clock):
    async with open_memory_server(app, settings(timeouts=TimeoutSettings(write_stall=30))) as server:
        client = await open_client(server, {WINDOW: 0})
        tracemalloc.start()
        try:
            start = trio.current_time()
            stream = await client.request(path="/large")
            failure = await client.wait_error()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert failure.stream_id == stream
        assert 30 <= trio.current_time() - start < 61
        assert app.sends <= 2  # the high-water mark
        assert app.ended == ["Cancelled"]
        assert peak < 5 * MB
        assert (await client.get("/empty")).status == 204
        await client.aclose()


async def test_a_window_of_single_bytes_is_a_stall(app, autojump_clock):
    async with open_memory_server(app, settings(timeouts=TimeoutSettings(write_stall=30))) as server:
        client = await open_client(server, {WINDOW: 0})
        stream = await client.request(path="/large")
        record = client.record(stream)
        start = trio.current_time()
        with trio.fail_after(100):  # of the clock that jumps
            while record.reset is None:
                await client.send(WindowUpdateFrame(stream, 1))
                await client.ping()
                await trio.sleep(1)
        assert 30 <= trio.current_time() - start < 61
        assert len(record.body) < 1000  # the client gives back what it took, so each window is a byte larger
        await client.aclose()


# -- 5: GOAWAY promises only what is answered ----------------------------------------------------------------------


async def test_every_stream_that_goaway_covers_is_answered_and_later_ones_may_be_tried_again(app):
    async with open_memory_server(app, settings()) as server:
        client = await open_client(server)
        streams = [await client.request(path="/wait") for _ in range(100)]
        await client.ping()
        await server.drain()
        warning = await client.wait_for(GoAwayFrame)
        assert (warning.last_stream_id, warning.error_code) == (2**31 - 1, NO_ERROR)
        final = await client.wait_for(GoAwayFrame)
        assert (final.last_stream_id, final.error_code) == (streams[-1], NO_ERROR)
        late = await client.request()
        assert (await client.wait_for(RstStreamFrame, late)).error_code == REFUSED_STREAM
        app.go_on.set()
        for stream in streams:
            assert (await client.response(stream)).status == 200
        await client.wait_closed()
        assert app.most == 100


# -- 6: an upload that nobody reads --------------------------------------------------------------------------------


async def test_an_unread_upload_holds_nobody_up(app, autojump_clock):
    async with open_memory_server(app, settings()) as server:
        client = await open_client(server)
        unread = await client.request("POST", "/wait", end_stream=False)
        await client.send_body(unread, bytes(client.record(unread).window), end_stream=False)
        assert client.record(unread).window == 0
        for _ in range(100):
            stream = await client.request("POST", "/upload", body=bytes(50_000))
            assert (await client.response(stream)).body == b"50000"
            await client.ping()
        app.go_on.set()
        assert (await client.response(unread)).status == 200
        await client.aclose()


async def test_content_in_single_bytes_is_held_as_if_it_came_at_once(app, autojump_clock):
    pieces = 5_000
    async with open_memory_server(app, settings()) as server:
        client = await open_client(server)
        await client.request("POST", "/wait", end_stream=False)
        await client.ping()
        data = DataFrame(1, b"ab").serialize() * 100
        gc.collect()
        tracemalloc.start()
        try:
            for _ in range(pieces // 100):
                await client.send(data)
                await trio.testing.wait_all_tasks_blocked()
            gc.collect()
            held = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        assert held < 15 * pieces
        await client.aclose()


# -- 10: limits that limit -----------------------------------------------------------------------------------------


async def test_no_more_applications_run_than_streams_are_allowed(app, autojump_clock):
    async with open_memory_server(app, settings()) as server:
        client = await open_client(server)
        for _ in range(202):
            frames = client.request_frames(path="/wait")
            await client.send(*frames, RstStreamFrame(frames[0].stream_id, CANCEL))
            await trio.testing.wait_all_tasks_blocked()
        await client.wait_closed()
        assert client.goaway.error_code == CALM
        assert app.most == 100


async def test_ten_times_as_many_streams_as_allowed(app, autojump_clock):
    async with open_memory_server(app, settings(http2=Http2Settings(max_concurrent_streams=10))) as server:
        client = await open_client(server)
        streams = [await client.request(path="/wait") for _ in range(100)]
        await client.ping()
        assert app.running == 10
        assert [client.record(stream).reset for stream in streams[10:]] == [REFUSED_STREAM] * 90
        app.go_on.set()
        for stream in streams[:10]:
            assert (await client.response(stream)).status == 200
        await client.aclose()


async def test_ten_times_the_body_that_is_allowed(app, autojump_clock):
    async with open_memory_server(app, settings(limits=LimitSettings(body_size=10_000))) as server:
        client = await open_client(server)
        length = [(b"content-length", b"100000")]
        for headers in ([], length):
            stream = await client.request("POST", "/upload", headers=headers, end_stream=False)
            await client.send_body(stream, bytes(100_000), end_stream=False)
            assert (await client.response(stream)).status == 413
        await client.aclose()


@pytest.mark.parametrize("fields", [[(b"x%d" % n, b"") for n in range(1000)], [(b"x", b"y" * 10_000)]])
async def test_ten_times_the_fields_that_are_allowed(app, autojump_clock, fields):
    limits = Http2Settings(max_head_size=1024)
    async with open_memory_server(app, settings(http2=limits)) as server:
        client = await open_client(server)
        stream = await client.request(headers=fields)
        try:
            assert (await client.response(stream)).status == 431
        except AssertionError:
            assert client.goaway.error_code == CALM  # what is not even decoded
        assert app.most == 0
        await client.aclose()


# -- what a connection may make us do, or hold ---------------------------------------------------------------------


async def test_windows_of_many_streams_are_not_changed_a_thousand_times(app, autojump_clock):
    async with open_memory_server(app, settings()) as server:
        client = await open_client(server)
        for _ in range(100):
            await client.send(*client.request_frames(path="/wait"))
        await client.ping()
        flips = [SettingsFrame(settings={WINDOW: 1 + number % 2}) for number in range(60)]
        await client.send(*flips)
        await client.wait_closed()
        assert client.goaway.error_code == CALM


def test_a_connection_that_has_failed_keeps_nothing_of_what_came():
    opening = PREFACE + SettingsFrame().serialize()
    block = ContinuationFrame(1, b"\x82" * 16000).serialize()
    flood = b"\x00\x00\x01\x01\x00\x00\x00\x00\x01\x82" + block * 5
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        machines = []
        for _ in range(50):
            machine = Http2Machine(Http2Limits())
            machine.receive_data(opening + flood, 0.0)
            with pytest.raises(RemoteProtocolError):
                machine.next_event()
            machines.append(machine)
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
        gc.enable()
    assert held < 50 * 30_000
