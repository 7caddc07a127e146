from __future__ import annotations

import contextvars
import zlib

import trio
from quart import request
from quart_trio import QuartTrio

PIECE = bytes(65536)
events = {name: trio.Event() for name in ("released", "background_ended", "left", "stream_ended")}
seen = contextvars.ContextVar("seen", default="nothing")
app = QuartTrio(__name__)
app.config["MAX_CONTENT_LENGTH"] = None


@app.post("/double")
async def double():
    return {"doubled": (await request.get_json())["number"] * 2}


@app.post("/form")
async def form():
    fields, files = await request.form, await request.files
    file = files["file"]
    return {"name": fields["name"], "filename": file.filename, "size": len(file.read())}


@app.post("/upload")
async def upload():
    size = checksum = 0
    async for piece in request.body:
        size += len(piece)
        checksum = zlib.crc32(piece, checksum)
    return {"size": size, "checksum": checksum}


@app.get("/download")
async def download():
    count = int(request.args["pieces"])

    async def produce():
        for _ in range(count):
            yield PIECE

    return produce()


@app.get("/endless")
async def endless():
    async def produce():
        try:
            while True:
                yield PIECE
        finally:
            events["stream_ended"].set()

    return produce()


async def wait_for_release():
    await events["released"].wait()
    events["background_ended"].set()


@app.get("/background")
async def background():
    app.add_background_task(wait_for_release)
    return {"begun": True}


@app.get("/release")
async def release():
    running = not events["background_ended"].is_set()
    events["released"].set()
    await events["background_ended"].wait()
    return {"was_running": running}


@app.get("/remember")
async def remember():
    before = seen.get()
    seen.set(request.args["value"])
    return {"before": before}


@app.get("/watch")
async def watch():
    # Quart-Trio looks for the disconnect itself and cancels the handler.
    try:
        await trio.sleep_forever()
    finally:
        events["left"].set()


@app.get("/wait")
async def wait_for():
    await events[request.args["event"]].wait()
    return {"happened": True}
