"""An upload of any size in constant memory.

    trioserve examples.upload:app
    curl -T large.iso http://127.0.0.1:8000/

The body is read piece by piece. While this application does not ask for the next piece, the server reads no more
than a little from the socket, and TCP makes the client wait: that is backpressure, and nothing has to be configured.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trioserve.asgi.types import Receive, Scope, Send


class ClientLeft(Exception):
    """The client left in the middle of its upload."""


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the size and the SHA-256 of what was uploaded."""
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])  # before receive(): "this application has no lifespan"
    if scope["method"] not in ("POST", "PUT"):
        await answer(send, 405, {"error": "send a body with POST or PUT"})
        return
    try:
        size, digest = await read_body(receive)
    except ClientLeft:
        return  # there is nobody to answer; what was read so far is not an upload
    await answer(send, 200, {"bytes": size, "sha256": digest})


async def read_body(receive: Receive) -> tuple[int, str]:
    """Read the body to its end, without ever holding more than a piece of it."""
    size, digest = 0, hashlib.sha256()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        size += len(message["body"])
        digest.update(message["body"])
        more = message["more_body"]
    return size, digest.hexdigest()


async def answer(send: Send, status: int, content: dict[str, object]) -> None:
    """Send a JSON answer."""
    body = json.dumps(content).encode() + b"\n"
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
