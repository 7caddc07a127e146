from __future__ import annotations

import math

import pytest
import trio
import trio.testing

from trioserve import LifespanDied, LifespanFailed
from trioserve.asgi.errors import ClientDisconnected
from trioserve.config import Config, LimitSettings, LoggingSettings, TimeoutSettings
from trioserve.testing.memory import open_memory_server

QUIET = LoggingSettings(access="off")
GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


def with_timeouts(**timeouts):
    return Config(logging=QUIET, timeouts=TimeoutSettings(**timeouts))


async def respond(send, body=b"hello", status=200):
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def hello(scope, receive, send):
    assert scope["type"] == "http"
    await respond(send)


class Sleeper:
    """Sleeps before it answers, and notes when and how it was ended."""

    def __init__(self, seconds=math.inf):
        self.seconds = seconds
        self.began = trio.Event()
        self.cancelled_at = None

    async def __call__(self, scope, receive, send):
        assert scope["type"] == "http"
        start = trio.current_time()
        self.began.set()
        try:
            await trio.sleep(self.seconds)
        except trio.Cancelled:
            self.cancelled_at = trio.current_time() - start
            raise
        await respond(send, b"slept")


class Lifespan:
    """An application with a lifespan that notes what happens."""

    def __init__(self, app=hello):
        self.app = app
        self.notes = []

    async def __call__(self, scope, receive, send):
        if scope["type"] != "lifespan":
            self.notes.append(scope["state"]["greeting"])
            await self.app(scope, receive, send)
            return
        assert await receive() == {"type": "lifespan.startup"}
        self.notes.append("startup")
        scope["state"]["greeting"] = "hi"
        await send({"type": "lifespan.startup.complete"})
        assert await receive() == {"type": "lifespan.shutdown"}
        self.notes.append("shutdown")
        await send({"type": "lifespan.shutdown.complete"})


class TestLife:
    async def test_lifespan_encloses_the_requests_and_hands_over_its_state(self):
        app = Lifespan()
        async with open_memory_server(app) as server, server.raw_client() as client:
            assert app.notes == ["startup"]
            await client.send(GET)
            assert (await client.receive_response()).body == b"hello"
            assert app.notes == ["startup", "hi"]
        assert app.notes == ["startup", "hi", "shutdown"]

    async def test_a_failed_start_is_raised_and_the_block_not_entered(self, error_log):
        async def app(scope, receive, send):
            await receive()
            await send({"type": "lifespan.startup.failed", "message": "no database"})

        with pytest.raises(LifespanFailed):
            async with open_memory_server(app):
                pytest.fail("the block was entered")
        assert error_log() == ["the application failed to start: no database"]

    async def test_a_lifespan_that_dies_is_raised_after_the_block(self, error_log):
        async def app(scope, receive, send):
            await receive()
            await send({"type": "lifespan.startup.complete"})

        with pytest.raises(LifespanDied):
            async with open_memory_server(app):
                await trio.testing.wait_all_tasks_blocked()
        assert error_log() == ["the application's lifespan ended while it was serving"]

    async def test_an_exception_from_the_block_comes_out_as_it_is_and_stops_at_once(self):
        sleeper = Sleeper()
        app = Lifespan(sleeper)
        with pytest.raises(ZeroDivisionError) as caught:
            async with open_memory_server(app) as server:
                await server.raw_client().send(GET)
                await sleeper.began.wait()
                1 / 0  # noqa: B018
        assert caught.value.__context__ is None
        assert sleeper.cancelled_at is not None

    async def test_cancelling_the_block_stops_at_once(self):
        sleeper = Sleeper()
        with trio.CancelScope() as scope:
            async with open_memory_server(sleeper) as server:
                await server.raw_client().send(GET)
                await sleeper.began.wait()
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert sleeper.cancelled_at is not None

    async def test_requests_run_in_the_context_of_the_lifespan(self):
        import contextvars

        variable = contextvars.ContextVar("variable", default=b"unset")

        async def app(scope, receive, send):
            if scope["type"] == "http":
                await respond(send, variable.get())
                return
            await receive()
            variable.set(b"from the lifespan")
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})

        async with open_memory_server(app) as server, server.raw_client() as client:
            await client.send(GET)
            assert (await client.receive_response()).body == b"from the lifespan"


