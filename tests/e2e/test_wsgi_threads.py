"""Slow WSGI applications on few threads: who runs, who waits, who is refused, and what others notice of it."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
from h2.errors import ErrorCodes
from hyperframe.frame import RstStreamFrame

from tests.wsgi.outcomes import PROTOCOLS, fetch
from tests.wsgi.serving import TEXT, serving, until
from trioserve.config import LimitSettings, TimeoutSettings
from trioserve.testing.http2_client import Http2Client
from trioserve.testing.raw_client import RawClient

THREADS = 8
REQUESTS = 200
MOST_LAG = 0.020
PATIENCE = 10
SHORT = TimeoutSettings(request=0.4, cleanup_grace=0.2, disconnect_grace=0.2)


class Gated:
    """An application of which every call waits until one is let go; it remembers the order in which they began."""

    def __init__(self):
        self.begun = []
        self.ended = []
        self.most = self._running = 0
        self._lock = threading.Lock()
        self._gate = threading.Semaphore(0)

    def __call__(self, environ, start_response):
        with self._lock:
            self.begun.append(environ["PATH_INFO"])
            self._running += 1
            self.most = max(self.most, self._running)
        passed = self._gate.acquire(timeout=PATIENCE)
        with self._lock:
            self._running -= 1
            self.ended.append(environ["PATH_INFO"])
        assert passed, "nobody let it go"
        start_response("200 OK", [TEXT])
        return [b"done"]

    def let_go(self, count=1):
        self._gate.release(count)


def get(number):
    return f"GET /{number} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode()


async def open_clients(nursery, address, count):
    """So many connections, closed by the nursery's end."""
    clients = []

    async def hold(*, task_status):
        async with RawClient(await trio.open_tcp_stream(*address)) as client:
            clients.append(client)
            task_status.started()
            await trio.sleep_forever()

    for _ in range(count):
        await nursery.start(hold)
    return clients


# -- turns ---------------------------------------------------------------------------------------------------------


async def test_as_many_run_as_there_are_threads_and_the_rest_wait_in_order(nursery):
    app = Gated()
    async with serving(app, threads=THREADS) as (server, address):
        clients = await open_clients(nursery, address, REQUESTS)
        for number, client in enumerate(clients):
            await client.send(get(number))
            await until(lambda number=number: server.stats().requests_running == number + 1)
            await until(lambda number=number: len(app.begun) == min(number + 1, THREADS))
        for count in range(THREADS + 1, REQUESTS + 1):
            app.let_go()
            await until(lambda count=count: len(app.begun) >= count)
            assert len(app.begun) == count
        app.let_go(THREADS)
        for client in clients:
            assert (await client.receive_response()).body == b"done"
    assert app.most == THREADS
    assert app.begun == [f"/{number}" for number in range(REQUESTS)]


async def test_a_burst_of_connections_runs_in_the_order_in_which_they_were_made(nursery):
    """Trio runs what is ready at the same time forwards or backwards: one round of it would not tell."""
    for _ in range(8):
        app = Gated()
        app.let_go(50)
        async with serving(app, threads=1) as (_, address), trio.open_nursery() as burst:
            with trio.CancelScope(shield=True):
                clients = await trio.to_thread.run_sync(make_burst, address, 50)
            for client in clients:
                burst.start_soon(receive_and_close, client)
        assert app.begun == [f"/{number}" for number in range(50)]


def make_burst(address, count):
    """Connections that come faster than a server's event loop looks, each with its request."""
    clients = []
    for number in range(count):
        client = socket.create_connection(address, timeout=PATIENCE)
        client.sendall(get(number))
        clients.append(client)
    return clients


async def receive_and_close(sock):
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
    async with stream:
        assert b"done" in b"".join([data async for data in stream])


async def test_a_burst_of_streams_runs_in_the_order_of_their_numbers():
    for _ in range(8):
        app = Gated()
        app.let_go(40)
        async with (
            serving(app, threads=1) as (_, address),
            Http2Client(await trio.open_tcp_stream(*address), timeout=PATIENCE) as client,
        ):
            await client.start()
            ids = range(client.next_stream_id, client.next_stream_id + 80, 2)
            frames = [client.request_frames(path=f"/{number}") for number in range(40)]
            await client.send(*itertools.chain.from_iterable(frames))
            for stream_id in ids:
                assert (await client.response(stream_id)).body == b"done"
        assert app.begun == [f"/{number}" for number in range(40)]


