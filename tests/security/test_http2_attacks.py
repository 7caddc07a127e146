from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections import Counter
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trustme

from tests.security import http2_attackers
from tests.security.http2_attackers import PLANS
from tests.server_process import ServerProcess
from trioserve.testing.http2_client import Http2Client
from trioserve.testing.raw_client import RawClient

SECONDS = float(os.environ.get("TRIOSERVE_ATTACK_SECONDS", "0.1"))
MB = 1 << 20
MOST_STREAMS = 100
RESETS = 200  # the budget of a connection
BEING_CANCELLED = 64  # applications that do not know it yet: events between two turns of the loop
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"

APP = """
    import json
    import time
    from collections import Counter

    import trio

    LARGE = b"x" * 65536
    running, ending = Counter(), Counter()
    most = {"running": 0, "all": 0}
    busy = 0.0  # the most seconds that the loop has worked without a look at this task

    async def watch_the_loop():
        global busy
        while True:
            start = time.thread_time()
            await trio.sleep(0.001)
            busy = max(busy, time.thread_time() - start)

    async def lifespan(receive, send):
        await receive()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch_the_loop)
            await send({"type": "lifespan.startup.complete"})
            await receive()
            nursery.cancel_scope.cancel()
        await send({"type": "lifespan.shutdown.complete"})

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            return await lifespan(receive, send)
        client = scope["client"]
        running[client] += 1
        most["running"] = max(most["running"], running[client])
        most["all"] = max(most["all"], running[client] + ending[client])
        try:
            await respond(scope["path"], client, receive, send)
        finally:
            running[client] -= 1
            if not running[client]:
                del running[client]

    async def respond(path, client, receive, send):
        global busy
        body = b"ok"
        if path == "/wait":
            await trio.sleep_forever()
        elif path == "/stubborn":
            try:
                await trio.sleep_forever()
            finally:
                running[client] -= 1
                ending[client] += 1
                with trio.CancelScope(shield=True):
                    await trio.sleep(0.2)
                ending[client] -= 1
                running[client] += 1
        elif path == "/upload":
            more = True
            while more:
                more = (await receive()).get("more_body", False)
        elif path == "/told":
            told = {"busy": busy, "running": running.total() + ending.total(), "most": most}
            body, busy, most["running"], most["all"] = json.dumps(told).encode(), 0.0, 0, 0
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while path == "/big":
            await send({"type": "http.response.body", "body": LARGE, "more_body": True})
        await send({"type": "http.response.body", "body": body})
"""

# What has to have come, so that it was an attack: how connections ended, or what was answered.
EXPECTED = dict.fromkeys(PLANS, "GOAWAY ENHANCE_YOUR_CALM") | {
    "PUSH_PROMISE": "GOAWAY PROTOCOL_ERROR",
    "garbage after the preface": "GOAWAY FRAME_SIZE_ERROR",
    "malformed upgrades": "400",
    "100 requests, then leaving": "left",
    **dict.fromkeys(("PING without reading", "SETTINGS without reading", "100 responses unread"), "sent"),
    **dict.fromkeys(("tiny fields up to the limit", "cookie crumbs", "literal fields"), "responses"),
    **dict.fromkeys(("references up to the limit", "references beyond the limit"), "responses"),
    **dict.fromkeys(
        ("content of what is answered", "table size updates", "100 streams always full"), "responses"
    ),
    **dict.fromkeys(("window zero", "a trickle of window", "100 downloads", "half a preface"), "connections"),
    **dict.fromkeys(
        ("uploads in bytes, unread", "uploads in bytes on 100 streams", "slow uploads"), "connections"
    ),
    **dict.fromkeys(("uploads in bytes, read", "heads in flight", "a thousand prefaces"), "connections"),
    "unread uploads": "connections",
    **dict.fromkeys((name for name in PLANS if name.startswith("odd ")), "RST_STREAM PROTOCOL_ERROR"),
}


