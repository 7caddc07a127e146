"""A GraphQL service on asyncio, as Strawberry is, inside a loop that encloses the whole life of the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator  # noqa: TC003 - the schema is made from the annotations
from contextlib import asynccontextmanager

import strawberry
import trio_asyncio
from strawberry.asgi import GraphQL

stopped: list[str] = []


@strawberry.type
class Query:
    @strawberry.field
    def stopped(self) -> list[str]:
        return stopped


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def count(self, to: int) -> AsyncIterator[int]:
        for number in range(1, to + 1):
            yield number

    @strawberry.subscription
    async def endless(self, name: str) -> AsyncIterator[int]:
        number = 0
        try:
            while True:
                yield number
                number += 1
                await asyncio.sleep(0.001)
        finally:
            stopped.append(name)


service = GraphQL(strawberry.Schema(query=Query, subscription=Subscription))


async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError
    messages = trio_asyncio.trio_as_aio(receive), trio_asyncio.trio_as_aio(send)
    await trio_asyncio.aio_as_trio(service)(scope, *messages)


@asynccontextmanager
async def factory():
    async with trio_asyncio.open_loop():
        yield application
