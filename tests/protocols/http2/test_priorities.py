from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioserve.protocols.http2.priorities import (
    LONGEST_VALUE,
    Dependency,
    Urgency,
    merge_response_priority,
    parse_priority,
    parse_priority_update,
)

DEFAULT = Urgency(3, False)


@pytest.mark.parametrize(
    ("value", "urgency", "incremental"),
    [
        (b"", 3, False),
        (b"   ", 3, False),
        (b"u=0", 0, False),
        (b"u=7", 7, False),
        (b"i", 3, True),
        (b"i=?1", 3, True),
        (b"i=?0", 3, False),
        (b"u=5, i", 5, True),
        (b"i,u=5", 5, True),
        (b"  u=1\t,\t i  ", 1, True),
        (b"u=1;x;y=2; z=\"a\\\"b\", i;q=?0", 1, True),
        (b"u=007", 7, False),
        (b"u=-0", 0, False),
        # other members, of every type, are passed over
        (b"a, *b=1.5, c.d-e_f*=tok:/en, g=\"\", h=:aGk=:, j=?0, u=2, k=(1 \"x\";p  y);r=3, l=()", 2, False),
        (b"l=( 1 ), i", 3, True),
        (b"u=2, U2=3", 3, False),
        # members of another type or out of range are ignored, one by one
        (b"u=8, i", 3, True),
        (b"u=-1, i", 3, True),
        (b"u=999999999999999, i", 3, True),
        (b"u=1.0, i", 3, True),
        (b"u=\"1\", i", 3, True),
        (b"u=one, i", 3, True),
        (b"u=:MQ==:, i", 3, True),
        (b"u=(1), i", 3, True),
        (b"u, i", 3, True),
        (b"u=?1, i", 3, True),
        (b"u=1, i=1", 1, False),
        (b"u=1, i=yes", 1, False),
        (b"u=1, i=()", 1, False),
        (b"u=1, i=\"?1\"", 1, False),
        # the last of a name wins, whatever it is
        (b"u=1, u=2", 2, False),
        (b"i, i=?0", 3, False),
        (b"i=?0, i", 3, True),
        (b"u=1, u=x", 3, False),
        (b"u=1, u=9", 3, False),
    ],
)  # fmt: skip
def test_dictionaries(value, urgency, incremental):
    assert parse_priority(value) == Urgency(urgency, incremental)


@pytest.mark.parametrize(
    "value",
    [
        b"u=0, i,",
        b"u=0, i, ",
        b",u=0, i",
        b"u=0,, i",
        b"u=0 i",
        b"u=0; i; , i",
        b"\tu=0, i",
        b"u=0, i\n",
        b"u=0, i\x00",
        b"u=0, \xe9",
        b"u =0, i",
        b"u= 0, i",
        b"u=, i",
        b"u=0, i=",
        b"u=0, i=?2",
        b"u=0, i=?",
        b"U=0, i",
        b"u=0, 1a",
        b"u=+0, i",
        b"u=0.0.0, i",
        b"u=0, i, x=1.",
        b"u=0, i, x=1.2345",
        b"u=0, i, x=1234567890123.1",
        b"u=0, i, x=1234567890123456",
        b'u=0, i, x="',
        b'u=0, i, x="\\a"',
        b'u=0, i, x="\xc3\xa9"',
        b"u=0, i, x=:a",
        b"u=0, i, x=:-:",
        b"u=0, i, x=(",
        b"u=0, i, x=(1",
        b"u=0, i, x=(1,2)",
        b'u=0, i, x=(1"a")',
        b"u=0, i, x=((1))",
        b"u=0, i, x=@1",
        b"u=0;x=(1), i",
    ],
)
def test_what_is_no_dictionary_means_the_defaults(value):
    assert parse_priority(value) == DEFAULT