class TestConnections:
    async def test_addresses_and_scheme_reach_the_application(self):
        seen = {}

        async def app(scope, receive, send):
            assert scope["type"] == "http"
            seen.update(scope)
            await respond(send)

        async with open_memory_server(app) as server:
            stream = server.connect(("192.0.2.7", 1234), scheme="https")
            await stream.send_all(GET)
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 ")
            await stream.aclose()
        assert seen["client"] == ("192.0.2.7", 1234)
        assert seen["scheme"] == "https"

    async def test_two_requests_on_one_connection(self):
        async with open_memory_server(hello) as server, server.raw_client() as client:
            for _ in range(2):
                await client.send(GET)
                assert (await client.receive_response()).body == b"hello"
            assert server.stats().connections_accepted == 1
            assert server.stats().requests_total == 2

    async def test_ended_is_set_when_the_server_has_done_with_it(self):
        async with open_memory_server(hello) as server:
            connection = server.open_connection()
            await trio.testing.wait_all_tasks_blocked()
            assert not connection.ended.is_set()
            assert server.stats().connections_open == 1
            await connection.stream.aclose()
            await connection.ended.wait()
            assert server.stats().connections_open == 0

    async def test_no_connection_while_the_server_finishes_or_after(self):
        async with open_memory_server(hello) as server:
            await server.drain()
            with pytest.raises(ConnectionRefusedError):
                server.connect()
        with pytest.raises(ConnectionRefusedError):
            server.connect()

    async def test_a_disconnect_is_told_while_the_application_runs(self, error_log):
        messages = []
        began = trio.Event()
        ended = trio.Event()

        async def app(scope, receive, send):
            assert scope["type"] == "http"
            messages.append(await receive())
            began.set()
            messages.append(await receive())
            with pytest.raises(ClientDisconnected):
                await respond(send)
            ended.set()

        async with open_memory_server(app) as server, server.raw_client() as client:
            await client.send(GET)
            await began.wait()
            await client.aclose()
            await ended.wait()
        assert [message["type"] for message in messages] == ["http.request", "http.disconnect"]
        assert error_log() == []


