"""A scope as an environ (PEP 3333, "environ Variables")."""

from __future__ import annotations

import sys
import time
from wsgiref.validate import check_environ

import pytest

from trioserve.config import Config, LoggingSettings
from trioserve.testing.http2_client import Http2Client
from trioserve.testing.memory import open_memory_server
from trioserve.wsgi import WsgiApplication
from trioserve.wsgi.environ import MOST_NAMES, EnvironBuilder
from trioserve.wsgi.tls_variables import render_tls


def scope_of(**changes):
    return {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "client": ("192.0.2.7", 4711),
        "server": ("198.51.100.1", 8080),
        "extensions": {},
        **changes,
    }


def build(builder=None, **changes):
    environ = (builder or EnvironBuilder(multiprocess=False)).build(scope_of(**changes))
    check_environ({**environ, "wsgi.input": sys.stdin.buffer, "wsgi.errors": sys.stderr})
    return environ


async def ask(request: bytes, *, client=("192.0.2.7", 4711), scheme="http", **settings):
    """The environ that a request has become on its way through the server."""

    def app(environ, start_response):
        environs.append(environ)
        start_response("200 OK", [])
        return []

    environs = []
    config = Config(logging=LoggingSettings(access="off"), **settings)
    async with open_memory_server(WsgiApplication(app), config) as server:
        stream = server.connect(client, scheme=scheme)
        async with stream:
            await stream.send_all(request)
            await stream.receive_some()
    check_environ(environs[0])
    return environs[0]


async def test_of_a_plain_request():
    environ = await ask(b"GET /a/b?c=d HTTP/1.1\r\nHost: example.org:81\r\nX-Own-Field: value\r\n\r\n")
    expected = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/a/b",
        "QUERY_STRING": "c=d",
        "REQUEST_URI": "/a/b?c=d",
        "RAW_URI": "/a/b?c=d",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "192.0.2.7",
        "REMOTE_PORT": "4711",
        "HTTP_HOST": "example.org:81",
        "HTTP_X_OWN_FIELD": "value",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }
    assert {key: environ.get(key) for key in expected} == expected
    assert type(environ) is dict
    assert "CONTENT_TYPE" not in environ
    assert "CONTENT_LENGTH" not in environ
    assert "HTTPS" not in environ
    assert environ["trioserve.disconnected"]() is True  # the request is over


async def test_of_a_body():
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: text/x; a=b\r\nContent-Length: 5\r\n\r\n"
    environ = await ask(head + b"hello")
    assert (environ["CONTENT_TYPE"], environ["CONTENT_LENGTH"]) == ("text/x; a=b", "5")
    assert "HTTP_CONTENT_TYPE" not in environ
    assert "HTTP_CONTENT_LENGTH" not in environ


