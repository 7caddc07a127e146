from __future__ import annotations

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import pytest
from hpack import (
    Decoder,
    Encoder,
    HPACKDecodingError,
    HPACKError,
    InvalidTableIndexError,
    InvalidTableSizeError,
    NeverIndexedHeaderTuple,
    OversizedHeaderListError,
)
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.huffman_table import decode_huffman
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trioserve.protocols.http2 import field_codec
from trioserve.protocols.http2.field_codec import FieldDecoder, FieldEncoder

HEAD = [
    (b":status", b"200"),
    (b"content-type", b"text/plain"),
    (b"content-length", b"13"),
    (b"date", b"Mon, 23 Nov 2026 18:09:12 GMT"),
    (b"server", b"trioserve"),
]
REQUEST = [
    (b":method", b"GET"),
    (b":path", b"/"),
    (b":scheme", b"https"),
    (b":authority", b"example.org"),
    (b"user-agent", b"probe/1"),
]


def decoded(decoder: FieldDecoder, block: bytes) -> list[tuple[bytes, bytes]]:
    assert decoder.decode(block, raw=True) == ()
    return decoder.fields


def understood(decoder: Decoder, block: bytes) -> list[tuple[bytes, bytes]]:
    return [tuple(field) for field in decoder.decode(block, raw=True)]


def list_size(fields: list[tuple[bytes, bytes]]) -> int:
    return sum(32 + len(name) + len(value) for name, value in fields)


names = st.sampled_from(
    [
        b":status",
        b"content-type",
        b"server",
        b"date",
        b"etag",
        b"set-cookie",
        b"cache-control",
        b"x",
        b"x-long-name",
    ]
) | st.binary(min_size=1, max_size=20)
values = (
    st.sampled_from([b"", b"200", b"404", b"418", b"text/html", b"a" * 127, b"b" * 128, b"\xff" * 130])
    | st.binary(max_size=40)
    | st.integers(120, 1300).map(lambda size: b"v" * size)
)
field_lists = st.lists(st.tuples(names, values), max_size=12)
table_sizes = st.sampled_from([0, 1, 33, 64, 100, 500, 4095, 4096, 4097, 65536])


# The decoder


@given(st.lists(field_lists | table_sizes.map(lambda size: min(size, 4096)), max_size=12))
@settings(max_examples=150, deadline=None)
def test_decoder_understands_what_another_encoder_says(steps):
    encoder, decoder = Encoder(), FieldDecoder(1 << 20)
    for step in steps:
        if isinstance(step, int):
            if step != encoder.header_table_size:  # hpack's encoder forgets a change that is said twice
                encoder.header_table_size = step
            continue
        for _ in range(3):  # the third time from the memo, if the block allows it
            block = encoder.encode(step)
            assert decoded(decoder, block) == step
            assert decoder.size == list_size(step)


@given(st.lists(st.binary(max_size=40), max_size=6))
@settings(max_examples=400, deadline=None)
def test_decoder_agrees_with_hpack_about_any_bytes(blocks):
    ours, theirs = FieldDecoder(4000), Decoder(4000)
    for block in blocks:
        try:
            expected = understood(theirs, block)
        except HPACKError:
            with pytest.raises(HPACKError):
                ours.decode(block, raw=True)
            assert ours.fields == []
            return
        assert decoded(ours, block) == expected
        assert ours.header_table.dynamic_entries == theirs.header_table.dynamic_entries


@given(
    st.lists(
        st.sampled_from([0x3F, 0x20, 0x1F, 0x7F, 0xFF, 0xBE, 0xBF, 0x41, 0x00, 0x10, 0x01, 0x82, 0x80, 0xE1]),
        max_size=24,
    )
)
@settings(max_examples=400, deadline=None)
def test_decoder_agrees_with_hpack_about_the_bytes_with_a_meaning(block):
    ours, theirs = FieldDecoder(), Decoder()
    first = Encoder().encode(REQUEST)
    assert decoded(ours, first) == understood(theirs, first)
    try:
        expected = understood(theirs, bytes(block))
    except HPACKError:
        with pytest.raises(HPACKError):
            ours.decode(bytes(block), raw=True)
    else:
        assert decoded(ours, bytes(block)) == expected


