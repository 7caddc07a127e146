"""The contract of `trioserve.protocols.http2.machine.Http2Machine`, as functions that assert.

A row is what a client sends, frame by frame, and what it has to see for it: answers, streams that are reset, or the
end of the connection. Rows are read whole and byte by byte, and a connection that has to live is asked for one
request more. A small application answers, which every runner of rows has to imitate; see `RowApplication`. A
battery knows nothing of how a machine works; what it demands is written in the contract and in RFC 9113.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from hyperframe.frame import DataFrame, GoAwayFrame, HeadersFrame, PingFrame, RstStreamFrame, SettingsFrame

from trioserve.protocols.errors import RemoteProtocolError
from trioserve.protocols.http2.events import (
    NEED_DATA,
    BodyChunk,
    Event,
    Headers,
    Http2Request,
    RefusedRequest,
    StreamClosed,
)
from trioserve.protocols.http2.limits import Http2Limits
from trioserve.protocols.http2.machine import Http2Machine
from trioserve.testing.http2_record import ConnectionRecord, render_frame

BuildHttp2Machine = Callable[[Http2Limits], Http2Machine]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
EMPTY_SETTINGS = render_frame(SettingsFrame.type)
LONGEST_BYTE_BY_BYTE = 3000  # longer rows would only repeat the same state
BIG = 40_000
"""Bytes of content that `/big` answers."""


def render_literals(*fields: tuple[bytes, bytes]) -> bytes:
    """Return a field block of literals that touch no table (RFC 7541 section 6.2.2): any bytes, right or wrong."""
    return b"".join(b"\x00" + _string(name) + _string(value) for name, value in fields)


def _string(value: bytes) -> bytes:
    size = len(value)
    if size < 127:
        return bytes((size,)) + value
    size -= 127
    code = bytearray((127,))
    while size >= 128:
        code.append(size & 127 | 128)
        size >>= 7
    return bytes((*code, size)) + value


def render_request(stream_id: int, path: bytes = b"/", *, method: bytes = b"GET", end: bool = True) -> bytes:
    """Return a request without further fields, in one HEADERS frame."""
    pseudo = [(b":method", method), (b":scheme", b"http"), (b":path", path), (b":authority", b"a.example")]
    return render_frame(
        HeadersFrame.type, render_literals(*pseudo), flags=5 if end else 4, stream_id=stream_id
    )


@dataclass(frozen=True, slots=True)
class Http2Row:
    """What a client sends, and the one right answer to it.

    Args:
        name: unique in its table; begins with the section that has the rule.
        script: bytes to send; or a stream, of which the end of the response (or its reset) is awaited first.
        goaway: the code of the error that ends the connection; None when it has to live.
        resets: streams that are reset, and the code, in order; without those that were answered early and are
            reset with NO_ERROR, as RFC 9113 section 8.1 allows.
        answers: streams and the status of their complete responses, and the content, if it matters.
        partial: streams and the bytes of content that may leave of a response that cannot end.
        pings: what answers to PING carry, in order.
        acks: how many SETTINGS are acknowledged, but for the first.
        opening: what comes before the script.
        last: the last stream that GOAWAY names; not looked at when None.
        leaves: the client opens nothing more, so that the connection may end with its last stream.
        limits: those of the connection; others than the defaults are for the machine alone.
    """

    name: str
    script: tuple[bytes | int, ...]
    goaway: int | None = None
    resets: tuple[tuple[int, int], ...] = ()
    answers: tuple[tuple[int, int, bytes | None], ...] = ()
    partial: tuple[tuple[int, int], ...] = ()
    pings: tuple[bytes, ...] = ()
    acks: int = 0
    opening: bytes = PREFACE + EMPTY_SETTINGS
    last: int | None = None
    leaves: bool = False
    limits: Http2Limits = field(default_factory=Http2Limits)

    @property
    def size(self) -> int:
        """Bytes of the whole script."""
        return sum(len(step) for step in self.script if isinstance(step, bytes))


NEXT_STREAM = 4001
NEXT_PING = b"theisnxt"
NEXT = render_request(NEXT_STREAM, b"/empty") + render_frame(PingFrame.type, NEXT_PING)
"""One request more, which no window can hold back, and a PING behind it."""


def judge_record(row: Http2Row, record: ConnectionRecord, *, followed: bool) -> str | None:
    """Say in what a client's record of a row is wrong; None if it is right.

    Args:
        row: what was played.
        record: all that the server said.
        followed: `NEXT` was sent behind it.
    """
    failures = [frame for frame in record.frames if isinstance(frame, GoAwayFrame) and frame.error_code]
    if row.goaway is not None:
        return _judge_failure(row, record, failures)
    if failures:
        return f"{row.name}: the connection was ended with {failures[0].error_code}"
    stopped = [frame for frame in record.frames if isinstance(frame, RstStreamFrame)]
    resets = tuple((frame.stream_id, frame.error_code) for frame in stopped if frame.error_code)
    ended = {number: stream for number, stream in record.streams.items() if stream.ended}
    if followed:
        found = ended.pop(NEXT_STREAM, None)
        if found is None or found.response().status != 204:
            return f"{row.name}: the next request has no answer"
    statuses = {number: stream.response().status for number, stream in ended.items()}
    if statuses != {number: status for number, status, _ in row.answers}:
        return f"{row.name}: answered {statuses}, reset {resets}"
    for number, _, content in row.answers:
        if content is not None and content != ended[number].body:
            return f"{row.name}: stream {number} was answered {bytes(ended[number].body)!r}"
    partial = {
        n: len(s.body) for n, s in record.streams.items() if s.heads and not s.ended and s.reset is None
    }
    pings = [f.opaque_data for f in record.frames if isinstance(f, PingFrame) and "ACK" in f.flags]
    acks = sum(isinstance(f, SettingsFrame) and "ACK" in f.flags for f in record.frames)
    facts = (resets, partial, tuple(ping for ping in pings if ping != NEXT_PING), acks)
    wanted = (row.resets, dict(row.partial), row.pings, row.acks + 1)
    return None if facts == wanted else f"{row.name}: resets, partial, pings, acks are {facts}, not {wanted}"


def _judge_failure(row: Http2Row, record: ConnectionRecord, failures: Sequence[GoAwayFrame]) -> str | None:
    if len(failures) != 1:
        return f"{row.name}: {len(failures)} GOAWAY, of {record.frames}"
    if failures[0].error_code != row.goaway:
        return f"{row.name}: GOAWAY with {failures[0].error_code}"
    if row.last is not None and failures[0].last_stream_id != row.last:
        return f"{row.name}: GOAWAY names stream {failures[0].last_stream_id}"
    if record.frames[-1] is not failures[0]:
        return f"{row.name}: something comes behind GOAWAY"
    return None


class RowApplication:
    """What answers in rows, on a machine.

    `/hold` takes no content and never answers; `/early` answers before the end of the request, which is dropped
    then. All others answer at the end of the request: `/empty` 204, `/big` so many bytes, `/echo` the content and
    the trailers, `/fields` the fields, any other path "ok".
    """

    def __init__(self, machine: Http2Machine) -> None:
        self._machine = machine
        self._paths: dict[int, bytes] = {}
        self._bodies: dict[int, bytes] = {}
        self._held: set[int] = set()

    def take(self, event: Event) -> None:
        """Answer what can be answered by now."""
        if isinstance(event, Http2Request):
            self._begin(event)
        elif isinstance(event, RefusedRequest):
            self._answer(event.stream_id, event.status, event.reason.encode())
        elif isinstance(event, BodyChunk):
            if event.stream_id not in self._held:
                self._machine.acknowledge(event.stream_id, len(event.data))
            if event.stream_id in self._bodies:
                self._bodies[event.stream_id] += event.data
                if event.last:
                    self._end(event.stream_id, event.trailers)
        elif isinstance(event, StreamClosed):
            self._bodies.pop(event.stream_id, None)

    def _begin(self, request: Http2Request) -> None:
        stream_id, path = request.stream_id, request.target
        if path == b"/early":
            self._answer(stream_id, 200, b"ok")
            if request.has_body:
                self._machine.reset_stream(stream_id)
        elif path == b"/hold":
            self._held.add(stream_id)
        else:
            self._paths[stream_id] = path
            self._bodies[stream_id] = render_fields(request.headers) if path == b"/fields" else b""
            if not request.has_body:
                self._end(stream_id, [])

    def _end(self, stream_id: int, trailers: Headers) -> None:
        path, body = self._paths[stream_id], self._bodies.pop(stream_id)
        self._answer(stream_id, *answer_of(path, body, trailers))

    def _answer(self, stream_id: int, status: int, body: bytes) -> None:
        self._machine.send_head(stream_id, [(b":status", b"%d" % status)], not body)
        if body:
            self._machine.send_body(stream_id, body, True)


def answer_of(path: bytes, body: bytes, trailers: Iterable[tuple[bytes, bytes]]) -> tuple[int, bytes]:
    """Return the status and the content with which the application of the rows answers a complete request.

    Args:
        path: what was asked for.
        body: the content of the request; for `/fields` what `render_fields` made of its fields.
        trailers: of the request.
    """
    if path == b"/empty":
        return 204, b""
    if path == b"/big":
        return 200, b"x" * BIG
    if path in (b"/echo", b"/fields"):
        return 200, body + render_fields(trailers)
    return 200, b"ok"


def render_fields(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return fields as the application of the rows answers them."""
    return b"".join(name + b"=" + value + b"|" for name, value in fields)


