"""Request bodies that a WSGI application reads in every way there is, in whole and cut short."""

from __future__ import annotations

import random
import socket
import struct
import threading
from wsgiref.validate import validator

import pytest
import trio
from h2.errors import ErrorCodes
from hyperframe.frame import RstStreamFrame

from tests.wsgi.outcomes import PROTOCOLS, fetch
from tests.wsgi.serving import TEXT, serving, until
from trioserve.testing.http2_client import Http2Client
from trioserve.testing.raw_client import RawClient

PATIENCE = 10
LENGTH = 1000
SENT = b"ten bytes\n"
LARGE = SENT * 10_000
CONTENT = b"".join(b"line %d of the body\r\n" % number for number in range(2000)) + b"\n\nno end"


def read_pieces(source):
    return b"".join(iter(lambda: source.read(7000), b""))


def read_bytes_one_by_one(source):
    return b"".join(iter(lambda: source.read(1), b""))


def read_lines_in_part(source):
    return b"".join(iter(lambda: source.readline(11), b""))


def read_at_random(source):
    choice = random.Random(1)
    found = b""
    while True:
        size = choice.choice([1, 5, 100, 5000, 100_000])
        piece = source.read(size) if choice.random() < 0.5 else source.readline(size)
        if not piece:
            return found
        assert len(piece) <= size
        found += piece


READERS = {
    "read()": lambda source: source.read(),
    "read(-1)": lambda source: source.read(-1),
    "read(None)": lambda source: source.read(None),
    "read(more than there is)": lambda source: source.read(10_000_000),
    "read(LENGTH)": lambda source: source.read(10 * len(LARGE)),
    "pieces": read_pieces,
    "bytes": read_bytes_one_by_one,
    "readline()": lambda source: b"".join(iter(source.readline, b"")),
    "readline(11)": read_lines_in_part,
    "readlines()": lambda source: b"".join(source.readlines()),
    "readlines(100)": lambda source: b"".join(
        b"".join(lines) for lines in iter(lambda: source.readlines(100), [])
    ),
    "for": lambda source: b"".join(source),
    "at random": read_at_random,
}


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("reader", READERS)
async def test_body_is_read_in_whole(reader, chunked):
    def app(environ, start_response):
        assert environ["wsgi.input_terminated"] is True
        source = environ["wsgi.input"]
        found = READERS[reader](source)
        assert source.read(1) == source.readline() == b"".join(source) == b""
        start_response("200 OK", [TEXT])
        return [found]

    async with serving(app) as (_, address), RawClient(await trio.open_tcp_stream(*address)) as client:
        for _ in range(2):  # nothing is left over for the next
            await client.send(request_head(chunked, len(CONTENT)) + body_of(CONTENT, chunked))
            response = await client.receive_response()
            assert (response.status, response.body) == (200, CONTENT)


@pytest.mark.parametrize("reader", READERS)
async def test_body_is_read_in_whole_on_http2(reader):
    def app(environ, start_response):
        start_response("200 OK", [TEXT])
        return [READERS[reader](environ["wsgi.input"])]

    async with serving(app) as (_, address):
        assert (await fetch(address, "HTTP/2", "/", method="POST", body=CONTENT)).body == CONTENT


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_request_without_a_body_has_an_empty_one(protocol):
    @validator
    def app(environ, start_response):
        source = environ["wsgi.input"]
        assert source.read(10) == source.readline() == b""
        assert "CONTENT_LENGTH" not in environ or not environ["CONTENT_LENGTH"]
        start_response("200 OK", [TEXT])
        return [b"none"]

    async with serving(app) as (_, address):
        assert (await fetch(address, protocol, "/")).body == b"none"


def request_head(chunked, length, *fields):
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % length
    return b"\r\n".join([b"POST / HTTP/1.1", b"Host: a", framing, *fields]) + b"\r\n\r\n"


def body_of(content, chunked):
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content) if chunked else content


# -- cut short -----------------------------------------------------------------------------------------------------


class Reading:
    """An application that reads the body in some way and tells what came of it."""

    def __init__(self, reader):
        self.complete = []
        self.errors = []
        self._reader = READERS[reader]

    def __call__(self, environ, start_response):
        source = environ["wsgi.input"]
        try:
            self.complete.append(self._reader(source))
        except OSError as error:
            self.errors.append(error)
            with pytest.raises(OSError):  # nor does it look complete afterwards
                source.read(1)
            raise
        start_response("200 OK", [TEXT])
        return [b"whole"]


def reset(stream):
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


async def cut_http1(address, sent, length, chunked, expect, ending):
    stream = await trio.open_tcp_stream(*address)
    fields = [b"Expect: 100-continue"] if expect else []
    await stream.send_all(request_head(chunked, length, *fields))
    if expect:
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 100 ")
    await stream.send_all(b"%x\r\n%s" % (length, sent) if chunked else sent)
    if ending == "RST":
        reset(stream)
    elif ending == "half-close":
        await stream.send_eof()
        async with RawClient(stream) as client:
            assert b" 200 " not in await client.receive_all()
    else:
        await stream.aclose()


def is_reached(expect, sent):
    """A body that is small enough is received before the application is called, unless that has to ask for it."""
    return expect or len(sent) > 65536


