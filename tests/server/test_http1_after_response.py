"""What an application does after its response, and to its request's control, touches no other request."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from trioserve.asgi.errors import ApplicationError
from trioserve.config import Config, LifecycleSettings, LoggingSettings, TimeoutSettings
from trioserve.testing.memory import open_memory_server

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
REST = b"GET /rest HTTP/1.1\r\nhost: a\r\n\r\n"


def settings(**timeouts):
    return Config(
        logging=LoggingSettings(access="off"),
        lifecycle=LifecycleSettings(lifespan="off"),
        timeouts=TimeoutSettings(**timeouts),
    )


async def respond(send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


async def app_with_rest(scope, receive, send):
    await respond(send)
    if scope["path"] == "/rest":
        await trio.sleep(50)


async def test_the_control_of_a_request_that_is_over_steers_nothing(autojump_clock):
    async def app(scope, receive, send):
        controls.append(scope["extensions"]["trioserve"])
        await trio.sleep(5)
        await respond(send)

    controls = []
    async with open_memory_server(app, settings(request=20)) as server, server.raw_client() as client:
        await client.send(GET)
        await client.receive_response()
        await client.send(GET)
        await trio.sleep(1)
        controls[0].deadline = trio.current_time() + 1
        controls[0].cancel_on_disconnect = False
        assert controls[1].cancel_on_disconnect
        assert (await client.receive_response()).status == 200


async def test_the_end_of_a_closing_connection_does_not_wait(autojump_clock):
    async with open_memory_server(app_with_rest, settings()) as server, server.raw_client() as client:
        start = trio.current_time()
        await client.send(REST.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
        await client.receive_response()
        await client.wait_closed()
        assert trio.current_time() - start < 1


async def test_an_unread_body_does_not_hold_the_next_request_up(autojump_clock):
    async with open_memory_server(app_with_rest, settings()) as server, server.raw_client() as client:
        start = trio.current_time()
        await client.send(b"POST /rest HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n12345" + GET)
        await client.receive_response()
        await client.receive_response()
        assert trio.current_time() - start < 1


async def test_a_crash_after_the_hand_over_is_counted(autojump_clock, error_log):
    async def app(scope, receive, send):
        await respond(send)
        if scope["path"] == "/rest":
            await trio.sleep(1)
            raise RuntimeError

    async with open_memory_server(app, settings()) as server, server.raw_client() as client:
        await client.send(REST + GET)
        await client.receive_response()
        await client.receive_response()
        await trio.sleep(2)
        assert server.stats().errors == 1


async def test_the_grace_is_not_prolonged_by_setting_a_deadline(autojump_clock):
    async def app(scope, receive, send):
        control = scope["extensions"]["trioserve"]
        start = trio.current_time()
        try:
            while True:
                await trio.sleep(1)
                control.deadline = trio.current_time() + 100
        finally:
            ended.append(trio.current_time() - start)

    ended = []
    async with open_memory_server(app, settings(disconnect_grace=5)) as server:
        client = server.raw_client()
        await client.send(GET)
        await trio.testing.wait_all_tasks_blocked()
        await client.aclose()
        await trio.sleep(20)
        assert ended == [pytest.approx(5, abs=0.1)]


async def test_an_application_that_errs_for_ever_stops_nobody():
    async def app(scope, receive, send):
        if scope["path"] == "/rest":
            while True:
                with pytest.raises(ApplicationError):
                    await send({"type": "nonsense"})
        await respond(send)

    with trio.fail_after(10):
        async with (
            open_memory_server(app, settings(graceful=0.1, cleanup_grace=0)) as server,
            server.raw_client() as erring,
            server.raw_client() as other,
        ):
            await erring.send(REST)
            await other.send(GET)
            assert (await other.receive_response()).status == 200


@pytest.mark.parametrize("sent_before", [0, 1, 2], ids=["start", "piece", "last piece"])
async def test_every_send_is_a_cancellation_point(autojump_clock, sent_before):
    async def app(scope, receive, send):
        messages = [
            {"type": "http.response.start", "status": 200, "headers": []},
            {"type": "http.response.body", "body": b"one", "more_body": True},
            {"type": "http.response.body", "body": b"two"},
        ]
        for message in messages[:sent_before]:
            await send(message)
        with trio.CancelScope() as cancelled:
            cancelled.cancel()
            await send(messages[sent_before])
        caught.append(cancelled.cancelled_caught)
        for message in messages[sent_before:]:  # nothing of the cancelled message was taken
            await send(message)

    caught = []
    async with open_memory_server(app, settings()) as server, server.raw_client() as client:
        await client.send(GET)
        assert (await client.receive_response()).body == b"onetwo"
    assert caught == [True]
