"""Urgency end to end (RFC 9218): what is sent first, on streams of one connection that a client reads."""

from __future__ import annotations

import struct
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from hyperframe.frame import DataFrame, SettingsFrame, WindowUpdateFrame

from trioserve.config import Config, LifecycleSettings, LoggingSettings
from trioserve.server.server import serve
from trioserve.testing.http2_client import Http2Client
from trioserve.testing.http2_record import render_frame
from trioserve.testing.memory import open_memory_server

LARGE = 2**31 - 1
KIB, MIB = 1 << 10, 1 << 20
PRIORITY_UPDATE = 0x10

QUIET = Config(
    bind=("127.0.0.1:0",),
    logging=LoggingSettings(access="off"),
    lifecycle=LifecycleSettings(lifespan="off"),
)


async def app(scope, receive, send):
    size = int(scope["path"][1:])
    headers = [(b"priority", scope["query_string"])] if scope["query_string"] else []
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    while size > 64 * KIB:
        await send({"type": "http.response.body", "body": b"x" * 64 * KIB, "more_body": True})
        size -= 64 * KIB
    await send({"type": "http.response.body", "body": b"x" * size})


@asynccontextmanager
async def open_client():
    """A client with no window for the connection beyond the first 64 KiB, to be opened by hand."""
    async with open_memory_server(app, QUIET) as server, Http2Client(server.connect()) as client:
        await client.start({SettingsFrame.INITIAL_WINDOW_SIZE: LARGE})
        client.update_windows = False
        yield client


async def ask(client, size, priority=None, query=""):
    headers = [] if priority is None else [(b"priority", priority)]
    return await client.request(path=f"/{size}{query}", headers=headers)


async def use_up_window(client):
    """Let nothing more leave, whatever is asked for."""
    stream_id = await ask(client, 65535)
    await client.response(stream_id)


def order(client, streams):
    """The streams of the DATA frames that came, repetitions left out."""
    seen = []
    for frame in client.frames:
        if isinstance(frame, DataFrame) and frame.stream_id in streams and seen[-1:] != [frame.stream_id]:
            seen.append(frame.stream_id)
    return seen


async def open_window(client, streams, size=MIB):
    await trio.testing.wait_all_tasks_blocked()
    await client.send(WindowUpdateFrame(0, size))
    for stream_id in streams:
        await client.response(stream_id)
    return order(client, streams)


async def check_urgent_overtakes(client, urgent):
    """Of background downloads, at most 64 KiB come between the urgent head and its end."""
    background = [await ask(client, 10 * MIB, b"u=5") for _ in range(8)]
    while sum(len(client.record(stream_id).body) for stream_id in background) < MIB:
        await client.next_frame()
    stream_id = await ask(client, 10_000, urgent)
    response = await client.response(stream_id)
    assert len(response.body) == 10_000
    frames = [frame for frame in client.frames if frame.stream_id]
    head = next(index for index, frame in enumerate(frames) if frame.stream_id == stream_id)
    end = next(index for index, frame in enumerate(frames) if "END_STREAM" in frame.flags)
    between = frames[head:end]
    assert sum(len(frame.data) for frame in between if frame.stream_id in background) <= 64 * KIB
    assert all(not client.record(other).ended for other in background)


class TestUrgency:
    @pytest.mark.parametrize("priority", [b"u=0", b"u=0, i"])
    async def test_a_request_overtakes_background_downloads(self, priority):
        async with open_client() as client:
            await client.send(WindowUpdateFrame(0, LARGE - 65535))
            client.update_windows = True
            await check_urgent_overtakes(client, priority)
            await client.aclose()

    async def test_on_a_real_socket(self):
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                server = await nursery.start(serve, app, QUIET)
                stream = await trio.open_tcp_stream(*server.addresses[0])
                async with Http2Client(stream, timeout=10) as client:
                    await client.start({SettingsFrame.INITIAL_WINDOW_SIZE: MIB}, window=4 * MIB)
                    await check_urgent_overtakes(client, b"u=0")
                server.drain()

    async def test_the_most_urgent_first_whoever_asked_first(self):
        async with open_client() as client:
            await use_up_window(client)
            streams = [await ask(client, 50_000, b"u=%d" % urgency) for urgency in (7, 3, 0, 5)]
            assert await open_window(client, streams) == [streams[2], streams[1], streams[3], streams[0]]

    async def test_the_default_is_between(self):
        async with open_client() as client:
            await use_up_window(client)
            streams = [await ask(client, 50_000, priority) for priority in (b"u=4", None, b"u=2")]
            assert await open_window(client, streams) == streams[::-1]


class TestSharing:
    async def test_non_incremental_ones_go_in_order(self):
        async with open_client() as client:
            await use_up_window(client)
            streams = [await ask(client, 100_000) for _ in range(4)]
            assert await open_window(client, streams) == streams

    async def test_incremental_ones_share(self):
        async with open_client() as client:
            await use_up_window(client)
            streams = [await ask(client, 160_000, b"u=3, i") for _ in range(4)]
            await trio.testing.wait_all_tasks_blocked()
            await client.send(WindowUpdateFrame(0, 16 * 16384))
            await trio.testing.wait_all_tasks_blocked()
            await client.ping()
            assert [len(client.record(stream_id).body) for stream_id in streams] == [4 * 16384] * 4
            await open_window(client, streams)


class TestChanges:
    @pytest.mark.parametrize("early", [True, False])
    async def test_a_frame_says_otherwise(self, early):
        async with open_client() as client:
            await use_up_window(client)
            frame = render_frame(PRIORITY_UPDATE, struct.pack(">I", 5) + b"u=0")
            if early:
                await client.send(frame)
            streams = [await ask(client, 50_000) for _ in range(2)]
            assert streams[1] == 5
            if not early:
                await client.send(frame)
            await client.ping()
            assert await open_window(client, streams) == [5, 3]

    async def test_the_application_says_otherwise(self):
        async with open_client() as client:
            await use_up_window(client)
            streams = [await ask(client, 50_000, b"u=1"), await ask(client, 50_000, b"u=2", "?u=0")]
            await client.ping()
            assert await open_window(client, streams) == streams[::-1]

    @pytest.mark.parametrize(
        "early",
        [True, False],
    )
    async def test_a_tree_of_the_old_kind(self, early):
        async with open_client() as client:
            await use_up_window(client)
            requests = [client.request_frames(path="/50000") for _ in range(2)]
            streams = [frames[0].stream_id for frames in requests]
            dependency = render_frame(0x2, struct.pack(">IB", streams[1], 15), stream_id=streams[0])
            if early:
                await client.send(*requests[0], *requests[1], dependency)
            else:
                await client.send(*requests[0], *requests[1])
                await trio.testing.wait_all_tasks_blocked()
                await client.send(dependency)
            assert await open_window(client, streams) == streams[::-1]
