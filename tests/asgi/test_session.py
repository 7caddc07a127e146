from __future__ import annotations

import logging

import pytest
import trio
import trio.testing

from tests.asgi.memory_session import HandshakeHead, MemorySessionChannel
from trioserve.asgi.channel import Peer
from trioserve.asgi.errors import ApplicationError, ClientDisconnected
from trioserve.asgi.session import LARGE_MESSAGE, WebSocketSession
from trioserve.asgi.session_phase import CLOSED, DENIED, HANDSHAKE, LEFT, OPEN

PEER = Peer(("192.0.2.1", 5000), ("192.0.2.2", 80), "http")
ACCEPT = {"type": "websocket.accept"}
CLOSE = {"type": "websocket.close"}
HELD = ("head", 500, [(b"content-type", b"text/plain; charset=utf-8")])
CRASHED = [HELD, ("body", b"Internal Server Error\n")]


def text(data):
    return {"type": "websocket.send", "text": data}


def binary(data):
    return {"type": "websocket.send", "bytes": data}


def deny(status=404, headers=()):
    return {"type": "websocket.http.response.start", "status": status, "headers": list(headers)}


def body(data=b"", more=False):
    return {"type": "websocket.http.response.body", "body": data, "more_body": more}


def disconnect(code, reason=""):
    return {"type": "websocket.disconnect", "code": code, "reason": reason}


def session_of(channel, **head):
    return WebSocketSession(HandshakeHead(**head), channel, PEER, 0.0)


async def run(app, channel=None, **head):
    """Run an application to its end; the session and its channel."""
    channel = channel or MemorySessionChannel()
    session = session_of(channel, **head)
    with trio.fail_after(10):
        await session.run(app, {"type": "websocket"})
    return session, channel


async def opened(room=1000):
    """A session that has been accepted, and its channel."""
    channel = MemorySessionChannel(room=room)
    session = session_of(channel)
    assert await session.receive() == {"type": "websocket.connect"}
    await session.send(ACCEPT)
    return session, channel


def sending(*messages):
    async def app(scope, receive, send):
        for message in messages:
            await send(message)

    return app


class TestConversation:
    async def test_an_echo(self):
        seen = []

        async def app(scope, receive, send):
            seen.append(await receive())
            await send(ACCEPT)
            while (message := await receive())["type"] == "websocket.receive":
                seen.append(message)
                await send({**message, "type": "websocket.send"})
            seen.append(message)

        channel = MemorySessionChannel()
        channel.say("hellö")
        channel.say(b"\x00\x01")
        channel.say("")
        channel.say(b"")
        channel.say_close(4001, "enough")
        session, _ = await run(app, channel)
        assert seen == [
            {"type": "websocket.connect"},
            {"type": "websocket.receive", "text": "hellö"},
            {"type": "websocket.receive", "bytes": b"\x00\x01"},
            {"type": "websocket.receive", "text": ""},
            {"type": "websocket.receive", "bytes": b""},
            disconnect(4001, "enough"),
        ]
        assert channel.answered == [("accept", None, []), "hellö", b"\x00\x01", "", b""]
        assert (session.body_bytes_sent, session.bytes_received) == (8, 8)
        assert (session.status, session.outcome, session.crashed) == (101, "complete", False)

    async def test_what_is_accepted(self):
        headers = [(b"x-a", b"1")]
        channel = MemorySessionChannel(offered=("chat",))
        session, _ = await run(
            sending({"type": "websocket.accept", "subprotocol": "chat", "headers": headers}), channel
        )
        assert channel.answered[0] == ("accept", "chat", headers)
        assert session.response_headers == headers
        assert session.first_byte > 0

    async def test_headers_may_be_none_or_an_iterator(self):
        _, channel = await run(sending({"type": "websocket.accept", "subprotocol": None, "headers": None}))
        assert channel.answered[0] == ("accept", None, [])
        _, channel = await run(sending({"type": "websocket.accept", "headers": iter([(b"a", b"b")])}))
        assert channel.answered[0] == ("accept", None, [(b"a", b"b")])

    async def test_the_status_of_http2(self):
        session, _ = await run(sending(ACCEPT), http_version="2", method="CONNECT")
        assert session.status == 200

    async def test_acceptance_before_anything_was_received(self):
        channel = MemorySessionChannel()
        channel.say("a")
        session = session_of(channel)
        await session.send(ACCEPT)
        assert await session.receive() == {"type": "websocket.connect"}
        assert await session.receive() == {"type": "websocket.receive", "text": "a"}

    @pytest.mark.parametrize(
        ("message", "sent"),
        [
            ({"type": "websocket.send", "text": "a", "bytes": None}, "a"),
            ({"type": "websocket.send", "text": None, "bytes": b"a"}, b"a"),
            (binary(bytearray(b"a")), b"a"),
            (binary(memoryview(b"a")), b"a"),
            (text(type("Markup", (str,), {"__str__": lambda self: "wrong"})("a")), "a"),
        ],
    )
    async def test_spellings_of_a_message(self, message, sent):
        _, channel = await run(sending(ACCEPT, message, CLOSE))
        assert channel.answered[1:] == [sent, ("close", 1000, "")]

    async def test_a_session_is_logged_as_an_exchange(self):
        session = WebSocketSession(HandshakeHead(), MemorySessionChannel(), PEER._replace(scheme="wss"), 3.0)
        assert (session.client, session.server, session.scheme) == (*PEER[:2], "wss")
        assert (session.started, session.first_byte, session.finished) == (3.0, 0.0, 0.0)
        assert (session.status, session.response_headers, session.outcome) == (0, (), "complete")
        assert session_of(MemorySessionChannel()).scheme == "ws"


