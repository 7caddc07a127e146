"""The application behind nginx: what it sees of a request, bodies in both directions, echoes."""

from __future__ import annotations

import hashlib
import json
import os

import trio

BLOCK = bytes(range(256)) * 256
connections: dict[trio.lowlevel.Task, int] = {}  # each HTTP/1.1 connection is one task
steps: list[trio.Event] = []


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await live(receive, send)
    elif scope["type"] == "websocket":
        await echo(receive, send)
    else:
        actions = {"upload": upload, "download": download, "steps": take_steps, "go": go}
        action, _, amount = scope["path"].removeprefix("/stream").strip("/").partition("/")
        await actions.get(action, describe)(scope, receive, send, amount)


async def live(receive, send):
    for phase in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{phase}.complete"})


async def echo(receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        if message.get("text") == "close":
            await send({"type": "websocket.close", "code": 4001, "reason": "asked to"})
            return
        await send(message | {"type": "websocket.send"})


async def answer(send, body, *headers):
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length, *headers]})
    await send({"type": "http.response.body", "body": body})


async def describe(scope, receive, send, _):
    seen = {
        "client": scope["client"] and scope["client"][0],
        "scheme": scope["scheme"],
        "method": scope["method"],
        "headers": {name.decode(): value.decode() for name, value in scope["headers"]},
        "connection": connections.setdefault(trio.lowlevel.current_task(), len(connections)),
        "path": scope["path"],
    }
    await answer(send, json.dumps(seen).encode(), (b"worker", str(os.getpid()).encode()))


async def upload(scope, receive, send, _):
    digest, more = hashlib.sha256(), True
    while more:
        message = await receive()
        digest.update(message["body"])
        more = message["more_body"]
    await answer(send, digest.hexdigest().encode())


async def download(scope, receive, send, amount):
    """So many blocks, without saying in advance how many."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(int(amount)):
        await send({"type": "http.response.body", "body": BLOCK, "more_body": True})
    await send({"type": "http.response.body"})


async def take_steps(scope, receive, send, amount):
    """Go on only when another request says so."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for number in range(int(amount)):
        steps.append(trio.Event())
        await send({"type": "http.response.body", "body": b"%d\n" % number, "more_body": True})
        await steps[-1].wait()
    await send({"type": "http.response.body"})


async def go(scope, receive, send, _):
    steps[-1].set()
    await answer(send, b"")