async def test_http2_streams_share_the_threads(nursery):
    """A hundred streams on one connection: groups of as many as there are threads meet in the application."""
    meeting = threading.Barrier(THREADS)
    running, most, lock = [0], [0], threading.Lock()

    def app(environ, start_response):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        if int(environ["PATH_INFO"][1:]) < 96:
            meeting.wait(PATIENCE)
        with lock:
            running[0] -= 1
        start_response("200 OK", [TEXT])
        return [environ["PATH_INFO"].encode()]

    async with (
        serving(app, threads=THREADS) as (_, address),
        Http2Client(await trio.open_tcp_stream(*address), timeout=PATIENCE) as client,
    ):
        await client.start()
        ids = [await client.request(path=f"/{number}") for number in range(100)]
        bodies = [(await client.response(stream_id)).body for stream_id in ids]
    assert bodies == [b"/%d" % number for number in range(100)]
    assert most[0] == THREADS


# -- what the event loop notices -----------------------------------------------------------------------------------


def waited_for_a_processor():
    """Seconds that this thread was ready to run and others ran: no fault of anybody here."""
    tid = threading.get_native_id()
    return int(Path(f"/proc/self/task/{tid}/schedstat").read_text().split()[1]) / 1e9


async def watch_lag(lags):
    while True:
        begin, waited = time.perf_counter(), waited_for_a_processor()
        await trio.sleep(0.005)
        lags.append(time.perf_counter() - begin - 0.005 - (waited_for_a_processor() - waited))


async def test_loop_goes_on_while_threads_are_slow(nursery):
    def app(environ, start_response):
        time.sleep(0.02)
        start_response("200 OK", [TEXT])
        return [b"done"]

    lags = []
    async with serving(app, threads=THREADS) as (_, address):
        clients = await open_clients(nursery, address, REQUESTS)
        nursery.start_soon(watch_lag, lags)
        begin = time.perf_counter()
        for number, client in enumerate(clients):
            await client.send(get(number))
        for client in clients:
            assert (await client.receive_response()).body == b"done"
        lasted = time.perf_counter() - begin
        nursery.cancel_scope.cancel()
    assert lasted > 0.02 * REQUESTS / THREADS  # no more than eight at once
    assert len(lags) > 20
    assert max(lags) < MOST_LAG


# -- too many, too long --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_over_the_limit_is_refused_although_it_would_only_wait(nursery, protocol):
    app = Gated()
    limits = LimitSettings(requests=THREADS + 5)
    async with serving(app, threads=THREADS, limits=limits) as (server, address):
        clients = await open_clients(nursery, address, THREADS + 5)
        for number, client in enumerate(clients):
            await client.send(get(number))
        await until(lambda: server.stats().requests_running == THREADS + 5)
        refused = await fetch(address, protocol, "/refused")
        assert refused.status == 503
        assert int(refused.headers["retry-after"]) > 0
        app.let_go(THREADS + 5)
        for client in clients:
            assert (await client.receive_response()).status == 200
        app.let_go()
        assert (await fetch(address, protocol, "/later")).status == 200
    assert "/refused" not in app.begun


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_deadline_reaches_those_that_wait_for_a_thread(nursery, protocol, caplog):
    app = Gated()
    async with serving(app, threads=2, timeouts=SHORT) as (_, address):
        outcomes = []

        async def ask(number):
            outcomes.append(await fetch(address, protocol, f"/{number}"))

        async with trio.open_nursery() as asking:
            for number in range(2):
                asking.start_soon(ask, number)
            await until(lambda: len(app.begun) == 2)
            for number in range(2, 6):
                asking.start_soon(ask, number)
        assert [outcome.status for outcome in outcomes] == [503] * 6
        assert all(int(outcome.headers["retry-after"]) > 0 for outcome in outcomes)
        app.let_go(2)
        await until(lambda: len(app.ended) == 2)
        app.let_go()
        assert (await fetch(address, protocol, "/after")).status == 200
    assert sorted(app.begun) == ["/0", "/1", "/after"]


async def test_thread_over_its_deadline_is_reported_with_its_stack_and_comes_back(caplog):
    app = Gated()

    def hold_the_only_thread(environ, start_response):
        return app(environ, start_response)

    async with serving(hold_the_only_thread, threads=1, timeouts=SHORT) as (_, address):
        assert (await fetch(address, "HTTP/1.1", "/stuck")).status == 503
        await until(
            lambda: "hold_the_only_thread" in "".join(getattr(each, "detail", "") for each in caplog.records)
        )
        assert (await fetch(address, "HTTP/1.1", "/waits")).status == 503
        app.let_go(1)
        await until(lambda: app.ended == ["/stuck"])
        app.let_go(1)
        assert (await fetch(address, "HTTP/1.1", "/after")).status == 200
    assert app.begun == ["/stuck", "/after"]


# -- clients that leave --------------------------------------------------------------------------------------------


