from __future__ import annotations

import os
import signal

import pytest

from tests.process.load import Load
from tests.process.supervised import Supervised, spawned_by_default, wait_until

MAIN = """
from part import TEXT

async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(TEXT))]})
    await send({"type": "http.response.body", "body": TEXT})
"""


def write(path, text: str) -> None:
    draft = path.with_suffix(".draft")
    draft.write_text(text)
    os.replace(draft, path)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "part.py").write_text("TEXT = b'one'")
    (tmp_path / "main.py").write_text(MAIN)
    return tmp_path


def start(folder, *options: str, **more) -> Supervised:
    return Supervised(folder, "--reload", "--timeouts-graceful", "1", *options, "main:app", **more)


def wait_until_watching(server: Supervised) -> None:
    """It may have been said before another line that was waited for."""
    if not any("watching " in line for line in server.lines):
        server.wait_for_line("watching ")


def wait_for_answer(server: Supervised, url: str, text: bytes) -> None:
    wait_until(lambda: {server.ask(url) for _ in range(5)} == {text}, f"{text!r} is served")


@spawned_by_default
def test_saves_are_followed_and_mistakes_leave_the_old_code_serving(folder, preload):
    options = ["--process-preload"] if preload else []
    with start(folder, *options) as server:
        url = server.wait_until_serving()
        wait_until_watching(server)
        with Load(url, clients=2) as load:
            load.wait_for(10)
            write(folder / "part.py", "TEXT = b'two'")
            server.wait_for_line("part.py changed; replacing")
            server.wait_for_workers(2)
            wait_for_answer(server, url, b"two")

            write(folder / "part.py", "TEXT = b'three")
            server.wait_for_line("SyntaxError: unterminated string")
            server.wait_for_line("old ones stay")
            assert server.ask(url) == b"two"

            write(folder / "part.py", "TEXT = b'four'")
            server.wait_for_workers(3)
            wait_for_answer(server, url, b"four")
        assert load.failures == []
        assert server.stop() == 0
        assert server.processes() == set()


def test_a_burst_of_saves_restarts_once(folder):
    with start(folder) as server:
        url = server.wait_until_serving()
        wait_until_watching(server)
        for number in range(40):
            (folder / f"module{number}.py").write_text(f"NUMBER = {number}")
        write(folder / "part.py", "TEXT = b'two'")
        server.wait_for_line(r"module0.py, module1.py, module10.py and 38 more changed")
        server.wait_for_workers(2)
        wait_for_answer(server, url, b"two")
        assert server.stop() == 0
        assert len(server.ready) == 2


def test_a_save_during_a_restart_leads_to_one_more(folder):
    with start(folder) as server:
        url = server.wait_until_serving()
        wait_until_watching(server)
        slow = "import time; time.sleep(1.5)\n"
        write(folder / "part.py", f"{slow}TEXT = b'two'")
        server.wait_for_line("part.py changed")
        write(folder / "part.py", "TEXT = b'three'")
        wait_for_answer(server, url, b"three")
        assert server.stop() == 0
        assert len(server.ready) <= 3


@pytest.mark.parametrize("options", [("-w", "2"), ("--process-preload",)], ids=["spawned", "preloaded"])
def test_a_save_ends_a_worker_that_does_not_come_to_the_end_of_its_import(folder, options):
    with start(folder, *options) as server:
        url = server.wait_until_serving()
        wait_until_watching(server)
        hang = "import sys, threading; print('importing', file=sys.stderr); threading.Event().wait()"
        for text in (b"two", b"three"):
            write(folder / "part.py", hang)
            server.wait_for_line("importing")
            write(folder / "part.py", f"TEXT = {text}")
            server.wait_for_line("info: reloaded")
            wait_for_answer(server, url, text)
        assert "error" not in server.errors
        assert server.stop() == 0
        assert server.processes() == set()


def test_a_first_start_that_fails_waits_for_the_next_save(folder):
    write(folder / "part.py", "TEXT = absent")
    with start(folder, "-w", "2") as server:
        server.wait_for_line("NameError: name 'absent' is not defined")
        wait_until_watching(server)
        write(folder / "part.py", "TEXT = b'two'")
        url = server.wait_until_serving()
        assert server.ask(url) == b"two"
        assert server.stop() == 0


def test_a_first_start_that_fails_can_be_stopped(folder):
    write(folder / "part.py", "TEXT = absent")
    with start(folder) as server:
        wait_until_watching(server)
        server.signal(signal.SIGINT)
        server.wait()
        assert server.processes() == set()


def test_the_configuration_and_the_environment_file_are_followed(folder):
    (folder / "part.py").write_text("import os; TEXT = os.environ['WORD'].encode()")
    (folder / "words.env").write_text("WORD=one")
    file = folder / "trioserve.toml"
    file.write_text('env_file = "words.env"')
    with start(folder) as server:
        url = server.wait_until_serving()
        wait_until_watching(server)
        write(folder / "words.env", "WORD=two")
        server.wait_for_line("words.env changed")
        wait_for_answer(server, url, b"two")

        write(file, 'env_file = "absent.env"')
        server.wait_for_line("absent.env is not a file|absent.env")
        assert server.ask(url) == b"two"

        (folder / "other").mkdir()
        write(file, 'env_file = "words.env"\nreload_dirs = ["other"]')
        server.wait_for_line(f"watching {folder}/other")
        (folder / "other" / "library.py").touch()
        server.wait_for_line("other/library.py changed")
        assert server.stop() == 0


def test_without_the_extra_it_says_what_to_install(folder):
    (folder / "watchfiles.py").write_text("raise ImportError('no module named watchfiles')")
    with start(folder, env={"PYTHONPATH": str(folder)}) as server:
        assert server.wait() == 2
        (line,) = server.lines
        assert 'pip install "trioserve[reload]"' in line
