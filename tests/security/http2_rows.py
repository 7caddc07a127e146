"""What HTTP/2 clients may send, right and wrong, and the one right answer to each (RFC 9113, RFC 7541, RFC 9218).

Data only, so that the same table runs against the machine and, over sockets, against a whole server. Names begin
with the section that has the rule: "4.2 ..." of RFC 9113, "hpack 5.2 ..." of RFC 7541,
"priority 7.1 ..." of RFC 9218, "connect 4 ..." of RFC 8441.
Where an RFC leaves the choice between an error of the stream and one of the connection, the row says so; the
smaller damage is preferred, unless it would cost more than it saves.
"""

from __future__ import annotations

from typing import Any

from trioserve.protocols.http2.limits import Http2Limits
from trioserve.testing.http2_checks import (
    BIG,
    EMPTY_SETTINGS,
    PREFACE,
    Http2Row,
    render_literals,
    render_request,
)
from trioserve.testing.http2_record import render_frame

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
PRIORITY_UPDATE = 0x10
UNKNOWN = 0x2F

PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT, STREAM_CLOSED = range(1, 6)
FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR = range(6, 10)
ENHANCE_YOUR_CALM = 0xB

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
HAS_PRIORITY = 0x20

(
    HEADER_TABLE_SIZE,
    ENABLE_PUSH,
    MAX_CONCURRENT_STREAMS,
    INITIAL_WINDOW_SIZE,
    MAX_FRAME_SIZE,
    MAX_HEADER_LIST_SIZE,
) = range(1, 7)
ENABLE_CONNECT_PROTOCOL = 8
NO_RFC7540_PRIORITIES = 9

LARGEST = 2**31 - 1
RESERVED = 0x80000000

ROWS: list[Http2Row] = []

Pair = tuple[bytes, bytes]


# -- words ---------------------------------------------------------------------------------------------------------


def add(name: str, *script: bytes | int, **outcome: Any) -> None:
    ROWS.append(Http2Row(name, script, **outcome))


def fine(
    name: str, *script: bytes | int, ok: tuple[int, ...] = (1,), content: bytes | None = b"ok", **more: Any
) -> None:
    """The connection lives, and these streams are answered."""
    add(name, *script, answers=tuple((stream_id, 200, content) for stream_id in ok), **more)


def dies(name: str, code: int, *script: bytes | int, **more: Any) -> None:
    """A connection error."""
    add(name, *script, goaway=code, **more)


def resets(name: str, code: int, *script: bytes | int, stream: int = 1, **more: Any) -> None:
    """A stream error; the connection lives."""
    add(name, *script, resets=((stream, code),), **more)


def answered(name: str, status: int, *script: bytes | int, **more: Any) -> None:
    """Good HTTP/2 that is refused with a response."""
    add(name, *script, answers=((1, status, None),), **more)


def head(stream_id: int, block: bytes, flags: int = END_STREAM | END_HEADERS) -> bytes:
    return render_frame(HEADERS, block, flags=flags, stream_id=stream_id)


def rest(stream_id: int, block: bytes, flags: int = END_HEADERS) -> bytes:
    return render_frame(CONTINUATION, block, flags=flags, stream_id=stream_id)


def data(stream_id: int, content: bytes = b"", flags: int = 0) -> bytes:
    return render_frame(DATA, content, flags=flags, stream_id=stream_id)


def reset(stream_id: int, code: int = CANCEL) -> bytes:
    return render_frame(RST_STREAM, code.to_bytes(4, "big"), stream_id=stream_id)


def settings(*pairs: tuple[int, int]) -> bytes:
    return render_frame(
        SETTINGS, b"".join(code.to_bytes(2, "big") + value.to_bytes(4, "big") for code, value in pairs)
    )


def ping(payload: bytes = b"abcdefgh", flags: int = 0) -> bytes:
    return render_frame(PING, payload, flags=flags)


def window(stream_id: int, size: int) -> bytes:
    return render_frame(WINDOW_UPDATE, size.to_bytes(4, "big"), stream_id=stream_id)


def priority(stream_id: int, parent: int = 0, weight: int = 15) -> bytes:
    return render_frame(PRIORITY, parent.to_bytes(4, "big") + bytes((weight,)), stream_id=stream_id)


def update(stream_id: int, value: bytes = b"u=1", on: int = 0) -> bytes:
    return render_frame(PRIORITY_UPDATE, stream_id.to_bytes(4, "big") + value, stream_id=on)


def goaway(last: int = 0, code: int = 0, text: bytes = b"") -> bytes:
    return render_frame(GOAWAY, last.to_bytes(4, "big") + code.to_bytes(4, "big") + text)


def start(
    path: bytes = b"/",
    *fields: Pair,
    method: bytes = b"GET",
    scheme: bytes = b"http",
    host: bytes = b"a.example",
) -> bytes:
    """The block of a request with further fields."""
    pseudo = [(b":method", method), (b":scheme", scheme), (b":path", path), (b":authority", host)]
    return render_literals(*pseudo, *fields)


def get(stream_id: int = 1, path: bytes = b"/", *fields: Pair) -> bytes:
    return head(stream_id, start(path, *fields))


def put(stream_id: int = 1, path: bytes = b"/", *fields: Pair) -> bytes:
    """The head of a request with content."""
    return head(stream_id, start(path, *fields, method=b"PUT"), END_HEADERS)


HELD = render_request(1, b"/hold")  # half-closed (remote) for as long as the row lasts
OPEN = render_request(1, b"/hold", method=b"PUT", end=False)
BLOCK = start()
GET = get()

# A row is read best on one line.
# fmt: off

# -- 3.4 HTTP/2 connection preface -----------------------------------------------------------------------------------

fine("3.4 a request right behind the preface", GET)
fine("3.4 a preface with settings", GET,
    opening=PREFACE + settings((ENABLE_PUSH, 0), (INITIAL_WINDOW_SIZE, 70000)))
