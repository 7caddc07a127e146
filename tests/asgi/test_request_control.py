"""`scope["extensions"]["trioserve"]`; deadlines and disconnects are in tests/server/test_http1.py."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from hyperframe.frame import RstStreamFrame

from trioserve.config import Config, LifecycleSettings, LoggingSettings, TimeoutSettings
from trioserve.testing.http2_client import Http2Client
from trioserve.testing.memory import open_memory_server
from trioserve.testing.websocket_client import TunnelClient, open_http1_session, open_http2_session

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


def config(**timeouts):
    return Config(
        logging=LoggingSettings(access="off"),
        lifecycle=LifecycleSettings(lifespan="off"),
        timeouts=TimeoutSettings(**timeouts),
    )


async def respond(send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


class TestNursery:
    async def test_work_outlives_the_response_and_the_connection(self, autojump_clock):
        async def work(argument):
            await trio.sleep(20)
            done.append(argument)

        async def app(scope, receive, send):
            scope["extensions"]["trioserve"].nursery.start_soon(work, "argument", name="work")
            await respond(send)

        done = []
        async with open_memory_server(app, config()) as server:
            async with server.raw_client() as client:
                await client.send(GET)
                await client.receive_response()
            assert done == []
        assert done == ["argument"]

    async def test_a_task_that_raises_is_logged_and_hurts_nobody(self, error_log):
        async def work():
            raise RuntimeError

        async def app(scope, receive, send):
            scope["extensions"]["trioserve"].nursery.start_soon(work)
            await respond(send)

        async with open_memory_server(app, config()) as server, server.raw_client() as client:
            for _ in range(2):
                await client.send(GET)
                assert (await client.receive_response()).status == 200
        assert error_log() == ["error in a background task of the application"] * 2

    async def test_a_task_whose_client_has_left_is_no_error(self, error_log):
        async def work(send):
            await left.wait()
            await send({"type": "http.response.body", "body": b"x"})

        async def work_in_a_nursery(send):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(work, send)

        async def app(scope, receive, send):
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for each in (work, work_in_a_nursery):
                scope["extensions"]["trioserve"].nursery.start_soon(each, send)
            while (await receive())["type"] != "http.disconnect":
                pass
            left.set()

        left = trio.Event()
        async with open_memory_server(app, config()) as server:
            client = server.raw_client()
            await client.send(GET)
            await client.aclose()
            await left.wait()
        assert error_log() == []

    async def test_errors_beside_a_cancellation_hurt_nobody(self, error_log, autojump_clock):
        async def fail_at_the_end():
            try:
                await trio.sleep_forever()
            finally:
                raise RuntimeError

        async def work():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                nursery.start_soon(fail_at_the_end)

        async def app(scope, receive, send):
            scope["extensions"]["trioserve"].nursery.start_soon(work)
            await respond(send)

        async with open_memory_server(app, config()) as server, server.raw_client() as client:
            await client.send(GET)
            await client.receive_response()
        assert error_log() == ["error in a background task of the application"]

    async def test_start_waits_and_returns(self):
        async def work(task_status):
            task_status.started("value")
            await go.wait()
            ended.set()

        async def app(scope, receive, send):
            started.append(await scope["extensions"]["trioserve"].nursery.start(work))
            await respond(send)

        started = []
        go, ended = trio.Event(), trio.Event()
        async with open_memory_server(app, config()) as server, server.raw_client() as client:
            await client.send(GET)
            await client.receive_response()
            assert started == ["value"]
            go.set()
            await ended.wait()

    @pytest.mark.parametrize("before", [True, False])
    async def test_start_raises_what_comes_before_started(self, before, error_log):
        async def work(task_status):
            if not before:
                task_status.started()
            raise KeyError

        async def app(scope, receive, send):
            nursery = scope["extensions"]["trioserve"].nursery
            if before:
                with pytest.raises(KeyError):
                    await nursery.start(work)
            else:
                await nursery.start(work)
            await respond(send)

        async with open_memory_server(app, config()) as server, server.raw_client() as client:
            await client.send(GET)
            assert (await client.receive_response()).status == 200
        assert error_log() == ([] if before else ["error in a background task of the application"])

    async def test_cancelled_when_the_grace_is_over(self, autojump_clock):
        async def work():
            start = trio.current_time()
            try:
                await trio.sleep_forever()
            finally:
                ended.append(trio.current_time() - start)

        async def app(scope, receive, send):
            scope["extensions"]["trioserve"].nursery.start_soon(work)
            await respond(send)

        ended = []
        async with open_memory_server(app, config(graceful=13)) as server, server.raw_client() as client:
            await client.send(GET)
            await client.receive_response()
        assert ended == [13]

    async def test_work_started_while_draining(self, autojump_clock):
        async def work():
            await trio.sleep(2)
            done.append(True)

        async def app(scope, receive, send):
            control = scope["extensions"]["trioserve"]
            await control.draining.wait()
            control.nursery.start_soon(work)
            await respond(send)

        done = []
        async with open_memory_server(app, config()) as server:
            await server.raw_client().send(GET)
            await trio.testing.wait_all_tasks_blocked()
        assert done == [True]


class TestDraining:
    async def test_is_told(self, autojump_clock):
        async def app(scope, receive, send):
            draining = scope["extensions"]["trioserve"].draining
            assert not draining.is_set()
            await draining.wait()
            assert draining.is_set()
            told.append(trio.current_time())
            await respond(send)

        told = []
        async with open_memory_server(app, config()) as server:
            client = server.raw_client()
            await client.send(GET)
            await trio.sleep(10)
            start = trio.current_time()
            await server.drain()
            assert (await client.receive_response()).header("connection") == b"close"
        assert told == [start]


class TestCleanup:
    async def test_is_shielded_and_bounded(self, autojump_clock):
        async def app(scope, receive, send):
            control = scope["extensions"]["trioserve"]
            try:
                await trio.sleep_forever()
            finally:
                start = trio.current_time()
                with control.cleanup():
                    await trio.sleep(2)
                    done.append("quick")
                with control.cleanup() as bound:
                    await trio.sleep(50)
                assert bound.cancelled_caught
                done.append(trio.current_time() - start)

        done = []
        times = config(request=10, cleanup_grace=4)
        async with open_memory_server(app, times) as server, server.raw_client() as client:
            await client.send(GET)
            await client.receive_all()
        assert done == ["quick", 6]


class TestDisconnected:
    async def test_tells_of_a_client_that_left_and_of_the_end(self):
        async def app(scope, receive, send):
            control = scope["extensions"]["trioserve"]
            seen.append(control.disconnected)
            begun.set()
            await left.wait()
            await trio.testing.wait_all_tasks_blocked()
            seen.append(control.disconnected)
            ended.set()

        seen = []
        begun, left, ended = trio.Event(), trio.Event(), trio.Event()
        async with open_memory_server(app, config()) as server:
            client = server.raw_client()
            await client.send(GET)
            await begun.wait()
            await client.aclose()
            left.set()
            await ended.wait()
        assert seen == [False, True]

    async def test_tells_of_a_response_that_is_over(self):
        async def app(scope, receive, send):
            controls.append(scope["extensions"]["trioserve"])
            await respond(send)

        controls = []
        async with open_memory_server(app, config()) as server, server.raw_client() as client:
            for _ in range(2):
                await client.send(GET)
                await client.receive_response()
            assert controls[0].disconnected

    async def test_on_http2(self):
        async def app(scope, receive, send):
            controls.append(scope["extensions"]["trioserve"])
            seen.append(controls[0].disconnected)
            await receive()
            await receive()
            seen.append(controls[0].disconnected)
            await respond(send)

        controls, seen = [], []
        async with open_memory_server(app, config()) as server, Http2Client(server.connect()) as client:
            await client.start()
            stream = await client.request("GET", "/")
            await trio.testing.wait_all_tasks_blocked()
            await client.send(RstStreamFrame(stream, error_code=8))
            await trio.testing.wait_all_tasks_blocked()
        assert seen == [False, True]

    @pytest.mark.parametrize("protocol", ["http1", "http2"])
    async def test_of_a_session(self, protocol):
        async def app(scope, receive, send):
            control = scope["extensions"]["trioserve"]
            seen.append(control.disconnected)
            await receive()
            await send({"type": "websocket.accept"})
            seen.append(control.disconnected)
            await receive()
            seen.append(control.disconnected)

        seen = []
        async with open_memory_server(app, config()) as server:
            if protocol == "http1":
                client = await open_http1_session(server.connect())
            else:
                tunnels = TunnelClient(server.connect())
                await tunnels.start()
                client = await open_http2_session(tunnels)
            await client.close()
            await trio.testing.wait_all_tasks_blocked()
            await client.aclose()
        assert seen == [False, False, True]
