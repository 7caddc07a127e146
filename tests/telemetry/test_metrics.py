from __future__ import annotations

import dataclasses

import pytest

from trioserve.telemetry.metrics import Counters, Stats, snapshot


def test_counters_begin_at_zero_and_a_snapshot_does_not_follow_them():
    counters = Counters()
    assert set(dataclasses.asdict(snapshot(counters)).values()) == {0}
    counters.requests_total += 2
    counters.bytes_sent += 100
    stats = snapshot(counters)
    counters.requests_total += 1
    assert (stats.requests_total, stats.bytes_sent, stats.errors) == (2, 100, 0)


def test_a_misspelled_counter_is_an_error():
    with pytest.raises(AttributeError):
        Counters().request_total = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        snapshot(Counters()).errors = 1


def test_both_classes_declare_the_same_fields():
    assert set(Counters.__annotations__) == {field.name for field in dataclasses.fields(Stats)}
