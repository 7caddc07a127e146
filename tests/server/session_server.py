"""A real server on a unix socket, and WebSocket clients for it.

On a unix socket what one end sends is at the other end at once, so that a clock that jumps cannot jump past it, and
buffers have a size. A test ends with nothing left: no connection, no running application, no complaint in the log.
"""

from __future__ import annotations

import logging
import os
import tempfile
from contextlib import asynccontextmanager, contextmanager
from math import inf

import trio

from trioserve.config import (
    Config,
    HeaderSettings,
    LifecycleSettings,
    LoggingSettings,
    TimeoutSettings,
    WebSocketSettings,
)
from trioserve.server.server import serve
from trioserve.testing.websocket_client import TunnelClient, open_http1_session, open_http2_session

PROTOCOLS = ("http1", "http2")


class Listening(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage())


@contextmanager
def listening():
    handler = Listening()
    logger = logging.getLogger("trioserve")
    logger.addHandler(handler)
    try:
        yield handler.messages
    finally:
        logger.removeHandler(handler)


class Served:
    """A running server.

    Attributes:
        server: as `serve` gives it.
        log: warnings and errors so far.
    """

    def __init__(self, server, path, log):
        self.server, self.path, self.log = server, path, log
        self._streams = []

    async def stream(self):
        stream = await trio.open_unix_socket(self.path)
        self._streams.append(stream)
        return stream

    async def tunnels(self, settings=None):
        client = TunnelClient(await self.stream())
        client.timeout = inf
        await client.start(settings)
        return client

    async def session(self, protocol, path="/", headers=(), *, first=b"", settings=None):
        if protocol == "http1":
            return await open_http1_session(await self.stream(), path, headers, first=first)
        return await open_http2_session(await self.tunnels(settings), path, headers, first=first)

    async def aclose(self):
        for stream in self._streams:
            await trio.aclose_forcefully(stream)


@asynccontextmanager
async def open_server(
    app, *, limit=60, complaints=(), access="off", headers=None, lifecycle=None, timeouts=None, **websocket
):
    """Serve an application for the length of a block.

    Args:
        limit: seconds for all of it.
        complaints: words of the messages that the log has to have at the end.
        access: where the access log goes.
        headers, lifecycle, timeouts: groups of settings, as is the rest.
    """
    with (
        tempfile.TemporaryDirectory() as directory,
        listening() as log,
        trio.fail_after(limit),
    ):
        path = os.path.join(directory, "socket")
        config = Config(
            bind=(f"unix:{path}",),
            logging=LoggingSettings(access=access),
            headers=HeaderSettings(**headers or {}),
            lifecycle=LifecycleSettings(**{"lifespan": "off"} | (lifecycle or {})),
            timeouts=TimeoutSettings(**timeouts or {}),
            websocket=WebSocketSettings(**websocket),
        )
        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve, app, config)
            served = Served(server, path, log)
            try:
                yield served
            finally:
                await served.aclose()
                server.drain()
        stats = server.stats()
        assert (stats.requests_running, stats.connections_open) == (0, 0)
        assert len(log) == len(complaints), log
        for words, message in zip(complaints, log, strict=True):
            assert words in message
