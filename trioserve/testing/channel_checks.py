"""The contract of `trioserve.asgi.channel.ResponseChannel`, seen from both of its ends, as functions that assert.

Each check runs an application in a memory server and asks it with a client of one protocol: whatever an application
may do on one version of HTTP, it may do on every other. `RESPONSE_CHANNEL_CHECKS` names the checks for parametrized
tests; those of `RESPONSE_CHANNEL_TIME_CHECKS` need a clock that jumps (`trio.testing.MockClock`). Not here: what
only one protocol has.
"""

# ruff: noqa: ARG001 - applications take all three arguments

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING, TypeAlias

import trio
import trio.lowlevel
import trio.testing

from trioserve.asgi.errors import ApplicationError, ClientDisconnected
from trioserve.testing.channel_clients import (
    ResponseCut,
    body_message,
    get_response,
    head_message,
    open_exchange,
    raises,
    sending,
)
from trioserve.testing.channel_end_checks import (
    LEFT,
    check_body_cut_short,
    check_body_size,
    check_leaving_cancels,
    check_leaving_is_told,
    check_own_scope,
    check_refusals,
    check_request_timeout,
    check_stalls,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trioserve.asgi.types import Message, Receive, Scope, Send
    from trioserve.testing.channel_clients import OpenExchangeClient

ChannelCheck: TypeAlias = "Callable[[OpenExchangeClient], Awaitable[None]]"

NOTHING = {"type": "http.request", "body": b"", "more_body": False}


async def check_response_channel(open_client: OpenExchangeClient) -> None:
    """Run every check that needs no special clock.

    Args:
        open_client: makes a client of one protocol from its end of a fresh connection.

    Raises:
        AssertionError: the contract is broken; the traceback names the check.
    """
    for check in RESPONSE_CHANNEL_CHECKS:
        await check(open_client)


# -- receive -----------------------------------------------------------------------------------------------------------


async def check_scope(open_client: OpenExchangeClient) -> None:
    """The scope says what was asked, and the host comes first."""
    scopes: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await send(head_message())
        await send(body_message())

    async with open_exchange(app, open_client) as (client, _):
        await client.ask(
            "PATCH", "/a%20b/%C3%A4?q=%20", [(b"x-one", b"1"), (b"x-two", b"2"), (b"x-one", b"3")]
        )
        await client.response()
    (scope,) = scopes
    assert scope["type"] == "http"
    assert scope["http_version"] == client.http_version
    assert scope["asgi"] == {"version": "3.0", "spec_version": "2.5"}
    assert (scope["method"], scope["scheme"], scope["root_path"]) == ("PATCH", "http", "")
    assert (scope["path"], scope["raw_path"]) == ("/a b/ä", b"/a%20b/%C3%A4")
    assert scope["query_string"] == b"q=%20"
    assert scope["headers"][0] == (b"host", b"localhost")
    assert scope["headers"][1:] == [(b"x-one", b"1"), (b"x-two", b"2"), (b"x-one", b"3")]
    assert scope["client"] == ("127.0.0.1", 50000)
    assert scope["server"] == ("127.0.0.1", 80)
    assert type(scope["client"]) is type(scope["server"]) is tuple
    assert scope["state"] == {}
    wanted = {"trailers", "early_hint", "pathsend", "zerocopysend"}
    assert {f"http.response.{name}" for name in wanted} | {"trioserve"} <= scope["extensions"].keys()
    assert "tls" not in scope["extensions"]


async def check_request_without_body(open_client: OpenExchangeClient) -> None:
    """It is one empty message at once, and after the response the exchange is over."""
    received: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with trio.testing.assert_no_checkpoints():
            received.append(await receive())
        await send(head_message())
        await send(body_message(b"ok"))
        with trio.testing.assert_no_checkpoints():
            received.append(await receive())
        with trio.testing.assert_checkpoints():
            received.append(await receive())

    assert (await get_response(app, open_client)).body == b"ok"
    assert received == [NOTHING, LEFT, LEFT]


async def check_body_in_pieces(open_client: OpenExchangeClient) -> None:
    """Each piece is handed over when it comes, the last one says so, and trailers come with it."""
    received: list[Message] = []
    came = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while not received or received[-1]["more_body"]:
            received.append(await receive())
            came.set()
        await send(head_message())
        await send(body_message(b"ok"))

    async with open_exchange(app, open_client) as (client, _):
        await client.ask("POST", "/", has_body=True)
        await client.send_body(b"first")
        await came.wait()
        assert received == [{"type": "http.request", "body": b"first", "more_body": True}]
        await client.send_body(b"second", last=True, trailers=[(b"x-sum", b"1")])
        assert (await client.response()).body == b"ok"
    assert b"".join(message["body"] for message in received) == b"firstsecond"
    assert [message["more_body"] for message in received] == [True] * (len(received) - 1) + [False]
    assert received[-1]["trailers"] == [(b"x-sum", b"1")]
    assert all("trailers" not in message for message in received[:-1])


async def check_queued_body_needs_no_checkpoint(open_client: OpenExchangeClient) -> None:
    """What is here already is handed over inside a cancelled scope, and cancelling a wait loses nothing."""
    received: list[Message] = []
    waited, sent = trio.Event(), trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with trio.CancelScope() as impatient:
            impatient.cancel()
            await receive()
        assert impatient.cancelled_caught
        waited.set()
        await sent.wait()
        await trio.testing.wait_all_tasks_blocked()
        with trio.CancelScope() as polling:
            polling.cancel()
            with trio.testing.assert_no_checkpoints():
                received.append(await receive())
        await send(head_message())
        await send(body_message())

    async with open_exchange(app, open_client) as (client, _):
        await client.ask("POST", "/", [(b"content-length", b"3")])
        await waited.wait()
        await client.send_body(b"abc", last=True)
        sent.set()
        await client.response()
    assert received[0]["body"] == b"abc"


async def check_continue(open_client: OpenExchangeClient) -> None:
    """100 Continue goes out when the application first asks for the body, once."""
    for asks in (True, False):

        async def app(scope: Scope, receive: Receive, send: Send, asks: bool = asks) -> None:
            body = b""
            while asks:
                message = await receive()
                body += message["body"]
                if not message["more_body"]:
                    break
            await send(head_message())
            await send(body_message(body))

        async with open_exchange(app, open_client) as (client, _):
            await client.ask("POST", "/", [(b"content-length", b"6"), (b"expect", b"100-continue")])
            if asks:
                await trio.testing.wait_all_tasks_blocked()
                await client.send_body(b"abc")
                await trio.testing.wait_all_tasks_blocked()
                await client.send_body(b"def", last=True)
            response = await client.response()
        assert [interim.status for interim in response.informational] == [100] * asks
        assert response.body == b"abcdef" * asks


async def check_two_readers(open_client: OpenExchangeClient) -> None:
    """Two tasks cannot wait for one body, but both may wait for the end."""
    received: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def listen() -> None:
            received.append(await receive())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await trio.testing.wait_all_tasks_blocked()
            with raises(ApplicationError, "two tasks"):
                await receive()
            read.set()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            nursery.start_soon(listen)
            await trio.testing.wait_all_tasks_blocked()
            await send(head_message())
            await send(body_message(b"done"))

    read = trio.Event()
    async with open_exchange(app, open_client) as (client, _):
        await client.ask("POST", "/", [(b"content-length", b"1")])
        await read.wait()
        await client.send_body(b"x", last=True)
        assert (await client.response()).body == b"done"
    assert received[1:] == [LEFT, LEFT]


async def check_unread_body(open_client: OpenExchangeClient) -> None:
    """After the response the body is not given any more."""
    received: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(head_message())
        await send(body_message())
        received.append(await receive())

    async with open_exchange(app, open_client) as (client, _):
        await client.ask("POST", "/", [(b"content-length", b"3")])
        await client.send_body(b"abc", last=True)
        await client.response()
    assert received == [LEFT]


# -- send --------------------------------------------------------------------------------------------------------------


async def check_lengths(open_client: OpenExchangeClient) -> None:
    """A body in one piece has its length announced; one in several pieces arrives whole, whatever its size."""
    response = await get_response(
        sending(head_message(headers=[(b"x-a", b"1")]), body_message(b"hello")), open_client
    )
    assert (response.status, response.body) == (200, b"hello")
    assert response.header("content-length") == b"5"
    assert response.header("x-a") == b"1"
    assert response.header("server") == b"trioserve"
    assert response.header("date") is not None
    pieces = [b"", b"a" * 1000, b"", b"b" * 200_000, b"c"]
    response = await get_response(
        sending(head_message(), *(body_message(piece, True) for piece in pieces), body_message(b"end")),
        open_client,
    )
    assert response.body == b"".join(pieces) + b"end"
    assert response.header("content-length") is None


async def check_no_content(open_client: OpenExchangeClient) -> None:
    """HEAD, 204 and 304 never carry content."""
    for method, status, length in (("HEAD", 200, b"5"), ("GET", 204, None), ("GET", 304, None)):
        response = await get_response(
            sending(head_message(status), body_message(b"hello")), open_client, method
        )
        assert (response.status, response.body) == (status, b"")
        assert response.header("content-length") == length, (method, status)
    response = await get_response(
        sending(
            head_message(headers=[(b"content-length", b"7")]),
            body_message(b"abc", True),
            body_message(b"defg"),
        ),
        open_client,
        "HEAD",
    )
    assert (response.body, response.header("content-length")) == (b"", b"7")


async def check_own_length(open_client: OpenExchangeClient) -> None:
    """An application is held to its own Content-Length, at the line where it breaks it."""
    for pieces, cut in (
        ([body_message(b"123456")], False),
        ([body_message(b"1234")], False),
        ([body_message(b"123", True), body_message(b"456")], True),
        ([body_message(b"123", True), body_message(b"4")], True),
        ([body_message(b"123", True), body_message()], True),
    ):
        refused: list[Message] = []

        async def app(
            scope: Scope,
            receive: Receive,
            send: Send,
            pieces: list[Message] = pieces,
            refused: list[Message] = refused,
        ) -> None:
            await send(head_message(headers=[(b"content-length", b"5")]))
            for piece in pieces:
                try:
                    await send(piece)
                except ApplicationError:
                    refused.append(piece)
                    raise

        async with open_exchange(app, open_client) as (client, _):
            await client.ask("GET", "/")
            if cut:
                with raises(ResponseCut):
                    await client.response()
            else:
                assert (await client.response()).status == 500
        assert refused == pieces[-1:]


async def check_mistakes(open_client: OpenExchangeClient) -> None:
    """Messages out of order and illegal fields are raised where they are sent, and the answer is still possible."""
    push: Message = {"type": "http.response.trailers", "headers": []}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for wrong, words in (
            (body_message(b"x"), "before http.response.start"),
            ({"type": "nonsense"}, "unknown message type"),
            (head_message(99), "cannot begin a final response"),
            (head_message(headers=[(b"a b", b"x")]), "field"),
            (head_message(headers=[(b"a", b"x\r\ny: z")]), "field"),
            (head_message(headers=[(b"content-length", b"-1")]), "content-length"),
            ({"type": "http.response.early_hint", "links": [b"a\nb"]}, ""),
        ):
            with raises(ApplicationError, words):
                await send(wrong)
        await send(head_message(404))
        with raises(ApplicationError, "sent twice"):
            await send(head_message())
        with raises(ApplicationError, "body has to be bytes"):
            await send({"type": "http.response.body", "body": "text"})
        await send(body_message(b"still ", True))
        with raises(ApplicationError, "needs `trailers"):
            await send(push)
        await send(body_message(b"alive"))
        for late in (head_message(), body_message(b"x"), push):
            with raises(ApplicationError, "after the response was complete"):
                await send(late)

    response = await get_response(app, open_client)
    assert (response.status, response.body) == (404, b"still alive")


async def check_errors(open_client: OpenExchangeClient) -> None:
    """A crash is 500 as long as no head was written, and a response that is cut afterwards; so is a missing end."""
    for sent, crashes, outcome in (
        ([], True, 500),
        ([head_message()], True, 500),
        ([head_message(), body_message(b"x", True)], True, None),
        ([head_message(), body_message(b"x")], True, 200),
        ([], False, 500),
        ([head_message()], False, 500),
        ([head_message(), body_message(b"x", True)], False, None),
        ([head_message(trailers=True), body_message(b"x")], False, None),
    ):

        async def app(
            scope: Scope,
            receive: Receive,
            send: Send,
            sent: list[Message] = sent,
            crashes: bool = crashes,
        ) -> None:
            for message in sent:
                await send(message)
            if crashes:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(trio.sleep_forever)
                    raise RuntimeError("a mistake")

        async with open_exchange(app, open_client) as (client, server):
            await client.ask("GET", "/")
            if outcome is None:
                with raises(ResponseCut):
                    await client.response()
            else:
                assert (await client.response()).status == outcome
            await trio.testing.wait_all_tasks_blocked()
            assert server.stats().errors == int(crashes)
            assert server.stats().requests_running == 0


async def check_extensions(open_client: OpenExchangeClient) -> None:
    """Early hints come before the response, trailers behind it."""
    hints = [b"</a.css>; rel=preload", b"</b.js>; rel=preload"]
    response = await get_response(
        sending(
            {"type": "http.response.early_hint", "links": hints},
            head_message(trailers=True),
            body_message(b"some", True),
            body_message(b"thing"),
            {"type": "http.response.trailers", "headers": [(b"x-a", b"1")], "more_trailers": True},
            {"type": "http.response.trailers", "headers": [(b"X-B", b"2")]},
        ),
        open_client,
    )
    assert [(hint.status, hint.headers) for hint in response.informational] == [
        (103, [(b"link", hints[0]), (b"link", hints[1])])
    ]
    assert (response.body, response.trailers) == (b"something", [(b"x-a", b"1"), (b"x-b", b"2")])


async def check_files(open_client: OpenExchangeClient) -> None:
    """A file is sent whole or in part, alone or between other pieces."""
    content = os.urandom(600_001)
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        response = await get_response(
            sending(head_message(), {"type": "http.response.pathsend", "path": file.name}), open_client
        )
        assert response.body == content
        assert response.header("content-length") == b"600001"
        file.seek(7)
        zerocopy: Message = {"type": "http.response.zerocopysend", "file": file}
        response = await get_response(
            sending(
                head_message(),
                body_message(b"<", True),
                {**zerocopy, "count": 3, "more_body": True},
                {**zerocopy, "offset": 100, "count": 400_000, "more_body": True},
                {**zerocopy, "count": 0, "more_body": True},
                body_message(b">"),
            ),
            open_client,
        )
        assert response.body == b"<" + content[7:10] + content[100:400_100] + b">"
        assert file.tell() == 10
        response = await get_response(sending(head_message(), {**zerocopy, "offset": 600_000}), open_client)
        assert response.body == content[600_000:]
        short = sending(head_message(), {**zerocopy, "offset": 0, "count": 600_002})
        with raises(ResponseCut):
            await get_response(short, open_client)


async def check_send_is_a_cancellation_point(open_client: OpenExchangeClient) -> None:
    """Every message is, before anything of it is taken."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in (head_message(), body_message(b"x", True), body_message(b"y")):
            with trio.CancelScope() as own:
                own.cancel()
                await send(message)
            assert own.cancelled_caught
            await send(message)

    assert (await get_response(app, open_client)).body == b"xy"


async def check_loops_on_send(open_client: OpenExchangeClient) -> None:
    """An application that loops on send() lets others run, in every state."""
    for state in ("streaming", "complete", "gone", "trailers"):
        left = trio.Event()

        async def app(
            scope: Scope, receive: Receive, send: Send, state: str = state, left: trio.Event = left
        ) -> None:
            await send(head_message(trailers=state == "trailers"))
            await send(body_message(b"x", state in {"streaming", "gone"}))
            while state == "trailers":
                await send({"type": "http.response.trailers", "headers": [], "more_trailers": True})
            if state == "gone":
                await left.wait()
            while True:
                try:
                    await send(body_message(b"x", True))
                except (ApplicationError, ClientDisconnected):
                    pass

        async with open_exchange(app, open_client) as (client, _):
            await client.ask("GET", "/")
            await client.first_bytes() if state != "trailers" else await trio.lowlevel.checkpoint()
            if state == "gone":
                await client.leave()
                left.set()
            for _ in range(100):
                await trio.lowlevel.checkpoint()


async def check_large_sends_wait(open_client: OpenExchangeClient) -> None:
    """An application waits for a client that does not read, and goes on once it does."""
    sent = 0
    over = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await send(head_message())
        for _ in range(200):
            await send(body_message(b"x" * 16_384, True))
            sent += 16_384
        await send(body_message())
        over.set()

    async with open_exchange(app, open_client, lockstep=True) as (client, _):
        await client.ask("GET", "/")
        await trio.testing.wait_all_tasks_blocked()
        assert sent <= 300_000
        assert not over.is_set()
        assert len((await client.response()).body) == 200 * 16_384
        await over.wait()


RESPONSE_CHANNEL_CHECKS: tuple[ChannelCheck, ...] = (
    check_scope,
    check_request_without_body,
    check_body_in_pieces,
    check_queued_body_needs_no_checkpoint,
    check_continue,
    check_two_readers,
    check_unread_body,
    check_lengths,
    check_no_content,
    check_own_length,
    check_mistakes,
    check_errors,
    check_extensions,
    check_files,
    check_send_is_a_cancellation_point,
    check_loops_on_send,
    check_large_sends_wait,
    check_leaving_is_told,
    check_body_cut_short,
    check_body_size,
    check_refusals,
    check_own_scope,
)
RESPONSE_CHANNEL_TIME_CHECKS: tuple[ChannelCheck, ...] = (
    check_leaving_cancels,
    check_request_timeout,
    check_stalls,
)