class TestClosing:
    @pytest.mark.parametrize(
        ("message", "sent"),
        [
            ({}, (1000, "")),
            ({"code": None, "reason": None}, (1000, "")),
            ({"code": 1001, "reason": "away"}, (1001, "away")),
            ({"code": 1014}, (1014, "")),
            ({"code": 3000}, (3000, "")),
            ({"code": 4999}, (4999, "")),
            ({"code": 1000, "reason": "a" * 123}, (1000, "a" * 123)),
            ({"code": 1000, "reason": "a" * 124}, (1000, "a" * 123)),
            ({"code": 1000, "reason": "a" * 122 + "ö"}, (1000, "a" * 122)),
            ({"code": 1000, "reason": "\ud800"}, (1000, "?")),
        ],
    )
    async def test_code_and_reason(self, message, sent):
        session, channel = await run(sending(ACCEPT, {"type": "websocket.close", **message}))
        assert channel.answered[1:] == [("close", *sent)]
        assert session.phase is CLOSED
        assert session.outcome == "complete"

    @pytest.mark.parametrize(
        "code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, -1, "1000", 1000.0, True]
    )
    async def test_codes_that_cannot_be_sent(self, code):
        session, channel = await opened()
        with pytest.raises(ApplicationError, match="code"):
            await session.send({"type": "websocket.close", "code": code})
        await session.send(CLOSE)
        assert channel.answered[1:] == [("close", 1000, "")]

    async def test_after_our_close_only_the_end_is_told(self):
        session, channel = await opened()
        channel.say("a")
        await session.send({"type": "websocket.close", "code": 4000})
        channel.say("b")
        channel.say_close(4000)
        assert await session.receive() == disconnect(4000)
        assert session.phase is CLOSED
        with pytest.raises(ApplicationError, match=r"websocket.send was sent after websocket.close"):
            await session.send(text("c"))

    async def test_a_receive_that_waits_while_another_task_closes(self, nursery):
        session, channel = await opened()
        seen = []

        async def receive():
            seen.append(await session.receive())

        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        await session.send(CLOSE)
        channel.say("late")
        channel.say_close()
        await trio.testing.wait_all_tasks_blocked()
        assert seen == [disconnect(1000)]

    async def test_the_end_is_told_for_ever_and_lets_others_run(self, nursery):
        session, channel = await opened()
        channel.say_close(1001, "bye")
        turns = []

        async def loop():
            while True:
                assert await session.receive() == disconnect(1001, "bye")
                turns.append(1)

        nursery.start_soon(loop)
        for _ in range(10):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
        assert len(turns) >= 5

    async def test_return_without_close(self):
        session, channel = await run(sending(ACCEPT))
        assert channel.answered[1:] == [("close", 1000, "")]
        assert (session.phase, session.outcome) == (CLOSED, "complete")