def test_decoder_answers_a_repeated_block_with_a_fresh_list():
    encoder, decoder = Encoder(), FieldDecoder()
    decoder.decode(encoder.encode(REQUEST))
    block = encoder.encode(REQUEST)
    assert min(block) > 0x80
    decoder.decode(block)
    taken = decoder.fields
    taken.clear()
    assert decoded(decoder, block) == REQUEST
    decoder.fields.append((b"x", b"y"))
    assert decoded(decoder, block) == REQUEST
    assert decoder.size == list_size(REQUEST)


def test_decoder_does_not_answer_from_memory_after_an_insertion():
    decoder = FieldDecoder()
    decoder.decode(b"\x40\x01a\x011")
    assert decoded(decoder, b"\xbe") == [(b"a", b"1")]
    assert decoded(decoder, b"\xbe") == [(b"a", b"1")]
    assert decoded(decoder, b"\x40\x01b\x012") == [(b"b", b"2")]
    assert decoded(decoder, b"\xbe") == [(b"b", b"2")]
    assert decoded(decoder, b"\xbf") == [(b"a", b"1")]


def test_decoder_remembers_no_block_that_inserts():
    decoder = FieldDecoder()
    block = b"\x40\x01a\x011"
    for _ in range(3):
        assert decoded(decoder, block) == [(b"a", b"1")]
    assert len(decoder.header_table.dynamic_entries) == 3


def test_decoder_does_not_answer_from_memory_after_the_table_shrank():
    decoder = FieldDecoder()
    decoder.decode(b"\x40\x01a\x011")
    decoder.decode(b"\xbe")
    assert decoded(decoder, b"\x20\x82") == [(b":method", b"GET")]
    with pytest.raises(InvalidTableIndexError):
        decoder.decode(b"\xbe")


def test_decoder_does_not_answer_from_memory_after_a_block_that_failed():
    decoder = FieldDecoder()
    decoder.decode(b"\x40\x01a\x011")
    decoder.decode(b"\xbe")
    with pytest.raises(HPACKDecodingError):
        decoder.decode(b"\x40\x01b\x012\x80")  # inserts, then fails
    assert decoded(decoder, b"\xbe") == [(b"b", b"2")]


def test_decoder_remembers_blocks_with_literals_that_are_not_inserted():
    decoder = FieldDecoder()
    block = b"\x82\x04\x06/index\x10\x01a\x011"
    expected = [(b":method", b"GET"), (b":path", b"/index"), (b"a", b"1")]
    assert decoded(decoder, block) == expected
    assert block in decoder._memo
    assert decoded(decoder, block) == expected


def test_decoder_that_lowers_its_limits_obeys_them_for_remembered_blocks():
    decoder = FieldDecoder()
    block = b"\x82\x84\x87"
    decoder.decode(block)
    decoder.max_header_list_size = decoder.size
    assert len(decoded(decoder, block)) == 3
    decoder.max_header_list_size -= 1
    with pytest.raises(OversizedHeaderListError):
        decoder.decode(block)
    assert decoder.fields == []


def test_decoder_insists_on_a_smaller_table_for_remembered_blocks():
    decoder = FieldDecoder()
    decoder.decode(b"\x82")
    decoder.max_allowed_table_size = 100
    with pytest.raises(InvalidTableSizeError):
        decoder.decode(b"\x82")
    assert decoded(decoder, b"\x3f\x45\x82") == [(b":method", b"GET")]
    assert decoded(decoder, b"\x82") == [(b":method", b"GET")]


def test_decoder_refuses_a_table_larger_than_allowed():
    decoder = FieldDecoder()
    with pytest.raises(InvalidTableSizeError):
        decoder.decode(b"\x3f\xe2\x1f")  # 4097
    with pytest.raises(InvalidTableSizeError):
        FieldDecoder().decode(b"\x3f\xe2\x1f\x20")  # and then 0


