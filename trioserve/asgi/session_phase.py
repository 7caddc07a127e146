"""How far a WebSocket session has come, in words for code and for messages to an application's author."""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple


class SessionPhase(Enum):
    """How far the session has come."""

    HANDSHAKE = auto()  # neither accepted nor refused
    DENIAL_HELD = auto()  # the head of a refusal was accepted; it waits for the first piece of the body
    DENIAL_BODY = auto()
    DENIED = auto()  # refused, and the answer is complete
    OPEN = auto()
    CLOSED = auto()  # we have sent our close frame
    LEFT = auto()  # nothing that is sent can reach the client: it has closed, is gone, or was cut off


HANDSHAKE = SessionPhase.HANDSHAKE
DENIAL_HELD = SessionPhase.DENIAL_HELD
DENIAL_BODY = SessionPhase.DENIAL_BODY
DENIED = SessionPhase.DENIED
OPEN = SessionPhase.OPEN
CLOSED = SessionPhase.CLOSED
LEFT = SessionPhase.LEFT
UNDECIDED = frozenset({HANDSHAKE, DENIAL_HELD, DENIAL_BODY})


class End(NamedTuple):
    """How a session ended, where no channel says so."""

    code: int
    reason: str


VANISHED = End(1006, "")  # RFC 6455 section 7.1.5

WHEN = {
    HANDSHAKE: "before websocket.accept",
    DENIAL_HELD: "after websocket.http.response.start",
    DENIAL_BODY: "after websocket.http.response.start",
    DENIED: "after the session was refused",
    OPEN: "after websocket.accept",
    CLOSED: "after websocket.close",
}
"""How an `ApplicationError` says that a message came in the wrong phase; in `LEFT` it is a `ClientDisconnected`."""
