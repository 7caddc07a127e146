"""How opening handshakes end: what is behind them, clients that do not read the answer, and clients that leave."""

from __future__ import annotations

import socket

import pytest
import trio
import trio.testing
from hpack import Encoder as HpackEncoder
from hyperframe.frame import DataFrame, HeadersFrame, RstStreamFrame

from tests.server.session_server import open_server
from trioserve.testing.raw_client import RawClient
from trioserve.testing.websocket_client import FIN, TEXT, client_frame

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
MESSAGE = client_frame(FIN | TEXT, b"too early")
REQUEST = b"GET /second HTTP/1.1\r\nHost: a\r\n\r\n"
REFUSALS = {
    "close": [{"type": "websocket.close"}],
    "denial": [
        {"type": "websocket.http.response.start", "status": 418, "headers": []},
        {"type": "websocket.http.response.body", "body": b"tea"},
    ],
}
refusals = pytest.mark.parametrize("refusal", REFUSALS)


class Refusing:
    """Refuses a session, and has something to do afterwards."""

    def __init__(self, refusal):
        self.paths, self.refusal = [], REFUSALS[refusal]
        self.begun, self.go, self.refused, self.ended = (trio.Event() for _ in range(4))

    async def __call__(self, scope, receive, send):
        self.paths.append(scope["path"])
        await receive()
        self.begun.set()
        await self.go.wait()
        for message in self.refusal:
            await send(message)
        self.refused.set()
        await trio.sleep(1)
        self.ended.set()


@refusals
@pytest.mark.parametrize("behind", [MESSAGE, REQUEST])
async def test_an_application_that_has_refused_goes_on_whatever_the_client_sent(
    refusal, behind, tmp_path, autojump_clock
):
    app = Refusing(refusal)
    app.go.set()
    log = tmp_path / "log"
    async with open_server(app, access=str(log)) as served:
        client = RawClient(await served.stream())
        await client.send(HANDSHAKE + behind)
        await client.receive_all()
        assert app.ended.is_set()
    assert app.paths == ["/"]
    assert len(log.read_text().splitlines()) == 1
    assert "disconnected" not in log.read_text()


@refusals
async def test_a_client_that_talks_too_early_gets_to_read_the_refusal(refusal, autojump_clock):
    app = Refusing(refusal)
    async with open_server(app) as served:
        stream = await served.stream()
        await stream.send_all(HANDSHAKE)
        await app.begun.wait()
        await stream.send_all(MESSAGE)
        app.go.set()
        await app.refused.wait()
        await stream.send_all(MESSAGE)
        await app.ended.wait()
        await trio.testing.wait_all_tasks_blocked()
        status = b""
        while data := await stream.receive_some():  # a reset would raise
            status += data
        assert status.startswith(b"HTTP/1.1 4")


async def test_a_client_that_does_not_read_the_acceptance(autojump_clock):
    ended = trio.Event()

    async def app(scope, receive, send):
        try:
            await receive()
            await send({"type": "websocket.accept"})
        finally:
            ended.set()

    async with open_server(app, limit=1000, timeouts={"write_stall": 50}) as served:
        client, server = trio.testing.lockstep_stream_pair()  # has no room for anything
        closed = served.server.start_stream(server)
        begun = trio.current_time()
        await client.send_all(HANDSHAKE)
        await ended.wait()
        assert 50 <= trio.current_time() - begun <= 101
        await closed.wait()
        await trio.aclose_forcefully(client)
    assert served.server.stats().timeouts == 1


class Undecided:
    """Waits for a message before it has accepted."""

    def __init__(self):
        self.seen, self.ended = [], trio.Event()

    async def __call__(self, scope, receive, send):
        try:
            for _ in range(2):
                self.seen.append((await receive())["type"])
            await trio.sleep_forever()
        finally:
            self.ended.set()


async def test_a_client_that_has_ended_its_side_before_the_application_runs(autojump_clock):
    app = Undecided()
    async with open_server(app, timeouts={"disconnect_grace": 0}) as served:
        stream = await served.stream()
        stream.socket._sock.send(HANDSHAKE)  # both before the server has its turn
        stream.socket._sock.shutdown(socket.SHUT_WR)
        begun = trio.current_time()
        await app.ended.wait()
        assert trio.current_time() - begun < 0.1


