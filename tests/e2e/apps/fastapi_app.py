from __future__ import annotations

import contextvars
import zlib
from typing import Annotated

import anyio
from fastapi import BackgroundTasks, Body, FastAPI, Form, Request, UploadFile
from fastapi.responses import StreamingResponse

PIECE = bytes(65536)
events = {name: anyio.Event() for name in ("released", "background_ended", "left", "stream_ended")}
seen = contextvars.ContextVar("seen", default="nothing")
app = FastAPI()


@app.post("/double")
async def double(number: Annotated[int, Body(embed=True)]):
    return {"doubled": number * 2}


@app.post("/form")
async def form(name: Annotated[str, Form()], file: UploadFile):
    return {"name": name, "filename": file.filename, "size": len(await file.read())}


@app.post("/upload")
async def upload(request: Request):
    size = checksum = 0
    async for piece in request.stream():
        size += len(piece)
        checksum = zlib.crc32(piece, checksum)
    return {"size": size, "checksum": checksum}


@app.get("/download")
async def download(pieces: int):
    async def produce():
        for _ in range(pieces):
            yield PIECE

    return StreamingResponse(produce())


@app.get("/endless")
async def endless():
    async def produce():
        try:
            while True:
                yield PIECE
        finally:
            events["stream_ended"].set()

    return StreamingResponse(produce())


async def wait_for_release():
    await events["released"].wait()
    events["background_ended"].set()


@app.get("/background")
async def background(tasks: BackgroundTasks):
    tasks.add_task(wait_for_release)
    return {"begun": True}


@app.get("/release")
async def release():
    running = not events["background_ended"].is_set()
    events["released"].set()
    await events["background_ended"].wait()
    return {"was_running": running}


@app.get("/remember")
async def remember(value: str):
    before = seen.get()
    seen.set(value)
    return {"before": before}


@app.get("/watch")
async def watch(request: Request):
    while not await request.is_disconnected():  # noqa: ASYNC110 - asking is what is tested
        await anyio.sleep(0.005)
    events["left"].set()


@app.get("/wait")
async def wait_for(event: str):
    await events[event].wait()
    return {"happened": True}
