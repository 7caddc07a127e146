from __future__ import annotations

import random

import pytest

from trioserve.protocols.http2 import frame_gate as wire
from trioserve.protocols.http2.frame_gate import PREFACE, ConnectionFault, FrameGate, RawFrame
from trioserve.testing.http2_record import render_frame

SETTINGS = render_frame(wire.SETTINGS)
FRAMES = [
    SETTINGS,
    render_frame(wire.HEADERS, b"abc", flags=wire.END_HEADERS, stream_id=1),
    render_frame(wire.DATA, b"x" * 300, stream_id=1),
    render_frame(wire.PING, b"12345678"),
    render_frame(wire.HEADERS, b"a", stream_id=3),
    render_frame(wire.CONTINUATION, b"", stream_id=3),
    render_frame(wire.CONTINUATION, b"bc", flags=wire.END_HEADERS, stream_id=3),
    render_frame(0xEE, b"whatever", flags=0xFF, stream_id=0x80000009),
    render_frame(wire.DATA, b"", flags=wire.END_STREAM, stream_id=1),
    render_frame(wire.WINDOW_UPDATE, b"\0\0\0\1"),
]


def build(size: int = 16384, block: int = 65536) -> FrameGate:
    return FrameGate(size, block)


def settled(*, size: int = 16384, block: int = 65536) -> FrameGate:
    gate = build(size, block)
    gate.receive_data(PREFACE + SETTINGS)
    assert gate.next_frame() is not None
    return gate


def read(gate: FrameGate, data: bytes) -> list[RawFrame]:
    gate.receive_data(data)
    frames = []
    while (frame := gate.next_frame()) is not None:
        frames.append(frame)
    return frames


def code_of(gate: FrameGate, data: bytes) -> int:
    with pytest.raises(ConnectionFault) as caught:
        read(gate, data)
    return caught.value.code


def test_frames_come_with_their_parts():
    frames = read(build(), PREFACE + b"".join(FRAMES))
    assert [frame.raw for frame in frames] == FRAMES
    assert frames[1][:3] == (wire.HEADERS, wire.END_HEADERS, 1)
    assert frames[7][:3] == (0xEE, 0xFF, 9), "the reserved bit is not part of the number"


@pytest.mark.parametrize("seed", range(30))
def test_frames_are_the_same_however_they_are_cut(seed):
    raw = PREFACE + b"".join(FRAMES * 3)
    choice = random.Random(seed)
    places = sorted(choice.randrange(len(raw)) for _ in range(choice.randrange(1, 60)))
    gate, frames = build(), []
    for start, end in zip([0, *places], [*places, len(raw)], strict=True):
        frames += read(gate, raw[start:end])
    assert [frame.raw for frame in frames] == FRAMES * 3
    assert all(type(frame.raw) is bytes for frame in frames)
    assert not gate.in_progress


@pytest.mark.parametrize("place", range(len(PREFACE)))
def test_preface_is_refused_at_its_first_wrong_byte(place):
    gate = build()
    for number in range(place):
        assert read(gate, PREFACE[number : number + 1]) == []
    assert not gate.begun
    assert code_of(gate, bytes((PREFACE[place] ^ 0x20,))) == wire.PROTOCOL_ERROR


def test_preface_begins_the_connection_at_its_last_byte():
    gate = build()
    assert not gate.in_progress
    assert read(gate, PREFACE[:-1]) == []
    assert (gate.begun, gate.in_progress) == (False, True)
    assert read(gate, PREFACE[-1:]) == []
    assert (gate.begun, gate.in_progress) == (True, False)


def test_what_is_in_progress_is_told():
    gate = settled()
    assert not gate.in_progress
    read(gate, FRAMES[3][:1])
    assert (gate.in_progress, gate.block_in_progress) == (True, False)
    read(gate, FRAMES[3][1:])
    assert not gate.in_progress
    read(gate, FRAMES[4])
    assert (gate.in_progress, gate.block_in_progress) == (True, True)
    read(gate, FRAMES[5])
    assert gate.block_in_progress
    read(gate, FRAMES[6])
    assert (gate.in_progress, gate.block_in_progress) == (False, False)


def test_frame_too_large_is_refused_before_its_payload_comes():
    for kind in (wire.DATA, wire.HEADERS, wire.SETTINGS, 0xEE):
        header = render_frame(kind, bytes(20_001), stream_id=0 if kind == wire.SETTINGS else 1)[:9]
        assert code_of(settled(size=20_000), header) == wire.FRAME_SIZE_ERROR
        assert read(settled(size=20_001), header) == []


