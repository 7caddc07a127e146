import contextvars
import zlib
from typing import Annotated, Any

import anyio
from litestar import Litestar, Request, Response, get, post
from litestar.background_tasks import BackgroundTask
from litestar.datastructures import UploadFile
from litestar.enums import RequestEncodingType
from litestar.params import Body
from litestar.response import Stream

PIECE = bytes(65536)
events = {name: anyio.Event() for name in ("released", "background_ended", "stream_ended")}
seen = contextvars.ContextVar("seen", default="nothing")


@post("/double", status_code=200)
async def double(data: dict[str, int]) -> dict[str, int]:
    return {"doubled": data["number"] * 2}


@post("/form", status_code=200)
async def form(
    data: Annotated[dict[str, Any], Body(media_type=RequestEncodingType.MULTI_PART)],
) -> dict[str, Any]:
    file = data["file"]
    assert isinstance(file, UploadFile)
    return {"name": data["name"], "filename": file.filename, "size": len(await file.read())}


@post("/upload", status_code=200)
async def upload(request: Request[Any, Any, Any]) -> dict[str, int]:
    size = checksum = 0
    async for piece in request.stream():
        size += len(piece)
        checksum = zlib.crc32(piece, checksum)
    return {"size": size, "checksum": checksum}


@get("/download")
async def download(pieces: int) -> Stream:
    async def produce():
        for _ in range(pieces):
            yield PIECE

    return Stream(produce())


@get("/endless")
async def endless() -> Stream:
    async def produce():
        try:
            while True:
                yield PIECE
        finally:
            events["stream_ended"].set()

    return Stream(produce())


async def wait_for_release() -> None:
    await events["released"].wait()
    events["background_ended"].set()


@get("/background")
async def background() -> Response[dict[str, bool]]:
    return Response({"begun": True}, background=BackgroundTask(wait_for_release))


@get("/release")
async def release() -> dict[str, bool]:
    running = not events["background_ended"].is_set()
    events["released"].set()
    await events["background_ended"].wait()
    return {"was_running": running}


@get("/remember")
async def remember(value: str) -> dict[str, str]:
    before = seen.get()
    seen.set(value)
    return {"before": before}


@get("/wait")
async def wait_for(event: str) -> dict[str, bool]:
    await events[event].wait()
    return {"happened": True}


app = Litestar(
    [double, form, upload, download, endless, background, release, remember, wait_for],
    request_max_body_size=None,
    logging_config=None,
)
