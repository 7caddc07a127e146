from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioserve.config.units import (
    LARGEST_SIZE,
    EventRate,
    parse_duration,
    parse_rate,
    parse_size,
    render_duration,
    render_rate,
    render_size,
)


@pytest.mark.parametrize(
    ("given_value", "seconds"),
    [
        (0, 0.0),
        (30, 30.0),
        (0.25, 0.25),
        (-0.0, 0.0),
        ("30", 30.0),
        ("250ms", 0.25),
        ("1.5s", 1.5),
        ("5m", 300.0),
        ("2h", 7200.0),
        ("1d", 86400.0),
    ],
)
def test_durations_are_seconds(given_value: object, seconds: float) -> None:
    parsed = parse_duration(given_value)
    assert parsed == seconds
    assert isinstance(parsed, float)
    assert math.copysign(1, parsed) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        -1,
        -0.5,
        math.nan,
        math.inf,
        True,
        None,
        [],
        10**400,
        "",
        "s",
        "-1s",
        "1e3",
        "5 m",
        "5M",
        "1w",
        "٣s",
        "9" * 400,
    ],
)
def test_wrong_durations_are_refused(wrong: object) -> None:
    with pytest.raises(ValueError):
        parse_duration(wrong)


@pytest.mark.parametrize(
    ("given_value", "size"),
    [
        (0, 0),
        (65536, 65536),
        ("512", 512),
        ("1B", 1),
        ("64KiB", 65536),
        ("16MiB", 16 << 20),
        ("2GiB", 2 << 30),
    ],
)
def test_sizes_are_bytes(given_value: object, size: int) -> None:
    assert parse_size(given_value) == size


@pytest.mark.parametrize(
    "wrong",
    [
        -1,
        1.0,
        False,
        None,
        "",
        "KiB",
        "64kb",
        "64KB",
        "1.5MiB",
        "64 KiB",
        "-1B",
        LARGEST_SIZE + 1,
        "9" * 5000,
    ],
)
def test_wrong_sizes_are_refused(wrong: object) -> None:
    with pytest.raises(ValueError):
        parse_size(wrong)


@given(st.floats(min_value=0, allow_nan=False, allow_infinity=False))
def test_a_rendered_duration_reads_back_as_the_same(seconds: float) -> None:
    text = render_duration(seconds)
    assert "e" not in text
    assert parse_duration(text) == seconds


@given(st.integers(min_value=0, max_value=LARGEST_SIZE))
def test_a_rendered_size_reads_back_as_the_same(size: int) -> None:
    assert parse_size(render_size(size)) == size


@pytest.mark.parametrize(
    ("given_value", "rate"),
    [
        ("200/10s", EventRate(200, 10.0)),
        ("50/500ms", EventRate(50, 0.5)),
        ("1/10", EventRate(1, 10.0)),
        ("0007/1.5m", EventRate(7, 90.0)),
        (EventRate(3, 2), EventRate(3, 2.0)),
        (EventRate(3, "2s"), EventRate(3, 2.0)),  # type: ignore[arg-type]
    ],
)
def test_rates_are_a_count_and_seconds(given_value: object, rate: EventRate) -> None:
    parsed = parse_rate(given_value)
    assert (parsed, parsed.count, parsed.seconds) == (rate, rate.count, rate.seconds)
    assert [type(part) for part in parsed] == [int, float]


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "200",
        "200/",
        "/10s",
        "0/10s",
        "-1/10s",
        "+1/10s",
        "1.5/10s",
        "200/0",
        "200/0ms",
        "200/-1s",
        "200/10s/2",
        "200 / 10s",
        "200/10x",
        "٣/10s",
        "9" * 19 + "/1s",
        "9" * 5000 + "/1s",
        200,
        None,
        (200, 10.0),
        EventRate(0, 1.0),
        EventRate(1, 0.0),
        EventRate(1, math.nan),
        EventRate(10**18, 1.0),
        EventRate(True, 1.0),
        EventRate(1.0, 1.0),  # type: ignore[arg-type]
    ],
)
def test_wrong_rates_are_refused(wrong: object) -> None:
    with pytest.raises(ValueError):
        parse_rate(wrong)


@given(
    st.integers(1, 10**18 - 1),
    st.floats(min_value=0, exclude_min=True, allow_nan=False, allow_infinity=False),
)
def test_a_rendered_rate_reads_back_as_the_same(count: int, seconds: float) -> None:
    rate = EventRate(count, seconds)
    assert parse_rate(render_rate(rate)) == rate
    assert parse_rate(rate) == rate


def test_rates_are_rendered_as_people_write_them() -> None:
    assert render_rate(EventRate(200, 10.0)) == "200/10s"
    assert render_rate(EventRate(50, 0.5)) == "50/0.5s"


def test_sizes_are_rendered_with_the_largest_fitting_unit() -> None:
    assert [render_size(n) for n in (0, 1, 1023, 1024, 1536, 16 << 20, 1 << 30)] == [
        "0", "1", "1023", "1KiB", "1536", "16MiB", "1GiB",
    ]  # fmt: skip
