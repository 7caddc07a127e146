"""Contract batteries: what every implementation of a seam must do, as functions that assert.

`check_http1_machine` drives a machine through the rules of its contract and through rows of raw requests,
each fed whole, byte by byte, in odd pieces and with more bytes behind it. A battery knows nothing of how an
implementation works; what it demands is written in the contract.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from trioserve.protocols.errors import LocalProtocolError, RemoteProtocolError
from trioserve.protocols.http1 import (
    CLOSED,
    NEED_DATA,
    PAUSED,
    BodyChunk,
    Http1Limits,
    Http1Machine,
    RequestHead,
)

BuildHttp1Machine = Callable[[Http1Limits], Http1Machine]


class SeenRequest(NamedTuple):
    """What an application sees of one complete request."""

    method: str
    target: bytes
    body: bytes = b""
    trailers: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Http1Row:
    """Raw bytes from a client and the one right reading of them.

    Args:
        name: unique in its table.
        raw: everything the client sends.
        requests: the complete requests in it, in order.
        status: how the connection's last, refused request is answered; None when nothing is refused.
        closes: the connection takes no request after the last one. Always True with a status.
        needs_end: the verdict is due only when the client has ended its side.
        limits: those of the connection.
    """

    name: str
    raw: bytes
    requests: tuple[SeenRequest, ...] = ()
    status: int | None = None
    closes: bool = False
    needs_end: bool = False
    limits: Http1Limits = field(default_factory=Http1Limits)


@dataclass(slots=True)
class _Transcript:
    """Everything a machine said about a connection, however the bytes came."""

    heads: list[RequestHead] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    trailers: list[list[tuple[bytes, bytes]] | None] = field(default_factory=list)  # None while incomplete
    status: int | None = None
    closes: bool = False
    rest: bytes = b""
    verdict_at_end: bool = False

    def requests(self) -> tuple[SeenRequest, ...]:
        return tuple(
            SeenRequest(head.method, head.target, body, tuple(trailers))
            for head, body, trailers in zip(self.heads, self.bodies, self.trailers, strict=True)
            if trailers is not None
        )


def check_http1_machine(build: BuildHttp1Machine, rows: Iterable[Http1Row] = ()) -> None:
    """Assert that a machine keeps the contract of `Http1Machine`.

    Args:
        build: makes a new machine.
        rows: raw requests to read besides the rules.

    Raises:
        AssertionError: naming the rule or the row.
    """
    for rule in _HTTP1_RULES:
        rule(build)
    for row in rows:
        check_http1_row(build, row)


def check_http1_row(build: BuildHttp1Machine, row: Http1Row) -> None:
    """Assert that a machine reads one row right, in whatever pieces it comes."""
    whole = _read(build(row.limits), [row.raw])
    assert whole.requests() == row.requests, f"{row.name}: saw {whole.requests()}"
    assert whole.status == row.status, f"{row.name}: status {whole.status}"
    assert whole.closes == row.closes, f"{row.name}: closes is {whole.closes}"
    assert whole.verdict_at_end == row.needs_end, f"{row.name}: verdict at end is {whole.verdict_at_end}"
    for pieces in _splits(row.raw):
        assert _read(build(row.limits), pieces) == whole, f"{row.name}: differs in {len(pieces)} pieces"
    if not row.needs_end:
        _check_row_with_trailing_bytes(build, row)


_NEXT = b"GET /next HTTP/1.1\r\nHost: next.example\r\n\r\n"


def _check_row_with_trailing_bytes(build: BuildHttp1Machine, row: Http1Row) -> None:
    """What stands behind a row is the next request, or nothing at all, and never changes the row."""
    seen = _read(build(row.limits), [row.raw + _NEXT])
    assert seen.status == row.status, f"{row.name}: trailing bytes change the status to {seen.status}"
    if row.closes:
        assert seen.requests() == row.requests, f"{row.name}: a request behind the end is read"
        assert row.status is not None or seen.rest == _NEXT, f"{row.name}: bytes behind the end are taken"
    else:
        assert seen.requests() == (*row.requests, SeenRequest("GET", b"/next")), f"{row.name}: next is lost"


def _splits(raw: bytes) -> Iterator[list[bytes]]:
    """Byte by byte; in sevens; a byte, then the rest; all but a byte, then it; cut in every line end."""
    if len(raw) <= 4096:  # longer rows would only repeat the same state
        yield [raw[i : i + 1] for i in range(len(raw))]
    yield [raw[i : i + 7] for i in range(0, len(raw), 7)]
    yield [raw[:1], raw[1:]]
    yield [raw[:-1], raw[-1:]]
    yield re.split(rb"(?<=\r)", raw)


def _read(machine: Http1Machine, pieces: Sequence[bytes]) -> _Transcript:
    """Feed pieces, then the end, and write down what the machine says until it has nothing more to say."""
    seen = _Transcript()
    for piece in pieces:
        if piece:
            machine.receive_data(piece)
            if _drain(machine, seen):
                return seen
    machine.receive_data(b"")
    seen.verdict_at_end = _drain(machine, seen) and seen.status is not None
    return seen


def _drain(machine: Http1Machine, seen: _Transcript) -> bool:
    """Take all events; True when no further bytes can matter."""
    while True:
        try:
            event = machine.next_event()
        except RemoteProtocolError as error:
            seen.status, seen.closes = error.status_hint, True
            return True
        if event is NEED_DATA:
            return False
        if event is CLOSED:
            return True
        if event is PAUSED:
            if seen.trailers[-1] is None:
                seen.trailers[-1] = []
            if not machine.reusable:
                seen.closes, seen.rest = True, machine.trailing_data
                return True
            assert machine.start_next_cycle()
        elif isinstance(event, RequestHead):
            seen.heads.append(event)
            seen.bodies.append(b"")
            seen.trailers.append(None)
        else:
            assert isinstance(event, BodyChunk)
            assert event.data or event.last, "an empty body chunk in the middle of a body"
            seen.bodies[-1] += event.data
            if event.last:
                seen.trailers[-1] = event.trailers


# -- the rules of the contract
# ---------------------------------------------------------------------------------


def _begin(build: BuildHttp1Machine, raw: bytes) -> tuple[Http1Machine, RequestHead]:
    machine = build(Http1Limits())
    machine.receive_data(raw)
    head = machine.next_event()
    assert isinstance(head, RequestHead)
    return machine, head


def _is(machine: Http1Machine, fact: str) -> bool:
    """Ask anew: a type checker takes a property that was looked at once for unchanging."""
    return bool(getattr(machine, fact))


def _refusal(machine: Http1Machine) -> int | None:
    try:
        machine.next_event()
    except RemoteProtocolError as error:
        return error.status_hint
    return None


def _refuses(call: Callable[[], object]) -> bool:
    try:
        call()
    except LocalProtocolError:
        return True
    return False


def _rule_idle_connection(build: BuildHttp1Machine) -> None:
    """An idle connection is no request in progress, and may end."""
    machine = build(Http1Limits())
    assert machine.next_event() is NEED_DATA
    assert not _is(machine, "request_in_progress")
    assert not _is(machine, "reusable")
    machine.receive_data(b"\r\n")
    assert machine.next_event() is NEED_DATA
    assert not _is(machine, "request_in_progress"), "an empty line begins no request"
    machine.receive_data(b"G")
    assert _is(machine, "request_in_progress")
    assert machine.next_event() is NEED_DATA
    assert _is(machine, "request_in_progress")
    ended = build(Http1Limits())
    ended.receive_data(b"")
    assert ended.next_event() is CLOSED
    assert ended.next_event() is CLOSED


def _rule_head_without_body_is_complete(build: BuildHttp1Machine) -> None:
    """No body event follows a head without body; the next request waits for start_next_cycle."""
    machine, head = _begin(build, _NEXT + _NEXT)
    assert not head.has_body
    assert head.content_length == 0
    assert id(machine.head) == id(head)
    assert not _is(machine, "request_in_progress")
    assert machine.next_event() is PAUSED
    assert machine.next_event() is PAUSED
    assert machine.trailing_data == _NEXT
    assert _is(machine, "reusable")
    assert machine.start_next_cycle()
    assert machine.head is None
    assert _is(machine, "request_in_progress")
    assert isinstance(machine.next_event(), RequestHead)
    assert machine.trailing_data == b""


def _rule_body_comes_in_order(build: BuildHttp1Machine) -> None:
    """Each receive gives at most one body chunk, which ends the message when the end is there."""
    machine, head = _begin(build, b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nab")
    assert (head.has_body, head.content_length, head.chunked) == (True, 6, False)
    assert machine.next_event() == BodyChunk(b"ab", False, [])
    assert machine.next_event() is NEED_DATA
    assert not _is(machine, "reusable")
    assert not machine.start_next_cycle()
    machine.receive_data(b"cdef" + _NEXT)
    assert machine.next_event() == BodyChunk(b"cdef", True, [])
    assert machine.next_event() is PAUSED
    assert machine.trailing_data == _NEXT
    machine, head = _begin(build, b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert (head.has_body, head.content_length, head.chunked) == (True, None, True)
    machine.receive_data(b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n")
    assert machine.next_event() == BodyChunk(b"abc", True, [])


def _rule_errors_last(build: BuildHttp1Machine) -> None:
    """After an error nothing is read any more, and an answer can still be sent, which closes."""
    machine = build(Http1Limits())
    machine.receive_data(b"GET /\x00")
    for _ in range(2):
        assert _refusal(machine) == 400
        machine.receive_data(_NEXT)
    assert not _is(machine, "reusable")
    assert not machine.start_next_cycle()
    answer = machine.send_response(400, [], b"no")
    assert b"\r\nconnection: close\r\n" in answer
    assert answer.endswith(b"\r\n\r\nno")


def _rule_continue(build: BuildHttp1Machine) -> None:
    """100 Continue is wanted until it is sent, a byte of the body comes, or the answer begins."""
    raw = b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 2\r\n\r\n"
    machine, head = _begin(build, raw)
    assert head.expects_continue
    assert _is(machine, "wants_continue")
    assert machine.send_continue() == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert not _is(machine, "wants_continue")
    assert _refuses(machine.send_continue)
    machine, _ = _begin(build, raw)
    machine.receive_data(b"o")
    assert not _is(machine, "wants_continue")
    machine, _ = _begin(build, raw + b"o")
    assert not _is(machine, "wants_continue")
    machine, _ = _begin(build, raw)
    machine.send_head(413, [], body_known=0)
    assert not _is(machine, "wants_continue")
    machine, head = _begin(build, raw.replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert not head.expects_continue
    assert not _is(machine, "wants_continue")
    machine, _ = _begin(build, raw.replace(b"Length: 2", b"Length: 0"))
    assert not _is(machine, "wants_continue")


def _rule_upgrade(build: BuildHttp1Machine) -> None:
    """Upgrade is told when Connection lists it; the bytes behind the head are kept for the next protocol."""
    raw = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n"
    machine, head = _begin(build, raw + b"\x81\x00")
    assert head.upgrade == b"websocket"
    assert machine.next_event() is PAUSED
    assert machine.trailing_data == b"\x81\x00"
    fields = [(b"upgrade", b"websocket"), (b"connection", b"upgrade")]
    assert machine.send_information(101, fields) == (
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"
    )
    _, head = _begin(build, raw.replace(b", Upgrade", b""))
    assert head.upgrade is None
    _, head = _begin(build, raw.replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert head.upgrade is None
    machine, head = _begin(build, raw.replace(b"\r\n\r\n", b"\r\nContent-Length: 3\r\n\r\nabc"))
    assert machine.next_event() == BodyChunk(b"abc", True, [])


def _rule_answers_steer_reuse(build: BuildHttp1Machine) -> None:
    """The connection is reusable when request and response are complete and neither said `close`."""
    machine, _ = _begin(build, _NEXT + _NEXT)
    machine.send_head(200, [], body_known=2)
    assert not _is(machine, "reusable"), "the response is unfinished"
    machine.send_body(b"ok")
    machine.send_end()
    assert _is(machine, "reusable")
    assert machine.start_next_cycle()
    assert isinstance(machine.next_event(), RequestHead)
    assert b"\r\nconnection: close\r\n" in machine.send_response(200, [], b"ok", close=True)
    assert not _is(machine, "reusable")
    machine, _ = _begin(build, b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\no")
    machine.send_response(200, [], b"")
    assert not _is(machine, "reusable"), "the request is unfinished"
    machine.next_event()
    machine.receive_data(b"k")
    machine.next_event()
    assert _is(machine, "reusable")


_HTTP1_RULES = (
    _rule_idle_connection,
    _rule_head_without_body_is_complete,
    _rule_body_comes_in_order,
    _rule_errors_last,
    _rule_continue,
    _rule_upgrade,
    _rule_answers_steer_reuse,
)
