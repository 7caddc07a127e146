"""What careless applications, their threads and hostile clients do to a response and to the next one."""

from __future__ import annotations

import logging
import threading
from wsgiref.validate import validator

import pytest
import trio

from tests.wsgi.outcomes import PROTOCOLS, fetch, parse, receive_until_end
from tests.wsgi.serving import TEXT, serving, until
from trioserve.config import LimitSettings
from trioserve.testing.raw_client import RawClient

PATIENCE = 10
both = pytest.mark.parametrize("protocol", ["HTTP/1.1", "HTTP/2"])
every = pytest.mark.parametrize("protocol", PROTOCOLS)


# -- the head of the response --------------------------------------------------------------------------------------

INJECTIONS = {
    "CR LF in a value": [("X-A", "a\r\nX-Evil: 1")],
    "LF in a value": [("X-A", "a\nX-Evil: 1")],
    "CR in a value": [("X-A", "a\rX-Evil: 1")],
    "NUL in a value": [("X-A", "a\x00X-Evil: 1")],
    "CR LF in a name": [("X-A: a\r\nX-Evil", "1")],
    "colon in a name": [("X-Evil:", "1")],
    "space in a name": [("X-Evil ", "1")],
    "no name": [("", "X-Evil")],
    "not latin-1 in a value": [
        ("X-A", "\u010d\u010aX-Evil: 1")
    ],  # 0x0D and 0x0A, if one only cut the rest off
    "not latin-1 in a name": [("X-\u010a-Evil", "1")],
    "two lengths": [("Content-Length", "2"), ("Content-Length", "3"), ("X-Evil", "1")],
    "a length that is no number": [("Content-Length", "0x2"), ("X-Evil", "1")],
    "a negative length": [("Content-Length", "-2"), ("X-Evil", "1")],
}


@every
@pytest.mark.parametrize("kind", INJECTIONS)
async def test_illegal_field_is_answered_500_and_nothing_of_it_leaks(protocol, kind):
    def app(environ, start_response):
        start_response("200 OK", [TEXT, *INJECTIONS[kind]])
        return [b"ok"]

    async with serving(app) as (_, address):
        outcome = await fetch(address, protocol, "/")
    assert (outcome.status, outcome.body) == (500, b"Internal Server Error\n")
    assert not [name for name in outcome.headers if "x-" in name]


@every
@pytest.mark.parametrize(
    "status", ["200 OK\r\nX-Evil: 1", "200 OK\nX-Evil: 1", "200 \x00", "200\r\n\r\nbody", "20 OK"]
)
async def test_illegal_status_is_answered_500_and_nothing_of_it_leaks(protocol, status):
    def app(environ, start_response):
        start_response(status, [TEXT])
        return [b"ok"]

    async with serving(app) as (_, address):
        outcome = await fetch(address, protocol, "/")
    assert "x-evil" not in outcome.headers
    # A reason phrase is not sent on HTTP/2, and one of our own may be sent in its place.
    assert (outcome.status, outcome.body) in [(500, b"Internal Server Error\n"), (200, b"ok")]
    if status == "20 OK":
        assert outcome.status == 500


@every
@pytest.mark.parametrize(
    "field",
    [("Transfer-Encoding", "chunked"), ("Connection", "close"), ("Keep-Alive", "1"), ("Upgrade", "x")],
)
async def test_hop_by_hop_fields_do_not_spoil_the_framing(protocol, field):
    def app(environ, start_response):
        start_response("200 OK", [TEXT, field])
        return iter([b"one", b"two"])

    async with serving(app) as (_, address):
        outcome = await fetch(address, protocol, "/")
    assert outcome.complete
    assert (outcome.status, outcome.body) in [(200, b"onetwo"), (500, b"Internal Server Error\n")]


async def test_headers_changed_after_start_response_are_those_that_are_sent_or_not():
    """PEP 3333 lets the server change the list; the application's later changes must at least not be unchecked."""

    def app(environ, start_response):
        headers = [TEXT]
        start_response("200 OK", headers)
        headers.append(("X-Late", "a\r\nX-Evil: 1"))
        return [b"ok"]

    async with serving(app) as (_, address):
        outcome = await fetch(address, "HTTP/1.1", "/")
    assert "x-evil" not in outcome.headers


# -- threads that do not keep to their request ---------------------------------------------------------------------


@both
@pytest.mark.parametrize("size", [1000, 400_000])
async def test_reading_after_the_request_has_ended_does_not_block(protocol, size):
    """A second thread goes on with the input when the response is complete: it must not see another's body."""
    late, results = threading.Event(), []

    def app(environ, start_response):
        source = environ["wsgi.input"]
        if environ["PATH_INFO"] == "/first":

            def read_late():
                assert late.wait(PATIENCE)
                try:
                    results.append(source.read(size))
                except (OSError, ValueError) as error:
                    results.append(error)

            threading.Thread(target=read_late, daemon=True).start()
            start_response("200 OK", [TEXT])
            return [b"first"]
        start_response("200 OK", [TEXT])
        return [source.read()]

    async with serving(app) as (_, address):
        outcome = await fetch(address, protocol, "/first", method="POST", body=b"1" * size)
        assert (outcome.status, outcome.body) == (200, b"first")
        late.set()
        outcome = await fetch(address, protocol, "/second", method="POST", body=b"2" * 1000)
        assert outcome.body == b"2" * 1000
        await until(lambda: results)
    assert isinstance(results[0], Exception) or set(results[0]) <= set(b"1")


