from __future__ import annotations

import random

import pytest
from h2.errors import ErrorCodes
from hyperframe.frame import (
    DataFrame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from tests.security.http2_rows import (
    BLOCK,
    COMPRESSION_ERROR,
    ROWS,
    data,
    get,
    head,
    ping,
    priority,
    put,
    reset,
    rest,
    settings,
    update,
    window,
)
from trioserve.protocols.errors import RemoteProtocolError
from trioserve.protocols.http2.events import BodyChunk, Http2Request, RefusedRequest, StreamClosed
from trioserve.protocols.http2.limits import Http2Limits
from trioserve.protocols.http2.machine import Http2Machine
from trioserve.testing.http2_checks import (
    EMPTY_SETTINGS,
    PREFACE,
    Http2Row,
    check_http2_machine,
    check_http2_row,
    fetch,
    take_events,
)
from trioserve.testing.http2_record import ConnectionRecord, render_frame

# -- the table and the contract ------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_row(row: Http2Row):
    check_http2_row(Http2Machine, row)


def test_contract():
    check_http2_machine(Http2Machine)


def test_battery_notices_a_wrong_answer():
    row = next(row for row in ROWS if row.goaway is not None)
    wrong = Http2Row(row.name, row.script, goaway=COMPRESSION_ERROR, opening=row.opening)
    with pytest.raises(AssertionError, match="GOAWAY with"):
        check_http2_machine(Http2Machine, [wrong])


def test_names_are_unique():
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)


def test_table_is_large_enough_to_mean_something():
    assert sum(row.goaway is not None for row in ROWS) > 200
    assert sum(bool(row.resets) for row in ROWS) > 200
    assert sum(row.goaway is None and not row.resets for row in ROWS) > 150


# -- what no row can say -------------------------------------------------------------------------------------------


class Client:
    """A machine, what its client has seen, and what it has told its server."""

    def __init__(self, limits: Http2Limits | None = None, opening: bytes = PREFACE + EMPTY_SETTINGS) -> None:
        self.machine = Http2Machine(limits or Http2Limits())
        self.record = ConnectionRecord()
        self.send(opening)

    def send(self, *frames: bytes, now: float = 0.0) -> list:
        events: list = []
        self.machine.receive_data(b"".join(frames), now)
        try:
            take_events(self.machine, events.append)
        finally:
            self.record.take_in(fetch(self.machine))
        return events

    def frames(self, kind: type) -> list:
        self.record.take_in(fetch(self.machine))
        return [frame for frame in self.record.frames if isinstance(frame, kind)]

    def failure(self) -> int:
        [goaway] = self.frames(GoAwayFrame)
        return goaway.error_code


def test_settings_hold_before_they_are_acknowledged():
    machine = Http2Machine(Http2Limits())
    fetch(machine)
    machine.receive_data(PREFACE + settings((4, 1)) + get(1) + ping(), 0.0)
    take_events(
        machine,
        lambda event: (
            machine.send_head(1, [(b":status", b"200")], False),
            machine.send_body(1, b"ab", True),
        ),
    )
    record = ConnectionRecord()
    record.take_in(fetch(machine))
    kinds = [type(frame) for frame in record.frames if not isinstance(frame, PingFrame)]
    assert kinds == [SettingsFrame, HeadersFrame, DataFrame]
    assert record.record(1).body == b"a"


def test_smallest_table_of_one_settings_frame_is_told():
    client = Client(opening=PREFACE + settings((1, 0), (1, 4096)))
    client.send(get(1))
    client.machine.send_head(1, [(b":status", b"200")], True)
    raw = fetch(client.machine)
    assert raw[9:].startswith(b"\x20\x3f\xe1\x1f")


def test_largest_table_that_is_allowed_is_not_taken():
    client = Client(opening=PREFACE + settings((1, 2**32 - 1)))
    client.send(get(1))
    client.machine.send_head(1, [(b":status", b"200")], True)
    assert fetch(client.machine)[9:] == b"\x88"


def test_trailers_that_nobody_wants_change_the_table():
    client = Client()
    client.send(put(1))
    client.machine.reset_stream(1, 2)
    assert client.send(head(1, b"\x40\x01a", 1), rest(1, b"\x01b")) == []
    [request] = client.send(head(3, BLOCK + b"\xbe"))
    assert request.headers == [(b"host", b"a.example"), (b"a", b"b")]
    assert len(client.frames(RstStreamFrame)) == 1


