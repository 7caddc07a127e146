"""What a WSGI application can do, and what its client gets for it (PEP 3333)."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading

import h11
import pytest
import trio
import trio.testing

from trioserve.testing.memory import open_memory_server
from trioserve.wsgi import WsgiApplication

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
TEXT = [("Content-Type", "text/plain")]


async def respond(server, request=GET, method="GET"):
    async with server.raw_client() as client:
        await client.send(request)
        return await client.receive_response(method)


async def receive_cut(server, request=GET):
    """All the bytes of a response that must not look complete."""
    async with server.raw_client() as client:
        await client.send(request)
        parser = h11.Connection(h11.CLIENT)
        parser.send(h11.Request(method="GET", target="/", headers=[("host", "a")]))
        parser.send(h11.EndOfMessage())
        received = await client.receive_all()
        parser.receive_data(received)
        parser.receive_data(b"")
        with pytest.raises(h11.RemoteProtocolError):
            while parser.next_event() is not h11.PAUSED:
                pass
        return received


def counting_close(iterable, closed):
    class Closing:
        def __iter__(self):
            return iter(iterable)

        def close(self):
            closed.append(threading.current_thread())

    return Closing()


class TestResponse:
    async def test_of_a_list_has_a_length(self, open_wsgi):
        def app(environ, start_response):
            start_response("404 Not Here", [*TEXT, ("X-Two", "1"), ("X-Two", "2")])
            return [b"one ", b"", b"two"]

        async with open_wsgi(app, validate=False) as server:  # which gives an iterator for a list
            response = await respond(server)
        assert (response.status, response.body) == (404, b"one two")
        assert response.header("content-length") == b"7"
        assert response.header("x-two") == b"1, 2"

    @pytest.mark.parametrize("items", [[], (), [b""], iter(()), iter([b"", b""])])
    async def test_without_a_body(self, open_wsgi, items):
        def app(environ, start_response):
            start_response("200 OK", TEXT)
            return items

        async with open_wsgi(app) as server:
            response = await respond(server)
        assert (response.status, response.body) == (200, b"")

    async def test_of_a_large_list_has_a_length_and_is_not_copied(self, open_wsgi):
        def app(environ, start_response):
            start_response("200 OK", TEXT)
            return [b"x" * 900_000, b"y" * 900_000]

        async with open_wsgi(app, validate=False) as server:
            response = await respond(server)
        assert response.header("content-length") == b"1800000"
        assert response.body == b"x" * 900_000 + b"y" * 900_000

    @pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
    async def test_that_can_have_no_body(self, open_wsgi, status):
        def app(environ, start_response):
            start_response(status, [])
            return []

        async with open_wsgi(app) as server:
            response = await respond(server)
        assert response.status == int(status[:3])
        assert response.header("content-length") is None

    async def test_to_head_has_the_fields_of_get(self, open_wsgi):
        def app(environ, start_response):
            start_response("200 OK", [*TEXT, ("Content-Length", "5")])
            return [b"hello"]

        async with open_wsgi(app) as server:
            response = await respond(server, GET.replace(b"GET", b"HEAD"), "HEAD")
        assert (response.header("content-length"), response.body) == (b"5", b"")

    async def test_is_begun_by_the_first_item_that_is_not_empty(self, open_wsgi):
        def app(environ, start_response):
            yield_first = threading.Event()
            events.append(yield_first)
            start_response("200 OK", TEXT)
            yield b""
            yield b"first"
            yield_first.wait(5)
            yield b"second"

        events = []
        async with open_wsgi(app) as server, server.raw_client() as client:
            await client.send(GET)
            received = b""
            while b"first" not in received:
                received += await client.receive_some()
            assert b"second" not in received
            events[0].set()
            while not received.endswith(b"0\r\n\r\n"):
                received += await client.receive_some()
        assert b"second" in received

    async def test_of_write_and_items(self, open_wsgi):
        def app(environ, start_response):
            write = start_response("200 OK", TEXT)
            write(b"written, ")
            write(b"")
            return [b"returned"]

        async with open_wsgi(app) as server:
            assert (await respond(server)).body == b"written, returned"

    async def test_of_http_1_0_ends_with_the_connection(self, open_wsgi):
        def app(environ, start_response):
            start_response("200 OK", TEXT)
            yield b"one"
            yield b"two"

        async with open_wsgi(app) as server, server.raw_client() as client:
            await client.send(b"GET / HTTP/1.0\r\n\r\n")
            assert (await client.receive_all()).endswith(b"\r\n\r\nonetwo")

    async def test_close_is_called_once_in_the_thread(self, open_wsgi):
        def app(environ, start_response):
            start_response("200 OK", TEXT)
            threads.append(threading.current_thread())
            return counting_close([b"body"], threads)

        threads = []
        async with open_wsgi(app) as server:
            await respond(server)
        assert len(threads) == 2
        assert threads[0] is threads[1]
        assert threads[0] is not threading.main_thread()


class TestStartResponse:
    @pytest.mark.parametrize("lazy", [True, False])
    async def test_with_exc_info_replaces_the_head(self, open_wsgi, lazy):
        def app(environ, start_response):
            start_response("200 OK", [*TEXT, ("Content-Length", "1000")])
            try:
                raise LookupError
            except LookupError:
                start_response("503 Later", [*TEXT, ("X-Which", "second")], sys.exc_info())
            return iter([b"sorry"]) if lazy else [b"sorry"]

        async with open_wsgi(app) as server:
            response = await respond(server)
        assert (response.status, response.body) == (503, b"sorry")
        assert response.header("x-which") == b"second"

    async def test_with_exc_info_after_the_body_was_begun_raises_it(self, open_wsgi, error_log):
        def app(environ, start_response):
            start_response("200 OK", TEXT)
            yield b"begun"
            try:
                raise LookupError("in the middle")
            except LookupError:
                try:
                    start_response("500 Error", TEXT, sys.exc_info())
                except LookupError as error:
                    raised.append(str(error))
                    raise

        raised = []
        async with open_wsgi(app) as server:
            assert (await receive_cut(server)).startswith(b"HTTP/1.1 200")
        assert raised == ["in the middle"]
        assert error_log() == ["error in the application: GET / HTTP/1.1"]

    async def test_with_exc_info_after_the_body_was_begun_cuts_it_although_it_was_caught(
        self, open_wsgi, error_log
    ):
        def app(environ, start_response):
            start_response("200 OK", [*TEXT, ("Content-Length", "10")])
            yield b"begun"
            try:
                raise LookupError("in the middle")
            except LookupError:
                with contextlib.suppress(LookupError):
                    start_response("500 Error", TEXT, sys.exc_info())
            yield b"error"

        async with open_wsgi(app) as server:
            assert (await receive_cut(server)).endswith(b"begun")
        assert error_log() == ["error in the application: GET / HTTP/1.1"]

    @pytest.mark.parametrize(
        "status",
        [
            *("200", 200, "20 OK", "2x0 OK", "100 Continue", "2000 OK", b"200 OK", "600 Odd", "999 Odd"),
            "200 O\r\nK",
        ],
    )
    async def test_checks_the_status(self, open_wsgi, status, error_log, caplog):
        def app(environ, start_response):
            start_response(status, TEXT)
            return [b""]

        async with open_wsgi(app, validate=False) as server:
            response = await respond(server)
        assert response.status == (200 if status == "200" else 500)
        assert ("status" in caplog.text) == (status != "200")

    @pytest.mark.parametrize(
        ("headers", "words"),
        [
            ((("a", "b"),), "takes a list of headers"),
            ([("a", 1)], "the value of the header 'a' has to be str"),
            ([(b"a", "b")], "the name of a header has to be str"),
            ([("a", b"b")], "the value of the header 'a' has to be str"),
            ([("ä", "b")], "the name of a header has to be ASCII"),
            ([("a", "\u20ac")], "is not in latin-1"),
            ([("a",)], "ValueError"),
            ([("Content-Length", "+5")], "Content-Length has to be a number"),
            ([("Connection", "close")], "the header 'Connection' is the server's affair"),
            ([("Transfer-Encoding", "chunked")], "the header 'Transfer-Encoding' is the server's affair"),
            ([("Upgrade", "h2c")], "the header 'Upgrade' is the server's affair"),
            ([("Content-Length", "9" * 21)], "Content-Length has to be a number"),
            ([("Content-Length", "0"), ("content-length", "0")], "there are two headers Content-Length"),
            ([("a", "b\r\nc: d")], "has a line end or NUL in it"),
            ([("a", "b\nc: d")], "has a line end or NUL in it"),
            ([("a", "b\0")], "has a line end or NUL in it"),
            ([("a b", "c")], "has a character in it that is not allowed"),
            ([("", "c")], "has a character in it that is not allowed"),
            ([("a:", "c")], "has a character in it that is not allowed"),
        ],
    )
    async def test_checks_the_headers(self, open_wsgi, headers, words, error_log, caplog):
        def app(environ, start_response):
            try:
                start_response("200 OK", headers)
            except (TypeError, ValueError):
                raised.append(True)
                raise
            return [b"not sent"]

        raised = []

        async with open_wsgi(app, validate=False) as server:
            response = await respond(server)
        assert response.status == 500
        assert response.header("c") is None
        assert raised == [True]  # where the application could do something about it
        assert words in caplog.text
        assert error_log() == ["error in the application: GET / HTTP/1.1"]

    async def test_twice_without_exc_info_is_an_error(self, open_wsgi, error_log, caplog):
        def app(environ, start_response):
            start_response("200 OK", TEXT)
            start_response("200 OK", TEXT)
            return [b"not sent"]

        async with open_wsgi(app, validate=False) as server:
            assert (await respond(server)).status == 500
        assert "start_response() was called twice" in caplog.text

    @pytest.mark.parametrize("result", [[], [b"body"], iter([b"body"]), iter([]), None])
    async def test_never_called_is_an_error(self, open_wsgi, error_log, result):
        def app(environ, start_response):
            return result

        async with open_wsgi(app, validate=False) as server:
            assert (await respond(server)).status == 500
        assert error_log() == ["error in the application: GET / HTTP/1.1"]

    async def test_may_be_called_with_the_first_item(self, open_wsgi):
        def app(environ, start_response):
            start_response("202 Accepted", TEXT)
            yield b"late"

        async with open_wsgi(app) as server:
            assert (await respond(server)).status == 202


class TestErrors:
    @pytest.mark.parametrize("error", [ValueError("broken"), SystemExit(3), KeyboardInterrupt()])
    async def test_of_the_call_are_500_and_hurt_nobody_else(self, open_wsgi, error, error_log, caplog):
        def app(environ, start_response):
            if environ["PATH_INFO"] == "/bad":
                raise error
            start_response("200 OK", TEXT)
            return [b"fine"]

        async with open_wsgi(app, threads=1) as server, server.raw_client() as client:
            await client.send(GET.replace(b"/ ", b"/bad "))
            assert (await client.receive_response()).status == 500
            await client.send(GET)
            assert (await client.receive_response()).body == b"fine"
        assert error_log() == ["error in the application: GET /bad HTTP/1.1"]
        assert type(error).__name__ in caplog.text

    async def test_are_logged_with_a_traceback_that_ends_in_the_application(
        self, open_wsgi, error_log, caplog
    ):
        def app(environ, start_response):
            def inner_function():
                raise ValueError

            inner_function()

        async with open_wsgi(app) as server:
            await respond(server)
        assert "in inner_function" in caplog.text
        assert "call.py" not in caplog.text
        assert "bridge.py" not in caplog.text

    @pytest.mark.parametrize("before", [0, 1, 2])
    async def test_of_an_iterable_are_500_or_cut(self, open_wsgi, before, error_log):
        def app(environ, start_response):
            start_response("200 OK", TEXT)

            def items():
                for number in range(before):
                    yield b"item %d" % number
                raise ValueError

            return counting_close(items(), closed)

        closed = []
        async with open_wsgi(app) as server:
            if before:
                assert (await receive_cut(server)).count(b"item") == before
            else:
                assert (await respond(server)).status == 500
        assert len(closed) == 1
        assert error_log() == ["error in the application: GET / HTTP/1.1"]

    @pytest.mark.parametrize("how", ["list", "items", "write"])
    @pytest.mark.parametrize("length", ["4", "6", "500"])
    async def test_a_body_of_another_length_than_said_is_never_complete(
        self, open_wsgi, how, length, error_log
    ):
        def app(environ, start_response):
            write = start_response("200 OK", [*TEXT, ("Content-Length", length)])
            if how == "list":
                return [b"12", b"345"]
            if how == "items":
                return iter([b"12", b"345"])
            write(b"12")
            write(b"345")
            return []

        async with open_wsgi(app, validate=False) as server, server.raw_client() as client:
            await client.send(GET)
            try:
                status = (await client.receive_response()).status
            except h11.RemoteProtocolError:
                status = 0
        assert status in (0, 500)
        assert error_log() == ["error in the application: GET / HTTP/1.1"]

    @pytest.mark.parametrize("item", ["text", bytearray(b"array"), None, 5])
    @pytest.mark.parametrize("lazy", [True, False])
    async def test_an_item_that_is_not_bytes(self, open_wsgi, item, lazy, error_log, caplog):
        def app(environ, start_response):
            start_response("200 OK", TEXT)
            return iter([item]) if lazy else [item]

        async with open_wsgi(app, validate=False) as server:
            assert (await respond(server)).status == 500
        assert f"a piece of the body has to be bytes, not {type(item).__name__}" in caplog.text

    async def test_of_close_are_logged(self, open_wsgi, error_log):
        class Failing:
            def __iter__(self):
                return iter([b"all of it"])

            def close(self):
                raise ValueError

        def app(environ, start_response):
            start_response("200 OK", [*TEXT, ("Content-Length", "9")])
            return Failing()

        async with open_wsgi(app, validate=False) as server:
            assert (await respond(server)).body == b"all of it"
        assert error_log() == ["error in the application: GET / HTTP/1.1"]


class TestErrorStream:
    async def test_lines_are_logged(self, open_wsgi, error_log):
        def app(environ, start_response):
            errors = environ["wsgi.errors"]
            errors.write("begin")
            errors.write("ning\nsecond\n\n")
            errors.writelines(["a", "b\n"])
            errors.write("flushed")
            errors.flush()
            errors.write("at the end")
            start_response("200 OK", TEXT)
            return []

        async with open_wsgi(app) as server:
            await respond(server)
        assert error_log() == ["beginning", "second", "ab", "flushed", "at the end"]

    async def test_a_filter_that_raises_is_an_error_of_the_application(self, open_wsgi, error_log):
        def refuse(record):
            if record.getMessage() == "unwanted":
                raise ValueError
            return True

        def app(environ, start_response):
            environ["wsgi.errors"].write("unwanted")
            start_response("200 OK", TEXT)
            return []

        logger = logging.getLogger("trioserve.error")
        logger.addFilter(refuse)
        try:
            async with open_wsgi(app) as server:
                with trio.fail_after(5):
                    assert (await respond(server)).status == 500
        finally:
            logger.removeFilter(refuse)
        assert error_log() == ["error in the application: GET / HTTP/1.1"]

    async def test_print_and_handlers_can_use_it(self, open_wsgi, error_log):
        def app(environ, start_response):
            print("printed", 5, file=environ["wsgi.errors"])
            start_response("200 OK", TEXT)
            return []

        async with open_wsgi(app) as server:
            await respond(server)
        assert error_log() == ["printed 5"]


class TestEarlyHints:
    async def test_go_out_before_the_response(self, open_wsgi):
        def app(environ, start_response):
            environ["wsgi.early_hints"]([("Link", "</a.css>; rel=preload"), ("link", "</b.js>"), ("X", "no")])
            start_response("200 OK", TEXT)
            yield b"body"
            environ["wsgi.early_hints"]([("Link", "</late>")])

        async with open_wsgi(app) as server:
            response = await respond(server)
        (hint,) = response.informational
        assert hint.status == 103
        assert hint.headers == [(b"link", b"</a.css>; rel=preload"), (b"link", b"</b.js>")]
        assert response.body == b"body"

    @pytest.mark.parametrize("link", ["</a>\r\nX: y", "</a>\n", "</a>\0", "</\u20ac>"])
    async def test_that_cannot_be_sent_raise(self, open_wsgi, link):
        def app(environ, start_response):
            with pytest.raises(ValueError):
                environ["wsgi.early_hints"]([("Link", link)])
            start_response("200 OK", TEXT)
            return [b"body"]

        async with open_wsgi(app) as server:
            response = await respond(server)
        assert (response.status, response.informational) == (200, [])


class TestFileWrapper:
    @pytest.mark.parametrize("length", [None, "0", "10", "400000"])
    async def test_sends_a_file_from_where_it_is(self, open_wsgi, tmp_path, length):
        def app(environ, start_response):
            file = (tmp_path / "file").open("rb")
            assert file.readline() == b"first\n"
            files.append(file)
            headers = TEXT if length is None else [*TEXT, ("Content-Length", length)]
            start_response("200 OK", headers)
            return environ["wsgi.file_wrapper"](file)

        files = []
        content = b"rest" * 100_000
        (tmp_path / "file").write_bytes(b"first\n" + content)
        async with open_wsgi(app, validate=False) as server:
            response = await respond(server)
        expected = content[: int(length or len(content))]
        assert response.body == expected
        assert response.header("content-length") == b"%d" % len(expected)
        assert files[0].closed

    async def test_with_a_length_beyond_the_file_is_an_error(self, open_wsgi, tmp_path, error_log):
        def app(environ, start_response):
            start_response("200 OK", [*TEXT, ("Content-Length", "11")])
            return environ["wsgi.file_wrapper"]((tmp_path / "file").open("rb"))

        (tmp_path / "file").write_bytes(b"x" * 10)
        async with open_wsgi(app, validate=False) as server, server.raw_client() as client:
            await client.send(GET)
            try:
                assert (await client.receive_response()).status == 500
            except h11.RemoteProtocolError:
                pass
        assert len(error_log()) == 1

    @pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such files")
    async def test_reads_a_file_that_has_content_and_no_size(self, open_wsgi):
        def app(environ, start_response):
            start_response("200 OK", TEXT)
            return environ["wsgi.file_wrapper"](open("/proc/self/status", "rb"))

        async with open_wsgi(app) as server:
            response = await respond(server)
        assert response.body.startswith(b"Name:")

    async def test_streams_what_is_no_file(self, open_wsgi):
        class Blocks:
            left = 5

            def read(self, size):
                self.left -= 1
                return b"x" * size if self.left >= 0 else b""

        def app(environ, start_response):
            start_response("200 OK", TEXT)
            return environ["wsgi.file_wrapper"](Blocks(), 1000)

        async with open_wsgi(app) as server:
            assert len((await respond(server)).body) == 5000

    async def test_a_slow_client_of_a_file_holds_no_thread(self, open_wsgi, tmp_path):
        def app(environ, start_response):
            start_response("200 OK", TEXT)
            if environ["PATH_INFO"] == "/file":
                return environ["wsgi.file_wrapper"]((tmp_path / "file").open("rb"))
            return [b"quick"]

        (tmp_path / "file").write_bytes(bytes(5_000_000))
        async with (
            open_wsgi(app, threads=1, validate=False) as server,
            server.raw_client(lockstep=True) as slow,
        ):
            await slow.send(GET.replace(b"/ ", b"/file "))
            await slow.receive_some()
            assert (await respond(server)).body == b"quick"

    async def test_an_iterable_around_it_is_read(self, open_wsgi, tmp_path):
        def app(environ, start_response):
            start_response("200 OK", TEXT)
            wrapper = environ["wsgi.file_wrapper"]((tmp_path / "file").open("rb"), 4)
            for block in wrapper:
                yield block.upper()
            wrapper.close()

        (tmp_path / "file").write_bytes(b"some text")
        async with open_wsgi(app, validate=False) as server:
            assert (await respond(server)).body == b"SOME TEXT"


class TestLifespan:
    @pytest.mark.parametrize("lifespan", ["auto", "on", "off"])
    async def test_any_mode_will_do(self, open_wsgi, lifespan):
        def app(environ, start_response):
            threads.append(threading.current_thread())
            start_response("200 OK", TEXT)
            return [b"ok"]

        threads = []
        async with open_wsgi(app, lifespan=lifespan) as server:
            assert (await respond(server)).body == b"ok"
            assert threads[0].is_alive()
        if lifespan != "off":
            threads[0].join(5)
            assert not threads[0].is_alive()

    async def test_the_switch_interval_is_restored(self, open_wsgi):
        def app(environ, start_response):
            raise AssertionError

        before = sys.getswitchinterval()
        async with open_wsgi(app, switch_interval=0.001):
            assert sys.getswitchinterval() == pytest.approx(0.001)
        assert sys.getswitchinterval() == before

    def test_threads_end_with_the_run_without_a_lifespan(self, open_wsgi):
        async def main():
            async with open_wsgi(app, lifespan="off") as server:
                await respond(server)

        def app(environ, start_response):
            threads.append(threading.current_thread())
            start_response("200 OK", TEXT)
            return [b"ok"]

        threads = []
        trio.run(main)
        trio.run(main)  # the same kind of application, in another run
        for thread in threads:
            thread.join(5)
            assert not thread.is_alive()

    async def test_one_application_can_be_served_again(self):
        def app(environ, start_response):
            start_response("200 OK", TEXT)
            return [b"ok"]

        application = WsgiApplication(app)
        for _ in range(2):
            async with open_memory_server(application) as server:
                assert (await respond(server)).body == b"ok"

    async def test_of_two_servers_with_one_application_the_first_may_end(self):
        def app(environ, start_response):
            start_response("200 OK", TEXT)
            release.wait(5)
            return [b"ok"]

        release = threading.Event()
        application = WsgiApplication(app)
        async with open_memory_server(application) as second, second.raw_client() as client:
            async with open_memory_server(application):
                await client.send(GET)
                await trio.testing.wait_all_tasks_blocked()
            release.set()
            assert (await client.receive_response()).body == b"ok"


async def test_websockets_are_refused(open_wsgi):
    def app(environ, start_response):
        raise AssertionError

    async with open_wsgi(app) as server:
        response = await respond(
            server,
            b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
    assert response.status == 403


async def test_an_unknown_scope_is_an_error():
    with pytest.raises(ValueError, match="'tunnel'"):
        await WsgiApplication(print)({"type": "tunnel"}, None, None)


def test_threads_are_needed():
    with pytest.raises(ValueError, match="at least 1"):
        WsgiApplication(print, threads=0)