class Leaving:
    """Clients that send a request and leave when told to, on either protocol."""

    def __init__(self, protocol, address):
        self.protocol = protocol
        self.address = address

    async def send_and_leave(self, path, leave, *, expect=False):
        """Ask for a path; if `expect`, with a body that waits for 100 Continue and never comes."""
        method = "POST" if expect else "GET"
        head = [(b"content-length", b"10"), (b"expect", b"100-continue")] if expect else []
        stream = await trio.open_tcp_stream(*self.address)
        async with stream:
            if self.protocol == "HTTP/2":
                client = Http2Client(stream)
                await client.start()
                await client.request(method, path, headers=head, end_stream=not expect)
            else:
                fields = b"".join(b"%s: %s\r\n" % pair for pair in head)
                await stream.send_all(f"{method} {path} HTTP/1.1\r\nHost: a\r\n".encode() + fields + b"\r\n")
            await leave.wait()


both = pytest.mark.parametrize("protocol", ["HTTP/1.1", "HTTP/2"])


@both
async def test_more_clients_leave_than_there_are_threads(protocol, nursery):
    threads, count = 4, 12
    told, begun, lock = [], [], threading.Lock()

    def app(environ, start_response):
        if environ["PATH_INFO"] == "/":
            start_response("200 OK", [TEXT])
            return [b"still here"]
        with lock:
            begun.append(environ["PATH_INFO"])
        end = time.monotonic() + PATIENCE
        while not (left := environ["trioserve.disconnected"]()) and time.monotonic() < end:
            time.sleep(0.005)
        with lock:
            told.append(left)
        start_response("200 OK", [TEXT])
        return [b"for nobody"]

    async with serving(app, threads=threads) as (server, address):
        leave = trio.Event()
        leaving = Leaving(protocol, address)
        async with trio.open_nursery() as clients:
            for number in range(count):
                clients.start_soon(leaving.send_and_leave, f"/{number}", leave)
            await until(lambda: server.stats().requests_running == count)
            await until(lambda: len(begun) == threads)
            leave.set()
        with trio.fail_after(PATIENCE / 2):
            assert (await fetch(address, protocol, "/")).body == b"still here"
        await until(lambda: server.stats().requests_running == 0)
    assert len(told) >= threads
    assert all(told)


@both
async def test_blocked_write_raises_when_the_client_leaves(protocol):
    raised, blocked = [], threading.Event()

    def app(environ, start_response):
        write = start_response("200 OK", [TEXT])
        try:
            while True:
                blocked.set()
                write(bytes(1 << 20))
        except OSError as error:
            raised.append(error)
            raise

    await leave_while_blocked(app, protocol, blocked)
    await until(lambda: raised)


@both
async def test_iterable_is_closed_when_the_client_leaves(protocol):
    class Endless:
        closed = 0

        def __iter__(self):
            return self

        def __next__(self):
            begun.set()
            return bytes(1 << 20)

        def close(self):
            self.closed += 1

    begun, endless = threading.Event(), Endless()

    def app(environ, start_response):
        start_response("200 OK", [TEXT])
        return endless

    await leave_while_blocked(app, protocol, begun)
    assert endless.closed == 1


@both
async def test_blocked_read_raises_when_the_client_leaves(protocol):
    raised, begun = [], threading.Event()

    def app(environ, start_response):
        begun.set()
        try:
            environ["wsgi.input"].read(10)
        except OSError as error:
            raised.append(error)
            raise
        raise AssertionError("it looked complete")

    await leave_while_blocked(app, protocol, begun, expect=True)
    await until(lambda: raised)


async def leave_while_blocked(app, protocol, begun, *, expect=False):
    """Send a request, leave some time after it has begun, and wait until the application has ended."""
    async with serving(app, threads=1) as (server, address):
        leave = trio.Event()
        send_and_leave = partial(Leaving(protocol, address).send_and_leave, expect=expect)
        async with trio.open_nursery() as clients:
            clients.start_soon(send_and_leave, "/", leave)
            await until(begun.is_set)
            await trio.testing.wait_all_tasks_blocked(0.05)
            leave.set()
        await until(lambda: server.stats().requests_running == 0)


async def test_reset_stream_is_told_while_its_connection_goes_on():
    told, begun = [], threading.Event()

    def app(environ, start_response):
        if environ["PATH_INFO"] == "/":
            start_response("200 OK", [TEXT])
            return [b"ok"]
        begun.set()
        end = time.monotonic() + PATIENCE
        while not environ["trioserve.disconnected"]() and time.monotonic() < end:
            time.sleep(0.005)
        told.append(environ["trioserve.disconnected"]())
        return []

    async with (
        serving(app, threads=1) as (_, address),
        Http2Client(await trio.open_tcp_stream(*address), timeout=PATIENCE) as client,
    ):
        await client.start()
        stream_id = await client.request(path="/left")
        await until(begun.is_set)
        await client.send(RstStreamFrame(stream_id, error_code=ErrorCodes.CANCEL))
        assert (await client.get("/")).body == b"ok"
    assert told == [True]