def test_content_behind_our_reset_is_credited_to_the_connection():
    client = Client(Http2Limits(connection_window=65_535))
    client.send(put(1))
    client.machine.reset_stream(1, 8)
    sent = 0
    for _ in range(40):
        client.send(data(1, bytes(10_000)))
        sent += 10_000
    widened = sum(frame.window_increment for frame in client.frames(WindowUpdateFrame) if not frame.stream_id)
    assert sent - 65_535 // 2 <= widened <= sent
    assert not [frame for frame in client.frames(WindowUpdateFrame) if frame.stream_id]


def test_content_behind_our_reset_may_not_overrun_the_connection():
    client = Client(Http2Limits(connection_window=65_535))
    client.send(put(1), put(3))
    client.machine.reset_stream(1, 8)
    client.send(data(3, bytes(16_384)) * 19)  # nobody takes it, so that no more is wanted
    with pytest.raises(RemoteProtocolError):
        client.send(data(1, bytes(16_384)) * 2)
    assert client.failure() == ErrorCodes.FLOW_CONTROL_ERROR


def test_padding_is_credited_at_once():
    client = Client(Http2Limits(window=65_535, connection_window=65_535))
    client.send(put(1))
    padded = b"\xff" + bytes(255)
    for _ in range(400):
        assert client.send(data(1, padded, 0x8)) == []
    credit = {0: 0, 1: 0}
    for frame in client.frames(WindowUpdateFrame):
        credit[frame.stream_id] += frame.window_increment
    assert min(credit.values()) >= 400 * 256 - 65_535 // 2


def test_refused_streams_are_not_processed_and_can_be_tried_again():
    client = Client(Http2Limits(max_concurrent_streams=1))
    assert len(client.send(get(1), get(3), get(5))) == 1
    assert [(frame.stream_id, frame.error_code) for frame in client.frames(RstStreamFrame)] == [
        (3, 7),
        (5, 7),
    ]
    client.machine.send_head(1, [(b":status", b"204")], True)
    assert [type(event) for event in client.send(get(7))] == [Http2Request]


def test_goaway_names_the_last_stream_that_was_looked_at():
    client = Client()
    with pytest.raises(RemoteProtocolError):
        client.send(get(1), get(9), ping(b"short"))
    [goaway] = client.frames(GoAwayFrame)
    assert (goaway.last_stream_id, goaway.error_code) == (9, ErrorCodes.FRAME_SIZE_ERROR)


def test_error_is_told_after_the_events_before_it():
    machine = Http2Machine(Http2Limits())
    machine.receive_data(PREFACE + EMPTY_SETTINGS + get(1) + ping(b"short"), 0.0)
    assert isinstance(machine.next_event(), Http2Request)
    with pytest.raises(RemoteProtocolError):
        machine.next_event()
    machine.send_head(1, [(b":status", b"200")], True)  # the application may not know yet
    assert machine.open_streams == 0


def test_request_head_too_large_is_refused_and_its_content_dropped():
    limits = Http2Limits(max_head_size=1000)
    client = Client(limits)
    [refused] = client.send(put(1, b"/", (b"a", b"b" * 900)))
    assert isinstance(refused, RefusedRequest)
    assert (refused.stream_id, refused.status) == (1, 431)
    assert client.send(data(1, b"abc", 1)) == [BodyChunk(1, b"abc", True, [])]
    with pytest.raises(RemoteProtocolError):
        client.send(head(3, BLOCK + b"\x40\x01a\x7f\xf5\x02" + b"v" * 500 + b"\xbe" * 4))
    assert client.failure() == ErrorCodes.ENHANCE_YOUR_CALM


def test_window_update_of_a_reserved_bit_counts_the_rest():
    client = Client(opening=PREFACE + settings((4, 0)))
    client.send(get(1))
    client.machine.send_head(1, [(b":status", b"200")], False)
    client.machine.send_body(1, b"abcdef", True)
    client.send(window(1, 0x80000003))
    assert client.record.record(1).body == b"abc"


def test_peer_that_is_leaving_is_told_of():
    client = Client()
    client.send(get(1), render_frame(7, bytes(8)))
    assert client.machine.peer_leaving
    assert client.machine.open_streams == 1


def test_stream_errors_use_up_a_budget():
    client = Client()
    malformed = [get(number, b"/", (b"A", b"b")) for number in range(1, 1000, 2)]
    for number, frame in enumerate(malformed[:200]):
        assert client.send(frame) == [], number
    with pytest.raises(RemoteProtocolError):
        client.send(malformed[200])
    assert client.failure() == ErrorCodes.ENHANCE_YOUR_CALM


