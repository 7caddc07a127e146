"""What an application may send and receive, and what the client gets when it errs."""

from __future__ import annotations

import http
import logging

import pytest
import trio
import trio.testing

from trioserve.asgi.errors import ApplicationError, ClientDisconnected
from trioserve.config import Config, LifecycleSettings, LoggingSettings
from trioserve.testing.memory import open_memory_server

QUIET = Config(logging=LoggingSettings(access="off"), lifecycle=LifecycleSettings(lifespan="off"))
GET = b"GET /page HTTP/1.1\r\nhost: a\r\n\r\n"
GET_1_0 = b"GET /page HTTP/1.0\r\nhost: a\r\n\r\n"
CLOSE = b"GET /page HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
HEAD = b"HEAD /page HTTP/1.1\r\nhost: a\r\n\r\n"


def start(status=200, headers=(), **more):
    return {"type": "http.response.start", "status": status, "headers": list(headers), **more}


def body(data=b"", more=False):
    return {"type": "http.response.body", "body": data, "more_body": more}


def length(size):
    return [(b"content-length", b"%d" % size)]


def sending(*messages):
    """An application that sends these messages."""

    async def app(scope, receive, send):
        for message in messages:
            await send(message)

    return app


async def ask(app, request=GET, method="GET"):
    with trio.fail_after(10):
        return await _ask(app, request, method)


async def _ask(app, request, method):
    async with open_memory_server(app, QUIET) as server, server.raw_client() as client:
        await client.send(request)
        return await client.receive_response(method)


async def ask_for_bytes(app, request=CLOSE):
    """What comes until the server closes; the client closes only after it."""
    with trio.fail_after(10):
        return await _ask_for_bytes(app, request)


async def _ask_for_bytes(app, request):
    async with open_memory_server(app, QUIET) as server, server.raw_client() as client:
        await client.send(request)
        return await client.receive_all()


class TestOrder:
    """A mistake is raised at the line of the application that makes it."""

    @pytest.mark.parametrize(
        ("before", "wrong", "text"),
        [
            ([start()], start(), "http.response.start was sent twice"),
            ([start(), body(b"x", True)], start(), "http.response.start was sent twice"),
            ([], body(b"x"), "before http.response.start"),
            ([start(), body(b"x")], body(b"y"), "after the response was complete"),
            ([start(), body(b"x")], start(), "after the response was complete"),
            ([start(), body(b"x")], {"type": "nonsense"}, "after the response was complete"),
            ([], {"type": "nonsense"}, "unknown message type 'nonsense'"),
            ([], {"type": "websocket.accept"}, "unknown message type 'websocket.accept'"),
            (
                [start(), body(b"x", True)],
                {"type": "http.response.trailers", "headers": []},
                "needs `trailers",
            ),
            (
                [start(trailers=True)],
                {"type": "http.response.trailers", "headers": []},
                "whole body before it",
            ),
            ([start(trailers=True), body(b"x")], body(b"y"), "after the end of the body"),
            ([start()], {"type": "http.response.early_hint", "links": []}, "early_hint after"),
            ([], {"type": "http.response.pathsend", "path": "/dev/null"}, "before http.response.start"),
            (
                [start(), body(b"x", True)],
                {"type": "http.response.pathsend", "path": "/dev/null"},
                "after the body was begun",
            ),
        ],
    )
    async def test_order(self, before, wrong, text):
        caught = []

        async def app(scope, receive, send):
            for message in before:
                await send(message)
            with pytest.raises(ApplicationError, match=text) as error:
                await send(wrong)
            caught.append(error)
            raise ClientDisconnected  # ends quietly

        await ask_for_bytes(app)
        assert len(caught) == 1

    @pytest.mark.parametrize("status", [True, "200", 200.0, None])
    async def test_a_status_that_is_no_number(self, status):
        await self.check_refused(start(status), "status has to be an int")

    @pytest.mark.parametrize("status", [99, 101, 600, 0, -1])
    async def test_a_status_that_no_response_may_have(self, status):
        await self.check_refused(start(status), "cannot begin a final response")

    @pytest.mark.parametrize(
        "field",
        [
            (b"a b", b"x"),
            (b"", b"x"),
            (b"a", b"x\r\nb: y"),
            (b"a", b"x\ny"),
            (b"a", b"x\x00y"),
            (b"content-length", b"-1"),
            (b"content-length", b"1, 1"),
            ("a", "b"),
            (b"a", 1),
            (b"a",),
        ],
    )
    async def test_an_illegal_header(self, field):
        await self.check_refused(start(headers=[field]), "field|content-length")

    async def test_two_lengths(self):
        await self.check_refused(start(headers=length(1) + length(1)), "content-length")

    async def check_refused(self, message, text):
        """It is refused, and the application may still answer."""

        async def app(scope, receive, send):
            with pytest.raises(ApplicationError, match=text):
                await send(message)
            await send(start(404))
            await send(body(b"still alive"))

        response = await ask(app)
        assert (response.status, response.body) == (404, b"still alive")

    async def test_a_body_that_is_text(self):
        async def app(scope, receive, send):
            await send(start())
            with pytest.raises(ApplicationError, match="body has to be bytes, not str"):
                await send(body("text"))
            await send(body(b"bytes"))

        assert (await ask(app)).body == b"bytes"

    @pytest.mark.parametrize("kind", [bytearray, memoryview])
    async def test_a_body_of_other_bytes(self, kind):
        assert (await ask(sending(start(), body(kind(b"bytes"))))).body == b"bytes"

    async def test_a_status_of_the_standard_library(self):
        assert (await ask(sending(start(http.HTTPStatus.NOT_FOUND), body()))).status == 404

    async def test_the_keys_that_may_be_left_out(self):
        response = await ask(
            sending({"type": "http.response.start", "status": 200}, {"type": "http.response.body"})
        )
        assert (response.status, response.body) == (200, b"")


