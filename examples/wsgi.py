"""A WSGI application: count slowly, until the client leaves; or digest what it sends.

    trioserve examples.wsgi:app
    curl -N http://127.0.0.1:8000/
    curl -T some-file http://127.0.0.1:8000/

Nothing here is asynchronous: each request has a thread for as long as it lasts (`[wsgi] threads` at once). Reading
and writing wait for the client, so neither a large upload nor an endless response is ever held in memory. A thread
that sleeps or computes cannot be interrupted; asking `trioserve.disconnected` is how it learns that its work is for
nobody any more.
"""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

PIECE = 64 * 1024
INTERVAL = 0.1
PLAIN = [("Content-Type", "text/plain; charset=utf-8")]


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer a request without a body by counting, and another one with the digest of its body."""
    start_response("200 OK", PLAIN)
    if environ["REQUEST_METHOD"] == "GET":
        return count(environ.get("trioserve.disconnected", lambda: False))
    digest = hashlib.sha256()
    while piece := environ["wsgi.input"].read(PIECE):
        digest.update(piece)
    return [f"{digest.hexdigest()}\n".encode()]


def count(disconnected: Callable[[], bool]) -> Iterator[bytes]:
    """Give a line every `INTERVAL` seconds."""
    number = 0
    while not disconnected():
        number += 1
        yield b"%d\n" % number
        time.sleep(INTERVAL)