@pytest.mark.parametrize(
    "frame",
    [ping(), ping(flags=1), settings(), priority(9), update(9), window(0, 1), render_frame(0x2F), reset(1)],
    ids=["PING", "PONG", "SETTINGS", "PRIORITY", "PRIORITY_UPDATE", "WINDOW_UPDATE", "unknown", "RST_STREAM"],
)
def test_control_frames_use_up_a_budget(frame):
    client = Client()
    client.send(get(1))
    client.machine.send_head(1, [(b":status", b"204")], True)
    client.send(frame * 900)
    with pytest.raises(RemoteProtocolError):
        client.send(frame * 200)
    assert client.failure() == ErrorCodes.ENHANCE_YOUR_CALM
    patient = Client()
    patient.send(get(1))
    patient.machine.send_head(1, [(b":status", b"204")], True)
    for second in range(30):
        patient.send(frame * 90, now=float(second))


def test_trailers_behind_our_resets_use_up_a_budget():
    client = Client()
    client.send(put(1))
    client.machine.reset_stream(1, 2)
    with pytest.raises(RemoteProtocolError):
        client.send(head(1, b"") * 1100)
    assert client.failure() == ErrorCodes.ENHANCE_YOUR_CALM


# -- pushes ------------------------------------------------------------------------------------------------------


def push(client: Client, stream_id: int = 1) -> Http2Request | None:
    pushed = client.machine.push(stream_id, b"/style", "http", b"a.example", [(b"a", b"b")])
    client.record.take_in(fetch(client.machine))
    return pushed


def test_pushed_response():
    client = Client()
    client.send(get(1))
    request = push(client)
    assert request is not None
    assert (request.stream_id, request.method, request.target) == (2, "GET", b"/style")
    promise = client.record.record(2).promise
    assert promise[:4] == [
        *((b":method", b"GET"), (b":scheme", b"http")),
        *((b":authority", b"a.example"), (b":path", b"/style")),
    ]
    client.machine.send_head(2, [(b":status", b"200")], False)
    client.machine.send_body(2, b"body{}", True)
    client.record.take_in(fetch(client.machine))
    assert client.record.record(2).response().body == b"body{}"
    assert client.machine.open_streams == 1


@pytest.mark.parametrize("pair", [(2, 0), (3, 0)], ids=["ENABLE_PUSH", "MAX_CONCURRENT_STREAMS"])
def test_no_push_against_the_settings(pair):
    client = Client(opening=PREFACE + settings(pair))
    client.send(get(1))
    assert push(client) is None


def test_pushed_streams_are_counted_by_the_settings():
    client = Client(opening=PREFACE + settings((3, 2)))
    client.send(get(1))
    assert [push(client) is not None for _ in range(3)] == [True, True, False]
    client.send(reset(2))
    assert push(client) is not None


def test_no_push_to_a_peer_that_leaves_or_on_a_push():
    client = Client()
    client.send(get(1))
    assert push(client) is not None
    assert push(client, 2) is None
    client.send(render_frame(7, bytes(8)))
    assert push(client) is None


def test_frames_on_a_pushed_stream():
    client = Client()
    client.send(get(1))
    assert push(client) is not None
    assert client.send(window(2, 10), priority(2), update(2, b"u=0")) == []
    assert client.send(reset(2)) == [StreamClosed(2, 8, True)]
    assert client.send(window(2, 10), priority(2), reset(2)) == []


@pytest.mark.parametrize("frame", [data(2, b"a"), head(2, BLOCK)], ids=["DATA", "HEADERS"])
def test_requests_on_a_pushed_stream(frame):
    client = Client()
    client.send(get(1))
    assert push(client) is not None
    with pytest.raises(RemoteProtocolError):
        client.send(frame)
    assert client.failure() == ErrorCodes.PROTOCOL_ERROR


# -- upgrades ----------------------------------------------------------------------------------------------------


def upgraded(settings_value: bytes) -> Client:
    client = Client(opening=b"")
    client.machine.upgrade(settings_value, Http2Request(1, "GET", b"/", [(b"host", b"a")]))
    client.send(PREFACE, EMPTY_SETTINGS)
    return client


def test_upgraded_request_is_stream_1_and_its_settings_hold():
    machine = Http2Machine(Http2Limits())
    machine.upgrade(b"AAQAAAAD", Http2Request(1, "GET", b"/", [(b"host", b"a")]))  # a window of 3
    event = machine.next_event()
    assert isinstance(event, Http2Request)
    machine.send_head(1, [(b":status", b"200")], False)
    machine.send_body(1, b"hello", True)
    record = ConnectionRecord()
    record.take_in(fetch(machine))
    assert record.record(1).body == b"hel"
    machine.receive_data(PREFACE + EMPTY_SETTINGS + window(1, 2) + get(3), 0.0)
    assert machine.next_event().stream_id == 3
    record.take_in(fetch(machine))
    assert record.record(1).response().body == b"hello"


