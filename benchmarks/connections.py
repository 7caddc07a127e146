"""Requests without load: one checked answer, and thousands of connections that stay open.

Used where the number of requests is fixed: before a case, to see that the server answers rightly, and in the
memory case, where each connection makes one request and is then left idle. Everything here is blocking,
bounded by timeouts, and closed when the block is left.
"""

from __future__ import annotations

import contextlib
import http.client
import resource
import select
import socket
import ssl
from typing import TYPE_CHECKING

from benchmarks import apps
from benchmarks.h2load import fetch
from benchmarks.load import LoadError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.servers import Running


_TIMEOUT = 10.0
_BATCH = 100
_SPARE_FILES = 200

_REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: benchmark\r\nAccept: */*\r\n\r\n"


def check_answer(running: Running) -> None:
    """Make one request and raise LoadError unless the answer is what the application sends."""
    content = fetch(running.url) if running.setting.http2 else _fetch(running)
    if content != apps.answer(running.setting.app):
        raise LoadError(f"wrong first answer: {len(content)} bytes")


def _fetch(running: Running) -> bytes:
    """The content of one answer over HTTP/1.1."""
    body = bytes(apps.BODY_SIZE) if running.setting.app == "upload" else None
    method = "POST" if body else "GET"
    connection: http.client.HTTPConnection
    if running.setting.tls:
        context = ssl.create_default_context(cafile=str(running.output.parent / "certificate.pem"))
        connection = http.client.HTTPSConnection("127.0.0.1", running.port, timeout=_TIMEOUT, context=context)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=_TIMEOUT)
    with contextlib.closing(connection):
        try:
            connection.request(method, "/", body)
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise LoadError(f"the first request failed: {error!r}") from error
    if answer.status != 200:
        raise LoadError(f"wrong first answer: status {answer.status}, {len(content)} bytes")
    return content


def raise_file_limit() -> int:
    """Raise the limit of open files to the hard one, also for servers; return the connections it allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return 1_000_000 if hard == resource.RLIM_INFINITY else hard - _SPARE_FILES


@contextlib.contextmanager
def idle_connections(port: int, count: int) -> Iterator[None]:
    """`count` connections that have made one request each and are open and idle inside the block.

    Raises LoadError if one fails, or if the server closed any before the block was left.
    """
    with contextlib.ExitStack() as stack:
        opened: list[socket.socket] = []
        while len(opened) < count:
            batch = [
                stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT))
                for _ in range(min(_BATCH, count - len(opened)))
            ]
            _one_request_each(batch)
            opened += batch
        yield
        _check_open(opened)


def _one_request_each(batch: list[socket.socket]) -> None:
    for connection in batch:
        connection.sendall(_REQUEST)
    for connection in batch:
        received = b""
        while not received.endswith(apps.answer("hello")):
            part = _receive(connection)
            if not part:
                raise LoadError(f"a connection was closed before its answer was complete: {received[:200]!r}")
            received += part
        if not received.startswith(b"HTTP/1.1 200"):
            raise LoadError(f"wrong answer: {received[:200]!r}")


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65536)
    except OSError as error:
        raise LoadError(f"a connection failed: {error!r}") from error


def _check_open(opened: list[socket.socket]) -> None:
    poll = select.poll()
    for connection in opened:
        poll.register(connection, select.POLLIN)
    if ended := len(poll.poll(0)):
        raise LoadError(f"the server closed {ended} of {len(opened)} idle connections")
