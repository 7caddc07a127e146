"""The battery for WebSocket machines: rules of the contract, and rows of raw frames with their one right reading.

Each row is fed whole, byte by byte and in odd pieces; messages, answers and the end must be the same, and a peer that
breaks the protocol must be found out at the first byte that shows it. `frame` and `close_frame` write rows.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from trioserve.protocols.errors import LocalProtocolError
from trioserve.protocols.websocket.events import NEED_DATA, PONG, Closed, Deflate, Message, WebSocketLimits
from trioserve.protocols.websocket.machine import WebSocketMachine

BuildWebSocketMachine = Callable[[WebSocketLimits, Deflate | None], WebSocketMachine]

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG_FRAME: Final = 0xA
FIN: Final = 0x80
DEFLATED: Final = 0x40

_KEY: Final = b"\x37\xfa\x21\x3d"


def frame(first: int, payload: bytes = b"", *, key: bytes | None = _KEY, size: int | None = None) -> bytes:
    """Render a frame as a client does.

    Args:
        first: its first byte: FIN, the reserved bits and the opcode.
        payload: before masking.
        key: the masking key; None sends it unmasked.
        size: the length to announce, if not that of the payload.
    """
    length = len(payload) if size is None else size
    masked = 0 if key is None else 0x80
    if length < 126:
        header = bytes((first, masked | length))
    elif length < 65536:
        header = struct.pack("!BBH", first, masked | 126, length)
    else:
        header = struct.pack("!BBQ", first, masked | 127, length)
    if key is None:
        return header + payload
    return header + key + bytes(byte ^ key[index % 4] for index, byte in enumerate(payload))


def close_frame(code: int, reason: bytes = b"") -> bytes:
    """Render a client's close frame."""
    return frame(FIN | CLOSE, struct.pack("!H", code) + reason)


def answer_frame(opcode: int, payload: bytes = b"") -> bytes:
    """Render a short control frame as a server does."""
    return frame(FIN | opcode, payload, key=None)


@dataclass(frozen=True, slots=True)
class WebSocketRow:
    """Raw bytes from a client and the one right reading of them.

    Args:
        name: unique in its table.
        raw: everything the client sends.
        messages: what an application receives.
        end: the close code; None while the session goes on.
        reason: what the client has said when it closed.
        failed: the client broke the protocol, and `end` is what it is told.
        pongs: payloads of the pongs that are sent.
        known_after: how many bytes show that the protocol is broken; all of them if None.
        limits: those of the session.
        deflate: what was agreed on.
    """

    name: str
    raw: bytes
    messages: tuple[str | bytes, ...] = ()
    end: int | None = None
    reason: str = ""
    failed: bool = False
    pongs: tuple[bytes, ...] = ()
    known_after: int | None = None
    limits: WebSocketLimits = field(default_factory=WebSocketLimits)
    deflate: Deflate | None = None


@dataclass(slots=True)
class _Transcript:
    messages: list[str | bytes] = field(default_factory=list)
    end: Closed | None = None
    answer: bytes = b""
    taken: int = 0  # bytes fed when the end was known


def check_websocket_machine(build: BuildWebSocketMachine, rows: Iterable[WebSocketRow] = ()) -> None:
    """Assert that a machine keeps the contract of `WebSocketMachine`.

    Args:
        build: makes a new machine.
        rows: raw frames to read besides the rules.

    Raises:
        AssertionError: naming the rule or the row.
    """
    for rule in _RULES:
        rule(build)
    for row in rows:
        check_websocket_row(build, row)


def check_websocket_row(build: BuildWebSocketMachine, row: WebSocketRow) -> None:
    """Assert that a machine reads one row right, in whatever pieces it comes."""
    for pieces in _splits(row.raw):
        seen = _read(build(row.limits, row.deflate), pieces)
        where = f"{row.name}, in {len(pieces)} pieces"
        assert tuple(seen.messages) == row.messages, f"{where}: received {seen.messages}"
        assert (None if seen.end is None else seen.end.code) == row.end, f"{where}: ended with {seen.end}"
        _check_answer(row, seen, where)
        if seen.end is not None and not row.failed:
            assert (seen.end.reason, seen.end.failed) == (row.reason, False), f"{where}: {seen.end}"
        if row.failed and len(pieces) == len(row.raw):
            known = len(row.raw) if row.known_after is None else row.known_after
            assert seen.taken == known, f"{where}: known after {seen.taken} bytes"


