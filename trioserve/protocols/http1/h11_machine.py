"""An HTTP/1.1 machine whose second opinion is h11, which is always installed.

Each head is read by a fresh h11 connection: building one costs 2 us, whereas keeping one in step with the
response costs 50 us a request, and nothing is sent through it. Bodies are not shown to it
(docs/decisions/0001).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import h11

from trioserve.protocols.http1.machine import Http1Machine
from trioserve.protocols.http1.request_reader import Opinion

if TYPE_CHECKING:
    import re

    from trioserve.protocols.http1.events import RequestHead


class H11Machine(Http1Machine):
    """See `Http1Machine`."""

    __slots__ = ()

    def _judge_plain(self, match: re.Match[bytes], position: int) -> RequestHead | None:  # noqa: ARG002
        # h11 merges and rewrites framing fields while it reads (`4, 4` becomes `4`), so its list cannot be judged.
        # Every head is read the careful way, where our own reading comes first.
        return None

    def _read_head(self, head: bytes) -> Opinion | None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=len(head))
        connection.receive_data(head)
        try:
            request = connection.next_event()
            after = connection.next_event()
        except h11.RemoteProtocolError:
            return None
        if type(request) is not h11.Request:
            return None
        headers = [(name.lower(), value) for name, value in request.headers.raw_items()]
        return Opinion(request.target, headers, type(after) is h11.EndOfMessage)
