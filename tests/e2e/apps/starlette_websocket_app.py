from __future__ import annotations

import anyio
from starlette.applications import Starlette
from starlette.endpoints import WebSocketEndpoint
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocketDisconnect

left = anyio.Event()
seen = []


class Doubler(WebSocketEndpoint):
    encoding = "json"

    async def on_connect(self, websocket):
        await websocket.accept(subprotocol="doubling", headers=[(b"x-doubler", b"1")])

    async def on_receive(self, websocket, data):
        await websocket.send_json({"doubled": data["number"] * 2})

    async def on_disconnect(self, websocket, close_code):
        seen.append(close_code)
        left.set()


async def chat(websocket):
    """Two tasks on one session: what comes is sent back while a clock ticks; the end of one is the end of both."""
    await websocket.accept()
    async with anyio.create_task_group() as tasks:

        async def tick():
            for number in range(3):
                await websocket.send_text(f"tick {number}")

        async def answer():
            async for text in websocket.iter_text():
                await websocket.send_text(f"heard {text}")
            tasks.cancel_scope.cancel()

        tasks.start_soon(tick)
        tasks.start_soon(answer)


async def refuse(websocket):
    await websocket.send_denial_response(JSONResponse({"error": "no key"}, 401, headers={"x-why": "key"}))


async def talk(websocket):
    """Send without listening until the client is found to have left."""
    await websocket.accept()
    try:
        while True:
            await websocket.send_bytes(bytes(65536))
    except WebSocketDisconnect as error:
        seen.append(error.code)
        left.set()


async def wait(request):
    await left.wait()
    return JSONResponse(seen)


app = Starlette(
    routes=[
        WebSocketRoute("/double", Doubler),
        WebSocketRoute("/chat", chat),
        WebSocketRoute("/refuse", refuse),
        WebSocketRoute("/talk", talk),
        Route("/wait", wait),
    ]
)