class TestOwnLength:
    """An application is held to its own Content-Length."""

    @pytest.mark.parametrize(
        ("announced", "pieces", "sent_before"),
        [
            (5, [body(b"123456")], False),
            (5, [body(b"1234")], False),
            (5, [body()], False),
            (5, [body(b"123456", True)], None),
            (5, [body(b"123", True), body(b"456", True)], True),
            (5, [body(b"123", True), body(b"456")], True),
            (5, [body(b"123", True), body(b"4")], True),
            (5, [body(b"123", True), body()], True),
            (100_000, [body(b"x" * 99_999)], False),
            (100_000, [body(b"x" * 100_001)], False),
            (100_000, [body(b"x" * 100_001, True)], None),
        ],
    )
    async def test_too_many_or_too_few(self, announced, pieces, sent_before, error_log):
        failed_at = []

        async def app(scope, receive, send):
            await send(start(headers=length(announced)))
            for piece in pieces:
                failed_at.append(piece)
                await send(piece)
            failed_at.clear()

        answer = await ask_for_bytes(app)
        assert failed_at == pieces, "the last piece was not refused"
        if sent_before is None:
            assert answer == b""  # the head was rendered already
        elif sent_before:
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert answer.endswith(b"\r\n\r\n123")
        else:
            assert answer.startswith(b"HTTP/1.1 500 ")
        assert error_log() == ["error in the application: GET /page HTTP/1.1"]

    async def test_a_head_request_has_a_length_and_no_body(self):
        response = await ask(sending(start(headers=length(5)), body(b"12345")), HEAD, "HEAD")
        assert response.header("content-length") == b"5"

    @pytest.mark.parametrize("status", [204, 304])
    async def test_a_status_without_body(self, status):
        app = sending(start(status), body(b"12345"))
        async with open_memory_server(app, QUIET) as server, server.raw_client() as client:
            for _ in range(2):  # the connection is still in order
                await client.send(GET)
                response = await client.receive_response()
                assert (response.status, response.body) == (status, b"")

    async def test_head_streams_nothing(self):
        app = sending(start(), body(b"123", True), body(b"x" * 100_000, True), body(b"45"))
        async with open_memory_server(app, QUIET) as server, server.raw_client() as client:
            for _ in range(2):
                await client.send(HEAD)
                assert (await client.receive_response("HEAD")).status == 200


