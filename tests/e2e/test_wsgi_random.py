"""Echoes by applications that read, write and yield in a random order, to clients that send and leave at random."""

from __future__ import annotations

import random
import sys
import threading
import time

import pytest
import trio

from tests.wsgi.outcomes import PROTOCOLS, fetch
from tests.wsgi.serving import TEXT, serving, until
from trioserve.testing.http2_client import Http2Client

LARGEST = 150_000
SEEDS = 60
AT_ONCE = 24


class Echo:
    """Sends back what it is sent; how is up to the request's seed, which is its path."""

    def __init__(self):
        self.began = 0
        self.closed = 0
        self.lock = threading.Lock()

    def __call__(self, environ, start_response):
        choice = random.Random(environ["PATH_INFO"])
        with self.lock:
            self.began += 1
        if choice.random() < 0.2:
            start_response("500 No", [TEXT])  # not what is sent in the end
            start_response("200 OK", [TEXT], (None, None, None))
        write = start_response("200 OK", [TEXT], (None, None, None))
        try:
            while choice.random() < 0.5:
                write(self.read_some(environ, choice))
        except OSError:  # the client has left; there will be nothing to close
            self.count_end()
            raise
        return Pieces(self, environ, choice)

    def count_end(self):
        with self.lock:
            self.closed += 1

    @staticmethod
    def read_some(environ, choice):
        size = choice.choice([0, 1, 10, 1000, 20_000, 70_000])
        source = environ["wsgi.input"]
        if choice.random() < 0.05:
            time.sleep(0.001)
        return source.read(size) if choice.random() < 0.8 else source.readline(size)


class Pieces:
    def __init__(self, echo, environ, choice):
        self.echo, self.environ, self.choice = echo, environ, choice

    def __iter__(self):
        while self.choice.random() < 0.9:
            yield self.echo.read_some(self.environ, self.choice)
        yield self.environ["wsgi.input"].read()

    def close(self):
        self.echo.count_end()


def body_for(seed):
    choice = random.Random(f"body {seed}")
    return choice.randbytes(choice.choice([0, 1, 100, 5000, 65_536, 65_537, LARGEST]))


@pytest.fixture
def eager_threads():
    """Threads are switched as often as can be."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.parametrize("threads", [1, 3, 32])
@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_echoes_in_any_order(protocol, threads, eager_threads):
    app, turn = Echo(), trio.CapacityLimiter(AT_ONCE)

    async def ask(address, seed):
        async with turn:
            outcome = await fetch(address, protocol, f"/{seed}", method="POST", body=body_for(seed))
            assert (outcome.status, outcome.body, outcome.complete) == (200, body_for(seed), True)

    async with serving(app, threads=threads) as (server, address):
        async with trio.open_nursery() as clients:
            for seed in range(SEEDS):
                clients.start_soon(ask, address, seed)
        await until(lambda: not server.stats().requests_running)
    assert app.began == app.closed == SEEDS


async def test_echoes_on_one_http2_connection(eager_threads):
    async with (
        serving(Echo(), threads=4) as (_, address),
        Http2Client(await trio.open_tcp_stream(*address), timeout=20) as client,
    ):
        await client.start(window=1 << 24)

        async def ask(seed):
            stream_id = await client.request("POST", f"/{seed}", body=body_for(seed))
            assert (await client.response(stream_id)).body == body_for(seed)

        async with trio.open_nursery() as asking:
            for seed in range(SEEDS):
                asking.start_soon(ask, seed)


@pytest.mark.parametrize("protocol", ["HTTP/1.1", "HTTP/2"])
async def test_clients_that_leave_at_any_time_cost_no_thread(protocol, eager_threads):
    app, turn, choice = Echo(), trio.CapacityLimiter(AT_ONCE), random.Random(7)

    async def ask_and_leave(address, seed, after):
        async with turn:
            with trio.move_on_after(after):
                await fetch(address, protocol, f"/{seed}", method="POST", body=body_for(seed))

    async with serving(app, threads=4) as (server, address):
        async with trio.open_nursery() as clients:
            for seed in range(4 * SEEDS):
                clients.start_soon(ask_and_leave, address, seed, choice.random() * 0.05)
        await until(lambda: not server.stats().requests_running)
        for seed in range(8):
            outcome = await fetch(address, protocol, f"/{seed}", method="POST", body=body_for(seed))
            assert outcome.body == body_for(seed)
        await until(lambda: not server.stats().requests_running)
    assert app.began == app.closed


async def test_no_thread_is_left_asleep_with_work_to_do(eager_threads):
    """Thousands of short requests that arrive one by one and in crowds."""

    def app(environ, start_response):
        start_response("200 OK", [TEXT])
        return [environ["PATH_INFO"].encode()]

    async def ask(stream, count):
        for number in range(count):
            await stream.send_all(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)
            assert (await stream.receive_some()).endswith(b"\r\n\r\n/%d" % number)

    async with serving(app, threads=3) as (_, address):
        streams = [await trio.open_tcp_stream(*address) for _ in range(10)]
        with trio.fail_after(20):
            await ask(streams[0], 500)
            async with trio.open_nursery() as asking:
                for stream in streams:
                    asking.start_soon(ask, stream, 200)
            await ask(streams[0], 500)
        for stream in streams:
            await stream.aclose()
