"""The WebSocket clients that people use, each against a real `trioserve` process, over HTTP/1.1 and HTTP/2."""

from __future__ import annotations

import json
import re
import socket
import ssl
import urllib.request
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trio_websocket
import websockets.exceptions
import websockets.sync.client
from trio_websocket import ConnectionClosed, ConnectionRejected, open_websocket_url

from tests.e2e.programs import CHROMIUM_FLAGS, Served, run, serve, tls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

APP = "tests.e2e.apps.websocket_app:app"
STARLETTE_APP = "tests.e2e.apps.starlette_websocket_app:app"
NODE_CLIENT = Path(__file__).parent / "websocket" / "client.mjs"
PATIENCE = 10
LARGE = bytes(range(256)) * 1200


@pytest.fixture(scope="module")
def plain(certificates, tmp_path_factory) -> Iterator[Served]:
    with serve(APP, certificates, tmp_path_factory.mktemp("plain") / "access.log") as served:
        yield served
        served.logged()


@pytest.fixture(scope="module")
def secure(certificates, tmp_path_factory) -> Iterator[Served]:
    with serve(
        APP, certificates, tmp_path_factory.mktemp("tls") / "access.log", *tls(certificates)
    ) as served:
        yield served
        assert {line.split()[0] for line in served.logged()} <= {"HTTP/1.1"}


@pytest.fixture(params=["plain", "secure"])
def served(request) -> Served:
    return request.getfixturevalue(request.param)


def address(served: Served, path: str) -> str:
    return served.url.replace("http", "ws", 1) + path


def trust(served: Served) -> ssl.SSLContext | None:
    return ssl.create_default_context(cafile=served.authority) if served.url.startswith("https") else None


def told(served: Served, name: str) -> list[object]:
    """What the application was told at the end of a session."""
    url = f"{served.url}/ended?{name}"
    with urllib.request.urlopen(url, context=trust(served), timeout=PATIENCE) as answer:
        return json.load(answer)


# -- websockets ----------------------------------------------------------------------------------------------------


def connect(served: Served, path: str, **options: object) -> websockets.sync.client.ClientConnection:
    options = {
        "ssl": trust(served),
        "proxy": None,
        "open_timeout": PATIENCE,
        "close_timeout": PATIENCE,
        **options,
    }
    return websockets.sync.client.connect(address(served, path), **options)


@pytest.mark.parametrize("compression", ["deflate", None])
def test_websockets_echo(served, compression):
    name = f"websockets-{compression}"
    scheme = "wss" if served.url.startswith("https") else "ws"
    with connect(served, f"/echo?{name}", compression=compression, subprotocols=["other", "echo"]) as session:
        assert session.subprotocol == "echo"
        assert session.response.headers["x-answered"] == "yes"
        assert [extension.name for extension in session.protocol.extensions] == (
            ["permessage-deflate"] if compression else []
        )
        assert session.recv(PATIENCE) == f"{scheme} 1.1 /echo"
        for message in ["grüße 🐍", "", b"", b"\0\xff", "a" * 200_000, LARGE]:
            session.send(message)
            assert session.recv(PATIENCE) == message
        session.close(4321, "till tomorrow")
    assert told(served, name) == [4321, "till tomorrow"]


def test_websockets_fragments_and_pings(served):
    with connect(served, "/echo?fragments") as session:
        session.recv(PATIENCE)
        session.send(["frag", "men", "ts 🐍"])
        assert session.recv(PATIENCE) == "fragments 🐍"
        answered = [session.ping() for _ in range(3)]
        assert all(event.wait(PATIENCE) for event in answered)
        session.send(iter([LARGE, b"", LARGE]))
        assert session.recv(PATIENCE) == LARGE + LARGE
    assert told(served, "fragments") == [1000, ""]


def test_websockets_many_messages_before_any_answer(served):
    """More than wait for the application, in both directions."""
    with connect(served, "/echo?many") as session:
        session.recv(PATIENCE)
        for number in range(500):
            session.send(f"message {number}")
        assert [session.recv(PATIENCE) for _ in range(500)] == [f"message {number}" for number in range(500)]


def test_websockets_is_closed_by_the_application(served):
    with connect(served, "/farewell") as session:
        assert session.recv(PATIENCE) == "welcome"
        with pytest.raises(websockets.exceptions.ConnectionClosedError) as closed:
            session.recv(PATIENCE)
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "schöne Grüße")
    assert closed.value.rcvd_then_sent


