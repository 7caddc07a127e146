from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from wsgiref.validate import validator

import pytest

from trioserve.config import Config, LifecycleSettings, LimitSettings, LoggingSettings, TimeoutSettings
from trioserve.testing.memory import open_memory_server
from trioserve.wsgi import WsgiApplication


@pytest.fixture
def error_log(caplog):
    """The messages of the server's error log, which a test has to expect."""
    caplog.set_level(logging.WARNING, "trioserve.error")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "trioserve.error"]


@pytest.fixture
def open_wsgi():
    """A server for a WSGI application, which the validator of the standard library looks at unless told otherwise."""

    @asynccontextmanager
    async def open_server(app, *, validate=True, lifespan="auto", requests=0, timeouts=None, **options):
        config = Config(
            logging=LoggingSettings(access="off"),
            lifecycle=LifecycleSettings(lifespan=lifespan),
            limits=LimitSettings(requests=requests),
            timeouts=TimeoutSettings(**timeouts or {}),
        )
        wrapped = WsgiApplication(validator(app) if validate else app, **options)
        async with open_memory_server(wrapped, config) as server:
            server.wsgi = wrapped
            yield server

    return open_server
