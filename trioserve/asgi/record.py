"""What is known of an exchange or a session besides its messages: who asked for what, and how it ended.

The access log reads it when all is over (see `LoggedExchange` in `telemetry/access_log.py`), the counters too.
Connections and channels write to it what they know better: times, an outcome, bytes that were not sent after all.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trioserve.asgi.channel import Peer, Request

logger = logging.getLogger("trioserve.error")


class ExchangeRecord:
    """The record of one exchange or session.

    Attributes:
        request: the request's head.
        peer: the client and the addresses, after the proxy rules.
        started, first_byte, finished: times on Trio's clock; 0.0 for what has not happened.
        body_bytes_sent, bytes_received: content, without framing; of a session its messages.
        outcome: complete, aborted, disconnected, timeout, cancelled, refused.
        crashed: the application raised.
        cut: something that was written did not get out in full.
    """

    request: Request
    peer: Peer
    started: float
    status: int = 0
    response_headers: Sequence[tuple[bytes, bytes]] = ()
    body_bytes_sent: int = 0
    bytes_received: int = 0
    first_byte: float = 0.0
    finished: float = 0.0
    outcome: str = "complete"
    crashed: bool = False
    cut: bool = False

    @property
    def client(self) -> tuple[str, int] | None:
        """The client's address after the proxy rules; None on a unix socket."""
        return self.peer.client

    @property
    def server(self) -> tuple[str, int | None] | None:
        """The address the client connected to."""
        return self.peer.server

    @property
    def scheme(self) -> str:
        """`http` or `https`, for a session `ws` or `wss`; after the proxy rules."""
        return self.peer.scheme

    @property
    def request_line(self) -> str:
        """The request line with everything but ASCII escaped, for the error log."""
        target = self.request.target.decode("ascii", "backslashreplace")
        return f"{self.request.method} {target} HTTP/{self.request.http_version}"

    def log_error(self, error: Exception) -> None:
        """Log an error of the application, once, with a traceback that starts in the application."""
        self.crashed = True
        traceback = error.__traceback__
        if traceback is not None and traceback.tb_next is not None:  # the first frame is `run`
            error = error.with_traceback(traceback.tb_next)
        logger.error("error in the application: %s", self.request_line, exc_info=error)
