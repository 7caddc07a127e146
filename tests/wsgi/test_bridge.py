"""Between task and thread: backpressure, disconnects, cancellation, threads that do not come back."""

from __future__ import annotations

import logging
import math
import threading
import tracemalloc

import pytest
import trio
import trio.testing
from hyperframe.frame import RstStreamFrame

from trioserve.asgi.errors import ClientDisconnected
from trioserve.testing.http2_client import Http2Client
from trioserve.wsgi import WsgiApplication

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
BINARY = [("Content-Type", "application/octet-stream")]


async def wait_in_thread(event):
    assert await trio.to_thread.run_sync(event.wait, 10)


async def wait_until(condition):
    """Let the event loop run until something that a thread does has happened."""
    with trio.fail_after(10):
        while not condition():
            await trio.to_thread.run_sync(threading.Event().wait, 0.001)


class Recorder:
    """An application that ends in a way of its own, and what has become of it."""

    def __init__(self, step):
        self.step = step
        self.begun, self.go_on, self.closed = threading.Event(), threading.Event(), threading.Event()
        self.raised = []
        self.environ = None

    def __call__(self, environ, start_response):
        self.environ = environ
        self.write = start_response("200 OK", BINARY)
        return self

    def __iter__(self):
        try:
            yield from self.step(self)
        except BaseException as error:
            self.raised.append(type(error))
            raise

    def close(self):
        self.closed.set()


def endless_items(app):
    while True:
        app.begun.set()
        yield bytes(10_000)


def endless_writes(app):
    while True:
        app.begun.set()
        app.write(bytes(10_000))
    yield b""


def read_after_waiting(app):
    app.begun.set()
    app.go_on.wait(10)
    app.environ["wsgi.input"].read(10)
    yield b"not reached"


def write_after_waiting(app):
    app.begun.set()
    app.go_on.wait(10)
    while True:
        app.write(b"x")
    yield b""


def items_after_waiting(app):
    app.begun.set()
    app.go_on.wait(10)
    while True:
        yield b"x"