def test_websockets_reads_a_flood_and_the_end(served):
    with connect(served, "/flood") as session:
        assert sum(len(message) for message in session) == 160 * 65536
    assert session.close_code == 1000


def test_websockets_is_refused(served):
    with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
        connect(served, "/refuse")
    response = refused.value.response
    assert (response.status_code, response.body) == (401, b'{"error": "no key"}')
    assert response.headers["content-type"] == "application/json"
    with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
        connect(served, "/close")
    assert refused.value.response.status_code == 403


def test_websockets_hears_that_the_application_failed(certificates, tmp_path):
    with serve(APP, certificates, tmp_path / "access.log") as served:
        with connect(served, "/fail") as session:
            session.send("go")
            with pytest.raises(websockets.exceptions.ConnectionClosedError) as closed:
                session.recv(PATIENCE)
        assert closed.value.rcvd.code == 1011
        assert served.process.stop() == 0
        assert served.process.errors.count("RuntimeError: meant to fail") == 1


def test_websockets_is_told_that_the_server_stops(certificates, tmp_path):
    with serve(APP, certificates, tmp_path / "access.log") as served, ExitStack() as stack:
        sessions = [stack.enter_context(connect(served, f"/echo?{number}")) for number in range(20)]
        for session in sessions:
            session.recv(PATIENCE)
        assert served.process.stop() == 0
        for session in sessions:
            with pytest.raises(websockets.exceptions.ConnectionClosed) as closed:
                session.recv(PATIENCE)
            assert closed.value.rcvd.code == 1012


# -- trio-websocket ------------------------------------------------------------------------------------------------


async def test_trio_websocket_echo(served):
    with trio.fail_after(PATIENCE):
        async with open_websocket_url(
            address(served, "/echo?trio"), ssl_context=trust(served), subprotocols=["echo"]
        ) as session:
            assert session.subprotocol == "echo"
            assert (b"x-answered", b"yes") in session.handshake_headers
            await session.get_message()
            for message in ["grüße 🐍", b"\0\xff", "a" * 200_000, LARGE]:
                await session.send_message(message)
                assert await session.get_message() == message
            await session.ping(b"still there?")
            await session.aclose(4123, "bye")
    assert await trio.to_thread.run_sync(told, served, "trio") == [4123, "bye"]


@asynccontextmanager
async def open_stream(served: Served) -> AsyncIterator[trio.abc.Stream]:
    """A connection that is closed in every case; trio-websocket leaves its own open unless it is the one to close."""
    host, port = served.url.partition("://")[2].split(":")
    stream: trio.abc.Stream = await trio.open_tcp_stream(host, int(port))
    if context := trust(served):
        stream = trio.SSLStream(stream, context, server_hostname=host, https_compatible=True)
    async with stream:
        yield stream


async def test_trio_websocket_is_closed_by_the_application(served):
    with trio.fail_after(PATIENCE):
        async with open_stream(served) as stream, trio.open_nursery() as nursery:
            session = await trio_websocket.wrap_client_stream(nursery, stream, "127.0.0.1", "/farewell")
            assert await session.get_message() == "welcome"
            with pytest.raises(ConnectionClosed) as closed:
                await session.get_message()
    assert (closed.value.reason.code, closed.value.reason.reason) == (4001, "schöne Grüße")


async def test_trio_websocket_is_refused(served):
    with trio.fail_after(PATIENCE):
        async with open_stream(served) as stream:
            with pytest.raises(ExceptionGroup) as raised:
                async with trio.open_nursery() as nursery:
                    await trio_websocket.wrap_client_stream(nursery, stream, "127.0.0.1", "/refuse")
    [refused] = raised.value.exceptions
    assert isinstance(refused, ConnectionRejected)
    assert (refused.status_code, refused.body) == (401, b'{"error": "no key"}')


async def test_trio_websocket_vanishes_without_a_closing_handshake(served):
    with trio.fail_after(PATIENCE):
        async with open_stream(served) as stream, trio.open_nursery() as nursery:
            session = await trio_websocket.wrap_client_stream(nursery, stream, "127.0.0.1", "/echo?cut")
            await session.get_message()
            await trio.aclose_forcefully(stream)
            nursery.cancel_scope.cancel()
        assert await trio.to_thread.run_sync(told, served, "cut") == [1006, ""]


