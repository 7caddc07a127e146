from __future__ import annotations

import struct
import zlib

from trioserve.protocols.websocket.events import Deflate, WebSocketLimits
from trioserve.testing.websocket_checks import (
    BINARY,
    CLOSE,
    CONTINUATION,
    DEFLATED,
    FIN,
    PING,
    PONG_FRAME,
    TEXT,
    WebSocketRow,
    close_frame,
    frame,
)

SMALL = WebSocketLimits(max_message_size=1000, max_fragments=4)
FORGETFUL = Deflate()
KEEPING = Deflate(client_no_takeover=False)


def text(payload: bytes, **options: bytes | None) -> bytes:
    return frame(FIN | TEXT, payload, **options)


def deflated(data: bytes) -> bytes:
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (stream.compress(data) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]


def row(name: str, raw: bytes, *messages: str | bytes, **rest: object) -> WebSocketRow:
    return WebSocketRow(name, raw, messages, **rest)  # type: ignore[arg-type]


def broken(name: str, raw: bytes, end: int, *messages: str | bytes, **rest: object) -> WebSocketRow:
    return WebSocketRow(name, raw, messages, end, failed=True, **rest)  # type: ignore[arg-type]


def packed(bits: str) -> bytes:
    """Bits in the order in which deflate has them (RFC 1951 section 3.1.1)."""
    return bytes(int(bits[index : index + 8][::-1], 2) for index in range(0, len(bits), 8))


# A literal zero, eight copies of 258 zeros, and a literal zero whose last three bits the end of the message adds.
CUT_LITERAL = packed("010" + "00110000" + "1100010100000" * 8 + "00110")
HELLO = bytes.fromhex("f248cdc9c90700")
BOMB = deflated(bytes(60_000_000))

MESSAGES = [
    row("a text", text(b"Hello"), "Hello"),
    row("a text without a byte", text(b""), ""),
    row("a binary without a byte", frame(FIN | BINARY), b""),
    row("a text under a mask of zeros", text(b"Hello", key=bytes(4)), "Hello"),
    row("the longest one-byte length", frame(FIN | BINARY, b"x" * 125), b"x" * 125),
    row("the shortest two-byte length", text(b"x" * 126), "x" * 126),
    row(
        "a payload unmasked by tables",
        frame(FIN | BINARY, bytes(range(256)) * 3 + b"odd"),
        bytes(range(256)) * 3 + b"odd",
    ),
    row("the longest two-byte length", frame(FIN | BINARY, b"x" * 65535), b"x" * 65535),
    row("the shortest eight-byte length", frame(FIN | BINARY, b"x" * 65536), b"x" * 65536),
    row("two messages", text(b"a") + frame(FIN | BINARY, b"b"), "a", b"b"),
    row(
        "all widths of UTF-8",
        text("h\u00e9\u20ac\U0001f600\U0010ffff\ud7ff\ue000\x00".encode()),
        "h\u00e9\u20ac\U0001f600\U0010ffff\ud7ff\ue000\x00",
    ),
    row("fragments", frame(TEXT, b"a") + frame(CONTINUATION, b"b") + frame(FIN | CONTINUATION, b"c"), "abc"),
    row("fragments of nothing", frame(BINARY) + frame(CONTINUATION) + frame(FIN | CONTINUATION), b""),
    row(
        "a message after fragments",
        frame(TEXT, b"a") + frame(FIN | CONTINUATION, b"b") + text(b"c"),
        "ab",
        "c",
    ),
    row(
        "a character over fragments",
        frame(TEXT, b"\xf0\x9f") + frame(CONTINUATION, b"\x98") + frame(FIN | CONTINUATION, b"\x80"),
        "\U0001f600",
    ),
    row(
        "a ping inside of a message",
        frame(TEXT, b"a") + frame(FIN | PING, b"?") + frame(FIN | CONTINUATION, b"b"),
        "ab",
        pongs=(b"?",),
    ),
    row("as large as allowed", frame(FIN | BINARY, b"x" * 1000), b"x" * 1000, limits=SMALL),
    row(
        "as many fragments as allowed",
        frame(TEXT, b"a") + frame(CONTINUATION) * 2 + frame(FIN | CONTINUATION),
        "a",
        limits=SMALL,
    ),
    row(
        "fragments that carry something are bounded by the size of the message",
        frame(BINARY, b"x" * 64) + frame(CONTINUATION, b"x" * 64) * 13 + frame(FIN | CONTINUATION),
        b"x" * 896,
        limits=SMALL,
    ),
    row(
        "each message counts alone",
        (frame(BINARY, b"x" * 900) + frame(FIN | CONTINUATION, b"x" * 100)) * 2,
        b"x" * 1000,
        b"x" * 1000,
        limits=SMALL,
    ),
]