@both
@pytest.mark.parametrize("size", [1, 10_000_000])
async def test_writing_after_the_request_has_ended_raises(protocol, size):
    late, results = threading.Event(), []

    def app(environ, start_response):
        if environ["PATH_INFO"] == "/first":
            write = start_response("200 OK", [TEXT])

            def write_late():
                assert late.wait(PATIENCE)
                try:
                    for _ in range(3):
                        write(b"x" * size)
                    results.append(None)
                except Exception as error:
                    results.append(error)

            threading.Thread(target=write_late, daemon=True).start()
            return [b"first"]
        start_response("200 OK", [TEXT])
        return [b"second"]

    async with serving(app, threads=1) as (_, address):
        assert (await fetch(address, protocol, "/first")).body == b"first"
        late.set()
        await until(lambda: results)
        assert (await fetch(address, protocol, "/second")).body == b"second"
    assert isinstance(results[0], Exception)


@both
async def test_thread_that_was_given_up_cannot_answer_another_request(protocol):
    from trioserve.config import TimeoutSettings

    gate, begun, ended = threading.Event(), threading.Event(), threading.Event()

    def app(environ, start_response):
        if environ["PATH_INFO"] == "/stuck":
            begun.set()
            gate.wait(PATIENCE)
            try:
                start_response("200 OK", [TEXT])(b"evil")
                return [b"evil"]
            finally:
                ended.set()
        start_response("200 OK", [TEXT])
        return [b"good"]

    short = TimeoutSettings(request=0.3, cleanup_grace=0.1)
    async with serving(app, threads=2, timeouts=short) as (_, address):
        assert (await fetch(address, protocol, "/stuck")).status == 503
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, ended.wait, PATIENCE)
            gate.set()
            for _ in range(5):
                assert (await fetch(address, protocol, "/")).body == b"good"


async def test_lines_are_no_longer_than_the_application_asked():
    sizes = []

    def app(environ, start_response):
        while line := environ["wsgi.input"].readline(1000):
            sizes.append(len(line))
        start_response("200 OK", [TEXT])
        return []

    async with serving(app) as (_, address):
        assert (await fetch(address, "HTTP/1.1", "/", method="POST", body=b"x" * 1_000_000)).status == 200
    assert sizes == [1000] * 1000


async def test_body_over_the_limit_is_refused_also_when_its_length_was_not_told():
    results = []

    def app(environ, start_response):
        try:
            results.append(len(environ["wsgi.input"].read()))
        except OSError as error:
            results.append(error)
            raise
        start_response("200 OK", [TEXT])
        return [b"ok"]

    async with serving(app, limits=LimitSettings(body_size=1000)) as (_, address):
        assert (await fetch(address, "HTTP/1.1", "/", method="POST", body=bytes(1001))).status == 413
        stream = await trio.open_tcp_stream(*address)
        async with stream:
            await stream.send_all(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
            await stream.send_all(b"400\r\n" + bytes(0x400) + b"\r\n0\r\n\r\n")
            outcome = parse(*await receive_until_end(stream))
        assert outcome.status == 413
    assert all(isinstance(result, OSError) for result in results)


# -- what the application says -------------------------------------------------------------------------------------


async def test_errors_of_the_application_are_logged_without_forging_records(caplog):
    caplog.set_level(logging.INFO)

    def app(environ, start_response):
        environ["wsgi.errors"].write("first\nsecond \x1b[31mred\r\n")
        environ["wsgi.errors"].writelines(["third\n", "with\x00nul"])
        environ["wsgi.errors"].flush()
        start_response("200 OK", [TEXT])
        return []

    async with serving(validator(app)) as (_, address):
        await fetch(address, "HTTP/1.1", "/")
    for word in ("first", "second", "third", "nul"):
        assert word in caplog.text


@both
async def test_early_hints_come_before_the_response(protocol):
    sent, go_on = threading.Event(), threading.Event()

    def app(environ, start_response):
        hint = environ["wsgi.early_hints"]
        hint([("Link", "</style.css>; rel=preload; as=style")])
        sent.set()
        assert go_on.wait(PATIENCE)
        start_response("200 OK", [TEXT])
        return [b"page"]

    from trioserve.testing.http2_client import Http2Client

    async with serving(app) as (_, address):
        stream = await trio.open_tcp_stream(*address)
        if protocol == "HTTP/1.1":
            async with RawClient(stream) as client:
                await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                hint = await client.receive_some()
                assert hint.startswith(b"HTTP/1.1 103 ")
                assert b"</style.css>" in hint
                go_on.set()
                assert (await client.receive_response()).body == b"page"
        else:
            async with Http2Client(stream, timeout=PATIENCE) as client:
                await client.start()
                stream_id = await client.request()
                while not client.record(stream_id).heads:
                    await client.next_frame()
                go_on.set()
                response = await client.response(stream_id)
                assert response.body == b"page"
                assert response.informational[0].status == 103
                assert response.informational[0].header("link") == b"</style.css>; rel=preload; as=style"


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nX-Evil: 1", "\u010d\u010aX-Evil: 1"])
@both
async def test_early_hints_cannot_inject(protocol, value):
    def app(environ, start_response):
        environ["wsgi.early_hints"]([("Link", value)])
        start_response("200 OK", [TEXT])
        return [b"page"]

    async with serving(app) as (_, address):
        outcome = await fetch(address, protocol, "/")
    assert outcome.status in (500, 200)
    assert "x-evil" not in outcome.headers
    assert b"vil" not in outcome.body