def test_decoder_refuses_an_integer_of_too_many_bytes_even_if_it_is_small():
    for zeros in (1, 4):
        block = b"\x00\x01a\x7f" + b"\x80" * zeros + b"\x00" + b"v" * 127
        assert decoded(FieldDecoder(), block) == [(b"a", b"v" * 127)]
    with pytest.raises(HPACKDecodingError):
        FieldDecoder().decode(b"\x00\x01a\x7f" + b"\x80" * 5 + b"\x00" + b"v" * 127)


@pytest.mark.parametrize(
    "block",
    [
        b"\x80",
        b"\xbe",
        b"\xff",
        b"\xff\x80",
        b"\xff\xff\xff\xff\xff\xff\x01",
        b"\x7e\x00",
        b"\x40",
        b"\x00\x01",
        b"\x00\x01a",
        b"\x00\x01a\x05b",
        b"\x00\x7f",
        b"\x00\x01a\x7f\xff\xff\xff\xff\x0f",
        b"\x00\x81\xff\x00",
        b"\x00\x01a\x84\xff\xff\xff\xff",
        b"\x82\x20",
        b"\x3f",
    ],
)
def test_decoder_fails_where_hpack_fails(block):
    with pytest.raises(HPACKError) as theirs:
        Decoder().decode(block, raw=True)
    with pytest.raises(type(theirs.value)):
        FieldDecoder().decode(block, raw=True)


def test_decoder_reads_long_values():
    decoder = FieldDecoder(1 << 20)
    for size in (126, 127, 128, 254, 255, 16384, 70000):
        fields = [(b"x", b"\x00" * size), (b"y" * size, b"")]
        for huffman in (False, size < 20000):  # hpack's code takes quadratic time
            assert decoded(decoder, Encoder().encode(fields, huffman=huffman)) == fields


def test_decoder_refuses_one_entry_that_is_referenced_many_times():
    decoder = FieldDecoder(65536)
    decoder.decode(b"\x40\x01a" + field_codec._integer(0, 0x7F, 4000) + b"v" * 4000)
    block = b"\xbe" * 16
    assert len(decoded(decoder, block)) == 16
    for _ in range(2):
        with pytest.raises(OversizedHeaderListError):
            decoder.decode(b"\xbe" * 10000)
    assert decoder.fields == []
    assert decoded(decoder, block)[15] == (b"a", b"v" * 4000)
    assert sum(size for _, size in decoder._memo.values()) <= field_codec.MEMO_SIZE


def test_decoder_remembers_a_bounded_number_of_bytes():
    decoder = FieldDecoder()
    for number in range(40):
        value = b"/%02d" % number + b"x" * 1000
        block = b"\x04" + field_codec._integer(0, 0x7F, len(value)) + value
        assert decoded(decoder, block) == [(b":path", value)]
        assert 0 < sum(size for _, size in decoder._memo.values()) <= field_codec.MEMO_SIZE
    decoder.decode(b"\x04" + field_codec._integer(0, 0x7F, 40000) + b"x" * 40000)
    assert not decoder._memo


def test_decoder_refuses_a_block_larger_than_its_limit_before_it_looks_at_it():
    decoder = FieldDecoder(1000)
    with pytest.raises(OversizedHeaderListError):
        decoder.decode(b"\x20" * 1001)
    assert decoder.header_table_size == 4096


def test_decoder_remembers_a_bounded_number_of_blocks():
    decoder = FieldDecoder()
    most = largest = 0
    for number in range(2000):
        value = b"/%d" % number + b"x" * (number % 120)
        fields = [(b":method", b"GET"), (b":path", value)]
        assert decoded(decoder, b"\x82\x04" + bytes([len(value)]) + value) == fields
        most = max(most, len(decoder._memo))
        largest = max(largest, sum(size for _, size in decoder._memo.values()))
        assert decoder._memo_size == sum(size for _, size in decoder._memo.values())
    assert 1 < most <= field_codec.MEMO_BLOCKS
    assert largest <= field_codec.MEMO_SIZE


huffman_codes = st.lists(st.sampled_from(range(256)), max_size=12).map(lambda text: _huffman(bytes(text)))


