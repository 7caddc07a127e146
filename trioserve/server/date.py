"""The fields that the server adds to every response, with the Date rendered once a second (RFC 9110 section 6.6.1)."""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import TYPE_CHECKING

from trioserve.protocols.http1.response_fields import RULES, Rule
from trioserve.protocols.http1.response_writer import DefaultLines
from trioserve.protocols.http2.response_framing import DefaultFields

if TYPE_CHECKING:
    from collections.abc import Iterable

# They say something about a connection of HTTP/1.1, and are malformed on HTTP/2 (RFC 9113 section 8.2.2).
_HTTP1_ONLY = frozenset((Rule.DROP, Rule.CONNECTION))


class ServerFields:
    """Renders the Date, Server and extra fields, as lines for HTTP/1.1 and as fields for HTTP/2.

    Args:
        server: the value of the Server field, or None to send none.
        date: whether to send a Date.
        extra: further fields for every response.
    """

    def __init__(self, server: bytes | None, date: bool, extra: Iterable[tuple[bytes, bytes]]) -> None:
        extra = list(extra)
        self._server_line = b"" if server is None else b"server: %b\r\n" % server
        self._extra_lines = b"".join([b"%b: %b\r\n" % field for field in extra])
        self._server_field = [] if server is None else [(b"server", server)]
        lowered = [(name.lower(), value.strip(b" \t")) for name, value in extra]
        self._extra_fields = [field for field in lowered if RULES.get(field[0]) not in _HTTP1_ONLY]
        self._valid_until = 0.0 if date else float("inf")
        self._lines = DefaultLines(b"", self._server_line, self._extra_lines)
        self._fields = DefaultFields((), self._server_field, self._extra_fields)

    def current(self) -> DefaultLines:
        """Return the lines for a response that is sent now."""
        now = time.time()
        if now >= self._valid_until:
            self._render(now)
        return self._lines

    def current_fields(self) -> DefaultFields:
        """Return the same as fields, for an HTTP/2 response that is sent now."""
        now = time.time()
        if now >= self._valid_until:
            self._render(now)
        return self._fields

    def _render(self, now: float) -> None:
        """Render both for the second that `now` is in, so that they never name different ones."""
        self._valid_until = float(int(now) + 1)
        date = formatdate(now, usegmt=True).encode("ascii")
        self._lines = DefaultLines(b"date: %b\r\n" % date, self._server_line, self._extra_lines)
        self._fields = DefaultFields([(b"date", date)], self._server_field, self._extra_fields)
