from __future__ import annotations

import socket
import ssl
import struct

import pytest
import trio
import trustme

from tests.security.recording_app import (
    NO_LIFESPAN,
    QUIET,
    Recorder,
    connect,
    read_body,
    respond,
    serving,
    until,
)
from trioserve import Config
from trioserve.config import (
    LifecycleSettings,
    LoggingSettings,
    ProxySettings,
    TimeoutSettings,
    TlsSettings,
)

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
HASTY = TimeoutSettings(disconnect_grace=0.1, cleanup_grace=0.2)


def reset(client):
    """Close with RST."""
    client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.stream.socket.close()


def errors(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "trioserve.error"]


async def get(server):
    async with await connect(server) as client:
        await client.send(GET)
        with trio.fail_after(5):
            return await client.receive_response()


# -- clients that vanish -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_reset", [True, False], ids=["RST", "FIN"])
async def test_a_thousand_that_send_half_a_head_and_vanish(by_reset, caplog):
    app, limit = Recorder(), trio.CapacityLimiter(50)

    async def vanish(number):
        async with limit:
            client = await connect(server)
            await client.send(GET[: number % len(GET) or 1])
            if by_reset:
                reset(client)
            else:
                await client.aclose()

    async with serving(app) as server:
        async with trio.open_nursery() as nursery:
            for number in range(1000):
                nursery.start_soon(vanish, number)
        assert (await get(server)).status == 200
        await until(lambda: server.stats().connections_open == 0)
        assert server.stats().connections_accepted == 1001
    assert not errors(caplog)


