from __future__ import annotations

import subprocess
import sys

import pytest

from trioserve.config import Config, LoggingSettings, TimeoutSettings


def hello(text):
    async def app(scope, receive, send):
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": text})

    return app


async def test_the_fixture_starts_servers(trioserve_server):
    first = await trioserve_server(hello(b"one"))
    second = await trioserve_server(hello(b"two"))
    assert (await first.client().get("/")).text == "one"
    assert (await second.client().get("/")).text == "two"


async def test_the_fixture_takes_settings_and_a_jumping_clock(trioserve_server, autojump_clock):
    config = Config(logging=LoggingSettings(access="off"), timeouts=TimeoutSettings(keep_alive=1000))
    server = await trioserve_server(hello(b"one"), config)
    client = server.raw_client()
    await client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    await client.receive_response()
    await client.wait_closed()
    assert autojump_clock.current_time() >= 1000


def run(tmp_path, source, *options):
    (tmp_path / "test_it.py").write_text(source)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:randomly",
        *options,
        "test_it.py",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


LIFESPAN_TEST = """
import pytest

notes = []

async def app(scope, receive, send):
    assert scope["type"] == "lifespan"
    await receive()
    await send({"type": "lifespan.startup.complete"})
    notes.append("startup")
    await receive()
    await send({"type": "lifespan.shutdown.complete"})
    notes.append("shutdown")

MARK
async def test_one(trioserve_server):
    await trioserve_server(app)
    assert notes == ["startup"]

def test_two():
    assert notes == ["startup", "shutdown"]
"""


@pytest.mark.parametrize(
    "mark",
    ["@pytest.mark.trio", "@pytest.mark.anyio\n@pytest.mark.parametrize('anyio_backend', ['trio'])"],
    ids=["pytest-trio", "anyio"],
)
def test_the_application_is_shut_down_at_the_end_of_the_test(tmp_path, mark):
    code, output = run(tmp_path, LIFESPAN_TEST.replace("MARK", mark))
    assert code == 0, output


def test_a_failed_start_fails_the_test(tmp_path):
    source = """
import pytest

async def app(scope, receive, send):
    await receive()
    raise RuntimeError("no database")

@pytest.mark.trio
async def test_one(trioserve_server):
    await trioserve_server(app)
"""
    code, output = run(tmp_path, source)
    assert code == 1
    assert "LifespanFailed" in output
    assert "no database" in output


def test_the_plugin_imports_neither_trio_nor_the_server(tmp_path):
    source = """
import sys

def test_modules():
    assert "trioserve.testing.pytest_plugin" in sys.modules
    assert "trio" not in sys.modules
    assert "trioserve.server" not in sys.modules
"""
    code, output = run(tmp_path, source, "-p", "no:trio", "-p", "no:pytest_trio", "-p", "no:anyio")
    assert code == 0, output