@pytest.mark.parametrize("ending", ["FIN", "RST", "half-close"])
@pytest.mark.parametrize("expect", [False, True], ids=["", "100-continue"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize(("sent", "length"), [(SENT, LENGTH), (LARGE, 10 * len(LARGE))], ids=["10", "100000"])
@pytest.mark.parametrize("reader", ["read()", "read(LENGTH)", "pieces", "readline()", "for"])
async def test_body_that_is_cut_short_is_never_complete(reader, sent, length, chunked, expect, ending):
    app = Reading(reader)
    async with serving(app, threads=1) as (server, address):
        await cut_http1(address, sent, length, chunked, expect, ending)
        if is_reached(expect, sent):
            await until(lambda: app.errors)
        await until(lambda: server.stats().requests_total == 1 and not server.stats().requests_running)
    assert app.complete == []


@pytest.mark.parametrize("ending", ["RST_STREAM", "FIN"])
@pytest.mark.parametrize("expect", [False, True], ids=["", "100-continue"])
@pytest.mark.parametrize(("sent", "length"), [(SENT, LENGTH), (LARGE, 10 * len(LARGE))], ids=["10", "100000"])
@pytest.mark.parametrize("with_length", [False, True], ids=["", "length"])
@pytest.mark.parametrize("reader", ["read()", "read(LENGTH)", "pieces", "readline()", "for"])
async def test_body_that_is_cut_short_on_http2_is_never_complete(
    reader, with_length, sent, length, expect, ending
):
    app = Reading(reader)
    headers = [(b"content-length", b"%d" % length)] * with_length + [(b"expect", b"100-continue")] * expect
    async with serving(app, threads=1) as (server, address):
        async with Http2Client(await trio.open_tcp_stream(*address), timeout=PATIENCE) as client:
            await client.start()
            stream_id = await client.request("POST", headers=headers, body=sent, end_stream=False)
            await client.ping()
            if ending == "RST_STREAM":
                await client.send(RstStreamFrame(stream_id, error_code=ErrorCodes.CANCEL))
                if is_reached(expect, sent):
                    await until(lambda: app.errors)
        if is_reached(expect, sent):
            await until(lambda: app.errors)
        await until(lambda: server.stats().requests_total == 1 and not server.stats().requests_running)
    assert app.complete == []


async def test_http2_body_that_is_shorter_than_its_length_is_never_complete():
    app = Reading("read()")
    async with serving(app, threads=1) as (server, address):
        outcome = None
        async with Http2Client(await trio.open_tcp_stream(*address), timeout=PATIENCE) as client:
            await client.start()
            await client.request("POST", headers=[(b"content-length", b"1000")], body=SENT)
            outcome = await client.wait_error()
        await until(lambda: server.stats().requests_running == 0)
    assert outcome.code == ErrorCodes.PROTOCOL_ERROR
    assert app.complete == []


# -- in step with the client ---------------------------------------------------------------------------------------


async def test_continue_is_sent_when_the_application_reads_and_not_before():
    begun, may_read = threading.Event(), threading.Event()

    def app(environ, start_response):
        begun.set()
        assert may_read.wait(PATIENCE)
        start_response("200 OK", [TEXT])
        return [environ["wsgi.input"].read()]

    async with serving(app) as (_, address), RawClient(await trio.open_tcp_stream(*address)) as client:
        await client.send(request_head(False, len(SENT), b"Expect: 100-continue"))
        await until(begun.is_set)
        with trio.move_on_after(0.05) as waiting:
            await client.receive_some()
        assert waiting.cancelled_caught
        may_read.set()
        assert (await client.receive_some()).startswith(b"HTTP/1.1 100 ")
        await client.send(SENT)
        assert (await client.receive_response()).body == SENT


async def test_pieces_go_to_and_fro():
    """The application answers each line before the client sends the next one."""

    @validator
    def app(environ, start_response):
        write = start_response("200 OK", [TEXT])
        while line := environ["wsgi.input"].readline():
            write(line.upper())
        return [b"end"]

    async with (
        serving(app) as (_, address),
        Http2Client(await trio.open_tcp_stream(*address), timeout=PATIENCE) as client,
    ):
        await client.start()
        stream_id = await client.request("POST", headers=[(b"expect", b"100-continue")], end_stream=False)
        body = client.record(stream_id).body
        for line in (b"one\n", b"two\n"):
            await client.send_body(stream_id, line, end_stream=False)
            while not body.endswith(line.upper()):
                await client.next_frame()
        await client.send_body(stream_id, b"three")
        assert (await client.response(stream_id)).body == b"ONE\nTWO\nTHREEend"


@pytest.mark.parametrize("size", [10, 5_000_000])
async def test_body_that_nobody_reads_does_not_spoil_the_next_request(size):
    def app(environ, start_response):
        start_response("200 OK", [TEXT])
        return [environ["PATH_INFO"].encode()]

    async with serving(app) as (_, address):
        outcome = await fetch(address, "HTTP/2", "/unread", method="POST", body=bytes(min(size, 60_000)))
        assert outcome.body == b"/unread"
        async with RawClient(await trio.open_tcp_stream(*address)) as client, trio.open_nursery() as sending:

            @sending.start_soon
            async def send():
                try:
                    await client.send(request_head(False, size) + bytes(size))
                    await client.send(b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n")
                except trio.BrokenResourceError:
                    pass

            assert (await client.receive_response()).body == b"/"
            if size == 10:
                assert (await client.receive_response()).body == b"/next"
            sending.cancel_scope.cancel()


async def test_pipelined_requests_are_answered_in_their_order():
    @validator
    def app(environ, start_response):
        start_response("200 OK", [TEXT])
        return [environ["PATH_INFO"].encode() + b" " + environ["wsgi.input"].read(20)]

    requests = b"".join(
        b"POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n%03d" % (number, number)
        for number in range(50)
    )
    async with serving(app) as (_, address), RawClient(await trio.open_tcp_stream(*address)) as client:
        await client.send(requests)
        for number in range(50):
            assert (await client.receive_response()).body == b"/%d %03d" % (number, number)
