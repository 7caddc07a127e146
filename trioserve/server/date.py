"""The fields that the server adds to every response, with the Date rendered once a second (RFC 9110 section 6.6.1)."""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import TYPE_CHECKING

from trioserve.protocols.http1.response_writer import DefaultLines

if TYPE_CHECKING:
    from collections.abc import Iterable


class ServerFields:
    """Renders the Date, Server and extra field lines.

    Args:
        server: the value of the Server field, or None to send none.
        date: whether to send a Date.
        extra: further fields for every response.
    """

    def __init__(self, server: bytes | None, date: bool, extra: Iterable[tuple[bytes, bytes]]) -> None:
        self._server = b"" if server is None else b"server: %b\r\n" % server
        self._extra = b"".join([b"%b: %b\r\n" % field for field in extra])
        self._valid_until = 0.0 if date else float("inf")
        self._lines = DefaultLines(b"", self._server, self._extra)

    def current(self) -> DefaultLines:
        """Return the lines for a response that is sent now."""
        now = time.time()
        if now >= self._valid_until:
            self._valid_until = float(int(now) + 1)
            date = b"date: %b\r\n" % formatdate(now, usegmt=True).encode("ascii")
            self._lines = DefaultLines(date, self._server, self._extra)
        return self._lines
