from __future__ import annotations

import random

import pytest
from hyperframe.frame import ContinuationFrame, DataFrame, HeadersFrame

from tests.security.http2_rows import get, head, priority, reset, settings, start, update, window
from trioserve.protocols.http2.limits import Http2Limits
from trioserve.protocols.http2.machine import Http2Machine
from trioserve.protocols.http2.outgoing import DIRECT_SIZE, LARGEST_FRAME
from trioserve.testing.http2_checks import EMPTY_SETTINGS, PREFACE, fetch, take_events
from trioserve.testing.http2_record import ConnectionRecord

OK = [(b":status", b"200")]
NO_WINDOW = (4, 0)
WIDE = window(0, 2**31 - 1 - 65535)


class Client:
    """A machine, and its client's view of it."""

    def __init__(self, *pairs: tuple[int, int], limits: Http2Limits | None = None) -> None:
        self.machine = Http2Machine(limits or Http2Limits())
        self.record = ConnectionRecord()
        self.send(PREFACE, settings(*pairs) if pairs else EMPTY_SETTINGS)
        self.record.take_in(fetch(self.machine))
        self.order: list[tuple[int, int]] = []

    def send(self, *frames: bytes) -> None:
        self.machine.receive_data(b"".join(frames), 0.0)
        take_events(self.machine, lambda event: None)

    def begin(self, *stream_ids: int) -> None:
        for stream_id in stream_ids:
            self.send(get(stream_id))
            self.machine.send_head(stream_id, OK, False)
        self.record.take_in(fetch(self.machine))

    def receive(self, budget: int = 32768) -> list[tuple[int, int]]:
        """The streams and sizes of the content that leaves at once."""
        before = len(self.record.frames)
        self.record.take_in(self.machine.data_to_send(budget))
        came = [f for f in self.record.frames[before:] if isinstance(f, DataFrame)]
        return [(frame.stream_id, len(frame.data)) for frame in came]

    def drain(self) -> list[tuple[int, int]]:
        parts: list[tuple[int, int]] = []
        while more := self.receive():
            parts += more
        return parts

    def body(self, stream_id: int) -> bytes:
        return bytes(self.record.record(stream_id).body)

    def ended(self, stream_id: int) -> bool:
        return self.record.record(stream_id).ended


# -- frames --------------------------------------------------------------------------------------------------------


def test_small_answer_leaves_in_one_piece():
    client = Client()
    client.send(get(1))
    client.machine.send_head(1, OK, False)
    assert client.machine.send_body(1, b"hello", True)
    client.record.take_in(client.machine.data_to_send(1))
    assert [type(frame) for frame in client.record.frames[-2:]] == [HeadersFrame, DataFrame]
    assert (client.body(1), client.ended(1)) == (b"hello", True)
    assert client.machine.data_to_send(1) == b""


def test_frames_are_no_larger_than_ours_though_the_peer_allows_more():
    client = Client((5, 1 << 20), (4, 1 << 20))
    client.begin(1)
    client.machine.send_body(1, b"x" * 50_000, True)
    assert [size for _, size in client.drain()] == [LARGEST_FRAME] * 3 + [50_000 - 3 * LARGEST_FRAME]


def test_small_pieces_that_wait_are_joined():
    client = Client(NO_WINDOW)
    client.begin(1)
    content = [bytes((number,)) * 100 for number in range(200)]
    for piece in content:
        client.machine.send_body(1, piece, False)
    assert client.drain() == []
    client.send(window(1, 50_000))
    assert [size for _, size in client.drain()] == [LARGEST_FRAME, 20_000 - LARGEST_FRAME]
    assert client.body(1) == b"".join(content)


def test_pieces_of_all_kinds_of_bytes_come_out_as_they_went_in():
    client = Client(NO_WINDOW)
    client.begin(1)
    data = random.Random(1).randbytes(30_000)
    client.machine.send_body(1, memoryview(data)[:10_000], False)
    client.machine.send_body(1, b"", False)
    client.machine.send_body(1, memoryview(data)[10_000:29_000], False)
    client.machine.send_body(1, data[29_000:], True)
    for size in (1, 2, 9_999, 7, 10_000, 9_000, 991):
        client.send(window(1, size))
        client.drain()
    assert client.body(1) == data
    assert client.ended(1)


