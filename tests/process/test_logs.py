"""The logs of several real workers in one output: whole lines, all of them, from every process."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from tests.server_process import PATIENCE, URL, clean_environment, connect, get

WORKERS = 4
CLIENTS = 4
REQUESTS = 250  # of each client, every tenth to /error
LONGEST = 12_000

APP = """
    import os, sys

    class Failure(Exception):
        pass

    def fail(number, levels=25):
        if levels:
            return fail(number, levels - 1) + "a line that makes the traceback long" * 0 or None  # xxxxxxxxxxxxxxxxxx
        raise Failure(f"number {number} " + "y" * 3000)

    async def app(scope, receive, send):
        if scope["type"] != "http":
            raise NotImplementedError
        if scope["path"].startswith("/error/"):
            fail(scope["path"].split("/")[2])
        body = str(os.getpid()).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
"""
ACCESS = re.compile(r'<(\d+)> "GET /(\w+)/([0-9.]+)\?(x*) HTTP/1\.1" (\d+)')
RECORD = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d \[(\d+)\] (\w+): (.*)")


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "main.py").write_text(textwrap.dedent(APP), encoding="utf-8")
    return tmp_path


READER = """
import os, sys, time
size, pause = int(sys.argv[1]), float(sys.argv[2])
while data := os.read(0, size):
    os.write(1, data)
    time.sleep(pause)
