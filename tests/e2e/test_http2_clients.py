"""The HTTP/2 clients that people use, each against a real `trioserve` process, over TLS and without it."""

from __future__ import annotations

import hashlib
import json
import re
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
import trio

from tests.e2e.programs import CHROMIUM_FLAGS, TIMEOUT, Served, run, serve, tls

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

APP = "tests.e2e.apps.http2_app:app"
NODE_CLIENT = Path(__file__).parent / "http2" / "client.mjs"
LARGE = 10 * 1024 * 1024
PIECE = bytes(range(256)) * 256


@pytest.fixture(scope="module")
def secure(certificates, tmp_path_factory) -> Iterator[Served]:
    log = tmp_path_factory.mktemp("secure") / "access.log"
    with serve(APP, certificates, log, *tls(certificates)) as served:
        yield served
        lines = [line.split() for line in served.logged()]
        assert {line[0] for line in lines} <= {"HTTP/2"}
        assert [line for line in lines if line[2] != "/endless" and line[3:] != ["200", "complete"]] == []


@pytest.fixture(scope="module")
def plain(certificates, tmp_path_factory) -> Iterator[Served]:
    with serve(APP, certificates, tmp_path_factory.mktemp("plain") / "access.log") as served:
        yield served
        served.logged()


def curl(served: Served, path: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    flags = ["--silent", "--show-error", "--verbose", "--max-time", TIMEOUT, "--cacert", served.authority]
    return run("curl", *flags, *arguments, served.url + path)


def contents(size: int) -> bytes:
    """What the application sends for a size."""
    return (PIECE * (size // len(PIECE) + 1))[:size]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# -- curl ----------------------------------------------------------------------------------------------------------


def test_curl_by_alpn(secure):
    result = curl(secure, "/", "--http2", "--write-out", "%{http_version}")
    assert result.stdout == "https 2 GET /\n2"
    assert "server accepted h2" in result.stderr


def test_curl_on_one_connection(secure):
    result = curl(secure, "/", "--http2", secure.url + "/a", "--write-out", "%{num_connects}\n")
    assert result.stdout == "https 2 GET /a\n1\nhttps 2 GET /\n0\n"


def test_curl_post(secure):
    result = curl(secure, "/upload", "--http2", "--data", "a=b")
    assert json.loads(result.stdout) == {"sha256": sha256(b"a=b"), "size": 3, "trailers": {}}


def test_curl_large_upload(secure, tmp_path):
    file = tmp_path / "upload"
    file.write_bytes(contents(LARGE))
    result = curl(secure, "/upload", "--http2", "--upload-file", file)
    assert json.loads(result.stdout) == {"sha256": sha256(contents(LARGE)), "size": LARGE, "trailers": {}}


def test_curl_large_download(secure, tmp_path):
    file = tmp_path / "download"
    curl(secure, f"/download?size={LARGE}", "--http2", "--output", file)
    assert sha256(file.read_bytes()) == sha256(contents(LARGE))


def test_curl_head(secure):
    result = curl(secure, "/", "--http2", "--head")
    head = result.stdout.lower().splitlines()
    assert head[0].strip() == "http/2 200"
    assert "content-length: 15" in head


def test_curl_trailers(secure):
    result = curl(secure, "/trailers", "--http2")
    assert result.stdout == "counted\n"
    assert "< x-checksum: 8" in result.stderr.splitlines()


def test_curl_with_prior_knowledge(plain):
    result = curl(plain, "/", "--http2-prior-knowledge", "--write-out", "%{http_version}")
    assert result.stdout == "http 2 GET /\n2"


def test_curl_upload_with_prior_knowledge(plain, tmp_path):
    file = tmp_path / "upload"
    file.write_bytes(contents(LARGE))
    result = curl(plain, "/upload", "--http2-prior-knowledge", "--upload-file", file)
    assert json.loads(result.stdout)["sha256"] == sha256(contents(LARGE))


def test_curl_without_the_upgrade_gets_http_1(plain):
    result = curl(plain, "/", "--http2", "--write-out", "%{http_version}")
    assert result.stdout == "http 1.1 GET /\n1.1"


def test_curl_with_the_upgrade(certificates, tmp_path):
    with serve(APP, certificates, tmp_path / "access.log", "--http2-h2c-upgrade") as served:
        result = curl(served, "/", "--http2", served.url + "/a", "--write-out", "%{http_version}\n")
        assert result.stdout == "http 2 GET /a\n2\nhttp 2 GET /\n2\n"
        assert "< HTTP/1.1 101" in result.stderr
        assert {line.split()[0] for line in served.logged()} == {"HTTP/2"}


def test_nghttp_with_the_upgrade(certificates, tmp_path):
    with serve(APP, certificates, tmp_path / "access.log", "--http2-h2c-upgrade") as served:
        result = run("nghttp", "-nvu", served.url + "/trailers", served.url + "/download?size=100000")
        assert "HTTP Upgrade success" in result.stdout
        assert list(statuses(result.stdout).values()) == [["200"], ["200"]]
        assert served.logged() == [
            "HTTP/2 GET /trailers 200 complete",
            "HTTP/2 GET /download?size=100000 200 complete",
        ]


# -- nghttp and h2load ---------------------------------------------------------------------------------------------


def statuses(output: str) -> dict[int, list[str]]:
    """The statuses that nghttp saw on each stream."""
    found: dict[int, list[str]] = {}
    for stream, status in re.findall(r"recv \(stream_id=(\d+)\) :status: (\d+)", output):
        found.setdefault(int(stream), []).append(status)
    return found


@pytest.mark.parametrize("flags", [["-p", 256, "-p", 1, "-p", 16], ["--no-dep"]], ids=["tree", "no tree"])
@pytest.mark.parametrize("served", ["secure", "plain"])
def test_nghttp_with_several_requests(request, served, flags):
    url = request.getfixturevalue(served).url
    paths = ["/", "/download?size=100000", "/page", "/trailers", "/part/1.js"]
    result = run("nghttp", "-nv", *flags, *[url + path for path in paths])
    assert list(statuses(result.stdout).values()) == [["200"]] * len(paths)
    assert "RST_STREAM" not in result.stdout
    codes = re.findall(r"error_code=(\w+)", result.stdout)
    assert set(codes) == {"NO_ERROR"}


def test_nghttp_with_a_head_in_several_frames(secure):
    result = run("nghttp", "-nv", "--continuation", secure.url)
    block = re.search(r"send HEADERS frame <length=(\d+)", result.stdout)
    assert int(block[1]) > 16384  # the size of the whole field block; no frame may be larger than that
    assert list(statuses(result.stdout).values()) == [["200"]]


def test_nghttp_that_expects_100_continue(secure, tmp_path):
    file = tmp_path / "upload"
    file.write_bytes(contents(300_000))
    flags = ["-v", "-d", file, "--expect-continue", "--trailer", "x-checksum: 1"]
    result = run("nghttp", *flags, secure.url + "/upload")
    assert list(statuses(result.stdout).values()) == [["100", "200"]]
    assert '"size": 300000' in result.stdout
    assert '"trailers": {"x-checksum": "1"}' in result.stdout


@pytest.mark.parametrize(("flags", "pushed"), [([], True), (["--no-push"], False)], ids=["push", "no push"])
def test_nghttp_push(secure, flags, pushed):
    result = run("nghttp", "-nv", *flags, secure.url + "/push")
    assert ("recv PUSH_PROMISE frame" in result.stdout) is pushed
    assert list(statuses(result.stdout).values()) == [["200"]] * (1 + pushed)


@pytest.mark.parametrize("served", ["secure", "plain"])
def test_h2load(request, served):
    result = run("h2load", "-n", 2000, "-c", 4, "-m", 16, request.getfixturevalue(served).url)
    counts = "2000 total, 2000 started, 2000 done, 2000 succeeded, 0 failed, 0 errored, 0 timeout"
    assert f"requests: {counts}" in result.stdout
    assert "status codes: 2000 2xx" in result.stdout


# -- node ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def node(secure):
    """What node's client saw."""
    return json.loads(run("node", NODE_CLIENT, secure.url, secure.authority).stdout)


def test_node_many_requests_at_once(node):
    assert node["multiplex"] == [[200, index * 1777] for index in range(60)]


def test_node_trailers_both_ways(node):
    seen = node["trailers"]
    assert seen["body"] == "counted\n"
    assert seen["received"] == {"x-checksum": "8"}
    checksum = sha256(b"up" * 150_000)
    assert seen["sent"] == checksum
    assert seen["echoed"] == {"sha256": checksum, "size": 300_000, "trailers": {"x-checksum": checksum}}


def test_node_push(node):
    assert node["push"] == {
        "page": "pushing\n",
        "path": "/style.css",
        "status": 200,
        "seen": "yes",
        "body": "body { color: teal }\n",
    }


def test_node_early_hint(node):
    assert node["hint"] == {"informational": [103], "body": "hinted\n"}


def test_node_cancels_one_stream_while_others_go_on(node):
    assert node["cancel"] == {"large": 3_000_000, "small": "https 2 GET /\n", "ended": "endless has ended\n"}


def test_node_ping(node):
    assert node["ping"] is True


# -- browsers and Python -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_chromium_loads_a_page_with_many_parts(certificates, tmp_path):
    log = tmp_path / "access.log"
    with serve(APP, certificates, log, *tls(certificates)) as served:
        flags = [*CHROMIUM_FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
        page = run("chromium", *flags, served.url + "/page").stdout
        assert '<p id="count">20 parts</p>' in page
        lines = served.logged()
    wanted = ["/page", "/style.css", *[f"/part/{number}.js" for number in range(20)]]
    assert sorted(line for line in lines if "favicon" not in line) == sorted(
        f"HTTP/2 GET {path} 200 complete" for path in wanted
    )


async def test_httpx(secure):
    context = ssl.create_default_context(cafile=secure.authority)
    downloads: dict[int, str] = {}
    async with httpx.AsyncClient(http2=True, verify=context, base_url=secure.url, timeout=TIMEOUT) as client:

        async def download(size: int) -> None:
            response = await client.get("/download", params={"size": size})
            assert response.http_version == "HTTP/2"
            downloads[size] = sha256(response.content)

        async with trio.open_nursery() as nursery:
            for size in range(0, 500_000, 50_000):
                nursery.start_soon(download, size)
        response = await client.post("/upload", content=contents(1_000_000))
    assert downloads == {size: sha256(contents(size)) for size in range(0, 500_000, 50_000)}
    assert response.json()["sha256"] == sha256(contents(1_000_000))
