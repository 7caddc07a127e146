"""The applications that every server serves, as small as ASGI or WSGI allows.

They do no work of their own, so that what is measured is the server. Each answers one path and one method;
none looks at the request beyond what its case needs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

CHUNK = bytes(64 * 1024)
CHUNKS = 160
BODY_SIZE = len(CHUNK) * CHUNKS

_HELLO = b"Hello, world!\n"
_HELLO_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(_HELLO))],
}
_HELLO_BODY = {"type": "http.response.body", "body": _HELLO}


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """A small answer with a length: one head, one body."""
    if scope["type"] != "http":
        await _lifespan(receive, send)
        return
    await send(_HELLO_START)
    await send(_HELLO_BODY)


async def download(scope: Scope, receive: Receive, send: Send) -> None:
    """Ten megabytes in 160 messages of 64 KiB, with a length."""
    await _send_chunks(CHUNKS, scope, receive, send)


async def large_download(scope: Scope, receive: Receive, send: Send) -> None:
    """A hundred megabytes in 1 600 messages of 64 KiB, with a length."""
    await _send_chunks(10 * CHUNKS, scope, receive, send)


async def _send_chunks(count: int, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        await _lifespan(receive, send)
        return
    headers = [
        (b"content-type", b"application/octet-stream"),
        (b"content-length", b"%d" % (count * len(CHUNK))),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for left in range(count - 1, -1, -1):
        await send({"type": "http.response.body", "body": CHUNK, "more_body": left > 0})


async def upload(scope: Scope, receive: Receive, send: Send) -> None:
    """Read the whole body, keep nothing of it, answer with its size."""
    if scope["type"] != "http":
        await _lifespan(receive, send)
        return
    size = 0
    more_body = True
    while more_body:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message.get("body", b""))
        more_body = message.get("more_body", False)
    answer = b"%d\n" % size
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Send every WebSocket message back as it came; answer a request with nothing."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            text = message.get("text")
            if text is not None:
                await send({"type": "websocket.send", "text": text})
            else:
                await send({"type": "websocket.send", "bytes": message["bytes"]})
    elif scope["type"] == "http":
        headers = [(b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})
    else:
        await _lifespan(receive, send)


def wsgi_hello(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """The small answer as WSGI has it: a list of one item."""
    start_response(
        "200 OK", [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(_HELLO)))]
    )
    return [_HELLO]


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return


# The content of each answer as a piece and how often it comes.
_ANSWERS = {
    "hello": (_HELLO, 1),
    "wsgi_hello": (_HELLO, 1),
    "download": (CHUNK, CHUNKS),
    "large_download": (CHUNK, 10 * CHUNKS),
    "upload": (b"%d\n" % BODY_SIZE, 1),
    "echo": (b"", 1),
}


def answer(app: str) -> bytes:
    """The content that an application answers with."""
    piece, count = _ANSWERS[app]
    return piece * count


def answer_size(app: str) -> int:
    """The bytes of that content."""
    piece, count = _ANSWERS[app]
    return len(piece) * count
