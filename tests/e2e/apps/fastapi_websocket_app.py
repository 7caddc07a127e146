from typing import Annotated

from fastapi import Depends, FastAPI, Query, WebSocket, WebSocketDisconnect, WebSocketException

app = FastAPI()
members: list[WebSocket] = []


def checked_key(key: Annotated[str | None, Query()] = None) -> str:
    if key != "right":
        raise WebSocketException(code=1008, reason="wrong key")
    return key


@app.websocket("/rooms/{number}")
async def room(websocket: WebSocket, number: int, key: Annotated[str, Depends(checked_key)]):
    """Everything that one member says goes to all."""
    await websocket.accept()
    members.append(websocket)
    await websocket.send_json({"room": number, "members": len(members)})
    try:
        while True:
            said = await websocket.receive_text()
            for member in members:
                await member.send_text(said)
    except WebSocketDisconnect as error:
        members.remove(websocket)
        for member in members:
            await member.send_json({"left": error.code, "reason": error.reason})


@app.websocket("/late")
async def late(websocket: WebSocket):
    await websocket.accept()
    await websocket.receive_text()
    raise WebSocketException(code=4009, reason="too late")