def test_a_value_of_sane_length_is_read_and_a_longer_one_is_not():
    value = b"u=0, i, " + b"x" * (LONGEST_VALUE - 8)
    assert len(value) == LONGEST_VALUE
    assert parse_priority(value) == Urgency(0, True)
    assert parse_priority(value + b"x") == DEFAULT


@pytest.mark.parametrize(
    ("request_priority", "value", "merged"),
    [
        # the example of RFC 9218 section 8: the server raises the urgency, the client's `i` stays
        (Urgency(3, True), b"u=1", Urgency(1, True)),
        (Urgency(5, False), b"i", Urgency(5, True)),
        (Urgency(5, True), b"i=?0", Urgency(5, False)),
        (Urgency(5, True), b"u=3", Urgency(3, True)),
        (Urgency(5, True), b"u=0, i=?0", Urgency(0, False)),
        (Urgency(5, True), b"", Urgency(5, True)),
        (Urgency(5, True), b"u=9, i=no, x", Urgency(5, True)),
        (Urgency(5, True), b"u=0,", Urgency(5, True)),
        (Urgency(5, True), b"u=0, " + b"x" * LONGEST_VALUE, Urgency(5, True)),
    ],
)
def test_a_response_overrides_what_it_names(request_priority, value, merged):
    assert merge_response_priority(request_priority, value) == merged


@pytest.mark.parametrize(
    ("payload", "update"),
    [
        (b"\x00\x00\x00\x05u=1, i", (5, Urgency(1, True))),
        (b"\x00\x00\x00\x05", (5, DEFAULT)),
        (b"\xff\xff\xff\xffi", (2**31 - 1, Urgency(3, True))),
        (b"\x80\x00\x00\x00u=6", (0, Urgency(6))),
        (b"\x00\x00\x01\x01" + b"u=1," * 4000, (257, DEFAULT)),
    ],
)
def test_updates(payload, update):
    assert parse_priority_update(payload) == update


@pytest.mark.parametrize("length", range(4))
def test_an_update_names_a_stream(length):
    with pytest.raises(ValueError, match="4 octets"):
        parse_priority_update(bytes(length))


def test_the_defaults_are_those_of_the_rfcs():
    assert Urgency() == (3, False)
    assert Dependency() == (0, 16, False)


@given(st.binary(max_size=80) | st.text('ui=,; \t?01379.-"\\:()ax*', max_size=80).map(str.encode))
def test_no_value_raises_or_leaves_the_range(value):
    priority = parse_priority(value)
    assert priority.urgency in range(8)
    assert isinstance(priority.incremental, bool)


@given(
    st.integers(0, 7),
    st.sampled_from([(b"", False), (b"i", True), (b"i=?0", False), (b"i=?1;x", True)]),
    st.lists(st.sampled_from([b"a", b"b=1", b'c="u=0,i"', b"d=(u i);u=0", b"e;i;u=0"]), max_size=5),
    st.randoms(),
)
def test_members_in_any_order_mean_the_same(urgency, incremental, others, order):
    members = [b"u=%d" % urgency, *filter(None, [incremental[0]]), *others]
    order.shuffle(members)
    assert parse_priority(b" , ".join(members)) == Urgency(urgency, incremental[1])


@pytest.mark.parametrize(
    "piece",
    [b"a", b"a,", b"a;", b"a=(", b"a=(1 ", b'a="', b'a="\\\\', b"a;b=1", b" ", b"a=1.1;", b"a ,\t", b"a=:a"],
)
def test_the_worst_value_costs_microseconds(piece):
    value = (b"u=0, " + piece * LONGEST_VALUE)[:LONGEST_VALUE]
    best = min(_time_of(value + b"%d" % attempt) for attempt in range(5))
    best = min(best, *(_time_of(value[:-1] + b"%d" % attempt) for attempt in range(5)))
    assert best < 0.005


def _time_of(value):
    start = time.perf_counter()
    parse_priority(value)
    return time.perf_counter() - start
