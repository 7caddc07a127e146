"""Disconnects, deadlines, hand-over and draining of HTTP/1.1 connections."""

from __future__ import annotations

import contextlib
import contextvars
import math
import socket
import struct
from contextlib import asynccontextmanager

import h11
import pytest
import trio
import trio.testing

from trioserve.asgi.errors import ClientDisconnected
from trioserve.config import Config, Http1Settings, LifecycleSettings, LimitSettings, LoggingSettings
from trioserve.config import TimeoutSettings as Timeouts
from trioserve.server.http1 import Http1Connection
from trioserve.server.server import serve
from trioserve.testing.memory import open_memory_server
from trioserve.testing.raw_client import RawClient

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n"


def settings(on_disconnect="cancel", **groups):
    return Config(
        bind=("127.0.0.1:0",),
        logging=LoggingSettings(access="off"),
        lifecycle=LifecycleSettings(lifespan="off", on_disconnect=on_disconnect),
        **groups,
    )


def timeouts(on_disconnect="cancel", **values):
    return settings(on_disconnect, timeouts=Timeouts(**values))


@asynccontextmanager
async def serving(app, config=None):
    """A server on a real socket, and a function that connects to it."""
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve, app, config or settings())

            async def connect():
                return RawClient(await trio.open_tcp_stream(*server.addresses[0]))

            yield connect, server
            server.stop_now()


async def respond(send, body=b"ok", headers=(), more=False):
    await send({"type": "http.response.start", "status": 200, "headers": list(headers)})
    await send({"type": "http.response.body", "body": body, "more_body": more})


class Watched:
    """Runs until it is told to end, and notes what happened to it."""

    def __init__(self, head=False, receives=True):
        self.head = head
        self.receives = receives
        self.began = trio.Event()
        self.told = trio.Event()
        self.ended = trio.Event()
        self.cancelled_after = math.nan
        self.cleaned_up = False

    async def __call__(self, scope, receive, send):
        start = trio.current_time()
        if self.head:
            await respond(send, b"x", more=True)
        self.began.set()
        try:
            if self.receives:
                while (await receive())["type"] != "http.disconnect":
                    pass
                self.told.set()
                self.told_after = trio.current_time() - start
            await trio.sleep_forever()
        except trio.Cancelled:
            self.cancelled_after = trio.current_time() - start
            raise
        finally:
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
            self.cleaned_up = True
            self.ended.set()


