"""What the clients of HTTP/2 ask for: bodies of any size, trailers, hints, pushes, a page of many parts."""

from __future__ import annotations

import hashlib
import json
from urllib.parse import parse_qs

import trio

PIECE = bytes(range(256)) * 256
PARTS = 20
TYPES = {".html": b"text/html", ".js": b"text/javascript", ".css": b"text/css"}
endless_ended = trio.Event()


async def receive_body(receive):
    """The hash and the size of the content, and the trailers after it."""
    checksum, size = hashlib.sha256(), 0
    while True:
        message = await receive()
        assert message["type"] == "http.request"
        checksum.update(message["body"])
        size += len(message["body"])
        if not message["more_body"]:
            return checksum.hexdigest(), size, message.get("trailers", [])


async def respond(send, body, *, path="", headers=()):
    kind = TYPES.get(path[path.rfind(".") :], b"text/plain")
    fields = [(b"content-type", kind), (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body", "body": body})


async def index(scope, receive, send):
    body = f"{scope['scheme']} {scope['http_version']} {scope['method']} {scope['path']}\n".encode()
    await respond(send, body)


async def upload(scope, receive, send):
    checksum, size, trailers = await receive_body(receive)
    fields = {name.decode(): value.decode() for name, value in trailers}
    answer = {"sha256": checksum, "size": size, "trailers": fields}
    await respond(send, json.dumps(answer).encode())


async def download(scope, receive, send):
    """As many bytes as asked for, without a length."""
    left = int(parse_qs(scope["query_string"].decode())["size"][0])
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while left > 0:
        await send({"type": "http.response.body", "body": PIECE[:left], "more_body": True})
        left -= len(PIECE)
    await send({"type": "http.response.body"})


async def trailers(scope, receive, send):
    fields = [(b"trailer", b"x-checksum")]
    await send({"type": "http.response.start", "status": 200, "headers": fields, "trailers": True})
    await send({"type": "http.response.body", "body": b"counted\n"})
    await send({"type": "http.response.trailers", "headers": [(b"x-checksum", b"8")]})


async def hint(scope, receive, send):
    await send({"type": "http.response.early_hint", "links": [b"</style.css>; rel=preload"]})
    await respond(send, b"hinted\n")


async def push(scope, receive, send):
    if "http.response.push" in scope["extensions"]:
        await send({"type": "http.response.push", "path": "/style.css", "headers": [(b"x-pushed", b"yes")]})
    await respond(send, b"pushing\n")


async def style(scope, receive, send):
    pushed = dict(scope["headers"]).get(b"x-pushed", b"no")
    await respond(send, b"body { color: teal }\n", path=scope["path"], headers=[(b"x-was-pushed", pushed)])


async def page(scope, receive, send):
    """A page that tells, after all its parts, how many of them have run."""
    parts = "".join(f'<script src="/part/{number}.js" async></script>' for number in range(PARTS))
    body = (
        '<!doctype html><link rel="stylesheet" href="/style.css"><p id="count">0 parts</p>'
        f"<script>let count = 0;</script>{parts}"
    )
    await respond(send, body.encode(), path=".html")


async def part(scope, receive, send):
    body = b'document.getElementById("count").textContent = `${++count} parts`;\n'
    await respond(send, body, path=scope["path"])


async def endless(scope, receive, send):
    """Sends until it is cancelled or told that the client left."""
    try:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": PIECE, "more_body": True})
    finally:
        endless_ended.set()


async def ended(scope, receive, send):
    await endless_ended.wait()
    await respond(send, b"endless has ended\n")


ROUTES = {
    "/upload": upload,
    "/download": download,
    "/trailers": trailers,
    "/hint": hint,
    "/push": push,
    "/style.css": style,
    "/page": page,
    "/endless": endless,
    "/ended": ended,
}


async def app(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError
    path = scope["path"]
    handler = part if path.startswith("/part/") else ROUTES.get(path, index)
    await handler(scope, receive, send)