class Attacked:
    """A server process, its addresses and what it costs."""

    def __init__(self, server: ServerProcess):
        self.server = server
        addresses = {}
        for _ in range(2):
            scheme, _, address = server.wait_until_serving().partition("://")
            host, _, port = address.rpartition(":")
            addresses[scheme] = (host, int(port))
        self.address, self.tls_address = addresses["http"], addresses["https"]
        self.pid = server.process.pid

    @property
    def memory(self) -> int:
        """Resident bytes."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    @property
    def held_up(self) -> float:
        """Seconds that the worker and this process have waited for a processor which others had."""
        return (
            sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) for pid in (self.pid, "self"))
            / 1e9
        )

    @asynccontextmanager
    async def connect(self):
        async with Http2Client(await trio.open_tcp_stream(*self.address)) as client:
            await client.start()
            yield client

    async def told(self):
        async with self.connect() as client:
            return json.loads((await client.get("/told")).body)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    path = tmp_path_factory.mktemp("certificate") / "all.pem"
    trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(path)
    return path


# A fresh worker for each attack would show all the memory that it costs, and take a second more for each.
@pytest.fixture(scope="function" if SECONDS > 5 else "module")
def attacked(tmp_path_factory, certificate):
    directory = tmp_path_factory.mktemp("app")
    (directory / "main.py").write_text(textwrap.dedent(APP), encoding="utf-8")
    arguments = (
        *(
            "main:app",
            "--bind=127.0.0.1:0",
            "--insecure-bind=127.0.0.1:0",
            f"--tls-certificate={certificate}",
        ),
        *(
            "--logging-access=off",
            "--http2-h2c-upgrade",
            "--timeouts-graceful=1",
            "--timeouts-cleanup-grace=2",
        ),
    )
    with ServerProcess(directory, "-w", "0", *arguments) as server:
        yield Attacked(server)
        assert server.stop() == 0
        assert "Traceback" not in server.errors
        assert "bug" not in server.errors


class Bystander:
    """Another client, which asks again and again, by turns on a connection of its own and on a new one.

    Attributes:
        longest: seconds that a request took, without those in which other processes had the processor.
    """

    def __init__(self, attacked: Attacked):
        self.attacked = attacked
        self.longest = self.longest_by_clock = 0.0
        self.requests = 0
        self.most_memory = 0

    async def ask(self):
        """Until cancelled."""
        while True:
            async with self.attacked.connect() as client:
                for _ in range(50):
                    await self._time(self._get_http2, client)
                    await self._time(self._get_http1)

    async def _time(self, get, *arguments):
        start, held_up = trio.current_time(), self.attacked.held_up
        with trio.fail_after(10):
            assert await get(*arguments) == b"ok"
        wait = trio.current_time() - start
        self.longest_by_clock = max(self.longest_by_clock, wait)
        self.longest = max(self.longest, wait - (self.attacked.held_up - held_up))
        self.requests += 1
        self.most_memory = max(self.most_memory, self.attacked.memory)
        await trio.sleep(0.005)

    async def _get_http2(self, client):
        return (await client.get()).body

    async def _get_http1(self):
        async with RawClient(await trio.open_tcp_stream(*self.attacked.address)) as client:
            await client.send(GET)
            return (await client.receive_response()).body


async def attack(name, address, tls):
    words = [http2_attackers.__file__, name, *map(str, address), str(SECONDS), EXPECTED[name], *["tls"] * tls]
    process = await trio.run_process([sys.executable, *words], capture_stdout=True, stdin=subprocess.DEVNULL)
    return Counter(json.loads(process.stdout))


@pytest.mark.parametrize("name", PLANS)
async def test_an_attack_costs_little_and_others_are_served(attacked, name):
    await survive(attacked, name, tls=False)


OVER_TLS = (
    *("rapid reset", "CONTINUATION without end", "PING without reading", "SETTINGS", "window zero"),
    *("100 responses unread", "100 downloads", "100 streams always full"),
)


@pytest.mark.parametrize("name", OVER_TLS)
async def test_an_attack_over_tls(attacked, name):
    await survive(attacked, name, tls=True)


async def survive(attacked, name, tls):
    await attacked.told()
    bystander = Bystander(attacked)
    before = attacked.memory
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bystander.ask)
        ended = await attack(name, attacked.tls_address if tls else attacked.address, tls)
        nursery.cancel_scope.cancel()
    told = await attacked.told()
    growth = max(bystander.most_memory, attacked.memory) - before
    most = told["most"]
    print(
        f"{name:34} longest {bystander.longest:.3f} s ({bystander.longest_by_clock:.3f}) of {bystander.requests:5}, "
        f"busy {told['busy']:.3f} s, {growth / MB:5.1f} MB, "
        f"apps {told['running']:5} {most['running']:3} {most['all']:3}, {dict(ended)}"
    )
    assert bystander.longest < 1
    assert growth < 30 * MB
    assert most["running"] <= MOST_STREAMS + BEING_CANCELLED
    assert most["all"] <= MOST_STREAMS + RESETS
    assert ended[EXPECTED[name]]