def reset(client):
    sock = client.stream.socket
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class TestLeavingClients:
    async def test_told_at_once_and_cancelled_after_the_grace(self, autojump_clock):
        app = Watched()
        async with open_memory_server(app, timeouts(disconnect_grace=7)) as server:
            client = server.raw_client()
            await client.send(GET)
            await trio.sleep(20)
            await client.aclose()
            await app.ended.wait()
        assert app.told_after == 20
        assert app.cancelled_after == 27
        assert app.cleaned_up
        assert server.stats().disconnects == 1

    @pytest.mark.parametrize("waiting", [b"", b"12345", GET])
    async def test_on_a_socket_whatever_waits_unread(self, waiting):
        """The application sleeps and asks nothing; bytes of a body or of the next request are not in the way."""
        app = Watched(receives=False)
        async with serving(app, timeouts(disconnect_grace=0.05)) as (connect, server):
            client = await connect()
            await client.send((POST if waiting.isdigit() else GET) + waiting)
            await app.began.wait()
            await client.send(waiting)
            await client.aclose()
            await app.ended.wait()
            assert server.stats().disconnects <= 1
        assert app.cancelled_after < 5
        assert app.cleaned_up

    async def test_no_grace(self, autojump_clock):
        app = Watched()
        async with open_memory_server(app, timeouts(disconnect_grace=0)) as server:
            client = server.raw_client()
            await client.send(GET)
            await trio.sleep(20)
            await client.aclose()
            await app.ended.wait()
        assert app.cancelled_after == pytest.approx(20, abs=0.02)

    async def test_a_response_within_the_grace_is_no_cancellation(self, autojump_clock):
        async def app(scope, receive, send):
            await trio.sleep(5)
            await respond(send)
            ended.append(True)

        ended = []
        async with open_memory_server(app, timeouts(disconnect_grace=10)) as server:
            client = server.raw_client()
            await client.send(GET)
            await trio.sleep(1)
            await client.half_close()
            assert (await client.receive_response()).body == b"ok"
        assert ended == [True]

    async def test_notify_never_cancels(self, autojump_clock):
        async def app(scope, receive, send):
            await receive()
            assert await receive() == {"type": "http.disconnect"}
            await trio.sleep(1000)
            ended.append(True)
            raise ClientDisconnected

        ended = []
        async with open_memory_server(app, timeouts("notify", graceful=0)) as server:
            client = server.raw_client()
            await client.send(GET)
            await client.aclose()
        assert ended == [True]

    async def test_the_application_may_opt_out(self, autojump_clock):
        async def app(scope, receive, send):
            control = scope["extensions"]["trioserve"]
            assert control.cancel_on_disconnect
            control.cancel_on_disconnect = False
            await trio.sleep(100)
            control.cancel_on_disconnect = True
            try:
                await trio.sleep(100)
            finally:
                ended.append(trio.current_time() - start)

        ended = []
        async with open_memory_server(app, timeouts(disconnect_grace=7, graceful=0)) as server:
            client = server.raw_client()
            await client.send(GET)
            start = trio.current_time()
            await trio.testing.wait_all_tasks_blocked()
            await client.aclose()
        assert ended == [pytest.approx(100, abs=0.02)]  # the grace counts from the client's leaving

    async def test_a_half_closed_client_is_told_of_and_answered(self):
        async def app(scope, receive, send):
            await receive()
            assert await receive() == {"type": "http.disconnect"}
            await respond(send, b"still here")

        async with serving(app) as (connect, _), await connect() as client:
            await client.send(GET)
            await client.half_close()
            response = await client.receive_response()
            assert response.body == b"still here"
            assert response.header("connection") == b"close"
            await client.wait_closed()

    async def test_a_half_closed_client_gets_all_it_asked_for(self):
        async def app(scope, receive, send):
            await receive()
            assert await receive() == {"type": "http.disconnect"}
            await respond(send)

        async with serving(app) as (connect, _), await connect() as client:
            await client.send(GET * 3)
            await client.half_close()
            for last in (None, None, b"close"):
                assert (await client.receive_response()).header("connection") == last
            await client.wait_closed()

    async def test_a_reset_makes_send_raise(self):
        async def app(scope, receive, send):
            await receive()
            assert await receive() == {"type": "http.disconnect"}
            try:
                await respond(send)
            except OSError as error:
                raised.append(error)
                raise
            finally:
                ended.set()

        raised = []
        ended = trio.Event()
        async with serving(app) as (connect, server):
            client = await connect()
            await client.send(GET)
            await trio.sleep(0.01)
            reset(client)
            await ended.wait()
            await trio.testing.wait_all_tasks_blocked()
            assert server.stats().errors == 0
        assert [type(error) for error in raised] == [ClientDisconnected]

    async def test_cancelled_applications_finish_their_cleanup_within_the_grace(
        self, autojump_clock, error_log
    ):
        """What goes on behind it keeps its task, but not its client."""

        async def app(scope, receive, send):
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(50)

        async with open_memory_server(app, timeouts(request=10, cleanup_grace=4)) as server:
            client = server.raw_client()
            await client.send(GET)
            start = trio.current_time()
            with trio.move_on_after(30):
                await client.receive_all()
            assert len(error_log()) == 1
            assert "does not end after its cancellation (request timeout): GET /" in error_log()[0]
            assert trio.current_time() - start <= 31