class TestDenial:
    @pytest.mark.parametrize("more", [{}, {"code": 4003, "reason": "not you"}])
    async def test_close_before_accept(self, more):
        session, channel = await run(sending({"type": "websocket.close", **more}))
        assert channel.answered == [("head", 403, HELD[2]), ("body", b"Forbidden\n")]
        assert (session.status, session.body_bytes_sent, session.outcome) == (403, 10, "complete")
        assert session.phase is DENIED
        assert session.first_byte > 0

    async def test_a_response_of_the_application(self):
        fields = [(b"x-why", b"because")]
        session, channel = await run(
            sending(
                deny(404, fields),
                body(b"not "),
            )
        )
        assert channel.answered == [("head", 404, fields), ("body", b"not ")]
        assert (session.status, session.response_headers, session.body_bytes_sent) == (404, fields, 4)

    async def test_in_pieces(self):
        session, channel = await run(sending(deny(), body(b"a", True), body(bytearray(b"b"), True), body()))
        assert channel.answered == [("head", 404, []), ("body", b"a"), ("body", b"b"), ("body", b"")]
        assert (session.phase, session.body_bytes_sent) == (DENIED, 2)

    async def test_receive_after_a_denial(self):
        channel = MemorySessionChannel()
        session = session_of(channel)
        await session.receive()
        await session.send(CLOSE)
        assert await session.receive() == disconnect(1006)
        assert await session.receive() == disconnect(1006)

    async def test_a_client_that_ended_its_sending_side_gets_the_whole_denial(self):
        channel = MemorySessionChannel()
        session = session_of(channel)
        await session.receive()
        await session.send(deny())
        await session.send(body(b"a", True))
        channel.end_sending()
        assert await session.receive() == disconnect(1006)
        await session.send(body(b"b"))
        assert channel.answered[1:] == [("body", b"a"), ("body", b"b")]

    @pytest.mark.parametrize("status", [200, 204, 299])
    async def test_on_http2_no_status_that_accepts(self, status):
        session = session_of(MemorySessionChannel(), http_version="2")
        with pytest.raises(ApplicationError, match="on HTTP/2 it accepts"):
            await session.send(deny(status))
        await session.send(deny(302))

    @pytest.mark.parametrize(
        ("message", "match"),
        [
            (deny("404"), "has to be an int, not str"),
            (deny(True), "has to be an int, not bool"),
            (deny(101), "cannot begin a final response"),
            (deny(404, [(b"a b", b"")]), "illegal"),
            ({"type": "websocket.http.response.start"}, "has to be an int, not NoneType"),
        ],
    )
    async def test_a_malformed_start(self, message, match):
        channel = MemorySessionChannel()
        session = session_of(channel)
        with pytest.raises(ApplicationError, match=match):
            await session.send(message)
        await session.send(deny())
        with pytest.raises(ApplicationError, match="body has to be bytes, not str"):
            await session.send(body("a"))
        await session.send(body(b"a"))
        assert channel.answered == [("head", 404, []), ("body", b"a")]

    async def test_one_that_is_left_unfinished(self, error_log):
        session, channel = await run(sending(deny(), body(b"a", True)))
        assert channel.answered[-1] == "abort"
        assert (session.outcome, session.cut) == ("aborted", True)
        assert "end of its refusal" in error_log()[0]

    async def test_one_that_was_only_begun(self, error_log):
        session, channel = await run(sending(deny()))
        assert channel.answered == CRASHED
        assert session.status == 500
        assert len(error_log()) == 1