def check_http2_machine(build: BuildHttp2Machine, rows: Iterable[Http2Row] = ()) -> None:
    """Assert that a machine keeps the contract of `Http2Machine`.

    Args:
        build: makes a new machine.
        rows: what clients send, besides the rules of the contract.

    Raises:
        AssertionError: naming the rule or the row.
    """
    for rule in _RULES:
        rule(build)
    for row in rows:
        check_http2_row(build, row)


def check_http2_row(build: BuildHttp2Machine, row: Http2Row) -> None:
    """Assert that a machine answers one row right, in whatever pieces it comes."""
    for size in (1 << 24, 1 if row.size <= LONGEST_BYTE_BY_BYTE else 1013):
        record = _play(build(row.limits), row, size)
        wrong = judge_record(row, record, followed=not row.leaves)
        assert wrong is None, f"in pieces of {size} bytes: {wrong}"


def _play(machine: Http2Machine, row: Http2Row, size: int) -> ConnectionRecord:
    """Feed a row, and the next request; return what the client sees."""
    record = ConnectionRecord()
    application = RowApplication(machine)
    steps = [row.opening, *(step for step in row.script if isinstance(step, bytes))]
    if not row.leaves:
        steps.append(NEXT)
    for step in steps:
        for start in range(0, len(step), size):
            machine.receive_data(step[start : start + size], 0.0)
            try:
                take_events(machine, application.take)
            except RemoteProtocolError:
                _expect_the_end(machine)
                record.take_in(fetch(machine))
                assert fetch(machine) == b""
                return record
            record.take_in(fetch(machine))
    return record