async def test_a_stream_that_was_reset_before_the_application_runs(autojump_clock):
    app = Undecided()
    async with open_server(app) as served:
        tunnels = await served.tunnels()
        fields = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"), (":path", "/")]
        block = HpackEncoder().encode([*fields, (":authority", "a"), ("sec-websocket-version", "13")])
        head = HeadersFrame(1, block, flags=["END_HEADERS"])
        await tunnels.stream.send_all(head.serialize() + RstStreamFrame(1, error_code=8).serialize())
        begun = trio.current_time()
        await app.ended.wait()
        assert app.seen == ["websocket.connect", "websocket.disconnect"]
        assert trio.current_time() - begun == pytest.approx(3, abs=0.1)


CONNECT = [
    *((b":method", b"CONNECT"), (b":protocol", b"websocket"), (b":scheme", b"http"), (b":path", b"/")),
    *((b":authority", b"a"), (b"sec-websocket-version", b"13")),
]


class Accepting:
    """Accepts, and notes what it receives until the end."""

    def __init__(self):
        self.messages, self.ended = [], trio.Event()

    async def __call__(self, scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            self.messages.append(message["text"])
        self.messages.append(message["code"])
        self.ended.set()


async def test_a_stream_that_its_head_ends(autojump_clock):
    app = Accepting()
    async with open_server(app, ping_interval=0) as served:
        client = await served.tunnels()
        await client.send(*client.head_frames(1, CONNECT, end_stream=True))
        assert (await client.response(1)).status == 200
        await app.ended.wait()
        await client.ping()
        assert client.record(1).reset is None
    assert app.messages == [1006]
    assert served.server.stats().disconnects == 1


@pytest.mark.parametrize("data", [b"", MESSAGE])
async def test_a_stream_that_ends_with_the_first_data(data, autojump_clock):
    app = Accepting()
    async with open_server(app, ping_interval=0) as served:
        client = await served.tunnels()
        head = client.head_frames(1, CONNECT, end_stream=False)
        await client.send(*head, DataFrame(1, data, flags=["END_STREAM"]))
        assert (await client.response(1)).status == 200
        await app.ended.wait()
        assert client.record(1).reset is None
    assert app.messages == (["too early", 1006] if data else [1006])


@pytest.mark.parametrize("how", ["head", "data"])
@pytest.mark.parametrize("asks", [True, False])
async def test_a_stream_that_ends_while_the_application_is_undecided(how, asks, autojump_clock):
    """As when a client ends its sending side on HTTP/1.1: told if it asks, and cancelled after the grace."""
    seen, ended, begun = [], trio.Event(), trio.Event()

    async def app(scope, receive, send):
        try:
            seen.append((await receive())["type"])
            begun.set()
            if asks:
                seen.append((await receive())["type"])
            await trio.sleep_forever()
        finally:
            ended.set()

    async with open_server(app, ping_interval=0, timeouts={"disconnect_grace": 3}) as served:
        client = await served.tunnels()
        start = trio.current_time()
        await client.send(*client.head_frames(1, CONNECT, end_stream=how == "head"))
        await begun.wait()
        if how == "data":
            await trio.sleep(1)
            await client.send(DataFrame(1, flags=["END_STREAM"]))
        await ended.wait()
        assert trio.current_time() - start == pytest.approx(4 if how == "data" else 3, abs=0.1)
        await client.ping()
        assert client.record(1).reset is not None
        assert served.server.stats().requests_running == 0
    assert seen == ["websocket.connect", "websocket.disconnect"][: 1 + asks]


@pytest.mark.parametrize("pieces", [0, 1])
async def test_a_stream_that_ends_while_it_is_being_refused(pieces, autojump_clock):
    async def app(scope, receive, send):
        await receive()
        await send({"type": "websocket.http.response.start", "status": 401, "headers": []})
        for _ in range(pieces):
            await send({"type": "websocket.http.response.body", "body": b"x", "more_body": True})
        await trio.sleep(1)
        await send({"type": "websocket.http.response.body", "body": b"x"})

    async with open_server(app) as served:
        client = await served.tunnels()
        await client.send(*client.head_frames(1, CONNECT, end_stream=True))
        response = await client.response(1)
        assert (response.status, response.body) == (401, b"x" * (pieces + 1))
        await client.ping()
        assert client.record(1).reset is None
