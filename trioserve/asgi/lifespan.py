"""The ASGI lifespan: start-up, shutdown, state (ASGI lifespan specification 2.0).

The application's lifespan runs in one task for as long as the server serves. It is the real parent of the requests
as far as Trio lets it be: they inherit its context variables, and its failure stops the server.
"""

from __future__ import annotations

import contextvars
import logging
from contextlib import asynccontextmanager
from enum import Enum
from math import inf
from typing import TYPE_CHECKING, Any, Literal

import trio

from trioserve.asgi.errors import ApplicationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trioserve.asgi.types import Application, Message

logger = logging.getLogger("trioserve.error")

HURRIED_SHUTDOWN = 0.5

Mode = Literal["auto", "on", "off"]


class LifespanOutcome(Enum):
    """How a lifespan stands, or how it ended."""

    UNSUPPORTED = "the application has no lifespan"
    STARTED = "the application has started"
    START_FAILED = "the application failed to start"
    DIED = "the application's lifespan ended while it was serving"
    SHUTDOWN_FAILED = "the application failed to shut down"
    STOPPED = "the application has shut down"


class LifespanFailed(Exception):
    """The application failed to start; it must not be served."""


class Lifespan:
    """One run of an application's lifespan.

    Attributes:
        outcome: how it stands.
        state: the dictionary that the application filled; requests get copies.
        context: the context that requests run in: the application's own at the end of its start-up.
        ended: set when the lifespan has ended, for whatever reason.
        scope: what the application's lifespan runs in; cancelling it is the only way to end it early.
    """

    def __init__(self, app: Application, mode: Mode) -> None:
        self.outcome = LifespanOutcome.UNSUPPORTED
        self.state: dict[str, Any] = {}
        self.context = contextvars.copy_context()
        self.ended = trio.Event()
        self._app = app
        self._mode = mode
        self._asked = False  # whether the application has called receive(): it knows what a lifespan is
        self._answered = trio.Event()
        self._stop = trio.Event()
        self._shutdown_scope = trio.CancelScope()
        # A hard stop around the server must not take the shutdown away, whose deadline `stop` keeps.
        self.scope = trio.CancelScope(shield=True)

    async def run(self) -> None:
        """Run the application's lifespan to its end. Never raises an `Exception`; sets `outcome` and `ended`."""
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        error: Exception | None = None
        try:
            with self.scope:
                await self._app(scope, self._receive, self._send)
        except Exception as raised:
            traceback = raised.__traceback__
            error = raised.with_traceback(traceback and traceback.tb_next)  # without this frame of ours
        finally:
            self._conclude(error)
            self.ended.set()
            self._answered.set()

    def _conclude(self, error: Exception | None) -> None:
        """Name the outcome of a lifespan that has returned or raised."""
        before = self.outcome
        if before is LifespanOutcome.STARTED:
            self.outcome = LifespanOutcome.SHUTDOWN_FAILED if self._stop.is_set() else LifespanOutcome.DIED
            if self._stop.is_set() and error is None:
                self.outcome = LifespanOutcome.STOPPED
            elif error is not None or not self._stop.is_set():
                logger.error("%s", self.outcome.value, exc_info=error)
        elif before is LifespanOutcome.UNSUPPORTED and (
            self._mode == "on" or (self._asked and error is not None)
        ):
            self.outcome = LifespanOutcome.START_FAILED
            logger.error("%s: no lifespan.startup.complete came", self.outcome.value, exc_info=error)
        elif error is not None and before is not LifespanOutcome.UNSUPPORTED:
            logger.debug("the lifespan raised after it had told how it ended", exc_info=error)

    async def _receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "lifespan.startup"}
        await self._stop.wait()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "lifespan.startup.complete" and self.outcome is LifespanOutcome.UNSUPPORTED:
            self.outcome = LifespanOutcome.STARTED
            self.context = contextvars.copy_context()
            self._answered.set()
        elif kind == "lifespan.startup.failed" and self.outcome is LifespanOutcome.UNSUPPORTED:
            self._fail(LifespanOutcome.START_FAILED, message)
        elif kind == "lifespan.shutdown.complete" and self._stop.is_set():
            self.outcome = LifespanOutcome.STOPPED
        elif kind == "lifespan.shutdown.failed" and self._stop.is_set():
            self._fail(LifespanOutcome.SHUTDOWN_FAILED, message)
        else:
            raise ApplicationError(f"{kind} does not fit here: {self.outcome.value}")
        await trio.lowlevel.checkpoint()

    def _fail(self, outcome: LifespanOutcome, message: Message) -> None:
        self.outcome = outcome
        text = str(message.get("message", "")).rstrip()
        if "\n" in text:  # frameworks send a whole traceback
            logger.error("%s", outcome.value, extra={"detail": text})
        else:
            logger.error("%s%s", outcome.value, f": {text}" if text else "")
        self._answered.set()

    async def start(self, timeout: float) -> None:
        """Wait for the end of the start-up.

        Raises:
            LifespanFailed: it failed, or took longer than `timeout` seconds.
        """
        with trio.move_on_after(timeout) as scope:
            await self._answered.wait()
        if scope.cancelled_caught:
            self.outcome = LifespanOutcome.START_FAILED
            logger.error("%s within %g s", self.outcome.value, timeout)
        if self.outcome is LifespanOutcome.START_FAILED:
            raise LifespanFailed

    async def stop(self, timeout: float) -> None:
        """Ask for shutdown and wait for its end, `timeout` seconds at most."""
        self._stop.set()
        self._shutdown_scope.deadline = min(self._shutdown_scope.deadline, trio.current_time() + timeout)
        with self._shutdown_scope:
            await self.ended.wait()
        if self._shutdown_scope.cancelled_caught:
            self.outcome = LifespanOutcome.SHUTDOWN_FAILED
            logger.error("%s in time", self.outcome.value)

    def hurry(self) -> None:
        """Let the shutdown, now or later, take `HURRIED_SHUTDOWN` seconds at most from now on."""
        self._shutdown_scope.deadline = min(
            self._shutdown_scope.deadline, trio.current_time() + HURRIED_SHUTDOWN
        )


@asynccontextmanager
async def open_lifespan(
    app: Application, mode: Mode, startup_timeout: float = inf, shutdown_timeout: float = inf
) -> AsyncIterator[Lifespan]:
    """Start an application's lifespan, and shut it down at the end of the block.

    The shutdown runs under its own deadline, also when the block ends by cancellation: it is shielded, never
    without a bound. Timeouts are in seconds.

    Raises:
        LifespanFailed: the application failed to start; the block is not entered.
    """
    lifespan = Lifespan(app, mode)
    if mode == "off":
        yield lifespan
        return
    failed = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lifespan.run, name="lifespan")
        try:
            await lifespan.start(startup_timeout)
            yield lifespan
        except LifespanFailed:
            failed = True  # raised below, where no nursery wraps it into a group
        finally:
            if lifespan.outcome is LifespanOutcome.STARTED:
                with trio.CancelScope(shield=True):
                    await lifespan.stop(shutdown_timeout)
            lifespan.scope.cancel()
    if failed:
        raise LifespanFailed(lifespan.outcome.value)