def test_end_without_content_is_an_empty_frame():
    client = Client(NO_WINDOW)
    client.begin(1)
    assert client.machine.send_body(1, b"", True)
    assert client.drain() == [(1, 0)]
    assert client.ended(1)


def test_end_behind_content_that_waits_is_in_its_last_frame():
    client = Client(NO_WINDOW)
    client.begin(1)
    client.machine.send_body(1, b"abc", False)
    client.machine.send_body(1, b"", True)
    client.send(window(1, 3))
    assert client.drain() == [(1, 3)]
    assert client.ended(1)


def test_trailers_wait_for_the_content():
    client = Client(NO_WINDOW)
    client.begin(1)
    client.machine.send_body(1, b"abc", False)
    assert not client.machine.send_trailers(1, [(b"a", b"b")])
    assert (client.drain(), len(client.record.record(1).heads)) == ([], 1)
    client.send(window(1, 2))
    assert client.drain() == [(1, 2)]
    assert not client.ended(1)
    client.send(window(1, 1))
    assert client.drain() == [(1, 1)]
    assert client.record.record(1).response().trailers == [(b"a", b"b")]
    assert client.ended(1)
    assert client.machine.open_streams == 0


def test_head_larger_than_a_frame_is_continued():
    client = Client()
    client.send(get(1))
    fields = [*OK, *((b"x-%d" % number, bytes((65 + number,)) * 3000) for number in range(20))]
    client.machine.send_head(1, fields, True)
    client.record.take_in(fetch(client.machine))
    assert client.record.record(1).heads == [fields]
    assert any(isinstance(frame, ContinuationFrame) for frame in client.record.frames)


# -- windows -------------------------------------------------------------------------------------------------------


def test_connection_window_holds_all_streams_back():
    client = Client((4, 1 << 20))
    client.begin(1, 3)
    client.machine.send_body(1, b"x" * 60_000, True)
    client.machine.send_body(3, b"y" * 60_000, True)
    assert sum(size for _, size in client.drain()) == 65_535
    assert client.machine.unsent(1) + client.machine.unsent(3) == 120_000 - 65_535
    client.send(window(0, 10))
    assert sum(size for _, size in client.drain()) == 10
    client.send(window(0, 1 << 20))
    client.drain()
    assert client.ended(1)
    assert client.ended(3)


def test_only_own_window_stalls_a_stream():
    client = Client((4, 100))
    client.begin(1, 3)
    client.machine.send_body(1, b"x" * 1000, True)
    assert not client.machine.is_stalled(1)
    client.drain()
    assert client.machine.is_stalled(1)
    assert not client.machine.is_stalled(3)
    client.send(window(1, 1))
    assert not client.machine.is_stalled(1)


def test_connection_window_stalls_its_streams_only_where_it_lets_nothing_go():
    client = Client((4, 1 << 24))
    client.begin(1, 3)
    client.machine.send_body(1, b"x" * 100_000, True)
    client.machine.send_body(3, b"y" * 100_000, True)
    client.drain()
    assert not client.machine.is_stalled(3), "65535 bytes have left since it began to wait"
    assert client.machine.is_stalled(3)
    client.send(window(0, 10_000))
    client.drain()
    assert not client.machine.is_stalled(3), "it waits for its turn"
    for _ in range(100):
        client.send(window(0, 1))
        client.drain()
    assert client.machine.is_stalled(3), "a trickle is a stall"


def test_initial_window_reopens_what_was_shut():
    client = Client((4, 10))
    client.begin(1, 3)
    for stream_id in (1, 3):
        client.machine.send_body(stream_id, b"x" * 100, True)
    client.drain()
    client.send(settings((4, 5)))
    assert client.drain() == []
    client.send(window(1, 6))
    assert client.drain() == [(1, 1)]
    client.send(settings((4, 100)))
    assert client.drain() == [(1, 89), (3, 90)]


# -- waiting -------------------------------------------------------------------------------------------------------