class TestOrder:
    @pytest.mark.parametrize(
        ("before", "wrong", "match"),
        [
            ([], text("a"), "before websocket.accept"),
            ([], body(), "before websocket.accept"),
            ([ACCEPT], ACCEPT, "after websocket.accept"),
            ([ACCEPT], deny(), "after websocket.accept"),
            ([ACCEPT], body(), "after websocket.accept"),
            ([deny()], ACCEPT, "after websocket.http.response.start"),
            ([deny()], CLOSE, "after websocket.http.response.start"),
            ([deny()], deny(), "after websocket.http.response.start"),
            ([deny(), body(b"a", True)], text("a"), "after websocket.http.response.start"),
            ([deny(), body(b"a")], body(b"a"), "after the session was refused"),
            ([CLOSE], CLOSE, "after the session was refused"),
            ([CLOSE], ACCEPT, "after the session was refused"),
            ([ACCEPT, CLOSE], CLOSE, "after websocket.close"),
            ([ACCEPT, CLOSE], text("a"), "after websocket.close"),
            ([], {"type": "nonsense"}, "unknown message type 'nonsense' for a websocket scope"),
            ([ACCEPT], {"type": "http.response.start"}, "unknown message type"),
            ([ACCEPT], {"text": "a"}, "unknown message type None"),
            ([ACCEPT], {"type": "websocket.send"}, "neither text nor bytes"),
            ([ACCEPT], {"type": "websocket.send", "text": None, "bytes": None}, "neither text nor bytes"),
            ([ACCEPT], {"type": "websocket.send", "text": "", "bytes": b""}, "both text and bytes"),
            ([ACCEPT], text(b"a"), "text has to be a str, not bytes"),
            ([ACCEPT], binary("a"), "bytes has to be bytes, not str"),
            ([ACCEPT], text("\ud800"), "lone surrogate"),
            ([ACCEPT], {"type": "websocket.close", "reason": b"a"}, "reason has to be a str, not bytes"),
            ([], {"type": "websocket.accept", "subprotocol": b"chat"}, "subprotocol has to be a str"),
            ([], {"type": "websocket.accept", "subprotocol": "chat"}, "does not offer"),
            ([], {"type": "websocket.accept", "headers": [(b"a b", b"c")]}, "illegal"),
        ],
    )
    async def test_a_mistake_is_raised_at_its_line_and_changes_nothing(self, before, wrong, match):
        channel = MemorySessionChannel()
        session = session_of(channel)
        for message in before:
            await session.send(message)
        phase, answered = session.phase, list(channel.answered)
        with pytest.raises(ApplicationError, match=match), trio.testing.assert_checkpoints():
            await session.send(wrong)
        assert (session.phase, channel.answered) == (phase, answered)

    async def test_two_tasks_in_receive(self, nursery):
        session, _ = await opened()
        nursery.start_soon(session.receive)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(ApplicationError, match="two tasks"), trio.testing.assert_checkpoints():
            await session.receive()
        nursery.cancel_scope.cancel()

    async def test_two_tasks_in_receive_before_accept(self, nursery):
        session = session_of(MemorySessionChannel())
        await session.receive()
        nursery.start_soon(session.receive)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(ApplicationError, match="two tasks"), trio.testing.assert_checkpoints():
            await session.receive()
        nursery.cancel_scope.cancel()


class TestReceiveBeforeTheDecision:
    """Quart waits for messages in one task while another decides."""

    @pytest.mark.parametrize(
        ("decision", "expected"),
        [
            ([ACCEPT], {"type": "websocket.receive", "text": "a"}),
            ([CLOSE], disconnect(1006)),
            ([deny(), body(b"x")], disconnect(1006)),
        ],
    )
    async def test_it_waits(self, decision, expected, nursery):
        channel = MemorySessionChannel()
        session = session_of(channel)
        await session.receive()
        seen = []

        async def receive():
            seen.append(await session.receive())

        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        assert seen == []
        for message in decision:
            await session.send(message)
        channel.say("a")
        await trio.testing.wait_all_tasks_blocked()
        assert seen == [expected]

    @pytest.mark.parametrize("leave", ["vanish", "end_sending"])
    async def test_a_client_that_leaves(self, leave):
        channel = MemorySessionChannel()
        session = session_of(channel)
        await session.receive()
        getattr(channel, leave)()
        assert await session.receive() == disconnect(1006)
        assert session.phase is LEFT
        with pytest.raises(ClientDisconnected):
            await session.send(ACCEPT)
        assert channel.answered == ["abort"]

    async def test_an_app_that_goes_when_its_client_went(self, error_log):
        async def app(scope, receive, send):
            await receive()
            channel.vanish()
            await receive()

        channel = MemorySessionChannel()
        session, _ = await run(app, channel)
        assert (session.outcome, error_log()) == ("disconnected", [])

    async def test_cancelling_it_loses_nothing(self):
        channel = MemorySessionChannel()
        session = session_of(channel)
        await session.receive()
        with trio.CancelScope() as scope:
            scope.cancel()
            await session.receive()
        assert scope.cancelled_caught
        assert session.phase is HANDSHAKE
        await session.send(ACCEPT)
        channel.say("a")
        assert (await session.receive())["text"] == "a"


