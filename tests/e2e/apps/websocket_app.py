"""What the clients of WebSocket ask for: echoes, refusals, closes, a page, and what the application was told."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import trio

PAGE = Path(__file__).parents[1] / "websocket" / "page.html"
PIECE = bytes(range(256)) * 256
page_done = trio.Event()


class End:
    """What the application was told at the end of a session."""

    def __init__(self):
        self.known = trio.Event()
        self.told = None


ended = defaultdict(End)  # by the name of the session


async def echo(scope, receive, send):
    """Echo, and keep what the end was under the name in the query. Every client hears first how it came."""
    offered = scope["subprotocols"]
    fields = [(b"x-answered", b"yes")]
    await send(
        {
            "type": "websocket.accept",
            "subprotocol": "echo" if "echo" in offered else None,
            "headers": fields,
        }
    )
    await send(
        {"type": "websocket.send", "text": f"{scope['scheme']} {scope['http_version']} {scope['path']}"}
    )
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})
    end = ended[scope["query_string"].decode()]
    end.told = [message["code"], message["reason"]]
    end.known.set()


async def farewell(scope, receive, send):
    """Close with a code and a reason of the application's own."""
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": "welcome"})
    await send({"type": "websocket.close", "code": 4001, "reason": "schöne Grüße"})


async def flood(scope, receive, send):
    """Ten megabytes in messages of 64 KiB, then a close."""
    await send({"type": "websocket.accept"})
    for _ in range(160):
        await send({"type": "websocket.send", "bytes": PIECE})


async def refuse(scope, receive, send):
    """A refusal with a body of the application's own."""
    fields = [(b"content-type", b"application/json"), (b"content-length", b"19")]
    await send({"type": "websocket.http.response.start", "status": 401, "headers": fields})
    await send({"type": "websocket.http.response.body", "body": b'{"error": "no key"}'})


async def close_before_accepting(scope, receive, send):
    await send({"type": "websocket.close"})


async def fail(scope, receive, send):
    """An application that ends with an error in the middle of a session."""
    await send({"type": "websocket.accept"})
    await receive()
    raise RuntimeError("meant to fail")


SESSIONS = {
    "/echo": echo,
    "/farewell": farewell,
    "/flood": flood,
    "/refuse": refuse,
    "/close": close_before_accepting,
    "/fail": fail,
}


async def respond(send, body, kind=b"text/plain"):
    fields = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body", "body": body})


async def request(scope, receive, send):
    path = scope["path"]
    if path == "/page":
        await respond(send, PAGE.read_bytes(), b"text/html; charset=utf-8")
    elif path == "/done":
        page_done.set()
        await respond(send, b"")
    elif path == "/until-done.gif":
        await page_done.wait()
        await respond(send, b"", b"image/gif")
    elif path == "/ended":
        end = ended[scope["query_string"].decode()]
        await end.known.wait()
        await respond(send, json.dumps(end.told).encode())
    else:
        await respond(send, b"nothing\n")


async def app(scope, receive, send):
    if scope["type"] == "http":
        await request(scope, receive, send)
    elif scope["type"] == "websocket":
        assert await receive() == {"type": "websocket.connect"}
        await SESSIONS[scope["path"]](scope, receive, send)
    else:
        raise NotImplementedError
