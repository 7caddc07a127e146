"""The fields of the messages that an application sends in a WebSocket session, checked.

Each function returns the value in the exact type that a `SessionChannel` takes, or raises an `ApplicationError` that
says which field is wrong. Not here: the order of messages (`session.py`), and header fields and subprotocols, which the
handshake knows about.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trioserve.asgi.errors import ApplicationError

if TYPE_CHECKING:
    from trioserve.asgi.types import Message

LONGEST_REASON = 123
"""Bytes of a reason that fit into a close frame beside the code (RFC 6455 section 5.5)."""


def checked_payload(message: Message) -> tuple[str | bytes, int]:
    """Return what a `websocket.send` carries, exactly one of `text` and `bytes`, and its size in bytes."""
    text = message.get("text")
    data = message.get("bytes")
    if text is None:
        if data is None:
            raise ApplicationError("websocket.send has neither text nor bytes")
        if type(data) is not bytes:
            data = checked_bytes("websocket.send: bytes", data)
        return data, len(data)
    if data is not None:
        raise ApplicationError("websocket.send has both text and bytes")
    if type(text) is not str:
        text = checked_text("websocket.send: text", text)
    return text, len(text) if text.isascii() else _size_in_utf8(text)


def checked_bytes(field: str, data: object) -> bytes:
    """Return `bytes` of anything that is like them."""
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    raise ApplicationError(f"{field} has to be bytes, not {type(data).__name__}")


def checked_text(field: str, text: object) -> str:
    """Return a plain `str`; a subclass may have opinions of its own."""
    if isinstance(text, str):
        return str.__str__(text)
    raise ApplicationError(f"{field} has to be a str, not {type(text).__name__}")


def _size_in_utf8(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise ApplicationError(
            "websocket.send: text has a lone surrogate, which UTF-8 cannot express"
        ) from None


def checked_code(code: object) -> int:
    """Return a close code that may be sent (RFC 6455 section 7.4, and the registry that it began); 1000 for none."""
    if code is None:
        return 1000
    if not isinstance(code, int) or isinstance(code, bool):
        raise ApplicationError(f"websocket.close: code has to be an int, not {type(code).__name__}")
    if 3000 <= code <= 4999 or (1000 <= code <= 1014 and code not in (1004, 1005, 1006)):
        return int(code)
    raise ApplicationError(
        f"websocket.close: code {code} cannot be sent; an application's own are 4000 to 4999"
    )


def fitting_reason(reason: object) -> str:
    """Return a reason, cut to what a close frame holds, between characters; "" for none."""
    if reason is None:
        return ""
    text = checked_text("websocket.close: reason", reason)
    return text.encode(errors="replace")[:LONGEST_REASON].decode(errors="ignore")


def checked_denial_status(status: object, http_version: str) -> int:
    """Return a status that refuses a session; the protocol says whether it may begin a response at all."""
    if not isinstance(status, int) or isinstance(status, bool):
        raise ApplicationError(
            f"websocket.http.response.start: status has to be an int, not {type(status).__name__}"
        )
    if 200 <= status < 300 and http_version == "2":  # RFC 9113 section 8.5
        raise ApplicationError(f"status {status} cannot refuse a session: on HTTP/2 it accepts it")
    return int(status)
