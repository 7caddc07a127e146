"""Server-sent events: one a second, until the client leaves or the server finishes.

    trioserve examples.streaming:app
    curl -N http://127.0.0.1:8000/

A response that never ends is what makes servers hard to stop. Here it ends itself: the server says when it begins
to finish, and the last event tells clients to come back, which will be to the server that takes over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from trioserve.asgi.request_control import RequestControl
    from trioserve.asgi.types import Receive, Scope, Send

INTERVAL = 1.0


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Stream events to whoever asks."""
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])  # before receive(): "this application has no lifespan"
    headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    control: RequestControl = scope["extensions"]["trioserve"]
    # Two tasks, so that a client's leaving is noticed at once and not with the next event.
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel_on_disconnect, receive, nursery.cancel_scope)
        await send_events(send, control)
        nursery.cancel_scope.cancel()


async def send_events(send: Send, control: RequestControl) -> None:
    """Send an event every `INTERVAL` seconds, and a farewell when the server is told to stop."""
    number = 0
    while not control.draining.is_set():
        number += 1
        event = b"event: tick\ndata: %d\n\n" % number
        await send({"type": "http.response.body", "body": event, "more_body": True})
        with trio.move_on_after(INTERVAL):
            await control.draining.wait()
    await send(
        {"type": "http.response.body", "body": b"event: bye\nretry: 1000\ndata: the server restarts\n\n"}
    )


async def cancel_on_disconnect(receive: Receive, scope: trio.CancelScope) -> None:
    """Wait for the client to leave."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
