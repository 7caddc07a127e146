"""WebSocket clients that attack a real worker: what they are told, what they cost, and whether others notice."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import textwrap
import time
import zlib
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.server_process import ServerProcess
from trioserve.testing.websocket_client import (
    BINARY,
    CLOSE,
    CONTINUATION,
    FIN,
    PING,
    PONG,
    RSV1,
    TEXT,
    TunnelClient,
    client_frame,
    close_payload,
    open_http1_session,
    open_http2_session,
)

MB = 1 << 20
SECONDS = float(os.environ.get("TRIOSERVE_ATTACK_SECONDS", "0.4"))
LIMIT = 1000
DEFLATE = [(b"sec-websocket-extensions", b"permessage-deflate")]

APP = """
    async def app(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            if scope["path"] == "/echo":
                message["type"] = "websocket.send"
                await send(message)
        print(message["code"], flush=True)
"""


def deflated(data):
    deflater = zlib.compressobj(9, wbits=-15)
    return (deflater.compress(data) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]


def fragments(first, payload, size):
    pieces = [payload[start : start + size] for start in range(0, len(payload), size)]
    return b"".join(
        client_frame(first if not index else CONTINUATION, piece) for index, piece in enumerate(pieces)
    )


def header(first, *rest):
    """The first bytes of a frame, whatever they say, and a mask."""
    return bytes((first, *rest)) + b"\x37\xfa\x21\x3d"


BOMB = deflated(bytes(60 * MB))
SMALL_BOMB = deflated(bytes(2 * MB))

# What is sent after the handshake, and the code that the client is told.
ROWS = {
    "an endless message in fragments": (fragments(TEXT, b"x" * MB, 100), 1009),
    "fragments of no length": (client_frame(TEXT) + client_frame(CONTINUATION) * 10_000, 1009),
    "a message of one byte too many": (client_frame(FIN | BINARY, b"x" * (LIMIT + 1)), 1009),
    "a message that is only announced": (header(FIN | BINARY, 0xFF, *struct.pack("!Q", 1 << 62)), 1009),
    "a bomb": (client_frame(FIN | RSV1 | BINARY, BOMB), 1009),
    "a bomb in fragments": (fragments(RSV1 | BINARY, BOMB, 500), 1009),
    "a small bomb": (client_frame(FIN | RSV1 | TEXT, SMALL_BOMB), 1009),
    "a small bomb in bytes": (fragments(RSV1 | TEXT, SMALL_BOMB, 1), 1009),
    "garbage that is to be inflated": (client_frame(FIN | RSV1 | BINARY, b"\xff" * 100), 1007),
    "unmasked": (client_frame(FIN | TEXT, b"x", mask=None), 1002),
    "RSV2": (client_frame(FIN | 0x20 | TEXT, b"x"), 1002),
    "RSV3": (client_frame(FIN | 0x10 | TEXT, b"x"), 1002),
    "RSV1 on a continuation": (
        client_frame(TEXT, b"x") + client_frame(FIN | RSV1 | CONTINUATION, b"x"),
        1002,
    ),
    "RSV1 on a ping": (client_frame(FIN | RSV1 | PING, b"x"), 1002),
    "an unknown opcode": (client_frame(FIN | 0x3, b"x"), 1002),
    "an unknown control opcode": (client_frame(FIN | 0xB, b"x"), 1002),
    "an orphan": (client_frame(FIN | CONTINUATION, b"x"), 1002),
    "a message inside of another": (client_frame(TEXT, b"x") + client_frame(FIN | TEXT, b"x"), 1002),
    "a ping in fragments": (client_frame(PING, b"x"), 1002),
    "a long ping": (client_frame(FIN | PING, b"x" * 126), 1002),
    "a length that is too long": (header(FIN | TEXT, 0xFE, 0, 5) + b"x" * 5, 1002),
    "a length over 63 bits": (header(FIN | TEXT, 0xFF, 0x80, *bytes(7)), 1002),
    "UTF-8 that breaks off": (client_frame(FIN | TEXT, b"abc\xe2\x98"), 1007),
    "UTF-8 split badly": (client_frame(TEXT, b"abc\xe2") + client_frame(CONTINUATION, b"\x98abc"), 1007),
    "a surrogate": (client_frame(TEXT, b"\xed\xa0") + client_frame(CONTINUATION, b"\x80"), 1007),
    "a close with one byte": (client_frame(FIN | CLOSE, b"x"), 1002),
    "a close with a reason that is no text": (client_frame(FIN | CLOSE, close_payload(1000) + b"\xff"), 1007),
    **{
        f"a close with {code}": (client_frame(FIN | CLOSE, close_payload(code)), 1002)
        for code in (0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65535)
    },
}


class Attacked:
    """A server process, its address and its memory."""

    def __init__(self, server):
        host, _, port = server.wait_until_serving().partition("://")[2].rpartition(":")
        self.server = server
        self.address = (host, int(port))
        self.pid = server.process.pid

    @property
    def memory(self):
        """Resident bytes."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    @asynccontextmanager
    async def session(self, protocol, path="/", headers=(), first=b""):
        with trio.fail_after(20):
            stream = await trio.open_tcp_stream(*self.address)
            async with stream:
                if protocol == "http1":
                    yield await open_http1_session(stream, path, headers, first=first)
                else:
                    tunnels = TunnelClient(stream)
                    await tunnels.start()
                    yield await open_http2_session(tunnels, path, headers, first=first)

    def connect(self, path="/"):
        """A plain socket with a session on HTTP/1.1."""
        sock = socket.create_connection(self.address, timeout=10)
        sock.sendall(
            f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n".encode()
            + b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert sock.recv(4096).startswith(b"HTTP/1.1 101")
        return sock


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    directory = tmp_path_factory.mktemp("app")
    (directory / "main.py").write_text(textwrap.dedent(APP), encoding="utf-8")
    arguments = (
        *("main:app", "--bind=127.0.0.1:0", "--logging-access=off", "--lifecycle-lifespan=off"),
        *(f"--websocket-max-message-size={LIMIT}", "--timeouts-graceful=1"),
    )
    with ServerProcess(directory, "-w", "0", *arguments, stdout=subprocess.DEVNULL) as server:
        yield Attacked(server)
        assert server.stop() == 0
        assert "Traceback" not in server.errors
        assert "bug" not in server.errors


async def attack(attacked, protocol, data, *, more=b""):
    """Send it, with bytes behind it that nobody will read; return the close frame that comes before the end."""
    async with attacked.session(protocol, headers=DEFLATE) as client, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def send():
            try:
                await client.send_bytes(data + more)
            except trio.BrokenResourceError:
                pass

        close = await client.wait_close()
        nursery.cancel_scope.cancel()
    return close


@pytest.mark.parametrize("protocol", ["http1", "http2"])
@pytest.mark.parametrize("name", ROWS)
async def test_the_right_code_is_received(attacked, name, protocol):
    data, code = ROWS[name]
    for more in (b"", client_frame(FIN | BINARY, b"x" * LIMIT) * 200):
        close = await attack(attacked, protocol, data, more=more)
        assert close is not None, "the transport ended without a close frame"
        assert close.code == code


@pytest.mark.parametrize("protocol", ["http1", "http2"])
@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row[1] == 1009])
async def test_what_is_too_large_is_not_held(attacked, name, protocol):
    data, _ = ROWS[name]
    for _ in range(3):
        await attack(attacked, protocol, data)
    before = attacked.memory
    for _ in range(10):
        await attack(attacked, protocol, data)
    assert attacked.memory - before < 5 * MB


