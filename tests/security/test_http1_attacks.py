from __future__ import annotations

import os
import resource
import select
import socket
import textwrap
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
import trio

from tests.server_process import ServerProcess
from trioserve.testing.raw_client import RawClient

MB = 1 << 20
TIMEOUTS = (
    "--timeouts-head=0.5",
    "--timeouts-keep-alive=0.5",
    "--timeouts-body-stall=0.5",
    "--timeouts-write-stall=0.5",
)
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"

APP = """
    import sys
    import trio

    LARGE = b"x" * 100_000_000
    gap = 0.0

    def tell(text):
        print(text, file=sys.stderr, flush=True)

    async def watch_the_loop():
        global gap
        while True:
            due = trio.current_time() + 0.01
            await trio.sleep_until(due)
            gap = max(gap, trio.current_time() - due)

    async def lifespan(receive, send):
        await receive()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch_the_loop)
            await send({"type": "lifespan.startup.complete"})
            await receive()
            nursery.cancel_scope.cancel()
        await send({"type": "lifespan.shutdown.complete"})

    async def app(scope, receive, send):
        global gap
        if scope["type"] == "lifespan":
            return await lifespan(receive, send)
        path, body = scope["path"], b"ok"
        if path == "/upload":
            more = True
            while more:
                more = (await receive()).get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if path == "/gap":
            body, gap = b"%f" % gap, 0.0
        elif path == "/whole":
            body = LARGE
        elif path == "/stream":
            sent = 0
            try:
                while sent < 100_000_000:
                    await send({"type": "http.response.body", "body": LARGE[:65536], "more_body": True})
                    sent += 65536
            finally:
                tell(f"streamed {sent}")
        await send({"type": "http.response.body", "body": body})
"""


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "main.py").write_text(textwrap.dedent(APP), encoding="utf-8")
    return tmp_path


class Attacked:
    """A server process, its address and what it costs."""

    def __init__(self, server: ServerProcess):
        self.server = server
        host, _, port = server.wait_until_serving().partition("://")[2].rpartition(":")
        self.address = (host, int(port))
        self.pid = server.process.pid

    @property
    def memory(self) -> int:
        """Resident bytes."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    @property
    def processor_time(self) -> float:
        """Seconds of the processor so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def connections(self) -> int:
        """Open sockets, the listening one among them."""
        files = Path(f"/proc/{self.pid}/fd").iterdir()
        return sum(file.readlink().name.startswith("socket:") for file in files)

    async def connect(self, receive_buffer: int | None = None) -> RawClient:
        sock = trio.socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await sock.connect(self.address)
        return RawClient(trio.SocketStream(sock))

    async def get(self, path: bytes = b"/") -> bytes:
        async with await self.connect() as client:
            await client.send(GET.replace(b"/", path, 1))
            with trio.fail_after(5):
                return (await client.receive_response()).body


# -- clients that take their time ----------------------------------------------------------------------------------


async def slow_head(client):
    with pytest.raises(trio.BrokenResourceError):
        for byte in GET[:20] + b"a" * 10_000:
            await client.send(bytes([byte]))
            await trio.sleep(0.02)


async def slow_empty_lines(client):
    with pytest.raises(trio.BrokenResourceError):
        for _ in range(10_000):
            await client.send(b"\r\n")
            await trio.sleep(0.02)


async def silent(client):
    assert await client.receive_all() == b""


async def silent_after_a_request(client):
    await client.send(GET)
    assert (await client.receive_response()).status == 200
    assert await client.receive_all() == b""


