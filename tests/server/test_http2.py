"""What an application sees and may do on HTTP/2 alone; what it shares with HTTP/1.1 is in test_response_channels.py."""

from __future__ import annotations

import contextvars
import ssl
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
import trustme
from hyperframe.frame import HeadersFrame, RstStreamFrame, SettingsFrame

from trioserve.asgi.errors import ApplicationError
from trioserve.config import (
    Config,
    Http2Settings,
    LifecycleSettings,
    LimitSettings,
    LoggingSettings,
    ProxySettings,
    TlsSettings,
)
from trioserve.server.server import serve
from trioserve.testing.http2_client import PREFACE, Http2Client
from trioserve.testing.memory import open_memory_server
from trioserve.testing.raw_client import RawClient

INTERNAL_ERROR, REFUSED_STREAM = 2, 7


def settings(access="off", lifespan="off", **groups):
    return Config(
        bind=("127.0.0.1:0",),
        logging=LoggingSettings(access=access),
        lifecycle=LifecycleSettings(lifespan=lifespan),
        **groups,
    )


@asynccontextmanager
async def open_client(app, config=None, client=("127.0.0.1", 5), client_settings=None):
    """A memory server and a client with its settings in force."""
    with trio.fail_after(30):
        async with (
            open_memory_server(app, config or settings()) as server,
            Http2Client(server.connect(client)) as http2,
        ):
            await http2.start(client_settings)
            http2.server = server
            yield http2


async def respond(send, body=b"ok", status=200, headers=(), more=False):
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": body, "more_body": more})


class Recorder:
    """Answers each request with its path and keeps the scopes."""

    def __init__(self):
        self.scopes = []

    async def __call__(self, scope, receive, send):
        self.scopes.append(scope)
        await respond(send, scope["raw_path"])


class TestScope:
    async def test_what_http2_says_in_its_own_way(self):
        app = Recorder()
        async with open_client(app) as client:
            client.authority = "example.org:8000"
            await client.get(
                "/a?b", headers=[(b"cookie", b"a=1"), (b"x", b"y"), (b"cookie", b"b=2"), (b"te", b"trailers")]
            )
        (scope,) = app.scopes
        assert scope["http_version"] == "2"
        assert scope["scheme"] == "http"
        assert scope["headers"] == [
            (b"host", b"example.org:8000"),
            (b"cookie", b"a=1; b=2"),
            (b"x", b"y"),
            (b"te", b"trailers"),
        ]
        assert "http.response.push" in scope["extensions"]

    async def test_host_in_the_place_of_authority(self):
        app = Recorder()
        async with open_client(app) as client:
            fields = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/")]
            await client.send(*client.head_frames(1, [*fields, (b"x", b"y"), (b"host", b"a")]))
            assert (await client.response(1)).status == 200
        assert app.scopes[0]["headers"] == [(b"host", b"a"), (b"x", b"y")]

    async def test_the_state_is_each_requests_own_copy(self):
        async def app(scope, receive, send):
            if scope["type"] == "lifespan":
                await receive()
                scope["state"]["shared"] = []
                await send({"type": "lifespan.startup.complete"})
                await receive()
                await send({"type": "lifespan.shutdown.complete"})
                return
            assert "own" not in scope["state"]
            scope["state"]["own"] = True
            scope["state"]["shared"].append(1)
            await respond(send, b"%d" % len(scope["state"]["shared"]))

        async with open_client(app, settings(lifespan="on")) as client:
            assert [(await client.get()).body for _ in range(3)] == [b"1", b"2", b"3"]

    async def test_context_variables_of_streams_are_apart_and_the_lifespans_are_everywhere(self):
        variable = contextvars.ContextVar("variable")
        seen = []

        async def app(scope, receive, send):
            if scope["type"] == "lifespan":
                variable.set("lifespan")
                await receive()
                await send({"type": "lifespan.startup.complete"})
                await receive()
                await send({"type": "lifespan.shutdown.complete"})
                return
            seen.append(variable.get())
            variable.set(scope["path"])
            await respond(send)
            await trio.lowlevel.checkpoint()
            seen.append(variable.get())

        async with open_client(app, settings(lifespan="on")) as client:
            await client.get("/1")
            await client.get("/2")
        assert seen == ["lifespan", "/1", "lifespan", "/2"]

    async def test_streams_are_children_of_their_connection(self):
        parents = []

        async def app(scope, receive, send):
            parents.append(trio.lowlevel.current_task().parent_nursery.parent_task)
            await respond(send)

        async with open_client(app) as client, Http2Client(client.server.connect()) as other:
            await client.get()
            await client.get()
            await other.start()
            await other.get()
        first, second, third = parents
        assert first is second
        assert first is not third


