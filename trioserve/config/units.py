"""Durations, sizes and rates, from text and back.

A duration is a number of seconds, or a text such as "250ms" "30s" "5m" "2h" "1d"; a size is a number of
bytes, or a text such as "64KiB"; a rate is a text such as "200/10s", so many events in so much time. Only
binary size units exist, because "KB" means two things. Nothing is ever negative, infinite or not a number.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

_NUMBER_AND_UNIT = re.compile(r"([0-9]+(?:\.[0-9]+)?)([A-Za-z]*)")
_WHOLE_NUMBER = re.compile(r"[0-9]{1,18}")
_WHOLE_AND_UNIT = re.compile(r"([0-9]+)([A-Za-z]*)")
# Scales are exact divisors or multipliers, so that "250ms" is the float 0.25 and nothing near it.
_MILLISECONDS = 1000
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
LARGEST_SIZE = (1 << 63) - 1
_LARGEST_COUNT = 10**18 - 1


class EventRate(NamedTuple):
    """So many events in so many seconds."""

    count: int  # type: ignore[assignment]  # nobody counts the items of a pair
    seconds: float


def parse_duration(value: object) -> float:
    """Seconds of a number or a text with a unit.

    Raises:
        ValueError: it is neither, or negative, infinite or not a number.
    """
    if isinstance(value, str):
        return _parse_duration_text(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError("not a number")
    try:
        seconds = float(value)
    except OverflowError:
        raise ValueError("too large") from None
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError("negative, infinite or not a number")
    return seconds + 0.0  # -0.0 becomes 0.0


def _parse_duration_text(text: str) -> float:
    match = _NUMBER_AND_UNIT.fullmatch(text)
    if match is None:
        raise ValueError("not a number with a unit")
    number, unit = float(match[1]), match[2]
    if unit == "ms":
        number /= _MILLISECONDS
    elif unit in _SECONDS:
        number *= _SECONDS[unit]
    else:
        raise ValueError("unknown unit")
    if not math.isfinite(number):
        raise ValueError("too large")
    return number


def parse_size(value: object) -> int:
    """Bytes of a whole number or a text with a binary unit.

    Raises:
        ValueError: it is neither, or negative, or does not fit into 63 bits.
    """
    if isinstance(value, str):
        match = _WHOLE_AND_UNIT.fullmatch(value)
        if match is None or match[2] not in _BYTES:
            raise ValueError("not a whole number with a unit")
        value = int(match[1]) * _BYTES[match[2]]
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("not a whole number")
    if not 0 <= value <= LARGEST_SIZE:
        raise ValueError("negative or too large")
    return value


def parse_rate(value: object) -> EventRate:
    """The rate that a text "COUNT/DURATION" or an `EventRate` means.

    Raises:
        ValueError: it is neither, the count is below one, or the duration is zero.
    """
    if isinstance(value, str):
        count, slash, duration = value.partition("/")
        if not slash or not _WHOLE_NUMBER.fullmatch(count):
            raise ValueError("not a whole number, a slash and a duration")
        value = EventRate(int(count), parse_duration(duration))
    if not isinstance(value, EventRate) or isinstance(value.count, bool) or not isinstance(value.count, int):
        raise ValueError("not a rate")
    seconds = parse_duration(value.seconds)
    if not 1 <= value.count <= _LARGEST_COUNT or seconds == 0:
        raise ValueError("no events, too many, or no time")
    return EventRate(value.count, seconds)


def render_duration(seconds: float) -> str:
    """The shortest decimal number that reads back as the same seconds, without an exponent."""
    if seconds.is_integer():
        return str(int(seconds))
    text = repr(seconds)
    return text if "e" not in text else f"{seconds:.340f}".rstrip("0")


def render_size(size: int) -> str:
    """The largest unit that divides the bytes; below a KiB the plain number."""
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % _BYTES[unit] == 0:
            return f"{size // _BYTES[unit]}{unit}"
    return str(size)


def render_rate(rate: EventRate) -> str:
    """A text that reads back as the same rate."""
    return f"{rate.count}/{render_duration(rate.seconds)}s"