async def stalled_body(client):
    await client.send(b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
    assert (await client.receive_all()).startswith(b"HTTP/1.1 408 ")


async def stalled_continue(client):
    await client.send(
        b"POST /upload HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n"
    )
    assert b"\r\n\r\nHTTP/1.1 408 " in await client.receive_all()


async def never_reads(client, path):
    await client.send(GET.replace(b"/", path, 1))
    await wait_reset(client)


async def wait_reset(client):
    with closing(select.epoll()) as errors:
        errors.register(client.stream.socket.fileno(), 0)  # nothing but the reset
        await trio.lowlevel.wait_readable(errors.fileno())


async def never_reads_a_stream(client):
    await never_reads(client, b"/stream")


async def never_reads_one_piece(client):
    await never_reads(client, b"/whole")


async def reads_a_byte_now_and_then(client):
    async def read_slowly():
        for _ in range(1000):
            await client.stream.receive_some(1)
            await trio.sleep(0.1)

    await client.send(GET.replace(b"/", b"/stream", 1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_slowly)
        await wait_reset(client)
        nursery.cancel_scope.cancel()


SLOW = (
    *(slow_head, slow_empty_lines, silent, silent_after_a_request, stalled_body, stalled_continue),
    *(never_reads_a_stream, never_reads_one_piece, reads_a_byte_now_and_then),
)


async def attack(attacked, behaviour):
    async with await attacked.connect(receive_buffer=4096) as client:
        with trio.fail_after(8):
            await behaviour(client)


@pytest.mark.parametrize("behaviour", SLOW)
async def test_slow_clients_are_ended_while_others_are_served(directory, behaviour):
    with ServerProcess(directory, "main:app", "-w", "0", "-b", "127.0.0.1:0", *TIMEOUTS) as server:
        attacked = Attacked(server)
        await attack(attacked, behaviour)  # what the first one costs is no leak
        before = attacked.memory
        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(attack, attacked, behaviour)
            for _ in range(100):
                assert await attacked.get() == b"ok"
            growth = attacked.memory - before
        assert growth < 20 * MB
        assert float(await attacked.get(b"/gap")) < 0.6
        assert attacked.memory - before < 20 * MB
        assert server.stop() == 0
    assert " error: " not in server.errors


async def test_a_client_that_never_reads_holds_the_application_back(directory):
    with ServerProcess(directory, "main:app", "-w", "0", "-b", "127.0.0.1:0", *TIMEOUTS) as server:
        attacked = Attacked(server)
        await attack(attacked, never_reads_a_stream)
        server.wait_for_line("streamed ")
        before = attacked.memory
        await attack(attacked, never_reads_a_stream)
        assert int(server.wait_for_line(r"streamed (\d+)")[1]) < 8 * MB  # what the kernel holds on both sides
        assert attacked.memory - before < 5 * MB


# -- floods --------------------------------------------------------------------------------------------------------


def flood(address, data, stop, head=b""):
    """Send as fast as it goes, and throw away what comes."""
    with socket.create_connection(address) as sock:
        sock.settimeout(0.2)
        drain = threading.Thread(target=_drain, args=(sock, stop))
        drain.start()
        try:
            sock.sendall(head)
            while not stop.is_set():
                try:
                    sock.sendall(data)
                except TimeoutError:
                    break
        except OSError:
            pass
        stop.wait()
        drain.join()


def _drain(sock, stop):
    while not stop.is_set():
        try:
            if not sock.recv(1 << 20):
                return
        except TimeoutError:
            pass
        except OSError:
            return


FLOODS = {
    "pipelined requests": (b"", GET * 20_000),
    "upload": (b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000000\r\n\r\n", b"x" * MB),
    "chunks of one byte": (
        b"POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"1\r\nx\r\n" * 100_000,
    ),
    "downloads": (b"", GET.replace(b"/", b"/stream") * 10),
}


@pytest.mark.parametrize(("head", "data"), FLOODS.values(), ids=FLOODS)
async def test_a_flood_does_not_starve_others(directory, head, data):
    stop = threading.Event()
    with ServerProcess(
        directory, "main:app", "-w", "0", "-b", "127.0.0.1:0", "--logging-access=off"
    ) as server:
        attacked = Attacked(server)
        floods = [threading.Thread(target=flood, args=(attacked.address, data, stop, head)) for _ in range(3)]
        before = attacked.memory
        for thread in floods:
            thread.start()
        try:
            await attacked.get(b"/gap")
            end = trio.current_time() + 1.5
            while trio.current_time() < end:
                assert await attacked.get() == b"ok"
            assert float(await attacked.get(b"/gap")) < 0.6
            assert attacked.memory - before < 20 * MB
        finally:
            stop.set()
            for thread in floods:
                thread.join()


async def test_out_of_descriptors(directory):
    def few_descriptors():
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))

    arguments = ("main:app", "-b", "127.0.0.1:0", "--limits-connections=0", "--timeouts-head=30")
    with ServerProcess(directory, "-w", "0", *arguments, preexec_fn=few_descriptors) as server:
        attacked = Attacked(server)
        clients = [await attacked.connect() for _ in range(60)]
        server.wait_for_line("cannot accept connections for now: Too many open files")
        busy, since = attacked.processor_time, time.monotonic()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(attacked.get)  # waits in the backlog
            await trio.sleep(1)
            assert attacked.processor_time - busy < 0.3 * (time.monotonic() - since)
            for client in clients:
                await client.aclose()
        assert await attacked.get() == b"ok"
        assert server.stop() == 0
    assert server.errors.count("cannot accept connections") < 30