class TestProxies:
    FIELDS = (
        (b"x-forwarded-for", b"203.0.113.9"),
        (b"x-forwarded-proto", b"https"),
        (b"x-forwarded-host", b"front.example"),
    )

    async def test_a_trusted_one_is_believed(self):
        app = Recorder()
        async with open_client(app, settings(proxy=ProxySettings(trusted=("127.0.0.1",)))) as client:
            await client.get(headers=self.FIELDS)
            await client.get()
        first, second = app.scopes
        assert (first["client"][0], first["scheme"]) == ("203.0.113.9", "https")
        assert (second["client"], second["scheme"]) == (("127.0.0.1", 5), "http")

    async def test_others_are_not_and_what_they_say_is_taken_away(self):
        app = Recorder()
        async with open_client(app, settings(proxy=ProxySettings(trusted=("192.0.2.1",)))) as client:
            await client.get(headers=self.FIELDS)
        (scope,) = app.scopes
        assert (scope["client"], scope["scheme"]) == (("127.0.0.1", 5), "http")
        assert scope["headers"] == [(b"host", b"localhost")]


class TestCrashes:
    @pytest.mark.parametrize("ends", [True, False])
    async def test_after_the_head_it_costs_the_stream_alone(self, ends, error_log):
        async def app(scope, receive, send):
            await respond(send, b"some", more=True)
            await go.wait()
            if scope["path"] == "/crash":
                raise RuntimeError
            await send({"type": "http.response.body", "body": b"thing"})

        go = trio.Event()
        async with open_client(app) as client:
            crashing = await client.request("POST", "/crash", end_stream=ends)
            other = await client.request()
            await client.wait_for(HeadersFrame, other)
            go.set()
            reset = await client.wait_for(RstStreamFrame)
            assert (reset.stream_id, reset.error_code) == (crashing, INTERNAL_ERROR)
            assert (await client.response(other)).body == b"something"
        assert error_log() == [
            "error in the application: POST /crash HTTP/2",
        ]

    async def test_a_bug_of_ours_costs_the_stream_alone(self, error_log, monkeypatch):
        async with open_client(Recorder()) as client:
            with monkeypatch.context() as broken:
                broken.setattr(
                    "trioserve.asgi.exchange.HttpExchange.run", lambda *args: trio.lowlevel.current_task().x
                )
                stream_id = await client.request()
                assert (await client.wait_error()) == (stream_id, INTERNAL_ERROR)
            assert (await client.get()).status == 200
            assert client.server.stats().requests_running == 0
        assert error_log() == ["this is a bug in trioserve; one stream was reset"]

    async def test_groups_of_leaving_are_quiet(self, error_log):
        async def app(scope, receive, send):
            await receive()
            await receive()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(respond, send)
                nursery.start_soon(respond, send)

        async with open_client(app) as client:
            stream_id = await client.request()
            await client.ping()
            await client.send(RstStreamFrame(stream_id, 8))
            await client.ping()
            assert client.server.stats().disconnects == 1
        assert error_log() == []


class TestContent:
    async def test_head_and_small_body_leave_in_one_write(self):
        async with open_client(Recorder()) as client:
            await client.request()
            data = await client.stream.receive_some(65536)
        assert data.endswith(b"/")
        assert b"\x00\x00\x01\x00\x01\x00\x00\x00\x01/" in data  # DATA with END_STREAM

    async def test_no_content_ends_with_the_head(self):
        async def app(scope, receive, send):
            await respond(send, b"", 204)

        async with open_client(app) as client:
            stream_id = await client.request()
            head = await client.wait_for(HeadersFrame, stream_id)
            assert "END_STREAM" in head.flags

    async def test_connection_fields_do_not_get_out(self):
        async def app(scope, receive, send):
            fields = [(b"Connection", b"close"), (b"transfer-encoding", b"chunked"), (b"Keep-Alive", b"a")]
            await respond(send, headers=[*fields, (b"X-Upper", b"1")])

        async with open_client(app) as client:
            response = await client.get()
        names = {name for name, _ in response.headers}
        assert names == {b"x-upper", b"content-length", b"date", b"server"}

    async def test_an_early_answer_asks_for_no_more_of_the_request(self):
        async def app(scope, receive, send):
            await respond(send, b"enough")

        async with open_client(app) as client:
            stream_id = await client.request("POST", end_stream=False)
            assert (await client.response(stream_id)).body == b"enough"
            assert (await client.wait_for(RstStreamFrame, stream_id)).error_code == 0
            assert (await client.get()).body == b"enough"

    async def test_a_refused_head_is_answered_and_its_body_not_wanted(self):
        async def app(scope, receive, send):
            raise AssertionError("was reached")

        async with open_client(app) as client:
            stream_id = await client.request(
                "POST", headers=[(b"x-%d" % n, b"") for n in range(200)], end_stream=False
            )
            assert (await client.response(stream_id)).status == 431
            assert (await client.wait_for(RstStreamFrame, stream_id)).error_code == 0
            assert client.server.stats().requests_refused == 1

    async def test_no_continue_behind_the_head(self, error_log):
        async def app(scope, receive, send):
            await respond(send, b"early", more=True)
            message = await receive()
            await send({"type": "http.response.body", "body": message["body"]})

        async with open_client(app) as client:
            stream_id = await client.request("POST", headers=[(b"expect", b"100-continue")], end_stream=False)
            await client.wait_for(HeadersFrame, stream_id)
            await client.ping()
            await client.send_body(stream_id, b"late")
            response = await client.response(stream_id)
            assert (response.body, response.informational) == (b"earlylate", [])
        assert error_log() == []