class TestDeadlines:
    @pytest.mark.parametrize("limit", [0.5, 10, 1000])
    async def test_a_request_too_long(self, limit, autojump_clock):
        app = Watched()
        async with open_memory_server(app, timeouts(request=limit)) as server, server.raw_client() as client:
            await client.send(GET)
            response = await client.receive_response()
            assert response.status == 503
            assert response.header("retry-after") == b"1"
            assert response.header("connection") == b"close"
        assert server.stats().timeouts == 1
        assert app.cancelled_after == pytest.approx(limit, abs=0.02)
        assert app.cleaned_up

    async def test_a_response_too_long_is_cut(self, autojump_clock):
        app = Watched(head=True)
        async with open_memory_server(app, timeouts(request=10)) as server, server.raw_client() as client:
            await client.send(GET)
            with pytest.raises(h11.RemoteProtocolError):
                await client.receive_response()

    async def test_each_request_has_its_own_time(self, autojump_clock):
        async def app(scope, receive, send):
            await trio.sleep(8)
            await respond(send)

        async with open_memory_server(app, timeouts(request=10)) as server, server.raw_client() as client:
            for _ in range(3):
                await client.send(GET)
                assert (await client.receive_response()).status == 200

    @pytest.mark.parametrize(("moved_to", "status"), [(25, 200), (15, 503), (math.inf, 200)])
    async def test_the_application_moves_its_deadline(self, moved_to, status, autojump_clock):
        async def app(scope, receive, send):
            control = scope["extensions"]["trioserve"]
            assert control.deadline == pytest.approx(trio.current_time() + 10)
            control.deadline = trio.current_time() + moved_to
            assert control.deadline == trio.current_time() + moved_to
            await trio.sleep(20)
            await respond(send)

        async with open_memory_server(app, timeouts(request=10)) as server, server.raw_client() as client:
            await client.send(GET)
            start = trio.current_time()
            assert (await client.receive_response()).status == status
            assert trio.current_time() - start == pytest.approx(min(moved_to, 20), abs=0.02)

    async def test_a_deadline_without_a_setting(self, autojump_clock):
        async def app(scope, receive, send):
            control = scope["extensions"]["trioserve"]
            assert control.deadline == math.inf
            control.deadline = trio.current_time() + 1.5
            await trio.sleep(20)

        async with open_memory_server(app, settings()) as server, server.raw_client() as client:
            await client.send(GET)
            start = trio.current_time()
            assert (await client.receive_response()).status == 503
            assert trio.current_time() - start == pytest.approx(1.5, abs=0.02)

    async def test_an_application_that_cancels_its_own_scope_gets_503(self):
        async def app(scope, receive, send):
            scope["extensions"]["trioserve"].cancel_scope.cancel()
            await trio.sleep_forever()

        async with serving(app) as (connect, _), await connect() as client:
            await client.send(GET)
            assert (await client.receive_response()).status == 503
            await client.wait_closed()

    async def test_a_body_that_stalls(self, autojump_clock):
        async def app(scope, receive, send):
            while (await receive())["type"] == "http.request":
                pass

        config = timeouts(body_stall=20)
        async with open_memory_server(app, config) as server, server.raw_client() as client:
            await client.send(POST)
            for _ in range(3):
                await trio.sleep(19)
                await client.send(b"1")
            start = trio.current_time()
            assert (await client.receive_response()).status == 408
            assert trio.current_time() - start == pytest.approx(20, abs=0.02)
        assert server.stats().timeouts == 1

    async def test_a_body_that_nobody_reads_does_not_stall(self, autojump_clock):
        async def app(scope, receive, send):
            await trio.sleep(100)
            await respond(send)

        config = timeouts(body_stall=20)
        async with open_memory_server(app, config) as server, server.raw_client() as client:
            await client.send(POST)
            assert (await client.receive_response()).body == b"ok"

    async def test_a_head_that_trickles(self, autojump_clock):
        async def app(scope, receive, send):
            await respond(send)

        config = timeouts(head=12)
        async with open_memory_server(app, config) as server, server.raw_client() as client:
            for _ in range(2):  # the first, and one on a kept connection
                await client.send(GET)
                await client.receive_response()
                await trio.sleep(30)
            start = trio.current_time()
            for byte in GET[:11]:
                await client.send(bytes([byte]))
                await trio.sleep(1)
            response = await client.receive_response()
            assert response.status == 408
            assert trio.current_time() - start == pytest.approx(12, abs=0.02)

    async def test_a_reader_that_is_slow_is_no_stall(self, autojump_clock):
        """Each part of the deadline in which anything was taken gives another one."""
        sent = []

        async def app(scope, receive, send):
            await respond(send, b"x" * 1_000_000)
            sent.append(True)

        config = timeouts(write_stall=10)
        async with open_memory_server(app, config) as server, server.raw_client(lockstep=True) as client:
            await client.send(GET)
            received = 0
            while received < 1_000_000:
                await trio.sleep(8)
                received += len(await client.receive_some())
            await trio.testing.wait_all_tasks_blocked()
        assert sent == [True]


