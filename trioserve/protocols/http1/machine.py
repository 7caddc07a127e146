"""The contract of an HTTP/1.1 server connection without I/O.

`request_reader` is its receiving side, `response_writer` frames what is sent; here they meet: whether a
connection goes on depends on both. A machine adds the one method that asks a parser library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trioserve.protocols.errors import LocalProtocolError
from trioserve.protocols.http1.events import (
    CLOSED,
    NEED_DATA,
    PAUSED,
    BodyChunk,
    Event,
    RequestHead,
    Signal,
)
from trioserve.protocols.http1.request_reader import Reading, RequestReader
from trioserve.protocols.http1.response_fields import CONTINUE, NO_LINES, DefaultLines, FieldLines
from trioserve.protocols.http1.response_writer import Framing, Phase, ResponseWriter

if TYPE_CHECKING:
    from trioserve.protocols.http1.policy import Http1Limits

# The events belong to the contract, so that its users need to know this module only.
__all__ = [
    "CLOSED",
    "NEED_DATA",
    "PAUSED",
    "BodyChunk",
    "Event",
    "Http1Machine",
    "RequestHead",
    "Signal",
]


_NOT_BEGUN: Final = Phase.NOT_BEGUN
_ENDED: Final = Phase.ENDED
_DONE: Final = Reading.DONE


class Http1Machine(RequestReader):
    """One server-side HTTP/1.1 connection.

    Receiving is told in `RequestReader`; the rest is here.

    Args:
        limits: what a request may cost.

    Attributes:
        prepare_head: check and hold the head of the final response, while the length of its content may yet
            come out; see `ResponseWriter.prepare_head`.
    """

    __slots__ = ("_writer", "prepare_head")

    def __init__(self, limits: Http1Limits) -> None:
        super().__init__(limits)
        self._writer = ResponseWriter()
        self.prepare_head = self._writer.prepare_head

    def start_next_cycle(self) -> bool:
        """Make ready for the next request; False, and nothing changes, when the connection is not `reusable`."""
        head, writer = self.head, self._writer
        if self._reading is not _DONE or head is None or not head.keep_alive:
            return False
        if writer.phase is not _NOT_BEGUN and (writer.phase is not _ENDED or writer.closes):
            return False
        self._reading = Reading.HEAD
        self._scanner = None
        self._body = None
        self.head = None
        writer.phase = _NOT_BEGUN
        return True

    @property
    def reusable(self) -> bool:
        """The request came in whole, it allows another, and no response is unfinished or said `close`."""
        if self._reading is not _DONE or self.head is None or not self.head.keep_alive:
            return False
        writer = self._writer
        return writer.phase is _NOT_BEGUN or (writer.phase is _ENDED and not writer.closes)

    @property
    def continues(self) -> bool:
        """Neither the request nor the response so far ends the connection; the request may be unfinished."""
        if self._error is not None or self.head is None or not self.head.keep_alive:
            return False
        return self._writer.phase is _NOT_BEGUN or not self._writer.closes

    def send_continue(self) -> bytes:
        """Return 100 Continue.

        Raises:
            LocalProtocolError: nobody waits for it.
        """
        if not self.wants_continue:
            raise LocalProtocolError("100 Continue that nobody waits for")
        self.wants_continue = False
        return CONTINUE

    def send_information(self, status: int, headers: FieldLines) -> bytes:
        """Return an interim response, or nothing on HTTP/1.0 (RFC 9110 section 15.2).

        Raises:
            LocalProtocolError: the final response has begun, or status or a field is illegal.
        """
        data = self._writer.render_information(status, headers)
        return data if self.head is not None and self.head.http_version == "1.1" else b""

    def send_prepared_head(
        self, *, defaults: DefaultLines = NO_LINES, body_known: int | None = None, close: bool = False
    ) -> bytes:
        """Return the prepared head; valid, then closing, also when no request was accepted.

        Args:
            defaults: field lines for every response.
            body_known: bytes of the whole content if known; becomes Content-Length unless there is one.
            close: end the connection after this response, whatever the request says.

        Raises:
            LocalProtocolError: no head was prepared, or its Content-Length is not `body_known`.
        """
        request, close = self._answered(close)
        return self._writer.render_head(request, defaults, body_known, close)

    def send_prepared_response(
        self, data: bytes, *, defaults: DefaultLines = NO_LINES, close: bool = False
    ) -> bytes:
        """Return the prepared head, its whole content and the end in one piece; see send_prepared_head."""
        head = self.head
        if head is not None and head.keep_alive and not close and self._reading is _DONE:  # noqa: SIM102
            if head.method != "HEAD" and head.http_version == "1.1":
                response = self._writer.render_plain_response(defaults, data)
                if response is not None:
                    return response
        request, close = self._answered(close)
        return self._writer.render_response(request, defaults, data, close)

    def _answered(self, close: bool) -> tuple[tuple[bool, bool], bool]:
        """What the writer has to know of the request: (its method is HEAD, it is HTTP/1.1), and whether to close."""
        self.wants_continue = False
        head = self.head
        if head is None or self._error is not None:
            return (head is not None and head.method == "HEAD", True), True
        return (head.method == "HEAD", head.http_version == "1.1"), close or not head.keep_alive

    def send_head(
        self,
        status: int,
        headers: FieldLines,
        *,
        defaults: DefaultLines = NO_LINES,
        body_known: int | None = None,
        close: bool = False,
    ) -> bytes:
        """Return the head of the final response: prepare_head and send_prepared_head in one."""
        self._writer.prepare_head(status, headers)
        return self.send_prepared_head(defaults=defaults, body_known=body_known, close=close)

    def send_body(self, data: bytes) -> bytes:
        """Return a framed piece of content: nothing for an empty piece, or where no content is allowed.

        Raises:
            LocalProtocolError: more than Content-Length says, or no response is under way.
        """
        return self._writer.frame_body(data)

    def send_large_body(self, size: int) -> tuple[bytes, bytes]:
        """Return what goes before and after `size` bytes of content that the caller sends without a copy.

        Where the response is `bodyless` the content itself must not be sent.

        Raises:
            LocalProtocolError: as in send_body.
        """
        return self._writer.frame_large_body(size)

    @property
    def bodyless(self) -> bool:
        """The response that has begun has no content, whatever the application sends."""
        return self._writer.framing is Framing.BODYLESS

    @property
    def closes(self) -> bool:
        """The head of the response that has begun, or just ended, said that the connection ends."""
        return self._writer.closes

    @property
    def ends_by_close(self) -> bool:
        """The content of the response that has begun ends where the connection ends."""
        return self._writer.framing is Framing.UNTIL_CLOSE

    def send_end(self, trailers: FieldLines = ()) -> bytes:
        """Return the end of the response; trailers are sent in chunked framing only.

        Raises:
            LocalProtocolError: less content than Content-Length says, an illegal trailer, or no response
                under way.
        """
        return self._writer.frame_end(trailers)

    def send_response(
        self,
        status: int,
        headers: FieldLines,
        body: bytes,
        *,
        defaults: DefaultLines = NO_LINES,
        close: bool = False,
    ) -> bytes:
        """Return a whole response in one piece; see send_head."""
        self._writer.prepare_head(status, headers)
        return self.send_prepared_response(body, defaults=defaults, close=close)