class TestPush:
    async def app(self, scope, receive, send):
        if scope["path"] == "/style.css":
            await respond(send, dict(scope["headers"])[b"x-from"])
            return
        push = {"type": "http.response.push", "path": "/style.css?v=1", "headers": [(b"X-From", b"page")]}
        await send(push)
        await respond(send, b"page")

    async def test_the_pushed_request_reaches_the_application(self):
        async with open_client(self.app) as client:
            assert (await client.get()).body == b"page"
            response = await client.response(2)
            assert client.record(2).promise == [
                (b":method", b"GET"),
                (b":scheme", b"http"),
                (b":authority", b"localhost"),
                (b":path", b"/style.css?v=1"),
                (b"x-from", b"page"),
            ]
            assert response.body == b"page"
            assert client.server.stats().requests_total == 2

    async def test_a_client_that_wants_none_gets_none(self):
        async with open_client(self.app, client_settings={SettingsFrame.ENABLE_PUSH: 0}) as client:
            assert (await client.get()).body == b"page"
            assert client.server.stats().requests_total == 1

    @pytest.mark.parametrize(
        ("path", "headers"),
        [("style.css", []), ("/ü", []), ("/a\n", []), (b"/a", []), ("/a", [(b"a b", b"")])],
    )
    async def test_an_illegal_one_is_the_applications_mistake(self, path, headers):
        async def app(scope, receive, send):
            with pytest.raises(ApplicationError):
                await send({"type": "http.response.push", "path": path, "headers": headers})
            await respond(send, b"still alive")

        async with open_client(app) as client:
            assert (await client.get()).body == b"still alive"

    async def test_a_client_that_resets_it(self):
        async def app(scope, receive, send):
            if scope["path"] == "/style.css":
                try:
                    await receive()
                    assert (await receive())["type"] == "http.disconnect"
                finally:
                    told.set()
            else:
                await self.app(scope, receive, send)

        told = trio.Event()
        async with open_client(app) as client:
            await client.get()
            await client.send(RstStreamFrame(2, 8))
            await told.wait()
            assert (await client.get()).body == b"page"

    async def test_they_leave_room_for_requests(self):
        """And none of them is held against the client."""

        async def app(scope, receive, send):
            for _ in range(50):
                await send({"type": "http.response.push", "path": "/pushed"})
            running.append(client.server.stats().requests_running)
            await trio.lowlevel.checkpoint()
            await respond(send)

        running = []
        async with open_client(app, settings(http2=Http2Settings(max_concurrent_streams=10))) as client:
            for _ in range(20):
                streams = [await client.request() for _ in range(5)]
                for stream_id in streams:
                    assert (await client.response(stream_id)).status == 200
            assert all(record.reset is None for record in client.streams.values())
            assert 2 in client.streams
        assert max(running) <= 10

    async def test_none_on_http1(self):
        async def app(scope, receive, send):
            assert "http.response.push" not in scope["extensions"]
            with pytest.raises(ApplicationError):
                await send({"type": "http.response.push", "path": "/a", "headers": []})
            await respond(send)

        async with open_memory_server(app, settings()) as server, server.raw_client() as client:
            await client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            assert (await client.receive_response()).status == 200