def _expect_the_end(machine: Http2Machine) -> None:
    assert machine.failed
    machine.receive_data(NEXT, 0.0)
    try:
        machine.next_event()
    except RemoteProtocolError:
        return
    raise AssertionError("a machine goes on after an error")


def take_events(machine: Http2Machine, take: Callable[[Event], object]) -> None:
    """Hand on the events of a machine until it wants more bytes.

    Raises:
        RemoteProtocolError: from the machine.
    """
    while (event := machine.next_event()) is not NEED_DATA:
        take(event)


def fetch(machine: Http2Machine, budget: int = 32768) -> bytes:
    """Return all that a machine wants to be sent by now."""
    parts = []
    while data := machine.data_to_send(budget):
        parts.append(data)
    return b"".join(parts)


# -- the rules of the contract ----------------------------------------------------------------------------------------


class _Client:
    """A machine after the opening, and what its client saw."""

    def __init__(self, build: BuildHttp2Machine, limits: Http2Limits | None = None) -> None:
        self.machine = build(limits or Http2Limits())
        self.record = ConnectionRecord()
        self.send(PREFACE + EMPTY_SETTINGS)

    def send(self, *frames: bytes) -> list[Event]:
        """Return the events of what is sent, without the last one, which wants more."""
        self.machine.receive_data(b"".join(frames), 0.0)
        events: list[Event] = []
        take_events(self.machine, events.append)
        return events

    def receive(self, budget: int = 32768) -> None:
        """Take in what the machine sends at once."""
        self.record.take_in(bytes(self.machine.data_to_send(budget)))

    def body(self, stream_id: int) -> bytes:
        """Return the content that has come so far."""
        self.record.take_in(fetch(self.machine))
        return bytes(self.record.record(stream_id).body)


