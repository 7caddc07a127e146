"""A stream of HTTP/2 as a transport, over a running server: Trio's own checks, and the battery of transports."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from trioserve.config import Config, Http2Settings, LifecycleSettings, LoggingSettings
from trioserve.testing.memory import open_memory_server
from trioserve.testing.transport_checks import (
    TRANSPORT_CHECKS,
    CheckpointedTransport,
    TransportPair,
    a_file_is_sent,
    run_check,
)
from trioserve.testing.websocket_client import TunnelClient

WINDOW = 65535


class Tunnels:
    """A server whose streams become duplexes that the test holds, and nothing more."""

    def __init__(self):
        self._opened, self._duplexes = trio.open_memory_channel(1)
        self.server = None

    async def app(self, scope, receive, send):
        stream = scope["extensions"]["trioserve"]._connection._connection.carrier
        duplex, _ = await stream.open_duplex([])
        self._opened.send_nowait(duplex)
        await trio.sleep_forever()

    async def connect(self):
        client = TunnelClient(self.server.connect())
        await client.start()
        tunnel = await client.open_tunnel(headers=[(b"sec-websocket-version", b"13")])
        await client.wait_head(tunnel.stream_id)
        return await self._duplexes.receive(), tunnel


@asynccontextmanager
async def open_tunnels():
    config = Config(
        logging=LoggingSettings(access="off"),
        lifecycle=LifecycleSettings(lifespan="off", on_disconnect="notify"),
        http2=Http2Settings(window=WINDOW, connection_window=WINDOW),
    )
    tunnels = Tunnels()
    with trio.CancelScope() as scope:
        async with open_memory_server(tunnels.app, config) as tunnels.server:
            yield tunnels
            scope.cancel()


async def clog(stream):
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, bytes(1_000_000))
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()


@pytest.mark.parametrize("clogs", [True, False])
async def test_trios_own_checks(clogs, autojump_clock):
    async with open_tunnels() as tunnels:

        async def make():
            duplex, tunnel = await tunnels.connect()
            return CheckpointedTransport(duplex), tunnel

        async def make_clogged():
            pair = await make()
            for stream in pair:
                await clog(stream)
            return pair

        with trio.fail_after(1000):
            await trio.testing.check_half_closeable_stream(make, make_clogged if clogs else None)


@asynccontextmanager
async def make_pair():
    async with open_tunnels() as tunnels, trio.open_nursery() as nursery:
        duplex, tunnel = await tunnels.connect()
        yield TransportPair(duplex, tunnel, resets=True, reset_peer=lambda: nursery.start_soon(tunnel.reset))


WITH_THREADS = [a_file_is_sent]  # for which a clock that jumps does not wait


@pytest.mark.parametrize(
    "check",
    [check for check in TRANSPORT_CHECKS if check not in WITH_THREADS],
    ids=lambda check: check.__name__,
)
async def test_contract(check, autojump_clock):
    await run_check(check, make_pair)


@pytest.mark.parametrize("check", WITH_THREADS, ids=lambda check: check.__name__)
async def test_contract_with_threads(check):
    await run_check(check, make_pair)
