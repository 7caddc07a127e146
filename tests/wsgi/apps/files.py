"""Files of several kinds, returned through wsgi.file_wrapper; it is counted how often each is closed."""

# ruff: noqa: SIM115 - the server closes them

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import tempfile
import threading
from pathlib import Path
from urllib.parse import parse_qs

DIRECTORY = Path(os.environ["FILES_DIRECTORY"])
FILE = DIRECTORY / "file"
PATIENCE = 5

opened = []
change = threading.Condition()


class Watched:
    """The closing of a file, noted without changing the file's class."""

    def __init__(self, file, name):
        self.file = file
        self.name = name
        self.closed = 0


class WithoutNumber:
    """A file-like object that has no more than `read` and `close`."""

    def __init__(self, file):
        self._file = file
        self.read = file.read
        self.close = file.close


class Backwards(io.BufferedReader):
    """A file that gives something else than what is in it."""

    def read(self, size=-1):
        if getattr(self, "given", False):
            return b""
        self.given = True
        return super().read()[::-1][:1000]


def open_spooled():
    file = tempfile.SpooledTemporaryFile(max_size=10)
    file.write(FILE.read_bytes())
    file.seek(0)
    return file


def open_temporary():
    file = tempfile.NamedTemporaryFile()
    file.write(FILE.read_bytes())
    file.seek(0)
    return file


def open_pipe():
    reader, writer = os.pipe()
    os.write(writer, b"through a pipe")
    os.close(writer)
    return open(reader, "rb")


def open_ahead():
    file = FILE.open("rb")
    assert len(file.read(10)) == 10  # the buffer holds more
    return file


def open_written():
    file = tempfile.TemporaryFile()
    file.write(b"first" + FILE.read_bytes())
    file.seek(0)
    return file


KINDS = {
    "file": lambda: FILE.open("rb"),
    "unbuffered": lambda: FILE.open("rb", buffering=0),
    "without a number": lambda: WithoutNumber(FILE.open("rb")),
    "memory": lambda: io.BytesIO(FILE.read_bytes()),
    "spooled": open_spooled,
    "temporary": open_temporary,
    "odd block": lambda: FILE.open("rb"),
    "empty": lambda: (DIRECTORY / "empty").open("rb"),
    "pipe": open_pipe,
    "gzip": lambda: gzip.open(DIRECTORY / "gzip"),
    "bz2": lambda: bz2.open(DIRECTORY / "bz2"),
    "lzma": lambda: lzma.open(DIRECTORY / "lzma"),
    "ahead": open_ahead,
    "wrapped": lambda: Backwards(FILE.open("rb", buffering=0)),
    "written": open_written,
}


def app(environ, start_response):
    kind = environ["PATH_INFO"].removeprefix("/")
    if kind == "state":
        return tell_state(start_response)
    query = {key: int(value) for key, (value,) in parse_qs(environ["QUERY_STRING"]).items()}
    file = KINDS[kind]()
    watched = Watched(file, kind)
    opened.append(watched)
    if query.get("offset"):
        seek(file, query["offset"])
    headers = [("Content-Type", "application/octet-stream")]
    status = "200 OK"
    if "count" in query:
        headers.append(("Content-Length", str(query["count"])))
        status = "206 Partial Content"
    elif "length" in query:
        headers.append(("Content-Length", str(FILE.stat().st_size - query.get("offset", 0))))
    start_response(status, headers)
    wrapper = environ["wsgi.file_wrapper"]
    wrapped = wrapper(file, 999) if kind == "odd block" else wrapper(file)
    watch_close(wrapped, watched)
    return wrapped


def seek(file, offset):
    if isinstance(file, WithoutNumber):
        file.read(offset)
    else:
        file.seek(offset)


def watch_close(wrapped, watched):
    close = wrapped.close

    def closing():
        close()
        with change:
            watched.closed += 1
            change.notify_all()

    wrapped.close = closing


def tell_state(start_response):
    with change:
        change.wait_for(lambda: all(each.closed for each in opened), PATIENCE)
        state = {
            "open": sum(not each.closed for each in opened),
            "closed twice": [each.name for each in opened if each.closed > 1],
            "descriptors": len(os.listdir("/proc/self/fd")),
        }
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(state).encode()]
