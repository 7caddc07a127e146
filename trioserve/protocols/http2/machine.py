"""HTTP/2 from the server's side, without I/O: bytes in, events out; answers in, bytes out (RFC 9113).

`Http2Machine` is the contract that the server is written against; here it stands on the h2 library. What the peer sends
is in `receiver.py`; what waits for windows and its turn is in `outgoing.py`. No clock is read: times are arguments.

    machine.receive_data(data, now)            until machine.next_event() returns NEED_DATA or raises
    machine.send_head / send_body / ...        at any time, on streams that an event has told of
    machine.data_to_send(budget)               until it returns b""; the bytes have to be sent in this order

A call on a stream that is closed by now does nothing: the event that tells so may not have been read yet.
"""

from __future__ import annotations

import base64
import binascii
import string
from typing import TYPE_CHECKING, Final

from h2.exceptions import ProtocolError
from hyperframe.frame import GoAwayFrame, PingFrame, SettingsFrame

from trioserve.protocols.errors import RemoteProtocolError
from trioserve.protocols.http2 import frame_gate as wire
from trioserve.protocols.http2.events import Headers, Http2Request
from trioserve.protocols.http2.frame_gate import ConnectionFault
from trioserve.protocols.http2.priorities import Urgency, merge_response_priority
from trioserve.protocols.http2.receiver import Http2Receiver
from trioserve.protocols.http2.settings import SETTING_SIZE, announce_settings

if TYPE_CHECKING:
    from trioserve.protocols.http2.limits import Http2Limits
    from trioserve.protocols.http2.streams import StreamState

_ALPHABET: Final = frozenset(string.ascii_letters.encode() + string.digits.encode() + b"-_=")
"""Of base64url (RFC 4648 section 5); Python takes the other base64 for it, too."""
ANY_STREAM: Final = 2**31 - 1
DEFAULT_WINDOW: Final = 65535  # RFC 9113 section 6.9.2