class TestCheckpoints:
    async def test_what_is_queued_is_received_in_a_cancelled_scope(self):
        session, channel = await opened()
        for number in range(3):
            channel.say(str(number))
        channel.say_close()
        with trio.CancelScope() as scope:
            scope.cancel()
            assert [(await session.receive()).get("text") for _ in range(4)] == ["0", "1", "2", None]
        assert not scope.cancelled_caught

    async def test_a_flood_lets_others_run_and_a_cancellation_loses_no_message(self):
        session, channel = await opened()
        for number in range(100):
            channel.say(str(number))
        seen = []
        rounds = 0
        while len(seen) < 100:
            with trio.CancelScope() as scope:
                scope.cancel()
                while len(seen) < 100:
                    seen.append((await session.receive())["text"])
            rounds += 1
        assert rounds > 10
        assert seen == [str(number) for number in range(100)]

    async def test_a_flood_after_our_close_lets_others_run(self):
        session, channel = await opened()
        await session.send(CLOSE)
        for _ in range(100):
            channel.say("a")
        with trio.CancelScope() as scope:
            scope.cancel()
            await session.receive()
        assert session.bytes_received < 10

    async def test_large_messages_let_others_run_after_each(self):
        session, channel = await opened()
        for size in (LARGE_MESSAGE - 1, LARGE_MESSAGE, 1):
            channel.say(bytes(size))
        received = []
        with trio.CancelScope() as scope:
            scope.cancel()
            while True:
                received.append(len((await session.receive())["bytes"]))
        assert received == [LARGE_MESSAGE - 1, LARGE_MESSAGE]

    async def test_messages_that_go_out_at_once_let_others_run(self, nursery):
        session, channel = await opened()
        turns = []

        async def count():
            while True:
                turns.append(len(channel.answered))
                await trio.lowlevel.checkpoint()

        nursery.start_soon(count)
        for _ in range(100):
            await session.send(text("a"))
        nursery.cancel_scope.cancel()
        assert len(turns) >= 10

    @pytest.mark.parametrize("message", [text("a"), CLOSE, {"type": "nonsense"}])
    async def test_send_is_a_cancellation_point_before_anything_is_taken(self, message):
        session, channel = await opened()
        with trio.CancelScope() as scope:
            scope.cancel()
            await session.send(message)
        assert scope.cancelled_caught
        assert session.phase is OPEN
        assert channel.answered == [("accept", None, [])]

    async def test_a_loop_on_send_after_the_client_left_lets_others_run(self):
        session, channel = await opened()
        channel.vanish()
        for _ in range(3):
            with pytest.raises(ClientDisconnected), trio.testing.assert_checkpoints():
                await session.send(text("a"))