def test_sender_waits_above_the_high_water_mark_and_is_told_below():
    client = Client((4, 0), limits=Http2Limits(send_buffer=1000))
    client.begin(1)
    assert client.machine.send_body(1, b"x" * 1000, False)
    assert not client.machine.send_body(1, b"x", False)
    client.drain()
    assert client.machine.drained == []
    client.send(window(1, 1))
    client.drain()
    assert client.machine.drained == [1]
    client.machine.drained.clear()
    assert not client.machine.send_body(1, b"x", False)


@pytest.mark.parametrize("by_peer", [True, False])
def test_sender_is_told_of_a_reset(by_peer):
    client = Client((4, 0), limits=Http2Limits(send_buffer=10))
    client.begin(1)
    assert not client.machine.send_body(1, b"x" * 100, False)
    if by_peer:
        client.send(reset(1))
    else:
        client.machine.reset_stream(1, 2)
    assert client.machine.drained == [1]
    assert client.machine.unsent(1) == 0
    client.send(WIDE, settings((4, 1000)))
    assert client.drain() == []


def test_content_that_passes_by_the_scheduler_is_bounded():
    client = Client((4, 1 << 20))
    client.send(WIDE)
    client.begin(*range(1, 40, 2))
    for stream_id in range(1, 40, 2):
        client.machine.send_body(stream_id, b"x" * 10_000, True)
    assert client.machine.queued <= DIRECT_SIZE + 20 * 9
    assert sum(size for _, size in client.drain()) == 200_000


# -- order ---------------------------------------------------------------------------------------------------------


def busy(*stream_ids: int, first: bytes = b"", fields: dict[int, bytes] | None = None) -> Client:
    """Streams that all have much to send, and windows that let them."""
    client = Client((4, 1 << 24))
    client.send(WIDE, first)
    for stream_id in stream_ids:
        value = (fields or {}).get(stream_id)
        client.send(head(stream_id, start(b"/", *([(b"priority", value)] if value else []))))
        client.machine.send_head(stream_id, OK, False)
    for stream_id in stream_ids:
        client.machine.send_body(stream_id, b"x" * 100_000, True)
    return client


def streams(parts: list[tuple[int, int]]) -> list[int]:
    """The streams in the order in which they end."""
    return list(dict.fromkeys(stream_id for stream_id, _ in reversed(parts)))[::-1]


def test_equals_go_one_after_the_other():
    assert streams(busy(1, 3, 5).drain()) == [1, 3, 5]


def test_urgent_streams_go_first():
    assert streams(busy(1, 3, 5, fields={1: b"u=5", 3: b"u=0", 5: b"u=4"}).drain()) == [3, 5, 1]


def test_incremental_streams_share():
    parts = busy(1, 3, fields={1: b"i", 3: b"i"}).drain()
    first = [stream_id for stream_id, _ in parts[:10]]
    assert first.count(1) == first.count(3) == 5


def test_frame_changes_the_order_of_what_waits_already():
    client = busy(1, 3)
    client.send(update(3, b"u=0"))
    assert streams(client.drain()) == [3, 1]


def test_frame_before_its_stream_outweighs_the_field():
    client = Client((4, 1 << 24))
    client.send(WIDE, update(3, b"u=0"))
    for stream_id in (1, 3):
        client.send(head(stream_id, start(b"/", (b"priority", b"u=4"))))
        client.machine.send_head(stream_id, OK, False)
        client.machine.send_body(stream_id, b"x" * 100_000, True)
    assert streams(client.drain()) == [3, 1]


def test_frames_before_streams_that_never_come_are_forgotten():
    client = Client((4, 1 << 24))
    for number in range(1, 401, 2):
        client.send(update(number, b"u=0"))
    client.send(WIDE, get(1001), update(1003, b"u=0"))
    for stream_id in (1001, 1003):
        if stream_id == 1003:
            client.send(get(stream_id))
        client.machine.send_head(stream_id, OK, False)
        client.machine.send_body(stream_id, b"x" * 100_000, True)
    assert streams(client.drain()) == [1003, 1001]


