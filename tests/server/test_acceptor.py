"""Limits on connections, and a process that is out of descriptors."""

from __future__ import annotations

import os
import resource
import socket
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
import trio

from trioserve.config import Config, LifecycleSettings, LimitSettings, LoggingSettings, ProcessSettings
from trioserve.server.server import serve
from trioserve.testing.raw_client import RawClient

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


async def hello(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


@asynccontextmanager
async def serving(bind=("127.0.0.1:0",), **limits):
    config = Config(
        bind=bind,
        limits=LimitSettings(**limits),
        logging=LoggingSettings(access="off"),
        lifecycle=LifecycleSettings(lifespan="off"),
    )
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve, hello, config)
            yield server
            server.stop_now()


async def connect(server, index=0):
    client = RawClient(await trio.open_tcp_stream(*server.addresses[index]))
    await client.send(GET)
    return client


async def answered(client, within=0.05):
    with trio.move_on_after(within):
        return (await client.receive_response()).status == 200
    return False


async def test_no_more_connections_than_the_limit():
    async with serving(connections=3) as server:
        first = [await connect(server) for _ in range(3)]
        assert [await answered(client) for client in first] == [True] * 3
        later = [await connect(server) for _ in range(30)]
        await trio.sleep(0.05)
        assert server.stats().connections_open == 3
        assert server.stats().connections_accepted == 3
        while later:
            await first.pop().aclose()
            first.append(later.pop(0))
            assert await answered(first[-1], within=1)
            assert server.stats().connections_open <= 3
        for client in first:
            await client.aclose()


async def test_listeners_that_wait_for_room_at_once_are_all_woken():
    async with serving(("127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"), connections=1) as server:
        holder = await connect(server)
        assert await answered(holder)
        waiting = [await connect(server, index) for index in range(3)]
        await trio.sleep(0.05)
        await holder.aclose()
        for _ in range(3):  # in any order: each makes room for the next
            done = None
            async with trio.open_nursery() as nursery:

                async def wait(client):
                    nonlocal done
                    await client.receive_response()
                    done = client
                    nursery.cancel_scope.cancel()

                for client in waiting:
                    nursery.start_soon(wait, client)
            waiting.remove(done)
            await done.aclose()


async def test_connections_of_one_address():
    async with serving(connections_per_ip=2) as server:
        first = [await connect(server) for _ in range(2)]
        assert [await answered(client) for client in first] == [True, True]
        for _ in range(20):
            with pytest.raises(trio.BrokenResourceError):
                async with await connect(server) as refused:
                    await refused.stream.receive_some()
                    await refused.stream.send_all(GET)
                    raise trio.BrokenResourceError
        assert server.stats().connections_refused == 20
        assert server.stats().connections_open == 2
        await first.pop().aclose()
        await trio.sleep(0.02)
        again = await connect(server)
        assert await answered(again)
        await again.aclose()
        await first.pop().aclose()


async def test_out_of_descriptors(caplog):
    """Accepting pauses, the running ones go on, and it goes on by itself."""
    async with serving() as server:
        running = await connect(server)
        assert await answered(running)
        late = [socket.socket() for _ in range(5)]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        used = max(int(name) for name in os.listdir("/proc/self/fd"))
        spare = [os.dup(0) for _ in range(used)]  # fill the gaps below the limit
        full = max(int(name) for name in os.listdir("/proc/self/fd"))
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (full, hard))
            for sock in late:
                sock.connect(server.addresses[0])
                sock.sendall(GET)
            await trio.sleep(0.15)
            accepted_while_full = server.stats().connections_accepted
            await running.send(GET)
            assert await answered(running)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for descriptor in spare:
                os.close(descriptor)
        for sock in late:
            sock.setblocking(False)
            client = RawClient(trio.SocketStream(trio.socket.from_stdlib_socket(sock)))
            assert await answered(client, within=1)
            await client.aclose()
        await running.aclose()
    assert accepted_while_full == 1
    warnings = [record for record in caplog.records if "cannot accept connections" in record.getMessage()]
    assert 1 <= len(warnings) <= 5


@pytest.mark.parametrize(("workers", "expected"), [(0, 40), (1, 40), (2, 1), ("auto", 1)])
async def test_a_burst_is_shared_with_other_workers(workers, expected):
    taken = []

    class Watch(trio.abc.Instrument):
        def after_io_wait(self, timeout):
            taken.append(server.stats().connections_accepted)

    config = Config(
        bind=("127.0.0.1:0",),
        process=ProcessSettings(workers=workers),
        logging=LoggingSettings(access="off"),
        lifecycle=LifecycleSettings(lifespan="off"),
    )
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve, hello, config)
            waiting = [socket.create_connection(server.addresses[0]) for _ in range(40)]
            trio.lowlevel.add_instrument(Watch())
            while server.stats().connections_accepted < 40:
                await trio.lowlevel.checkpoint()
            taken.append(40)
            assert max(later - before for before, later in pairwise(taken)) == expected
            for sock in waiting:
                sock.close()
            server.stop_now()
