"""A real nginx in front of the real command, with the configuration that is our example."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
import websockets.exceptions
from websockets.sync.client import connect

from tests.e2e.nginx.app import BLOCK
from tests.e2e.programs import ROOT, require
from tests.server_process import ServerProcess

HERE = Path(__file__).parent / "nginx"
APP = ("--app-dir", str(HERE), "app:app")
STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
PATIENCE = 30.0
WORKER = re.compile(r"worker \d+ \((\d+)\) is ready")


class Server(ServerProcess):
    """The command, in a session of its own."""

    def __init__(self, directory, *arguments):
        super().__init__(directory, "--logging-access", "off", *arguments, *APP, start_new_session=True)

    def __exit__(self, *details):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        super().__exit__(*details)


@contextmanager
def run_nginx(directory, main, sockets):
    """Run nginx until the block ends, with listening sockets that it finds by their addresses."""
    program = require("nginx")
    user = "user root;\n" if os.geteuid() == 0 else ""  # its workers have to get into the directory
    (directory / "nginx.conf").write_text(user + main)
    numbers = [listening.fileno() for listening in sockets]
    inherited = "".join(f"{number};" for number in numbers)
    with (directory / "nginx.log").open("w") as log:
        process = subprocess.Popen(
            [program, "-p", str(directory), "-c", "nginx.conf", "-e", "stderr"],
            env={"PATH": os.environ["PATH"], "NGINX": inherited},
            pass_fds=numbers,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
    for listening in sockets:
        listening.close()
    try:
        yield
        assert process.poll() is None, (directory / "nginx.log").read_text()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)
    problems = re.findall(r".*\[(?:emerg|alert|crit|error)\].*", (directory / "nginx.log").read_text())
    assert problems == []


class Site:
    """nginx with config/nginx.conf, whose names and paths are changed to those of the test."""

    def __init__(self, server, certificates, port, plain_port):
        self.server = server
        self.port = port
        self.plain_port = plain_port
        self.context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))

    def connect(self):
        return http.client.HTTPSConnection("localhost", self.port, timeout=PATIENCE, context=self.context)

    def get(self, path="/", method="GET", **options):
        connection = self.connect()
        try:
            return self.ask(connection, path, method, **options)
        finally:
            connection.close()

    @staticmethod
    def ask(connection, path="/", method="GET", *, encode_chunked=False, **options):
        if encode_chunked:
            options["headers"] = {"Transfer-Encoding": "chunked"}
        connection.request(method, path, encode_chunked=encode_chunked, **options)
        response = connection.getresponse()
        assert response.status == 200, (response.status, response.read())
        return response.read()

    def see(self, **options):
        return json.loads(self.get(**options))


def write_site(directory, certificates, port, plain_port):
    """The example with other values: each has to be there once."""
    text = (ROOT / "config" / "nginx.conf").read_text()
    for old, new in {
        "listen 443 ": f"listen 127.0.0.1:{port} ",
        "listen 80;": f"listen 127.0.0.1:{plain_port};",
        "server unix:/run/trioserve/web.sock ": f"server unix:{directory}/web.sock ",
        "/etc/letsencrypt/live/example.org/fullchain.pem": f"{certificates}/both.pem",
        "/etc/letsencrypt/live/example.org/privkey.pem": f"{certificates}/both.pem",
    }.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (directory / "site.conf").write_text(text)


def open_port():
    return socket.create_server(("127.0.0.1", 0))


@contextmanager
def open_site(directory, certificates, *flags):
    bind = ("-b", f"unix:{directory}/web.sock", "--proxy-trusted", "unix")
    main = (HERE / "main.conf").read_text()
    with Server(directory, *bind, *flags) as server, open_port() as secure, open_port() as plain:
        server.wait_until_serving()
        port, plain_port = secure.getsockname()[1], plain.getsockname()[1]
        write_site(directory, certificates, port, plain_port)
        with run_nginx(directory, main, [secure, plain]):
            yield Site(server, certificates, port, plain_port)
        assert server.stop() == 0, server.errors
        assert not re.search(" (warning|error|critical): ", server.errors), server.errors


@pytest.fixture(scope="module")
def site(tmp_path_factory, certificates):
    with open_site(tmp_path_factory.mktemp("site"), certificates) as site:
        yield site


class TestClient:
    def test_the_application_sees_the_client_and_its_scheme(self, site):
        seen = site.see(path="/a%20b?c")
        assert (seen["client"], seen["scheme"], seen["path"]) == ("127.0.0.1", "https", "/a b")
        assert seen["headers"]["host"] == "localhost"
        assert seen["headers"]["x-forwarded-proto"] == "https"

    def test_a_client_cannot_choose_what_it_looks_like(self, site):
        lies = {
            "X-Forwarded-For": "10.9.8.7",
            "X-Forwarded-Proto": "http",
            "X-Forwarded-Host": "evil.example",
            "X-Forwarded-Port": "1",
            "X-Forwarded-Prefix": "/evil",
            "Forwarded": "for=10.9.8.7;proto=http",
        }
        seen = site.see(headers=lies)
        assert (seen["client"], seen["scheme"], seen["path"]) == ("127.0.0.1", "https", "/")
        assert seen["headers"]["host"] == "localhost"
        assert "forwarded" not in seen["headers"]

    def test_plain_requests_are_sent_to_https(self, site):
        connection = http.client.HTTPConnection("127.0.0.1", site.plain_port, timeout=PATIENCE)
        connection.request("POST", "/a?b", headers={"Host": "localhost"})
        response = connection.getresponse()
        assert (response.status, response.headers["location"]) == (308, "https://localhost/a?b")
        connection.close()


class TestConnections:
    def test_connections_to_the_server_stay_open(self, site):
        seen = {site.see()["connection"] for _ in range(20)}
        assert len(seen) == 1

    def test_http2_from_the_client(self, site, certificates):
        curl = require("curl")
        words = [curl, "-sS", "--http2", "--cacert", certificates / "ca.pem", "-w", "\n%{http_version}"]
        done = subprocess.run(
            [*map(str, words), f"https://localhost:{site.port}/"],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        body, _, version = done.stdout.rpartition("\n")
        assert (json.loads(body)["scheme"], version, done.stderr) == ("https", "2", "")

    def test_head(self, site):
        connection = site.connect()
        connection.request("HEAD", "/")
        response = connection.getresponse()
        assert (response.status, response.read()) == (200, b"")
        assert int(response.headers["content-length"]) > 100
        assert json.loads(site.ask(connection))["method"] == "GET"  # the connection can go on
        connection.close()


class TestBodies:
    @pytest.mark.parametrize("path", ["/upload", "/stream/upload"])
    @pytest.mark.parametrize("chunked", [False, True])
    def test_uploads(self, site, path, chunked):
        body = os.urandom(1 << 20) * 20
        sent = (body[start : start + 100_000] for start in range(0, len(body), 100_000)) if chunked else body
        found = (
            site.get(path, "POST", body=sent, encode_chunked=chunked)
            if chunked
            else site.get(path, "POST", body=sent)
        )
        assert found.decode() == hashlib.sha256(body).hexdigest()

    @pytest.mark.parametrize(("path", "blocks"), [("/download", 320), ("/stream/download", 1600)])
    def test_downloads(self, site, path, blocks):
        """20 MB that nginx may buffer, and 100 MB that it may not."""
        connection = site.connect()
        connection.request("GET", f"{path}/{blocks}")
        response = connection.getresponse()
        found, wanted, size = hashlib.sha256(), hashlib.sha256(), 0
        while data := response.read(1 << 20):
            found.update(data)
            size += len(data)
        for _ in range(blocks):
            wanted.update(BLOCK)
        assert (size, found.digest()) == (blocks * len(BLOCK), wanted.digest())
        connection.close()

    def test_parts_arrive_as_they_are_sent(self, site):
        connection = site.connect()
        connection.request("GET", "/stream/steps/3")
        response = connection.getresponse()
        for number in range(3):
            assert response.readline() == b"%d\n" % number
            site.get("/go")
        assert response.read() == b""
        connection.close()


class TestWebSocket:
    def test_messages_and_the_code_of_the_end(self, site):
        with connect(
            f"wss://localhost:{site.port}/chat", ssl=site.context, open_timeout=PATIENCE
        ) as websocket:
            for message in ("text", b"binary", "x" * 300_000, b""):
                websocket.send(message)
                assert websocket.recv(PATIENCE) == message
            websocket.send("close")
            with pytest.raises(websockets.exceptions.ConnectionClosed) as ended:
                websocket.recv(PATIENCE)
            assert (ended.value.rcvd.code, ended.value.rcvd.reason) == (4001, "asked to")


def test_a_rolling_reload_is_not_seen_by_clients(tmp_path, certificates):
    with open_site(tmp_path, certificates, "-w", "2") as site:
        connection = site.connect()
        for _ in range(3):
            site.server.signal(signal.SIGHUP)
            workers = set()
            while len(workers) < 2:  # both new ones are ready
                for _ in range(20):
                    site.ask(connection)
                workers.add(site.server.wait_for_line(WORKER.pattern)[1])
            for _ in range(50):
                site.ask(connection)
        connection.close()


def test_the_proxy_protocol_of_a_tcp_proxy(tmp_path):
    require("nginx")
    if not STREAM_MODULE.exists():
        missing = "the stream module of nginx is not installed"
        pytest.fail(missing) if os.environ.get("CI") == "true" else pytest.skip(missing)
    backend = f"unix:{tmp_path}/web.sock"
    with Server(tmp_path, "-b", backend, "--proxy-protocol", "v1", "--proxy-trusted", "unix") as server:
        server.wait_until_serving()
        main = (HERE / "stream.conf").read_text()
        with open_port() as listening:
            host, port = listening.getsockname()
            for name, value in {
                "MODULE": STREAM_MODULE,
                "LISTEN": f"{host}:{port}",
                "BACKEND": backend,
            }.items():
                main = main.replace(name, str(value))
            with run_nginx(tmp_path, main, [listening]):
                ask_stream(host, port)
        assert server.stop() == 0


def ask_stream(host, port):
    connection = http.client.HTTPConnection(host, port, timeout=PATIENCE)
    seen = json.loads(Site.ask(connection))
    assert (seen["client"], seen["scheme"]) == ("127.0.0.1", "http")
    connection.close()
