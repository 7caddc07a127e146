from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import httpx
import pytest
import trio

from tests.e2e.servers import RunningServer, start_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

MIB = 1024 * 1024
PIECE = bytes(65536)
LARGE = 200 * MIB
ALLOWED_GROWTH = 20 * MIB
FRAMEWORKS = ("starlette", "fastapi", "litestar", "quart_trio")
TIMEOUT = 10


@pytest.fixture(scope="module", params=FRAMEWORKS)
def server(request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    with start_server(f"tests.e2e.apps.{request.param}_app:app") as running:
        yield running


@pytest.fixture
async def client(server: RunningServer) -> AsyncIterator[httpx.AsyncClient]:
    """One connection to the server; at the end, the server must have logged nothing."""
    limits = httpx.Limits(max_connections=1)
    async with httpx.AsyncClient(base_url=server.url, limits=limits, timeout=TIMEOUT) as one_connection:
        with trio.fail_after(TIMEOUT):
            yield one_connection
    assert server.logged() == ""


def port_of(response: httpx.Response) -> int:
    return response.extensions["network_stream"].get_extra_info("client_addr")[1]


async def test_json(client):
    response = await client.post("/double", json={"number": 21})
    assert response.json() == {"doubled": 42}


async def test_multipart_form(client):
    file = ("report.bin", bytes(3 * MIB), "application/octet-stream")
    response = await client.post("/form", data={"name": "jürgen"}, files={"file": file})
    assert response.json() == {"name": "jürgen", "filename": "report.bin", "size": 3 * MIB}


async def test_large_upload_is_not_held_in_memory(client, server):
    async def body():
        for _ in range(LARGE // len(PIECE)):
            yield PIECE

    await client.post("/upload", content=PIECE)
    before = server.reset_peak_memory()
    response = await client.post("/upload", content=body())
    assert response.json() == {"size": LARGE, "checksum": zlib.crc32(bytes(LARGE))}
    assert server.peak_memory() - before < ALLOWED_GROWTH


async def test_large_download_is_not_held_in_memory(client, server):
    await client.get("/download", params={"pieces": 1})
    before = server.reset_peak_memory()
    size = 0
    async with client.stream("GET", "/download", params={"pieces": LARGE // len(PIECE)}) as response:
        async for piece in response.aiter_raw():
            size += len(piece)
    assert size == LARGE
    assert server.peak_memory() - before < ALLOWED_GROWTH


async def test_background_task_does_not_delay_the_next_request(client):
    begun = await client.get("/background")
    released = await client.get("/release")
    assert begun.json() == {"begun": True}
    assert released.json() == {"was_running": True}
    assert port_of(begun) == port_of(released)


async def test_context_variables_do_not_reach_the_next_request(client):
    first = await client.get("/remember", params={"value": "first"})
    second = await client.get("/remember", params={"value": "second"})
    assert port_of(first) == port_of(second)
    assert first.json() == second.json() == {"before": "nothing"}


# Litestar has no way to ask.
@pytest.mark.parametrize("server", [name for name in FRAMEWORKS if name != "litestar"], indirect=True)
async def test_handler_learns_that_its_client_left(client, server):
    stream = await trio.open_tcp_stream(*server.address)
    await stream.send_all(b"GET /watch HTTP/1.1\r\nhost: a\r\n\r\n")
    await stream.aclose()
    assert (await client.get("/wait", params={"event": "left"})).json() == {"happened": True}


async def test_stream_to_a_client_that_left_ends(client, server):
    stream = await trio.open_tcp_stream(*server.address)
    await stream.send_all(b"GET /endless HTTP/1.1\r\nhost: a\r\n\r\n")
    assert (await stream.receive_some(9)) == b"HTTP/1.1 "
    await stream.aclose()
    assert (await client.get("/wait", params={"event": "stream_ended"})).json() == {"happened": True}