class TestBackpressure:
    async def test_send_waits_and_others_wait_their_turn(self, nursery):
        session, channel = await opened(room=1)
        sent = []

        async def send(message):
            await session.send(message)
            sent.append(message)

        await session.send(text("0"))
        messages = [text("1"), binary(b"2"), {"type": "websocket.close"}]
        for message in messages:
            nursery.start_soon(send, message)
            await trio.testing.wait_all_tasks_blocked()
        assert channel.answered[1:] == ["0", "1"]
        assert sent == []
        channel.take()
        await trio.testing.wait_all_tasks_blocked()
        assert channel.answered[1:] == ["0", "1", b"2", ("close", 1000, "")]
        assert sent == messages

    async def test_a_message_behind_a_close_is_refused(self, nursery):
        session, channel = await opened(room=0)
        nursery.start_soon(session.send, text("0"))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(session.send, CLOSE)
        await trio.testing.wait_all_tasks_blocked()
        refused = []

        async def send_late():
            with pytest.raises(ApplicationError, match=r"after websocket.close") as error:
                await session.send(text("late"))
            refused.append(error)

        nursery.start_soon(send_late)
        await trio.testing.wait_all_tasks_blocked()
        channel.take()
        await trio.testing.wait_all_tasks_blocked()
        assert channel.answered[1:] == ["0", ("close", 1000, "")]
        assert len(refused) == 1

    async def test_cancelling_one_that_waits_cuts_the_session(self, autojump_clock):
        session, channel = await opened(room=0)
        with trio.move_on_after(1) as scope:
            await session.send(text("0"))
        assert scope.cancelled_caught
        assert channel.answered[1:] == ["0", "abort"]
        assert (session.outcome, session.cut) == ("aborted", True)
        with pytest.raises(ClientDisconnected):
            await session.send(text("1"))
        assert await session.receive() == disconnect(1006)

    async def test_cancelling_one_that_waits_for_its_turn_takes_nothing(self, nursery, autojump_clock):
        session, channel = await opened(room=0)
        nursery.start_soon(session.send, text("0"))
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(1) as scope:
            await session.send(text("1"))
        assert scope.cancelled_caught
        channel.take()
        await trio.testing.wait_all_tasks_blocked()
        await session.send(text("2"))
        assert channel.answered[1:] == ["0", "2"]

    async def test_a_client_that_vanishes_meanwhile(self, nursery):
        session, channel = await opened(room=0)
        failed = []

        async def send(data):
            with pytest.raises(ClientDisconnected) as error:
                await session.send(text(data))
            failed.append(error)

        nursery.start_soon(send, "0")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(send, "1")
        await trio.testing.wait_all_tasks_blocked()
        channel.vanish()
        await trio.testing.wait_all_tasks_blocked()
        assert len(failed) == 2
        assert await session.receive() == disconnect(1006)