@pytest.mark.parametrize("protocol", ["http1", "http2"])
async def test_messages_in_the_segment_of_the_handshake(attacked, protocol):
    first = client_frame(FIN | TEXT, b"early") + client_frame(FIN | PING, b"ping")
    async with attacked.session(protocol, "/echo", first=first) as client:
        assert {(await client.next_frame()).payload for _ in range(2)} == {b"early", b"ping"}
        assert (await client.close(4000)).code == 4000


async def test_a_megabyte_in_the_segment_of_the_handshake(attacked):
    before = attacked.memory
    first = client_frame(FIN | BINARY, b"x" * LIMIT) * 1000
    async with attacked.session("http1", first=first) as client:
        assert client.accepted
        assert (await client.close(4000)).code == 4000
    assert attacked.memory - before < 5 * MB


class Bystander:
    """Another client, which has its messages echoed.

    Attributes:
        longest: seconds that one took.
    """

    def __init__(self, attacked):
        self.attacked = attacked
        self.longest = 0.0
        self.most_memory = 0
        self.over = False

    async def talk(self, task_status):
        """Until it is over."""
        async with self.attacked.session("http1", "/echo") as client:
            task_status.started()
            while not self.over:
                start = trio.current_time()
                await client.send("hello")
                assert await client.receive() == "hello"
                self.longest = max(self.longest, trio.current_time() - start)
                self.most_memory = max(self.most_memory, self.attacked.memory)
                await trio.sleep(0.005)


def flood(attacked, path, data):
    """Send for a while, and read nothing; how many bytes were taken."""
    sent = 0
    with attacked.connect(path) as sock:
        end = time.monotonic() + SECONDS
        sock.settimeout(0.1)
        while time.monotonic() < end:
            try:
                sent += sock.send(data)
            except TimeoutError:
                pass
    return sent


FLOODS = {
    "pings": client_frame(FIN | PING) * 10_000,
    "pings of 125 bytes": client_frame(FIN | PING, b"x" * 125) * 500,
    "pongs": client_frame(FIN | PONG) * 10_000,
    "messages": client_frame(FIN | TEXT, b"x") * 10_000,
    "messages in fragments": (client_frame(TEXT) + client_frame(CONTINUATION) * 4094 + client_frame(FIN)) * 2,
    "messages of the largest size": client_frame(FIN | BINARY, b"x" * LIMIT) * 60,
}


@pytest.mark.parametrize("path", ["/", "/echo"])
@pytest.mark.parametrize("name", FLOODS)
async def test_a_flood_costs_little_and_others_are_served(attacked, name, path):
    bystander = Bystander(attacked)
    before = attacked.memory
    sent = 0
    async with trio.open_nursery() as nursery:
        await nursery.start(bystander.talk)

        async def run():
            nonlocal sent
            sent += await trio.to_thread.run_sync(flood, attacked, path, FLOODS[name])

        async with trio.open_nursery() as attackers:
            for _ in range(4):
                attackers.start_soon(run)
        bystander.over = True
    growth = bystander.most_memory - before
    print(
        f"{name:30} {path:6} {sent / MB:6.1f} MB sent, longest {bystander.longest:.3f} s, {growth / MB:.1f} MB"
    )
    assert sent >= len(FLOODS[name])
    assert bystander.longest < 1
    assert growth < 5 * MB