@given(st.binary(max_size=12) | huffman_codes | st.tuples(huffman_codes, st.binary(max_size=5)).map(b"".join))
@example(b"")
@example(b"\xff")  # padding of eight bits
@example(b"\x18\xc6\x31\x8c\x63\xff")
@example(b"\xff\xff\xff\xff")  # EOS
@example(b"\xff\xff\xff\xfc\x1f")  # EOS and more
@example(b"\x18\xc0")  # padding that is not of ones
@settings(max_examples=500, deadline=None)
def test_huffman_code_is_read_as_hpack_reads_it(code):
    try:
        expected = decode_huffman(code)
    except HPACKDecodingError:
        with pytest.raises(HPACKDecodingError):
            field_codec._decode_huffman(code)
    else:
        assert field_codec._decode_huffman(code) == expected


def test_huffman_code_of_every_pair_of_bytes_is_read():
    field_codec._steps.clear()
    for byte in range(256):
        text = bytes(value for other in range(256) for value in (byte, other))
        assert field_codec._decode_huffman(_huffman(text)) == text
        assert len(field_codec._steps) <= field_codec.MEMO_STEPS


def _huffman(text: bytes) -> bytes:
    return HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(text)


# The encoder


@given(st.lists(field_lists | table_sizes, max_size=16))
@settings(max_examples=150, deadline=None)
def test_another_decoder_understands_what_the_encoder_says(steps):
    encoder, decoder = FieldEncoder(), Decoder(1 << 20)
    for step in steps:
        if isinstance(step, int):
            encoder.header_table_size = step
            decoder.max_allowed_table_size = step
            continue
        for _ in range(3):
            assert understood(decoder, encoder.encode(step)) == step
        assert encoder.header_table.dynamic_entries == decoder.header_table.dynamic_entries


def test_encoder_ends_with_a_byte_for_each_field_that_repeats():
    encoder, decoder = FieldEncoder(), Decoder()
    blocks = [encoder.encode(HEAD) for _ in range(3)]
    assert [understood(decoder, block) for block in blocks] == [HEAD] * 3
    assert len(decoder.header_table.dynamic_entries) == 2
    last = blocks[2]
    assert last[:2] == b"\x88\xbf"
    assert last[-1:] == b"\xbe"
    assert FieldEncoder().encode(HEAD) == blocks[0]


def test_encoder_computes_the_indexes_of_several_insertions_within_one_block():
    encoder, decoder = FieldEncoder(), Decoder()
    fields = [(b"x-%d" % number, b"v") for number in range(8)]
    twice = fields + fields
    block = encoder.encode(fields + fields[::-1] + fields)
    assert understood(decoder, block) == fields + fields[::-1] + fields
    assert encoder.encode(twice) == bytes(range(0xBE, 0xC6)) * 2
    assert understood(decoder, bytes(range(0xBE, 0xC6))) == fields


def test_encoder_writes_indexes_of_two_bytes():
    encoder, decoder = FieldEncoder(), Decoder()
    fields = [(b"x-%02d" % number, b"") for number in range(100)]
    for start in range(0, 100, 20):
        for _ in range(2):
            part = fields[start : start + 20]
            assert understood(decoder, encoder.encode(part)) == part
    block = encoder.encode(fields)
    assert b"\xff\x00" in block
    assert understood(decoder, block) == fields


def test_encoder_evicts_nothing_when_the_table_is_full():
    encoder, decoder = FieldEncoder(), Decoder()
    first = (b"x-first", b"stays")
    for _ in range(2):
        decoder.decode(encoder.encode([first]))
    for number in range(60):
        field = (b"x-more", b"%03d" % number * 50)
        for _ in range(3):
            assert understood(decoder, encoder.encode([field])) == [field]
    entries = list(decoder.header_table.dynamic_entries)
    assert entries[-1] == first
    assert 10 < len(entries) < 30
    assert entries == list(encoder.header_table.dynamic_entries)
    assert len(encoder.encode([first])) == 1