class TestDeadlines:
    """Under pytest-trio's jumping clock: minutes pass at once, and exactly."""

    async def test_keep_alive(self, autojump_clock):
        async with open_memory_server(hello) as server, server.raw_client() as client:
            await client.send(GET)
            await client.receive_response()
            start = trio.current_time()
            await client.wait_closed()
            assert trio.current_time() - start == pytest.approx(75, abs=0.1)

    async def test_a_slow_head_gets_408(self, autojump_clock):
        async with open_memory_server(hello) as server, server.raw_client() as client:
            start = trio.current_time()
            await client.send(GET[:20])
            response = await client.receive_response()
            assert response.status == 408
            assert response.header("connection") == b"close"
            assert trio.current_time() - start == pytest.approx(15, abs=0.1)
            await client.half_close()
            await client.wait_closed()

    async def test_a_silent_client_is_closed_without_a_word(self, autojump_clock):
        async with open_memory_server(hello) as server, server.raw_client() as client:
            await client.wait_closed()
            assert trio.current_time() > 14

    async def test_a_stalled_body_gets_408_and_cancels_the_application(self, autojump_clock):
        ended = []

        async def app(scope, receive, send):
            assert scope["type"] == "http"
            try:
                while (await receive())["more_body"]:
                    pass
            except trio.Cancelled:
                ended.append("cancelled")
                raise

        async with (
            open_memory_server(app, with_timeouts(body_stall=20)) as server,
            server.raw_client() as client,
        ):
            await client.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n12345")
            await trio.sleep(15)
            await client.send(b"67")
            start = trio.current_time()
            assert (await client.receive_response()).status == 408
            assert trio.current_time() - start == pytest.approx(20, abs=0.1)
        assert ended == ["cancelled"]

    async def test_a_slow_request_gets_503(self, autojump_clock):
        app = Sleeper()
        async with (
            open_memory_server(app, with_timeouts(request=60)) as server,
            server.raw_client() as client,
        ):
            await client.send(GET)
            response = await client.receive_response()
            assert response.status == 503
            assert response.header("retry-after") is not None
        assert app.cancelled_at == pytest.approx(60, abs=0.1)
        assert server.stats().timeouts == 1

    async def test_a_request_within_its_time_is_answered(self, autojump_clock):
        config = with_timeouts(request=60)
        async with open_memory_server(Sleeper(59), config) as server, server.raw_client() as client:
            await client.send(GET)
            assert (await client.receive_response()).body == b"slept"

    async def test_a_request_whose_client_left_is_cancelled_after_the_grace(self, autojump_clock):
        app = Sleeper()
        config = with_timeouts(disconnect_grace=8)
        async with open_memory_server(app, config) as server, server.raw_client() as client:
            await client.send(GET)
            await app.began.wait()
            await client.aclose()
        assert app.cancelled_at == pytest.approx(8, abs=0.1)

    async def test_a_client_that_does_not_read_is_dropped(self, autojump_clock):
        ended = trio.Event()

        async def app(scope, receive, send):
            assert scope["type"] == "http"
            start = trio.current_time()
            try:
                await respond(send, b"x" * 100_000)
            except trio.Cancelled:
                assert trio.current_time() - start == pytest.approx(40, abs=0.1)
                ended.set()
                raise

        config = with_timeouts(write_stall=40)
        async with open_memory_server(app, config) as server, server.raw_client(lockstep=True) as client:
            await client.send(GET)
            await ended.wait()

    async def test_drain_waits_for_what_runs_and_closes_what_is_idle(self, autojump_clock):
        app = Sleeper(20)
        async with open_memory_server(app) as server:
            idle = server.raw_client()
            await idle.send(GET)
            await idle.receive_response()
            await trio.sleep(1)  # so long a next request may be on its way
            app.began = trio.Event()
            busy = server.raw_client()
            await busy.send(GET)
            await app.began.wait()
            start = trio.current_time()
            await server.drain()
            await idle.wait_closed()
            assert trio.current_time() == start
            response = await busy.receive_response()
            assert response.body == b"slept"
            assert response.header("connection") == b"close"
            assert trio.current_time() - start == pytest.approx(20, abs=0.1)
            await busy.wait_closed()

    async def test_drain_cancels_what_does_not_end_in_its_grace(self, autojump_clock):
        app = Sleeper()
        async with open_memory_server(app, with_timeouts(graceful=10)) as server:
            client = server.raw_client()
            await client.send(GET)
            await app.began.wait()
        assert app.cancelled_at == pytest.approx(10, abs=0.1)
        assert (await client.receive_response()).status == 503

    async def test_draining_is_told_to_applications(self, autojump_clock):
        async def app(scope, receive, send):
            assert scope["type"] == "http"
            await scope["extensions"]["trioserve"].draining.wait()
            await respond(send, b"bye")

        async with open_memory_server(app) as server:
            client = server.raw_client()
            await client.send(GET)
            await trio.testing.wait_all_tasks_blocked()
        assert (await client.receive_response()).body == b"bye"


async def test_settings_are_in_force():
    config = Config(logging=QUIET, limits=LimitSettings(body_size=10))
    async with open_memory_server(hello, config) as server, server.raw_client() as client:
        await client.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 11\r\n\r\n")
        assert (await client.receive_response()).status == 413


async def test_the_default_settings_write_no_access_log(capfd):
    async with open_memory_server(hello) as server, server.raw_client() as client:
        await client.send(GET)
        await client.receive_response()
    assert capfd.readouterr().out == ""
