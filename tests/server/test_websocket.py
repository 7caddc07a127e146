"""WebSocket sessions over a running server, on HTTP/1.1 and on HTTP/2: what both ends get to see."""

from __future__ import annotations

import signal
import subprocess
import textwrap
import zlib

import pytest
import trio
import trio.testing

from tests.server.session_server import PROTOCOLS, open_server
from tests.server_process import ServerProcess
from trioserve.asgi.errors import ApplicationError, ClientDisconnected
from trioserve.testing.raw_client import RawClient
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

ACCEPT = {"type": "websocket.accept"}
both = pytest.mark.parametrize("protocol", PROTOCOLS)


async def echo(scope, receive, send):
    await receive()
    await send(ACCEPT)
    while (message := await receive())["type"] == "websocket.receive":
        await send(
            {"type": "websocket.send", **{key: message[key] for key in message.keys() & {"text", "bytes"}}}
        )


class Recorder:
    """Accepts, and notes what it receives until the end."""

    def __init__(self, last=None):
        self.messages = []
        self.ended = trio.Event()
        self.end = None

    async def __call__(self, scope, receive, send):
        await receive()
        await send(ACCEPT)
        try:
            while (message := await receive())["type"] == "websocket.receive":
                self.messages.append(message.get("text") or message.get("bytes"))
            self.end = (message["code"], message["reason"])
        finally:
            self.ended.set()


class Silent:
    """Accepts, and receives only when it is told to."""

    def __init__(self):
        self.accepted, self.go, self.ended = trio.Event(), trio.Event(), trio.Event()
        self.messages = []

    async def __call__(self, scope, receive, send):
        self.receive, self.send = receive, send
        await receive()
        await send(ACCEPT)
        self.accepted.set()
        try:
            await self.go.wait()
            while True:
                message = await receive()
                self.messages.append(message)
                if message["type"] != "websocket.receive":
                    break
        finally:
            self.ended.set()


