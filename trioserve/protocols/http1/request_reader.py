"""The receiving side of HTTP/1.1: bytes in, a head and pieces of its body out.

A head is judged by our own policy; then the library reads what the policy approved, and what it sees must be
the same, or the request is refused (docs/decisions/0001). Bodies are decoded by `framing`. Invariants: next_event
raises nothing but RemoteProtocolError; after it has raised, it raises for ever, and no byte after the mistake is
looked at.
"""

from __future__ import annotations

import abc
import enum
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from trioserve.protocols.errors import RemoteProtocolError
from trioserve.protocols.http1.events import (
    CLOSED,
    NEED_DATA,
    PAUSED,
    BodyChunk,
    Event,
    Headers,
    RequestHead,
)
from trioserve.protocols.http1.framing import BodyDecoder, ChunkDecoder, LengthDecoder
from trioserve.protocols.http1.head_scanner import HeadScanner
from trioserve.protocols.http1.policy import FAST_HEAD, FAST_LINE, Http1Limits, judge_head, replace_host

if TYPE_CHECKING:
    import re


class Reading(enum.Enum):
    """Where the request stands."""

    HEAD = enum.auto()
    BODY = enum.auto()
    DONE = enum.auto()
    FAILED = enum.auto()


_HEAD: Final = Reading.HEAD
_BODY: Final = Reading.BODY
_DONE: Final = Reading.DONE

_METHODS: Final = {
    name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
}
_VERSIONS: Final = {b"1": "1.1", b"0": "1.0"}
_STAND_IN: Final = "POST"


class Opinion:
    """What a parser library read in a head.

    Args:
        target: the request target.
        headers: names in lower case.
        complete: it expects no body; None when it cannot tell.
    """

    __slots__ = ("complete", "headers", "target")

    def __init__(self, target: bytes, headers: Headers, complete: bool | None) -> None:
        self.target = target
        self.headers = headers
        self.complete = complete


class Familiar(NamedTuple):
    """The fields of the last plain head, as bytes, and what policy and library made of them.

    A client says the same about itself with every request on a connection; what was judged once need not be
    judged again (docs/decisions/0002).
    """

    fields: bytes  # from behind the request line through the empty line
    minor: bytes
    head: RequestHead


FAMILIAR_SIZE: Final = 2048
"""Bytes of fields that a connection remembers at most."""


