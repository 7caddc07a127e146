"""What hostile clients and careless applications try on the way from a request to an environ and back."""

from __future__ import annotations

import logging
import threading
import time
from wsgiref.validate import validator

import pytest
import trio

from tests.wsgi.outcomes import PROTOCOLS, fetch, parse, receive_until_end
from tests.wsgi.serving import TEXT, serving, until
from trioserve.config import Http1Settings, Http2Settings, LimitSettings, ProxySettings
from trioserve.testing.raw_client import RawClient

PATIENCE = 10
both = pytest.mark.parametrize("protocol", ["HTTP/1.1", "HTTP/2"])
every = pytest.mark.parametrize("protocol", PROTOCOLS)


class Seen:
    """An application that keeps the environ of its last request."""

    def __init__(self):
        self.environ = {}
        self._validated = validator(self._answer)

    def __call__(self, environ, start_response):
        self.environ = dict(environ)
        return self._validated(environ, start_response)

    def _answer(self, environ, start_response):
        start_response("200 OK", [TEXT])
        return [b"ok"]


async def environ_of(protocol, path="/", *, headers=(), method="GET", body=None, **settings):
    """What an application sees of a request."""
    app = Seen()
    async with serving(app, **settings) as (_, address):
        outcome = await fetch(address, protocol, path, headers=headers, method=method, body=body)
    assert (outcome.status, outcome.body) == (200, b"" if method == "HEAD" else b"ok")
    return app.environ


# -- the environ ---------------------------------------------------------------------------------------------------

PATHS = {
    "/": "/",
    "/plain": "/plain",
    "/a%20b": "/a b",
    "/%00": "/\x00",
    "/%FF%fe": "/\xff\xfe",
    "/a%2Fb": "/a/b",
    "/%C3%BC": "/\xc3\xbc",
    "/%E2%82%AC": "/\xe2\x82\xac",
    "/%C3": "/\xc3",
    "/%C3%BC%FF": "/\xc3\xbc\xff",
    "/%ED%A0%80": "/\xed\xa0\x80",
    "/%": "/%",
    "/%zz%4": "/%zz%4",
    "/%252F": "/%2F",
    "/a;b=c": "/a;b=c",
    "//double": "//double",
    "/a/../b": "/a/../b",
    "/%0d%0aX:%20y": "/\r\nX: y",
    "/+": "/+",
}


@both
async def test_path_is_the_bytes_that_were_meant(protocol):
    app = Seen()
    async with serving(app) as (_, address):
        for path, wanted in PATHS.items():
            assert (await fetch(address, protocol, path)).status == 200
            assert app.environ["PATH_INFO"] == wanted, path
            assert app.environ["SCRIPT_NAME"] == ""


@both
async def test_query_is_left_as_it_is(protocol):
    environ = await environ_of(protocol, "/p%41th?a=%00&b=%C3%BC+x&c=/?d")
    assert environ["QUERY_STRING"] == "a=%00&b=%C3%BC+x&c=/?d"
    assert environ["PATH_INFO"] == "/pAth"


@both
@pytest.mark.parametrize("path", PATHS)
async def test_root_path_is_the_script_and_not_part_of_the_path(protocol, path):
    environ = await environ_of(protocol, path, root_path="/mounted/höher")
    assert environ["SCRIPT_NAME"] == "/mounted/h\xc3\xb6her"
    assert environ["PATH_INFO"] == PATHS[path]


async def test_absolute_target():
    app = Seen()
    async with serving(app) as (_, address), RawClient(await trio.open_tcp_stream(*address)) as client:
        await client.send(b"GET http://a.example:81/x%FFy?q HTTP/1.1\r\nHost: a.example:81\r\n\r\n")
        assert (await client.receive_response()).status == 200
    assert (app.environ["PATH_INFO"], app.environ["QUERY_STRING"]) == ("/x\xffy", "q")
    assert app.environ["HTTP_HOST"] == "a.example:81"


async def test_options_for_the_server():
    app = Seen()
    async with serving(app) as (_, address), RawClient(await trio.open_tcp_stream(*address)) as client:
        await client.send(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await client.receive_response()).status == 200
    assert app.environ["PATH_INFO"] in ("", "/")


@every
async def test_what_every_environ_has(protocol):
    environ = await environ_of(protocol, "/", method="POST", body=b"x", headers=[(b"content-type", b"a/b")])
    assert type(environ) is dict
    assert environ["CONTENT_LENGTH"] == "1"
    assert environ["CONTENT_TYPE"] == "a/b"
    assert environ["SERVER_PROTOCOL"] == {"HTTP/2": "HTTP/2.0"}.get(protocol, protocol)
    assert environ["SERVER_NAME"] == environ["REMOTE_ADDR"] == "127.0.0.1"
    assert environ["SERVER_PORT"].isdecimal()
    assert environ["wsgi.url_scheme"] == "http"
    assert environ["wsgi.multithread"] is True
    assert environ["wsgi.run_once"] is False
    assert "HTTPS" not in environ


