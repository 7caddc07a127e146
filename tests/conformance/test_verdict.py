from __future__ import annotations

import pytest

from tests.conformance import verdict


def case(behaviour: str, closing: str = "OK", code: int | None = 1000) -> dict[str, object]:
    return {"behavior": behaviour, "behaviorClose": closing, "remoteCloseCode": code}


def test_counts_and_the_cases_to_look_at():
    found = {
        "10.1.1": case("OK"),
        "6.4.10": case("FAILED", "UNCLEAN", None),
        "6.4.2": case("NON-STRICT"),
        "7.1.6": case("INFORMATIONAL", "INFORMATIONAL"),
    }
    assert verdict.render(found).splitlines() == [
        "behavior      1 OK, 1 FAILED, 1 NON-STRICT, 1 INFORMATIONAL",
        "behaviorClose 2 OK, 1 UNCLEAN, 1 INFORMATIONAL",
        "6.4.2      NON-STRICT, closing: OK, code 1000",
        "6.4.10     FAILED, closing: UNCLEAN, code None",
    ]


@pytest.mark.parametrize(
    ("behaviour", "closing", "failed"),
    [
        ("OK", "OK", False),
        ("NON-STRICT", "OK", False),
        ("INFORMATIONAL", "INFORMATIONAL", False),
        ("FAILED", "OK", True),
        ("UNIMPLEMENTED", "OK", True),
        ("OK", "UNCLEAN", True),
        ("OK", "WRONG CODE", True),
        ("OK", "FAILED BY CLIENT", True),
        ("something new", "OK", True),
    ],
)
def test_what_is_a_failure(behaviour, closing, failed):
    assert verdict.failures({"1.1.1": case(behaviour, closing)}) == (["1.1.1"] if failed else [])