class TestBackpressure:
    @pytest.mark.parametrize("step", [endless_items, endless_writes])
    async def test_a_client_that_does_not_read_stops_the_application(self, open_wsgi, step):
        sent = 0

        def counted(app):
            nonlocal sent
            for item in step(app):
                sent += len(item)
                yield item

        app = Recorder(counted)
        async with open_wsgi(app, validate=False) as server:
            client = server.raw_client(lockstep=True)
            await client.send(GET)
            await wait_in_thread(app.begun)
            for _ in range(20):
                await client.receive_some()
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert not app.closed.is_set()
            assert sent < 2_000_000
            await client.aclose()
            await wait_in_thread(app.closed)

    async def test_a_large_upload_and_a_large_download_are_not_held_in_memory(self, open_wsgi):
        def app(environ, start_response):
            start_response("200 OK", BINARY)
            while data := environ["wsgi.input"].read(100_000):
                yield data

        total = 30_000_000
        received = 0
        async with open_wsgi(app) as server, server.raw_client(lockstep=True) as client:

            async def upload():
                await client.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % total)
                for _ in range(total // 50_000):
                    await client.send(bytes(50_000))

            tracemalloc.start()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(upload)
                while received < total:
                    received += len(await client.receive_some())
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 4_000_000

    async def test_pieces_that_wait_leave_together(self, open_wsgi):
        def app(environ, start_response):
            start_response("200 OK", BINARY)
            return (b"%d," % number for number in range(5000))

        async with open_wsgi(app) as server, server.raw_client() as client:
            await client.send(GET)
            response = await client.receive_response()
        assert response.body == b"".join(b"%d," % number for number in range(5000))


class TestDisconnect:
    @pytest.mark.parametrize("step", [endless_items, endless_writes])
    async def test_ends_a_response(self, open_wsgi, step, error_log):
        app = Recorder(step)
        async with open_wsgi(app, validate=False) as server:
            client = server.raw_client()
            await client.send(GET)
            await client.receive_some()
            await client.aclose()
            await wait_in_thread(app.closed)
        assert app.raised == [GeneratorExit if step is endless_items else ClientDisconnected]
        assert error_log() == []

    async def test_can_be_asked_for(self, open_wsgi):
        def waiting(app):
            seen.append(app.environ["trioserve.disconnected"]())
            app.begun.set()
            app.go_on.wait(10)
            seen.append(app.environ["trioserve.disconnected"]())
            yield b"late"

        seen = []
        app = Recorder(waiting)
        async with open_wsgi(app) as server:
            client = server.raw_client()
            await client.send(GET)
            await wait_in_thread(app.begun)
            await client.aclose()
            await trio.testing.wait_all_tasks_blocked()
            app.go_on.set()
            await wait_in_thread(app.closed)
        assert seen == [False, True]

    @pytest.mark.parametrize("step", [read_after_waiting, write_after_waiting, items_after_waiting])
    async def test_breaks_whatever_comes_next(self, open_wsgi, step, error_log):
        app = Recorder(step)
        request = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\nexpect: 100-continue\r\n\r\n"
        async with open_wsgi(app, validate=False, threads=1) as server:
            client = server.raw_client()
            await client.send(request)
            await wait_in_thread(app.begun)
            await client.aclose()
            await trio.testing.wait_all_tasks_blocked()
            app.go_on.set()
            await wait_in_thread(app.closed)
            await wait_until(lambda: server.stats().requests_running == 0)
        assert len(app.raised) == 1
        assert error_log() == []

    async def test_of_an_http2_stream(self, open_wsgi, error_log):
        app = Recorder(endless_items)
        async with open_wsgi(app) as server, Http2Client(server.connect()) as client:
            await client.start()
            stream = await client.request("GET", "/")
            await wait_in_thread(app.begun)
            await client.send(RstStreamFrame(stream, error_code=8))
            await wait_in_thread(app.closed)
        assert error_log() == []

    async def test_a_client_that_only_ended_its_side_gets_its_answer(self, open_wsgi):
        def app(environ, start_response):
            go_on.wait(10)
            start_response("200 OK", BINARY)
            yield b"answer"

        go_on = threading.Event()
        async with open_wsgi(app) as server, server.raw_client() as client:
            await client.send(GET)
            await client.half_close()
            await trio.testing.wait_all_tasks_blocked()
            go_on.set()
            assert (await client.receive_response()).body == b"answer"


class TestCancellation:
    async def test_of_a_request_that_waits_for_a_thread(self, open_wsgi, autojump_clock):
        def app(environ, start_response):
            calls.append(environ["PATH_INFO"])
            begun.set()
            release.wait(10)
            start_response("200 OK", BINARY)
            return []

        calls = []
        begun, release = threading.Event(), threading.Event()
        autojump_clock.autojump_threshold = math.inf
        async with (
            open_wsgi(app, threads=1, timeouts={"request": 10}) as server,
            server.raw_client() as first,
            server.raw_client() as second,
        ):
            await first.send(GET)
            await wait_in_thread(begun)
            autojump_clock.jump(5)
            await second.send(GET.replace(b"/ ", b"/second "))
            await wait_until(lambda: server.wsgi.waiting_requests == 1)
            autojump_clock.autojump_threshold = 0
            response = await second.receive_response()
            assert response.status == 503
            assert response.header("retry-after") is not None
            release.set()
        assert calls == ["/"]

    @pytest.mark.parametrize("step", [read_after_waiting, write_after_waiting, items_after_waiting])
    async def test_breaks_whatever_comes_next(self, open_wsgi, step, error_log, autojump_clock):
        app = Recorder(step)
        autojump_clock.autojump_threshold = math.inf
        async with (
            open_wsgi(app, validate=False, timeouts={"request": 10}) as server,
            server.raw_client() as client,
        ):
            await client.send(
                b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\nexpect: 100-continue\r\n\r\n"
            )
            await wait_in_thread(app.begun)
            autojump_clock.jump(11)
            await wait_until(lambda: app.environ["trioserve.disconnected"]())
            app.go_on.set()
            await wait_in_thread(app.closed)
            assert (await client.receive_response()).status == 503
        assert error_log() == []

    async def test_while_the_thread_waits_for_the_body(self, open_wsgi, error_log, autojump_clock):
        def reading(app):
            app.begun.set()
            app.environ["wsgi.input"].read(10)
            yield b""

        app = Recorder(reading)
        autojump_clock.autojump_threshold = math.inf
        async with open_wsgi(app, timeouts={"request": 10}) as server, server.raw_client() as client:
            await client.send(
                b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\nexpect: 100-continue\r\n\r\n"
            )
            await wait_in_thread(app.begun)
            await client.receive_some()
            autojump_clock.jump(11)
            await wait_in_thread(app.closed)
        assert app.raised == [ClientDisconnected]
        assert error_log() == []

    async def test_while_the_thread_waits_for_a_slow_client(self, open_wsgi, error_log, autojump_clock):
        app = Recorder(endless_writes)
        autojump_clock.autojump_threshold = math.inf
        async with (
            open_wsgi(app, validate=False, timeouts={"request": 10}) as server,
            server.raw_client(lockstep=True) as client,
        ):
            await client.send(GET)
            await client.receive_some()
            await trio.testing.wait_all_tasks_blocked(0.05)
            autojump_clock.jump(11)
            await wait_in_thread(app.closed)
        assert app.raised == [ClientDisconnected]
        assert error_log() == []

    async def test_a_thread_that_does_not_return_is_given_up_and_taken_back(
        self, open_wsgi, caplog, error_log, autojump_clock
    ):
        def app(environ, start_response):
            start_response("200 OK", BINARY)
            if environ["PATH_INFO"] == "/stuck":
                function_that_never_returns()
            return [b"fine"]

        def function_that_never_returns():
            begun.set()
            release.wait(20)

        begun, release = threading.Event(), threading.Event()
        autojump_clock.autojump_threshold = math.inf
        timeouts = {"request": 10, "cleanup_grace": 4}
        async with open_wsgi(app, validate=False, threads=2, timeouts=timeouts) as server:
            async with server.raw_client() as client:
                await client.send(GET.replace(b"/ ", b"/stuck "))
                await wait_in_thread(begun)
                start = trio.current_time()
                autojump_clock.autojump_threshold = 0.01
                assert (await client.receive_response()).status == 503
                assert 10 <= trio.current_time() - start < 11  # the client does not wait for the thread
            assert server.wsgi.stuck_threads == 0
            await trio.sleep_until(start + 14.5)
            assert server.wsgi.stuck_threads == 1
            autojump_clock.autojump_threshold = math.inf
            async with server.raw_client() as client:
                await client.send(GET)
                assert (await client.receive_response()).body == b"fine"
            release.set()
            await wait_until(lambda: server.wsgi.stuck_threads == 0)
            async with server.raw_client() as client:
                await client.send(GET)
                assert (await client.receive_response()).body == b"fine"
        (message,) = error_log()
        assert "1 of 2 threads are left: GET /stuck HTTP/1.1" in message
        (record,) = [each for each in caplog.records if "threads are left" in each.getMessage()]
        assert record.levelno == logging.ERROR
        assert "in function_that_never_returns" in record.detail

    @pytest.mark.parametrize("late", ["read", "write", "items"])
    async def test_a_thread_that_was_given_up_reaches_nobody(
        self, open_wsgi, late, error_log, autojump_clock
    ):
        def stuck(app):
            app.begun.set()
            app.go_on.wait(20)
            if late == "read":
                app.environ["wsgi.input"].read(10)
            elif late == "write":
                app.write(b"late")
            yield b"late"

        app = Recorder(stuck)
        autojump_clock.autojump_threshold = math.inf
        async with open_wsgi(app, validate=False, timeouts={"request": 10}) as server:
            async with server.raw_client() as client:
                await client.send(
                    b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\nexpect: 100-continue\r\n\r\n"
                )
                await wait_in_thread(app.begun)
                autojump_clock.autojump_threshold = 0.01
                assert (await client.receive_response()).status == 503
                await trio.sleep(4)
            autojump_clock.autojump_threshold = math.inf
            assert server.wsgi.stuck_threads == 1
            app.go_on.set()
            await wait_in_thread(app.closed)
            await wait_until(lambda: server.wsgi.stuck_threads == 0)

    @pytest.mark.parametrize("cleanup_grace", [1, 3, 60])
    async def test_a_stuck_thread_does_not_delay_the_end_of_the_server(
        self, open_wsgi, error_log, autojump_clock, cleanup_grace
    ):
        app = Recorder(read_after_waiting)
        autojump_clock.autojump_threshold = math.inf
        timeouts = {"graceful": 20, "cleanup_grace": cleanup_grace}
        async with open_wsgi(app, validate=False, timeouts=timeouts) as server:
            client = server.raw_client()
            await client.send(GET)
            await wait_in_thread(app.begun)
            start = trio.current_time()
            autojump_clock.autojump_threshold = 0.01
        assert 20 <= trio.current_time() - start < 20.5
        (message,) = error_log()
        assert "31 of 32 threads are left: GET / HTTP/1.1" in message
        app.go_on.set()

    async def test_a_thread_that_comes_back_within_its_grace_is_not_reported(
        self, open_wsgi, error_log, autojump_clock
    ):
        app = Recorder(read_after_waiting)
        autojump_clock.autojump_threshold = math.inf
        timeouts = {"request": 10, "cleanup_grace": 4}
        async with open_wsgi(app, validate=False, timeouts=timeouts) as server:
            async with server.raw_client() as client:
                await client.send(GET)
                await wait_in_thread(app.begun)
                autojump_clock.autojump_threshold = 0.01
                assert (await client.receive_response()).status == 503
                autojump_clock.autojump_threshold = math.inf
            app.go_on.set()
            await wait_in_thread(app.closed)
            assert server.wsgi.stuck_threads == 0
        assert app.raised == [ClientDisconnected]
        assert error_log() == []


class TestConcurrency:
    async def test_requests_that_wait_for_a_thread_count_in_the_limit(self, open_wsgi):
        def app(environ, start_response):
            release.wait(10)
            start_response("200 OK", BINARY)
            return [environ["PATH_INFO"].encode()]

        release = threading.Event()
        async with open_wsgi(app, threads=2, requests=5) as server, trio.open_nursery() as nursery:

            async def ask(number):
                async with server.raw_client() as client:
                    await client.send(GET.replace(b"/ ", b"/%d " % number))
                    answers[number] = (await client.receive_response()).body

            answers = {}
            for number in range(5):
                nursery.start_soon(ask, number)
            await wait_until(lambda: server.wsgi.waiting_requests == 3)
            async with server.raw_client() as client:
                await client.send(GET)
                response = await client.receive_response()
                assert response.status == 503
                assert response.header("retry-after") is not None
            release.set()
        assert answers == {number: b"/%d" % number for number in range(5)}

    async def test_context_variables_are_those_of_the_server_and_stay_in_the_request(self):
        import contextvars

        from trioserve.testing.memory import open_memory_server

        def app(environ, start_response):
            seen.append(variable.get())
            variable.set("changed")
            start_response("200 OK", BINARY)
            yield variable.get().encode()

        seen = []
        variable = contextvars.ContextVar("variable", default="unset")
        variable.set("given")
        async with (
            open_memory_server(WsgiApplication(app, threads=1)) as server,
            server.raw_client() as client,
        ):
            for _ in range(3):
                await client.send(GET)
                assert (await client.receive_response()).body == b"changed"
        assert seen == ["given"] * 3
