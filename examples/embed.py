"""A web server inside of a Trio program.

    python -m examples.embed
    curl -d "a line" http://127.0.0.1:PORT/

`nursery.start(serve, ...)` returns when the server listens. The application is an ordinary function of the program
and shares its memory channel; when the program has what it wanted, the server drains: requests under way are
answered, nothing new is accepted, and the nursery ends by itself.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import trio

from trioserve import Config, Server, serve

if TYPE_CHECKING:
    from trioserve.asgi.types import Receive, Scope, Send

WANTED = 3


async def app(lines: trio.MemorySendChannel[bytes], scope: Scope, receive: Receive, send: Send) -> None:
    """Put the body of each request into the channel, as one line."""
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])  # before receive(): "this application has no lifespan"
    line, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        line += message["body"]
        more = message["more_body"]
    await lines.send(line)  # waits while the program is busy, and so does the client
    await send({"type": "http.response.start", "status": 202})
    await send({"type": "http.response.body"})


async def main() -> None:
    """Serve until `WANTED` lines have come."""
    sender, receiver = trio.open_memory_channel[bytes](0)
    async with trio.open_nursery() as nursery:
        # Port 0: the system chooses a free one, and the server tells which.
        server: Server = await nursery.start(serve, partial(app, sender), Config(bind="127.0.0.1:0"))
        print(f"send me {WANTED} lines: {server.urls[0]}", flush=True)
        for _ in range(WANTED):
            print((await receiver.receive()).decode(errors="replace"), flush=True)
        server.drain()
    print("all answered, good bye", flush=True)


if __name__ == "__main__":
    trio.run(main)
