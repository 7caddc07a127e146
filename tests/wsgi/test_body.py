"""`wsgi.input`: short bodies, long ones, and those that never end."""

from __future__ import annotations

import io
import threading

import pytest
import trio
import trio.testing

from trioserve.asgi.errors import ClientDisconnected
from trioserve.testing.http2_client import Http2Client
from trioserve.wsgi.application import READ_AHEAD
from trioserve.wsgi.body import PORTION, open_input

SIZES = [0, 1, 1000, READ_AHEAD - 1, READ_AHEAD, READ_AHEAD + 1, 3 * PORTION + 7]


def post(body, *fields):
    head = [b"POST / HTTP/1.1", b"Host: a", b"Content-Length: %d" % len(body), *fields]
    return b"\r\n".join([*head, b"", b""]) + body


def chunked(body, size=1000):
    chunks = [body[start : start + size] for start in range(0, len(body), size)]
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in [*chunks, b""])


def text(size):
    line = b"abcdefghij\n"
    return (line * (size // len(line) + 1))[:size]


READERS = {
    "whole": lambda file: file.read(),
    "minus_one": lambda file: file.read(-1),
    "parts": lambda file: b"".join(iter(lambda: file.read(777), b"")),
    "large_parts": lambda file: b"".join(iter(lambda: file.read(500_000), b"")),
    "lines": lambda file: b"".join(file),
    "readline": lambda file: b"".join(iter(file.readline, b"")),
    "short_readline": lambda file: b"".join(iter(lambda: file.readline(4), b"")),
    "readlines": lambda file: b"".join(file.readlines()),
    "hinted_readlines": lambda file: b"".join(
        b"".join(each) for each in iter(lambda: file.readlines(50), [])
    ),
}


@pytest.fixture
def echo():
    def app(environ, start_response):
        body = READERS[environ.get("HTTP_X_READER", "whole")](environ["wsgi.input"])
        start_response("200 OK", [("Content-Type", "text/plain")])
        assert environ["wsgi.input"].read(1) == b""
        return [body]

    return app


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("reader", READERS)
async def test_every_way_to_read(open_wsgi, echo, size, reader):
    body = text(size)
    validate = reader not in ("whole", "readlines")  # the validator wants an argument
    async with open_wsgi(echo, validate=validate) as server, server.raw_client() as client:
        await client.send(post(body, b"X-Reader: " + reader.encode()))
        assert (await client.receive_response()).body == body


@pytest.mark.parametrize("size", SIZES)
async def test_chunked(open_wsgi, echo, size):
    async with open_wsgi(echo, validate=False) as server, server.raw_client() as client:
        for _ in range(2):
            await client.send(chunked(text(size)))
            assert (await client.receive_response()).body == text(size)


async def test_http2(open_wsgi, echo):
    body = text(500_000)
    async with open_wsgi(echo, validate=False) as server, Http2Client(server.connect()) as client:
        await client.start(window=1_000_000)
        stream = await client.request("POST", "/", body=body)
        response = await client.response(stream)
    assert len(response.body) == len(body)


async def test_a_short_body_takes_no_thread_before_it_is_here(open_wsgi):
    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [environ["wsgi.input"].read(100)]

    request = post(b"slow")
    async with open_wsgi(app, threads=1) as server, server.raw_client() as slow, server.raw_client() as quick:
        await slow.send(request[:-1])
        await trio.testing.wait_all_tasks_blocked()
        await quick.send(post(b"quick"))
        assert (await quick.receive_response()).body == b"quick"
        await slow.send(request[-1:])
        assert (await slow.receive_response()).body == b"slow"


async def test_the_application_asks_for_a_body_that_is_expected_to_be_asked_for(open_wsgi):
    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        body = environ["wsgi.input"].read(5) if environ["PATH_INFO"] == "/" else b"no need"
        return [body]

    async with open_wsgi(app) as server, server.raw_client() as client, server.raw_client() as other:
        head = post(b"hello", b"Expect: 100-continue")[:-5]
        await client.send(head)
        received = await client.receive_some()
        assert received.startswith(b"HTTP/1.1 100")
        await client.send(b"hello")
        assert (await client.receive_response()).body == b"hello"
        await other.send(head.replace(b"/ ", b"/unread "))
        response = await other.receive_response()
        assert (response.body, response.informational) == (b"no need", [])


async def test_a_line_is_there_as_soon_as_it_has_come(open_wsgi):
    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        for line in environ["wsgi.input"]:
            yield line.upper()

    async with open_wsgi(app) as server, server.raw_client() as client:
        await client.send(
            b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        assert (await client.receive_some()).startswith(b"HTTP/1.1 100")
        for line in (b"first\n", b"other\n"):
            await client.send(b"6\r\n%b\r\n" % line)
            received = b""
            while line.upper() not in received:
                received += await client.receive_some()


@pytest.mark.parametrize("sent", [10, READ_AHEAD + 10])
@pytest.mark.parametrize("reader", ["whole", "parts", "lines", "large_parts"])
async def test_a_body_that_was_cut_short_never_looks_complete(open_wsgi, sent, reader):
    def app(environ, start_response):
        calls.append(True)
        for _ in range(2):
            try:
                READERS[reader](environ["wsgi.input"])
            except OSError as error:
                raised.append(error)
        done.set()
        raise raised[-1]

    calls, raised = [], []
    done = threading.Event()
    async with open_wsgi(app, validate=False) as server:
        client = server.raw_client()
        await client.send(post(bytes(READ_AHEAD + 1000))[: -1000 - READ_AHEAD + sent - 1])
        await trio.testing.wait_all_tasks_blocked()
        await client.aclose()
        if sent > READ_AHEAD:
            assert await trio.to_thread.run_sync(done.wait, 5)
    if sent > READ_AHEAD:
        assert [type(error) for error in raised] == [ClientDisconnected] * 2
    else:
        assert not calls


async def test_a_malformed_body_raises_each_time_though_its_client_stays(open_wsgi, error_log):
    def app(environ, start_response):
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        write(b"begun")  # so that it cannot be answered 400
        for _ in range(3):
            try:
                environ["wsgi.input"].read()
            except ClientDisconnected:
                write(b", cut")
        return []

    async with open_wsgi(app, validate=False) as server, server.raw_client() as client:
        await client.send(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        await client.send(b"%x\r\n%b\r\nno number\r\n" % (READ_AHEAD, bytes(READ_AHEAD)))
        with trio.fail_after(5):
            assert (await client.receive_response()).body == b"begun, cut, cut, cut"
    assert error_log() == []


async def test_a_client_that_drops_after_10_of_1000_bytes(open_wsgi, error_log):
    def app(environ, start_response):
        calls.append(True)

    calls = []
    async with open_wsgi(app) as server:
        client = server.raw_client()
        await client.send(post(bytes(1000))[:-990])
        await trio.testing.wait_all_tasks_blocked()
        await client.aclose()
    assert not calls
    assert error_log() == []


async def test_an_unread_body_does_not_harm_the_next_request(open_wsgi):
    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"unread"]

    async with open_wsgi(app) as server, server.raw_client() as client:
        for size in (100, READ_AHEAD * 2):
            await client.send(post(bytes(size)))
            assert (await client.receive_response()).body == b"unread"


async def test_reading_after_the_response_was_begun(open_wsgi):
    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "application/octet-stream")])
        while data := environ["wsgi.input"].read(50_000):
            yield data

    body = bytes(range(256)) * 4000
    async with open_wsgi(app) as server, server.raw_client() as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.send, post(body))
        assert (await client.receive_response()).body == body