"""


class Output:
    """What comes out of a pipe, read by a process of its own that takes its time."""

    def __init__(self, directory, size=65_536, pause=0.0):
        self._path = directory / "output"
        reading, self.writing = os.pipe()
        with self._path.open("wb") as file:
            self._reader = subprocess.Popen(
                [sys.executable, "-c", READER, str(size), str(pause)], stdin=reading, stdout=file
            )
        os.close(reading)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._reader.kill()
        self._reader.wait()

    def wait_for(self, pattern):
        """Wait for a match among the first lines, and return it."""
        return wait_until(lambda: re.search(pattern, self.text), lambda: self.text[-3000:])

    def wait_for_count(self, piece, count):
        """Wait until something has come so many times."""
        wait_until(lambda: self.text.count(piece) >= count, lambda: f"{self.text.count(piece)} of {piece}")

    @property
    def text(self):
        return self._path.read_text()

    def end(self):
        """Everything, when all processes have closed it."""
        os.close(self.writing)
        self._reader.wait(PATIENCE)
        return self.text


def wait_until(find, describe):
    """Wait for a file to tell something; there is nothing else to wait for."""
    end = time.monotonic() + PATIENCE
    while not (found := find()):
        assert time.monotonic() < end, describe()
        time.sleep(0.05)
    return found


class Server:
    """`python -m trioserve` with several workers."""

    def __init__(self, directory, *arguments, stdout, stderr):
        command = [sys.executable, "-m", "trioserve", "main:app", "-w", str(WORKERS), "-b", "127.0.0.1:0"]
        self.process = subprocess.Popen(
            [*command, *arguments], cwd=directory, env=clean_environment(), stdout=stdout, stderr=stderr
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.process.stderr:
            self.process.stderr.close()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


def send_requests(url):
    """Send all requests, each with a number, over connections that stay open; returns the workers' pids."""
    pids = set()
    threads = [threading.Thread(target=run_client, args=(url, client, pids)) for client in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return pids


def run_client(url, client, pids):
    for begin in range(0, REQUESTS, 25):  # a new connection now and then, so that all workers take part
        with connect(url) as sock, sock.makefile("rb") as file:
            for index in range(begin, begin + 25):
                kind = "error" if index % 10 == 0 else "fine"
                target = f"/{kind}/{client}.{index}?{'x' * length_of(index)}"
                sock.sendall(f"GET {target} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
                length = 0
                while line := file.readline().strip():
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                body = file.read(length)
                if kind == "fine":
                    pids.add(int(body))


def length_of(index):
    """Mostly short, and now and then three times what a pipe takes at once."""
    return int((index * 7919 % 1000 / 999) ** 3 * LONGEST)


EXPECTED = {
    f"{client}.{index}": ("error" if index % 10 == 0 else "fine", length_of(index))
    for client in range(CLIENTS)
    for index in range(REQUESTS)
}
ERRORS = {number for number, (kind, _) in EXPECTED.items() if kind == "error"}


def take_apart(text):
    """Check every line; returns the access lines' numbers, the failures' numbers, and the pids of both."""
    access, failures, access_pids, record_pids = [], [], set(), set()
    lines = text.splitlines()
    assert text.endswith("\n")
    position = 0
    while position < len(lines):
        line = lines[position]
        position += 1
        if match := ACCESS.fullmatch(line):
            kind, length = EXPECTED[match[3]]
            assert (match[2], len(match[4])) == (kind, length)
            assert match[5] == ("500" if kind == "error" else "200")
            access.append(match[3])
            access_pids.add(int(match[1]))
            continue
        match = RECORD.fullmatch(line)
        assert match, line[:300]
        below = []
        while position < len(lines) and lines[position].startswith("  "):
            below.append(lines[position])
            position += 1
        record_pids.add(int(match[1]))
        if "error in the application" in match[3] or below:
            assert below[0] == "  Traceback (most recent call last):"
            assert len([each for each in below if "in fail" in each]) >= 1
            number = re.fullmatch(r"  (?:main\.)?Failure: number ([0-9.]+) y{3000}", below[-1])
            assert number, below[-1][:200]
            failures.append(number[1])
    return access, failures, access_pids, record_pids


@pytest.mark.parametrize(("size", "pause"), [(65_536, 0.0), (4_096, 0.002)])
def test_all_lines_of_all_workers_arrive_whole_in_one_pipe(directory, size, pause):
    arguments = ["--logging-access-format", '%(p)s "%(r)s" %(s)s', "--lifecycle-lifespan", "off"]
    with Output(directory, size, pause) as output:
        with Server(directory, *arguments, stdout=output.writing, stderr=output.writing) as server:
            pids = send_requests(output.wait_for(URL.pattern)[1])
            output.wait_for_count('> "GET /', len(EXPECTED))
            output.wait_for_count("Failure: number", len(ERRORS))
            assert server.stop() == 0
        access, failures, access_pids, record_pids = take_apart(output.end())
    assert sorted(access) == sorted(EXPECTED)
    assert sorted(failures) == sorted(ERRORS)
    assert pids <= access_pids <= record_pids
    assert len(pids) > 1


def test_all_lines_of_all_workers_arrive_whole_in_one_file(directory):
    path = directory / "one.log"
    arguments = ["--logging-access-format", '%(p)s "%(r)s" %(s)s', "--lifecycle-lifespan", "off"]
    arguments += ["--logging-access", "one.log"]
    with path.open("ab") as file, Server(directory, *arguments, stdout=file, stderr=file) as server:
        pids = send_requests(wait_until(lambda: URL.search(path.read_text()), path.read_text)[1])
        assert server.stop() == 0
    access, failures, access_pids, _ = take_apart(path.read_text())
    assert sorted(access) == sorted(EXPECTED)
    assert sorted(failures) == sorted(ERRORS)
    assert pids <= access_pids


def test_json_of_all_workers(directory):
    arguments = ["--logging-format", "json", "--lifecycle-lifespan", "off"]
    with Output(directory) as output:
        with Server(directory, *arguments, stdout=output.writing, stderr=output.writing) as server:
            pids = send_requests(output.wait_for(r"serving \S+ on ([^\s\"]+)")[1])
            output.wait_for_count('"target":', len(EXPECTED))
            output.wait_for_count("Failure: number", len(ERRORS))
            assert server.stop() == 0
        entries = [json.loads(line) for line in output.end().splitlines()]
    access = [entry for entry in entries if "target" in entry]
    numbers = [re.split(r"[/?]", entry["target"])[2] for entry in access]
    assert sorted(numbers) == sorted(EXPECTED)
    failures = [entry for entry in entries if "Failure" in entry.get("exception", "")]
    assert len(failures) == len(ERRORS)
    assert pids <= {entry["pid"] for entry in access}
    assert all(isinstance(entry["pid"], int) for entry in entries)


DICTIONARY = """
[formatters.mine]
format = "MINE %(process)d %(levelname)s %(message)s"
[handlers.file]
class = "trioserve.telemetry.logs.WholeRecordHandler"
path = "mine.log"
formatter = "mine"
[loggers.trioserve]
handlers = ["file"]
level = "INFO"
"""


def test_a_logging_configuration_counts_in_all_workers_and_is_reopened_in_all(directory):
    (directory / "logging.toml").write_text(DICTIONARY)
    mine, rotated, access = directory / "mine.log", directory / "mine.log.1", directory / "access.log"
    arguments = ["--logging-config", "logging.toml", "--logging-access", "access.log"]
    arguments += ["--lifecycle-lifespan", "off"]
    with Server(directory, *arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as server:
        url = wait_until(lambda: mine.exists() and URL.search(mine.read_text()), mine.read_text)[1]
        mine.rename(rotated)
        access.rename(directory / "access.log.1")
        server.process.send_signal(signal.SIGUSR1)
        wait_until(lambda: len(owners_of(mine)) > WORKERS <= len(owners_of(access)), mine.read_text)
        assert owners_of(rotated) == set()
        pids = send_requests(url)
        assert server.stop() == 0
        assert server.process.stderr.read() == b""
    assert pids <= set(map(int, re.findall(r"^MINE (\d+) ERROR", mine.read_text(), re.MULTILINE)))
    assert len(access.read_text().splitlines()) == len(EXPECTED)
    assert (directory / "access.log.1").read_text() == ""


def owners_of(path):
    """The processes that have a file open."""
    found = set()
    for link in subprocess.run(
        ["find", "/proc", "-maxdepth", "3", "-path", "*/fd/*", "-lname", str(path), "-printf", "%h\n"],
        capture_output=True,
        text=True,
    ).stdout.split():
        found.add(int(link.split("/")[2]))
    return found


def test_full_disks_never_stop_the_serving(directory):
    arguments = [
        "--logging-access",
        "/dev/full",
        "--logging-file",
        "/dev/full",
        "--lifecycle-lifespan",
        "off",
    ]
    arguments += ["-b", f"unix:{directory}/web.sock"]
    with Server(directory, *arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as server:
        web = directory / "web.sock"
        wait_until(web.exists, lambda: "no socket")
        command = ["curl", "-s", "-S", "-w", " %{http_code}\n", "--unix-socket", str(web)]
        paths = [f"http://test/fine/{number}" for number in range(200)] + ["http://test/error/1"] * 20
        answers = subprocess.run([*command, *paths], capture_output=True, text=True, timeout=PATIENCE)
        assert answers.stderr == ""
        statuses = re.findall(r" (\d+)$", answers.stdout, re.MULTILINE)
        assert statuses == ["200"] * 200 + ["500"] * 20
        assert server.stop() == 0
        assert server.process.stderr.read() == b""


def test_an_output_that_nobody_reads_never_stops_the_serving(directory):
    unread, access = os.pipe()
    with Output(directory) as errors:
        with Server(directory, "--lifecycle-lifespan", "off", stdout=access, stderr=errors.writing) as server:
            url = errors.wait_for(URL.pattern)[1]
            send_requests(url)
            assert get(url, "/fine/1")[0] == 200
            assert server.stop() == 0
        assert "lines were lost" in errors.end()
    os.close(access)
    os.close(unread)