# -- node over HTTP/2 ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["tls", "cleartext"])
def node(request, certificates, tmp_path_factory):
    """What node's client saw; and the server's log."""
    flags = tls(certificates) if request.param == "tls" else ()
    with serve(APP, certificates, tmp_path_factory.mktemp("node") / "access.log", *flags) as served:
        seen = json.loads(run("node", NODE_CLIENT, served.url, served.authority).stdout)
        return {**seen, "scheme": "wss" if flags else "ws", "log": served.logged()}


def test_node_is_offered_extended_connect(node):
    assert node["settings"] is True


def test_node_echo(node):
    assert node["echo"] == {
        "status": 200,
        "protocol": "echo",
        "field": "yes",
        "first": f"{node['scheme']} 2 /echo",
        "text": "grüße",
        "pong": "still there?",
        "large": True,
        "closed": {"opcode": 8, "code": 4123, "ended": True, "reset": 0},
        "told": [4123, "bye"],
    }


def test_node_is_closed_by_the_application(node):
    assert node["farewell"] == {"welcome": "welcome", "told": [8, 4001, "schöne Grüße"], "reset": 0}


def test_node_is_refused(node):
    assert node["refused"] == {"status": 401, "body": '{"error": "no key"}'}


def test_node_many_sessions_beside_a_flood(node):
    assert node["many"] == {
        "told": [[str(number), 1000] for number in range(20)],
        "request": "nothing\n",
        "code": 1000,
        "flooded": 160 * 65536,
    }


def test_node_resets_a_session(node):
    assert node["reset"] == {"told": [1006, ""], "request": "nothing\n"}


def test_node_was_on_http2_throughout(node):
    assert {line.split()[0] for line in node["log"]} == {"HTTP/2"}


# -- a browser -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("flag", "version"), [("--no-http2-enabled", "1.1"), ("--http2-enabled", "2")])
def test_chromium(certificates, tmp_path, flag, version):
    log = tmp_path / "access.log"
    with serve(APP, certificates, log, *tls(certificates), flag) as served:
        flags = [*CHROMIUM_FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
        page = run("chromium", *flags, served.url + "/page").stdout
        assert re.findall("<li>(.*?)</li>", page)[1:] == [
            f"came by wss {version} /echo",
            "text grüße 🐍",
            "binary 300000 true",
            "repeated 100000",
            "closed 4321  true",
            'told [4321, "page is done"]',
        ]
        assert re.search("<li>opened echo permessage-deflate", page)
        lines = served.logged()
    sessions = [line.split() for line in lines if "/echo?page" in line]
    assert [(line[0], line[-1]) for line in sessions] == [(f"HTTP/{version}", "complete")]


# -- frameworks ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def starlette(certificates, tmp_path_factory) -> Iterator[Served]:
    with serve(STARLETTE_APP, certificates, tmp_path_factory.mktemp("starlette") / "access.log") as served:
        yield served
        served.logged()


@pytest.fixture(scope="module")
def fastapi(certificates, tmp_path_factory) -> Iterator[Served]:
    app = "tests.e2e.apps.fastapi_websocket_app:app"
    with serve(app, certificates, tmp_path_factory.mktemp("fastapi") / "access.log") as served:
        yield served
        served.logged()


def seen_by_starlette(served: Served) -> list[int]:
    with urllib.request.urlopen(served.url + "/wait", timeout=PATIENCE) as answer:
        return json.load(answer)


def test_starlette_endpoint(starlette):
    with connect(starlette, "/double", subprotocols=["doubling"]) as session:
        assert session.subprotocol == "doubling"
        assert session.response.headers["x-doubler"] == "1"
        session.send('{"number": 21}')
        assert json.loads(session.recv(PATIENCE)) == {"doubled": 42}
        session.close(4005)
    assert 4005 in seen_by_starlette(starlette)


def test_starlette_endpoint_refuses_what_is_not_json(certificates, tmp_path):
    """It closes, and then raises an error."""
    with serve(STARLETTE_APP, certificates, tmp_path / "access.log") as served:
        with connect(served, "/double", subprotocols=["doubling"]) as session:
            session.send("{")
            with pytest.raises(websockets.exceptions.ConnectionClosedError) as closed:
                session.recv(PATIENCE)
        assert closed.value.rcvd.code == 1003
        assert served.process.stop() == 0
        assert served.process.errors.count("RuntimeError: Malformed JSON data received.") == 1


def test_starlette_two_tasks_on_one_session(starlette):
    with connect(starlette, "/chat") as session:
        session.send("one")
        received = [session.recv(PATIENCE) for _ in range(4)]
    assert sorted(received) == ["heard one", "tick 0", "tick 1", "tick 2"]


def test_starlette_refusal(starlette):
    with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
        connect(starlette, "/refuse")
    response = refused.value.response
    assert (response.status_code, json.loads(response.body)) == (401, {"error": "no key"})
    assert response.headers["x-why"] == "key"


def test_starlette_unknown_route(starlette):
    with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
        connect(starlette, "/nowhere")
    assert refused.value.response.status_code in {403, 404}


def test_starlette_learns_of_a_client_that_left_while_it_sends(certificates, tmp_path):
    with serve(STARLETTE_APP, certificates, tmp_path / "access.log") as served:
        with connect(served, "/talk") as session:
            session.recv(PATIENCE)
            session.socket.shutdown(socket.SHUT_RDWR)
        assert seen_by_starlette(served) == [1006]
        served.logged()


def test_fastapi_members_of_a_room(fastapi):
    with connect(fastapi, "/rooms/7?key=right") as first:
        assert json.loads(first.recv(PATIENCE)) == {"room": 7, "members": 1}
        with connect(fastapi, "/rooms/7?key=right") as second:
            assert json.loads(second.recv(PATIENCE)) == {"room": 7, "members": 2}
            second.send("hello")
            assert [first.recv(PATIENCE), second.recv(PATIENCE)] == ["hello", "hello"]
            second.close(4500, "supper")
        assert json.loads(first.recv(PATIENCE)) == {"left": 4500, "reason": "supper"}


def test_fastapi_exception_after_accepting(fastapi):
    with connect(fastapi, "/late") as session:
        session.send("hello?")
        with pytest.raises(websockets.exceptions.ConnectionClosedError) as closed:
            session.recv(PATIENCE)
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4009, "too late")