class TestLimits:
    async def test_applications_at_once(self):
        async def app(scope, receive, send):
            await go.wait()
            await respond(send)

        go = trio.Event()
        async with open_client(app, settings(limits=LimitSettings(requests=3))) as client:
            running = [await client.request() for _ in range(3)]
            for _ in range(30):
                response = await client.get()
                assert (response.status, response.header("retry-after")) == (503, b"1")
            assert client.server.stats().requests_running == 3
            assert client.server.stats().requests_refused == 30
            go.set()
            for stream_id in running:
                assert (await client.response(stream_id)).status == 200

    async def test_streams_at_once(self):
        async def app(scope, receive, send):
            most.append(client.server.stats().requests_running)
            await go.wait()
            await respond(send)

        go = trio.Event()
        most = []
        async with open_client(app, settings(http2=Http2Settings(max_concurrent_streams=10))) as client:
            assert client.server_settings[SettingsFrame.MAX_CONCURRENT_STREAMS] == 10
            streams = [await client.request() for _ in range(100)]
            await client.ping()
            assert [client.record(number).reset for number in streams] == [None] * 10 + [REFUSED_STREAM] * 90
            go.set()
            for stream_id in streams[:10]:
                assert (await client.response(stream_id)).status == 200
            assert (await client.get()).status == 200
        assert max(most) <= 10

    async def test_a_host_that_is_not_served(self):
        async with open_client(Recorder(), settings(server_names=("example.org",))) as client:
            assert (await client.get()).status == 421
            client.authority = "EXAMPLE.org:80"
            assert (await client.get()).status == 200


class TestRecords:
    async def test_the_access_log_and_the_counters(self, tmp_path):
        async def app(scope, receive, send):
            size = 0
            while True:
                message = await receive()
                size += len(message["body"])
                if not message["more_body"]:
                    break
            await respond(send, b"x" * 100_000, 201)

        path = tmp_path / "log"
        async with open_client(app, settings(access=str(path))) as client:
            stream_id = await client.request("POST", "/up", body=b"12345")
            await client.response(stream_id)
            stats = client.server.stats()
            assert (stats.requests_total, stats.bytes_received, stats.bytes_sent) == (1, 5, 100_000)
        line = path.read_text()
        assert '"POST /up HTTP/2" 201 100000' in line


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


class TestOverTls:
    @asynccontextmanager
    async def serving(self, app, authority, tmp_path, protocols, **groups):
        cert = authority.issue_cert("localhost")
        path = tmp_path / "cert.pem"
        cert.private_key_and_cert_chain_pem.write_to_path(path)
        context = ssl.create_default_context()
        authority.configure_trust(context)
        context.set_alpn_protocols(protocols)
        config = settings(tls=TlsSettings(certificate=str(path)), **groups)
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                server = await nursery.start(serve, app, config)
                stream = await trio.open_tcp_stream(*server.addresses[0])
                tls = trio.SSLStream(stream, context, server_hostname="localhost", https_compatible=True)
                await tls.do_handshake()
                yield tls
                await stream.aclose()
                server.stop_now()

    async def test_by_alpn(self, authority, tmp_path):
        app = Recorder()
        async with self.serving(app, authority, tmp_path, ["http/1.1", "h2"]) as tls:
            assert tls.selected_alpn_protocol() == "h2"
            client = Http2Client(tls, scheme="https")
            await client.start()
            assert (await client.get("/page")).body == b"/page"
        (scope,) = app.scopes
        assert (scope["scheme"], scope["http_version"]) == ("https", "2")
        assert scope["extensions"]["tls"]["tls_version"] == 0x0304

    async def test_switched_off(self, authority, tmp_path):
        off = Http2Settings(enabled=False)
        async with self.serving(Recorder(), authority, tmp_path, ["h2", "http/1.1"], http2=off) as tls:
            assert tls.selected_alpn_protocol() == "http/1.1"
            client = RawClient(tls)
            await client.send(b"GET /page HTTP/1.1\r\nhost: a\r\n\r\n")
            assert (await client.receive_response()).body == b"/page"


class TestCleartext:
    async def test_prior_knowledge_byte_by_byte(self):
        async with open_memory_server(Recorder(), settings()) as server:
            client = Http2Client(server.connect())
            frames = client.request_frames(path="/page")
            for byte in PREFACE + SettingsFrame().serialize() + b"".join(f.serialize() for f in frames):
                await client.stream.send_all(bytes([byte]))
            assert (await client.response(1)).body == b"/page"
            await client.aclose()

    @pytest.mark.parametrize("off", [Http2Settings(h2c=False), Http2Settings(enabled=False)])
    async def test_switched_off(self, off):
        app = Recorder()
        async with (
            open_memory_server(app, settings(http2=off)) as server,
            server.raw_client() as client,
        ):
            await client.send(PREFACE + SettingsFrame().serialize())
            response = await client.receive_response()
            assert (response.status, response.header("connection")) == (505, b"close")
        assert app.scopes == []

    @pytest.mark.parametrize("data", [b"INVALID CONNECTION PREFACE\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nXX"])
    async def test_what_is_neither_is_closed_without_an_answer_of_http1(self, data):
        async with open_memory_server(Recorder(), settings()) as server, server.raw_client() as client:
            await client.send(data)
            answer = await client.receive_all()
            assert not answer.startswith(b"HTTP/1.1")
