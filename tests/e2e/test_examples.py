from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import httpx
import pytest
import trio
import trio.testing

from examples import hello, streaming, upload
from trioserve import Config, serve
from trioserve.config import LoggingSettings, load_config

ROOT = Path(__file__).resolve().parents[2]
MIB = 1024 * 1024
CONFIG = Config(bind="127.0.0.1:0", logging=LoggingSettings(access="off"))


@pytest.fixture
async def start(nursery):
    """Serves an application until the end of the test, which may take 20 seconds."""
    with trio.fail_after(20):
        yield lambda app: nursery.start(serve, app, CONFIG)


def curl(*arguments: str) -> str:
    command = ["curl", "--silent", "--show-error", "--max-time", "10", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


async def test_hello_answers_with_method_and_path(start):
    server = await start(hello.app)
    text = await trio.to_thread.run_sync(curl, "-X", "DELETE", f"{server.urls[0]}/some/where?x=1")
    assert text == "Hello from trioserve: DELETE /some/where\n"


def test_development_configuration_serves_hello():
    config = load_config(ROOT / "config" / "development.toml", {}, {}, cwd=Path("/")).config
    assert config.app == "examples.hello:app"
    assert Path(config.app_dir).resolve() == ROOT


async def test_streaming_sends_events_and_says_goodbye_when_the_server_drains(start):
    server = await start(streaming.app)
    async with httpx.AsyncClient() as client, client.stream("GET", server.urls[0]) as response:
        lines = response.aiter_lines()
        assert [await anext(lines) for _ in range(2)] == ["event: tick", "data: 1"]
        server.drain()
        rest = [line async for line in lines]
    assert response.headers["content-type"] == "text/event-stream"
    assert rest[-4:] == ["event: bye", "retry: 1000", "data: the server restarts", ""]


async def test_streaming_ends_when_the_client_leaves(start):
    left = trio.Event()

    async def watched(scope, receive, send):
        await streaming.app(scope, receive, send)
        left.set()

    server = await start(watched)
    stream = await trio.open_tcp_stream(*server.addresses[0])
    await stream.send_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    assert b"event: tick" in await stream.receive_some()
    await stream.aclose()
    with trio.fail_after(streaming.INTERVAL / 2):  # at once, and not with the next event
        await left.wait()


async def test_upload_counts_and_digests(start):
    async def body():
        for _ in range(8):
            yield bytes(MIB)

    server = await start(upload.app)
    async with httpx.AsyncClient() as client:
        response = await client.put(server.urls[0], content=body())
        refused = await client.get(server.urls[0])
    assert response.json() == {"bytes": 8 * MIB, "sha256": hashlib.sha256(bytes(8 * MIB)).hexdigest()}
    assert refused.status_code == 405


async def test_upload_reads_no_faster_than_the_application_asks(start):
    asked = trio.Event()

    async def slow(scope, receive, send):
        await asked.wait()
        await upload.app(scope, receive, send)

    server = await start(partial(skip_lifespan, slow))
    stream = await trio.open_tcp_stream(*server.addresses[0])
    size = 64 * MIB
    await stream.send_all(b"PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % size)
    async with trio.open_nursery() as sending:
        sending.start_soon(stream.send_all, bytes(size))
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert server.stats().bytes_received < size
        assert len(sending.child_tasks) == 1  # the client waits
        asked.set()
    assert b" 200 OK" in await stream.receive_some()
    await stream.aclose()


async def skip_lifespan(app, scope, receive, send):
    if scope["type"] != "lifespan":
        await app(scope, receive, send)


async def test_upload_that_is_cut_short_is_not_answered_as_complete(start):
    returned = trio.Event()

    async def watched(scope, receive, send):
        await upload.app(scope, receive, send)
        returned.set()

    server = await start(watched)
    stream = await trio.open_tcp_stream(*server.addresses[0])
    await stream.send_all(b"PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nfive!")
    await stream.send_eof()
    answer = b"".join([piece async for piece in stream])
    await returned.wait()
    assert b" 200 " not in answer
    await stream.aclose()


async def test_embed_takes_its_lines_and_ends(nursery):
    run = partial(trio.run_process, stdout=subprocess.PIPE, cwd=ROOT)
    process = await nursery.start(run, [sys.executable, "-m", "examples.embed"])
    with trio.fail_after(20):
        printed = b""
        while not (found := re.search(rb"(http://\S+)\n", printed)):
            printed += await process.stdout.receive_some()
        async with httpx.AsyncClient() as client:
            for line in ("one", "two", "three"):
                assert (await client.post(found[1].decode(), content=line)).status_code == 202
        printed += b"".join([piece async for piece in process.stdout])
        assert await process.wait() == 0
    lines = [
        line for line in printed.decode().splitlines() if "HTTP/1.1" not in line
    ]  # without the access log
    assert lines[1:] == ["one", "two", "three", "all answered, good bye"]