class TestHandshake:
    @both
    async def test_the_scope(self, protocol):
        scopes = []

        async def app(scope, receive, send):
            scopes.append(scope)
            assert await receive() == {"type": "websocket.connect"}
            await send(ACCEPT)

        async with open_server(app) as served:
            headers = [(b"sec-websocket-protocol", b"chat, superchat"), (b"x-one", b"1")]
            client = await served.session(protocol, "/a%20b?c=%20d", headers)
            assert client.accepted
            await client.close()
        (scope,) = scopes
        assert scope["type"] == "websocket"
        assert scope["asgi"] == {"version": "3.0", "spec_version": "2.5"}
        assert scope["http_version"] == {"http1": "1.1", "http2": "2"}[protocol]
        assert scope["scheme"] == "ws"
        assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/a b", b"/a%20b", b"c=%20d")
        assert scope["subprotocols"] == ["chat", "superchat"]
        assert (b"x-one", b"1") in [tuple(pair) for pair in scope["headers"]]
        assert "websocket.http.response" in scope["extensions"]
        assert "method" not in scope

    @both
    async def test_a_subprotocol_and_fields_of_the_application(self, protocol):
        async def app(scope, receive, send):
            await receive()
            with pytest.raises(ApplicationError, match="subprotocol"):
                await send({"type": "websocket.accept", "subprotocol": "other"})
            with pytest.raises(ApplicationError, match="sec-websocket-accept"):
                await send({"type": "websocket.accept", "headers": [(b"Sec-WebSocket-Accept", b"x")]})
            await send(
                {"type": "websocket.accept", "subprotocol": "superchat", "headers": [(b"X-Two", b"2")]}
            )

        async with open_server(app) as served:
            client = await served.session(protocol, headers=[(b"sec-websocket-protocol", b"chat, superchat")])
            assert client.accepted
            assert client.response.header("sec-websocket-protocol") == b"superchat"
            assert client.response.header("x-two") == b"2"
            accept = client.response.header("sec-websocket-accept")
            assert accept == (b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" if protocol == "http1" else None)
            assert (await client.close()).code == 1000

    @both
    async def test_fields_of_the_server(self, protocol):
        async def app(scope, receive, send):
            await receive()
            await send({"type": "websocket.accept", "headers": [(b"Server", b"mine"), (b"x-a", b"app")]})

        extra = {"extra": (("X-A", "1"), ("x-a", "2"))}
        async with open_server(app, headers=extra) as served:
            client = await served.session(protocol)
            assert client.accepted
            fields = [(name.lower(), value) for name, value in client.response.headers]
            assert [value for name, value in fields if name == b"x-a"] == [b"app", b"1", b"2"]
            assert [value for name, value in fields if name == b"server"] == [b"mine"]
            assert [name for name, _ in fields].count(b"date") == 1
            await client.close()

    @both
    async def test_a_refusal(self, protocol):
        ends = []

        async def app(scope, receive, send):
            await receive()
            await send({"type": "websocket.close"})
            ends.append(await receive())

        async with open_server(app) as served:
            client = await served.session(protocol)
            assert (client.response.status, client.accepted) == (403, False)
            while not ends:
                await trio.testing.wait_all_tasks_blocked()
            assert ends == [{"type": "websocket.disconnect", "code": 1006, "reason": ""}]

    @both
    async def test_a_denial_in_pieces(self, protocol):
        async def app(scope, receive, send):
            await receive()
            await send(
                {"type": "websocket.http.response.start", "status": 401, "headers": [(b"x-why", b"no")]}
            )
            for _ in range(3):
                await send(
                    {"type": "websocket.http.response.body", "body": b"x" * 100_000, "more_body": True}
                )
            await send({"type": "websocket.http.response.body", "body": b"end"})

        async with open_server(app) as served:
            if protocol == "http1":
                client = await served.session(protocol)
            else:
                tunnels = await served.tunnels()
                tunnels.update_windows = True
                tunnel = await tunnels.open_tunnel(headers=[(b"sec-websocket-version", b"13")])
                client = type("Denied", (), {"response": await tunnels.response(tunnel.stream_id)})
            assert client.response.status == 401
            assert client.response.header("x-why") == b"no"
            assert client.response.body == b"x" * 300_000 + b"end"

    @both
    async def test_an_application_that_does_not_decide(self, protocol):
        async def app(scope, receive, send):
            await receive()

        async with open_server(app, complaints=["without accepting or refusing"]) as served:
            assert (await served.session(protocol)).response.status == 500

    @both
    async def test_an_application_that_fails_before_it_decides(self, protocol):
        async def app(scope, receive, send):
            raise RuntimeError("oops")

        async with open_server(app, complaints=["GET /" if protocol == "http1" else "CONNECT /"]) as served:
            assert (await served.session(protocol)).response.status == 500
        assert served.server.stats().errors == 1

    HTTP1 = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
    KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    VERSION = b"Sec-WebSocket-Version: 13\r\n"

    @pytest.mark.parametrize(
        ("head", "status", "fields"),
        [
            (HTTP1 + KEY + VERSION, 101, []),
            (
                HTTP1 + KEY + b"Sec-WebSocket-Version: 8\r\n",
                426,
                [(b"upgrade", b"websocket"), (b"connection", b"upgrade")],
            ),
            (HTTP1 + KEY, 400, []),
            (HTTP1 + VERSION, 400, []),
            (HTTP1 + VERSION + b"Sec-WebSocket-Key: short\r\n", 400, []),
            (HTTP1 + KEY + KEY + VERSION, 400, []),
            (HTTP1.replace(b"GET", b"POST") + KEY + VERSION, 405, [(b"allow", b"GET")]),
            (HTTP1.replace(b"GET", b"HEAD") + KEY + VERSION, 405, [(b"allow", b"GET")]),
            (HTTP1 + KEY + VERSION + b"Content-Length: 5\r\n", 400, []),
            (HTTP1 + KEY + VERSION + b"Sec-WebSocket-Protocol: a,,b,a\r\n", 400, []),
            (HTTP1 + KEY + VERSION + b"Sec-WebSocket-Extensions: ;;\r\n", 400, []),
        ],
    )
    async def test_handshakes_over_http1(self, head, status, fields):
        async with open_server(echo) as served:
            client = RawClient(await served.stream())
            await client.send(head + b"\r\n")
            if status == 101:
                assert (await client.receive_some()).startswith(b"HTTP/1.1 101 ")
                return
            response = await client.receive_response("HEAD" if b"HEAD" in head else "GET")
            assert response.status == status
            assert {(b"sec-websocket-version", b"13"), *fields} <= set(response.headers)
            await client.wait_closed()
        assert served.server.stats().requests_refused == 1

    @pytest.mark.parametrize(
        ("headers", "protocol", "status"),
        [
            ([(b"sec-websocket-version", b"13")], b"websocket", 200),
            ([(b"sec-websocket-version", b"8")], b"websocket", 400),
            ([], b"websocket", 400),
            ([(b"sec-websocket-version", b"13"), (b"sec-websocket-protocol", b"a, a")], b"websocket", 400),
            ([(b"sec-websocket-version", b"13")], b"connect-udp", 501),
        ],
    )
    async def test_handshakes_over_http2(self, headers, protocol, status):
        async with open_server(echo) as served:
            client = await served.tunnels()
            pseudo = [
                *((b":method", b"CONNECT"), (b":protocol", protocol), (b":scheme", b"http")),
                *((b":path", b"/"), (b":authority", b"a")),
            ]
            await client.send(*client.head_frames(1, [*pseudo, *headers], end_stream=False))
            response = await client.wait_head(1)
            assert response.status == status
            if status == 400:
                assert response.header("sec-websocket-version") == b"13"
            if status != 200:
                await client.response(1)
            await client.ping()
        assert served.server.stats().requests_refused == (status != 200)

    @both
    async def test_switched_off(self, protocol):
        async def app(scope, receive, send):
            assert scope["type"] == "http"
            await send({"type": "http.response.start", "status": 404, "headers": []})
            await send({"type": "http.response.body"})

        async with open_server(app, enabled=False) as served:
            if protocol == "http1":
                assert (await served.session(protocol)).response.status == 404
            else:
                client = await served.tunnels()
                assert 8 not in (client.server_settings or {}) or not client.server_settings[8]
                await client.open_tunnel(headers=[(b"sec-websocket-version", b"13")])
                assert (await client.wait_error()).code == 1


class TestMessages:
    @both
    @pytest.mark.parametrize(
        "message",
        ["", "text", b"", b"bytes", "\N{SNOWMAN}" * 1000, b"x" * 126, b"x" * 65536, b"y" * 1_000_000],
    )
    async def test_echo(self, protocol, message):
        async with open_server(echo) as served:
            client = await served.session(protocol)
            for _ in range(2):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(client.send, message)
                    assert await client.receive() == message
            assert (await client.close()).code == 1000

    @both
    async def test_fragments_with_a_ping_between_them(self, protocol):
        async with open_server(echo) as served:
            client = await served.session(protocol)
            await client.send_frame(TEXT, b"one ")
            await client.send_frame(CONTINUATION, b"two ")
            await client.send_frame(FIN | PING, b"still there?")
            await client.send_frame(FIN | CONTINUATION, b"three")
            assert await client.receive() == "one two three"
            assert [frame.payload for frame in client.frames if frame.opcode == PONG] == [b"still there?"]

    @both
    async def test_a_byte_at_a_time(self, protocol):
        async with open_server(echo) as served:
            client = await served.session(protocol)
            for byte in client_frame(FIN | TEXT, b"slow") + client_frame(FIN | BINARY, b"x" * 200):
                await client.send_bytes(bytes([byte]))
                await trio.testing.wait_all_tasks_blocked()
            assert await client.receive() == "slow"
            assert await client.receive() == b"x" * 200

    @both
    async def test_compression(self, protocol):
        text = "all work and no play " * 1000
        async with open_server(echo) as served:
            client = await served.session(
                protocol, headers=[(b"sec-websocket-extensions", b"permessage-deflate")]
            )
            assert b"permessage-deflate" in client.response.header("sec-websocket-extensions")
            deflater = zlib.compressobj(wbits=-15)
            data = (deflater.compress(text.encode()) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]
            await client.send_frame(FIN | RSV1 | TEXT, data)
            assert await client.receive() == text
            assert client.frames[-1].first & RSV1
            assert len(client.frames[-1].payload) < len(text) / 10
            await client.send("short")
            assert await client.receive() == "short"

    @both
    async def test_compression_switched_off(self, protocol):
        async with open_server(echo, deflate=False) as served:
            client = await served.session(
                protocol, headers=[(b"sec-websocket-extensions", b"permessage-deflate")]
            )
            assert client.accepted
            assert client.response.header("sec-websocket-extensions") is None

    @both
    async def test_what_comes_with_the_handshake_is_delivered(self, protocol):
        app = Recorder()
        first = b"".join(client_frame(FIN | TEXT, b"%d" % number) for number in range(100))
        async with open_server(app) as served:
            client = await served.session(
                protocol, first=first + client_frame(FIN | CLOSE, close_payload(4001, "so"))
            )
            assert client.accepted
            assert (await client.wait_close()).code == 4001
            await app.ended.wait()
        assert app.messages == [str(number) for number in range(100)]
        assert app.end == (4001, "so")

    @both
    async def test_a_ping_that_comes_with_the_handshake_is_answered_though_the_application_is_silent(
        self, protocol
    ):
        app = Silent()
        async with open_server(app) as served:
            client = await served.session(protocol, first=client_frame(FIN | PING, b"hello"))
            assert await client.next_frame() == (FIN | PONG, b"hello")
            app.go.set()

    @both
    @pytest.mark.parametrize("before", [0, 1, 5])
    async def test_pings_and_a_close_are_answered_while_the_application_is_silent(self, protocol, before):
        app = Silent()
        async with open_server(app) as served:
            client = await served.session(protocol)
            await app.accepted.wait()
            messages = b"".join(client_frame(FIN | TEXT, b"a message") for _ in range(before))
            await client.send_bytes(messages + client_frame(FIN | PING, b"1"))
            assert (await client.next_frame()).payload == b"1"
            await client.send_frame(FIN | PING, b"2")
            assert (await client.next_frame()).payload == b"2"
            assert (await client.close(4000, "enough")).code == 4000
            app.go.set()
            await app.ended.wait()
        assert [message["type"] for message in app.messages[:-1]] == ["websocket.receive"] * before
        assert app.messages[-1] == {"type": "websocket.disconnect", "code": 4000, "reason": "enough"}

    @both
    @pytest.mark.parametrize("what", ["ping", "close"])
    async def test_what_comes_with_a_message_is_not_forgotten(self, protocol, what):
        """The application takes one message of two that came together, and looks no further."""
        app = Silent()
        frame = client_frame(FIN | PING, b"x") if what == "ping" else client_frame(FIN | CLOSE)
        async with open_server(app) as served:
            client = await served.session(protocol)
            await app.accepted.wait()
            taken = trio.Event()

            async def take():
                await app.receive()
                taken.set()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(take)
                await trio.testing.wait_all_tasks_blocked()
                await client.send_bytes(
                    client_frame(FIN | TEXT, b"1") + client_frame(FIN | TEXT, b"2") + frame
                )
                await taken.wait()
            assert (await client.next_frame()).opcode == (PONG if what == "ping" else CLOSE)
            app.go.set()
            await client.close()

    @both
    async def test_a_large_message_is_read_for_a_silent_application(self, protocol):
        """Behind it comes a ping, which the client expects to be answered."""
        app = Silent()
        async with open_server(app) as served:
            client = await served.session(protocol)
            await client.send_bytes(
                client_frame(FIN | BINARY, b"x" * 900_000) + client_frame(FIN | PING, b"y")
            )
            assert (await client.next_frame()).payload == b"y"
            app.go.set()
            await client.close()
            await app.ended.wait()
        assert app.messages[0]["bytes"] == b"x" * 900_000

    @both
    async def test_several_tasks_send_and_no_frame_is_inside_another(self, protocol):
        async def app(scope, receive, send):
            await receive()
            await send(ACCEPT)

            async def say(letter):
                for size in (1, 10, 70_000, 200, 300_000, 5):
                    await send({"type": "websocket.send", "bytes": letter * size})

            async with trio.open_nursery() as nursery:
                for letter in b"abcdefgh":
                    nursery.start_soon(say, bytes([letter]))

        async with open_server(app) as served:
            client = await served.session(protocol)
            await client.send_bytes(b"".join(client_frame(FIN | PING, b"%d" % n) for n in range(50)))
            sizes = {}
            while isinstance(message := await client.receive(), bytes):
                assert message == message[:1] * len(message)
                sizes.setdefault(message[:1], []).append(len(message))
            assert message.code == 1000
            assert sizes == {bytes([letter]): [1, 10, 70_000, 200, 300_000, 5] for letter in b"abcdefgh"}
            assert client.frames[0].opcode in {PONG, BINARY}
            assert any(frame.opcode == PONG for frame in client.frames)


class TestEnds:
    @both
    @pytest.mark.parametrize(
        ("code", "reason", "told"),
        [
            (1000, "", (1000, "")),
            (4000, "\N{SNOWMAN}", (4000, "\N{SNOWMAN}")),
            (None, "", (1005, "")),
            (1001, "x" * 123, (1001, "x" * 123)),
        ],
    )
    async def test_the_client_closes(self, protocol, code, reason, told):
        app = Recorder()
        async with open_server(app) as served:
            client = await served.session(protocol)
            close = await client.close(code, reason)
            assert close.code == told[0]
            await client.wait_end()
            assert not client.reset
            await app.ended.wait()
        assert app.end == told

    @both
    async def test_the_application_closes(self, protocol):
        ends = []

        async def app(scope, receive, send):
            await receive()
            await send(ACCEPT)
            await send({"type": "websocket.close", "code": 4321, "reason": "go away"})
            ends.append(await receive())

        async with open_server(app) as served:
            client = await served.session(protocol)
            close = await client.wait_close()
            assert (close.code, close.reason) == (4321, "go away")
            await client.send("too late")
            await client.send_frame(FIN | CLOSE, close_payload(4321))
            await client.wait_end()
            assert not client.reset
        assert ends == [{"type": "websocket.disconnect", "code": 4321, "reason": ""}]

    @both
    async def test_the_application_returns(self, protocol):
        async def app(scope, receive, send):
            await receive()
            await send(ACCEPT)

        async with open_server(app) as served:
            client = await served.session(protocol)
            assert (await client.wait_close()).code == 1000
            await client.send_frame(FIN | CLOSE, close_payload(1000))
            await client.wait_end()
            assert not client.reset

    @both
    async def test_the_application_fails(self, protocol):
        async def app(scope, receive, send):
            await receive()
            await send(ACCEPT)
            raise RuntimeError("oops")

        async with open_server(app, complaints=["/ HTTP"]) as served:
            client = await served.session(protocol)
            assert (await client.wait_close()).code == 1011
            await client.send_frame(FIN | CLOSE, close_payload(1011))
            await client.wait_end()
        assert served.server.stats().errors == 1

    @both
    @pytest.mark.parametrize("silent", [True, False])
    async def test_the_client_ends_its_side_without_a_close_frame(self, protocol, silent):
        app = Silent() if silent else Recorder()
        async with open_server(app) as served:
            client = await served.session(protocol)
            await client.send("last words")
            await client.stream.send_eof()
            if silent:
                await trio.testing.wait_all_tasks_blocked()
                app.go.set()
            await app.ended.wait()
        if silent:
            assert [message["type"] for message in app.messages] == [
                "websocket.receive",
                "websocket.disconnect",
            ]
            assert app.messages[-1]["code"] == 1006
        else:
            assert app.messages == ["last words"]
            assert app.end == (1006, "")
        assert served.server.stats().disconnects == 1

    @both
    async def test_the_client_vanishes_and_sending_says_so(self, protocol):
        errors = []

        async def app(scope, receive, send):
            await receive()
            await send(ACCEPT)
            assert (await receive())["code"] == 1006
            for _ in range(2):
                with pytest.raises(ClientDisconnected):
                    await send({"type": "websocket.send", "text": "hello?"})
            errors.append(await receive())

        async with open_server(app) as served:
            client = await served.session(protocol)
            await client.aclose()
            while not errors:
                await trio.testing.wait_all_tasks_blocked()
        assert errors[0]["code"] == 1006

    async def test_a_reset_of_a_stream_ends_that_session_alone(self):
        app = Recorder()
        async with open_server(app) as served:
            tunnels = await served.tunnels()
            clients = [await open_http2_session(tunnels, f"/{n}") for n in range(2)]
            await clients[0].stream.reset()
            await app.ended.wait()
            assert app.end == (1006, "")
            await clients[1].send("still here")
            assert (await clients[1].close(4000)).code == 4000
            await clients[1].wait_end()
        assert app.messages == ["still here"]

    async def test_a_stream_that_the_client_ends_after_the_closing_handshake(self):
        app = Recorder()
        async with open_server(app) as served:
            client = await served.session("http2")
            assert (await client.close(1000)).code == 1000
            await client.stream.send_eof()
            await client.wait_end()
            assert not client.reset
            tunnels = client.stream.client
            await tunnels.ping()
            assert tunnels.record(client.stream.stream_id).reset is None
            assert tunnels.goaway is None
        assert app.end == (1000, "")

    @both
    async def test_a_cancelled_send_cuts_the_session(self, protocol):
        outcomes, told = [], trio.Event()

        async def app(scope, receive, send):
            await receive()
            await send(ACCEPT)
            with trio.move_on_after(0.1) as scope:
                await send({"type": "websocket.send", "bytes": b"x" * 10_000_000})
            outcomes.append(scope.cancelled_caught)
            with pytest.raises(ClientDisconnected):
                await send({"type": "websocket.send", "text": "never inside"})
            outcomes.append((await receive())["code"])
            told.set()

        async with open_server(app) as served:
            client = await served.session(protocol)
            await told.wait()
            received = bytearray()
            try:
                while data := await client.stream.receive_some(65536):
                    received += data
            except trio.BrokenResourceError:
                pass
            assert len(received) < 10_000_000
            assert b"never" not in received
        assert outcomes == [True, 1006]


class TestTalkersOn:
    """Clients that go on sending when all is over."""

    CHUNK = client_frame(FIN | BINARY, b"x" * 60_000)

    async def talk_on(self, client, most):
        sent = 0
        try:
            while sent < most:
                await client.send_bytes(self.CHUNK)
                sent += len(self.CHUNK)
        except trio.BrokenResourceError:
            pass
        return sent

    @both
    @pytest.mark.parametrize("reads_first", [True, False])
    async def test_after_a_failure(self, protocol, reads_first, autojump_clock):
        app = Recorder()
        async with open_server(app, limit=200, max_message_size=1000) as served:
            client = await served.session(protocol)
            await client.send(b"x" * 2000)
            if reads_first:
                assert (await client.wait_close()).code == 1009
            assert await self.talk_on(client, 20_000_000) < 5_000_000
            if not reads_first:
                assert (await client.wait_close()).code == 1009
            await app.ended.wait()
        assert app.end[0] == 1009

    async def test_a_stream_after_a_close(self, autojump_clock):
        """The window of the stream stops the client, and then a reset that is no error."""
        async with open_server(Recorder(), limit=200) as served:
            client = await served.session("http2")
            assert (await client.close()).code == 1000
            begun = trio.current_time()
            assert await self.talk_on(client, 20_000_000) < 2_000_000
            assert trio.current_time() - begun == pytest.approx(2, abs=0.1)
            tunnels = client.stream.client
            assert tunnels.record(client.stream.stream_id).reset == 0
            other = await open_http2_session(tunnels)
            assert (await other.close()).code == 1000
            await other.stream.send_eof()


class TestQueue:
    @both
    async def test_a_full_queue_stops_reading_and_nothing_is_lost(self, protocol):
        app = Silent()
        count = 3000
        async with open_server(app, queue=4) as served:
            client = await served.session(protocol)
            sent = 0

            async def say():
                nonlocal sent
                for number in range(count):
                    await client.send(b"%06d" % number + b"x" * 1000)
                    sent += 1
                await client.send_frame(FIN | CLOSE, close_payload(1000))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(say)
                await app.accepted.wait()
                await trio.testing.wait_all_tasks_blocked(0.05)
                assert sent < count, "everything was taken from the client though nobody asked for it"
                app.go.set()
                assert (await client.wait_close()).code == 1000
            await app.ended.wait()
        assert [int(message["bytes"][:6]) for message in app.messages[:-1]] == list(range(count))
        assert app.messages[-1]["code"] == 1000

    @both
    async def test_large_messages_fill_it_sooner(self, protocol):
        app = Silent()
        async with open_server(app) as served:
            client = await served.session(protocol)
            sent = 0

            async def say():
                nonlocal sent
                for _ in range(20):
                    await client.send(b"x" * 700_000)
                    sent += 1
                await client.send_frame(FIN | CLOSE)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(say)
                await app.accepted.wait()
                await trio.testing.wait_all_tasks_blocked(0.05)
                assert sent <= 5
                app.go.set()
                await client.wait_close()
            await app.ended.wait()
        assert len(app.messages) == 21


class TestRecords:
    @both
    async def test_a_line_in_the_access_log(self, protocol, tmp_path):
        path = tmp_path / "access.log"
        async with open_server(echo, access=str(path)) as served:
            client = await served.session(protocol, "/chat?a=b")
            for _ in range(3):
                await client.send("12345")
                await client.receive()
            await client.close()
            await client.wait_end()
        (line,) = path.read_text().splitlines()
        assert "/chat?a=b HTTP" in line
        status = "101" if protocol == "http1" else "200"
        assert status in line.split('"')[2].split()
        assert "15" in line.split('"')[2].split()
        stats = served.server.stats()
        assert (stats.requests_total, stats.bytes_received, stats.bytes_sent) == (1, 15, 15)
        assert (stats.errors, stats.disconnects, stats.timeouts, stats.requests_refused) == (0, 0, 0, 0)


class TestDrain:
    @both
    @pytest.mark.parametrize("silent", [True, False])
    async def test_clients_are_told_to_come_again_and_applications_that_they_left(self, protocol, silent):
        app = Silent() if silent else Recorder()
        async with open_server(app) as served:
            client = await served.session(protocol)
            if silent:
                await app.accepted.wait()
            served.server.drain()
            close = await client.wait_close()
            assert close.code == 1012
            await client.send_frame(FIN | CLOSE, close.payload)
            if silent:
                app.go.set()
            await client.wait_end()
            assert not client.reset
            await app.ended.wait()
        if silent:
            assert [message.get("code") for message in app.messages] == [1012]
        else:
            assert app.end[0] == 1012

    @both
    async def test_a_client_that_does_not_answer(self, protocol, autojump_clock):
        app = Recorder()
        async with open_server(app, close_timeout=5) as served:
            await served.session(protocol)
            begun = trio.current_time()
            served.server.drain()
            await app.ended.wait()
            assert trio.current_time() - begun == pytest.approx(5, abs=0.1)
        assert app.end == (1006, "")

    @both
    async def test_a_session_that_is_accepted_meanwhile(self, protocol, autojump_clock):
        go = trio.Event()

        async def app(scope, receive, send):
            await receive()
            await go.wait()
            await send(ACCEPT)
            assert (await receive())["code"] == 1012

        async with open_server(app) as served, trio.open_nursery() as nursery:

            @nursery.start_soon
            async def talk():
                client = await served.session(protocol)
                assert client.accepted
                close = await client.wait_close()
                assert close.code == 1012
                await client.send_frame(FIN | CLOSE, close.payload)
                await client.wait_end()

            await trio.sleep(1)
            served.server.drain()
            await served.server.draining.wait()
            go.set()

    @both
    async def test_what_has_not_ended_in_time_is_cancelled(self, protocol, autojump_clock):
        ends = []

        async def app(scope, receive, send):
            await receive()
            await send(ACCEPT)
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                ends.append(trio.current_time())
                raise

        async with open_server(
            app, timeouts={"graceful": 8}, lifecycle={"on_disconnect": "notify"}
        ) as served:
            client = await served.session(protocol)
            begun = trio.current_time()
            served.server.drain()
            assert (await client.wait_close()).code == 1012
            await client.wait_end()
        assert ends == [pytest.approx(begun + 8, abs=0.1)]

    @both
    async def test_an_undecided_session_is_answered_when_it_is_cancelled(self, protocol, autojump_clock):
        async def app(scope, receive, send):
            await receive()
            await trio.sleep_forever()

        async with open_server(app, timeouts={"graceful": 8}) as served, trio.open_nursery() as nursery:
            responses = []

            @nursery.start_soon
            async def talk():
                responses.append((await served.session(protocol)).response)

            await trio.sleep(1)
            served.server.drain()
        assert responses[0].status == 503
        assert responses[0].header("retry-after")

    @both
    async def test_a_stop_at_once(self, protocol):
        app = Recorder()
        async with open_server(app) as served:
            client = await served.session(protocol)
            served.server.stop_now()
            assert (await client.wait_close()).code == 1012
            await client.wait_end()


APP = """
    ended = 0

    async def app(scope, receive, send):
        global ended
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            pass
        ended += 1
        print("told", message["code"], ended, flush=True)
"""


@pytest.mark.parametrize("answers", [True, False])
async def test_a_process_with_a_hundred_sessions_is_told_to_stop(tmp_path, answers):
    (tmp_path / "main.py").write_text(textwrap.dedent(APP), encoding="utf-8")
    arguments = ("main:app", "--bind=127.0.0.1:0", "--logging-access=off", "--lifecycle-lifespan=off")
    limits = ("--timeouts-graceful=10", "--websocket-close-timeout=1")
    with ServerProcess(tmp_path, *arguments, *limits, stdout=subprocess.PIPE) as server:
        host, _, port = server.wait_until_serving().partition("://")[2].rpartition(":")
        codes = []

        async def talk(client):
            close = await client.wait_close()
            codes.append(close.code)
            if answers:
                await client.send_frame(FIN | CLOSE, close.payload)
            await client.wait_end()
            assert client.reset is not answers

        with trio.fail_after(30):
            clients = [
                await open_http1_session(await trio.open_tcp_stream(host, int(port))) for _ in range(90)
            ]
            tunnels = TunnelClient(await trio.open_tcp_stream(host, int(port)))
            await tunnels.start()
            clients += [await open_http2_session(tunnels) for _ in range(10)]
            begun = trio.current_time()
            async with trio.open_nursery() as nursery:
                for client in clients:
                    nursery.start_soon(talk, client)
                server.signal(signal.SIGTERM)
            for closing in (*clients, tunnels):
                await closing.aclose()
        assert await trio.to_thread.run_sync(server.wait) == 0
        assert trio.current_time() - begun < 8
        assert codes == [1012] * 100
        told = [line.split()[1] for line in server.process.stdout.read().splitlines()]
        assert told == (["1012"] if answers else ["1006"]) * 100
        assert "bug" not in server.errors
        assert "Traceback" not in server.errors
