from __future__ import annotations

from trioserve.process.backoff import CRASH_LOOP, LONGEST_DELAY, SHORT_LIFE, Backoff


def test_delays_double_from_a_tenth_of_a_second_to_the_longest():
    backoff = Backoff()
    delays = [backoff.note_failure() for _ in range(9)]
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, LONGEST_DELAY, LONGEST_DELAY]
    for _ in range(10_000):
        assert backoff.note_failure() == LONGEST_DELAY


def test_eight_failures_in_a_row_are_hopeless():
    backoff = Backoff()
    for _ in range(CRASH_LOOP - 1):
        backoff.note_failure()
    assert not backoff.hopeless
    backoff.note_failure()
    assert backoff.hopeless
    assert CRASH_LOOP == 8


def test_who_has_served_for_a_moment_is_replaced_at_once_and_forgives_all():
    backoff = Backoff()
    for _ in range(20):
        backoff.note_failure()
    assert backoff.note_end(SHORT_LIFE) == 0
    assert backoff.failures == 0
    assert not backoff.hopeless


def test_who_dies_with_the_first_breath_has_not_started():
    backoff = Backoff()
    assert [backoff.note_end(0.99), backoff.note_end(0), backoff.note_failure()] == [0.1, 0.2, 0.4]
    assert backoff.failures == 3


def test_new_code_begins_anew():
    backoff = Backoff()
    backoff.note_failure()
    backoff.forget()
    assert backoff.note_failure() == 0.1
