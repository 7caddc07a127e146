"""The pytest plugin that the package registers: the fixture `trioserve_server`.

Every pytest run in an environment with trioserve installed imports this module, so it imports pytest and nothing
else: neither trio nor the server, which would start before coverage does. The fixture imports what it needs when it
is used. pytest-trio drives it, in trio mode or for tests with its mark, and so does anyio's plugin on Trio.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import trio

    from trioserve.asgi.types import Application
    from trioserve.config import Config
    from trioserve.testing.memory import MemoryServer


class StartServer(Protocol):
    """What the fixture `trioserve_server` is: `server = await trioserve_server(app)`."""

    async def __call__(self, app: Application, config: Config | None = None) -> MemoryServer:
        """Start a server in memory and return it once the application has started; see `open_memory_server`."""
        ...


@pytest.fixture
async def trioserve_server() -> AsyncIterator[StartServer]:
    """Start servers in memory: `server = await trioserve_server(app)`, then `server.client()` is an httpx client.

    May be called several times. At the end of the test every server drains and its application shuts down.
    """
    import trio

    from trioserve.testing.memory import open_memory_server

    async with trio.open_nursery() as nursery:
        over = trio.Event()

        async def run(
            app: Application, config: Config | None, task_status: trio.TaskStatus[MemoryServer]
        ) -> None:
            async with open_memory_server(app, config) as server:
                task_status.started(server)
                await over.wait()

        async def start(app: Application, config: Config | None = None) -> MemoryServer:
            server: MemoryServer = await nursery.start(run, app, config)
            return server

        yield start
        over.set()
