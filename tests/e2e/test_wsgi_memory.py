"""Two hundred megabytes through a WSGI application, each way: what the process holds of them.

On HTTP/2, where clients take long for it, it is less, and still much more than what may be held.
"""

from __future__ import annotations

import socket
import time
import zlib
from pathlib import Path

import pytest
import trio

from tests.e2e.programs import ROOT, run
from tests.server_process import ServerProcess
from tests.wsgi.outcomes import Address
from trioserve.testing.http2_client import Http2Client

MB = 1 << 20
LARGE = 200 * MB
LARGE_ON_HTTP2 = 64 * MB
PIECE = 64 * 1024
ALLOWED_GROWTH = 20 * MB
TIMEOUT = 30


class Measured:
    """A server process with its memory."""

    def __init__(self, process: ServerProcess) -> None:
        self.url = process.wait_until_serving()
        self.address = Address.of(self.url)
        self._proc = Path(f"/proc/{process.process.pid}")

    def reset_peak(self) -> int:
        """Forget the peak; return the bytes that are resident now."""
        (self._proc / "clear_refs").write_text("5")
        return self._memory("VmRSS")

    def peak(self) -> int:
        """The most bytes that were resident at any time since then."""
        return self._memory("VmHWM")

    def _memory(self, key: str) -> int:
        for line in (self._proc / "status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"no {key}")


@pytest.fixture(scope="module")
def measured():
    arguments = (
        *("tests.wsgi.apps.transfers:app", "--interface=wsgi", "--workers=0"),
        *("--bind=127.0.0.1:0", "--logging-access=off"),
    )
    with ServerProcess(ROOT, *arguments) as process:
        yield Measured(process)
        assert process.stop() == 0, process.errors
        assert "Error" not in process.errors


@pytest.fixture(scope="module")
def large_file(tmp_path_factory):
    """A file of zeros that takes no space."""
    file = tmp_path_factory.mktemp("large") / "file"
    with file.open("wb") as opened:
        opened.truncate(LARGE)
    return file


def answer_to(size):
    """What the application says of so many zeros."""
    checksum = 0
    for _ in range(size // PIECE):
        checksum = zlib.crc32(bytes(PIECE), checksum)
    return f"{size} {checksum}"


UPLOADS = {
    "HTTP/1.1 with a length": ("--http1.1",),
    "HTTP/1.1 in chunks": ("--http1.1", "--header", "Transfer-Encoding: chunked"),
}


@pytest.mark.parametrize("kind", UPLOADS)
def test_upload_to_an_application_that_reads_slowly(measured, large_file, kind):
    curl = ("curl", "--silent", "--show-error", "--max-time", TIMEOUT, *UPLOADS[kind])
    run(*curl, "--data-binary", "warm up", f"{measured.url}/upload")
    before = measured.reset_peak()
    result = run(*curl, "--upload-file", large_file, f"{measured.url}/upload")
    growth = measured.peak() - before
    assert result.stdout == answer_to(LARGE)
    assert growth < ALLOWED_GROWTH


async def test_upload_over_http2_to_an_application_that_reads_slowly(measured):
    async with Http2Client(await trio.open_tcp_stream(*measured.address), timeout=TIMEOUT) as client:
        await client.start()
        await client.response(await client.request("POST", "/upload", body=b"warm up"))
        before = measured.reset_peak()
        response = await client.response(await client.request("POST", "/upload", body=bytes(LARGE_ON_HTTP2)))
        growth = measured.peak() - before
    assert response.body.decode() == answer_to(LARGE_ON_HTTP2)
    assert growth < ALLOWED_GROWTH


def test_download_to_a_client_that_reads_slowly(measured):
    def download(size):
        received = 0
        with socket.create_connection(measured.address, timeout=TIMEOUT) as sock:
            sock.sendall(f"GET /download?size={size} HTTP/1.0\r\nHost: a\r\n\r\n".encode())
            while piece := sock.recv(MB):
                received += len(piece)
                time.sleep(0.0005)
        return received

    download(MB)
    before = measured.reset_peak()
    assert download(LARGE) > LARGE
    growth = measured.peak() - before
    assert growth < ALLOWED_GROWTH


def test_download_over_http2(measured):
    curl = ("curl", "--silent", "--show-error", "--max-time", TIMEOUT, "--http2-prior-knowledge")
    quiet = (*curl, "--output", "/dev/null", "--write-out", "%{size_download}")
    run(*quiet, f"{measured.url}/download?size={MB}")
    before = measured.reset_peak()
    result = run(*quiet, "--limit-rate", "100M", f"{measured.url}/download?size={LARGE_ON_HTTP2}")
    growth = measured.peak() - before
    assert result.stdout == str(LARGE_ON_HTTP2)
    assert growth < ALLOWED_GROWTH


def test_client_that_does_not_read_at_all_holds_little(measured):
    before = measured.reset_peak()
    socks = []
    try:
        for _ in range(16):
            socks.append(sock := socket.create_connection(measured.address, timeout=TIMEOUT))
            sock.sendall(f"GET /download?size={LARGE} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        for sock in socks:
            assert sock.recv(9) == b"HTTP/1.1 "
        # As much as the threads can make until they have to wait.
        time.sleep(0.5)
        growth = measured.peak() - before
    finally:
        for sock in socks:
            sock.close()
    assert growth < ALLOWED_GROWTH