class TestErrors:
    """What an application that raises leaves to the client and to the log."""

    async def test_500_when_nothing_was_sent(self, error_log):
        async def app(scope, receive, send):
            raise RuntimeError("oops")

        response = await ask(app)
        assert response.status == 500
        assert response.body == b"Internal Server Error\n"
        assert error_log() == ["error in the application: GET /page HTTP/1.1"]

    async def test_500_when_the_head_was_accepted_only(self, error_log):
        async def app(scope, receive, send):
            await send(start(headers=[(b"x-app", b"1"), *length(7)]))
            raise RuntimeError("oops")

        response = await ask(app)
        assert response.status == 500
        assert response.header("x-app") is None
        assert len(error_log()) == 1

    async def test_the_connection_goes_on_after_a_500(self, error_log):
        async def app(scope, receive, send):
            if scope["path"] == "/bad":
                raise RuntimeError
            await send(start())
            await send(body(b"fine"))

        async with open_memory_server(app, QUIET) as server, server.raw_client() as client:
            await client.send(b"GET /bad HTTP/1.1\r\nhost: a\r\n\r\n" + GET)
            assert (await client.receive_response()).status == 500
            assert (await client.receive_response()).body == b"fine"
            assert server.stats().errors == 1

    async def test_the_log_has_the_traceback_from_the_application_on(self, caplog):
        async def failing_application(scope, receive, send):
            raise RuntimeError("oops")

        await ask(failing_application)
        (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
        _, error, traceback = record.exc_info
        assert isinstance(error, RuntimeError)
        assert traceback.tb_frame.f_code.co_name == "failing_application"

    async def test_the_request_line_is_escaped_in_the_log(self, error_log):
        async def app(scope, receive, send):
            raise RuntimeError

        await ask(app, b"GET /caf\xc3\xa9 HTTP/1.1\r\nhost: a\r\n\r\n")
        for line in error_log():
            assert line.isascii()

    async def test_chunked_is_cut(self, error_log):
        answer = await ask_for_bytes(self.cut_after(start(), body(b"123", True)))
        assert answer.endswith(b"\r\n3\r\n123\r\n")  # and no last chunk
        assert len(error_log()) == 1

    async def test_content_length_is_cut(self, error_log):
        answer = await ask_for_bytes(self.cut_after(start(headers=length(5)), body(b"123", True)))
        assert answer.endswith(b"\r\n\r\n123")
        assert len(error_log()) == 1

    async def test_a_crash_after_the_response_leaves_it_whole(self, error_log):
        async with open_memory_server(self.cut_after(start(), body(b"123")), QUIET) as server:
            async with server.raw_client() as client:
                for _ in range(2):
                    await client.send(GET)
                    assert (await client.receive_response()).body == b"123"
            assert server.stats().errors == 2
        assert error_log() == ["error in the application: GET /page HTTP/1.1"] * 2

    @staticmethod
    def cut_after(*messages):
        async def app(scope, receive, send):
            for message in messages:
                await send(message)
            raise RuntimeError

        return app

    async def test_nothing_was_sent(self, error_log):
        assert (await ask(sending())).status == 500
        assert error_log() == ["the application returned without sending a response: GET /page HTTP/1.1"]

    async def test_a_head_was_sent_only(self, error_log):
        assert (await ask(sending(start()))).status == 500
        assert error_log() == [
            "the application returned without sending the end of its response: GET /page HTTP/1.1"
        ]

    async def test_the_end_was_not_sent(self, error_log):
        answer = await ask_for_bytes(sending(start(), body(b"123", True)))
        assert answer.endswith(b"\r\n3\r\n123\r\n")
        assert len(error_log()) == 1

    async def test_the_trailers_were_not_sent(self, error_log):
        answer = await ask_for_bytes(sending(start(trailers=True), body(b"123")))
        assert answer.endswith(b"\r\n3\r\n123\r\n")
        assert len(error_log()) == 1

    @pytest.mark.parametrize(
        "error",
        [
            ClientDisconnected("gone"),
            ExceptionGroup("", [ClientDisconnected()]),
            ExceptionGroup("", [ExceptionGroup("", [ClientDisconnected()]), ClientDisconnected()]),
        ],
    )
    async def test_the_clients_leaving_is_no_error(self, error, error_log):
        async def app(scope, receive, send):
            raise error

        async with open_memory_server(app, QUIET) as server, server.raw_client() as client:
            await client.send(GET)
            await client.wait_closed()
            assert server.stats().errors == 0
        assert error_log() == []

    async def test_another_error_beside_it_is_one(self, error_log):
        async def app(scope, receive, send):
            raise ExceptionGroup("", [ClientDisconnected(), RuntimeError()])

        assert (await ask(app)).status == 500
        assert len(error_log()) == 1

    @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
    async def test_what_ends_the_process_is_not_caught(self, error):
        async def app(scope, receive, send):
            raise error

        with pytest.raises((error, BaseExceptionGroup)) as caught:
            async with open_memory_server(app, QUIET) as server:
                await server.raw_client().send(GET)
                await trio.sleep_forever()
        assert caught.group_contains(error) if caught.errisinstance(BaseExceptionGroup) else True

    async def test_an_error_beside_a_cancellation_is_the_applications(self, error_log, autojump_clock):
        """Not ours: a task group may end with both."""

        async def fail_when_cancelled():
            try:
                await trio.sleep_forever()
            finally:
                raise RuntimeError("in the cleanup")

        async def app(scope, receive, send):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail_when_cancelled)
                nursery.start_soon(trio.sleep_forever)

        async with open_memory_server(app, QUIET) as server:
            client = server.raw_client()
            await client.send(GET)
            await trio.testing.wait_all_tasks_blocked()
            server.server.stop_now()
            assert (await client.receive_response()).status == 503
        assert error_log() == ["error in the application: GET /page HTTP/1.1"]


