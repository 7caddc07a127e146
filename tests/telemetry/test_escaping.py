from __future__ import annotations

import re

from trioserve.telemetry.escaping import Memo, escape_bytes, escape_text


def test_clean_bytes_are_decoded_as_they_are():
    clean = bytes(byte for byte in range(0x20, 0x7F) if byte not in b'"\\')
    assert escape_bytes(clean) == clean.decode("ascii")
    assert escape_bytes(b"") == ""


def test_every_other_byte_is_spelled_and_can_be_read_back():
    everything = bytes(range(256))
    escaped = escape_bytes(everything)
    assert escaped.isascii()
    assert escaped.isprintable()
    assert '"' not in escaped
    assert re.sub(rb"\\x(..)", lambda found: bytes([int(found[1], 16)]), escaped.encode()) == everything


def test_each_unclean_byte_alone_is_seen():
    for byte in [*range(0x20), 0x22, 0x5C, *range(0x7F, 0x100)]:
        assert escape_bytes(b"ok" + bytes([byte])) == f"ok\\x{byte:02x}"


def test_text_is_escaped_by_its_utf8_bytes():
    assert escape_text("n\u00e9\n") == "n\\xc3\\xa9\\x0a"
    assert escape_text("\ud800") == "\\xed\\xa0\\x80"


def test_a_memo_renders_once_and_stays_bounded():
    rendered: list[bytes] = []

    def render(value: bytes) -> str:
        rendered.append(value)
        return value.decode()

    memo = Memo(render, capacity=4, longest=8)
    assert [memo[b"a"], memo[b"a"]] == ["a", "a"]
    assert rendered == [b"a"]
    for number in range(100):
        assert memo[b"%d" % number] == str(number)
    assert len(memo) <= 4
    before = len(memo)
    assert memo[b"123456789"] == "123456789"
    assert len(memo) == before