async def test_a_short_chunked_body_has_a_length_for_frameworks_that_need_one():
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    environ = await ask(head + b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n")
    assert environ["CONTENT_LENGTH"] == "6"
    assert environ["wsgi.input"].read() == b"hello!"


async def test_of_http2():
    def app(environ, start_response):
        environs.append(environ)
        check_environ(environ)
        start_response("200 OK", [])
        return [environ["wsgi.input"].read()]

    environs = []
    async with open_memory_server(WsgiApplication(app)) as server, Http2Client(server.connect()) as client:
        await client.start()
        assert (await client.get("/x")).status == 200
    assert environs[0]["SERVER_PROTOCOL"] == "HTTP/2.0"
    assert environs[0]["HTTP_HOST"] == "localhost"
    assert "CONTENT_LENGTH" not in environs[0]


@pytest.mark.parametrize(
    ("target", "path_info"),
    [
        (b"/caf%C3%A9", "/caf\xc3\xa9"),
        (b"/%FF%00%2f", "/\xff\x00/"),
        (b"/%25zz", "/%zz"),
        (b"/%zz", "/%zz"),
        (b"//a//", "//a//"),
        (b"/a%20b+c", "/a b+c"),
        (b"/%F0%9F%98%80", "/\xf0\x9f\x98\x80"),
    ],
)
@pytest.mark.parametrize("root_path", ["", "/root", "/wurz\u00e9l"])
async def test_path_info_is_the_bytes_of_the_path(target, path_info, root_path):
    environ = await ask(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % target, root_path=root_path)
    assert environ["PATH_INFO"] == path_info
    assert environ["SCRIPT_NAME"] == root_path.encode().decode("latin-1")
    assert environ["REQUEST_URI"] == target.decode()


async def test_options_of_the_server_as_a_whole():
    environ = await ask(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (environ["PATH_INFO"], environ["REQUEST_URI"]) == ("/", "*")


@pytest.mark.parametrize(
    ("scope", "script_name", "path_info"),
    [
        ({"root_path": "/m", "path": "/m/x", "raw_path": b"/m/x"}, "/m", "/x"),  # mounted by a framework
        ({"root_path": "/m", "path": "/m/\u00e9", "raw_path": b"/m/%C3%A9"}, "/m", "/\xc3\xa9"),
        ({"root_path": "/m", "path": "/m/m/x", "raw_path": b"/m/x"}, "/m", "/m/x"),
        ({"root_path": "/m", "path": "/m", "raw_path": b"/m"}, "/m", ""),
        ({"root_path": "/m/", "path": "/m/x", "raw_path": b"/m/x"}, "/m", "/x"),
        ({"root_path": "", "path": "/rewritten", "raw_path": b"/other"}, "", "/rewritten"),
        ({"root_path": "", "path": "/\u00e9", "raw_path": None}, "", "/\xc3\xa9"),
        ({"root_path": "", "path": "", "raw_path": b""}, "", "/"),
    ],
)
def test_script_name_and_path_info_of_other_servers_and_mounts(scope, script_name, path_info):
    environ = build(**scope)
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == (script_name, path_info)


def test_what_a_server_may_leave_out():
    scope = scope_of()
    for name in ("server", "client", "root_path", "raw_path", "extensions"):
        del scope[name]
    environ = EnvironBuilder(multiprocess=True).build(scope)
    assert environ["PATH_INFO"] == "/"
    assert environ["wsgi.multiprocess"] is True


@pytest.mark.parametrize(("scheme", "port"), [("http", "80"), ("https", "443")])
def test_a_unix_socket_has_a_name_and_a_port_all_the_same(scheme, port):
    environ = build(server=("/run/app.sock", None), client=None, scheme=scheme)
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("localhost", port)
    assert environ["REMOTE_ADDR"] == ""
    assert "REMOTE_PORT" not in environ


def test_an_ipv6_server_is_written_as_in_an_url():
    assert build(server=("2001:db8::1", 80))["SERVER_NAME"] == "[2001:db8::1]"


async def test_the_client_is_the_one_behind_trusted_proxies():
    environ = await ask(
        b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\n\r\n",
        client=("127.0.0.1", 5),
    )
    assert environ["REMOTE_ADDR"] == "203.0.113.9"
    assert (environ["wsgi.url_scheme"], environ["HTTPS"]) == ("https", "on")


def test_repeated_fields_are_joined():
    headers = [(b"a", b"1"), (b"cookie", b"x=1"), (b"a", b"2"), (b"cookie", b"y=2"), (b"a", b"3\xff")]
    environ = build(headers=headers)
    assert environ["HTTP_A"] == "1,2,3\xff"
    assert environ["HTTP_COOKIE"] == "x=1; y=2"


def test_repeated_fields_are_joined_in_linear_time():
    def measure(count):
        scope = scope_of(headers=[(b"a", b"v" * 1000)] * count)
        builder = EnvironBuilder(multiprocess=False)
        start = time.thread_time()
        builder.build(scope)
        return time.thread_time() - start

    few = min(measure(200) for _ in range(3))
    many = min(measure(3200) for _ in range(3))
    assert many < few * 64  # quadratic: 256


def test_names_that_would_become_others_are_left_out():
    headers = [
        (b"x_user", b"forged"),
        (b"x-user", b"real"),
        (b"proxy", b"evil:80"),
        (b"content_length", b"5"),
    ]
    environ = build(headers=headers)
    assert environ["HTTP_X_USER"] == "real"
    assert "HTTP_PROXY" not in environ
    assert "CONTENT_LENGTH" not in environ
    assert "HTTP_CONTENT_LENGTH" not in environ
    assert "forged" not in environ.values()


def test_remembered_names_are_bounded():
    builder = EnvironBuilder(multiprocess=False)
    for number in range(3 * MOST_NAMES):
        assert build(builder, headers=[(b"x-%d" % number, b"v")])[f"HTTP_X_{number}"] == "v"
    assert len(builder._keys) <= MOST_NAMES


def test_requests_share_nothing():
    builder = EnvironBuilder(multiprocess=False)
    build(builder)["HTTP_SECRET"] = "1"
    assert "HTTP_SECRET" not in build(builder)
    build(builder, root_path="/a", path="/a/")["PATH_INFO"] = "changed"
    assert build(builder, root_path="/b", path="/b/")["SCRIPT_NAME"] == "/b"


def test_tls_variables():
    tls = {
        "server_cert": "server pem",
        "client_cert_chain": ["client pem", "issuer pem"],
        "client_cert_name": "CN=J\u00fcrgen,O=Example",
        "client_cert_error": None,
        "tls_version": 0x0304,
        "cipher_suite": 0x1302,
    }
    environ = build(scheme="https", extensions={"tls": tls})
    expected = {
        "HTTPS": "on",
        "SSL_PROTOCOL": "TLSv1.3",
        "SSL_CIPHER": "TLS_AES_256_GCM_SHA384",
        "SSL_CLIENT_VERIFY": "SUCCESS",
        "SSL_CLIENT_S_DN": "CN=J\xc3\xbcrgen,O=Example",
        "SSL_CLIENT_CERT": "client pem",
        "SSL_SERVER_CERT": "server pem",
    }
    assert {key: value for key, value in environ.items() if key in expected} == expected


def test_tls_variables_of_an_anonymous_client():
    tls = {"server_cert": None, "client_cert_chain": [], "client_cert_name": None, "tls_version": 0x0303}
    assert render_tls(tls) == {"HTTPS": "on", "SSL_CLIENT_VERIFY": "NONE", "SSL_PROTOCOL": "TLSv1.2"}