def test_interruption_of_a_block_is_refused_before_its_payload_comes():
    for intruder in (
        FRAMES[1],
        FRAMES[2],
        FRAMES[3],
        FRAMES[7],
        render_frame(wire.CONTINUATION, b"a", stream_id=5),
    ):
        gate = settled()
        assert len(read(gate, FRAMES[4])) == 1
        assert code_of(gate, intruder[:9]) == wire.PROTOCOL_ERROR


def test_block_too_large_is_refused_before_its_last_frame_comes():
    gate = settled(block=1000)
    part = render_frame(wire.CONTINUATION, bytes(400), stream_id=1)
    assert len(read(gate, render_frame(wire.HEADERS, bytes(400), stream_id=1) + part)) == 2
    assert code_of(gate, part[:9]) == wire.ENHANCE_YOUR_CALM


def test_block_of_the_largest_size_passes_and_the_next_one_counts_anew():
    gate = settled(block=1000)
    for stream_id in (1, 3, 5):
        raw = render_frame(wire.HEADERS, bytes(600), stream_id=stream_id)
        raw += render_frame(wire.CONTINUATION, bytes(400), flags=wire.END_HEADERS, stream_id=stream_id)
        assert len(read(gate, raw)) == 2
    assert (
        code_of(gate, render_frame(wire.HEADERS, bytes(1001), flags=4, stream_id=7)) == wire.ENHANCE_YOUR_CALM
    )


def test_block_of_too_many_frames_is_refused():
    gate = settled()
    read(gate, render_frame(wire.HEADERS, stream_id=1))
    part = render_frame(wire.CONTINUATION, b"", stream_id=1)
    assert len(read(gate, part * (wire.MAX_BLOCK_FRAMES - 1))) == wire.MAX_BLOCK_FRAMES - 1
    assert code_of(gate, part) == wire.ENHANCE_YOUR_CALM


@pytest.mark.parametrize(
    ("kind", "flags", "good", "bad"),
    [
        (wire.SETTINGS, 0, (0, 6, 600), (1, 5, 7)),
        (wire.SETTINGS, wire.ACK, (0,), (1, 6)),
        (wire.PING, 0, (8,), (0, 7, 9)),
        (wire.PING, wire.ACK, (8,), (0, 7, 9)),
        (wire.GOAWAY, 0, (8, 9, 1000), (0, 7)),
        (wire.WINDOW_UPDATE, 0, (4,), (0, 3, 5)),
        (wire.PRIORITY_UPDATE, 0, (4, 5, 100), (0, 3)),
    ],
)
def test_lengths(kind, flags, good, bad):
    for size in good:
        assert len(read(settled(), render_frame(kind, bytes(size), flags=flags))) == 1
    for size in bad:
        assert code_of(settled(), render_frame(kind, bytes(size), flags=flags)) == wire.FRAME_SIZE_ERROR


def test_padding():
    for kind, flags, needed in (
        (wire.DATA, wire.PADDED, 1),
        (wire.HEADERS, wire.PADDED | wire.END_HEADERS, 1),
        (wire.HEADERS, wire.HAS_PRIORITY | wire.END_HEADERS, 5),
        (wire.HEADERS, wire.PADDED | wire.HAS_PRIORITY | wire.END_HEADERS, 6),
    ):
        short = render_frame(kind, bytes(needed - 1), flags=flags, stream_id=1)
        assert code_of(settled(), short) == wire.FRAME_SIZE_ERROR
        for padding in range(5):
            raw = bytes((padding,)) + bytes(needed - 1) + bytes(3)
            frame = render_frame(kind, raw, flags=flags, stream_id=1)
            if flags & wire.PADDED and padding > 3:
                assert code_of(settled(), frame) == wire.PROTOCOL_ERROR
            else:
                assert len(read(settled(), frame)) == 1


def test_pushed_streams_are_not_for_clients():
    assert (
        code_of(settled(), render_frame(wire.PUSH_PROMISE, bytes(4), flags=4, stream_id=1))
        == wire.PROTOCOL_ERROR
    )


def test_settings_come_first():
    for frame in (FRAMES[1], FRAMES[3], FRAMES[7], render_frame(wire.SETTINGS, flags=wire.ACK)):
        gate = build()
        assert read(gate, PREFACE) == []
        assert code_of(gate, frame) == wire.PROTOCOL_ERROR


def test_reasons_do_not_quote_the_peer():
    gate = build()
    with pytest.raises(ConnectionFault, match="preface") as caught:
        read(gate, b"<script>")
    assert "script" not in str(caught.value)