CONTROL = [
    row("a ping", frame(FIN | PING, b"abc"), pongs=(b"abc",)),
    row("a ping without payload", frame(FIN | PING), pongs=(b"",)),
    row("the longest ping", frame(FIN | PING, b"x" * 125), pongs=(b"x" * 125,)),
    row("two pings", frame(FIN | PING, b"1") + frame(FIN | PING, b"2"), pongs=(b"1", b"2")),
    row("a pong that nobody asked for", frame(FIN | PONG_FRAME, b"abc") + text(b"x"), "x"),
    row("a ping, then the end", frame(FIN | PING, b"1") + close_frame(1000), end=1000, pongs=(b"1",)),
    row("a close without code", frame(FIN | CLOSE), end=1005),
    row("a close with a reason", close_frame(1000, "good b\u00e9".encode()), end=1000, reason="good b\u00e9"),
    row("the longest reason", close_frame(1000, b"x" * 123), end=1000, reason="x" * 123),
    row("close code 1014 with a reason", close_frame(1014, b"why"), end=1014, reason="why"),
    broken("close code 1014 with a bad reason", close_frame(1014, b"\xff"), 1007),
    row(
        "nothing behind a close is read",
        text(b"a") + close_frame(1001) + text(b"b") + b"\xff\xff",
        "a",
        end=1001,
    ),
    row("a close inside of a message", frame(TEXT, b"a") + close_frame(1000), end=1000),
    *(
        row(f"close code {code}", close_frame(code), end=code)
        for code in (
            1000,
            1001,
            1002,
            1003,
            1007,
            1008,
            1009,
            1010,
            1011,
            1012,
            1013,
            1014,
            3000,
            3999,
            4000,
            4999,
        )
    ),
]

