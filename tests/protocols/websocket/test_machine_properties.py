from __future__ import annotations

import zlib

from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto.frame_protocol import FrameProtocol, Opcode, ParseFailed

from tests.protocols.websocket.test_machine import WsprotoOnlyMachine
from trioserve.protocols.websocket.events import (
    NEED_DATA,
    Closed,
    Deflate,
    Event,
    Message,
    WebSocketLimits,
)
from trioserve.protocols.websocket.machine import WebSocketMachine
from trioserve.testing.websocket_checks import DEFLATED, FIN, close_frame, frame

LIMITS = WebSocketLimits(max_message_size=2000, max_fragments=5)
BOUNDLESS = WebSocketLimits(max_message_size=1 << 40, max_fragments=1 << 40)


def compress(data: bytes) -> bytes:
    stream = zlib.compressobj(6, zlib.DEFLATED, -15)
    return (stream.compress(data) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]


KEYS = st.binary(min_size=4, max_size=4)
SHORT = st.one_of(st.binary(max_size=20), st.text(max_size=20).map(str.encode))
LONG = st.builds(lambda piece, count: (piece * count)[:3000], SHORT, st.integers(1, 400))
PAYLOADS = st.one_of(SHORT, SHORT, LONG)
USUAL = st.sampled_from([0x81, 0x82])
ODD = st.one_of(
    st.sampled_from([0x01, 0x02, 0x00, 0x80, 0x89, 0x8A, 0x09, 0x88]),
    st.integers(0, 255),
)
FRAMES = st.one_of(
    st.builds(lambda first, payload, key: frame(first, payload, key=key), USUAL, PAYLOADS, KEYS),
    st.builds(lambda first, payload, key: frame(first, payload, key=key), ODD, PAYLOADS, KEYS),
    st.builds(
        lambda pieces, first: b"".join(
            frame((0 if i else first) | (FIN if i == len(pieces) - 1 else 0), p) for i, p in enumerate(pieces)
        ),
        st.lists(SHORT, min_size=2, max_size=4),
        st.sampled_from([0x01, 0x02]),
    ),
    st.builds(close_frame, st.integers(0, 5100), st.text(max_size=5).map(str.encode)),
    SHORT,
)
DEFLATED_FRAMES = st.one_of(
    st.builds(lambda first, data: frame(first | DEFLATED, compress(data)), USUAL, LONG),
    st.builds(
        lambda first, data, cut: (
            frame(first & 0x0F | DEFLATED, compress(data)[:cut]) + frame(FIN, compress(data)[cut:])
        ),
        USUAL,
        LONG,
        st.integers(0, 30),
    ),
    st.builds(lambda first, data: frame(first | DEFLATED, data), st.just(0x82), SHORT),
)
CUTS = st.lists(st.integers(1, 60), max_size=30)


def pieces_of(raw: bytes, cuts: list[int]) -> list[bytes]:
    pieces = []
    for size in cuts:
        pieces.append(raw[:size])
        raw = raw[size:]
    return [*pieces, raw]


def read(machine: WebSocketMachine, pieces: list[bytes]) -> tuple[list[Event | int], bytes]:
    """What was received and answered; of a failure its code alone, since words may differ."""
    events: list[Event | int] = []
    for piece in pieces:
        machine.receive_data(piece)
        while (event := machine.next_event()) is not NEED_DATA:
            if isinstance(event, Closed):
                answer = machine.data_to_send()
                return ([*events, event.code], b"") if event.failed else ([*events, event], answer)
            events.append(event)
    return events, machine.data_to_send()


@settings(max_examples=400, deadline=None)
@given(st.lists(FRAMES, max_size=6), CUTS)
def test_both_ways_of_reading_agree_in_whatever_pieces(frames: list[bytes], cuts: list[int]):
    raw = b"".join(frames)
    whole = read(WebSocketMachine(LIMITS, None), [raw])
    assert read(WsprotoOnlyMachine(LIMITS, None), [raw]) == whole
    assert read(WebSocketMachine(LIMITS, None), pieces_of(raw, cuts)) == whole
    assert read(WsprotoOnlyMachine(LIMITS, None), pieces_of(raw, cuts)) == whole


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(FRAMES, DEFLATED_FRAMES), max_size=6), CUTS, st.booleans())
def test_both_ways_agree_on_compressed_frames(frames: list[bytes], cuts: list[int], keeps: bool):
    raw = b"".join(frames)
    deflate = Deflate(client_no_takeover=not keeps)
    whole = read(WebSocketMachine(BOUNDLESS, deflate), [raw])
    assert read(WsprotoOnlyMachine(BOUNDLESS, deflate), [raw]) == whole
    assert read(WebSocketMachine(BOUNDLESS, deflate), pieces_of(raw, cuts)) == whole
    assert read(WsprotoOnlyMachine(BOUNDLESS, deflate), pieces_of(raw, cuts)) == whole


def read_with_wsproto(raw: bytes) -> list[Event | int]:
    """The same with wsproto as it comes, whole."""
    protocol = FrameProtocol(client=False, extensions=[])
    protocol.receive_bytes(raw)
    events: list[Event | int] = []
    parts: list[str | bytes] = []
    try:
        for received in protocol.received_frames():
            if received.opcode is Opcode.CLOSE:
                code, reason = received.payload
                return [*events, Closed(int(code), reason)]
            if not received.opcode.iscontrol():
                parts.append(received.payload)
                if received.message_finished:
                    empty = "" if received.opcode is Opcode.TEXT else b""
                    events.append(Message(empty.join(parts)))
                    parts = []
    except ParseFailed as error:
        events.append(int(error.code))
    return events


def is_told_apart(event: Event | int) -> bool:
    return isinstance(event, Closed) and event.code == 1014  # which wsproto does not know


@settings(max_examples=300, deadline=None)
@given(st.lists(FRAMES, max_size=6), CUTS)
def test_reading_is_that_of_wsproto(frames: list[bytes], cuts: list[int]):
    raw = b"".join(frames)
    ours, _ = read(WebSocketMachine(BOUNDLESS, None), pieces_of(raw, cuts))
    theirs = read_with_wsproto(raw)
    if ours != theirs and not (ours and is_told_apart(ours[-1])):
        # Only this may differ: what is known of a frame that has not come whole.
        assert ours[: len(theirs)] == theirs
        assert ours[len(theirs) :] in ([1002], [1007])


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(), st.binary(), LONG, st.integers(65530, 65540).map(bytes)))
def test_sending_is_that_of_wsproto(data: str | bytes):
    theirs = FrameProtocol(client=False, extensions=[]).send_data(data)
    assert WebSocketMachine(LIMITS, None).send_message(data) == theirs


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.one_of(st.text(), LONG, LONG.map(lambda data: data.decode("latin-1"))), max_size=4),
    st.booleans(),
)
def test_what_one_machine_deflates_inflates_again(messages: list[str | bytes], keeps: bool):
    deflate = Deflate(client_no_takeover=not keeps, server_no_takeover=not keeps)
    sender = WebSocketMachine(BOUNDLESS, deflate)
    receiver = WebSocketMachine(BOUNDLESS, deflate)
    for message in messages:
        sent = sender.send_message(message)
        size = {126: 2, 127: 8}.get(sent[1], 0)
        receiver.receive_data(frame(sent[0], sent[2 + size :]))
        assert receiver.next_event() == Message(message)
    assert receiver.next_event() is NEED_DATA