class TestKeepAlive:
    async def test_idle_connections_are_closed(self, autojump_clock):
        async def app(scope, receive, send):
            await respond(send)

        config = timeouts(keep_alive=33)
        async with open_memory_server(app, config) as server, server.raw_client() as client:
            await client.send(GET)
            await client.receive_response()
            start = trio.current_time()
            await client.wait_closed()
            assert trio.current_time() - start == pytest.approx(33, abs=0.02)

    async def test_the_last_request_says_so(self):
        async def app(scope, receive, send):
            await respond(send)

        config = settings(http1=Http1Settings(max_requests_per_connection=3))
        async with open_memory_server(app, config) as server, server.raw_client() as client:
            for number in range(1, 4):
                await client.send(GET)
                response = await client.receive_response()
                assert response.header("connection") == (b"close" if number == 3 else None)
            await client.wait_closed()

    async def test_a_small_body_that_nobody_read_is_discarded(self):
        async def app(scope, receive, send):
            await respond(send)

        async with open_memory_server(app, settings()) as server, server.raw_client() as client:
            for _ in range(2):
                await client.send(POST + b"0123456789")
                assert (await client.receive_response()).header("connection") is None

    async def test_a_large_body_that_nobody_read_ends_the_connection(self):
        async def app(scope, receive, send):
            await respond(send)

        head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10000000\r\n\r\n"
        async with serving(app) as (connect, _), await connect() as client:
            await client.send(head)
            assert (await client.receive_response()).status == 200
            for _ in range(30):
                await client.send(b"x" * 10_000)
            await client.wait_closed()

    async def test_contexts_of_requests_are_apart(self):
        variable = contextvars.ContextVar("variable", default=b"unset")

        async def app(scope, receive, send):
            before = variable.get()
            variable.set(b"set by a request")
            await respond(send, before)

        async with open_memory_server(app, settings()) as server, server.raw_client() as client:
            await client.send(GET * 2)
            for _ in range(2):
                assert (await client.receive_response()).body == b"unset"
            await client.send(GET)
            assert (await client.receive_response()).body == b"unset"


class Rest:
    """Answers and then goes on for a while, on the path /rest only."""

    def __init__(self, seconds=50, more=False, headers=()):
        self.seconds = seconds
        self.more = more
        self.headers = headers
        self.done = trio.Event()
        self.cancelled = False

    async def __call__(self, scope, receive, send):
        if self.more:
            await respond(send, scope["path"].encode(), self.headers, more=True)
            await send({"type": "http.response.body"})
        else:
            await respond(send, scope["path"].encode(), self.headers)
        if scope["path"] == "/rest":
            try:
                await trio.sleep(self.seconds)
            except trio.Cancelled:
                self.cancelled = True
                raise
            finally:
                self.done.set()


REST = b"GET /rest HTTP/1.1\r\nhost: a\r\n\r\n"


