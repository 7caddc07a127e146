from __future__ import annotations

import json
import tracemalloc

import pytest
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, TextMessage
from wsproto.extensions import PerMessageDeflate

from tests.protocols.websocket.rows import BOMB, FORGETFUL, ROWS, SMALL
from trioserve.protocols.websocket.events import NEED_DATA, Closed, Deflate, Event, WebSocketLimits
from trioserve.protocols.websocket.machine import WebSocketMachine
from trioserve.testing.websocket_checks import (
    BINARY,
    CONTINUATION,
    DEFLATED,
    FIN,
    TEXT,
    WebSocketRow,
    check_websocket_machine,
    check_websocket_row,
    frame,
)

JSON = json.dumps([{"id": number, "name": f"user{number}"} for number in range(100)])


class WsprotoOnlyMachine(WebSocketMachine):
    """Reads every frame, also the usual ones, through wsproto."""

    def _read_whole_frame(self) -> Event | None:
        return None


MACHINES = [WebSocketMachine, WsprotoOnlyMachine]


@pytest.mark.parametrize("machine", MACHINES)
def test_contract(machine: type[WebSocketMachine]):
    check_websocket_machine(machine)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_rows(row: WebSocketRow, machine: type[WebSocketMachine]):
    check_websocket_row(machine, row)


def test_row_names_are_unique():
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)


class DeafMachine(WebSocketMachine):
    """Takes messages for too large one byte late."""

    def __init__(self, limits: WebSocketLimits, deflate: Deflate | None) -> None:
        super().__init__(WebSocketLimits(limits.max_message_size + 1, limits.max_fragments), deflate)


def test_battery_finds_a_limit_that_is_off_by_one():
    with pytest.raises(AssertionError, match="one byte too many, inflated"):
        check_websocket_machine(
            DeafMachine, [row for row in ROWS if row.name == "one byte too many, inflated"]
        )


def peak_of(machine: WebSocketMachine, pieces: list[bytes]) -> tuple[int, Event]:
    tracemalloc.start()
    try:
        for piece in pieces:
            machine.receive_data(piece)
            event = machine.next_event()
            if event is not NEED_DATA:
                break
        return tracemalloc.get_traced_memory()[1], event
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("machine", MACHINES)
def test_bomb_never_expands(machine: type[WebSocketMachine]):
    raw = frame(FIN | DEFLATED | BINARY, BOMB[:2000])
    peak, event = peak_of(machine(SMALL, FORGETFUL), [raw])
    assert isinstance(event, Closed)
    assert event.code == 1009
    assert peak < 300_000


@pytest.mark.parametrize("first", [BINARY, TEXT], ids=["binary", "text"])
def test_whole_bomb_stays_below_the_limit(first: int):
    limits = WebSocketLimits(max_message_size=1_000_000)
    raw = frame(FIN | DEFLATED | first, BOMB)
    peak, event = peak_of(WebSocketMachine(limits, FORGETFUL), [raw])
    assert isinstance(event, Closed)
    assert event.code == 1009
    assert peak < 5_000_000


def test_endless_fragments_hold_no_more_than_the_limits():
    limits = WebSocketLimits(max_message_size=10_000_000, max_fragments=4096)
    pieces = [frame(TEXT, b"x"), *[frame(CONTINUATION, b"y")] * 5_000]
    peak, event = peak_of(WebSocketMachine(limits, None), pieces)
    assert isinstance(event, Closed)
    assert event.code == 1009
    assert peak < 100_000


def test_message_in_small_pieces_costs_no_multiple_of_its_size():
    raw = frame(FIN | BINARY, bytes(20_000))
    peak, event = peak_of(
        WebSocketMachine(WebSocketLimits(), None), [raw[i : i + 2] for i in range(0, len(raw), 2)]
    )
    assert event is not NEED_DATA
    assert peak < 100_000


def test_announced_length_is_not_held():
    machine = WebSocketMachine(SMALL, None)
    machine.receive_data(frame(FIN | BINARY, bytes(60_000)))
    assert isinstance(machine.next_event(), Closed)
    machine.receive_data(bytes(60_000))
    assert machine.unread == 0


@pytest.mark.parametrize(
    "deflate",
    [Deflate(), Deflate(server_no_takeover=False), Deflate(server_window_bits=9)],
    ids=["forgetting", "keeping", "small window"],
)
def test_compressed_messages_are_read_by_wsproto(deflate: Deflate):
    extension = PerMessageDeflate(
        server_no_context_takeover=deflate.server_no_takeover,
        server_max_window_bits=deflate.server_window_bits,
    )
    extension.finalize("permessage-deflate")
    client = Connection(ConnectionType.CLIENT, [extension])
    machine = WebSocketMachine(WebSocketLimits(), deflate)
    messages: list[str | bytes] = [JSON, "short", JSON.encode(), JSON, bytes(100_000)]
    sent = [machine.send_message(message) for message in messages]
    for data in sent:
        client.receive_data(data)
    received = [event.data for event in client.events() if isinstance(event, TextMessage | BytesMessage)]
    assert received == messages
    assert len(sent[0]) < len(JSON) / 3
    if not deflate.server_no_takeover:
        assert len(sent[2]) < len(sent[0]) / 5


def test_what_compression_would_not_shorten_is_sent_as_it_is():
    machine = WebSocketMachine(WebSocketLimits(), FORGETFUL)
    noise = bytes.fromhex("".join(f"{number * 2654435761 % 2**32:08x}" for number in range(200)))
    assert machine.send_message(noise) == frame(FIN | BINARY, noise, key=None)
    assert machine.send_message("x" * 255) == frame(FIN | TEXT, b"x" * 255, key=None)
    assert machine.send_message("x" * 256)[0] == FIN | DEFLATED | TEXT


def test_frames_that_say_nothing_are_read_in_parts():
    machine = WebSocketMachine(WebSocketLimits(max_fragments=10_000), None)
    machine.receive_data(frame(TEXT) + frame(CONTINUATION) * 3000 + frame(FIN | CONTINUATION, b"end"))
    asked = 1
    while (event := machine.next_event()) is NEED_DATA:
        assert machine.unread
        asked += 1
    assert event.data == "end"
    assert asked > 10
