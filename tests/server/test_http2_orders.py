"""Odd orders of events: whatever ends a stream, wherever its application is, nothing is left and nobody notices."""

from __future__ import annotations

import random
import tempfile
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from hyperframe.frame import (
    DataFrame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from trioserve.config import Config, LifecycleSettings, LoggingSettings, TimeoutSettings
from trioserve.testing.http2_client import Http2Client
from trioserve.testing.http2_record import render_frame
from trioserve.testing.memory import open_memory_server

CANCEL = 8
KIB = 1 << 10

GRACES = TimeoutSettings(disconnect_grace=1, cleanup_grace=1, graceful=5, write_stall=20, body_stall=20)


def settings(on_disconnect="cancel", timeouts=GRACES):
    return Config(
        logging=LoggingSettings(access="off"),
        lifecycle=LifecycleSettings(lifespan="off", on_disconnect=on_disconnect),
        timeouts=timeouts,
    )


@asynccontextmanager
async def open_pair(app, config=None, window=0):
    """A client without window, and one that has to be served whatever happens to the other."""
    with trio.fail_after(2000):
        async with open_memory_server(app, config or settings()) as server:
            client = Http2Client(server.connect())
            await client.start({SettingsFrame.INITIAL_WINDOW_SIZE: window})
            client.server = server
            yield client
            if not server.server.draining.is_set():
                async with Http2Client(server.connect()) as other:
                    await other.start()
                    assert (await other.get("/ok")).body == b"ok"
            await client.aclose()
    stats = server.stats()
    assert (stats.requests_running, stats.connections_open) == (0, 0)


async def respond(send, body=b"ok", more=False, trailers=False):
    await send({"type": "http.response.start", "status": 200, "headers": [], "trailers": trailers})
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def send_file(send, more, size=300 * KIB):
    with tempfile.TemporaryFile() as file:
        file.write(b"x" * size)
        file.flush()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.zerocopysend", "file": file, "offset": 0, "more_body": more})


async def anything(scope, receive, send):
    """What an application may be doing when its stream ends, by the path that was asked for."""
    what = scope["path"][1:]
    if what == "ok":
        await respond(send)
    elif what == "write":
        await respond(send, b"x" * 300 * KIB, more=True)
        await send({"type": "http.response.body"})
    elif what == "last":
        await respond(send, b"x" * 300 * KIB)
    elif what == "pieces":
        await respond(send, b"x", more=True)
        while True:
            await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
    elif what == "trailers":
        await respond(send, b"x" * 1000, trailers=True)
        await send({"type": "http.response.trailers", "headers": [(b"a", b"b")]})
    elif what == "head":
        await respond(send, b"", more=True)
        await trio.sleep_forever()
    elif what == "start":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await trio.sleep_forever()
    elif what == "file":
        await send_file(send, more=False)
    elif what == "push":
        await send({"type": "http.response.push", "path": "/write"})
        await respond(send, b"x" * 1000)
    elif what == "hint":
        while True:
            await send({"type": "http.response.early_hint", "links": [b"a"]})
            await trio.sleep(1)
    elif what == "after":
        await respond(send, b"")
        await trio.sleep(30)
    elif what == "read":
        while (await receive())["type"] == "http.request":
            pass
    elif what == "both":
        async with trio.open_nursery() as nursery:
            nursery.start_soon(respond, send, b"x" * 300 * KIB)
            nursery.start_soon(receive)
    elif what == "stubborn":
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(3)
            with trio.CancelScope(shield=True):
                await respond(send)
    else:
        await trio.sleep_forever()


STATES = (
    *("write", "last", "pieces", "trailers", "head", "start", "push", "hint", "after", "read", "both"),
    *("stubborn", "sleep"),
)


async def reset(client, stream_id):
    await client.send(RstStreamFrame(stream_id, CANCEL))


async def break_a_rule_of_the_stream(client, stream_id):
    await client.send(render_frame(WindowUpdateFrame.type, bytes(4), stream_id=stream_id))


async def break_a_rule_of_the_connection(client, stream_id):
    await client.send(render_frame(DataFrame.type, b"x"))


async def leave(client, stream_id):
    await client.aclose()


async def end_sending(client, stream_id):
    await client.stream.send_eof()


async def drain(client, stream_id):
    await client.server.drain()


async def drain_and_reset(client, stream_id):
    await client.server.drain()
    await reset(client, stream_id)
    await trio.testing.wait_all_tasks_blocked()


async def reset_and_drain(client, stream_id):
    await reset(client, stream_id)
    await trio.testing.wait_all_tasks_blocked()
    await client.server.drain()


async def stop_now(client, stream_id):
    client.server.server.stop_now()
    await client.server.server.draining.wait()


async def say_goodbye_and_leave(client, stream_id):
    await client.send(GoAwayFrame(0, 0), RstStreamFrame(stream_id, CANCEL))
    await client.aclose()


async def open_window_and_reset(client, stream_id):
    await client.send(
        SettingsFrame(settings={SettingsFrame.INITIAL_WINDOW_SIZE: 70_000}), RstStreamFrame(stream_id, CANCEL)
    )


async def open_window_by_bits_and_leave(client, stream_id):
    for _ in range(20):
        await client.send(WindowUpdateFrame(stream_id, 1000))
        await trio.lowlevel.checkpoint()
    await client.aclose()


ENDINGS = (
    *(reset, break_a_rule_of_the_stream, break_a_rule_of_the_connection, leave, end_sending, drain),
    *(drain_and_reset, reset_and_drain, stop_now, say_goodbye_and_leave, open_window_and_reset),
    open_window_by_bits_and_leave,
)


def bugs(error_log):
    return [line for line in error_log() if "bug" in line or "error in the application" in line]


@pytest.mark.parametrize("ending", ENDINGS, ids=lambda ending: ending.__name__)
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("upload", ["none", "some", "expected"])
async def test_every_ending_in_every_state(state, ending, upload, autojump_clock, error_log):
    async with open_pair(anything) as client:
        stream_id = client.next_stream_id
        fields = [(b"expect", b"100-continue")] if upload == "expected" else []
        frames = client.request_frames("POST", f"/{state}", headers=fields, end_stream=upload == "none")
        if upload == "some":
            frames.append(DataFrame(stream_id, b"abc"))
        await client.send(*frames)
        await trio.testing.wait_all_tasks_blocked()
        await ending(client, stream_id)
        if client.server.server.draining.is_set():
            await trio.testing.wait_all_tasks_blocked()
        else:
            await trio.sleep(100)
            assert client.server.stats().requests_running == 0
    assert bugs(error_log) == []


@pytest.mark.parametrize("ending", ENDINGS[:5], ids=lambda ending: ending.__name__)
@pytest.mark.parametrize("state", STATES)
async def test_a_stream_that_ends_with_the_bytes_that_open_it(state, ending, autojump_clock, error_log):
    async with open_pair(anything) as client:
        stream_id = client.next_stream_id
        frames = client.request_frames("POST", f"/{state}", end_stream=False)
        await client.send(*frames, DataFrame(stream_id, b"abc"), RstStreamFrame(stream_id, CANCEL))
        await ending(client, stream_id)
        await trio.sleep(100)
        assert client.server.stats().requests_running == 0
    assert bugs(error_log) == []


@pytest.mark.parametrize("ending", [reset, leave, drain, stop_now], ids=lambda ending: ending.__name__)
@pytest.mark.parametrize("moment", [0, 1, 2, 5, 20])
async def test_while_a_thread_reads_a_file(ending, moment, error_log):
    """On the real clock, as threads know no other."""
    config = settings(timeouts=TimeoutSettings(disconnect_grace=0, cleanup_grace=0.1, graceful=0.2))
    async with open_pair(anything, config, window=1 << 20) as client:
        streams = [await client.request(path="/file") for _ in range(3)]
        for _ in range(moment):
            await trio.lowlevel.checkpoint()
        await ending(client, streams[1])
        if ending is reset:
            for stream_id in streams[::2]:
                assert len((await client.response(stream_id)).body) == 300 * KIB
    assert bugs(error_log) == []


async def test_the_tasks_of_streams_end_with_them(autojump_clock):
    async with open_pair(anything) as client:
        before = count_tasks()
        for state in STATES:
            stream_id = await client.request("POST", f"/{state}", end_stream=False)
            await trio.testing.wait_all_tasks_blocked()
            await reset(client, stream_id)
        await trio.sleep(40)
        assert count_tasks() == before


def count_tasks():
    count, tasks = 0, [trio.lowlevel.current_root_task()]
    while tasks:
        task = tasks.pop()
        count += 1
        for nursery in task.child_nurseries:
            tasks += nursery.child_tasks
    return count


@pytest.mark.parametrize("seed", range(40))
async def test_random_conversations(seed, autojump_clock, error_log):
    """Frames that are allowed one by one, in any order, with time passing between them."""
    rng = random.Random(seed)
    async with open_pair(
        anything, settings(rng.choice(["cancel", "notify"]) if seed % 4 else "cancel")
    ) as client:
        streams = []
        for _ in range(60):
            try:
                await client.send(*random_frames(rng, client, streams))
            except trio.BrokenResourceError:
                break  # one of them was against a rule, or the connection was idle for too long
            if rng.random() < 0.3:
                await trio.testing.wait_all_tasks_blocked()
            if rng.random() < 0.1:
                await trio.sleep(rng.choice([0.5, 1, 5, 30]))
            if client.goaway is not None:
                break
        if rng.random() < 0.5:
            await client.server.drain()
        client.server.server.stop_now() if rng.random() < 0.3 else await trio.lowlevel.checkpoint()
        await client.aclose()
        await trio.sleep(60)
    assert bugs(error_log) == []


def random_frames(rng, client, streams):
    if not streams or rng.random() < 0.35:
        stream_id = client.next_stream_id
        streams.append(stream_id)
        method = rng.choice(["GET", "DELETE", "POST", "POST"])
        length = [(b"content-length", b"5")] if rng.random() < 0.2 and method == "POST" else []
        return client.request_frames(
            method,
            "/" + rng.choice([*STATES, "ok"]),
            headers=[*length, (b"priority", b"u=%d" % rng.randrange(8))],
            end_stream=method != "POST",
        )
    stream_id = rng.choice(streams)
    kind = rng.randrange(9)
    if kind == 0:
        return [RstStreamFrame(stream_id, CANCEL)]
    if kind == 1:
        return [WindowUpdateFrame(stream_id, rng.choice([1, 1000, 100_000]))]
    if kind == 2:
        return [WindowUpdateFrame(0, rng.choice([1, 1000, 100_000]))]
    if kind == 3:
        return [
            SettingsFrame(settings={SettingsFrame.INITIAL_WINDOW_SIZE: rng.choice([0, 1, 65_535, 10**6])})
        ]
    if kind == 4:
        return [PingFrame(opaque_data=bytes(8))]
    if kind == 5:
        return [
            PriorityFrame(stream_id, depends_on=rng.choice([0, *streams[-3:]]) % stream_id, stream_weight=3)
        ]
    if kind == 6:
        return [render_frame(0x10, stream_id.to_bytes(4, "big") + b"u=%d, i" % rng.randrange(8))]
    flags = ["END_STREAM"] if rng.random() < 0.3 else []
    if kind == 7 and flags:
        return client.head_frames(stream_id, [(b"x-trailer", b"1")])
    return [DataFrame(stream_id, b"x" * rng.choice([0, 1, 5, 1000]), flags=flags)]


async def test_a_body_in_a_thousand_pieces_is_handed_over_whole():
    async def app(scope, receive, send):
        await trio.testing.wait_all_tasks_blocked()
        body = b""
        while (message := await receive())["more_body"]:
            body += message["body"]
        await respond(send, body + message["body"])

    pieces = [b"%d," % number for number in range(1000)]
    async with open_memory_server(app, settings()) as server, Http2Client(server.connect()) as client:
        await client.start()
        stream_id = await client.request("POST", end_stream=False)
        await client.send(*(DataFrame(stream_id, piece) for piece in pieces))
        await client.send(*client.head_frames(stream_id, [(b"x", b"y")]))
        response = await client.response(stream_id)
        assert response.body == b"".join(pieces)
        assert isinstance(client.record(stream_id).frames[-2], HeadersFrame | DataFrame)