def _check_answer(row: WebSocketRow, seen: _Transcript, where: str) -> None:
    answer = b"".join(answer_frame(PONG_FRAME, payload) for payload in row.pongs)
    assert seen.answer.startswith(answer), f"{where}: pongs are {seen.answer!r}"
    closing = seen.answer[len(answer) :]
    if row.end is None:
        assert closing == b"", f"{where}: sent {closing!r}"
    elif row.failed:
        assert seen.end is not None
        assert seen.end.failed, f"{where}: the end is taken for a proper one"
        told = struct.pack("!H", row.end) + seen.end.reason.encode()
        assert closing == answer_frame(CLOSE, told), f"{where}: sent {closing!r}"
    else:
        echo = b"" if row.end == 1005 else struct.pack("!H", row.end)
        assert closing == answer_frame(CLOSE, echo), f"{where}: sent {closing!r}"


def _splits(raw: bytes) -> Iterator[list[bytes]]:
    """Whole; byte by byte; in small pieces; a byte, then the rest; all but a byte, then it."""
    yield [raw]
    if len(raw) <= 4096:  # longer rows would only repeat the same state
        yield [raw[index : index + 1] for index in range(len(raw))]
    step = 7 if len(raw) <= 4096 else 1009
    yield [raw[index : index + step] for index in range(0, len(raw), step)]
    yield [raw[:1], raw[1:]]
    yield [raw[:-1], raw[-1:]]


def _read(machine: WebSocketMachine, pieces: Sequence[bytes]) -> _Transcript:
    """Feed pieces and write down what the machine says of them, and answers in the end."""
    seen = _Transcript()
    for piece in pieces:
        if seen.end is None:
            seen.taken += len(piece)
        machine.receive_data(piece)
        while (event := machine.next_event()) is not NEED_DATA:
            if isinstance(event, Closed):
                assert seen.end is None or seen.end == event, "the end changes"
                seen.end = event
                break
            assert isinstance(event, Message), f"{event} was not asked for"
            seen.messages.append(event.data)
        assert machine.unread == 0, "bytes are left when there is nothing more to tell"
    seen.answer = machine.data_to_send()
    assert machine.data_to_send() == b"", "an answer is given twice"
    return seen


# -- the rules of the contract
# ---------------------------------------------------------------------------------


def _build(build: BuildWebSocketMachine) -> WebSocketMachine:
    return build(WebSocketLimits(), None)


def _is(machine: WebSocketMachine, fact: str) -> bool:
    """Ask anew: a type checker takes a property that was looked at once for unchanging."""
    return bool(getattr(machine, fact))


def _refuses(call: Callable[[], object]) -> bool:
    try:
        call()
    except LocalProtocolError:
        return True
    return False


def _rule_new_session(build: BuildWebSocketMachine) -> None:
    """Nothing has come and nothing is owed."""
    machine = _build(build)
    assert machine.next_event() is NEED_DATA
    assert machine.data_to_send() == b""
    assert not _is(machine, "close_sent")
    assert not _is(machine, "close_received")
    assert machine.unread == 0


def _rule_messages_as_frames(build: BuildWebSocketMachine) -> None:
    """A message is one frame with the shortest length there is."""
    machine = _build(build)
    assert machine.send_message("h\u00e9") == b"\x81\x03h\xc3\xa9"
    assert machine.send_message("") == b"\x81\x00"
    for data in (b"ab", bytearray(b"ab"), memoryview(b"ab")):
        assert machine.send_message(data) == b"\x82\x02ab"
    for size in (125, 126, 65535, 65536):
        assert machine.send_message(bytes(size)) == frame(FIN | BINARY, bytes(size), key=None)
    assert _refuses(lambda: machine.send_message("\ud800"))
    assert machine.send_message("on") == b"\x81\x02on"


def _rule_events_one_by_one(build: BuildWebSocketMachine) -> None:
    """What is not asked for stays unread."""
    machine = _build(build)
    second = frame(FIN | TEXT, b"second")
    machine.receive_data(frame(FIN | TEXT, b"first") + second)
    assert machine.next_event() == Message("first")
    assert machine.unread == len(second)
    machine.receive_data(frame(FIN | TEXT, b"third"))
    assert machine.next_event() == Message("second")
    assert machine.next_event() == Message("third")
    assert machine.next_event() is NEED_DATA


def _rule_pings_of_ours(build: BuildWebSocketMachine) -> None:
    """PONG answers the latest ping, once; other pongs say nothing."""
    machine = _build(build)
    first, second = machine.send_ping(), machine.send_ping()
    assert first[:1] == second[:1] == b"\x89"
    assert first != second
    machine.receive_data(frame(FIN | PONG_FRAME, first[2:]))
    assert machine.next_event() is NEED_DATA
    machine.receive_data(frame(FIN | PONG_FRAME, second[2:]) * 2)
    assert machine.next_event() is PONG
    assert machine.next_event() is NEED_DATA