COMPRESSED = [  # most of them from RFC 7692 section 7.2.3
    row("one block", frame(FIN | DEFLATED | TEXT, HELLO), "Hello", deflate=FORGETFUL),
    row("a binary", frame(FIN | DEFLATED | BINARY, HELLO), b"Hello", deflate=FORGETFUL),
    row("twice, forgetting", frame(FIN | DEFLATED | TEXT, HELLO) * 2, "Hello", "Hello", deflate=FORGETFUL),
    row(
        "twice, with the window kept",
        frame(FIN | DEFLATED | TEXT, HELLO) + frame(FIN | DEFLATED | TEXT, bytes.fromhex("f200110000")),
        "Hello",
        "Hello",
        deflate=KEEPING,
    ),
    row(
        "in two frames",
        frame(DEFLATED | TEXT, HELLO[:3]) + frame(FIN | CONTINUATION, HELLO[3:]),
        "Hello",
        deflate=FORGETFUL,
    ),
    row(
        "in frames of nothing",
        frame(DEFLATED | TEXT) + frame(CONTINUATION, HELLO) + frame(FIN | CONTINUATION),
        "Hello",
        deflate=FORGETFUL,
    ),
    row(
        "a ping inside",
        frame(DEFLATED | TEXT, HELLO[:3]) + frame(FIN | PING, b"?") + frame(FIN | CONTINUATION, HELLO[3:]),
        "Hello",
        deflate=FORGETFUL,
        pongs=(b"?",),
    ),
    row(
        "a block without compression",
        frame(FIN | DEFLATED | TEXT, bytes.fromhex("000500faff48656c6c6f00")),
        "Hello",
        deflate=FORGETFUL,
    ),
    row(
        "a final block",
        frame(FIN | DEFLATED | TEXT, bytes.fromhex("f348cdc9c9070000")),
        "Hello",
        deflate=FORGETFUL,
    ),
    row(
        "two final blocks",
        frame(FIN | DEFLATED | TEXT, bytes.fromhex("f348cdc9c90700") * 2 + b"\0"),
        "HelloHello",
        deflate=FORGETFUL,
    ),
    row(
        "a message after a final block",
        frame(FIN | DEFLATED | TEXT, bytes.fromhex("f348cdc9c9070000")) + frame(FIN | DEFLATED | TEXT, HELLO),
        "Hello",
        "Hello",
        deflate=KEEPING,
    ),
    row(
        "two blocks",
        frame(FIN | DEFLATED | TEXT, bytes.fromhex("f24805000000ffffcac9c90700")),
        "Hello",
        deflate=FORGETFUL,
    ),
    row("an empty message", frame(FIN | DEFLATED | TEXT, b"\0"), "", deflate=FORGETFUL),
    row("an empty message in no byte", frame(FIN | DEFLATED | TEXT), "", deflate=FORGETFUL),
    row(
        "not compressed",
        text(b"Hello") + frame(FIN | DEFLATED | TEXT, HELLO),
        "Hello",
        "Hello",
        deflate=FORGETFUL,
    ),
    row(
        "longer than the limit, inflated to less",
        frame(FIN | DEFLATED | BINARY, b"\0\0\0\xff\xff" * 220 + HELLO),
        b"Hello",
        deflate=FORGETFUL,
        limits=SMALL,
    ),
    row(
        "inflated to all that is allowed",
        frame(FIN | DEFLATED | BINARY, deflated(bytes(1000))),
        bytes(1000),
        deflate=FORGETFUL,
        limits=SMALL,
    ),
    row(
        "the same in two frames",
        frame(DEFLATED | BINARY, deflated(bytes(1000))[:5])
        + frame(FIN | CONTINUATION, deflated(bytes(1000))[5:]),
        bytes(1000),
        deflate=FORGETFUL,
        limits=SMALL,
    ),
]