# -- GraphQL -------------------------------------------------------------------------------------------------------


@pytest.fixture
def graphql(certificates, tmp_path):
    """A session of graphql-transport-ws; returns a function that sends a message and one that receives one."""
    flags = ["--factory", "--lifecycle-lifespan", "off"]
    with serve("tests.e2e.apps.graphql_app:factory", certificates, tmp_path / "access.log", *flags) as served:
        with connect(served, "/", subprotocols=["graphql-transport-ws"]) as session:
            assert session.subprotocol == "graphql-transport-ws"

            def send(kind: str, **fields: object) -> None:
                session.send(json.dumps({"type": kind, **fields}))

            def receive() -> dict[str, object]:
                return json.loads(session.recv(PATIENCE))

            send("connection_init")
            assert receive()["type"] == "connection_ack"
            yield send, receive
        served.logged()


def test_graphql_subscription(graphql):
    send, receive = graphql
    send("subscribe", id="a", payload={"query": "subscription { count(to: 3) }"})
    received = [receive() for _ in range(4)]
    assert [message["payload"]["data"] for message in received[:3]] == [
        {"count": number} for number in (1, 2, 3)
    ]
    assert received[3] == {"id": "a", "type": "complete"}


def test_graphql_subscription_that_the_client_ends(graphql):
    send, receive = graphql
    send("subscribe", id="b", payload={"query": 'subscription { endless(name: "b") }'})
    assert receive()["payload"]["data"] == {"endless": 0}
    send("complete", id="b")
    send("ping")
    while (message := receive())["type"] == "next":
        assert message["id"] == "b"
    assert message["type"] == "pong"
    send("subscribe", id="c", payload={"query": "{ stopped }"})
    assert receive()["payload"]["data"] == {"stopped": ["b"]}


def test_websockets_large_messages_one_after_the_other(plain):
    """Each comes in several segments, while the application already waits for it."""
    message = "".join(f"{number:08}" for number in range(14_500))
    with connect(plain, "/echo?segments", compression=None) as session:
        session.recv(PATIENCE)
        for _ in range(400):
            session.send(message)
            assert session.recv(PATIENCE) == message


@pytest.mark.parametrize("path", ["/rooms/7?key=wrong", "/rooms/seven?key=right"])
def test_fastapi_dependency_that_refuses(fastapi, path):
    with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
        connect(fastapi, path)
    assert refused.value.response.status_code == 403
