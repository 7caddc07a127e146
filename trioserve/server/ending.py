"""Why an exchange was ended from outside, and what is owed to its client then: the same on every protocol."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from trioserve.asgi.types import Headers


class Ending(Enum):
    """Why a scope was cancelled: the status owed if no head was sent, and the outcome logged."""

    IDLE = ("idle", 0, "complete")
    HEAD_TIMEOUT = ("head timeout", 408, "timeout")
    BODY_STALL = ("body stall", 408, "timeout")
    WRITE_STALL = ("write stall", 0, "timeout")
    REQUEST_TIMEOUT = ("request timeout", 503, "timeout")
    DISCONNECTED = ("client left", 0, "disconnected")
    SHUTDOWN = ("shutdown", 503, "cancelled")

    def __init__(self, text: str, status: int, outcome: str) -> None:
        self.text = text
        self.status = status
        self.outcome = outcome


ANSWERS: Final[dict[int, str]] = {
    408: "The request took too long to arrive\n",
    503: "The server could not finish this request in time\n",
}
"""The bodies of answers that are owed."""


class Unreadable:
    """Stands for a request whose head could not be read, or was refused unread, in the access log."""

    method = "-"
    target = b"-"
    has_body = False

    def __init__(self, http_version: str) -> None:
        self.http_version = http_version
        self.headers: Headers = []
