"""The application of the tests with real processes: it answers with its worker's pid, after what its path asks for.

Served with `--app-dir` of this directory. APP_JOURNAL names a file to which each process appends what it lives
through; APP_AT_IMPORT is code to run at import, APP_AT_STARTUP in the lifespan.
"""

from __future__ import annotations

import os
import time

import trio


def note(event: str) -> None:
    if journal := os.environ.get("APP_JOURNAL"):
        with open(journal, "a") as file:
            file.write(f"{event} {os.getpid()}\n")


note("import")
exec(os.environ.get("APP_AT_IMPORT", ""))

leaked: list[bytearray] = []


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await live(receive, send)
        return
    action, _, amount = scope["path"].strip("/").partition("/")
    body = str(os.getpid()).encode()
    if action == "sleep":
        await trio.sleep(float(amount))
    elif action == "block":
        note("blocked")
        time.sleep(float(amount))  # noqa: ASYNC251
    elif action == "compute":
        await compute_in_slices(float(amount))
    elif action == "leak":
        leaked.append(bytearray(b"x" * int(amount)))
        await trio.sleep(0.02)
    elif action == "upload":
        body = str(await read_all(receive)).encode()
    parts = [body] if action != "slow" else [b"begun ", body]
    length = str(sum(map(len, parts))).encode()
    headers = [(b"content-length", length), (b"worker", str(os.getpid()).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if action == "slow":  # the client knows that it has begun
        await send({"type": "http.response.body", "body": parts[0], "more_body": True})
        await trio.sleep(float(amount))
    await send({"type": "http.response.body", "body": body})


async def live(receive, send):
    await receive()
    exec(os.environ.get("APP_AT_STARTUP", ""))
    note("startup")
    await send({"type": "lifespan.startup.complete"})
    await receive()
    note("shutdown")
    await send({"type": "lifespan.shutdown.complete"})


async def compute_in_slices(seconds: float) -> None:
    """Leave the processor to others only between two slices: the loop runs, slowly."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        slice_end = time.monotonic() + 0.2
        while time.monotonic() < slice_end:
            pass
        await trio.lowlevel.checkpoint()


async def read_all(receive) -> int:
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    return size