def _rule_opening(build: BuildHttp2Machine) -> None:
    """Our SETTINGS are the first frame, with our limits, before anything has come."""
    limits = Http2Limits(
        max_concurrent_streams=7, window=70_000, connection_window=80_000, max_frame_size=20_000
    )
    machine, record = build(limits), ConnectionRecord()
    assert not machine.begun
    assert machine.next_event() is NEED_DATA
    record.take_in(fetch(machine))
    settings = record.frames[0]
    assert isinstance(settings, SettingsFrame)
    assert settings.settings[SettingsFrame.MAX_CONCURRENT_STREAMS] == 7
    assert settings.settings[SettingsFrame.INITIAL_WINDOW_SIZE] == 70_000
    assert settings.settings[SettingsFrame.MAX_FRAME_SIZE] == 20_000
    assert SettingsFrame.ENABLE_PUSH not in settings.settings, (
        "RFC 9113 section 6.5.2: a server may only say 0"
    )
    assert record.window == 80_000
    machine.receive_data(PREFACE, 0.0)
    assert machine.next_event() is NEED_DATA
    assert machine.begun


def _rule_exchange(build: BuildHttp2Machine) -> None:
    """A request, its content and its end are told in order; the answer leaves in order; the stream is forgotten."""
    client = _Client(build)
    assert client.machine.open_streams == 0
    [request] = client.send(render_request(1, b"/a?b", method=b"PUT", end=False))
    assert isinstance(request, Http2Request)
    assert (request.stream_id, request.method, request.target) == (1, "PUT", b"/a?b")
    assert (request.has_body, request.content_length) == (True, None)
    assert (request.scheme, request.host, request.headers) == (
        "http",
        b"a.example",
        [(b"host", b"a.example")],
    )
    assert client.send(_data(1, b"abc")) == [BodyChunk(1, b"abc", False, [])]
    assert client.send(_data(1, b"", end=True)) == [BodyChunk(1, b"", True, [])]
    assert client.machine.open_streams == 1
    client.machine.acknowledge(1, 3)
    client.machine.send_head(1, [(b":status", b"200"), (b"a", b"b")], False)
    assert client.machine.send_body(1, b"hello", False)
    assert client.machine.send_trailers(1, [(b"c", b"d")])
    assert client.body(1) == b"hello"
    response = client.record.record(1).response()
    assert (response.status, response.headers, response.trailers) == (200, [(b"a", b"b")], [(b"c", b"d")])
    assert client.machine.open_streams == 0


def _rule_backpressure(build: BuildHttp2Machine) -> None:
    """Content waits for the peer's window; above the high-water mark so does its sender, until told."""
    client = _Client(build, Http2Limits(send_buffer=1000))
    client.send(render_frame(SettingsFrame.type, b"\x00\x04" + (100).to_bytes(4, "big")), render_request(1))
    machine = client.machine
    machine.send_head(1, [(b":status", b"200")], False)
    assert machine.send_body(1, b"x" * 1000, False)
    assert not machine.send_body(1, b"y" * 200, True)
    assert len(client.body(1)) == 100
    assert (machine.unsent(1), machine.is_stalled(1)) == (1100, True)
    assert not machine.drained
    client.send(_window(1, 100))
    assert len(client.body(1)) == 200
    assert not machine.drained, "after its end a response is waited for to the last byte"
    client.send(_window(1, 1000))
    assert client.body(1) == b"x" * 1000 + b"y" * 200
    assert machine.drained == [1]
    assert (machine.unsent(1), machine.is_stalled(1)) == (0, False)


def _rule_budget(build: BuildHttp2Machine) -> None:
    """`data_to_send` returns about as much content as it is asked for, and what cannot wait in any case."""
    client = _Client(build)
    client.send(render_request(1))
    client.receive()
    client.machine.send_head(1, [(b":status", b"200")], False)
    client.machine.send_body(1, b"x" * 60_000, True)
    client.receive(20_000)
    assert 16_000 <= len(client.record.record(1).body) <= 40_000
    client.send(render_frame(PingFrame.type, b"12345678"))
    client.receive(0)
    assert isinstance(client.record.frames[-1], PingFrame)
    assert client.body(1) == b"x" * 60_000


