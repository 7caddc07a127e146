"""One place among the workers: whoever happens to be in it, there is somebody serving.

The slot's task is the only one that starts processes for it. It looks at the facts (who serves, who is starting, what
was asked for) after every change and does the next thing that they call for, so that a worker that is killed in the
middle of a replacement needs no case of its own. A successor is ready before the one that serves is told to drain.
"""

from __future__ import annotations

import enum
import logging
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Protocol

import trio

from trioserve.process.backoff import Backoff
from trioserve.process.bell import Bell
from trioserve.process.supervised_worker import Crew, Stage, SupervisedWorker

if TYPE_CHECKING:
    from trioserve.config import LoadedConfig
    from trioserve.process.launcher import Launched, Launcher
    from trioserve.process.sockets import SocketSet

logger = logging.getLogger("trioserve")


@dataclass(frozen=True, eq=False)
class Generation:
    """What workers are started with; a reload makes a new one.

    Args:
        loaded: the configuration.
        sockets: what they listen on.
        launcher: how they are started.
    """

    loaded: LoadedConfig
    sockets: SocketSet
    launcher: Launcher


class SlotState(enum.Enum):
    """What goes on in a slot."""

    EMPTY = "nobody is there, for a moment or until it is tried again"
    FILLING = "a worker starts, and nobody serves"
    SERVING = "a worker serves"
    REPLACING = "a worker serves, and its successor starts"


class Replacement:
    """The wish to have a worker of another generation in a slot.

    Attributes:
        done: set when it is decided.
        succeeded: the new worker was ready.
    """

    def __init__(self, generation: Generation) -> None:
        self.generation = generation
        self.done = trio.Event()
        self.succeeded = False

    def decide(self, succeeded: bool) -> None:
        """Tell who waits."""
        self.succeeded = succeeded
        self.done.set()


class SlotWatcher(Protocol):
    """Whoever draws conclusions from what happens in slots."""

    def note_ready(self, worker: SupervisedWorker) -> None:
        """Take note that a worker is ready, right before it counts as serving."""

    def note_failure(self, slot: Slot, worker: SupervisedWorker) -> None:
        """Take note that a worker has ended, or has to be ended, before it was ready."""

    def note_end(self, slot: Slot) -> None:
        """Take note that a worker which was ready serves no more, and nobody wanted that."""

    def note_change(self) -> None:
        """Take note that something has changed, or may have."""


