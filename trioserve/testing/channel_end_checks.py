"""The second half of `channel_checks`: clients that leave, limits, and deadlines, the same on every protocol."""

# ruff: noqa: ARG001 - applications take all three arguments

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
import trio.testing

from trioserve.asgi.errors import ClientDisconnected
from trioserve.config import LimitSettings, TimeoutSettings
from trioserve.testing.channel_clients import (
    ResponseCut,
    body_message,
    get_response,
    head_message,
    open_exchange,
    raises,
    sending,
)

if TYPE_CHECKING:
    from trioserve.asgi.types import Message, Receive, Scope, Send
    from trioserve.testing.channel_clients import OpenExchangeClient

LEFT = {"type": "http.disconnect"}


# -- leaving -----------------------------------------------------------------------------------------------------------


async def check_leaving_is_told(open_client: OpenExchangeClient) -> None:
    """receive() tells that the client has left, at once and without a checkpoint; send() raises."""
    received: list[Message] = []
    raised: list[OSError] = []
    left, ended = trio.Event(), trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        with trio.CancelScope() as poll:
            poll.cancel()
            await receive()
        assert poll.cancelled_caught, "nothing was known yet"
        await left.wait()
        with trio.testing.assert_no_checkpoints():
            received.append(await receive())
        for message in (
            head_message(),
            body_message(b"x", True),
            body_message(b"y"),
            {"type": "http.response.trailers"},
        ):
            try:
                await send(message)
            except OSError as error:
                raised.append(error)
        ended.set()

    async with open_exchange(app, open_client) as (client, server):
        await client.ask("GET", "/")
        await trio.testing.wait_all_tasks_blocked()
        await client.leave()
        await trio.testing.wait_all_tasks_blocked()
        left.set()
        await ended.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert (server.stats().disconnects, server.stats().errors) == (1, 0)
    assert received == [LEFT]
    assert len(raised) >= 3
    assert all(type(error) is ClientDisconnected for error in raised)


async def check_body_cut_short(open_client: OpenExchangeClient) -> None:
    """A body that the client did not finish never looks complete."""
    received: list[Message] = []
    ended = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while not received or received[-1]["type"] == "http.request":
            received.append(await receive())
        ended.set()
        raise RuntimeError("a framework's own error")

    async with open_exchange(app, open_client) as (client, server):
        await client.ask("POST", "/", [(b"content-length", b"6")])
        await client.send_body(b"abc")
        await trio.testing.wait_all_tasks_blocked()
        await client.leave()
        await ended.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert server.stats().errors == 0
    assert received == [{"type": "http.request", "body": b"abc", "more_body": True}, LEFT]


# -- limits ------------------------------------------------------------------------------------------------------------


async def check_body_size(open_client: OpenExchangeClient) -> None:
    """A body that is too large is refused, by what it announces or by what comes."""
    seen = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal seen
        while (message := await receive())["type"] == "http.request":
            seen += len(message["body"])
            if not message["more_body"]:
                await send(head_message())
                await send(body_message(b"%d" % seen))
                return
        raise ClientDisconnected

    limits = LimitSettings(body_size=1000)
    for announced, size, status in ((True, 10_000, 413), (False, 10_000, 413), (True, 1000, 200)):
        seen = 0
        async with open_exchange(app, open_client, limits=limits) as (client, server):
            headers = [(b"content-length", b"%d" % size)] if announced else []
            await client.ask("POST", "/", headers, has_body=True)
            for start in range(0, size if status == 200 or not announced else 0, 100):
                try:
                    await client.send_body(b"x" * 100, last=start + 100 == size)
                except trio.BrokenResourceError:
                    break
            assert (await client.response()).status == status
            assert seen <= 1000
            await trio.testing.wait_all_tasks_blocked()
            assert server.stats().requests_refused == int(status == 413)


