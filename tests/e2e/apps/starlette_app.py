from __future__ import annotations

import contextvars
import zlib
from typing import TYPE_CHECKING

import anyio
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

if TYPE_CHECKING:
    from starlette.requests import Request

PIECE = bytes(65536)
events = {name: anyio.Event() for name in ("released", "background_ended", "left", "stream_ended")}
seen = contextvars.ContextVar("seen", default="nothing")


async def double(request: Request) -> JSONResponse:
    return JSONResponse({"doubled": (await request.json())["number"] * 2})


async def form(request: Request) -> JSONResponse:
    async with request.form() as fields:
        file = fields["file"]
        data = await file.read()
        return JSONResponse({"name": fields["name"], "filename": file.filename, "size": len(data)})


async def upload(request: Request) -> JSONResponse:
    size = checksum = 0
    async for piece in request.stream():
        size += len(piece)
        checksum = zlib.crc32(piece, checksum)
    return JSONResponse({"size": size, "checksum": checksum})


async def pieces(count):
    for _ in range(count):
        yield PIECE


async def download(request: Request) -> StreamingResponse:
    return StreamingResponse(pieces(int(request.query_params["pieces"])))


async def endless_pieces():
    try:
        while True:
            yield PIECE
    finally:
        events["stream_ended"].set()


async def endless(request: Request) -> StreamingResponse:
    return StreamingResponse(endless_pieces())


async def wait_for_release():
    await events["released"].wait()
    events["background_ended"].set()


async def background(request: Request) -> JSONResponse:
    return JSONResponse({"begun": True}, background=BackgroundTask(wait_for_release))


async def release(request: Request) -> JSONResponse:
    running = not events["background_ended"].is_set()
    events["released"].set()
    await events["background_ended"].wait()
    return JSONResponse({"was_running": running})


async def remember(request: Request) -> JSONResponse:
    before = seen.get()
    seen.set(request.query_params["value"])
    return JSONResponse({"before": before})


async def watch(request: Request) -> JSONResponse:
    while not await request.is_disconnected():  # noqa: ASYNC110 - asking is what is tested
        await anyio.sleep(0.005)
    events["left"].set()
    return JSONResponse({})


async def wait_for(request: Request) -> JSONResponse:
    await events[request.query_params["event"]].wait()
    return JSONResponse({"happened": True})


app = Starlette(
    routes=[
        Route("/double", double, methods=["POST"]),
        Route("/form", form, methods=["POST"]),
        Route("/upload", upload, methods=["POST"]),
        Route("/download", download),
        Route("/endless", endless),
        Route("/background", background),
        Route("/release", release),
        Route("/remember", remember),
        Route("/watch", watch),
        Route("/wait", wait_for),
    ]
)
