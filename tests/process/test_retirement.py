from __future__ import annotations

import random

import pytest

from trioserve.config import ProcessSettings
from trioserve.process.retirement import Retirement


class Chance(random.Random):
    """Draws the largest that is possible, or the smallest."""

    def __init__(self, *, largest: bool) -> None:
        super().__init__()
        self._largest = largest

    def randint(self, a: int, b: int) -> int:
        return b if self._largest else a

    def uniform(self, a: float, b: float) -> float:
        return b if self._largest else a


def test_without_limits_nothing_is_ever_a_reason():
    retirement = Retirement(ProcessSettings(), 0.0)
    assert not retirement.limited
    assert retirement.find_reason(1e9, 10**9, 10**12) is None


@pytest.mark.parametrize(("largest", "limit"), [(False, 100), (True, 150)])
def test_requests(largest, limit):
    settings = ProcessSettings(max_requests=100, max_requests_jitter=50)
    retirement = Retirement(settings, 0.0, Chance(largest=largest))
    assert retirement.limited
    assert retirement.find_reason(0.0, limit - 1, 0) is None
    assert retirement.find_reason(0.0, limit, 0) == f"it has served {limit} requests"


@pytest.mark.parametrize(("largest", "end"), [(False, 70.0), (True, 76.0)])
def test_lifetime(largest, end):
    retirement = Retirement(ProcessSettings(max_lifetime=60.0), 10.0, Chance(largest=largest))
    assert retirement.limited
    assert retirement.find_reason(end - 0.01, 0, 0) is None
    assert retirement.find_reason(end + 1e-9, 0, 0) == "it has reached its max_lifetime"


def test_memory():
    retirement = Retirement(ProcessSettings(max_rss=3 << 20), 0.0)
    assert retirement.limited
    assert retirement.find_reason(0.0, 0, 3 << 20) is None
    assert retirement.find_reason(0.0, 0, (3 << 20) + 4096) == "it uses 3.0 MiB of memory"


def test_the_reason_is_given_once():
    retirement = Retirement(ProcessSettings(max_requests=1, max_rss=1), 0.0)
    assert retirement.find_reason(0.0, 5, 5)
    assert retirement.find_reason(0.0, 6, 6) is None


def test_jitter_differs_from_worker_to_worker():
    settings = ProcessSettings(max_requests=1, max_requests_jitter=10**9, max_lifetime=1e6)
    retirements = [Retirement(settings, 0.0) for _ in range(5)]
    assert len({each.max_requests for each in retirements}) == 5
    assert len({each.end_of_life for each in retirements}) == 5