BROKEN = [
    *(
        broken(f"reserved bits {bits:#x} on {first:#x}", bytes((first | bits, 0x85)), 1002)
        for bits in (0x40, 0x20, 0x10, 0x70)
        for first in (FIN | TEXT, FIN | BINARY, TEXT, FIN | PING, FIN | PONG_FRAME, FIN | CLOSE)
    ),
    *(
        broken(f"opcode {code:#x}", bytes((FIN | code, 0x80)), 1002)
        for code in (*range(3, 8), *range(11, 16))
    ),
    broken("reserved bits behind a message", text(b"a") + b"\xa1\x81", 1002, "a"),
    broken("an unmasked frame", b"\x81\x05Hello", 1002, known_after=2),
    broken("an unmasked close", b"\x88\x00", 1002),
    broken("a fragmented ping", b"\x09\x80", 1002),
    broken("a fragmented close", b"\x08\x80", 1002),
    broken("a long ping", b"\x89\xfe", 1002),
    broken("a very long close", b"\x88\xff", 1002),
    broken("a continuation of nothing", b"\x80\x80", 1002),
    broken("a continuation after a message", text(b"a") + b"\x00\x80", 1002, "a"),
    broken("a text inside of a message", frame(TEXT, b"a") + b"\x81\x80", 1002),
    broken("a binary inside of a message", frame(TEXT, b"a") + b"\x02\x80", 1002),
    broken("two bytes for a length of one", b"\x81\xfe\x00\x7d" + bytes(4), 1002, known_after=4),
    broken(
        "eight bytes for a length of two",
        b"\x82\xff" + struct.pack("!Q", 65535) + bytes(4),
        1002,
        known_after=10,
    ),
    broken("a length of 64 bits", b"\x82\xff" + struct.pack("!Q", 1 << 63) + bytes(4), 1002, known_after=10),
    broken("a close of one byte", frame(FIN | CLOSE, b"\x03"), 1002),
    broken("a reason that is not UTF-8", close_frame(1000, b"\xc3"), 1007),
    *(
        broken(f"close code {code}", close_frame(code), 1002)
        for code in (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
    ),
]

BAD_TEXT = [
    broken("a byte that UTF-8 has not", text(b"ab\xffcd"), 1007, known_after=9),
    broken("a surrogate", text(b"a\xed\xa0\x80bc"), 1007, known_after=9),
    broken(
        "a surrogate cut by a frame",
        frame(TEXT, b"a\xed\xa0") + frame(FIN | CONTINUATION, b"\x80"),
        1007,
        known_after=9,
    ),
    row(
        "what is nearly a surrogate", frame(TEXT, b"\xed\x9f") + frame(FIN | CONTINUATION, b"\xbf"), "\ud7ff"
    ),
    row(
        "the bytes of a surrogate",
        frame(BINARY, b"\xed\xa0") + frame(FIN | CONTINUATION, b"\x80"),
        b"\xed\xa0\x80",
    ),
    broken("an overlong character", text(b"\xc0\xaf"), 1007, known_after=7),
    broken("behind the last character", text(b"\xf4\x90\x80\x80"), 1007, known_after=8),
    broken("half a character", text(b"ab\xe2\x82"), 1007),
    broken(
        "half a character and the rest of another",
        frame(TEXT, b"\xe2\x82") + frame(FIN | CONTINUATION, b"a"),
        1007,
    ),
    broken(
        "bad in the second fragment",
        frame(TEXT, b"a") + frame(CONTINUATION, b"b\xff") + frame(FIN | CONTINUATION),
        1007,
        known_after=15,
    ),
    broken("bad in a frame that never ends", frame(TEXT, b"a\xffb", size=5000), 1007, known_after=10),
    broken("bad in a long frame", text(b"x" * 300 + b"\xff" + b"x" * 300), 1007, known_after=309),
    broken("bad behind a message", text(b"a") + text(b"\xff"), 1007, "a"),
    broken(
        "bad when inflated",
        frame(FIN | DEFLATED | TEXT, deflated(b"\xff")),
        1007,
        deflate=FORGETFUL,
        known_after=8,
    ),
    row("bad as text, good as binary", frame(FIN | BINARY, b"\xff"), b"\xff"),
]

TOO_MUCH = [
    broken(
        "a frame that is too large", frame(FIN | BINARY, b"x", size=1001), 1009, limits=SMALL, known_after=4
    ),
    broken(
        "a whole frame that is too large", frame(FIN | TEXT, b"x" * 1001), 1009, limits=SMALL, known_after=4
    ),
    broken(
        "a frame that nobody could hold", frame(FIN | BINARY, b"", size=(1 << 63) - 1), 1009, known_after=10
    ),
    broken(
        "fragments that are too large together",
        frame(BINARY, b"x" * 900) + frame(FIN | CONTINUATION, b"x" * 101),
        1009,
        limits=SMALL,
        known_after=910,
    ),
    broken(
        "too many fragments",
        frame(TEXT, b"a") + frame(CONTINUATION, b"b") * 3 + frame(FIN | CONTINUATION),
        1009,
        limits=SMALL,
        known_after=7 * 4 + 2,
    ),
    broken(
        "too many fragments that carry hardly anything",
        frame(BINARY, b"x" * 64) + frame(CONTINUATION, b"x" * 63) * 4 + frame(CONTINUATION, b"x" * 63),
        1009,
        limits=SMALL,
        known_after=70 + 4 * 69 + 2,
    ),
    broken(
        "too many fragments of nothing",
        frame(TEXT) + frame(CONTINUATION) * 9,
        1009,
        limits=SMALL,
        known_after=6 * 4 + 2,
    ),
    broken(
        "a bomb",
        frame(FIN | DEFLATED | BINARY, BOMB[:2000]),
        1009,
        limits=SMALL,
        deflate=FORGETFUL,
        known_after=8 + 15,
    ),
    broken(
        "one byte too many, inflated",
        frame(FIN | DEFLATED | BINARY, deflated(bytes(1001))),
        1009,
        limits=SMALL,
        deflate=FORGETFUL,
        known_after=16,
    ),
    broken(
        "too large together, inflated",
        frame(DEFLATED | BINARY, deflated(bytes(600)) + b"\0\0\xff\xff")
        + frame(FIN | CONTINUATION, deflated(bytes(600))),
        1009,
        limits=SMALL,
        deflate=FORGETFUL,
        known_after=31,
    ),
    broken(
        "blocks of nothing without an end",
        frame(FIN | DEFLATED | BINARY, b"\0\0\0\xff\xff" * 605),
        1009,
        limits=SMALL,
        deflate=FORGETFUL,
        known_after=4,
    ),
]

BAD_DEFLATE = [
    broken(
        "no deflate stream",
        frame(FIN | DEFLATED | TEXT, b"\xff\xff\xff"),
        1007,
        deflate=FORGETFUL,
        known_after=7,
    ),
    broken(
        "a distance out of the window",
        frame(FIN | DEFLATED | TEXT, bytes.fromhex("f200110000")),
        1007,
        deflate=FORGETFUL,
        known_after=9,
    ),
    broken(
        "a stream after a stream",
        frame(FIN | DEFLATED | BINARY, b"\x03\x00" * 40),
        1007,
        deflate=FORGETFUL,
        known_after=39,
    ),
    broken("compressed where nothing was agreed on", b"\xc1\x85", 1002),
    broken(
        "a continuation that says it is compressed",
        frame(DEFLATED | TEXT, HELLO[:3]) + b"\xc0\x80",
        1002,
        deflate=FORGETFUL,
    ),
    broken("a ping that says it is compressed", b"\xc9\x80", 1002, deflate=FORGETFUL),
    broken("another reserved bit", b"\xa1\x80", 1002, deflate=FORGETFUL),
    broken("both reserved bits", b"\xe1\x80", 1002, deflate=FORGETFUL),
]

REMEMBERED = [  # what an earlier frame, or a part of one, must not change
    row("a key that looks like a frame", text(b"ab", key=b"\x80\x01\x02\x03"), "ab"),
    row(
        "each message has its fragments",
        (frame(TEXT, b"a") + frame(CONTINUATION) * 2 + frame(FIN | CONTINUATION, b"b")) * 3,
        "ab",
        "ab",
        "ab",
        limits=SMALL,
    ),
    broken("two bytes for a short length that is there", b"\x81\xfe\x00\x02" + bytes(6), 1002, known_after=4),
    broken("a long ping that is there", b"\x89\xfe\x00\x7e" + bytes(130), 1002, known_after=2),
    broken(
        "a window that was forgotten",
        frame(FIN | DEFLATED | TEXT, HELLO) + frame(FIN | DEFLATED | TEXT, bytes.fromhex("f200110000")),
        1007,
        "Hello",
        deflate=FORGETFUL,
        known_after=22,
    ),
    broken(
        "one byte too many, from the end of a message",
        frame(FIN | DEFLATED | BINARY, b"\x62\x60"),
        1009,
        limits=WebSocketLimits(max_message_size=1),
        deflate=FORGETFUL,
    ),
    broken(
        "one byte too many, from the end of a short message",
        frame(FIN | DEFLATED | BINARY, CUT_LITERAL),
        1009,
        limits=WebSocketLimits(max_message_size=2065),
        deflate=FORGETFUL,
    ),
    row(
        "the same where it is allowed",
        frame(FIN | DEFLATED | BINARY, CUT_LITERAL),
        bytes(2066),
        limits=WebSocketLimits(max_message_size=2066),
        deflate=FORGETFUL,
    ),
    row(
        "a byte from the end of a message",
        frame(FIN | DEFLATED | BINARY, b"\x62\x60"),
        b"\0\0",
        limits=WebSocketLimits(max_message_size=2),
        deflate=FORGETFUL,
    ),
]

ROWS = [*REMEMBERED, *MESSAGES, *CONTROL, *COMPRESSED, *BROKEN, *BAD_TEXT, *TOO_MUCH, *BAD_DEFLATE]