def _rule_pings_of_theirs(build: BuildWebSocketMachine) -> None:
    """The latest ping is always answered, a storm never as a whole."""
    machine = _build(build)
    for number in range(1000):
        machine.receive_data(frame(FIN | PING, b"%4d" % number))
        assert machine.next_event() is NEED_DATA
    answer = machine.data_to_send()
    assert answer.endswith(answer_frame(PONG_FRAME, b" 999"))
    assert len(answer) <= 2048


def _rule_we_close(build: BuildWebSocketMachine) -> None:
    """After our close frame nothing is sent, the peer's messages still come, and its answer ends the session."""
    machine = _build(build)
    machine.receive_data(frame(FIN | PING, b"late"))
    assert machine.next_event() is NEED_DATA
    assert machine.send_close(1001, "bye") == answer_frame(CLOSE, b"\x03\xe9bye")
    assert _is(machine, "close_sent")
    assert machine.send_close(1000, "") == b""
    assert machine.data_to_send() == b""
    assert _refuses(lambda: machine.send_message("late"))
    assert _refuses(machine.send_ping)
    machine.receive_data(frame(FIN | TEXT, b"last") + close_frame(1001))
    assert machine.next_event() == Message("last")
    assert not _is(machine, "close_received")
    assert machine.next_event() == Closed(1001, "")
    assert _is(machine, "close_received")
    assert machine.data_to_send() == b""


def _rule_peer_closes(build: BuildWebSocketMachine) -> None:
    """Messages may leave until our close frame has; it repeats the peer's code, or is what `send_close` says."""
    machine = _build(build)
    machine.receive_data(close_frame(3001, b"so"))
    assert machine.next_event() == Closed(3001, "so")
    assert not _is(machine, "close_sent")
    assert machine.send_message("last") == b"\x81\x04last"
    assert machine.data_to_send() == answer_frame(CLOSE, struct.pack("!H", 3001))
    assert _is(machine, "close_sent")
    assert machine.send_close(1000, "") == b""
    machine = _build(build)
    machine.receive_data(close_frame(3001))
    assert machine.next_event() == Closed(3001, "")
    assert machine.send_close(1000, "") == answer_frame(CLOSE, b"\x03\xe8")
    assert machine.data_to_send() == b""


def _rule_failure_is_last(build: BuildWebSocketMachine) -> None:
    """After a failure nothing is read, and it is the failure that the peer is told."""
    machine = _build(build)
    machine.receive_data(b"\x83\x80")
    end = machine.next_event()
    assert isinstance(end, Closed)
    assert (end.code, end.failed) == (1002, True)
    machine.receive_data(frame(FIN | TEXT, b"more"))
    assert machine.next_event() == end
    assert machine.unread == 0
    assert not _is(machine, "close_received")
    assert machine.send_close(1000, "fine") == answer_frame(CLOSE, b"\x03\xea" + end.reason.encode())
    assert machine.data_to_send() == b""
    machine = _build(build)
    machine.send_close(1000, "")
    machine.receive_data(b"\x83\x80")
    assert machine.next_event() == end
    assert machine.data_to_send() == b"", "a second close frame"


def _rule_close_codes(build: BuildWebSocketMachine) -> None:
    """RFC 6455 section 7.4: some codes are never on the wire; a reason is cut at a character."""
    for code in (0, 999, 1004, 1006, 1015, 1016, 2999, 5000, 65536, -1):
        machine = _build(build)
        assert _refuses(lambda code=code, machine=machine: machine.send_close(code, "")), f"code {code}"  # type: ignore[misc]
        assert not machine.close_sent
    for code in (1000, 1003, 1007, 1011, 1012, 1014, 3000, 4999):
        assert _build(build).send_close(code, "") == answer_frame(CLOSE, struct.pack("!H", code))
    assert _build(build).send_close(1005, "") == answer_frame(CLOSE)
    assert _refuses(lambda: _build(build).send_close(1005, "a reason needs a code"))
    cut = _build(build).send_close(1000, "x" * 122 + "\u00e9")
    assert cut == answer_frame(CLOSE, b"\x03\xe8" + b"x" * 122)


_RULES: Final = (
    _rule_new_session,
    _rule_messages_as_frames,
    _rule_events_one_by_one,
    _rule_pings_of_ours,
    _rule_pings_of_theirs,
    _rule_we_close,
    _rule_peer_closes,
    _rule_failure_is_last,
    _rule_close_codes,
)