@pytest.mark.parametrize("name", sorted(field_codec.FLEETING))
def test_encoder_never_inserts_what_changes_from_response_to_response(name):
    encoder, decoder = FieldEncoder(), Decoder()
    for _ in range(4):
        assert understood(decoder, encoder.encode([(name, b"same")])) == [(name, b"same")]
    assert not decoder.header_table.dynamic_entries


@pytest.mark.parametrize("name", sorted(field_codec.SECRET))
def test_encoder_says_that_secrets_are_never_to_be_indexed(name):
    encoder = FieldEncoder()
    for _ in range(3):
        block = encoder.encode([(name, b"token")])
        (field,) = Decoder().decode(block, raw=True)
        assert isinstance(field, NeverIndexedHeaderTuple)
        assert field == (name, b"token")
        assert block[0] & 0xF0 == 0x10
    assert (name, b"token") not in field_codec._constant
    assert (name, b"token") not in field_codec._literals


def test_encoder_never_indexes_what_it_is_told_not_to_even_if_it_is_in_a_table():
    encoder, decoder = FieldEncoder(), Decoder()
    for field in ((b"x-key", b"1"), (b":status", b"200"), (b"date", b"now")):
        for _ in range(3):
            decoder.decode(encoder.encode([field]))
        block = encoder.encode([NeverIndexedHeaderTuple(*field)])
        (result,) = decoder.decode(block, raw=True)
        assert isinstance(result, NeverIndexedHeaderTuple)
        assert result == field


def test_encoder_does_not_let_one_connection_learn_from_another():
    first, second = FieldEncoder(), FieldEncoder()
    for _ in range(3):
        first.encode([(b"x-for", b"somebody")])
    assert second.encode([(b"x-for", b"somebody")])[0] == 0x00
    assert second.encode([(b"x-for", b"somebody")])[0] == 0x40


def test_encoder_codes_strings_only_where_that_is_shorter():
    encoder = FieldEncoder()
    assert encoder.encode([(b"etag", b"aaaaaaaa")]) == b"\x0f\x13\x85" + bytes.fromhex("18c6318c63")
    assert encoder.encode([(b"etag", b"\x01\x02")]) == b"\x0f\x13\x02\x01\x02"
    assert encoder.encode([(b"etag", b"")]) == b"\xa2"  # in the static table
    assert encoder.encode([(b"x", b"")]) == b"\x00\x01x\x00"
    longest = field_codec.LONGEST_CODED
    assert len(field_codec._string(b"a" * longest)) < longest < len(field_codec._string(b"a" * (longest + 1)))


# RFC 7541 appendix C.4: the Huffman code
@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"www.example.com", "8cf1e3c2e5f23a6ba0ab90f4ff"),
        (b"no-cache", "86a8eb10649cbf"),
        (b"custom-key", "8825a849e95ba97d7f"),
        (b"custom-value", "8925a849e95bb8e8b4bf"),
    ],
)
def test_strings_are_coded_as_in_the_examples_of_the_rfc(text, code):
    assert field_codec._string(text) == bytes.fromhex(code)


# RFC 7541 appendix C.1: integers
def test_integers_are_coded_as_in_the_examples_of_the_rfc():
    assert field_codec._integer(0, 0x1F, 10) == b"\x0a"
    assert field_codec._integer(0, 0x1F, 1337) == bytes.fromhex("1f9a0a")
    assert field_codec._integer(0, 0xFF, 42) == b"\x2a"


@pytest.mark.parametrize("size", [0, 126, 127, 128, 255, 1024, 1025, 16384, 16511, 100000])
def test_encoder_writes_values_of_any_length(size):
    encoder, decoder = FieldEncoder(), Decoder(1 << 20)
    fields = [(b"x-long", b"a" * size), (b"x" * (size + 1), b"short"), (b"location", b"\xfe" * size)]
    for _ in range(3):
        assert understood(decoder, encoder.encode(fields)) == fields