@pytest.mark.parametrize("piece", [1000, 5_000_000], ids=["streamed", "in one piece"])
async def test_reset_in_the_middle_of_a_response(piece, caplog):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(20_000_000 // piece):
            await send({"type": "http.response.body", "body": b"x" * piece, "more_body": True})
        await send({"type": "http.response.body"})

    async def vanish():
        client = await connect(server)
        await client.send(GET)
        await client.receive_some()
        reset(client)

    async with serving(app) as server:
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(vanish)
        await until(lambda: server.stats().connections_open == 0)
    assert not errors(caplog)


async def loop_on_send(send, receive):
    while True:
        try:
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        except OSError:
            pass


async def loop_on_receive(send, receive):
    while True:
        await receive()


@pytest.mark.parametrize("loop", [loop_on_send, loop_on_receive])
@pytest.mark.parametrize("by_reset", [True, False], ids=["RST", "FIN"])
@pytest.mark.parametrize("policy", ["cancel", "notify"])
async def test_an_application_that_does_not_listen_freezes_nobody(loop, by_reset, policy):
    scopes = []

    async def app(scope, receive, send):
        if scope["path"] == "/":
            await respond(send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        with trio.CancelScope() as own:
            scopes.append(own)
            await loop(send, receive)

    config = Config(
        bind="127.0.0.1:0",
        logging=QUIET,
        timeouts=HASTY,
        lifecycle=LifecycleSettings(lifespan="off", on_disconnect=policy),
    )
    async with serving(app, config) as server:
        client = await connect(server)
        await client.send(GET.replace(b"/", b"/loop", 1))
        await client.receive_some()
        if by_reset:
            reset(client)
        else:
            await client.aclose()
        for _ in range(20):
            assert (await get(server)).status == 200
        if policy == "notify":
            assert server.stats().requests_running == 1
            scopes[0].cancel()
        await until(lambda: server.stats().connections_open == 0)


# -- responses -----------------------------------------------------------------------------------------------------

SPLITTING = [
    (b"x", b"a\r\nset-cookie: evil=1"),
    (b"x", b"a\nb"),
    (b"x", b"a\rb"),
    (b"x", b"a\0b"),
    (b"x\r\ny", b"a"),
    (b"x: y", b"a"),
    (b"", b"a"),
    (b"location", b"/\r\n\r\n<script>"),
    (b"content-length", b"5\r\nx: y"),
    (b"content-length", b"-5"),
]


@pytest.mark.parametrize("field", SPLITTING, ids=lambda field: repr(field))
async def test_splitting_raises_where_it_is_sent(field):
    async def app(scope, receive, send):
        try:
            await send({"type": "http.response.start", "status": 200, "headers": [field]})
        except Exception as error:
            await respond(send, type(error).__name__.encode())

    async with serving(app) as server, await connect(server) as client:
        await client.send(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        raw = await client.receive_all()
    assert raw.endswith(b"\r\n\r\nApplicationError")
    assert raw.count(b"\r\n\r\n") == 1
    assert b"evil" not in raw


@pytest.mark.parametrize("kind", ["early_hint", "trailers"])
async def test_splitting_in_other_places_raises_too(kind, caplog):
    async def app(scope, receive, send):
        if kind == "trailers":
            start = {"type": "http.response.start", "status": 200, "headers": [], "trailers": True}
            await send(start)
            await send({"type": "http.response.body", "body": b"x"})
            message = {"type": "http.response.trailers", "headers": [(b"x", b"a\r\nb: c")]}
        else:
            message = {"type": "http.response.early_hint", "links": [b"</a>\r\nb: c"]}
        await send(message)

    async with serving(app) as server, await connect(server) as client:
        await client.send(GET)
        with trio.fail_after(5):
            raw = await client.receive_some()
    assert b"b: c" not in raw
    assert "ApplicationError" in caplog.text


async def test_the_request_deadline_covers_the_rest_of_a_response_in_one_piece():
    async def app(scope, receive, send):
        await respond(send, b"x" * 50_000_000)

    async with serving(app, timeouts=TimeoutSettings(request=0.3)) as server, await connect(server) as client:
        await client.send(GET)
        await until(lambda: server.stats().requests_total == 1)
        await until(lambda: server.stats().connections_open == 0)
        assert server.stats().timeouts == 1


async def test_a_response_in_one_piece_is_not_cut_by_draining():
    async def app(scope, receive, send):
        await respond(send, b"x" * 8_000_000)

    async with serving(app) as server, await connect(server) as client:
        await client.send(GET)
        await until(lambda: server.stats().requests_total == 1)
        server.drain()
        with trio.fail_after(5):
            assert len((await client.receive_response()).body) == 8_000_000
            await client.wait_closed()


# -- before HTTP ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def over_tls(authority, tmp_path):
    file = tmp_path / "both.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(file)
    return Config(
        bind="127.0.0.1:0",
        logging=QUIET,
        lifecycle=NO_LIFESPAN,
        tls=TlsSettings(certificate=str(file), handshake_timeout=0.3),
    )


async def test_over_tls_odd_handshakes_disturb_nobody(over_tls, authority, caplog):
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    async with serving(Recorder(), over_tls) as server:
        odd = [await connect(server) for _ in range(8)]
        await odd[0].send(GET)  # plain HTTP
        await odd[1].send(b"\x00" * 2000)
        await odd[2].send(
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
        )  # the begin of a handshake, and no more
        await odd[3].send(b"\x16\x03\x01\x00\x05hello")
        reset(odd[4])
        await odd[5].send(b"\x16\x03\x01\x02\x00")
        reset(odd[5])
        await odd[6].half_close()
        # the last one says nothing at all
        with trio.fail_after(5):
            response = await odd[0].receive_response()
            assert response.status == 400
            assert b"HTTPS" in response.body
            for client in (odd[1], odd[2], odd[3], odd[6], odd[7]):
                await client.receive_all()
            await until(lambda: server.stats().connections_open == 0)
            host, port = server.addresses[0]
            stream = trio.SSLStream(await trio.open_tcp_stream(host, port), trust, server_hostname=host)
            await stream.send_all(GET)
            assert (await stream.receive_some(100)).startswith(b"HTTP/1.1 200 OK\r\n")
            await stream.transport_stream.aclose()
        for client in odd:
            await client.aclose()
    assert not errors(caplog)


@pytest.mark.parametrize("sent", [b"", b"PROXY TCP4", b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\xff\xff"])
async def test_an_unfinished_proxy_header_ends_by_the_head_deadline(sent, caplog):
    caplog.set_level("ERROR")
    settings = {"proxy": ProxySettings(protocol="any"), "timeouts": TimeoutSettings(head=0.2)}
    async with serving(Recorder(), **settings) as server, await connect(server) as client:
        if sent:
            await client.send(sent)
        with trio.fail_after(5):
            await client.wait_closed()
    assert not errors(caplog)


# -- logs ----------------------------------------------------------------------------------------------------------


async def test_no_control_characters_in_the_access_log(tmp_path):
    file = tmp_path / "access.log"

    async def app(scope, receive, send):
        await respond(send, headers=[(b"x-app", b"\x1b[2J\t\xff")])

    config = Config(
        bind="127.0.0.1:0",
        lifecycle=NO_LIFESPAN,
        logging=LoggingSettings(
            access=str(file), access_format='%(r)s "%({referer}i)s" "%({user-agent}i)s" %(f)s'
        ),
    )
    raws = [
        b'GET /"\\%0a%1b HTTP/1.1\r\nHost: a\r\nReferer: a"b\\c\td\r\nUser-Agent: \x80\x9b\xe2\x80\xae"\r\n\r\n',
        b"GET /\x1b[2J HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: a\nfaked line\r\n\r\n",
        b"\x1b\n\x9b HTTP/1.1\r\n\r\n",
    ]
    async with serving(app, config) as server:
        for raw in raws:
            async with await connect(server) as client:
                await client.send(raw)
                await client.receive_response()
    text = file.read_bytes()
    assert text.endswith(b"\n")
    assert text.count(b"\n") == len(raws)
    assert all(byte == 0x0A or 0x20 <= byte < 0x7F for byte in text)
    assert b"faked" not in text
    assert text.count(b"- - HTTP/1.1 ") == 3  # those whose head could not be read


async def test_a_full_disk_for_the_access_log_disturbs_nobody(caplog):
    config = Config(bind="127.0.0.1:0", lifecycle=NO_LIFESPAN, logging=LoggingSettings(access="/dev/full"))
    async with serving(Recorder(), config) as server, await connect(server) as client:
        for _ in range(600):
            await client.send(GET)
            assert (await client.receive_response()).status == 200
    assert len(errors(caplog)) == 2  # the first failure, and the count at the end
    assert "600 lines were lost" in errors(caplog)[1]


async def test_the_error_log_shows_a_target_without_control_characters(caplog):
    async def app(scope, receive, send):
        await read_body(receive)
        raise ValueError("of the application")

    async with serving(app) as server, await connect(server) as client:
        await client.send(b"GET /a%0d%0aINJECTED HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await client.receive_response()).status == 500
    assert errors(caplog) == ["error in the application: GET /a%0d%0aINJECTED HTTP/1.1"]