class TestHandOver:
    """What an application does after its response is its own affair."""

    @pytest.mark.parametrize("more", [True, False])
    async def test_a_later_request_does_not_wait(self, more, autojump_clock):
        app = Rest(more=more)
        async with open_memory_server(app, settings()) as server, server.raw_client() as client:
            await client.send(REST)
            await client.receive_response()
            await trio.sleep(1)
            start = trio.current_time()
            await client.send(GET)
            assert (await client.receive_response()).body == b"/"
            assert trio.current_time() - start < 0.1
            assert not app.done.is_set()
            await app.done.wait()
            await client.send(GET)  # the rest took nothing with it
            assert (await client.receive_response()).body == b"/"

    async def test_a_pipelined_request_waits_for_a_moment_only(self, autojump_clock):
        app = Rest()
        async with open_memory_server(app, settings()) as server, server.raw_client() as client:
            start = trio.current_time()
            await client.send(REST + GET + GET)
            for path in (b"/rest", b"/", b"/"):
                assert (await client.receive_response()).body == path
            assert trio.current_time() - start < 0.2
            assert not app.done.is_set()
            assert server.stats().requests_running == 1
            await app.done.wait()
            await trio.testing.wait_all_tasks_blocked()
            assert server.stats().requests_running == 0
            assert server.stats().requests_total == 3

    async def test_on_a_socket(self):
        app = Rest(0.2)
        async with serving(app) as (connect, server), await connect() as client:
            await client.send(REST)
            await client.receive_response()
            await client.send(GET + GET)
            for _ in range(2):
                assert (await client.receive_response()).body == b"/"
            assert not app.done.is_set()
            await app.done.wait()
            await trio.sleep(0.01)
            assert server.stats().connections_open == 1
            await client.send(GET)
            assert (await client.receive_response()).body == b"/"

    async def test_the_clients_leaving_does_not_cancel_the_rest(self, autojump_clock):
        app = Rest(20)
        async with open_memory_server(app, settings()) as server:
            client = server.raw_client()
            await client.send(REST)
            await client.receive_response()
            await client.send(GET)
            await client.receive_response()
            await client.aclose()
            await app.done.wait()
        assert not app.cancelled

    async def test_nor_without_a_successor(self, autojump_clock):
        app = Rest(20)
        async with open_memory_server(app, settings()) as server:
            client = server.raw_client()
            await client.send(REST)
            await client.receive_response()
            await client.aclose()
            await app.done.wait()
        assert not app.cancelled

    @pytest.mark.parametrize("headers", [[], [(b"content-length", b"5")]])
    async def test_the_end_of_a_1_0_response_does_not_wait(self, headers, autojump_clock):
        app = Rest(more=True, headers=headers)
        async with open_memory_server(app, settings()) as server, server.raw_client() as client:
            start = trio.current_time()
            await client.send(REST.replace(b"1.1", b"1.0"))
            assert (await client.receive_response()).body == b"/rest"
            assert trio.current_time() - start < 0.1

    async def test_several_rests_at_once(self, autojump_clock):
        app = Rest(10)
        async with open_memory_server(app, settings()) as server, server.raw_client() as client:
            for running in range(1, 4):
                await client.send(REST)
                await client.receive_response()
                await trio.testing.wait_all_tasks_blocked()
                assert server.stats().requests_running == running
            await trio.sleep(11)
            assert server.stats().requests_running == 0

    async def test_a_rest_that_raises_hurts_nobody(self, error_log, autojump_clock):
        async def app(scope, receive, send):
            await respond(send)
            if scope["path"] == "/rest":
                await trio.sleep(1)
                raise RuntimeError

        async with open_memory_server(app, settings()) as server, server.raw_client() as client:
            await client.send(REST + GET)
            await client.receive_response()
            await client.receive_response()
            await trio.sleep(2)
            await client.send(GET)
            assert (await client.receive_response()).body == b"ok"
        assert error_log() == ["error in the application: GET /rest HTTP/1.1"]

    @pytest.mark.parametrize("graceful", [10, 1000])
    async def test_draining_with_a_rest(self, graceful, autojump_clock):
        app = Rest(100)
        async with open_memory_server(app, timeouts(graceful=graceful)) as server:
            client = server.raw_client()
            await client.send(REST)
            await client.receive_response()
            start = trio.current_time()
            await server.drain()
            await client.wait_closed()
            assert trio.current_time() - start < 1.1  # it may have sent its next request
        assert app.cancelled == (graceful == 10)

    async def test_a_successor_that_is_cancelled_gets_its_answer(self, autojump_clock):
        async def app(scope, receive, send):
            if scope["path"] == "/rest":
                await respond(send)
            await trio.sleep_forever()

        async with open_memory_server(app, timeouts(request=10, graceful=1)) as server:
            client = server.raw_client()
            await client.send(REST + GET)
            assert (await client.receive_response()).status == 200
            assert (await client.receive_response()).status == 503

    async def test_a_bug_in_a_successor_ends_its_connection_only(self, error_log, monkeypatch):
        async def raise_key_error(connection, event):
            raise KeyError

        app = Rest(0.05)
        async with open_memory_server(app, settings()) as server:
            client = server.raw_client()
            await client.send(REST)
            await client.receive_response()
            with monkeypatch.context() as broken:
                broken.setattr(Http1Connection, "_complete_head", raise_key_error)
                await client.send(b"GET")
                await client.wait_closed()
            other = server.raw_client()
            await other.send(GET)
            assert (await other.receive_response()).status == 200
        assert error_log() == ["this is a bug in trioserve; one connection was closed"]


class TestCutWrites:
    @pytest.mark.parametrize("last", [True, False])
    @pytest.mark.parametrize("chunked", [True, False])
    async def test_nothing_follows_a_write_that_the_application_cancels(self, last, chunked):
        size = 30_000_000

        async def app(scope, receive, send):
            length = [] if chunked else [(b"content-length", b"%d" % (size if last else size + 3))]
            await send({"type": "http.response.start", "status": 200, "headers": length})
            with trio.move_on_after(0.05):
                await send({"type": "http.response.body", "body": b"x" * size, "more_body": not last})
            if not last:
                with pytest.raises(ClientDisconnected):
                    await send({"type": "http.response.body", "body": b"END"})

        async with serving(app) as (connect, _), await connect() as client:
            await client.send(GET)
            await trio.sleep(0.1)
            with contextlib.suppress(trio.BrokenResourceError):
                await client.send(GET)
            answer = await client.receive_all()
            assert answer.count(b"HTTP/1.1") <= 1
            assert b"END" not in answer
            assert len(answer) < size