def test_encoder_announces_a_smaller_table_at_the_start_of_the_next_block():
    encoder, decoder = FieldEncoder(), Decoder()
    for _ in range(3):
        decoder.decode(encoder.encode(HEAD))
    encoder.header_table_size = 0
    decoder.max_allowed_table_size = 0
    assert encoder.header_table_size == 0
    block = encoder.encode(HEAD)
    assert block[:2] == b"\x20\x88"
    assert understood(decoder, block) == HEAD
    again = encoder.encode(HEAD)
    assert again == block[1:]
    assert not decoder.header_table.dynamic_entries


def test_encoder_keeps_the_newest_entries_that_fit_a_smaller_table():
    encoder, decoder = FieldEncoder(), Decoder()
    fields = [(b"x-%d" % number, b"v") for number in range(4)]
    for _ in range(2):
        decoder.decode(encoder.encode(fields))
    encoder.header_table_size = decoder.max_allowed_table_size = 80  # two entries of 36 bytes
    block = encoder.encode(fields[2:])
    assert block == b"\x3f\x31\xbf\xbe"
    assert understood(decoder, block) == fields[2:]
    assert understood(decoder, encoder.encode(fields)) == fields


def test_encoder_announces_the_smallest_size_in_between_and_the_last():
    encoder, decoder = FieldEncoder(), Decoder()
    for _ in range(2):
        decoder.decode(encoder.encode(HEAD))
    for size in (1000, 100, 2000, 0, 300, 4096):
        encoder.header_table_size = size
    block = encoder.encode(HEAD)
    assert block[:5] == b"\x20\x3f\xe1\x1f\x88"
    assert understood(decoder, block) == HEAD
    for _ in range(3):
        assert understood(decoder, encoder.encode(HEAD)) == HEAD
    assert encoder.encode(HEAD)[:2] == b"\x88\xbf"


def test_encoder_says_nothing_about_sizes_that_change_nothing():
    encoder = FieldEncoder()
    for size in (4096, 65536, 1 << 31, 4096):
        encoder.header_table_size = size
        assert encoder.header_table_size == 4096
    assert encoder.encode(HEAD)[0] == 0x88


def test_encoder_announces_a_table_that_grows_again():
    encoder, decoder = FieldEncoder(), Decoder()
    encoder.header_table_size = 0
    decoder.decode(encoder.encode(HEAD))
    encoder.header_table_size = 4096
    assert encoder.encode(HEAD)[:4] == b"\x3f\xe1\x1f\x88"


def test_encoder_remembers_a_bounded_number_of_fields():
    encoder, decoder = FieldEncoder(), Decoder()
    for number in range(5000):
        fields = [(b"content-length", b"%d" % number), (b"x-number", b"%d" % number), (b"etag", b"y" * 200)]
        assert understood(decoder, encoder.encode(fields)) == fields
        assert len(field_codec._constant) <= field_codec.MEMO_LITERALS
        assert len(field_codec._literals) <= field_codec.MEMO_LITERALS
        assert len(encoder._seen) <= field_codec.SEEN_FIELDS
    for memo in (field_codec._constant, field_codec._literals):
        assert max(len(name) + len(value) for name, value in memo) <= field_codec.MEMO_LITERAL
    assert encoder.encode([(b":status", b"200")]) == b"\x88"


# Both, in the place of h2's own


