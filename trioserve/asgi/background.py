"""Work that an application starts in one request and that outlives it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from trioserve.asgi.errors import ClientDisconnected

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
    except (Exception, BaseExceptionGroup) as error:
        _contain(error)


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
    except (Exception, BaseExceptionGroup) as error:
        if not status.called:
            raise
        _contain(error)


def _contain(error: Exception | BaseExceptionGroup[BaseException]) -> None:
    """Log what a task raised, and raise what is beside it: a cancellation.

    That a client has left is not logged: `send` says so, and it is nobody's mistake.
    """
    group = error if isinstance(error, BaseExceptionGroup) else ExceptionGroup("", [error])
    errors, rest = group.split(Exception)
    if errors is not None and errors.split(ClientDisconnected)[1] is not None:
        shown = errors if isinstance(error, BaseExceptionGroup) else error
        logger.error("error in a background task of the application", exc_info=shown)
    if rest is not None:
        raise rest from None