def _rule_calls_on_closed_streams(build: BuildHttp2Machine) -> None:
    """Whatever is asked of a stream that is closed does nothing."""
    for code in (8, None):
        client = _Client(build)
        client.send(render_request(1, end=False))
        machine = client.machine
        if code is None:
            machine.reset_stream(1, 2)
        else:
            reset = render_frame(RstStreamFrame.type, code.to_bytes(4, "big"), stream_id=1)
            assert client.send(reset) == [StreamClosed(1, code, True)]
        client.receive()
        before = len(client.record.frames)
        for stream_id in (1, 99):
            machine.send_information(stream_id, [(b":status", b"103")])
            machine.send_head(stream_id, [(b":status", b"200")], False)
            assert machine.send_body(stream_id, b"x" * 100_000, False)
            assert machine.send_trailers(stream_id, [(b"a", b"b")])
            machine.reset_stream(stream_id, 2)
            machine.acknowledge(stream_id, 0)
            assert machine.push(stream_id, b"/", "http", b"a", []) is None
            assert (machine.unsent(stream_id), machine.is_stalled(stream_id)) == (0, False)
        assert fetch(machine) == b""
        assert len(client.record.frames) == before
        assert (client.record.record(1).reset is None) is (code is not None)


def _rule_lost_content_is_told(build: BuildHttp2Machine) -> None:
    """A reset tells how much of the response never left, and lets go on who waited."""
    client = _Client(build, Http2Limits(send_buffer=100))
    client.send(render_frame(SettingsFrame.type, b"\x00\x04" + (10).to_bytes(4, "big")), render_request(1))
    client.machine.send_head(1, [(b":status", b"200")], False)
    assert not client.machine.send_body(1, b"x" * 200, True)
    client.body(1)
    reset = render_frame(RstStreamFrame.type, (8).to_bytes(4, "big"), stream_id=1)
    assert client.send(reset) == [StreamClosed(1, 8, True, 190)]
    assert client.machine.drained == [1]
    assert client.machine.open_streams == 0


def _rule_going_away(build: BuildHttp2Machine) -> None:
    """After the last GOAWAY what is open is answered, and what is new is refused for another try."""
    client = _Client(build)
    client.send(render_request(1, end=False))
    client.machine.send_goaway(final=False)
    assert [
        event.stream_id for event in client.send(render_request(3)) if isinstance(event, Http2Request)
    ] == [3]
    client.machine.send_goaway(final=True)
    assert client.send(render_request(5)) == []
    for stream_id in (1, 3):
        client.machine.send_head(stream_id, [(b":status", b"204")], True)
    client.body(1)
    goaways = [frame for frame in client.record.frames if isinstance(frame, GoAwayFrame)]
    assert [(frame.last_stream_id, frame.error_code) for frame in goaways] == [(2**31 - 1, 0), (3, 0)]
    assert client.record.record(5).reset == 7, "REFUSED_STREAM"
    assert all(client.record.record(stream_id).response().status == 204 for stream_id in (1, 3))


def _rule_credit(build: BuildHttp2Machine) -> None:
    """The window of a stream is widened by what was taken, and by no more."""
    client = _Client(build, Http2Limits(window=20_000, connection_window=65_535))
    client.send(render_request(1, method=b"PUT", end=False))
    client.body(1)
    left = client.record.record(1).window
    assert left == 20_000
    client.send(_data(1, b"x" * 15_000))
    client.body(1)
    assert client.record.record(1).window == left, "nothing was taken yet"
    client.machine.acknowledge(1, 15_000)
    client.body(1)
    assert client.record.record(1).window == left + 15_000


def _data(stream_id: int, content: bytes, *, end: bool = False) -> bytes:
    return render_frame(DataFrame.type, content, flags=int(end), stream_id=stream_id)


def _window(stream_id: int, size: int) -> bytes:
    return render_frame(8, size.to_bytes(4, "big"), stream_id=stream_id)


_RULES = (
    _rule_opening,
    _rule_exchange,
    _rule_backpressure,
    _rule_budget,
    _rule_calls_on_closed_streams,
    _rule_lost_content_is_told,
    _rule_going_away,
    _rule_credit,
)