class Pair:
    def __init__(self) -> None:
        self.client = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
        self.server = h2.connection.H2Connection(
            h2.config.H2Configuration(
                client_side=False,
                header_encoding=None,
                validate_inbound_headers=False,
                normalize_inbound_headers=False,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self.decoder = self.server.decoder = FieldDecoder()
        self.encoder = self.server.encoder = FieldEncoder()
        self.client.initiate_connection()
        self.server.initiate_connection()
        self.deliver()
        self.deliver()

    def deliver(self) -> tuple[list[h2.events.Event], list[h2.events.Event]]:
        """What the server saw, and what the client saw."""
        inbound = self.server.receive_data(self.client.data_to_send())
        return inbound, self.client.receive_data(self.server.data_to_send())

    def respond(self, stream: int, *, trailers: bool = False) -> list[tuple[bytes, bytes]]:
        self.server.send_headers(stream, HEAD)
        self.server.send_data(stream, b"Hello, world!", end_stream=not trailers)
        if trailers:
            self.server.send_headers(stream, [(b"x-sum", b"1")], end_stream=True)
        _, events = self.deliver()
        return [tuple(field) for event in events for field in getattr(event, "headers", None) or ()]


def test_h2_carries_requests_and_responses_on_one_connection():
    pair = Pair()
    for turn in range(6):
        stream = 2 * turn + 1
        request = [REQUEST[0], (b":path", b"/%d" % (turn // 2)), *REQUEST[2:]]
        pair.client.send_headers(stream, request)
        events, _ = pair.deliver()
        assert [type(event) for event in events] == [h2.events.RequestReceived]
        assert pair.decoder.fields == request
        assert pair.decoder.size == list_size(request)
        pair.client.send_data(stream, b"body")
        pair.client.send_headers(stream, [(b"x-checksum", b"1")], end_stream=True)
        events, _ = pair.deliver()
        assert [type(event) for event in events] == [
            h2.events.DataReceived,
            h2.events.TrailersReceived,
            h2.events.StreamEnded,
        ]
        assert pair.decoder.fields == [(b"x-checksum", b"1")]
        assert pair.respond(stream, trailers=True) == [*HEAD, (b"x-sum", b"1")]
    assert len(pair.client.decoder.header_table.dynamic_entries) == 3


def test_h2_carries_informational_responses_and_large_heads():
    pair = Pair()
    large = [(b"x-large-%d" % number, b"a" * 9000) for number in range(4)]
    for stream in (1, 3, 5):
        pair.client.send_headers(stream, [*REQUEST, *large], end_stream=True)  # needs CONTINUATION
        pair.deliver()
        assert pair.decoder.fields == [*REQUEST, *large]
        pair.server.send_headers(stream, [(b":status", b"103"), (b"link", b"</a>")])
        pair.server.send_headers(stream, [*HEAD, *large], end_stream=True)
        _, events = pair.deliver()
        assert [event.headers for event in events if hasattr(event, "headers")] == [
            [(b":status", b"103"), (b"link", b"</a>")],
            [*HEAD, *large],
        ]


@pytest.mark.parametrize("sizes", [(0,), (64,), (0, 4096), (50, 0, 200), (65536,), (8192, 0, 8192)])
def test_h2_obeys_the_table_size_that_the_client_sets(sizes):
    pair = Pair()
    for turn in range(8):
        stream = 2 * turn + 1
        if turn in (3, 6):
            for size in sizes:
                pair.client.update_settings({h2.settings.SettingCodes.HEADER_TABLE_SIZE: size})
                pair.deliver()
            pair.deliver()
        pair.client.send_headers(stream, REQUEST, end_stream=True)
        pair.deliver()
        assert pair.respond(stream) == HEAD
    assert pair.encoder.header_table_size == min(sizes[-1], 4096)


def test_h2_lets_the_server_shrink_the_table_of_the_client():
    pair = Pair()
    for turn in range(6):
        if turn == 3:
            pair.server.update_settings({h2.settings.SettingCodes.HEADER_TABLE_SIZE: 0})
            pair.deliver()
            pair.deliver()
            assert pair.decoder.max_allowed_table_size == 0
        pair.client.send_headers(2 * turn + 1, REQUEST, end_stream=True)
        pair.deliver()
        assert pair.decoder.fields == REQUEST
    assert not pair.decoder.header_table.dynamic_entries


def test_h2_translates_what_the_decoder_raises():
    pair = Pair()
    with pytest.raises(h2.exceptions.ProtocolError) as caught:
        pair.server.receive_data(b"\x00\x00\x01\x01\x05\x00\x00\x00\x01\x80")
    assert isinstance(caught.value.__cause__, HPACKDecodingError)
    pair = Pair()
    pair.decoder.max_header_list_size = 100
    with pytest.raises(h2.exceptions.DenialOfServiceError) as caught:
        pair.server.receive_data(b"\x00\x00\x04\x01\x05\x00\x00\x00\x01\x82\x84\x87\x88")
    assert isinstance(caught.value.__cause__, OversizedHeaderListError)
