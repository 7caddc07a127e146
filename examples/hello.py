"""The smallest application worth reading: one answer for every request, and a lifespan.

    trioserve examples.hello:app

ASGI applications are called once per connection-like thing: once for the lifespan, once per request. `scope` says
what it is, `receive` gives messages and `send` takes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trioserve.asgi.types import Receive, Scope, Send


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Say hello, with the method and the path of the request."""
    if scope["type"] == "lifespan":
        await live(scope, receive, send)
        return
    text = f"Hello from {scope['state']['name']}: {scope['method']} {scope['path']}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(text))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text})


async def live(scope: Scope, receive: Receive, send: Send) -> None:
    """Start up and shut down; what is put into the state is in every request's scope."""
    await receive()  # lifespan.startup
    scope["state"]["name"] = "trioserve"
    await send({"type": "lifespan.startup.complete"})
    await receive()  # lifespan.shutdown
    await send({"type": "lifespan.shutdown.complete"})
