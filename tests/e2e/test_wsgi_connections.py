"""What an environ says of the connection: TLS and client certificates, unix sockets, mounted applications."""

from __future__ import annotations

import json
import socket
import ssl

import httpx
import pytest
import trustme

from tests.e2e.servers import ROOT
from tests.server_process import ServerProcess, read_all

TIMEOUT = 10
APP = ("tests.wsgi.apps.telling:app", "--logging-access=off", "--workers=0")


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def directory(authority, tmp_path_factory):
    directory = tmp_path_factory.mktemp("certificates")
    authority.cert_pem.write_to_path(directory / "ca.pem")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(directory / "both.pem")
    client = authority.issue_cert("client@example.org", common_name="jürgen")
    client.private_key_and_cert_chain_pem.write_to_path(directory / "client.pem")
    return directory


@pytest.fixture(scope="module")
def url(directory):
    tls = (
        f"--tls-certificate={directory / 'both.pem'}",
        f"--tls-ca={directory / 'ca.pem'}",
        "--tls-client-certificates=optional",
    )
    with ServerProcess(ROOT, *APP, "--bind=127.0.0.1:0", *tls) as process:
        yield process.wait_until_serving()
        assert process.stop() == 0, process.errors
        assert "Error" not in process.errors


def ask(url, directory, *, http2, certificate=None, headers=None):
    trust = ssl.create_default_context(cafile=directory / "ca.pem")
    if certificate:
        trust.load_cert_chain(certificate)
    with httpx.Client(http1=not http2, http2=http2, verify=trust, timeout=TIMEOUT) as client:
        return client.get(url, headers=headers).json()


both = pytest.mark.parametrize("http2", [False, True], ids=["HTTP/1.1", "HTTP/2"])


@both
def test_tls_is_told(url, directory, http2):
    environ = ask(url, directory, http2=http2)
    assert environ["wsgi.url_scheme"] == "https"
    assert environ["HTTPS"] == "on"
    assert environ["SSL_PROTOCOL"] == "TLSv1.3"
    assert environ["SSL_CIPHER"].startswith("TLS_")
    assert environ["SSL_CLIENT_VERIFY"] == "NONE"
    assert not {"SSL_CLIENT_CERT", "SSL_CLIENT_S_DN"} & environ.keys()


@both
def test_client_certificate_is_told(url, directory, http2):
    environ = ask(url, directory, http2=http2, certificate=directory / "client.pem")
    assert environ["SSL_CLIENT_VERIFY"] == "SUCCESS"
    told = ssl.PEM_cert_to_DER_cert(environ["SSL_CLIENT_CERT"])
    pem = (directory / "client.pem").read_text()
    assert told == ssl.PEM_cert_to_DER_cert(
        pem[pem.index("-----BEGIN CERT") : pem.index("-----END CERT") + 26]
    )
    assert "jürgen" in environ["SSL_CLIENT_S_DN"].encode("latin-1").decode()


@both
def test_client_cannot_tell_it_by_fields(url, directory, http2):
    names = ("SSL_CLIENT_VERIFY", "ssl-client-verify", "SSL_CLIENT_S_DN", "https")
    environ = ask(url, directory, http2=http2, headers=dict.fromkeys(names, "evil"))
    assert environ["SSL_CLIENT_VERIFY"] == "NONE"
    assert environ["HTTPS"] == "on"
    assert {name for name, value in environ.items() if value == "evil"} == {
        "HTTP_SSL_CLIENT_VERIFY",
        "HTTP_HTTPS",
    }


def test_unix_socket_under_the_validator(tmp_path):
    path = tmp_path / "socket"
    with ServerProcess(ROOT, *APP, f"--bind=unix:{path}", "--root-path=/mounted") as process:
        process.wait_until_serving()
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(path))
        sock.settimeout(TIMEOUT)
        sock.sendall(b"GET /mounted/page HTTP/1.1\r\nHost: test.example\r\nConnection: close\r\n\r\n")
        environ = json.loads(read_all(sock).partition(b"\r\n\r\n")[2])
        assert process.stop() == 0
    assert environ["HTTP_HOST"] == "test.example"
    assert environ["SERVER_NAME"]
    assert environ["SERVER_PORT"].isdecimal()
    assert environ["REMOTE_ADDR"] == ""
    assert environ["SCRIPT_NAME"] == "/mounted"
    assert environ["wsgi.multiprocess"] is False


@pytest.mark.parametrize("workers", ["1", "2"])
def test_application_is_told_whether_others_run_it(workers):
    with ServerProcess(ROOT, *APP, "--bind=127.0.0.1:0", f"--workers={workers}") as process:
        environ = httpx.get(process.wait_until_serving(), timeout=TIMEOUT).json()
        assert process.stop() == 0, process.errors
    assert environ["wsgi.multiprocess"] is (workers == "2")
