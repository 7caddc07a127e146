from __future__ import annotations

import logging

import pytest


@pytest.fixture
def error_log(caplog):
    """The messages of the server's error log, which a test has to expect."""
    caplog.set_level(logging.WARNING, "trioserve.error")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "trioserve.error"]
