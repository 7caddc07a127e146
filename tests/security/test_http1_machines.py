from __future__ import annotations

import pytest

from tests.security.http1_rows import DEFAULT_ROWS, ROWS
from trioserve.protocols.http1 import Http1Limits, machine_class
from trioserve.testing.checks import Http1Row, check_http1_machine, check_http1_row

PARSERS = ("h11", "httptools")


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_row(parser, row: Http1Row):
    check_http1_row(machine_class(parser), row)


@pytest.mark.parametrize("parser", PARSERS)
def test_contract(parser):
    check_http1_machine(machine_class(parser))


def test_names_are_unique():
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)


def test_table_is_large_enough_to_mean_something():
    assert len(DEFAULT_ROWS) >= 250
    assert sum(row.status is None for row in DEFAULT_ROWS) >= 80
    assert all(row.limits == Http1Limits() for row in DEFAULT_ROWS)