def test_stream_1_after_an_upgrade_has_ended():
    client = upgraded(b"")
    assert client.send(get(1), data(1, b"a")) == [StreamClosed(1, ErrorCodes.STREAM_CLOSED, False)]
    assert client.record.record(1).reset == ErrorCodes.STREAM_CLOSED
    assert not client.machine.failed


@pytest.mark.parametrize(
    "value",
    [
        *(b"A", b"AAAA", b"AAMAAABkAAQ", b"====", b"AAQ AAAD", b"\xff", b"\0", b"+/+/+/+/"),
        *(b"AAIAAAAC", b"AAT_____", b"AAUAAAAA", b"AAgAAAAC", b"AAkAAAAC", b"A" * 100_000),
    ],
)
def test_malformed_settings_of_an_upgrade(value):
    with pytest.raises(RemoteProtocolError):
        Http2Machine(Http2Limits()).upgrade(value, Http2Request(1, "GET", b"/", []))


# -- the same bytes, cut anywhere ----------------------------------------------------------------------------------

SESSION = [
    settings((4, 1000), (9, 1)),
    get(1, b"/a", (b"cookie", b"a"), (b"cookie", b"b")),
    put(3, b"/b", (b"content-length", b"5"), (b"priority", b"u=1")),
    data(3, b"ab"),
    update(3, b"u=2"),
    ping(),
    head(5, BLOCK[:20], 0),
    rest(5, BLOCK[20:]),
    data(3, b"\x02cde\0\0", 0x8 | 0x1),
    window(0, 10),
    data(5, b"x" * 300),
    priority(5, 3),
    render_frame(0x2F, b"abc"),
    data(5, b"", 1),
    get(7, b"/", (b"A", b"b")),
    put(9),
    data(9, b"abc"),
    head(9, b"\x40\x01a\x01b"),
    window(5, 7),
    reset(1),
    head(11, BLOCK + b"\xbe"),
    data(11, b"late"),
    get(13),
]


def told(pieces) -> tuple[list, int | None]:
    """The events of a session, with contents joined, and the code that ended it."""
    machine, record = Http2Machine(Http2Limits()), ConnectionRecord()
    events: list = []

    def take(event):
        if events and isinstance(event, BodyChunk) and type(events[-1]) is BodyChunk:
            before = events[-1]
            if before.stream_id == event.stream_id and not before.last:
                events[-1] = BodyChunk(event.stream_id, before.data + event.data, event.last, event.trailers)
                return
        events.append(event)

    for piece in pieces:
        machine.receive_data(piece, 0.0)
        try:
            take_events(machine, take)
        except RemoteProtocolError:
            record.take_in(fetch(machine))
            assert record.goaway is not None
            return events, record.goaway.error_code
    return events, None


def cut(choice: random.Random, raw: bytes, most: int) -> list[bytes]:
    places = sorted(choice.randrange(len(raw)) for _ in range(choice.randrange(1, most)))
    return [raw[start:end] for start, end in zip([0, *places], [*places, len(raw)], strict=True)]


def test_the_same_bytes_cut_anywhere_give_the_same_events():
    raw = PREFACE + EMPTY_SETTINGS + b"".join(SESSION)
    whole = told([raw])
    assert len(whole[0]) > 10
    assert whole[1] is None
    for place in range(0, len(raw), 7):
        assert told([raw[:place], raw[place:]]) == whole, place
    for seed in range(50):
        assert told(cut(random.Random(seed), raw, 30)) == whole, seed


# -- random mutations of good sessions -----------------------------------------------------------------------------