# Names of fields that would become variables which they are not.
POLLUTION = (
    *("Content_Length", "content_type", "X_Forwarded_For", "x_user", "Proxy", "proxy", "_", "a_b"),
    *("HTTP_HOST", "wsgi_url_scheme", "REMOTE_ADDR", "SCRIPT_NAME"),
)


@both
@pytest.mark.parametrize("name", POLLUTION)
async def test_no_field_becomes_a_variable_that_it_is_not(protocol, name):
    plain = await environ_of(protocol)
    environ = await environ_of(protocol, headers=[(name.lower().encode(), b"evil"), (b"x-user", b"good")])
    assert environ.keys() - plain.keys() == {"HTTP_X_USER"}
    assert "evil" not in environ.values()


@both
async def test_fields_keep_the_names_of_variables_apart(protocol):
    headers = [
        (b"remote-addr", b"evil"),
        (b"script-name", b"/evil"),
        (b"wsgi.input", b"evil"),
        (b"https", b"on"),
    ]
    environ = await environ_of(protocol, headers=headers)
    assert environ["REMOTE_ADDR"] == "127.0.0.1"
    assert environ["SCRIPT_NAME"] == ""
    assert environ["HTTP_REMOTE_ADDR"] == environ["HTTP_WSGI.INPUT"] == "evil"
    assert "HTTPS" not in environ


@both
async def test_repeated_fields_are_joined_and_cookies_their_own_way(protocol):
    headers = [
        (b"x-a", b"1"),
        (b"cookie", b"a=1"),
        (b"x-a", b"2"),
        (b"cookie", b"b=2"),
        (b"x-a", b""),
        (b"x-a", b"4"),
    ]
    environ = await environ_of(protocol, headers=headers)
    assert [each.strip() for each in environ["HTTP_X_A"].split(",")] == ["1", "2", "", "4"]
    assert environ["HTTP_COOKIE"] == "a=1; b=2"


async def test_odd_bytes_in_a_value_are_latin_1():
    odd = bytes(number for number in range(0x21, 0x100) if number != 0x7F)
    environ = await environ_of("HTTP/1.1", headers=[(b"x-odd", odd), (b"x-empty", b"")])
    assert environ["HTTP_X_ODD"].encode("latin-1") == odd
    assert environ["HTTP_X_EMPTY"] == ""


@both
async def test_ten_thousand_fields_take_linear_time(protocol):
    """Ten times as many of the same name must not take much more than ten times as long."""
    many = 20_000
    limits = {"max_fields": many + 100, "max_head_size": 16 << 20}
    took, joined = [], []

    def app(environ, start_response):
        took.append(time.thread_time())
        joined.append(environ["HTTP_X"].count("v"))
        start_response("200 OK", [TEXT])
        return []

    settings = {"http1": Http1Settings(**limits), "http2": Http2Settings(**limits)}
    async with serving(app, **settings) as (_, address):
        costs = []
        for count in (many // 10, many):
            begin = time.thread_time()
            outcome = await fetch(address, protocol, "/", headers=[(b"x", b"v" * 100)] * count)
            costs.append(time.thread_time() - begin)
            assert outcome.status == 200
    assert joined == [many * 10, many * 100]
    assert costs[1] < 40 * costs[0]


async def test_forwarded_fields_count_from_trusted_peers_alone():
    forwarded = [(b"x-forwarded-for", b"192.0.2.7"), (b"x-forwarded-proto", b"https")]
    trusted = await environ_of("HTTP/1.1", headers=forwarded)
    assert (trusted["REMOTE_ADDR"], trusted["wsgi.url_scheme"]) == ("192.0.2.7", "https")
    assert trusted["HTTPS"] == "on"
    untrusted = await environ_of("HTTP/1.1", headers=forwarded, proxy=ProxySettings(trusted=()))
    assert (untrusted["REMOTE_ADDR"], untrusted["wsgi.url_scheme"]) == ("127.0.0.1", "http")
    assert "HTTP_X_FORWARDED_FOR" not in untrusted
    assert "HTTPS" not in untrusted


async def test_environ_of_one_request_does_not_reach_the_next():
    app = Seen()

    def polluting(environ, start_response):
        try:
            return app(environ, start_response)
        finally:
            environ.clear()
            environ["HTTP_LEFT_BEHIND"] = "evil"

    async with serving(polluting) as (_, address), RawClient(await trio.open_tcp_stream(*address)) as client:
        for _ in range(3):
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await client.receive_response()).status == 200
            assert "HTTP_LEFT_BEHIND" not in app.environ
            assert app.environ["SERVER_NAME"] == "127.0.0.1"


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