class Source:
    interruption = None

    def __init__(self, body):
        self.body = body
        self.asked = []

    def read_body(self, size, *, whole):
        self.asked.append((size, whole))
        data = self.body[: size if whole else 100]
        self.body = self.body[len(data) :]
        return data


WAYS_TO_READ = [
    ("read", ()),
    ("read", (2,)),
    ("read1", (2,)),
    ("readinto", (bytearray(2),)),
    ("readline", ()),
    ("readlines", ()),
    ("__next__", ()),
]


class TestReceived:
    @pytest.mark.parametrize("way", WAYS_TO_READ)
    def test_is_an_ordinary_file(self, way):
        name, arguments = way
        ours, theirs = open_input(Source(b""), b"one\ntwo", complete=True), io.BytesIO(b"one\ntwo")
        for _ in range(2):
            assert getattr(ours, name)(*arguments) == getattr(theirs, name)(*arguments)

    @pytest.mark.parametrize("way", WAYS_TO_READ)
    def test_raises_when_the_request_was_ended(self, way):
        name, arguments = way
        source = Source(b"")
        file = open_input(source, b"one\ntwo\nthree", complete=True)
        source.interruption = ClientDisconnected("gone")
        for _ in range(2):
            with pytest.raises(ClientDisconnected):
                getattr(file, name)(*arguments)


@pytest.mark.parametrize("request_body", [b"", b"short"])
async def test_reading_raises_after_the_client_has_left_although_all_is_here(open_wsgi, request_body):
    def app(environ, start_response):
        begun.set()
        while not environ["trioserve.disconnected"]():
            left.wait(0.01)
        assert left.wait(10)
        try:
            while True:
                environ["wsgi.input"].read()
        except Exception as error:
            raised.append(type(error))
            raise
        finally:
            over.set()

    raised = []
    begun, left, over = threading.Event(), threading.Event(), threading.Event()
    async with open_wsgi(app, validate=False, timeouts={"disconnect_grace": 0.01}) as server:
        async with server.raw_client() as client:
            await client.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(request_body))
            await client.send(request_body)
            assert await trio.to_thread.run_sync(begun.wait, 10)
        left.set()
        assert await trio.to_thread.run_sync(over.wait, 10)
    assert raised == [ClientDisconnected]


class TestPortions:
    def test_are_bounded(self):
        source = Source(bytes(1_000_000))
        file = open_input(source, b"first", complete=False)
        assert len(file.read(900_000)) == 900_000
        assert max(size for size, _ in source.asked) <= PORTION
        assert len(file.read()) == 100_005

    def test_of_a_short_read_are_what_is_there(self):
        source = Source(bytes(1000))
        file = open_input(source, b"", complete=False)
        assert len(file.read1(50)) == 50
        assert source.asked == [(50, False)]

    def test_readinto(self):
        file = open_input(Source(b"x" * 300_000), b"first", complete=False)
        buffer = bytearray(200_000)
        assert file.readinto(buffer) == 200_000
        assert buffer == b"first" + b"x" * 199_995
