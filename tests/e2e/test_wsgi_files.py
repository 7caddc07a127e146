"""`wsgi.file_wrapper` over plain HTTP/1.1, where the kernel may send the file, over TLS and over HTTP/2."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import ssl

import httpx
import pytest
import trustme

from tests.e2e.servers import ROOT
from tests.server_process import ServerProcess

TIMEOUT = 20
CONTENT = bytes(range(256)) * 4096 + b"the end"
WHOLE = ["file", "unbuffered", "without a number", "spooled", "temporary", "memory", "odd block"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("files")
    (directory / "file").write_bytes(CONTENT)
    (directory / "empty").write_bytes(b"")
    for compress in (gzip, bz2, lzma):
        (directory / compress.__name__).write_bytes(compress.compress(CONTENT))
    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / "ca.pem")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(directory / "both.pem")
    return directory


@pytest.fixture(scope="module")
def urls(directory):
    """With and without TLS."""
    arguments = (
        *("tests.wsgi.apps.files:app", "--bind=127.0.0.1:0", "--insecure-bind=127.0.0.1:0", "--workers=0"),
        *(f"--tls-certificate={directory / 'both.pem'}", "--logging-access=off", "--wsgi-threads=4"),
    )
    with ServerProcess(ROOT, *arguments, env={"FILES_DIRECTORY": str(directory)}) as process:
        found = {
            url.partition(":")[0]: url for url in (process.wait_until_serving(), process.wait_until_serving())
        }
        yield found
        assert process.stop() == 0, process.errors
        errors = [
            line for line in process.lines if "Error: " in line and "with content-length 99999999" not in line
        ]
        assert errors == []


@pytest.fixture(params=["HTTP/1.1", "HTTP/1.1 over TLS", "HTTP/2 over TLS"])
def client(request, urls, directory):
    trust = ssl.create_default_context(cafile=directory / "ca.pem")
    http2 = request.param.startswith("HTTP/2")
    url = urls["https" if "TLS" in request.param else "http"]
    with httpx.Client(base_url=url, http1=not http2, http2=http2, verify=trust, timeout=TIMEOUT) as client:
        yield client
        # Whatever was sent is closed, and nothing is left open.
        state = client.get("/state").json()
        assert state["open"] == 0
        assert state["closed twice"] == []


def digest(data):
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    "kind", ["file", "unbuffered", "without a number", "spooled", "temporary", "memory", "odd block"]
)
@pytest.mark.parametrize("length", ["", "&length=1"], ids=["", "length"])
@pytest.mark.parametrize("offset", [0, 70_001, len(CONTENT)])
def test_file_from_where_it_is(client, kind, length, offset):
    for _ in range(2):  # and the connection goes on
        response = client.get(f"/{kind}?offset={offset}{length}")
        assert response.status_code == 200
        assert digest(response.content) == digest(CONTENT[offset:])
        if length:
            assert response.headers["content-length"] == str(len(CONTENT) - offset)


@pytest.mark.parametrize("kind", ["file", "without a number", "memory"])
@pytest.mark.parametrize("count", [0, 65_536, 100_001])
def test_no_more_than_the_length_is_sent(client, kind, count):
    response = client.get(f"/{kind}?offset=1000&count={count}")
    assert (response.status_code, response.headers["content-length"]) == (206, str(count))
    assert response.content == CONTENT[1000 : 1000 + count]
    assert client.get("/file").content == CONTENT


@pytest.mark.parametrize("kind", ["file", "without a number"])
def test_head(client, kind):
    response = client.head(f"/{kind}?length=1")
    assert response.headers["content-length"] == str(len(CONTENT))
    assert response.content == b""
    assert client.get("/file").content == CONTENT


def test_empty_file(client):
    response = client.get("/empty")
    assert (response.status_code, response.content) == (200, b"")


def test_pipe_is_read(client):
    assert client.get("/pipe").content == b"through a pipe"


@pytest.mark.parametrize("kind", ["gzip", "bz2", "lzma"])
def test_file_that_decompresses(client, kind):
    assert digest(client.get(f"/{kind}").content) == digest(CONTENT)


def test_file_that_the_application_read_ahead_of(client):
    assert client.get("/ahead").content == CONTENT[10:]


def test_file_that_the_application_wraps_again(client):
    assert client.get("/wrapped").content == CONTENT[::-1][:1000]


def test_file_that_was_written_to_before(client):
    assert client.get("/written").content == b"first" + CONTENT


def test_client_that_leaves_in_the_middle(client):
    for kind in ("file", "without a number"):
        with client.stream("GET", f"/{kind}") as response:
            next(response.iter_raw())
    assert client.get("/file").content == CONTENT


def test_length_beyond_the_end_is_no_complete_response(client):
    try:
        response = client.get("/file?count=99999999")
    except httpx.RemoteProtocolError:
        pass
    else:
        assert response.status_code == 500
    assert client.get("/file").content == CONTENT


def test_no_descriptor_is_left_open(client):
    def ask():
        for kind in ("file", "without a number", "empty", "gzip", "pipe"):
            client.get(f"/{kind}")
            client.head(f"/{kind}")
        return client.get("/state").json()["descriptors"]

    before = ask()
    assert [ask() for _ in range(3)] == [before] * 3