class Slot:
    """A place for one worker.

    Args:
        number: from 1.
        generation: what its workers are started with.
        crew: where its workers live.
        patient: wait for a replacement, instead of trying again, when the application cannot be started.
        watcher: told what happens.
    """

    def __init__(
        self,
        number: int,
        generation: Generation,
        crew: Crew,
        watcher: SlotWatcher,
        *,
        patient: bool = False,
    ) -> None:
        self.number = number
        self.generation = generation
        self.backoff = Backoff()
        self._crew = crew
        self._watcher = watcher
        self._patient = patient
        self._bell = Bell()
        self._retry_at = -inf
        self._wish: Replacement | None = None
        self._whole = trio.CancelScope()
        self._worker: SupervisedWorker | None = None  # it serves, or has died in doing so
        self._successor: SupervisedWorker | None = None  # it starts, as one of the following generation
        self._next = generation

    @property
    def state(self) -> SlotState:
        """What goes on."""
        if self._successor is not None:
            return SlotState.REPLACING if self.serving else SlotState.FILLING
        return SlotState.SERVING if self.serving else SlotState.EMPTY

    @property
    def serving(self) -> bool:
        """Whether somebody serves here."""
        return self._worker is not None and self._worker.stage in (Stage.SERVING, Stage.LEAVING)

    @property
    def urls(self) -> list[str]:
        """Where."""
        return self._worker.urls if self._worker is not None else []

    # -- what is asked of it ---------------------------------------------------------------------------------------

    def adopt(self, launched: Launched) -> None:
        """Take a worker that has been started already."""
        self._look_after(launched, self.generation)

    async def replace(self, generation: Generation) -> bool:
        """Put a worker of this generation into the place of the one that is there.

        Returns whether it became ready; if not, the old one serves on. A slot that is closed says yes.
        """
        if self._whole.cancel_called:
            return True
        self._wish = wish = Replacement(generation)
        self.backoff.forget()
        self._retry_at = -inf
        self._bell.ring()
        await wish.done.wait()
        return wish.succeeded

    def give_up_replacement(self) -> None:
        """Let a replacement fail whose worker is not ready yet."""
        ready = self._successor is not None and self._successor.stage is not Stage.STARTING
        if self._wish is not None and not ready:
            self._drop_successor()
            self._decide(succeeded=False)

    def close(self) -> None:
        """End its task, and drain whoever is there."""
        self._whole.cancel()
        self._decide(succeeded=True)
        for worker in (self._worker, self._successor):
            if worker is not None:
                worker.drain()

    # -- its task --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep somebody serving, until it is closed or cancelled; whoever is there then lives on in the crew."""
        with self._whole:
            while True:
                self._settle_successor()
                self._settle_worker()
                self._obey_wish()
                starts = self._successor is None and self._needs_start()
                if starts and trio.current_time() >= self._retry_at:
                    self._start()
                    starts = self._successor is None
                self._watcher.note_change()
                with trio.move_on_at(self._retry_at if starts else inf):
                    await self._bell.wait()

    def _needs_start(self) -> bool:
        if self._wish is not None:
            return True
        return self._worker is None or self._worker.stage is not Stage.SERVING

    def _settle_successor(self) -> None:
        successor = self._successor
        if successor is None or successor.stage is Stage.STARTING:
            return
        self._successor = None
        if successor.stage in (Stage.SERVING, Stage.LEAVING):
            self._promote(successor)
        else:
            self._give_up(successor)

    def _obey_wish(self) -> None:
        """Give up one that starts if it is not what is wished for any more."""
        if self._wish is None or self._successor is None or self._next is self._wish.generation:
            return
        self._drop_successor()

    def _drop_successor(self) -> None:
        successor, self._successor = self._successor, None
        if successor is not None:
            successor.drain()

    def _promote(self, successor: SupervisedWorker) -> None:
        self._watcher.note_ready(successor)
        former, self._worker = self._worker, successor
        self.generation = self._next
        if self._wish is not None and self._wish.generation is self._next:
            self._decide(succeeded=True)
        if former is not None and former.stage in (Stage.SERVING, Stage.LEAVING):
            self.backoff.forget()  # it has done its part, however soon that was
            former.drain()

    def _give_up(self, successor: SupervisedWorker) -> None:
        """Forget one that will never be ready; its own task sees to its end."""
        wished_for = self._wish is None or self._wish.generation is self._next
        if wished_for:  # otherwise its end says nothing about the one that is to come
            delay = self.backoff.note_failure()
            self._retry_at = trio.current_time() + delay
            if successor.failure is not None and self._patient:
                self._retry_at = inf
        self._watcher.note_failure(self, successor)
        if wished_for:
            self._decide(succeeded=False)

    def _settle_worker(self) -> None:
        worker = self._worker
        if worker is None or worker.stage in (Stage.STARTING, Stage.SERVING, Stage.LEAVING):
            return
        self._worker = None
        self._retry_at = trio.current_time() + self.backoff.note_end(worker.served)
        self._watcher.note_end(self)

    def _start(self) -> None:
        generation = self._wish.generation if self._wish is not None else self.generation
        try:
            launched = generation.launcher.start(self.number)
        except OSError as error:
            delay = self.backoff.note_failure()
            self._retry_at = trio.current_time() + delay
            prospect = f"; next attempt in {delay:g} s" if self._wish is None else ""
            logger.error("worker %d cannot be started: %s%s", self.number, error, prospect)
            self._decide(succeeded=False)
            return
        self._look_after(launched, generation)

    def _look_after(self, launched: Launched, generation: Generation) -> None:
        name, config = f"worker {self.number}", generation.loaded.config
        self._next = generation
        self._successor = SupervisedWorker(name, config, launched, self._bell.ring)
        self._crew.add(self._successor)

    def _decide(self, *, succeeded: bool) -> None:
        wish, self._wish = self._wish, None
        if wish is not None:
            wish.decide(succeeded)
