"""What hostile clients try on the way from a request to an environ."""

from __future__ import annotations

import time
from wsgiref.validate import validator

import pytest
import trio

from tests.wsgi.outcomes import PROTOCOLS, fetch
from tests.wsgi.serving import TEXT, serving
from trioserve.config import Http1Settings, Http2Settings, ProxySettings
from trioserve.testing.raw_client import RawClient

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
async def test_twenty_thousand_fields_take_linear_time(protocol):
    """Ten times as many of the same name may take some more than ten times as long, and not a hundred times."""
    many = 20_000
    limits = {"max_fields": many + 100, "max_head_size": 16 << 20}
    joined = []

    def app(environ, start_response):
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