class TestReceive:
    async def test_a_request_without_body(self):
        async def app(scope, receive, send):
            with trio.testing.assert_no_checkpoints():
                assert await receive() == {"type": "http.request", "body": b"", "more_body": False}
            await send(start())
            await send(body(b"ok"))

        assert (await ask(app)).body == b"ok"

    async def test_what_is_here_needs_no_checkpoint_even_when_cancelled(self):
        received = []

        async def app(scope, receive, send):
            with trio.CancelScope() as scope_of_ours:
                scope_of_ours.cancel()
                with trio.testing.assert_no_checkpoints():
                    received.append(await receive())
            assert not scope_of_ours.cancelled_caught
            await send(start())
            await send(body())

        await ask(app, b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc")
        assert received == [{"type": "http.request", "body": b"abc", "more_body": False}]

    async def test_the_clients_leaving_is_told_inside_a_cancelled_scope(self, error_log):
        told = []

        async def app(scope, receive, send):
            await receive()
            with trio.CancelScope() as poll:
                poll.cancel()
                told.append(await receive())
            assert poll.cancelled_caught, "nothing was known yet"
            await left.wait()
            with trio.CancelScope() as poll:
                poll.cancel()
                told.append(await receive())
            raise ClientDisconnected

        left = trio.Event()
        async with open_memory_server(app, QUIET) as server:
            client = server.raw_client()
            await client.send(GET)
            await trio.testing.wait_all_tasks_blocked()
            await client.aclose()
            await trio.testing.wait_all_tasks_blocked()
            left.set()
        assert told == [{"type": "http.disconnect"}]
        assert error_log() == []

    async def test_cancelling_a_wait_loses_nothing(self):
        received = []

        async def app(scope, receive, send):
            with trio.CancelScope() as impatient:
                impatient.cancel()
                received.append(await receive())
            assert impatient.cancelled_caught
            waiting.set()
            received.append(await receive())
            await send(start())
            await send(body())

        waiting = trio.Event()
        async with open_memory_server(app, QUIET) as server, server.raw_client() as client:
            await client.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\n")
            await waiting.wait()
            await client.send(b"abc")
            await client.receive_response()
        assert received == [{"type": "http.request", "body": b"abc", "more_body": False}]

    async def test_the_body_comes_in_pieces(self):
        received = []

        async def app(scope, receive, send):
            while True:
                message = await receive()
                received.append((message["body"], message["more_body"]))
                heard.set()
                if not message["more_body"]:
                    break
            await send(start())
            await send(body())

        heard = trio.Event()
        async with open_memory_server(app, QUIET) as server, server.raw_client() as client:
            await client.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 6\r\n\r\nabc")
            await heard.wait()
            await client.send(b"def")
            await client.receive_response()
        assert received == [(b"abc", True), (b"def", False)]

    async def test_trailers_of_the_request(self):
        received = []

        async def app(scope, receive, send):
            received.append(await receive())
            received.append(await receive())
            await send(start())
            await send(body())

        await ask(
            app,
            b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
            b"3\r\nabc\r\n0\r\nx-sum: 6\r\ncontent-length: 9\r\n\r\n",
        )
        assert received[-1]["trailers"] == [(b"x-sum", b"6")]
        assert not received[-1]["more_body"]
        assert "trailers" not in received[0]

    async def test_disconnect_once_the_response_is_complete(self):
        received = []

        async def app(scope, receive, send):
            await receive()
            await send(start())
            await send(body())
            with trio.testing.assert_no_checkpoints():
                received.append(await receive())
            with trio.testing.assert_checkpoints():
                received.append(await receive())
            done.set()

        done = trio.Event()
        async with open_memory_server(app, QUIET) as server, server.raw_client() as client:
            await client.send(GET)
            await client.receive_response()
            await done.wait()
        assert received == [{"type": "http.disconnect"}] * 2

    async def test_the_body_is_not_given_after_the_response(self):
        received = []

        async def app(scope, receive, send):
            await send(start())
            await send(body())
            received.append(await receive())

        await ask(app, b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc")
        assert received == [{"type": "http.disconnect"}]

    async def test_two_tasks_waiting_for_the_end(self):
        received = []

        async def app(scope, receive, send):
            async def listen():
                received.append(await receive())

            await receive()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(listen)
                nursery.start_soon(listen)
                await trio.testing.wait_all_tasks_blocked()
                await send(start())
                await send(body(b"done"))

        assert (await ask(app)).body == b"done"
        assert received == [{"type": "http.disconnect"}] * 2

    async def test_a_body_cut_short_is_not_complete(self, error_log):
        received = []

        async def app(scope, receive, send):
            while (message := await receive())["type"] == "http.request":
                received.append(message)
            received.append(message)
            ended.set()

        ended = trio.Event()
        async with open_memory_server(app, QUIET) as server, server.raw_client() as client:
            await client.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 6\r\n\r\nabc")
            await trio.testing.wait_all_tasks_blocked()
            await client.aclose()
            await ended.wait()
        assert received == [
            {"type": "http.request", "body": b"abc", "more_body": True},
            {"type": "http.disconnect"},
        ]
        assert error_log() == []

    async def test_a_malformed_body_gets_400_and_ends_the_applications_reading(self, error_log):
        received = []

        async def app(scope, receive, send):
            received.append(await receive())
            with pytest.raises(ClientDisconnected):
                await send(start())
            raise ClientDisconnected

        response = await ask(
            app, b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nnonsense\r\n"
        )
        assert response.status == 400
        assert response.header("connection") == b"close"
        assert received == [{"type": "http.disconnect"}]
        assert error_log() == []

    async def test_continue_goes_out_when_the_body_is_asked_for(self):
        async def app(scope, receive, send):
            await asked.wait()
            message = await receive()
            await send(start())
            await send(body(message["body"]))

        asked = trio.Event()
        head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\nexpect: 100-continue\r\n\r\n"
        async with open_memory_server(app, QUIET) as server, server.raw_client() as client:
            await client.send(head)
            with trio.CancelScope() as nothing_yet:
                async with trio.open_nursery() as nursery:

                    @nursery.start_soon
                    async def stop_listening():
                        await trio.testing.wait_all_tasks_blocked()
                        nothing_yet.cancel()

                    assert await client.receive_some() == b"", "it came unasked"
            asked.set()
            assert await client.receive_some() == b"HTTP/1.1 100 Continue\r\n\r\n"
            await client.send(b"abc")
            assert (await client.receive_response()).body == b"abc"

    async def test_no_continue_for_a_body_that_nobody_wants(self):
        head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\nexpect: 100-continue\r\n\r\n"
        response = await ask(sending(start(403), body()), head)
        assert response.status == 403
        assert response.informational == []
        assert response.header("connection") == b"close"


class TestSend:
    async def test_head_and_body_leave_in_one_piece(self):
        app = sending(start(), body(b"hello"))
        async with open_memory_server(app, QUIET) as server, server.raw_client() as client:
            await client.send(GET)
            assert (await client.receive_some()).endswith(b"\r\n\r\nhello")

    async def test_the_head_waits_for_the_body(self):
        async def app(scope, receive, send):
            await send(start())
            await trio.testing.wait_all_tasks_blocked()
            assert not heard
            await send(body(b"x"))

        heard = []
        async with open_memory_server(app, QUIET) as server, server.raw_client() as client:
            await client.send(GET)
            heard.append(await client.receive_some())

    async def test_a_stream_is_chunked_and_an_empty_piece_does_not_end_it(self):
        app = sending(start(), body(b"a", True), body(b"", True), body(b"bc", True), body())
        answer = await ask_for_bytes(app)
        assert answer.endswith(b"\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n")

    async def test_a_stream_on_1_0_ends_with_the_connection(self):
        answer = await ask_for_bytes(sending(start(), body(b"a", True), body(b"bc")), GET_1_0)
        assert answer.endswith(b"\r\n\r\nabc")
        assert b"chunked" not in answer

    @pytest.mark.parametrize("size", [65_536, 65_537, 1_000_000])
    @pytest.mark.parametrize("more", [True, False])
    async def test_large_bodies(self, size, more):
        data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        app = sending(start(), *([body(data, True), body(b"end")] if more else [body(data)]))
        async with open_memory_server(app, QUIET) as server, server.raw_client() as client:
            for _ in range(2):
                await client.send(GET)
                assert (await client.receive_response()).body == data + (b"end" if more else b"")
            expected = 2 * (size + (3 if more else 0))
            assert server.stats().bytes_sent == expected

    @pytest.mark.parametrize("state", ["streaming", "complete", "gone", "trailers"])
    async def test_an_application_that_loops_on_send_lets_others_run(self, state):
        async def app(scope, receive, send):
            if scope["path"] == "/other":
                await send(start())
                await send(body(b"served"))
                return
            await send(start(trailers=state == "trailers"))
            await send(body(b"x", state in {"streaming", "gone"}))
            while state == "trailers":
                await send({"type": "http.response.trailers", "headers": [], "more_trailers": True})
            if state == "gone":
                await left.wait()
            while True:
                try:
                    await send(body(b"x", True))
                except (ApplicationError, ClientDisconnected):
                    pass

        left = trio.Event()
        async with open_memory_server(app, QUIET) as server:
            first = server.raw_client()
            await first.send(GET)
            await first.receive_some()
            if state == "gone":
                await first.aclose()
                left.set()
            second = server.raw_client()
            await second.send(b"GET /other HTTP/1.1\r\nhost: a\r\n\r\n")
            assert (await second.receive_response()).body == b"served"
            server.server.stop_now()

    async def test_a_piece_of_a_stream_is_a_cancellation_point(self):
        async def app(scope, receive, send):
            await send(start())
            with trio.CancelScope() as own:
                own.cancel()
                await send(body(b"x", True))
            assert own.cancelled_caught
            seen.append("cancelled")
            await send(body(b"y"))

        seen = []
        async with open_memory_server(app, QUIET) as server, server.raw_client() as client:
            await client.send(GET)
            await client.receive_some()
        assert seen == ["cancelled"]

    async def test_after_the_client_is_gone_send_raises(self, error_log):
        async def app(scope, receive, send):
            await receive()
            await receive()
            for message in (start(), body(b"x", True), body(b"y"), {"type": "http.response.trailers"}):
                try:
                    await send(message)
                except OSError as error:
                    raised.append(error)
            ended.set()

        raised = []
        ended = trio.Event()
        async with open_memory_server(app, QUIET) as server:
            client = server.raw_client()
            await client.send(GET)
            await client.aclose()
            await ended.wait()
        assert len(raised) >= 3
        assert all(type(error) is ClientDisconnected for error in raised)
        assert error_log() == []
        assert server.stats().disconnects == 1


class TestTrailers:
    async def test_behind_a_chunked_body(self):
        app = sending(
            start(trailers=True),
            body(b"a", True),
            body(b"b"),
            {"type": "http.response.trailers", "headers": [(b"x-sum", b"2")], "more_trailers": True},
            {"type": "http.response.trailers", "headers": [(b"x-more", b"3"), (b"content-length", b"9")]},
        )
        async with open_memory_server(app, QUIET) as server, server.raw_client() as client:
            for _ in range(2):
                await client.send(GET)
                response = await client.receive_response()
                assert response.body == b"ab"
                assert response.trailers == [(b"x-sum", b"2"), (b"x-more", b"3")]

    async def test_behind_a_body_in_one_piece(self):
        app = sending(
            start(trailers=True), body(b"ab"), {"type": "http.response.trailers", "headers": [(b"x", b"y")]}
        )
        response = await ask(app)
        assert (response.body, response.trailers) == (b"ab", [(b"x", b"y")])

    @pytest.mark.parametrize("request_", [GET_1_0, GET])
    async def test_dropped_where_the_framing_has_no_place(self, request_):
        headers = length(2) if request_ is GET else []
        app = sending(
            start(headers=headers, trailers=True),
            body(b"ab"),
            {"type": "http.response.trailers", "headers": [(b"x", b"y")]},
        )
        response = await ask(app, request_)
        assert (response.body, response.trailers) == (b"ab", [])

    async def test_an_illegal_one_cuts_the_response(self, error_log):
        app = sending(
            start(trailers=True),
            body(b"ab"),
            {"type": "http.response.trailers", "headers": [(b"x y", b"z")]},
        )
        answer = await ask_for_bytes(app)
        assert answer.endswith(b"\r\n2\r\nab\r\n")
        assert error_log() == ["error in the application: GET /page HTTP/1.1"]


class TestEarlyHints:
    async def test_on_1_1(self):
        app = sending(
            {"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload", b"</b.js>"]},
            {"type": "http.response.early_hint", "links": [b"</c>"]},
            start(),
            body(b"x"),
        )
        response = await ask(app)
        assert [hint.status for hint in response.informational] == [103, 103]
        assert response.informational[0].headers == [
            (b"link", b"</a.css>; rel=preload"),
            (b"link", b"</b.js>"),
        ]
        assert response.body == b"x"

    async def test_none_on_1_0(self):
        app = sending({"type": "http.response.early_hint", "links": [b"</a>"]}, start(), body(b"x"))
        assert (await ask_for_bytes(app, GET_1_0)).startswith(b"HTTP/1.1 200 ")

    async def test_an_illegal_link(self):
        async def app(scope, receive, send):
            with pytest.raises(ApplicationError):
                await send({"type": "http.response.early_hint", "links": [b"a\r\nb: c"]})
            await send(start())
            await send(body(b"x"))

        assert (await ask(app)).body == b"x"


class TestFiles:
    @pytest.fixture
    def file(self, tmp_path):
        path = tmp_path / "file"
        path.write_bytes(b"0123456789" * 10_000)
        return path

    @pytest.mark.parametrize("headers", [[], length(100_000)])
    async def test_pathsend(self, file, headers):
        app = sending(start(headers=headers), {"type": "http.response.pathsend", "path": str(file)})
        async with open_memory_server(app, QUIET) as server, server.raw_client() as client:
            for _ in range(2):
                await client.send(GET)
                response = await client.receive_response()
                assert response.body == file.read_bytes()
                assert response.header("content-length") == b"100000"
            assert server.stats().bytes_sent == 200_000

    async def test_pathsend_for_head(self, file):
        app = sending(start(), {"type": "http.response.pathsend", "path": str(file)})
        async with open_memory_server(app, QUIET) as server, server.raw_client() as client:
            for _ in range(2):
                await client.send(HEAD)
                response = await client.receive_response("HEAD")
                assert response.header("content-length") == b"100000"

    async def test_pathsend_of_a_file_that_is_not_there(self, tmp_path, error_log):
        app = sending(start(), {"type": "http.response.pathsend", "path": str(tmp_path / "none")})
        assert (await ask(app)).status == 500
        assert len(error_log()) == 1

    async def test_pathsend_with_another_length(self, file, error_log):
        app = sending(start(headers=length(3)), {"type": "http.response.pathsend", "path": str(file)})
        assert (await ask(app)).status == 500
        assert len(error_log()) == 1

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({"count": 5}, b"01234"),
            ({"offset": 7, "count": 5}, b"78901"),
            ({"offset": 99_995}, b"56789"),
            ({"offset": 100_000}, b""),
            ({"count": 0}, b""),
        ],
    )
    async def test_zerocopysend(self, file, options, expected):
        async def app(scope, receive, send):
            with file.open("rb") as opened:
                await send(start())
                await send({"type": "http.response.zerocopysend", "file": opened, **options})

        response = await ask(app)
        assert response.body == expected
        assert response.header("content-length") == b"%d" % len(expected)

    async def test_zerocopysend_among_other_pieces(self, file):
        async def app(scope, receive, send):
            with file.open("rb") as opened:
                await send(start())
                await send(body(b"<", True))
                part = {"type": "http.response.zerocopysend", "file": opened.fileno(), "more_body": True}
                await send({**part, "count": 3})
                await send({**part, "count": 3})  # goes on where the file stands
                await send(body(b">"))

        async with open_memory_server(app, QUIET) as server, server.raw_client() as client:
            for _ in range(2):
                await client.send(GET)
                assert (await client.receive_response()).body == b"<012345>"

    @pytest.mark.parametrize("headers", [[], length(6)])
    async def test_a_file_that_is_too_short_cuts_the_response(self, tmp_path, headers, error_log):
        path = tmp_path / "short"
        path.write_bytes(b"abc")

        async def app(scope, receive, send):
            with path.open("rb") as opened:
                await send(start(headers=headers))
                try:
                    await send({"type": "http.response.zerocopysend", "file": opened, "count": 6})
                except EOFError:
                    refused.append(True)
                    raise

        refused = []
        answer = await ask_for_bytes(app)
        assert answer.endswith(b"\r\n\r\nabc")
        assert refused == [True]
        assert len(error_log()) == 1