dies("3.4 an invalid preface", PROTOCOL_ERROR, opening=b"INVALID CONNECTION PREFACE\r\n\r\n", last=0)
dies("3.4 a preface wrong in its last byte", PROTOCOL_ERROR, opening=PREFACE[:-1] + b"\r")
dies("3.4 a preface with a body of its own", PROTOCOL_ERROR, opening=PREFACE[:18] + b"XX" + PREFACE[20:])
dies("3.4 a preface in lower case", PROTOCOL_ERROR, opening=PREFACE.lower())
dies("3.4 HTTP/1.1 in place of the preface", PROTOCOL_ERROR, opening=b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
dies("3.4 a frame in place of the preface", PROTOCOL_ERROR, opening=EMPTY_SETTINGS)
dies("3.4 a zero byte in place of the preface", PROTOCOL_ERROR, opening=b"\0")
for _name, _frame in {
    "PING": ping(),
    "HEADERS": GET,
    "DATA": data(1, b"a"),
    "PRIORITY": priority(1),
    "WINDOW_UPDATE": window(0, 1),
    "GOAWAY": goaway(),
    "an acknowledgement": render_frame(SETTINGS, flags=ACK),
    "an unknown frame": render_frame(UNKNOWN),
    "the preface again": PREFACE,
}.items():
    _code = FRAME_SIZE_ERROR if _frame == PREFACE else PROTOCOL_ERROR
    dies(f"3.4 {_name} in place of SETTINGS", _code, opening=PREFACE + _frame)
dies("3.4 malformed SETTINGS in the preface", FRAME_SIZE_ERROR, opening=PREFACE + render_frame(SETTINGS, b"a"))
dies("3.4 SETTINGS of a stream in the preface", PROTOCOL_ERROR,
    opening=PREFACE + render_frame(SETTINGS, stream_id=1))
dies("3.4 the preface a second time", FRAME_SIZE_ERROR, PREFACE)

# -- 4.1 frame format ------------------------------------------------------------------------------------------------

for _kind in (0x0A, 0x0B, 0x0C, 0x0D, 0x0F, 0x11, 0x16, UNKNOWN, 0xF0, 0xFF):
    fine(f"4.1 unknown frame {_kind:#x} on the connection", render_frame(_kind, b"a" * 8), GET)
fine("4.1 an unknown frame on an idle stream", render_frame(UNKNOWN, b"abc", stream_id=1), GET)
fine("4.1 an unknown frame on a stream never used", render_frame(UNKNOWN, b"abc", stream_id=77), GET)
fine("4.1 an unknown frame on an even stream", render_frame(UNKNOWN, b"abc", stream_id=2), GET)
fine("4.1 an unknown frame within a stream", put(), render_frame(UNKNOWN, b"abc", stream_id=1),
    data(1, b"a", 1))
fine("4.1 an unknown frame behind a stream", GET, 1, render_frame(UNKNOWN, b"abc", stream_id=1))
fine("4.1 an unknown frame with all flags", render_frame(UNKNOWN, b"", flags=0xFF), GET)
fine("4.1 an unknown frame of the largest size", render_frame(UNKNOWN, bytes(16384)), GET)
fine("4.1 many unknown frames", render_frame(UNKNOWN) * 100, GET)
fine("4.1 PING with flags that have no meaning", ping(flags=0xFE), GET, pings=(b"abcdefgh",))
fine("4.1 DATA with flags that have no meaning", put(), data(1, b"a", 0xF7 & ~PADDED))
fine("4.1 HEADERS with flags that have no meaning", head(1, BLOCK, 0xFF & ~PADDED & ~HAS_PRIORITY))
fine("4.1 CONTINUATION with all flags", head(1, BLOCK[:9], END_STREAM), rest(1, BLOCK[9:], 0xFF))
fine("4.1 SETTINGS with flags that have no meaning", render_frame(SETTINGS, flags=0xFE), GET, acks=1)
fine("4.1 WINDOW_UPDATE with all flags", render_frame(WINDOW_UPDATE, b"\0\0\0\1", flags=0xFF), GET)
fine("4.1 PRIORITY with all flags", render_frame(PRIORITY, bytes(5), flags=0xFF, stream_id=1), GET)
add("4.1 RST_STREAM with all flags", HELD, render_frame(RST_STREAM, bytes(4), flags=0xFF, stream_id=1))
fine("4.1 GOAWAY with all flags", put(), render_frame(GOAWAY, bytes(8), flags=0xFF), data(1, b"", 1),
    leaves=True)
fine("4.1 the reserved bit in PING", render_frame(PING, bytes(8), stream_id=RESERVED), GET, pings=(bytes(8),))
fine("4.1 the reserved bit in SETTINGS", render_frame(SETTINGS, stream_id=RESERVED), GET, acks=1)
fine("4.1 the reserved bit in HEADERS", render_frame(HEADERS, BLOCK, flags=5, stream_id=RESERVED | 1))
fine("4.1 the reserved bit in DATA", put(), render_frame(DATA, b"a", flags=1, stream_id=RESERVED | 1))
fine("4.1 the reserved bit in an unknown frame", render_frame(UNKNOWN, stream_id=RESERVED), GET)
add("4.1 the reserved bit in RST_STREAM", HELD, render_frame(RST_STREAM, bytes(4), stream_id=RESERVED | 1))
fine("4.1 the reserved bit in CONTINUATION", head(1, BLOCK[:9], END_STREAM), rest(RESERVED | 1, BLOCK[9:]))

# -- 4.2 frame size --------------------------------------------------------------------------------------------------

TOO_LARGE = bytes(16385)
fine("4.2 DATA of the largest size", put(), data(1, bytes(16384)), data(1, b"", 1))
_LONG = (b"a", b"b" * (16384 - len(start(b"/", (b"a", b"b" * 16000))) + 16000))
fine("4.2 HEADERS of the largest size", get(1, b"/", _LONG))
# DATA that is too large could be an error of the stream; its bytes would have to be read to no avail.
dies("4.2 DATA above the largest size", FRAME_SIZE_ERROR, put(), data(1, TOO_LARGE))
dies("4.2 DATA above the largest size, idle", FRAME_SIZE_ERROR, data(1, TOO_LARGE))
dies("4.2 HEADERS above the largest size", FRAME_SIZE_ERROR, get(1, b"/", (b"a", b"b" * 16384)))
dies("4.2 CONTINUATION above the largest size", FRAME_SIZE_ERROR, head(1, BLOCK, 1), rest(1, TOO_LARGE))
dies("4.2 SETTINGS above the largest size", FRAME_SIZE_ERROR, render_frame(SETTINGS, bytes(16386)))
dies("4.2 an unknown frame above the largest size", FRAME_SIZE_ERROR, render_frame(UNKNOWN, TOO_LARGE))
dies("4.2 GOAWAY above the largest size", FRAME_SIZE_ERROR, render_frame(GOAWAY, TOO_LARGE))
dies("4.2 a frame that announces 16 MiB", FRAME_SIZE_ERROR, b"\xff\xff\xff\0\0\0\0\0\1")

# -- 4.3 and 6.10 field blocks ---------------------------------------------------------------------------------------

fine("4.3 a block in two frames", head(1, BLOCK[:20], END_STREAM), rest(1, BLOCK[20:]))
fine("4.3 a block in three frames", head(1, b"", END_STREAM), rest(1, BLOCK[:1], 0), rest(1, BLOCK[1:]))
fine("4.3 a block in single bytes", head(1, b"", 1), *[rest(1, BLOCK[i : i + 2], 0) for i in range(0, 60, 2)],
    rest(1, BLOCK[60:]))
fine("4.3 an empty last frame of a block", head(1, BLOCK, END_STREAM), rest(1, b""))
fine("4.3 empty frames within a block", head(1, BLOCK[:5], 1), rest(1, b"", 0) * 10, rest(1, BLOCK[5:]))
fine("4.3 content behind a block in two frames", head(1, start(b"/echo")[:20], 0),
    rest(1, start(b"/echo")[20:]), data(1, b"abc", 1), content=b"abc")
fine("4.3 trailers in two frames", put(1, b"/echo"), data(1, b"a"), head(1, b"\0\1b", 1), rest(1, b"\1c"),
    content=b"ab=c|")
for _name, _frame in {
    "HEADERS of another stream": get(3),
    "HEADERS of the stream": GET,
    "CONTINUATION of another stream": rest(3, BLOCK[9:]),
    "CONTINUATION of no stream": rest(0, BLOCK[9:]),
    "DATA": data(1, b"a"),
    "PRIORITY": priority(1),
    "RST_STREAM": reset(1),
    "SETTINGS": settings(),
    "an acknowledgement": render_frame(SETTINGS, flags=ACK),
    "PING": ping(),
    "GOAWAY": goaway(),
    "WINDOW_UPDATE": window(0, 1),
    "WINDOW_UPDATE of the stream": window(1, 1),
    "PUSH_PROMISE": render_frame(PUSH_PROMISE, bytes(4), flags=4, stream_id=1),
    "PRIORITY_UPDATE": update(1),
    "an unknown frame": render_frame(UNKNOWN),
    "an unknown frame of the stream": render_frame(UNKNOWN, stream_id=1),
}.items():
    dies(f"6.10 {_name} within a block", PROTOCOL_ERROR, head(1, BLOCK[:9], END_STREAM), _frame, last=None)
dies("6.10 PING behind CONTINUATION that is not the last", PROTOCOL_ERROR, head(1, BLOCK[:9], 1),
    rest(1, b"", 0), ping())
dies("6.10 an unknown frame within trailers", PROTOCOL_ERROR, put(), head(1, b"\0", 1), render_frame(UNKNOWN))
dies("6.10 CONTINUATION behind a complete block", PROTOCOL_ERROR, OPEN, rest(1, b""))
dies("6.10 CONTINUATION behind a complete block and its last frame", PROTOCOL_ERROR, head(1, BLOCK[:9], 0),
    rest(1, BLOCK[9:]), rest(1, b""))
dies("6.10 CONTINUATION behind a request", PROTOCOL_ERROR, HELD, rest(1, b""))
dies("6.10 CONTINUATION behind DATA", PROTOCOL_ERROR, OPEN, data(1, b"a"), rest(1, b""))
dies("6.10 CONTINUATION on no stream", PROTOCOL_ERROR, rest(0, b""))
dies("6.10 CONTINUATION on an idle stream", PROTOCOL_ERROR, rest(1, BLOCK))
dies("6.10 CONTINUATION on a reset stream", PROTOCOL_ERROR, HELD, reset(1), rest(1, b""))
dies("10.5 a block in countless frames", ENHANCE_YOUR_CALM, head(1, b"", 1), rest(1, b"", 0) * 40)
dies("10.5 a block without end", ENHANCE_YOUR_CALM, head(1, bytes(16384), 1), rest(1, bytes(16384), 0) * 4)

# -- 5.1 stream states -----------------------------------------------------------------------------------------------

for _id, _what in (
    (1, "an idle stream"),
    (2, "an idle stream of the server"),
    (LARGEST, "the last idle stream"),
):
    dies(f"5.1 DATA on {_what}", PROTOCOL_ERROR, data(_id, b"a", 1), last=0)
    dies(f"5.1 RST_STREAM on {_what}", PROTOCOL_ERROR, reset(_id))
    dies(f"5.1 WINDOW_UPDATE on {_what}", PROTOCOL_ERROR, window(_id, 1))
dies("5.1 DATA on the next idle stream", PROTOCOL_ERROR, HELD, data(3, b"a"), last=1)
dies("5.1 an empty window update of an idle stream", PROTOCOL_ERROR, window(1, 0))
fine("5.1 PRIORITY on an idle stream", priority(1), GET)
fine("5.1 PRIORITY on an idle stream that is not used", priority(9), priority(11, 9), GET)
fine("5.1 PRIORITY does not open a stream", priority(5), GET)

resets("5.1 DATA on a half-closed stream", STREAM_CLOSED, HELD, data(1, b"a"))
resets("5.1 DATA that ends a half-closed stream", STREAM_CLOSED, HELD, data(1, b"", 1))
resets("5.1 DATA behind DATA that ends the stream", STREAM_CLOSED, OPEN, data(1, b"a", 1), data(1, b"a", 1))
resets("5.1 HEADERS on a half-closed stream", STREAM_CLOSED, HELD, head(1, render_literals((b"a", b"b"))))
resets("5.1 a second request on a half-closed stream", STREAM_CLOSED, HELD, GET)
resets("5.1 trailers that end nothing on a half-closed stream", STREAM_CLOSED, HELD, head(1, b"", END_HEADERS))
resets("5.1 trailers behind trailers", STREAM_CLOSED, OPEN, head(1, render_literals((b"a", b"b"))),
    head(1, b""))
resets("5.1 a half-closed stream is reset once", STREAM_CLOSED, HELD, data(1, b"a"), data(1, b"a"),
    data(1, b"", 1))
add("5.1 WINDOW_UPDATE on a half-closed stream", HELD, window(1, 100))
add("5.1 PRIORITY on a half-closed stream", HELD, priority(1))
add("5.1 RST_STREAM on a half-closed stream", HELD, reset(1))

# RFC 9113 lets us treat each of these as an error of the connection; after END_STREAM nothing can be under way.
dies("5.1 DATA behind a response", STREAM_CLOSED, GET, 1, data(1, b"a"))
dies("5.1 empty DATA behind a response", STREAM_CLOSED, GET, 1, data(1, b"", 1))
dies("5.1 HEADERS behind a response", STREAM_CLOSED, GET, 1, head(1, render_literals((b"a", b"b"))))
dies("5.1 a second request behind a response", STREAM_CLOSED, GET, 1, GET)
fine("5.1 WINDOW_UPDATE behind a response", GET, 1, window(1, 100))
fine("5.1 an empty WINDOW_UPDATE behind a response", GET, 1, window(1, 0))
fine("5.1 RST_STREAM behind a response", GET, 1, reset(1))
fine("5.1 RST_STREAM behind a response, again", GET, 1, reset(1), reset(1, 0))
fine("5.1 PRIORITY behind a response", GET, 1, priority(1))
fine("5.1 PRIORITY of the wrong length behind a response", GET, 1, render_frame(PRIORITY, b"a", stream_id=1))

resets("5.1 DATA behind the client's reset", STREAM_CLOSED, OPEN, reset(1), data(1, b"a"))
resets("5.1 HEADERS behind the client's reset", STREAM_CLOSED, OPEN, reset(1),
    head(1, render_literals((b"a", b"b"))))
resets("5.1 a request behind the client's reset", STREAM_CLOSED, HELD, reset(1), GET)
add("5.1 WINDOW_UPDATE behind the client's reset", OPEN, reset(1), window(1, 100))
add("5.1 PRIORITY behind the client's reset", OPEN, reset(1), priority(1))
add("5.1 RST_STREAM behind the client's reset", OPEN, reset(1), reset(1), reset(1, 0))

# After our own reset anything may be under way (RFC 9113 section 5.1).
RESET = put(1, b"/hold", (b"content-length", b"1")) + data(1, b"ab")
for _name, _script in {
    "nothing": (),
    "DATA": (data(1, b"abc"),),
    "DATA that ends it": (data(1, b"abc", 1),),
    "much DATA": (data(1, bytes(16384)) * 3, data(1, b"", 1)),
    "HEADERS": (head(1, render_literals((b"a", b"b"))),),
    "HEADERS without end": (head(1, render_literals((b"a", b"b")), END_HEADERS),),
    "HEADERS in two frames": (head(1, b"\0\1a", 1), rest(1, b"\1b")),
    "HEADERS that use the table": (head(1, b"\x40\1a\1b", 1 | 4), head(3, BLOCK + b"\xbe")),
    "WINDOW_UPDATE": (window(1, 100),),
    "an empty WINDOW_UPDATE": (window(1, 0),),
    "a huge WINDOW_UPDATE": (window(1, LARGEST), window(1, LARGEST)),
    "PRIORITY": (priority(1),),
    "PRIORITY of itself": (priority(1, 1),),
    "RST_STREAM": (reset(1),),
    "an unknown frame": (render_frame(UNKNOWN, b"abc", stream_id=1),),
    "PRIORITY_UPDATE": (update(1),),
}.items():
    _answers = ((3, 200, b"ok"),) if "table" in _name else ()
    resets(f"5.1 {_name} behind our reset", PROTOCOL_ERROR, RESET, *_script, answers=_answers)
resets("5.1 DATA behind our reset uses up no window", PROTOCOL_ERROR, RESET, *[data(1, bytes(16384)) * 100],
    get(3), answers=((3, 200, b"ok"),))
dies("6.1 padding too long behind our reset", PROTOCOL_ERROR, RESET, data(1, b"\x09abc", PADDED))
dies("6.9 WINDOW_UPDATE of the wrong length behind our reset", FRAME_SIZE_ERROR, RESET,
    render_frame(WINDOW_UPDATE, b"abc", stream_id=1))

# The rest of the request may be read and dropped, or be stopped by RST_STREAM with NO_ERROR.
add("8.1 the rest of a request behind an early answer", put(1, b"/early"), 1, data(1, b"abc"), data(1, b"", 1),
    answers=((1, 200, b"ok"),))
add("8.1 trailers behind an early answer", put(1, b"/early"), 1, head(1, render_literals((b"a", b"b"))),
    answers=((1, 200, b"ok"),))
add("8.1 a reset behind an early answer", put(1, b"/early"), 1, reset(1), answers=((1, 200, b"ok"),))

# -- 5.1.1 stream identifiers ----------------------------------------------------------------------------------------

for _id in (2, 4, LARGEST - 1):
    dies(f"5.1.1 a request on stream {_id}", PROTOCOL_ERROR, get(_id), last=0)
dies("5.1.1 a request on a lower stream", PROTOCOL_ERROR, get(5), 5, get(3), last=5)
dies("5.1.1 a request on a lower stream while another is open", PROTOCOL_ERROR, get(5, b"/hold"), get(1))
dies("5.1.1 DATA on a stream that was left out", STREAM_CLOSED, get(5, b"/hold"), data(3, b"a"))
fine("5.1.1 streams that are left out", get(1), get(7), get(1001), ok=(1, 7, 1001))
fine("5.1.1 WINDOW_UPDATE on a stream that was left out", get(5), window(3, 1), ok=(5,))
fine("5.1.1 RST_STREAM on a stream that was left out", get(5), reset(3), ok=(5,))

# -- 5.1.2 stream concurrency ----------------------------------------------------------------------------------------

HUNDRED = b"".join(get(number, b"/hold") for number in range(1, 200, 2))
CLEARED = b"".join(reset(number) for number in range(1, 200, 2))
resets("5.1.2 one stream too many", REFUSED_STREAM, HUNDRED, get(201), CLEARED, stream=201)
resets("5.1.2 one stream with content too many", REFUSED_STREAM, HUNDRED, put(201), data(201, b"abc", 1),
    CLEARED, stream=201)
resets("5.1.2 one stream too many that fills the table", REFUSED_STREAM, HUNDRED,
    head(201, BLOCK + b"\x40\1a\1b"), reset(1), head(203, start(b"/fields") + b"\xbe"), CLEARED, stream=201,
    answers=((203, 200, b"host=a.example|a=b|"),))
add("5.1.2 many streams too many", HUNDRED, get(201), get(203), get(205), CLEARED,
    resets=tuple((number, REFUSED_STREAM) for number in (201, 203, 205)))
resets("5.1.2 one malformed stream too many", REFUSED_STREAM, HUNDRED, head(201, b"\0\1A\1b"), CLEARED,
    stream=201)

# -- 5.3 prioritization ----------------------------------------------------------------------------------------------
# RFC 9113 deprecates the tree. What RFC 7540 demands of its signals still holds: section 5.3.1 there.

for _name, _values in {
    "": bytes(5),
    " with weight 256": b"\0\0\0\0\xff",
    " exclusive": b"\x80\0\0\0\0",
    " on an idle stream": b"\0\0\0\x63\x10",
    " on the last stream": b"\xff\xff\xff\xff\x10",
}.items():
    fine(f"5.3 HEADERS with a priority{_name}", head(1, _values + BLOCK, 5 | HAS_PRIORITY))
    fine(f"5.3 PRIORITY{_name}", render_frame(PRIORITY, _values, stream_id=3), get(3), ok=(3,))
    fine(f"5.3 PRIORITY within a stream{_name}", put(3), render_frame(PRIORITY, _values, stream_id=3),
        data(3, b"", 1), ok=(3,))
fine("5.3 padded HEADERS with a priority",
    head(1, b"\x02" + bytes(5) + BLOCK + b"\0\0", 5 | PADDED | HAS_PRIORITY))
fine("5.3 trailers with a priority", put(1, b"/echo"), head(1, bytes(5) + b"\0\1a\1b", 5 | HAS_PRIORITY),
    content=b"a=b|")
fine("5.3 dependencies in a circle", priority(1, 3), priority(3, 5), priority(5, 1), GET, get(3), get(5),
    ok=(1, 3, 5))
fine("5.3 dependencies in a circle of open streams", put(1), put(3), priority(1, 3), priority(3, RESERVED | 1),
    data(1, b"", 1), data(3, b"", 1), ok=(1, 3))
resets("5.3 HEADERS that depend on themselves", PROTOCOL_ERROR,
    head(1, b"\0\0\0\1\xff" + BLOCK, 5 | HAS_PRIORITY))
resets("5.3 HEADERS that depend on themselves, exclusively", PROTOCOL_ERROR,
    head(1, b"\x80\0\0\1\xff" + BLOCK, 5 | HAS_PRIORITY))
resets("5.3 padded HEADERS that depend on themselves", PROTOCOL_ERROR,
    head(1, b"\x01\0\0\0\1\xff" + BLOCK + b"\0", 5 | HAS_PRIORITY | PADDED))
resets("5.3 HEADERS in two frames that depend on themselves", PROTOCOL_ERROR,
    head(1, b"\0\0\0\1\xff" + BLOCK[:9], 1 | HAS_PRIORITY), rest(1, BLOCK[9:]))
resets("5.3 trailers that depend on their stream", PROTOCOL_ERROR, put(),
    head(1, b"\0\0\0\1\0", 5 | HAS_PRIORITY))
resets("5.3 PRIORITY that depends on itself", PROTOCOL_ERROR, OPEN, priority(1, 1))
resets("5.3 PRIORITY that depends on itself, half-closed", PROTOCOL_ERROR, HELD, priority(1, RESERVED | 1))
# An idle stream cannot be reset (RFC 9113 section 6.4).
dies("5.3 PRIORITY of an idle stream that depends on itself", PROTOCOL_ERROR, priority(1, 1))

# -- 5.5 extending HTTP/2 --------------------------------------------------------------------------------------------

fine("5.5 unknown settings", settings((0x7F, 1), (0xFFFF, 2**32 - 1), (0, 0), (7, 7)), GET, acks=1)
fine("5.5 very many unknown settings", settings(*((code, code) for code in range(100, 2800))), GET, acks=1)
fine("5.5 an unknown error code", put(), reset(1, 0xFFFF), get(3), ok=(3,))

# -- 6.1 DATA --------------------------------------------------------------------------------------------------------

dies("6.1 DATA on no stream", PROTOCOL_ERROR, data(0, b"a"))
fine("6.1 content in pieces", put(1, b"/echo"), data(1, b"ab"), data(1, b""), data(1, b"cd"), data(1, b"", 1),
    content=b"abcd")
fine("6.1 padded DATA", put(1, b"/echo"), data(1, b"\x03abc\0\0\0", PADDED | 1), content=b"abc")
fine("6.1 padding of nothing", put(1, b"/echo"), data(1, b"\0abc", PADDED | 1), content=b"abc")
fine("6.1 nothing but padding", put(1, b"/echo"), data(1, b"\x03\0\0\0", PADDED), data(1, b"ab", 1),
    content=b"ab")
fine("6.1 the most padding", put(1, b"/echo"), data(1, b"\xff" + b"a" * 10 + bytes(255), PADDED | 1),
    content=b"a" * 10)
# RFC 9113: padding other than zero MAY be an error; it is of no consequence.
fine("6.1 padding of other bytes", put(1, b"/echo"), data(1, b"\x03abcXYZ", PADDED | 1), content=b"abc")
dies("6.1 padding as long as the frame", PROTOCOL_ERROR, OPEN, data(1, b"\x04abc", PADDED))
dies("6.1 padding longer than the frame", PROTOCOL_ERROR, OPEN, data(1, b"\xffabc", PADDED))
dies("6.1 padding longer than a frame of one byte", PROTOCOL_ERROR, OPEN, data(1, b"\x01", PADDED))
dies("6.1 padded DATA without a length", FRAME_SIZE_ERROR, OPEN, data(1, b"", PADDED))
dies("6.1 padding too long on a half-closed stream", PROTOCOL_ERROR, HELD, data(1, b"\x09abc", PADDED))

# -- 6.2 HEADERS -----------------------------------------------------------------------------------------------------

dies("6.2 HEADERS on no stream", PROTOCOL_ERROR, get(0))
fine("6.2 padded HEADERS", head(1, b"\x04" + BLOCK + bytes(4), 5 | PADDED))
fine("6.2 padded HEADERS in two frames", head(1, b"\x04" + BLOCK[:9] + bytes(4), 1 | PADDED),
    rest(1, BLOCK[9:]))
fine("6.2 nothing but padding", head(1, b"\x04" + bytes(4), 1 | PADDED), rest(1, BLOCK))
dies("6.2 padding longer than the frame", PROTOCOL_ERROR, head(1, b"\xff" + BLOCK, 5 | PADDED))
dies("6.2 padding into the priority", PROTOCOL_ERROR, head(1, b"\x01" + bytes(5), 5 | PADDED | HAS_PRIORITY))
dies("6.2 padded HEADERS without a length", FRAME_SIZE_ERROR, head(1, b"", 5 | PADDED))
dies("6.2 HEADERS too short for a priority", FRAME_SIZE_ERROR, head(1, bytes(4), 5 | HAS_PRIORITY))
dies("6.2 padded HEADERS too short for a priority", FRAME_SIZE_ERROR,
    head(1, bytes(5), 5 | PADDED | HAS_PRIORITY))
resets("6.2 HEADERS without a field", PROTOCOL_ERROR, head(1, b""))

# -- 6.3 PRIORITY ----------------------------------------------------------------------------------------------------

dies("6.3 PRIORITY on no stream", PROTOCOL_ERROR, priority(0))
for _size in (0, 4, 6, 100):
    resets(f"6.3 PRIORITY of {_size} bytes", FRAME_SIZE_ERROR, HELD,
        render_frame(PRIORITY, bytes(_size), stream_id=1))
# An idle stream cannot be reset.
dies("6.3 PRIORITY of the wrong length on an idle stream", FRAME_SIZE_ERROR,
    render_frame(PRIORITY, b"", stream_id=1))

# -- 6.4 RST_STREAM --------------------------------------------------------------------------------------------------

dies("6.4 RST_STREAM on no stream", PROTOCOL_ERROR, reset(0))
for _size in (0, 3, 5, 8):
    dies(f"6.4 RST_STREAM of {_size} bytes", FRAME_SIZE_ERROR, HELD,
        render_frame(RST_STREAM, bytes(_size), stream_id=1))
dies("6.4 RST_STREAM of the wrong length on a closed stream", FRAME_SIZE_ERROR, GET, 1,
    render_frame(RST_STREAM, b"", stream_id=1))
for _code in (0, 1, CANCEL, 0xD, 0xE, 2**32 - 1):
    add(f"6.4 RST_STREAM with code {_code:#x}", OPEN, reset(1, _code))

# -- 6.5 SETTINGS ----------------------------------------------------------------------------------------------------

fine("6.5 SETTINGS without settings", settings(), GET, acks=1)
fine("6.5 each SETTINGS is acknowledged", settings() * 3, GET, acks=3)
fine("6.5 an acknowledgement that nobody waits for", render_frame(SETTINGS, flags=ACK) * 3, GET)
dies("6.5 an acknowledgement with settings", FRAME_SIZE_ERROR, render_frame(SETTINGS, bytes(6), flags=ACK))
dies("6.5 an acknowledgement with a byte", FRAME_SIZE_ERROR, render_frame(SETTINGS, b"a", flags=ACK))
dies("6.5 SETTINGS on a stream", PROTOCOL_ERROR, render_frame(SETTINGS, stream_id=1))
dies("6.5 SETTINGS on an open stream", PROTOCOL_ERROR, OPEN, render_frame(SETTINGS, stream_id=1))
dies("6.5 an acknowledgement on a stream", PROTOCOL_ERROR, render_frame(SETTINGS, flags=ACK, stream_id=1))
for _size in (1, 3, 5, 7, 11):
    dies(f"6.5 SETTINGS of {_size} bytes", FRAME_SIZE_ERROR, render_frame(SETTINGS, bytes(_size)))
for _setting, _values, _code in (
    (ENABLE_PUSH, (2, 2**32 - 1), PROTOCOL_ERROR),
    (INITIAL_WINDOW_SIZE, (2**31, 2**32 - 1), FLOW_CONTROL_ERROR),
    (MAX_FRAME_SIZE, (0, 1, 16383, 2**24, 2**32 - 1), PROTOCOL_ERROR),
    (ENABLE_CONNECT_PROTOCOL, (2, 2**32 - 1), PROTOCOL_ERROR),
    (NO_RFC7540_PRIORITIES, (2, 2**32 - 1), PROTOCOL_ERROR),
):
    for _value in _values:
        dies(f"6.5.2 setting {_setting} is {_value}", _code, settings((_setting, _value)))
    dies(f"6.5.2 setting {_setting} is {_values[0]} behind others", _code,
        settings((5, 16384), (99, 9), (_setting, _values[0])))
    # Section 6.5.3: values are processed in the order they appear, so that none is overlooked.
    dies(f"6.5.3 setting {_setting} is {_values[0]}, then good", _code,
        settings((_setting, _values[0]), (_setting, 16384 if _setting in (4, 5) else 1)))
for _setting, _value in (
    (HEADER_TABLE_SIZE, 0),
    (HEADER_TABLE_SIZE, 2**32 - 1),
    (ENABLE_PUSH, 0),
    (ENABLE_PUSH, 1),
    (MAX_CONCURRENT_STREAMS, 0),
    (MAX_CONCURRENT_STREAMS, 2**32 - 1),
    (INITIAL_WINDOW_SIZE, LARGEST),
    (INITIAL_WINDOW_SIZE, 2),
    (MAX_FRAME_SIZE, 16384),
    (MAX_FRAME_SIZE, 2**24 - 1),
    (MAX_HEADER_LIST_SIZE, 0),
    (MAX_HEADER_LIST_SIZE, 2**32 - 1),
    (NO_RFC7540_PRIORITIES, 0),
    (NO_RFC7540_PRIORITIES, 1),
    (ENABLE_CONNECT_PROTOCOL, 0),
    (ENABLE_CONNECT_PROTOCOL, 1),
):
    fine(f"6.5.2 setting {_setting} is {_value}, as it may be", settings((_setting, _value)), GET, acks=1)
fine("6.5.3 the last of two values holds", settings((4, 0), (4, 2)), get(1, b"/big"), settings((4, 65535)),
    window(1, 1), ok=(1,), content=None, acks=2)
add("6.5.3 an earlier value does not hold", settings((4, 65535), (4, 3)), get(1, b"/big"), partial=((1, 3),),
    acks=1)
# RFC 9218 section 2.1: a change MAY be an error; it is of no consequence.
fine("6.5 the client changes its mind about priorities", settings((9, 1)), settings((9, 0)), GET, acks=2)

# -- 6.6 PUSH_PROMISE ------------------------------------------------------------------------------------------------

for _name, _id in (("no stream", 0), ("an idle stream", 1), ("a stream of the server", 2)):
    dies(f"6.6 PUSH_PROMISE on {_name}", PROTOCOL_ERROR,
        render_frame(PUSH_PROMISE, b"\0\0\0\2" + BLOCK, flags=4, stream_id=_id))
dies("8.4 PUSH_PROMISE on an open stream", PROTOCOL_ERROR, OPEN,
    render_frame(PUSH_PROMISE, b"\0\0\0\2" + BLOCK, flags=4, stream_id=1))

# -- 6.7 PING --------------------------------------------------------------------------------------------------------

add("6.7 PING", ping(b"12345678"), pings=(b"12345678",))
add("6.7 PING several times", ping(b"1" * 8), ping(b"2" * 8), ping(b"2" * 8),
    pings=(b"1" * 8, b"2" * 8, b"2" * 8))
add("6.7 PING within a request", OPEN, ping(), data(1, b"a"), ping(), pings=(b"abcdefgh",) * 2)
fine("6.7 an answer to no PING has no answer", ping(flags=ACK), GET)
dies("6.7 PING on a stream", PROTOCOL_ERROR, render_frame(PING, bytes(8), stream_id=1))
dies("6.7 PING on an open stream", PROTOCOL_ERROR, OPEN, render_frame(PING, bytes(8), stream_id=1))
dies("6.7 an answer to PING on a stream", PROTOCOL_ERROR, render_frame(PING, bytes(8), flags=ACK, stream_id=3))
for _size in (0, 6, 7, 9, 16):
    dies(f"6.7 PING of {_size} bytes", FRAME_SIZE_ERROR, ping(bytes(_size)))
dies("6.7 an answer to PING of the wrong length", FRAME_SIZE_ERROR, ping(b"a", ACK))

# -- 6.8 GOAWAY ------------------------------------------------------------------------------------------------------

dies("6.8 GOAWAY on a stream", PROTOCOL_ERROR, render_frame(GOAWAY, bytes(8), stream_id=1))
for _size in (0, 4, 7):
    dies(f"6.8 GOAWAY of {_size} bytes", FRAME_SIZE_ERROR, render_frame(GOAWAY, bytes(_size)))
fine("6.8 open streams finish behind GOAWAY", put(1, b"/echo"), data(1, b"ab"), goaway(), data(1, b"cd", 1),
    content=b"abcd", leaves=True)
fine("6.8 GOAWAY with a text", put(1), goaway(0, 0, b"bye" * 100), data(1, b"", 1), leaves=True)
fine("6.8 GOAWAY with an error", put(1), goaway(0, PROTOCOL_ERROR), data(1, b"", 1), leaves=True)
fine("6.8 GOAWAY with an unknown error", put(1), goaway(LARGEST, 2**32 - 1), data(1, b"", 1), leaves=True)
fine("6.8 GOAWAY twice", put(1), goaway(LARGEST), goaway(0), data(1, b"", 1), leaves=True)
fine("6.8 GOAWAY with the reserved bit", put(1), goaway(RESERVED), data(1, b"", 1), leaves=True)
fine("6.8 window behind GOAWAY", settings((4, 0)), get(1, b"/big"), goaway(), window(1, BIG), acks=1,
    content=b"x" * BIG, leaves=True)
fine("6.8 PING behind GOAWAY", put(1), goaway(), ping(), data(1, b"", 1), pings=(b"abcdefgh",), leaves=True)
dies("6.8 an error behind GOAWAY", PROTOCOL_ERROR, OPEN, goaway(), data(3, b"a"))

# -- 6.9 WINDOW_UPDATE, 5.2 flow control -----------------------------------------------------------------------------

dies("6.9 an empty window update of the connection", PROTOCOL_ERROR, window(0, 0))
dies("6.9 an empty window update of the connection with the reserved bit", PROTOCOL_ERROR, window(0, RESERVED))
resets("6.9 an empty window update of a stream", PROTOCOL_ERROR, OPEN, window(1, 0))
resets("6.9 an empty window update of a half-closed stream", PROTOCOL_ERROR, HELD, window(1, RESERVED))
for _size in (0, 3, 5, 8):
    dies(f"6.9 WINDOW_UPDATE of {_size} bytes", FRAME_SIZE_ERROR, render_frame(WINDOW_UPDATE, bytes(_size)))
dies("6.9 WINDOW_UPDATE of 3 bytes on a stream", FRAME_SIZE_ERROR, OPEN,
    render_frame(WINDOW_UPDATE, b"abc", stream_id=1))
fine("6.9 the reserved bit in the size", settings((4, 0)), get(1, b"/echo"), get(3, b"/big"),
    window(3, RESERVED | BIG), ok=(1, 3), content=None, acks=1)
SHUT = settings((INITIAL_WINDOW_SIZE, 0))
BIG_GET = get(1, b"/big")
add("6.9.1 nothing is sent through a window of 0", SHUT, BIG_GET, partial=((1, 0),), acks=1)
fine("6.9.1 an answer without content needs no window", SHUT, get(1, b"/echo"), acks=1, content=b"")
add("6.9.1 a window of 1", settings((4, 1)), BIG_GET, partial=((1, 1),), acks=1)
add("6.9.1 a window that is opened by 1", SHUT, BIG_GET, window(1, 1), partial=((1, 1),), acks=1)
add("6.9.1 a window that is opened by 1, three times", SHUT, BIG_GET, window(1, 1) * 3, partial=((1, 3),),
    acks=1)
add("6.9.1 a window that is opened before it is needed", SHUT, put(1, b"/big"), window(1, 5), data(1, b"", 1),
    partial=((1, 5),), acks=1)
fine("6.9.1 a window that is opened wide", SHUT, BIG_GET, window(1, 9), window(1, LARGEST - 9), acks=1,
    content=b"x" * BIG)
add("6.9.1 the window of one stream is not that of another", SHUT, BIG_GET, get(3, b"/big"), window(3, 7),
    partial=((1, 0), (3, 7)), acks=1)
add("6.9.1 the window of the connection", BIG_GET, 1, get(3, b"/big"), answers=((1, 200, None),),
    partial=((3, 65535 - BIG),))
fine("6.9.1 the window of the connection is opened", BIG_GET, 1, get(3, b"/big"), window(0, 2 * BIG - 65535),
    ok=(1, 3), content=b"x" * BIG)
add("6.9.1 the connection's window opens no stream's", SHUT, BIG_GET, window(0, 100_000), partial=((1, 0),),
    acks=1)
dies("6.9.1 the connection's window grows too large", FLOW_CONTROL_ERROR, window(0, LARGEST))
dies("6.9.1 the connection's window grows too large by 1", FLOW_CONTROL_ERROR, window(0, LARGEST - 65535),
    window(0, 1))
fine("6.9.1 the largest window of the connection", window(0, LARGEST - 65535), GET)
resets("6.9.1 a stream's window grows too large", FLOW_CONTROL_ERROR, HELD, window(1, LARGEST))
resets("6.9.1 an open stream's window grows too large", FLOW_CONTROL_ERROR, OPEN, window(1, LARGEST))
resets("6.9.1 a stream's window grows too large in steps", FLOW_CONTROL_ERROR, HELD, window(1, LARGEST - 65535),
    window(1, 1), window(1, 1))
resets("6.9.1 a stream whose content waits and whose window grows too large", FLOW_CONTROL_ERROR, BIG_GET, 1,
    get(3, b"/big"), window(3, LARGEST), stream=3, answers=((1, 200, None),))
add("6.9.1 the largest window of a stream", HELD, window(1, LARGEST - 65535))
fine("6.9.2 a larger initial window", SHUT, BIG_GET, settings((4, BIG)), acks=2, content=b"x" * BIG)
add("6.9.2 an initial window of 1 later", SHUT, BIG_GET, settings((4, 1)), partial=((1, 1),), acks=2)
add("6.9.2 an initial window that changes twice", SHUT, BIG_GET, settings((4, 5)), settings((4, 9)),
    partial=((1, 9),), acks=3)
add("6.9.2 a window below zero", settings((4, 3)), BIG_GET, settings((4, 2)), window(1, 1), partial=((1, 3),),
    acks=2)
add("6.9.2 a window below zero that is opened again", settings((4, 3)), BIG_GET, settings((4, 2)), window(1, 2),
    partial=((1, 4),), acks=2)
add("6.9.2 a window far below zero", settings((4, 1000)), BIG_GET, SHUT, window(1, 1001), partial=((1, 1001),),
    acks=2)
add("6.9.2 a window below zero by settings, above by settings", settings((4, 10)), BIG_GET, SHUT,
    settings((4, 11)), partial=((1, 11),), acks=3)
fine("6.9.2 the initial window is not the connection's", settings((4, LARGEST)), BIG_GET, 1, get(3, b"/big"),
    window(0, BIG), ok=(1, 3), content=None, acks=1)
dies("6.9.2 an initial window that makes a stream's too large", FLOW_CONTROL_ERROR, HELD,
    window(1, LARGEST - 65535), settings((4, 65536)))
dies("6.9.2 an initial window that makes an open stream's too large", FLOW_CONTROL_ERROR, OPEN, window(1, 1),
    settings((4, LARGEST)))
fine("6.9.2 an initial window that makes a stream's the largest", SHUT, put(1), window(1, 5),
    settings((4, LARGEST - 5)), data(1, b"", 1), acks=2)
# What overruns a stream's window could end the connection; our windows are wide enough for that stream alone.
WINDOW = 1 << 20
resets("6.9.1 content beyond the window of its stream", FLOW_CONTROL_ERROR, OPEN, data(1, bytes(16384)) * 64,
    data(1, b"a"))
resets("6.9.1 padding beyond the window of its stream", FLOW_CONTROL_ERROR, OPEN, data(1, bytes(16384)) * 64,
    data(1, b"\0", PADDED))
dies("6.9.1 content beyond the window of the connection", FLOW_CONTROL_ERROR, OPEN, data(1, bytes(16384)) * 30,
    limits=Http2Limits(connection_window=65_535))

# -- 7 error codes ---------------------------------------------------------------------------------------------------

fine("7 GOAWAY with an unknown code", put(1), goaway(0, 0xFF), data(1, b"", 1), leaves=True)
add("7 RST_STREAM with an unknown code", OPEN, reset(1, 0xFF))

# -- 8.1 HTTP message framing ----------------------------------------------------------------------------------------

TRAILERS = render_literals((b"x-sum", b"7"))
fine("8.1 trailers behind content", put(1, b"/echo"), data(1, b"ab"), head(1, TRAILERS), content=b"abx-sum=7|")
fine("8.1 trailers without content", put(1, b"/echo"), head(1, TRAILERS), content=b"x-sum=7|")
fine("8.1 trailers of nothing", put(1, b"/echo"), data(1, b"ab"), head(1, b""), content=b"ab")
resets("8.1 trailers that do not end the stream", PROTOCOL_ERROR, put(), data(1, b"a"),
    head(1, TRAILERS, END_HEADERS))
resets("8.1 trailers that do not end the stream, then do", PROTOCOL_ERROR, put(), head(1, TRAILERS, 4),
    head(1, TRAILERS))
resets("8.1 trailers in two frames that do not end the stream", PROTOCOL_ERROR, put(), head(1, TRAILERS[:4], 0),
    rest(1, TRAILERS[4:]))
resets("8.1 a second head on an open stream", PROTOCOL_ERROR, put(), put())
for _name, _field in {
    ":method": (b":method", b"GET"),
    ":path": (b":path", b"/"),
    ":status": (b":status", b"200"),
    ":authority": (b":authority", b"a.example"),
    "an unknown pseudo-header field": (b":a", b"b"),
    "capitals": (b"X-Sum", b"7"),
    "connection": (b"connection", b"close"),
    "transfer-encoding": (b"transfer-encoding", b"chunked"),
    "te": (b"te", b"gzip"),
    "NUL in a value": (b"a", b"b\0"),
    "LF in a value": (b"a", b"b\nc: d"),
    "a blank in a name": (b"a b", b"c"),
    "an empty name": (b"", b"c"),
    "a blank behind a value": (b"a", b"b "),
    "a control byte in a value": (b"a", b"b\x01"),
}.items():
    resets(f"8.1 trailers with {_name}", PROTOCOL_ERROR, put(), data(1, b"a"), head(1, render_literals(_field)))
    resets(f"8.1 trailers with {_name} behind another", PROTOCOL_ERROR, put(),
        head(1, TRAILERS + render_literals(_field)))
fine("8.1 trailers that mean nothing there", put(1, b"/echo"),
    head(1, render_literals((b"content-length", b"9"), (b"host", b"b")) + TRAILERS), content=b"x-sum=7|")

# -- 8.1.1 malformed messages: content-length ------------------------------------------------------------------------

LENGTH = b"content-length"
fine("8.1.1 content of the length announced", put(1, b"/echo", (LENGTH, b"3")), data(1, b"abc", 1),
    content=b"abc")
fine("8.1.1 content of the length announced, in pieces", put(1, b"/echo", (LENGTH, b"3")), data(1, b"a"),
    data(1, b""), data(1, b"bc"), data(1, b"", 1), content=b"abc")
fine("8.1.1 content of the length announced, padded", put(1, b"/echo", (LENGTH, b"3")),
    data(1, b"\x02abc\0\0", 9), content=b"abc")
fine("8.1.1 content of the length announced, and trailers", put(1, b"/echo", (LENGTH, b"3")), data(1, b"abc"),
    head(1, TRAILERS), content=b"abcx-sum=7|")
fine("8.1.1 a length of 0", get(1, b"/", (LENGTH, b"0")))
fine("8.1.1 a length of 0 and an empty end", put(1, b"/", (LENGTH, b"0")), data(1, b"", 1))
resets("8.1.1 less content than announced", PROTOCOL_ERROR, put(1, b"/", (LENGTH, b"3")), data(1, b"ab", 1))
resets("8.1.1 more content than announced", PROTOCOL_ERROR, put(1, b"/", (LENGTH, b"3")), data(1, b"abcd", 1))
resets("8.1.1 no content, announced", PROTOCOL_ERROR, put(1, b"/", (LENGTH, b"3")), data(1, b"", 1))
resets("8.1.1 a length and the end of the stream", PROTOCOL_ERROR, get(1, b"/", (LENGTH, b"3")))
resets("8.1.1 less content in pieces", PROTOCOL_ERROR, put(1, b"/", (LENGTH, b"3")), data(1, b"a"),
    data(1, b"b"), data(1, b"", 1))
resets("8.1.1 more content in pieces", PROTOCOL_ERROR, put(1, b"/", (LENGTH, b"3")), data(1, b"ab"),
    data(1, b"cd"), data(1, b"", 1))
resets("8.1.1 more content than 0", PROTOCOL_ERROR, put(1, b"/", (LENGTH, b"0")), data(1, b"a", 1))
resets("8.1.1 less content than announced, then trailers", PROTOCOL_ERROR, put(1, b"/", (LENGTH, b"3")),
    data(1, b"ab"), head(1, TRAILERS))
resets("8.1.1 padding is no content", PROTOCOL_ERROR, put(1, b"/", (LENGTH, b"3")), data(1, b"\x01ab\0", 9))
for _value in (b"+3", b"-3", b"3.0", b"0x3", b"3, 3", b"3,4", b"a", b"", b"3 3", b"1" * 30):
    resets(f"8.1.1 a length of {_value!r}", PROTOCOL_ERROR, put(1, b"/", (LENGTH, _value)), data(1, b"abc", 1))
resets("8.1.1 two lengths that differ", PROTOCOL_ERROR, put(1, b"/", (LENGTH, b"3"), (LENGTH, b"4")),
    data(1, b"abc", 1))
answered("8.1.1 the same length twice", 400, get(1, b"/", (LENGTH, b"0"), (LENGTH, b"0")))

# -- 8.2 fields ------------------------------------------------------------------------------------------------------

for _name in (b"A", b"aB", b"X-A", b"Content-Length", b"Host", b"Te", b"Cookie"):
    resets(f"8.2.1 field {_name.decode()} with capitals", PROTOCOL_ERROR, get(1, b"/", (_name, b"1")))
for _byte in (*range(0x21), *b'"(),/:;<=>?@[\\]{}', 0x7F, 0x80, 0xC3, 0xFF):
    resets(f"8.2.1 a name with byte {_byte:#x}", PROTOCOL_ERROR, get(1, b"/", (b"a" + bytes((_byte,)), b"1")))
resets("8.2.1 an empty name", PROTOCOL_ERROR, get(1, b"/", (b"", b"1")))
for _value in (
    b"a\0b",
    b"a\nb",
    b"a\rb",
    b"\0",
    b"a\r\nb: c",
    b"a\n",
    b" a",
    b"a ",
    b"\ta",
    b"a\t",
    b" ",
    b"\t",
):
    resets(f"8.2.1 a value of {_value!r}", PROTOCOL_ERROR, get(1, b"/", (b"a", _value)))
fine("8.2.1 odd values that are allowed",
    get(1, b"/fields", (b"a", b""), (b"b", b"a  b\tc"), (b"c", b"\xc3\xa4\xff")),
    content=b"host=a.example|a=|b=a  b\tc|c=\xc3\xa4\xff|")
fine("8.2.1 odd names that are allowed", get(1, b"/fields", (b"!#$%&'*+-.^_`|~09", b"1")),
    content=b"host=a.example|!#$%&'*+-.^_`|~09=1|")
answered("8.2.1 a control byte in a value", 400, get(1, b"/", (b"a", b"b\x01c")))
for _name, _value in (
    (b"connection", b"close"),
    (b"connection", b"keep-alive"),
    (b"keep-alive", b"timeout=5"),
    (b"proxy-connection", b"keep-alive"),
    (b"transfer-encoding", b"chunked"),
    (b"transfer-encoding", b"identity"),
    (b"upgrade", b"h2c"),
    (b"te", b"gzip"),
    (b"te", b"trailers, deflate;q=0.5"),
    (b"te", b""),
):
    resets(f"8.2.2 {_name.decode()}: {_value.decode()}", PROTOCOL_ERROR, get(1, b"/", (_name, _value)))
resets("8.2.2 a connection-specific field and content", PROTOCOL_ERROR, put(1, b"/", (b"connection", b"a")),
    data(1, b"a", 1))
fine("8.2.2 te: trailers", get(1, b"/", (b"te", b"trailers")))
fine("8.2.3 crumbs of a cookie",
    get(1, b"/fields", (b"cookie", b"a=1"), (b"b", b"2"), (b"cookie", b"c=3"), (b"cookie", b"d")),
    content=b"host=a.example|cookie=a=1; c=3; d|b=2|")

# -- 8.3 control data ------------------------------------------------------------------------------------------------

METHOD, SCHEME, PATH, AUTHORITY = PSEUDO = (
    (b":method", b"GET"),
    (b":scheme", b"http"),
    (b":path", b"/"),
    (b":authority", b"a.example"),
)


def malformed(name: str, *fields: Pair) -> None:
    resets(f"8.3 {name}", PROTOCOL_ERROR, head(1, render_literals(*fields)))
    resets(
        f"8.3 {name}, with content",
        PROTOCOL_ERROR,
        head(1, render_literals(*fields), END_HEADERS),
        data(1, b"abc", 1),
    )


for _field in PSEUDO:
    _others = [field for field in PSEUDO if field is not _field]
    _name = _field[0].decode()
    malformed(f"{_name} twice", *PSEUDO, _field)
    malformed(f"{_name} twice, differing", *PSEUDO, (_field[0], _field[1] + b"x"))
    malformed(f"{_name} behind a field", *_others, (b"a", b"b"), _field)
    malformed(f"{_name} behind a field, again", *PSEUDO, (b"a", b"b"), _field)
    malformed(f"{_name} empty", *_others, (_field[0], b""))
    malformed(f"{_name} in capitals", *_others, (_field[0].upper(), _field[1]))
    if _field is not AUTHORITY:
        malformed(f"no {_name}", *_others)
malformed("no pseudo-header field", (b"a", b"b"))
malformed("only :method", METHOD)
malformed("an unknown pseudo-header field", *PSEUDO, (b":a", b"b"))
malformed("an unknown pseudo-header field first", (b":a", b"b"), *PSEUDO)
malformed("a colon alone", *PSEUDO, (b":", b"b"))
malformed(":status", *PSEUDO, (b":status", b"200"))
malformed("a response", (b":status", b"200"))
malformed(":protocol without CONNECT", *PSEUDO, (b":protocol", b"websocket"))
malformed("an extended CONNECT that was not offered", (b":method", b"CONNECT"), *PSEUDO[1:],
    (b":protocol", b"websocket"))
malformed("CONNECT with :path", (b":method", b"CONNECT"), PATH, AUTHORITY)
malformed("CONNECT with :scheme", (b":method", b"CONNECT"), SCHEME, AUTHORITY)
malformed("CONNECT with everything", (b":method", b"CONNECT"), *PSEUDO[1:])
malformed("CONNECT without :authority", (b":method", b"CONNECT"))
malformed("CONNECT without :authority, with host", (b":method", b"CONNECT"), (b"host", b"a"))
# Extended CONNECT (RFC 8441), where it is offered.
EXTENDED = Http2Limits(extended_connect=True)
CONNECT, PROTOCOL = (b":method", b"CONNECT"), (b":protocol", b"websocket")
fine("connect 4 an extended CONNECT", head(1, render_literals(CONNECT, *PSEUDO[1:], PROTOCOL)), limits=EXTENDED)
fine("connect 4 an extended CONNECT and its content", head(1, render_literals(CONNECT, PROTOCOL, SCHEME,
    (b":path", b"/echo"), AUTHORITY), END_HEADERS), data(1, b"abc", 1), content=b"abc", limits=EXTENDED)
for _name, _fields in {
    "without :scheme": (CONNECT, PATH, AUTHORITY, PROTOCOL),
    "without :path": (CONNECT, SCHEME, AUTHORITY, PROTOCOL),
    "with another method": (*PSEUDO, PROTOCOL),
    "without a method": (*PSEUDO[1:], PROTOCOL),
    "with two protocols": (CONNECT, *PSEUDO[1:], PROTOCOL, PROTOCOL),
    "without a name of its protocol": (CONNECT, *PSEUDO[1:], (b":protocol", b"")),
    "with a malformed protocol": (CONNECT, *PSEUDO[1:], (b":protocol", b"a b")),
    "with :protocol behind a field": (CONNECT, *PSEUDO[1:], (b"a", b"b"), PROTOCOL),
    "with upgrade": (CONNECT, *PSEUDO[1:], PROTOCOL, (b"upgrade", b"websocket")),
}.items():
    resets(f"connect 4 an extended CONNECT {_name}", PROTOCOL_ERROR, head(1, render_literals(*_fields)),
        limits=EXTENDED)
answered("8.5 CONNECT", 501,
    head(1, render_literals((b":method", b"CONNECT"), (b":authority", b"a.example:80"))))
for _value in (
    b"a",
    b"a/b",
    b"*",
    b"?a",
    b"/a b",
    b"/a#b",
    b"/\0",
    b"/\xff",
    b"/a\r\nb",
    b"http://a/",
    b"/a\tb",
    b"\\",
):
    malformed(f":path is {_value!r}", METHOD, SCHEME, (b":path", _value), AUTHORITY)
for _value in (b"G T", b"GET ", b"GET\0", b"G\xc3", b"GET /", b"(", b"\r\n"):
    malformed(f":method is {_value!r}", (b":method", _value), SCHEME, PATH, AUTHORITY)
for _value in (b"ht tp", b"1", b"http:", b"\0", b"ht\xfftp", b":"):
    malformed(f":scheme is {_value!r}", METHOD, (b":scheme", _value), PATH, AUTHORITY)
for _value in (b"a b", b"u@a", b"u:p@a", b"a/b", b"a\0", b"a\xff", b"a?b", b"a#b", b"a, b", b"[::1", b"a:b"):
    malformed(f":authority is {_value!r}", METHOD, SCHEME, PATH, (b":authority", _value))
answered("8.3.1 another scheme", 400, head(1, render_literals(METHOD, (b":scheme", b"ftp"), PATH, AUTHORITY)))
answered("8.3.1 host and :authority that differ", 400, get(1, b"/", (b"host", b"b.example")))
answered("8.3.1 neither host nor :authority", 400, head(1, render_literals(METHOD, SCHEME, PATH)))
answered("8.3.1 host twice", 400, get(1, b"/", (b"host", b"a.example"), (b"host", b"a.example")))
fine("8.3.1 host in place of :authority",
    head(1, render_literals(METHOD, SCHEME, (b":path", b"/fields"), (b"host", b"b"))), content=b"host=b|")
fine("8.3.1 host and :authority", get(1, b"/fields", (b"host", b"a.example")), content=b"host=a.example|")
fine("8.3.1 pseudo-header fields in another order", head(1, render_literals(AUTHORITY, PATH, METHOD, SCHEME)))
fine("8.3.1 OPTIONS *", head(1, render_literals((b":method", b"OPTIONS"), SCHEME, (b":path", b"*"), AUTHORITY)))
fine("8.3.1 a method of one's own",
    head(1, render_literals((b":method", b"M-SEARCH"), SCHEME, PATH, AUTHORITY)))
fine("8.3.1 content with GET", head(1, start(b"/echo"), END_HEADERS), data(1, b"abc", 1), content=b"abc")
answered("8.2 an unknown expectation", 417, get(1, b"/", (b"expect", b"miracles")))
add("8.1.1 a malformed request does not harm another", HELD, get(3, b"/", (b"A", b"b")), get(5), reset(1),
    resets=((3, PROTOCOL_ERROR),), answers=((5, 200, b"ok"),))

# -- 10.5 large heads ------------------------------------------------------------------------------------------------

# By references to its table a block says more than it has bytes.
BIG_FIELD = b"\x40\1a" + b"\x7f\xa1\x1e" + b"v" * 4000
REFERENCE = b"\xbe"
answered("10.5 a head above the limit", 431, head(1, BLOCK + BIG_FIELD + REFERENCE * 20))
answered("10.5 too many fields", 431, get(1, b"/", *[(b"a%d" % number, b"") for number in range(100)]))
dies("10.5 a head above twice the limit", ENHANCE_YOUR_CALM, head(1, BLOCK + BIG_FIELD + REFERENCE * 40))
dies("10.5 a bomb", ENHANCE_YOUR_CALM, head(1, BLOCK + BIG_FIELD + REFERENCE * 10_000))
dies("10.5 trailers above twice the limit", ENHANCE_YOUR_CALM, put(), head(1, BIG_FIELD + REFERENCE * 40))

# -- HPACK (RFC 7541) ------------------------------------------------------------------------------------------------


def hpack(name: str, block: bytes, *before: bytes) -> None:
    """Every error in a field block ends the connection (RFC 9113 section 4.3)."""
    dies(f"hpack {name}", COMPRESSION_ERROR, *before, head(1 + 2 * len(before), block))


FIELDS = start(b"/fields")
fine("hpack 2.3.2 a field that was inserted", head(1, FIELDS + b"\x40\1a\1b"), head(3, FIELDS + b"\xbe"),
    ok=(1, 3), content=b"host=a.example|a=b|")
fine("hpack 2.3.2 a field that was inserted is used at once", head(1, FIELDS + b"\x40\1a\1b\xbe"),
    content=b"host=a.example|a=b|a=b|")
fine("hpack 2.3.2 fields of the static table", head(1, b"\x82\x86\x84" + b"\x01\x01a"))
hpack("2.3.3 an index beyond both tables", BLOCK + b"\xbe")
hpack("2.3.3 an index far beyond both tables", BLOCK + b"\xff\xff\x7f")
hpack("2.3.3 the name of an index beyond both tables, inserted", BLOCK + b"\x7e\1b")
hpack("2.3.3 the name of an index beyond both tables", BLOCK + b"\x0f\x2f\1b")
hpack("2.3.3 the name of an index beyond both tables, never indexed", BLOCK + b"\x1f\x2f\1b")
hpack("2.3.3 an index of what was evicted", BLOCK + b"\xbe", head(1, BLOCK + b"\x40\1a\1b"),
    head(3, b"\x20" + BLOCK))
hpack("2.3.3 the second of one entry", BLOCK + b"\xbf", head(1, BLOCK + b"\x40\1a\1b"))
for _size in (0, 1, 30, 4096):
    _code = bytes((0x20 | _size,)) if _size < 31 else b"\x3f\xe1\x1f"
    fine(f"hpack 4.2 the table gets a size of {_size}", head(1, _code + BLOCK))
fine("hpack 4.2 two sizes of the table", head(1, b"\x20\x3f\xe1\x1f" + BLOCK))
fine("hpack 4.2 a size of the table in a later block", GET, head(3, b"\x20" + BLOCK), ok=(1, 3))
fine("hpack 4.2 a size of the table before trailers", put(1, b"/echo"), head(1, b"\x20" + TRAILERS),
    content=b"x-sum=7|")
fine("hpack 4.4 an entry larger than the table empties it", head(1, b"\x3f\x01" + FIELDS + b"\x40\1a\1b"),
    head(3, FIELDS + b"\x40\1a\x1e" + b"v" * 30), ok=(1, 3), content=None)
hpack("4.2 a size of the table behind a field", b"\x82\x20\x86\x84")
hpack("4.2 a size of the table behind all fields", BLOCK + b"\x20")
hpack("4.2 a size of the table between equal blocks", BLOCK + b"\x3f\xe1\x1f", GET)
hpack("6.3 a size of the table above the setting", b"\x3f\xe2\x1f" + BLOCK)
hpack("6.3 a size of the table far above the setting", b"\x3f\xff\xff\xff\xff\x0f" + BLOCK)
hpack("6.3 a size of the table above the setting, in trailers", b"\x3f\xe2\x1f" + TRAILERS, put())
hpack("6.3 a good size of the table, then one above the setting", b"\x20\x3f\xe2\x1f" + BLOCK)
hpack("6.1 index 0", BLOCK + b"\x80")
hpack("6.1 index 0 first", b"\x80" + BLOCK)
hpack("5.1 an integer that does not end", BLOCK + b"\xff\x80\x80")
hpack("5.1 an integer of very many bytes", BLOCK + b"\xff" + b"\x80" * 60 + b"\x01")
hpack("5.1 an integer beyond 2**32", BLOCK + b"\xff\xff\xff\xff\xff\xff\x7f")
hpack("5.1 a string length beyond the block", BLOCK + b"\0\x7f\xff\xff\xff\x7fa\1b")
hpack("5.2 a name that is cut off", BLOCK + b"\0\x05ab")
hpack("5.2 a value that is cut off", BLOCK + b"\0\1a\x05b")
hpack("5.2 no value", BLOCK + b"\0\1a")
hpack("5.2 no name", BLOCK + b"\0")
hpack("5.2 an insertion without a name", BLOCK + b"\x40")
hpack("5.2 Huffman padding of 8 ones", BLOCK + b"\0\1a\x82\x1f\xff")
hpack("5.2 Huffman padding of 16 ones", BLOCK + b"\0\1a\x83\x1f\xff\xff")
hpack("5.2 Huffman padding alone", BLOCK + b"\0\1a\x81\xff")
hpack("5.2 Huffman padding of zeros", BLOCK + b"\0\1a\x81\x18")
hpack("5.2 Huffman padding of mixed bits", BLOCK + b"\0\1a\x81\x1d")
hpack("5.2 EOS in a Huffman string", BLOCK + b"\0\1a\x84\xff\xff\xff\xff")
hpack("5.2 EOS behind a symbol", BLOCK + b"\0\1a\x85\x1f\xff\xff\xff\xff")
hpack("5.2 EOS in a name", BLOCK + b"\0\x84\xff\xff\xff\xff\1a")
hpack("5.2 Huffman padding of 8 ones in a name", BLOCK + b"\0\x82\x1f\xff\1a")
fine("hpack 5.2 a Huffman string with proper padding", head(1, FIELDS + b"\0\1a\x81\x1f"),
    content=b"host=a.example|a=a|")
fine("hpack 5.2 an empty Huffman string", head(1, FIELDS + b"\0\1a\x80"), content=b"host=a.example|a=|")
fine("hpack 6.2 all kinds of literals", head(1, FIELDS + b"\x40\1a\1b\0\1c\1d\x10\1e\1f\x7e\1g\x0f\x2f\1h"),
    content=b"host=a.example|a=b|c=d|e=f|a=g|a=h|")
dies("4.3 an error in the block of a stream too many", COMPRESSION_ERROR, HUNDRED, head(201, b"\x80"))
dies("4.3 an error in a block behind our reset", COMPRESSION_ERROR, RESET, head(1, b"\x80"))
dies("4.3 an error in a block on a half-closed stream", COMPRESSION_ERROR, HELD, head(1, b"\x80"))
dies("4.3 an error in trailers", COMPRESSION_ERROR, put(), head(1, b"\x80"))
dies("4.3 an error in a block of two frames", COMPRESSION_ERROR, head(1, BLOCK, 1), rest(1, b"\x80"))
dies("4.3 a field cut off by the end of its block", COMPRESSION_ERROR, head(1, BLOCK[:-2]))
# The table of a refused or malformed request is that of the next one.
fine("4.3 the table outlives a malformed request", head(1, FIELDS + b"\x40\1A\1b"),
    head(3, FIELDS + b"\x40\1c\1d"), head(5, FIELDS + b"\xbe"), ok=(3, 5), resets=((1, PROTOCOL_ERROR),),
    content=b"host=a.example|c=d|")
for _first, _last in ((HEADER_TABLE_SIZE, 0), (HEADER_TABLE_SIZE, 100), (HEADER_TABLE_SIZE, 2**32 - 1)):
    fine(f"hpack 4.2 our table gets a size of {_last}", GET, 1, settings((_first, _last)), get(3), get(5),
        get(7), ok=(1, 3, 5, 7), acks=1)
fine("hpack 4.2 our table shrinks and grows at once", GET, 1, get(3), 3, settings((1, 0), (1, 4096)), get(5),
    get(7), ok=(1, 3, 5, 7), acks=1)

# -- priorities (RFC 9218) -------------------------------------------------------------------------------------------

for _value in (
    b"u=0",
    b"u=7, i",
    b"i",
    b"",
    b"u=8",
    b"u=-1",
    b"u=a",
    b"x=1",
    b"=",
    b"\0\xff",
    b"u=1" * 100,
    b"u=1, u=2",
):
    fine(f"priority 4 a field of {_value!r}",
        head(1, start(b"/", (b"priority", _value))) if _value and b"\0" not in _value else GET)
    fine(f"priority 7.1 PRIORITY_UPDATE before its stream: {_value!r}", update(1, _value), GET)
    fine(f"priority 7.1 PRIORITY_UPDATE on its stream: {_value!r}", put(), update(1, _value), data(1, b"", 1))
fine("priority 7.1 PRIORITY_UPDATE behind a response", GET, 1, update(1), get(3), ok=(1, 3))
fine("priority 7.1 PRIORITY_UPDATE for a stream that was left out", get(5), update(3), ok=(5,))
fine("priority 7.1 PRIORITY_UPDATE for very many streams",
    b"".join(update(number) for number in range(1, 1000, 2)), GET)
fine("priority 7.1 PRIORITY_UPDATE with the reserved bit", update(RESERVED | 1), GET)
fine("priority 7.1 PRIORITY_UPDATE with flags", render_frame(PRIORITY_UPDATE, b"\0\0\0\1u=2", flags=0xFF), GET)
dies("priority 7.1 PRIORITY_UPDATE on a stream", PROTOCOL_ERROR, update(1, on=1))
dies("priority 7.1 PRIORITY_UPDATE on an open stream", PROTOCOL_ERROR, OPEN, update(1, on=1))
dies("priority 7.1 PRIORITY_UPDATE for no stream", PROTOCOL_ERROR, update(0))
dies("priority 7.1 PRIORITY_UPDATE for a push that was not promised", PROTOCOL_ERROR, update(2))
for _size in (0, 1, 3):
    dies(f"priority 7.1 PRIORITY_UPDATE of {_size} bytes", FRAME_SIZE_ERROR,
        render_frame(PRIORITY_UPDATE, bytes(_size)))
fine("priority 2.1 the tree is not looked at any more", settings((9, 1)), priority(1, 3), GET, acks=1)

# -- several streams -------------------------------------------------------------------------------------------------

add("5 frames of several streams in turns", put(1, b"/echo"), put(3, b"/echo"), data(3, b"3"), get(5),
    data(1, b"1"), data(3, b"3", 1), data(1, b"1", 1),
    answers=((1, 200, b"11"), (3, 200, b"33"), (5, 200, b"ok")))
add("5.4.2 an error of one stream is none of another", put(1, b"/echo"), put(3, b"/echo", (LENGTH, b"1")),
    data(1, b"1"), data(3, b"33"), data(1, b"1", 1), answers=((1, 200, b"11"),), resets=((3, PROTOCOL_ERROR),))
fine("5 one hundred streams", b"".join(get(number) for number in range(1, 200, 2)), ok=tuple(range(1, 200, 2)))
fine("5.1.1 the last stream of all", put(LARGEST), goaway(), data(LARGEST, b"", 1), ok=(LARGEST,), leaves=True)