async def check_refusals(open_client: OpenExchangeClient) -> None:
    """A host that is not served gets 421, and too many applications 503; neither reaches the application."""
    app = sending(head_message(), body_message())
    async with open_exchange(app, open_client, server_names=("example.org",)) as (client, _):
        await client.ask("GET", "/")
        assert (await client.response()).status == 421
    go, running = trio.Event(), trio.Event()

    async def waiting(scope: Scope, receive: Receive, send: Send) -> None:
        running.set()
        await go.wait()
        await app(scope, receive, send)

    async with open_exchange(waiting, open_client, limits=LimitSettings(requests=1)) as (client, server):
        await client.ask("GET", "/")
        await running.wait()
        other = open_client(server.connect())
        await other.ask("GET", "/")
        response = await other.response()
        assert (response.status, response.header("retry-after")) == (503, b"1")
        await other.aclose()
        assert server.stats().requests_running == 1
        go.set()
        assert (await client.response()).status == 200


async def check_own_scope(open_client: OpenExchangeClient) -> None:
    """An application that cancels its own request is answered 503."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"]["trioserve"].cancel_scope.cancel()
        await trio.sleep_forever()

    assert (await get_response(app, open_client)).status == 503


# -- with a clock that jumps -------------------------------------------------------------------------------------------


async def check_leaving_cancels(open_client: OpenExchangeClient) -> None:
    """The application of a client that left is cancelled after the grace, and cleans up; or it opts out."""
    for opts_out in (False, True):
        times: list[float] = []

        async def app(
            scope: Scope, receive: Receive, send: Send, opts_out: bool = opts_out, times: list[float] = times
        ) -> None:
            scope["extensions"]["trioserve"].cancel_on_disconnect = not opts_out
            try:
                await trio.sleep(60)
            finally:
                times.append(trio.current_time())
                with scope["extensions"]["trioserve"].cleanup():
                    await trio.sleep(2)
                    times.append(trio.current_time())

        graces = TimeoutSettings(disconnect_grace=7, cleanup_grace=3)
        async with open_exchange(app, open_client, timeouts=graces) as (client, _):
            await client.ask("GET", "/")
            begun = trio.current_time()
            await trio.sleep(20)
            await client.leave()
            await trio.sleep(70)
        wanted = [60, 62] if opts_out else [27, 29]
        assert [round(time - begun, 1) for time in times] == wanted


async def check_request_timeout(open_client: OpenExchangeClient) -> None:
    """A request has a deadline, which the application may move: 503 when no head was written, else a cut."""
    for head, moved, status in ((False, 0, 503), (True, 0, None), (False, 100, 200)):

        async def app(
            scope: Scope, receive: Receive, send: Send, head: bool = head, moved: float = moved
        ) -> None:
            control = scope["extensions"]["trioserve"]
            assert abs(control.deadline - trio.current_time() - 10) < 0.1
            control.deadline += moved
            if head:
                await send(head_message())
                await send(body_message(b"x", True))
            await trio.sleep(50)
            await send(head_message())
            await send(body_message())

        async with open_exchange(app, open_client, timeouts=TimeoutSettings(request=10)) as (client, server):
            begun = trio.current_time()
            await client.ask("GET", "/")
            if status is None:
                with raises(ResponseCut):
                    await client.response()
            else:
                response = await client.response()
                assert response.status == status
                assert response.header("retry-after") == (b"1" if status == 503 else None)
            assert abs(trio.current_time() - begun - (50 if moved else 10)) < 0.1
            await trio.testing.wait_all_tasks_blocked()
            assert server.stats().timeouts == int(not moved)


async def check_stalls(open_client: OpenExchangeClient) -> None:
    """A body that does not come is 408; one that nobody reads has its time; nobody waits for ever to write."""

    async def reads(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await receive()

    async def writes(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send(head_message())
            while True:
                await send(body_message(b"x" * 10_000, True))
        finally:
            ended.append(trio.current_time())

    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        await trio.sleep(100)
        await send(head_message())
        await send(body_message())

    ended: list[float] = []
    timeouts = TimeoutSettings(body_stall=20, write_stall=30)
    for app, status in ((reads, 408), (waits, 200)):
        async with open_exchange(app, open_client, timeouts=timeouts) as (client, _):
            begun = trio.current_time()
            await client.ask("POST", "/", [(b"content-length", b"10")])
            await client.send_body(b"abc")
            assert (await client.response()).status == status
            assert abs(trio.current_time() - begun - (20 if status == 408 else 100)) < 0.1
    async with open_exchange(writes, open_client, lockstep=True, timeouts=timeouts) as (client, _):
        await client.ask("GET", "/")
        begun = trio.current_time()
        await trio.sleep(200)
        assert 30 <= ended[0] - begun < 70