class RequestReader(abc.ABC):
    """Reads one request after the other.

    Args:
        limits: what a request may cost.

    Attributes:
        wants_continue: the client waits for 100 Continue, no byte of the body has come, and no answer was
            begun.
        head: the current request, from its RequestHead event until the next cycle.
    """

    __slots__ = (
        "_body",
        "_buffer",
        "_ended",
        "_error",
        "_familiar",
        "_known_host",
        "_limits",
        "_position",
        "_reading",
        "_scanner",
        "head",
        "wants_continue",
    )

    def __init__(self, limits: Http1Limits) -> None:
        self._limits = limits
        self._buffer: bytes | bytearray = b""  # a bytearray only while something has to be added to
        self._position = 0
        self._ended = False
        self._reading = _HEAD
        self._error: RemoteProtocolError | None = None
        self._scanner: HeadScanner | None = None
        self._body: BodyDecoder | None = None
        self._known_host = b""
        self._familiar: Familiar | None = None
        self.head: RequestHead | None = None
        self.wants_continue = False

    def receive_data(self, data: bytes) -> None:
        """Add bytes from the peer; b"" means that it ended its side.

        Never raises. What is fed is held until it is taken, so the caller bounds it.
        """
        if not data:
            self._ended = True
            return
        self.wants_continue = False
        buffer = self._buffer
        if self._position == len(buffer):
            self._buffer = data
            self._position = 0
        elif type(buffer) is bytearray:
            if self._position:
                del buffer[: self._position]
                self._position = 0
            buffer += data
        else:
            self._buffer = bytearray(memoryview(buffer)[self._position :])
            self._buffer += data
            self._position = 0

    def next_event(self) -> Event:
        """Return what the bytes so far amount to.

        Raises:
            RemoteProtocolError: the request is refused; answer with `status_hint` and close.
        """
        reading = self._reading
        try:
            if reading is _HEAD:
                if self._familiar is not None and self._scanner is None:
                    head = self._recognise(self._familiar)
                    if head is not None:
                        return head
                return self._next_head()
            if reading is _BODY:
                return self._next_body()
        except RemoteProtocolError as error:
            self._reading = Reading.FAILED
            self._error = error
            self.wants_continue = False
            raise
        if self._error is not None:
            raise RemoteProtocolError(str(self._error), self._error.status_hint)
        return PAUSED

    @property
    def unread(self) -> bool:
        """The peer sent, or is still to send, something that was not taken: bytes, or the rest of a body."""
        if self._position != len(self._buffer):
            return True
        return self._reading is _BODY or (self._reading is Reading.FAILED and not self._ended)

    @property
    def request_in_progress(self) -> bool:
        """A head has begun and is not complete. Empty lines before a request line do not begin one."""
        if self._reading is not _HEAD or self._position == len(self._buffer):
            return False
        # Copied for a method that runs in C: a peer may send empty lines one at a time, and each comes by here.
        return bool(self._buffer[self._position :].lstrip(b"\r\n"))

    @property
    def trailing_data(self) -> bytes:
        """The bytes that were received and not taken: after an upgrade they belong to the next protocol."""
        return bytes(memoryview(self._buffer)[self._position :])

    def _next_head(self) -> Event:
        buffer, position = self._buffer, self._position
        if position == len(buffer):
            return CLOSED if self._ended else NEED_DATA
        if self._scanner is None:
            match = FAST_HEAD.match(buffer, position)
            if match is not None:
                head = self._judge_plain(match, position)
                if head is not None:
                    return head
            self._scanner = HeadScanner(self._limits)
        return self._scan_head(self._scanner)

    def _recognise(self, familiar: Familiar) -> RequestHead | None:
        """The quickest way: nothing but the request line differs from a head that was found good before."""
        buffer, position = self._buffer, self._position
        match = FAST_LINE.match(buffer, position)
        if match is None:
            return None
        fields, minor, known = familiar
        method, target, line_minor = match.groups()
        end = match.end()
        limits = self._limits
        if (
            not buffer.startswith(fields, end)
            or line_minor != minor
            or len(target) > limits.max_target_size
            or end + len(fields) - position > limits.max_head_size
        ):
            return None
        self._position = end + len(fields)
        self._reading = _DONE
        head = self.head = RequestHead(
            _METHODS[method],
            target,
            known.headers.copy(),
            known.http_version,
            False,
            0,
            False,
            False,
            known.keep_alive,
            None,
            known.host,
            known.forwarded,
        )
        return head

    def _judge_plain(self, match: re.Match[bytes], position: int) -> RequestHead | None:
        """The quick way: the library reads, then our rules; None when anything calls for the careful way."""
        method, target, minor = match.groups()
        limits = self._limits
        end = match.end()
        if end - position > limits.max_head_size or len(target) > limits.max_target_size:
            return None
        opinion = self._read_head(match[0])
        if opinion is None or opinion.target != target or len(opinion.headers) > limits.max_fields:
            return None
        head = judge_head(_METHODS[method], target, _VERSIONS[minor], opinion.headers, self._known_host)
        self._begin(head, opinion.complete, end)
        fields_start = match.end(3) + len(b"\r\n")
        plain = not head.has_body and not head.expects_continue and head.upgrade is None
        if plain and end - fields_start <= FAMILIAR_SIZE:
            fields = bytes(memoryview(self._buffer)[fields_start:end])
            self._familiar = Familiar(
                fields, minor, msgspec.structs.replace(head, headers=head.headers.copy())
            )
        return head

    def _scan_head(self, scanner: HeadScanner) -> Event:
        """The careful way: our reading first, then the library's of what we approved."""
        end = scanner.scan(self._buffer, self._position)
        if end is None:
            if not self._ended:
                return NEED_DATA
            if self.request_in_progress:
                raise RemoteProtocolError("the peer closed inside a request head")
            return CLOSED
        line = scanner.line
        assert line is not None
        head = judge_head(line.method, line.target, line.http_version, scanner.fields, self._known_host)
        if line.authority is not None:
            replace_host(head, line.authority)
        opinion = self._read_head(_render_head(head))
        if opinion is None or opinion.target != head.target or opinion.headers != head.headers:
            raise RemoteProtocolError("the parser library reads another request")
        self._begin(head, opinion.complete, end)
        return head

    def _begin(self, head: RequestHead, complete: bool | None, end: int) -> None:
        """Let the request begin, which both found good, if both see the same framing."""
        if complete is head.has_body:
            raise RemoteProtocolError("the parser library sees another framing")
        self._position = end
        self._known_host = head.host
        self.head = head
        if not head.has_body:
            self._reading = _DONE
            return
        self._reading = _BODY
        length = head.content_length
        self._body = ChunkDecoder(self._limits) if length is None else LengthDecoder(length)
        self.wants_continue = head.expects_continue and end == len(self._buffer)

    def _next_body(self) -> Event:
        body = self._body
        assert body is not None
        data, self._position = body.decode(self._buffer, self._position)
        if body.complete:
            self._reading = _DONE
            return BodyChunk(data, True, body.trailers)
        if data:
            return BodyChunk(data, False, [])
        if self._ended:
            raise RemoteProtocolError("the peer closed inside a request body")
        return NEED_DATA

    @abc.abstractmethod
    def _read_head(self, head: bytes) -> Opinion | None:
        """Ask the parser library to read one whole, approved head; None when it refuses. Never raises."""


def _render_head(head: RequestHead) -> bytes:
    """The approved head in its plainest form, as the library is to see it.

    The method is a stand-in: any token is a method (RFC 9110 section 9.1), whereas llhttp knows a closed list
    and treats some of its entries as other protocols. No method that reaches this point changes how a request
    is framed.
    """
    start = b"%b %b HTTP/%b\r\n" % (_STAND_IN.encode(), head.target, head.http_version.encode())
    return b"".join((start, *(b"%b: %b\r\n" % field for field in head.headers), b"\r\n"))