class TestLimits:
    async def test_applications_at_once(self):
        async def app(scope, receive, send):
            await receive()
            await go.wait()
            await respond(send)

        go = trio.Event()
        config = settings(limits=LimitSettings(requests=3))
        async with open_memory_server(app, config) as server:
            running = [server.raw_client() for _ in range(3)]
            for client in running:
                await client.send(GET)
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(30):
                client = server.raw_client()
                await client.send(POST + b"0123456789")
                response = await client.receive_response()
                assert response.status == 503
                assert response.header("retry-after") is not None
                await client.aclose()
            assert server.stats().requests_running == 3
            assert server.stats().requests_refused == 30
            go.set()
            for client in running:
                assert (await client.receive_response()).status == 200

    @pytest.mark.parametrize("chunked", [True, False])
    async def test_the_size_of_a_body(self, chunked):
        async def app(scope, receive, send):
            while (message := await receive())["type"] == "http.request":
                seen.append(len(message["body"]))
            raise ClientDisconnected

        seen = []
        config = settings(limits=LimitSettings(body_size=1000))
        head = b"transfer-encoding: chunked" if chunked else b"content-length: 10000"
        piece = b"64\r\n" + b"x" * 100 + b"\r\n" if chunked else b"x" * 100
        async with serving(app, config) as (connect, server), await connect() as client:
            await client.send(b"POST / HTTP/1.1\r\nhost: a\r\n" + head + b"\r\n\r\n")
            for _ in range(100):
                try:
                    await client.send(piece)
                except trio.BrokenResourceError:
                    break
            assert (await client.receive_response()).status == 413
            assert server.stats().requests_refused == 1
        assert sum(seen) <= 1000

    async def test_the_size_is_refused_before_100_continue(self):
        async def app(scope, receive, send):
            raise AssertionError("was reached")

        config = settings(limits=LimitSettings(body_size=9))
        async with open_memory_server(app, config) as server, server.raw_client() as client:
            await client.send(POST.replace(b"\r\n\r\n", b"\r\nexpect: 100-continue\r\n\r\n"))
            response = await client.receive_response()
            assert (response.status, response.informational) == (413, [])
            assert response.header("connection") == b"close"

    async def test_a_body_of_just_that_size(self):
        async def app(scope, receive, send):
            await respond(send, (await receive())["body"])

        config = settings(limits=LimitSettings(body_size=10))
        async with open_memory_server(app, config) as server, server.raw_client() as client:
            await client.send(POST + b"0123456789")
            assert (await client.receive_response()).body == b"0123456789"

    async def test_server_names(self):
        async def app(scope, receive, send):
            await respond(send)

        config = settings(server_names=("Example.org", "[::1]"))
        async with open_memory_server(app, config) as server, server.raw_client() as client:
            for host, status in (
                (b"example.org", 200),
                (b"EXAMPLE.ORG:8443", 200),
                (b"[::1]", 200),
                (b"[::1]:80", 200),
                (b"example.org.evil", 421),
                (b"evil", 421),
                (b"evil:443", 421),
            ):
                await client.send(b"GET / HTTP/1.1\r\nhost: " + host + b"\r\n\r\n")
                assert (await client.receive_response()).status == status, host

    async def test_a_malformed_head_is_refused_and_nothing_behind_it_is_read(self):
        async def app(scope, receive, send):
            reached.append(scope["path"])

        reached = []
        async with open_memory_server(app, settings()) as server, server.raw_client() as client:
            await client.send(b"GET / HTTP/1.1\r\nhost : a\r\n\r\n" + GET)
            response = await client.receive_response()
            assert response.status == 400
            assert response.header("connection") == b"close"
            await client.half_close()
            await client.wait_closed()
            assert server.stats().requests_refused == 1
        assert reached == []

    async def test_a_client_that_still_sends_gets_to_read_the_refusal(self):
        """Closing with unread bytes would reset the connection and take the answer away."""

        async def app(scope, receive, send):
            raise AssertionError("was reached")

        async with serving(app) as (connect, _), await connect() as client:
            await client.send(b"GET / HTTP/1.1\r\nhost : a\r\n\r\n" + b"x" * 100_000)
            await trio.sleep(0.02)
            await client.send(b"x" * 100_000)
            assert (await client.receive_response()).status == 400
