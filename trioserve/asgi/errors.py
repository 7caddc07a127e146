"""The errors that an application can meet in `receive()` and `send()`."""

from __future__ import annotations


class ApplicationError(Exception):
    """The application broke the ASGI specification; raised at the `send()` that did so.

    Examples: messages in the wrong order, an illegal header, more or fewer body bytes than the application's own
    Content-Length.
    """


class ClientDisconnected(OSError):
    """The client has left, so what was sent can reach nobody.

    Raised by `send()` as ASGI 2.4 asks of servers (an `OSError`). An application may let it pass: the server logs
    nothing for it.
    """