def mutated(choice: random.Random) -> bytes:
    frames = list(SESSION)
    for _ in range(choice.randrange(1, 6)):
        at = choice.randrange(len(frames))
        frame = bytearray(frames[at])
        match choice.randrange(8):
            case 0:
                del frames[at]
            case 1:
                frames[at] *= choice.randrange(2, 4)
            case 2:
                frames[at] = bytes(frame[: choice.randrange(len(frame) + 1)])
            case 3:  # a frame of its own, with a shorter payload
                size = choice.randrange(max(len(frame) - 8, 1))
                frames[at] = size.to_bytes(3, "big") + bytes(frame[3 : 9 + size])
            case 4:
                other = choice.randrange(len(frames))
                frames[at], frames[other] = frames[other], frames[at]
            case 5:  # another type, other flags, or another stream
                field = choice.choice((3, 4, 8))
                if len(frame) > field:
                    frame[field] = choice.randrange(18) if field != 4 else choice.randrange(256)
                frames[at] = bytes(frame)
            case 6:  # a byte of the payload
                if len(frame) > 9:
                    frame[choice.randrange(9, len(frame))] = choice.randrange(256)
                frames[at] = bytes(frame)
            case _:
                if frame:
                    frame[choice.randrange(len(frame))] ^= 1 << choice.randrange(8)
                frames[at] = bytes(frame)
        frames = [frame for frame in frames if frame] or [b""]
    return PREFACE + EMPTY_SETTINGS + b"".join(frames)


class Random:
    """An application that does anything at any time on the streams it has been told of."""

    def __init__(self, machine: Http2Machine, choice: random.Random) -> None:
        self.machine = machine
        self.choice = choice
        self.begun: dict[int, str] = {}
        self.open: set[int] = set()

    def take(self, event) -> None:
        if isinstance(event, Http2Request | RefusedRequest):
            assert event.stream_id not in self.begun, "a stream is told of twice"
            self.begun[event.stream_id] = "head"
            self.open.add(event.stream_id)
        elif isinstance(event, BodyChunk):
            assert event.stream_id in self.open, "content after the end"
            self.machine.acknowledge(event.stream_id, len(event.data))
            if event.last:
                self.open.discard(event.stream_id)
        elif isinstance(event, StreamClosed):
            self.open.discard(event.stream_id)
        self.act()

    def act(self) -> None:
        if not self.begun:
            return
        stream_id = self.choice.choice(list(self.begun))
        match self.begun[stream_id], self.choice.randrange(5):
            case "head", 0 | 1 | 2:
                self.machine.send_head(stream_id, [(b":status", b"200")], False)
                self.begun[stream_id] = "body"
            case "head", 3:
                self.machine.send_information(stream_id, [(b":status", b"103")])
            case "body", 0 | 1:
                end = self.choice.random() < 0.5
                self.machine.send_body(stream_id, b"x" * self.choice.choice((0, 1, 5000, 70_000)), end)
                self.begun[stream_id] = "over" if end else "body"
            case "body", 2:
                self.machine.send_trailers(stream_id, [(b"a", b"b")])
                self.begun[stream_id] = "over"
            case _, 4:
                self.machine.reset_stream(stream_id, 2)
                self.open.discard(stream_id)
                self.begun[stream_id] = "over"


@pytest.mark.parametrize("group", range(6))
def test_mutated_sessions_end_in_events_or_one_error(group):
    ends = {True: 0, False: 0}
    for seed in range(group * 100, group * 100 + 100):
        choice = random.Random(seed)
        machine = Http2Machine(Http2Limits(send_buffer=10_000))
        application = Random(machine, choice)
        record = ConnectionRecord()
        try:
            for piece in cut(choice, mutated(choice), 8):
                machine.receive_data(piece, 0.0)
                take_events(machine, application.take)
                record.take_in(machine.data_to_send(20_000))
        except RemoteProtocolError:
            assert machine.failed, seed
        ends[machine.failed] += 1
        for _ in range(20):  # what the applications still do
            application.act()
        record.take_in(fetch(machine))  # which fails on what is no HTTP/2
        assert (record.goaway is not None) is machine.failed, seed
        assert machine.open_streams <= len(application.begun), seed
    assert min(ends.values()) > 10


@pytest.mark.parametrize("seed", range(10))
def test_noise_is_held_in_bounds(seed):
    """Random frames for ever: what the machine holds does not grow with them."""
    choice = random.Random(seed)
    machine = Http2Machine(Http2Limits())
    application = Random(machine, choice)
    machine.receive_data(PREFACE + EMPTY_SETTINGS, 0.0)
    take_events(machine, application.take)
    most = 0
    for turn in range(400):
        frame = choice.choice(SESSION)
        stream_id = choice.randrange(turn + 2) * 2 + 1
        raw = frame[:5] + stream_id.to_bytes(4, "big") + frame[9:] if frame[5:9] != bytes(4) else frame
        machine.receive_data(raw, float(turn))
        try:
            take_events(machine, application.take)
        except RemoteProtocolError:
            break
        most = max(most, len(machine.data_to_send(20_000)))
        assert machine.open_streams <= Http2Limits().max_concurrent_streams
    assert most < 200_000
