from __future__ import annotations

import tracemalloc
import zlib

import pytest

from tests.protocols.websocket.rows import BOMB
from trioserve.protocols.websocket.deflate import (
    Deflater,
    Inflater,
    InflationError,
    Parameters,
    TooLarge,
    agree_to_offer,
    render_agreement,
)
from trioserve.protocols.websocket.events import Deflate

BOTH_FORGET = "; server_no_context_takeover; client_no_context_takeover"

AGREED: list[tuple[Parameters, str]] = [
    ([], ""),
    ([("server_no_context_takeover", None)], ""),
    ([("client_no_context_takeover", None), ("server_no_context_takeover", None)], ""),
    ([("client_max_window_bits", None)], ""),
    ([("client_max_window_bits", "15")], ""),
    ([("client_max_window_bits", "8")], ""),
    ([("client_max_window_bits", "9")], "; client_max_window_bits=9"),
    ([("server_max_window_bits", "15")], ""),
    ([("server_max_window_bits", "10")], "; server_max_window_bits=10"),
    (
        [("client_max_window_bits", "12"), ("server_max_window_bits", "9")],
        "; server_max_window_bits=9; client_max_window_bits=12",
    ),
]

DECLINED: list[Parameters] = [
    [("unknown", None)],
    [("server_no_context_takeover", "1")],
    [("client_no_context_takeover", "")],
    [("client_no_context_takeover", None), ("client_no_context_takeover", None)],
    [("server_max_window_bits", None)],
    [("server_max_window_bits", "8")],
    [("server_max_window_bits", "7")],
    [("server_max_window_bits", "16")],
    [("server_max_window_bits", "09")],
    [("server_max_window_bits", "+9")],
    [("client_max_window_bits", "16")],
    [("client_max_window_bits", "7")],
    [("client_max_window_bits", "x")],
    [("client_max_window_bits", "\u0669")],
    [("client_max_window_bits", None), ("client_max_window_bits", "9")],
]


@pytest.mark.parametrize(("parameters", "answer"), AGREED)
def test_agreed(parameters: Parameters, answer: str):
    agreed = agree_to_offer(parameters)
    assert agreed is not None
    assert (agreed.server_no_takeover, agreed.client_no_takeover) == (True, True)
    assert render_agreement(agreed).decode() == "permessage-deflate" + BOTH_FORGET + answer


@pytest.mark.parametrize("parameters", DECLINED)
def test_declined(parameters: Parameters):
    assert agree_to_offer(parameters) is None


def test_windows_that_are_kept_are_not_mentioned():
    deflate = Deflate(server_no_takeover=False, client_no_takeover=False)
    assert render_agreement(deflate) == b"permessage-deflate"


@pytest.mark.parametrize("bits", range(9, 16))
def test_every_window_that_can_be_agreed_on(bits: int):
    deflate = Deflate(server_window_bits=bits, client_window_bits=bits)
    data = bytes(range(100)) * 1000
    deflated = Deflater(deflate).deflate(data)
    assert deflated is not None
    inflater = Inflater(deflate)
    assert inflater.inflate(deflated, len(data)) + inflater.finish(0) == data


def test_room_is_exact():
    data = b"x" * 1000
    deflated = Deflater(Deflate()).deflate(data)
    assert deflated is not None
    assert Inflater(Deflate()).inflate(deflated, 1000) == data
    with pytest.raises(TooLarge):
        Inflater(Deflate()).inflate(deflated, 999)
    with pytest.raises(TooLarge):
        Inflater(Deflate()).inflate(deflated, 0)


def test_stream_behind_one_that_is_too_large_is_not_inflated():
    first = zlib.compressobj(9, zlib.DEFLATED, -15)
    raw = first.compress(bytes(11)) + first.flush(zlib.Z_FINISH)
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            Inflater(Deflate()).inflate(raw + BOMB[:5000], 10)
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()


def test_one_message_says_nothing_of_the_next():
    inflater = Inflater(Deflate())
    for _ in range(100):  # more finished streams than one message may have
        assert inflater.inflate(bytes.fromhex("f348cdc9c9070000"), 5) + inflater.finish(0) == b"Hello"
    with pytest.raises(InflationError):
        inflater.inflate(bytes.fromhex("f200110000"), 5)