class TestErrors:
    """What the client gets when the application errs, and what the log says."""

    async def test_an_error_before_the_decision(self, error_log):
        session, channel = await run(raising())
        assert channel.answered == CRASHED
        assert (session.status, session.crashed, session.outcome) == (500, True, "complete")
        assert error_log() == ["error in the application: GET /chat?room=1 HTTP/1.1"]

    async def test_an_error_in_an_open_session(self, error_log, caplog):
        session, channel = await run(raising(ACCEPT))
        assert channel.answered[1:] == [("close", 1011, "")]
        assert (session.status, session.crashed, session.outcome) == (101, True, "aborted")
        assert len(error_log()) == 1
        traceback = caplog.records[0].exc_info[2]
        assert traceback.tb_frame.f_code.co_name == "app"

    async def test_an_error_behind_a_held_denial(self, error_log):
        _, channel = await run(raising(deny()))
        assert channel.answered == CRASHED

    async def test_an_error_within_a_denial(self, error_log):
        session, channel = await run(raising(deny(), body(b"a", True)))
        assert channel.answered[1:] == [("body", b"a"), "abort"]
        assert session.outcome == "aborted"

    @pytest.mark.parametrize("before", [[ACCEPT, CLOSE], [CLOSE], [deny(), body(b"a")]])
    async def test_an_error_after_the_end(self, before, error_log):
        session, channel = await run(raising(*before))
        assert session.crashed
        assert len(error_log()) == 1
        assert ("close", 1011, "") not in channel.answered
        assert "abort" not in channel.answered

    async def test_a_return_before_the_decision(self, error_log):
        _, channel = await run(sending())
        assert channel.answered == CRASHED
        assert error_log() == [
            "the application returned without accepting or refusing a session: GET /chat?room=1 HTTP/1.1"
        ]

    async def test_an_error_after_the_client_closed_is_a_bug_like_any_other(self, error_log):
        async def app(scope, receive, send):
            await send(ACCEPT)
            while (await receive())["type"] != "websocket.disconnect":
                pass
            raise KeyError

        channel = MemorySessionChannel()
        channel.say_close()
        session, _ = await run(app, channel)
        assert (len(error_log()), session.crashed, session.outcome) == (1, True, "complete")

    @pytest.mark.parametrize("leave", ["vanish", "say_close"])
    async def test_sends_to_a_client_that_left_end_quietly(self, leave, error_log):
        async def app(scope, receive, send):
            await receive()
            await send(ACCEPT)
            getattr(channel, leave)()
            if leave == "say_close":
                await receive()
            while True:
                await send(text("a"))

        channel = MemorySessionChannel()
        session, _ = await run(app, channel)
        assert error_log() == []
        assert not session.crashed
        assert session.outcome == ("complete" if leave == "say_close" else "disconnected")

    @pytest.mark.parametrize("told", [True, False])
    async def test_words_of_a_framework_for_a_client_that_left(self, told, error_log, caplog):
        class Left(Exception):
            def __init__(self, code):
                self.code = code

        async def app(scope, receive, send):
            await send(ACCEPT)
            await receive()
            channel.vanish()
            if told:
                raise Left((await receive())["code"])
            try:
                await send(text("a"))
            except OSError:
                raise Left(1006)  # noqa: B904

        caplog.set_level(logging.INFO, "trioserve.error")
        channel = MemorySessionChannel()
        session, _ = await run(app, channel)
        assert not session.crashed
        assert [record.levelname for record in caplog.records] == ["INFO"]

    async def test_errors_in_a_circle(self, error_log):
        async def app(scope, receive, send):
            await send(ACCEPT)
            channel.vanish()
            await receive()
            await receive()
            first, second = ValueError(), ValueError()
            first.__cause__, second.__cause__ = second, first
            raise first

        channel = MemorySessionChannel()
        session, _ = await run(app, channel)
        assert session.crashed
        assert len(error_log()) == 1

    async def test_a_group_of_such_errors(self, error_log):
        async def app(scope, receive, send):
            await send(ACCEPT)
            channel.vanish()
            async with trio.open_nursery() as nursery:
                for _ in range(2):
                    nursery.start_soon(send, text("a"))

        channel = MemorySessionChannel()
        session, _ = await run(app, channel)
        assert (error_log(), session.outcome) == ([], "disconnected")

    async def test_the_disconnect_of_another_session_is_an_error(self, error_log):
        async def app(scope, receive, send):
            await send(ACCEPT)
            raise ClientDisconnected

        _, channel = await run(app)
        assert channel.answered[1:] == [("close", 1011, "")]
        assert len(error_log()) == 1

    async def test_no_answer_reaches_a_client_that_left_before_the_decision(self, error_log):
        channel = MemorySessionChannel()
        channel.vanish()
        session, _ = await run(raising(), channel)
        assert channel.answered == ["abort"]
        assert session.outcome == "disconnected"

    @pytest.mark.parametrize("before", [[], [ACCEPT], [deny(), body(b"a", True)]])
    async def test_a_cancellation_passes_and_nothing_is_sent(self, before):
        async def app(scope, receive, send):
            for message in before:
                await send(message)
            cancel_scope.cancel()
            await trio.sleep_forever()

        channel = MemorySessionChannel()
        with trio.CancelScope() as cancel_scope:
            await run(app, channel)
        assert cancel_scope.cancelled_caught
        assert len(channel.answered) == len(before)

    async def test_errors_beside_a_cancellation_are_logged(self, error_log):
        async def fail():
            try:
                await trio.sleep_forever()
            finally:
                raise KeyError

        async def app(scope, receive, send):
            await send(ACCEPT)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail)
                nursery.start_soon(trio.sleep_forever)
                await trio.testing.wait_all_tasks_blocked()
                cancel_scope.cancel()
                await trio.sleep_forever()

        channel = MemorySessionChannel()
        with trio.CancelScope() as cancel_scope:
            await run(app, channel)
        assert cancel_scope.cancelled_caught
        assert len(error_log()) == 1
        assert channel.answered == [("accept", None, [])]


def raising(*messages):
    """An application that sends these messages and then fails."""

    async def app(scope, receive, send):
        for message in messages:
            await send(message)
        raise ValueError("a mistake")

    return app
