"""Work that an application starts in one request and that outlives it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import trio

logger = logging.getLogger("trioserve.error")


class Background:
    """The part of `trio.Nursery` that applications get, with a boundary around each task.

    A task that raises is logged and ends alone: it can neither stop the server nor another request.

    Args:
        nursery: where the tasks run; the server cancels it when its grace is over.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    @property
    def cancel_scope(self) -> trio.CancelScope:
        """The scope around all background tasks of the server."""
        return self._nursery.cancel_scope

    def start_soon(self, async_fn: Callable[..., Awaitable[Any]], *args: Any, name: object = None) -> None:
        """Start a task; see `trio.Nursery.start_soon`."""
        self._nursery.start_soon(_run_guarded, async_fn, args, name=name or async_fn)

    async def start(self, async_fn: Callable[..., Awaitable[Any]], *args: Any, name: object = None) -> Any:
        """Start a task and wait until it calls `task_status.started()`; see `trio.Nursery.start`.

        Raises:
            Exception: what the task raises before that.
        """
        return await self._nursery.start(_start_guarded, async_fn, args, name=name or async_fn)


async def _run_guarded(async_fn: Callable[..., Awaitable[Any]], args: tuple[Any, ...]) -> None:
    try:
        await async_fn(*args)
    except Exception:
        logger.exception("error in a background task of the application")


class _Started:
    """A task status that remembers whether it was used."""

    def __init__(self, inner: trio.TaskStatus[Any]) -> None:
        self.called = False
        self._inner = inner

    def started(self, value: Any = None) -> None:
        """See `trio.TaskStatus.started`."""
        self.called = True
        self._inner.started(value)


async def _start_guarded(
    async_fn: Callable[..., Awaitable[Any]], args: tuple[Any, ...], *, task_status: trio.TaskStatus[Any]
) -> None:
    status = _Started(task_status)
    try:
        await async_fn(*args, task_status=status)
    except Exception:
        if not status.called:
            raise
        logger.exception("error in a background task of the application")