def test_response_amends_the_priority():
    client = busy(1)
    client.send(get(3))
    client.machine.send_head(3, [*OK, (b"priority", b"u=0")], False, b"u=0")
    client.machine.send_body(3, b"x" * 100_000, True)
    assert streams(client.drain()) == [3, 1]


def test_tree_decides_for_a_peer_that_uses_it():
    client = busy(1, 3)
    client.send(priority(1, 3))
    assert streams(client.drain()) == [3, 1]


def test_tree_knows_parents_that_have_sent_nothing_yet():
    client = Client((4, 1 << 24))
    client.send(WIDE)
    client.begin(1, 3)
    client.send(priority(1, 3))
    for stream_id in (1, 3):
        client.machine.send_body(stream_id, b"x" * 100_000, True)
    assert streams(client.drain()) == [3, 1]


def test_tree_does_not_decide_for_a_peer_that_gave_it_up():
    for given_up in (settings((9, 1)), update(1, b"u=3")):
        client = busy(1, 3, first=given_up)
        client.send(priority(1, 3))
        assert streams(client.drain()) == [1, 3]


def test_tree_is_given_up_for_good():
    client = busy(1, 3, 5)
    client.send(priority(1, 5), update(3, b"u=0"), priority(3, 5))
    assert streams(client.drain()) == [3, 1, 5]


def test_urgent_answer_overtakes_at_the_next_write():
    client = busy(1)
    assert client.receive(32768)
    client.send(head(3, start(b"/", (b"priority", b"u=0"))))
    client.machine.send_head(3, OK, False)
    client.machine.send_body(3, b"x" * 10_000, True)
    assert client.receive(32768)[0] == (3, 10_000)


# -- a model -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
def test_random_windows_and_contents(seed):
    """Whatever happens, each stream's content leaves in order, within the windows, and in the end entirely."""
    choice = random.Random(seed)
    initial = choice.choice((0, 1, 100, 65_535))
    client = Client((4, initial), limits=Http2Limits(send_buffer=choice.choice((1, 5000, 65_536))))
    stream_ids = list(range(1, 2 * choice.randrange(1, 7), 2))
    client.begin(*stream_ids)
    content = dict.fromkeys(stream_ids, b"")
    ended: set[int] = set()
    allowed = dict.fromkeys(stream_ids, initial)
    connection = 65_535
    for _ in range(60):
        stream_id = choice.choice(stream_ids)
        client.receive(0)  # what was let go under the windows so far
        before = {number: len(client.body(number)) for number in stream_ids}
        match choice.randrange(7):
            case 0 | 1 if stream_id not in ended:
                data = choice.randbytes(choice.choice((0, 1, 50, 5000, 40_000)))
                if choice.random() < 0.2:
                    ended.add(stream_id)
                content[stream_id] += data
                client.machine.send_body(stream_id, data, stream_id in ended)
            case 2:
                size = choice.choice((1, 100, 30_000))
                if not client.ended(stream_id):
                    allowed[stream_id] += size
                client.send(window(stream_id, size))
            case 3:
                size = choice.choice((1, 100, 30_000))
                connection += size
                client.send(window(0, size))
            case 4:
                value = choice.choice((0, 1, 1000, 65_535))
                for number in stream_ids:
                    allowed[number] += value - initial
                initial = value
                client.send(settings((4, value)))
            case 5:
                client.send(choice.choice((priority(stream_id, 0, 3), update(stream_id, b"u=1, i"))))
            case _:
                client.receive(choice.choice((1, 1000, 32_768)))
        sent = {number: len(client.body(number)) for number in stream_ids}
        assert sum(sent.values()) <= connection
        for number in stream_ids:
            assert content[number].startswith(client.body(number))
            assert sent[number] == before[number] or sent[number] <= allowed[number]
            unsent = client.machine.unsent(number) if number in ended or not client.ended(number) else 0
            assert sent[number] + unsent <= len(content[number])
    client.send(window(0, 2**30), settings((4, 2**29)))
    for number in stream_ids:
        if number not in ended:
            client.machine.send_body(number, b"", True)
    client.drain()
    for number in stream_ids:
        assert client.body(number) == content[number]
        assert client.ended(number)
    assert client.machine.open_streams == 0
