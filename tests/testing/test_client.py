from __future__ import annotations

import logging

import httpx
import pytest
import trio
import trio.testing

from trioserve.asgi.errors import ClientDisconnected
from trioserve.testing.memory import open_memory_server


async def echo(scope, receive, send):
    """Answers with the method, target and body of the request; HEAD, 204 and the like are up to the server."""
    assert scope["type"] == "http"
    body = b""
    while True:
        message = await receive()
        body += message["body"]
        if not message["more_body"]:
            break
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-scheme", scheme_of(scope))]})
    await send({"type": "http.response.body", "body": f"{scope['method']} {scope['path']} ".encode() + body})


def scheme_of(scope):
    return scope["scheme"].encode()


class Steps:
    """Sends pieces of a body one by one, when told to."""

    def __init__(self, pieces):
        self.pieces = pieces
        self.next = trio.Semaphore(0)
        self.error = None
        self.ended = trio.Event()

    async def __call__(self, scope, receive, send):
        assert scope["type"] == "http"
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(self.pieces):
                await send({"type": "http.response.body", "body": b"piece", "more_body": True})
                await self.next.acquire()
            self.next = trio.Semaphore(self.pieces)
            await send({"type": "http.response.body", "body": b""})
        except BaseException as error:
            self.error = error
            raise
        finally:
            self.ended.set()


async def test_requests_share_a_connection():
    async with open_memory_server(echo) as server, server.client() as client:
        assert (await client.get("/a?b")).text == "GET /a "
        assert (await client.post("/b", content=b"body")).text == "POST /b body"
        assert (await client.head("/c")).text == ""
        assert (await client.get("/d")).text == "GET /d "
        assert server.stats().connections_accepted == 1
        assert server.stats().connections_open == 1
    assert server.stats().requests_total == 4


async def test_host_and_version_come_from_a_real_exchange():
    async with open_memory_server(echo) as server, server.client() as client:
        response = await client.get("/")
        assert response.http_version == "HTTP/1.1"
        assert response.reason_phrase == "OK"
        assert response.headers["server"] == "trioserve"
        assert response.request.headers["host"] == "testserver"


async def test_https_addresses_reach_the_application_as_https():
    async with open_memory_server(echo) as server, server.client() as client:
        assert (await client.get("/")).headers["x-scheme"] == "http"
        assert (await client.get("https://testserver/")).headers["x-scheme"] == "https"


async def test_concurrent_requests_have_connections_of_their_own():
    meet = trio.Event()

    async def app(scope, receive, send):
        if scope["path"] == "/wait":
            await meet.wait()
        else:
            meet.set()
        await echo(scope, receive, send)

    async with open_memory_server(app) as server, server.client() as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.get, "/wait")
        await trio.testing.wait_all_tasks_blocked()
        await client.get("/go")
    assert server.stats().connections_accepted == 2


async def test_request_bodies_are_streamed():
    async def pieces():
        for _ in range(3):
            yield b"ab"
            await trio.lowlevel.checkpoint()

    async with open_memory_server(echo) as server, server.client() as client:
        response = await client.post("/", content=pieces())
        assert response.text == "POST / ababab"
        assert response.request.headers["transfer-encoding"] == "chunked"


async def test_response_bodies_are_streamed():
    app = Steps(3)
    async with open_memory_server(app) as server, server.client() as client:
        async with client.stream("GET", "/") as response:
            pieces = []
            async for piece in response.aiter_raw():
                pieces.append(piece)
                app.next.release()  # without which the next one would never come
        assert pieces == [b"piece"] * 3
        assert (await client.get("/")).status_code == 200
        assert server.stats().connections_accepted == 1


async def test_leaving_a_response_unread_is_a_disconnect():
    app = Steps(3)
    async with open_memory_server(app) as server, server.client() as client:
        async with client.stream("GET", "/") as response:
            assert response.status_code == 200
        app.next.release()
        await app.ended.wait()
        assert isinstance(app.error, ClientDisconnected)


async def test_cancelling_a_request_is_a_disconnect():
    told = trio.Event()

    async def app(scope, receive, send):
        assert scope["type"] == "http"
        assert (await receive())["type"] == "http.request"
        assert (await receive())["type"] == "http.disconnect"
        told.set()
        with pytest.raises(ClientDisconnected):
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body"})

    async with open_memory_server(app) as server, server.client() as client:
        with trio.move_on_after(0.01):
            await client.get("/")
        await told.wait()


async def test_a_response_cut_short_is_an_error(caplog):
    caplog.set_level(logging.CRITICAL, "trioserve.error")

    async def app(scope, receive, send):
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"abc", "more_body": True})
        raise RuntimeError("half way")

    async with open_memory_server(app) as server, server.client() as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/")


async def test_an_error_of_the_application_is_a_500(caplog):
    caplog.set_level(logging.ERROR, "trioserve.error")

    async def app(scope, receive, send):
        raise RuntimeError("broken")

    async with open_memory_server(app) as server, server.client() as client:
        assert (await client.get("/")).status_code == 500
    assert "broken" in caplog.text


async def test_a_refused_upload_is_answered():
    from trioserve.config import Config, LimitSettings, LoggingSettings

    config = Config(logging=LoggingSettings(access="off"), limits=LimitSettings(body_size=1000))
    async with open_memory_server(echo, config) as server, server.client() as client:
        assert (await client.post("/", content=b"x" * 1001)).status_code == 413
        assert (await client.post("/", content=b"x" * 1000)).status_code == 200


async def test_no_connection_to_a_server_that_finishes():
    async with open_memory_server(echo) as server, server.client() as client:
        await server.drain()
        with pytest.raises(httpx.ConnectError):
            await client.get("/")


async def test_a_connection_that_the_server_closed_is_not_used_again(autojump_clock):
    async with open_memory_server(echo) as server, server.client() as client:
        await client.get("/")
        await trio.sleep(100)  # longer than [timeouts] keep_alive
        assert server.stats().connections_open == 0
        assert (await client.get("/again")).status_code == 200
        assert server.stats().connections_accepted == 2


async def test_the_clients_timeouts_run_on_trios_clock(autojump_clock):
    async def app(scope, receive, send):
        assert scope["type"] == "http"
        await trio.sleep(60)
        await echo(scope, receive, send)

    async with open_memory_server(app) as server, server.client() as client:
        start = trio.current_time()
        with pytest.raises(httpx.ReadTimeout):
            await client.get("/", timeout=30)
        assert trio.current_time() - start == 30
        assert (await client.get("/")).status_code == 200


async def test_trailers_are_found_in_the_extensions():
    async def app(scope, receive, send):
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": [], "trailers": True})
        await send({"type": "http.response.body", "body": b"abc"})
        await send({"type": "http.response.trailers", "headers": [(b"x-sum", b"6")]})

    async with open_memory_server(app) as server, server.client() as client:
        response = await client.get("/", headers={"te": "trailers"})
        assert response.extensions["trailing_headers"] == [(b"x-sum", b"6")]
