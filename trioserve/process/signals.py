"""Signals by what they ask for, and the picture of all tasks that one of them asks for.

The table is the whole policy; who receives an intent decides how to follow it. Handlers are installed only
inside `open_signals`, in the main thread, and the former ones come back at its end.
"""

from __future__ import annotations

import enum
import signal
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    import trio


class Intent(enum.Enum):
    """What a signal asks of this process."""

    STOP = "stop"  # drain; asked a second time: now
    REOPEN_LOGS = "reopen logs"
    DUMP_TASKS = "dump tasks"
    RELOAD = "reload"
    ADD_WORKER = "add a worker"
    REMOVE_WORKER = "remove a worker"


_INTENTS_BY_NAME = {
    "SIGTERM": Intent.STOP,
    "SIGINT": Intent.STOP,
    "SIGUSR1": Intent.REOPEN_LOGS,
    "SIGQUIT": Intent.DUMP_TASKS,
    "SIGHUP": Intent.RELOAD,
    "SIGTTIN": Intent.ADD_WORKER,
    "SIGTTOU": Intent.REMOVE_WORKER,
}
INTENTS: dict[signal.Signals, Intent] = {
    signal.Signals[name]: intent
    for name, intent in _INTENTS_BY_NAME.items()
    if name in signal.Signals.__members__
}
"""The table; signals that the system does not have are left out."""


class _Intents:
    """What has been asked, in order of arrival. An object, because a generator would have to be closed."""

    def __init__(self, received: AsyncIterator[int], table: Mapping[signal.Signals, Intent]) -> None:
        self._received = received
        self._table = table

    def __aiter__(self) -> _Intents:
        return self

    async def __anext__(self) -> Intent:
        return self._table[signal.Signals(await self._received.__anext__())]


@contextmanager
def open_signals(table: Mapping[signal.Signals, Intent] = INTENTS) -> Iterator[AsyncIterator[Intent]]:
    """Receive the signals of `table` as intents while the body runs, in the main thread of a Trio run.

    The iteration never ends and can be cancelled without losing anything. A signal that comes twice before
    it was taken counts once; one that was never taken is delivered to the former handler at the end.

    Raises:
        RuntimeError: this is not the main thread.
    """
    import trio  # here, because a supervisor notes signals before it has imported Trio

    with trio.open_signal_receiver(*table) as received:
        yield _Intents(received, table)


def render_task_tree() -> str:
    """The Trio run's tasks as indented text: each with its name and stack, children below, by nursery.

    Outermost frames come first, as in a traceback. Of the calling task only the part up to the running
    coroutine is shown. Linear in the number of tasks, and nothing else runs meanwhile.
    """
    import trio

    root = trio.lowlevel.current_root_task()
    return "" if root is None else "".join(f"{line}\n" for line in _render_task(root))


def _render_task(task: trio.lowlevel.Task) -> Iterator[str]:
    yield f"task {task.name}"
    yield from (f"  {line}" for line in _render_stack(task))
    for nursery in task.child_nurseries:
        yield "  nursery" if nursery.child_tasks else "  nursery without tasks"
        for child in sorted(nursery.child_tasks, key=lambda each: each.name):
            yield from (f"    {line}" for line in _render_task(child))


def _render_stack(task: trio.lowlevel.Task) -> Iterator[str]:
    for frame in traceback.StackSummary.extract(task.iter_await_frames()):
        line = f": {frame.line}" if frame.line else ""
        yield f"{frame.filename}:{frame.lineno} in {frame.name}{line}"
