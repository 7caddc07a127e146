"""The rules of one response on HTTP/2: its field sections, and the length of its content (RFC 9113 section 8).

The counterpart of `protocols/http1/response_writer.py`: it refuses the same heads, and the same bytes too many or
too few, with the same words. There is one for each stream. It yields lists of fields and never a frame; HPACK,
windows and the end of the stream are the machine's. It does not know the clock: the Date field is given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trioserve.protocols.errors import LocalProtocolError
from trioserve.protocols.http1.framing import FORBIDDEN_TRAILERS
from trioserve.protocols.http1.policy import MAX_LENGTH_DIGITS
from trioserve.protocols.http1.response_fields import RULES, Rule, checked_pairs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trioserve.protocols.http1.response_fields import FieldLines
    from trioserve.protocols.http2.events import Headers

_STATUS_FIELDS: Final = {status: (b":status", b"%d" % status) for status in range(100, 600)}
_WITHOUT_CONTENT: Final = frozenset((204, 304))
_CONNECTION_SPECIFIC: Final = frozenset((Rule.DROP, Rule.CONNECTION))  # RFC 9113 section 8.2.2
_LENGTH_NAME: Final = (b"content-length",)
_NOT_IN_INFORMATION: Final = _CONNECTION_SPECIFIC | {Rule.LENGTH}

# Fields that applications sent before, as they go out. Most responses repeat most of their fields to the letter.
_known_fields: dict[tuple[bytes, bytes], tuple[bytes, bytes]] = {}
KNOWN_FIELDS: Final = 1024
"""Fields that are remembered before all are forgotten."""
KNOWN_SIZE: Final = 128
"""Bytes of the longest name and value, together, that are remembered."""
# These say something about one response only.
_NOT_REMEMBERED: Final = frozenset((b"priority", b"set-cookie"))


class DefaultFields:
    """Fields that go into every response; names in lower case.

    Args:
        date: the Date field; left out when the application sends one.
        server: the Server field; left out when the application sends one.
        extra: fields that are always sent.
    """

    __slots__ = ("all", "date", "extra", "server")

    def __init__(
        self,
        date: Sequence[tuple[bytes, bytes]] = (),
        server: Sequence[tuple[bytes, bytes]] = (),
        extra: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        self.date = tuple(date)
        self.server = tuple(server)
        self.extra = tuple(extra)
        self.all = (*self.date, *self.server, *self.extra)


NO_FIELDS: Final = DefaultFields()


class ResponseFraming:
    """Holds the application to the rules of its response, from the head through the end.

    Attributes:
        begun: the head was rendered.
        ended: the content is complete.
        bodyless: content is counted by nobody and must not be sent (HEAD, 204, 304); known once begun.
        priority: what the application's own Priority field says (RFC 9218 section 8); it is sent as well.
    """

    __slots__ = (
        "_fields",
        "_own_date",
        "_own_server",
        "_remaining",
        "_status",
        "begun",
        "bodyless",
        "ended",
        "priority",
    )

    def __init__(self) -> None:
        self.begun = self.ended = self.bodyless = False
        self.priority: bytes | None = None
        # What the application said in the prepared head.
        self._status = 0
        self._fields: Headers | None = None
        self._remaining: int | None = None  # content still owed; None until a length is known
        self._own_date = self._own_server = False

    def render_information(self, status: int, headers: FieldLines) -> Headers:
        """Render an interim response (RFC 9110 section 15.2).

        Raises:
            LocalProtocolError: the response has begun, a field is illegal, or the status is none that HTTP/2 has
                (101 is not one: RFC 9113 section 8.6).
        """
        if self.begun:
            raise LocalProtocolError("an interim response after the final one")
        if not 100 <= status < 200:
            raise LocalProtocolError(f"status {status} is not informational")
        if status == 101:
            raise LocalProtocolError("HTTP/2 has no status 101")
        return [_STATUS_FIELDS[status], *_render_section(headers, _NOT_IN_INFORMATION)]

    def prepare_head(self, status: int, headers: FieldLines) -> None:
        """Check and hold the application's head; a head that was prepared and not rendered is replaced.

        Args:
            status: 200 to 599.
            headers: pairs of bytes, in any case; read once.

        Raises:
            LocalProtocolError: the response has begun already, or status or a field is illegal.
        """
        if self.begun:
            raise LocalProtocolError("a second response head")
        self._fields = self._remaining = self.priority = None
        self._own_date = self._own_server = False
        status_field = _STATUS_FIELDS.get(status)
        if status_field is None or status < 200:
            raise LocalProtocolError(f"status {status!r} cannot begin a final response")
        fields = [status_field]
        append = fields.append
        find_known = _known_fields.get
        try:
            for field in headers:
                good = find_known(field) if type(field) is tuple else None
                if good is None:
                    good = self._judge_field(field)
                    if good is None:
                        continue
                append(good)
        except TypeError as error:  # no iterable, or a field with something that has no hash
            raise LocalProtocolError("a response field must be a pair of bytes") from error
        self._status = status
        self._fields = fields

    def render_head(self, is_head: bool, defaults: DefaultFields, length: int | None) -> Headers:
        """Render the prepared head; the response has begun.

        Args:
            is_head: the method was HEAD.
            defaults: fields for every response.
            length: bytes of the whole content when they are known, else None.

        Raises:
            LocalProtocolError: no head was prepared, or its Content-Length is not `length`.
        """
        fields = self._fields
        if fields is None or self.begun:
            raise LocalProtocolError("no response head was prepared")
        length = self._settle_length(is_head, length)
        if length is not None:
            fields.append((b"content-length", b"%d" % length))
        if self._own_date or self._own_server:
            fields += () if self._own_date else defaults.date
            fields += () if self._own_server else defaults.server
            fields += defaults.extra
        else:
            fields += defaults.all
        self._fields = None
        self.begun = True
        return fields

    def count(self, size: int) -> None:
        """Take note of so many bytes of content.

        Raises:
            LocalProtocolError: more than Content-Length says, or no response is under way.
        """
        if not self.begun or self.ended:
            raise LocalProtocolError("response content without a response under way")
        if self._remaining is not None:
            if size > self._remaining:
                raise LocalProtocolError("response content is longer than its content-length")
            self._remaining -= size

    def end(self) -> None:
        """End the content; trailers may still be rendered.

        Raises:
            LocalProtocolError: less content than Content-Length says, or no response is under way.
        """
        if not self.begun or self.ended:
            raise LocalProtocolError("the end of a response without a response under way")
        if self._remaining:
            raise LocalProtocolError("response content is shorter than its content-length")
        self.ended = True

    def render_trailers(self, headers: FieldLines) -> Headers:
        """Render the trailer section; empty when there is none to send, as in a response without content.

        Those that RFC 9110 section 6.5.1 forbids are left out, connection-specific fields among them.

        Raises:
            LocalProtocolError: an illegal trailer.
        """
        fields = [(name.lower(), value) for name, value in checked_pairs(headers)]
        return [] if self.bodyless else [field for field in fields if field[0] not in FORBIDDEN_TRAILERS]

    def _judge_field(self, field: tuple[bytes, bytes]) -> tuple[bytes, bytes] | None:
        """Return a field as it is sent, remembered where that helps; None for one that is not, or is elsewhere."""
        if (
            type(field) is tuple
            and field[:1] == _LENGTH_NAME
            and type(field[-1]) is bytes
            and len(field) == 2
        ):
            self._set_length(field[1])
            return None
        ((name, value),) = checked_pairs((field,))
        name = name.lower()
        good = (name, value)
        rule = RULES.get(name, Rule.CHECK_NAME)
        if rule is Rule.KEEP or rule is Rule.CHECK_NAME:
            if name == b"priority":
                self.priority = value if self.priority is None else self.priority + b", " + value
            _remember(field, good)
            return good
        if rule is Rule.LENGTH:
            self._set_length(value)
            return None
        self._own_date = self._own_date or rule is Rule.DATE
        self._own_server = self._own_server or rule is Rule.SERVER
        return None if rule in _CONNECTION_SPECIFIC else good

    def _set_length(self, value: bytes) -> None:
        """Take over the application's Content-Length, which is rendered with the head."""
        if self._remaining is not None or not value.isdigit() or len(value) > MAX_LENGTH_DIGITS:
            raise LocalProtocolError(f"illegal or repeated content-length {value!r}")
        self._remaining = int(value)

    def _settle_length(self, is_head: bool, known: int | None) -> int | None:
        """Decide what Content-Length says, if anything, and what the content is held to (RFC 9110 section 8.6)."""
        status, length = self._status, self._remaining
        if is_head or status in _WITHOUT_CONTENT:
            self.bodyless = True
            self._remaining = None
            if status == 204:
                return None
            return (known or None) if length is None and status != 304 else length
        if length is None:
            length = self._remaining = known
        elif known is not None and known != length:
            raise LocalProtocolError(f"response content of {known} bytes with content-length {length}")
        return length


def _render_section(headers: FieldLines, dropped: frozenset[Rule]) -> Headers:
    """Check fields, in lower case, without those whose rule is in `dropped`."""
    fields = [(name.lower(), value) for name, value in checked_pairs(headers)]
    return [field for field in fields if RULES.get(field[0], Rule.CHECK_NAME) not in dropped]


def _remember(field: tuple[bytes, bytes], good: tuple[bytes, bytes]) -> None:
    """Keep a field that passed every check, unless it says something about one response only."""
    if type(field) is not tuple or good[0] in _NOT_REMEMBERED or len(good[0]) + len(field[1]) > KNOWN_SIZE:
        return
    if len(_known_fields) >= KNOWN_FIELDS:
        _known_fields.clear()
    _known_fields[field] = good