class Http2Machine(Http2Receiver):
    """One HTTP/2 connection.

    Args:
        limits: what it may cost.

    Attributes:
        failed: the connection has ended with an error; only what is queued may still be sent.
        peer_leaving: the peer has sent GOAWAY and opens no more streams.
    """

    __slots__ = ()

    def __init__(self, limits: Http2Limits) -> None:
        super().__init__(limits)
        self._conn.emit(announce_settings(limits))
        if limits.connection_window > DEFAULT_WINDOW:
            self._conn.increment_flow_control_window(limits.connection_window - DEFAULT_WINDOW)

    def upgrade(self, settings: bytes, request: Http2Request) -> None:
        """Let a request that came over HTTP/1.1 with `Upgrade: h2c` be stream 1 (RFC 7540 section 3.2).

        Args:
            settings: the value of HTTP2-Settings.
            request: the request, without a body; the first event.

        Raises:
            RemoteProtocolError: the value is malformed; the machine is of no use then.
        """
        try:
            payload = base64.b64decode(settings + b"=" * (-len(settings) % 4), b"-_", validate=True)
            if (
                len(payload) % SETTING_SIZE
                or len(payload) > self._limits.max_frame_size
                or not _ALPHABET.issuperset(settings)
            ):
                raise RemoteProtocolError("malformed http2-settings")
            known = SettingsFrame(0, self._read_settings(payload)).serialize_body()
            self._conn.initiate_upgrade_connection(base64.urlsafe_b64encode(known))
        except (binascii.Error, ProtocolError, ConnectionFault) as error:
            raise RemoteProtocolError("malformed http2-settings") from error
        self._conn.data_to_send()  # h2's own SETTINGS, which nobody shall see
        self._streams.add(1, True)
        self._events.append(request)

    @property
    def open_streams(self) -> int:
        """How many streams have not ended on both sides."""
        return len(self._streams.open)

    # -- answers --------------------------------------------------------------------------------------------------

    def send_head(self, stream_id: int, fields: Headers, end: bool, priority: bytes | None = None) -> None:
        """Send the head of a response.

        Args:
            stream_id: the stream.
            fields: `:status` first, then names in lower case, all checked.
            end: there is no content, and there are no trailers.
            priority: the response's own `priority` field, which amends the request's (RFC 9218 section 8).
        """
        stream = self._sending(stream_id)
        if stream is None:
            return
        self._conn.send_fields(stream_id, fields, end=end)
        if priority is not None:
            self._outgoing.refuse_tree()
            amended = merge_response_priority(stream.urgency or Urgency(), priority)
            self._outgoing.reprioritise(stream, amended)
        if end:
            self._outgoing.drop(stream)  # the scheduler may know it
            self._end_answer(stream)

    def send_information(self, stream_id: int, fields: Headers) -> None:
        """Send the head of an informational response, `:status` first."""
        if self._sending(stream_id) is not None:
            self._conn.send_fields(stream_id, fields, end=False, final=False)

    def send_body(self, stream_id: int, data: bytes | memoryview, end: bool) -> bool:
        """Send a piece of content; False when so much waits for the peer that the caller should, too.

        `drained` names the stream when that is over.
        """
        stream = self._sending(stream_id)
        if stream is None:
            return True
        fits = self._outgoing.add(stream, data, [] if end else None)
        if stream.answered:
            self._end_answer(stream)
        return fits

    def send_trailers(self, stream_id: int, fields: Headers) -> bool:
        """End a response with a trailer section behind the content; returns as `send_body`."""
        stream = self._sending(stream_id)
        if stream is None:
            return True
        fits = self._outgoing.add(stream, b"", fields)
        if stream.answered:
            self._end_answer(stream)
        return fits

    def _sending(self, stream_id: int) -> StreamState | None:
        """The stream, if our side of it has not ended."""
        stream = self._streams.open.get(stream_id)
        return None if stream is None or stream.answered or stream.ending is not None else stream

    def _end_answer(self, stream: StreamState) -> None:
        """Our side has ended; forget the stream if both have."""
        if stream.request_ended:
            self._forget(stream, self._streams.ended)

    def push(
        self, stream_id: int, target: bytes, scheme: str, host: bytes, headers: Headers
    ) -> Http2Request | None:
        """Promise a response that the peer did not ask for (RFC 9113 section 8.4).

        Args:
            stream_id: the stream whose response it goes with.
            target: path and query of the request that is made up.
            scheme: "http" or "https".
            host: its authority.
            headers: its further fields, names in lower case, checked.

        Returns the request, which has a stream of its own; None when the peer does not take pushes now.
        """
        remote = self._conn.remote_settings
        most = min(remote.max_concurrent_streams, self._limits.max_concurrent_streams)
        if (
            self._sending(stream_id) is None
            or stream_id % 2 == 0
            or not remote.enable_push
            or self.peer_leaving
            or self._goaway is not None
            or self._streams.pushed >= most
        ):
            return None
        promised = self._conn.get_next_available_stream_id()
        pseudo = [
            *((b":method", b"GET"), (b":scheme", scheme.encode())),
            *((b":authority", host), (b":path", target)),
        ]
        self._conn.push_stream(stream_id, promised, [*pseudo, *headers])
        self._streams.add(promised, True)
        return Http2Request(promised, "GET", target, [(b"host", host), *headers], scheme, host)

    def refuse_stream(self, stream_id: int) -> None:
        """Reset a stream that nobody has looked at, so that the peer may try again (RFC 9113 section 8.7).

        It counts against the budget for resets; over that, `next_event` raises.
        """
        self.reset_stream(stream_id, wire.REFUSED_STREAM)
        try:
            self._allowance.spend_reset()
        except ConnectionFault as fault:
            self._fail(fault.code, str(fault))

    # -- the connection -------------------------------------------------------------------------------------------

    def send_goaway(self, final: bool) -> None:
        """Tell the peer to open no more streams: first as a warning, then, `final`, with the last we answer.

        What it opens after the final one is refused, for it to try again elsewhere (RFC 9113 section 6.8).
        """
        if not self.failed:
            self._goaway = self._streams.highest if final else ANY_STREAM
            self._conn.emit(GoAwayFrame(0, self._goaway, wire.NO_ERROR).serialize())

    def send_ping(self, data: bytes) -> None:
        """Ask the peer for an answer, which is the event PONG; `data` is 8 bytes."""
        self._ping = data
        self._conn.emit(PingFrame(0, data).serialize())

    def unsent(self, stream_id: int) -> int:
        """Bytes of a response that wait for the peer's windows or their turn."""
        stream = self._streams.open.get(stream_id)
        return 0 if stream is None else stream.unsent

    def is_stalled(self, stream_id: int) -> bool:
        """Whether it is the peer's windows that keep a response from going on."""
        return self._outgoing.is_stalled(stream_id)

    @property
    def queued(self) -> int:
        """Bytes that `data_to_send` would return whatever its budget."""
        return len(self._conn.collect())

    @property
    def drained(self) -> list[int]:
        """Streams whose senders need not wait any more; the caller empties it."""
        return self._outgoing.drained

    def data_to_send(self, budget: int) -> bytearray:
        """Return what has to be sent next: all that cannot wait, and about `budget` bytes of content."""
        conn = self._conn
        out = conn.collect()
        if self._outgoing.waiting and not self.failed:
            for stream in self._outgoing.fill(budget - len(out)):
                self._end_answer(stream)
            out = conn.collect()
        count = self._outgoing.take_count()
        if count:
            self._allowance.grant_updates(count)
        if out:
            conn.ready = bytearray()
        return out
