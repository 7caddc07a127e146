from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioserve.protocols.http2.budget import Budget
from trioserve.protocols.http2.limits import Rate


def spend_all(budget: Budget, now: float) -> int:
    spent = 0
    while spent < 1000 and budget.spend(now):
        spent += 1
    return spent


@pytest.mark.parametrize("start", [0.0, -5.0, 1e9, 12345.678])
def test_a_new_budget_is_full_whatever_the_time(start: float) -> None:
    assert spend_all(Budget(Rate(200, 10.0)), start) == 200


def test_it_fills_evenly() -> None:
    budget = Budget(Rate(200, 10.0))
    spend_all(budget, 0.0)
    assert not budget.spend(0.03)
    assert budget.spend(0.0625)
    assert not budget.spend(0.0625)
    assert spend_all(budget, 5.0) == 99
    assert spend_all(budget, 15.0) == 200


def test_it_never_holds_more_than_its_count() -> None:
    budget = Budget(Rate(200, 10.0))
    assert budget.spend(0.0, 50)
    assert budget.spend(1000.0, 150)
    assert spend_all(budget, 1000.0) == 50


def test_the_rate_itself_can_be_kept_up_for_ever() -> None:
    budget = Budget(Rate(4, 1.0))
    spend_all(budget, 0.0)
    assert all(budget.spend(number / 4) for number in range(1, 5000))
    assert not budget.spend(4999 / 4)


def test_what_is_not_there_is_not_taken() -> None:
    budget = Budget(Rate(10, 10.0))
    assert budget.spend(0.0, 4)
    assert not budget.spend(0.0, 7)
    assert budget.spend(0.0, 6)
    assert not budget.spend(0.0)
    assert budget.spend(0.0, 0)


def test_more_than_the_count_is_never_there() -> None:
    budget = Budget(Rate(10, 10.0))
    assert not budget.spend(0.0, 11)
    assert not budget.spend(1e6, 11)
    assert spend_all(budget, 1e6) == 10


def test_a_time_before_the_last_one_fills_nothing() -> None:
    budget = Budget(Rate(10, 10.0))
    spend_all(budget, 100.0)
    assert not budget.spend(50.0)
    assert not budget.spend(100.5)
    assert budget.spend(101.0)
    assert not budget.spend(101.0)


def test_a_time_before_the_last_one_takes_nothing_either() -> None:
    budget = Budget(Rate(10, 10.0))
    assert budget.spend(100.0, 5)
    assert budget.spend(50.0, 5)
    assert not budget.spend(50.0)


@given(
    st.integers(1, 50),
    st.floats(0.001, 1000),
    st.floats(0, 1e6),
    st.lists(st.tuples(st.floats(0, 100), st.integers(0, 60)), max_size=40),
)
def test_no_stretch_of_time_gets_more_than_a_burst_and_the_rate(
    count: int, seconds: float, start: float, steps: list[tuple[float, int]]
) -> None:
    budget, now = Budget(Rate(count, seconds)), start
    granted: list[tuple[float, int]] = []
    for pause, amount in steps:
        now += pause
        if budget.spend(now, amount):
            granted.append((now, amount))
    for first, (begin, _) in enumerate(granted):
        total = 0
        for end, amount in granted[first:]:
            total += amount
            assert total <= count + (end - begin) * count / seconds + 1e-6 * count


def test_it_has_no_dictionary() -> None:
    assert not hasattr(Budget(Rate(1, 1.0)), "__dict__")
