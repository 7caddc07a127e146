"""A WSGI application served on a real socket in the test's own Trio run, so that tests can look into it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from tests.wsgi.outcomes import Address
from trioserve import Config, serve
from trioserve.config import LoggingSettings
from trioserve.wsgi import WsgiApplication

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trioserve.server.server import Server

TEXT = ("Content-Type", "text/plain")


class Served(NamedTuple):
    server: Server
    address: Address


@asynccontextmanager
async def serving(app: Any, *, threads: int = 4, **settings: Any) -> AsyncIterator[Served]:
    """Serve until the block ends; then the server is cancelled, whatever runs."""
    config = Config(bind="127.0.0.1:0", logging=LoggingSettings(access="off"), **settings)
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve, WsgiApplication(app, threads=threads), config)
        yield Served(server, Address(*server.addresses[0]))
        nursery.cancel_scope.cancel()


async def until(condition: Any) -> None:
    """Return when something has come about that nobody tells of."""
    with trio.fail_after(8):
        while not condition():  # noqa: ASYNC110 - threads have no Trio event for it
            await trio.sleep(0.002)
