"""What signals mean while Trio does not receive them: before it runs, and at the very end.

The end matters as much as the beginning: the interpreter gives signals with handlers their default meaning when it
ends, which is death for most, and the exit code must be ours.
"""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

from trioserve.process.signals import INTENTS, Intent

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class SignalLatch:
    """The handler of our signals while Trio does not receive them.

    Attributes:
        interrupts: a stop signal raises KeyboardInterrupt; otherwise it is only noted. The import of an application
            and the resolving of names may take long and have to be interrupted, Trio must not be.
        stop_asked: a stop signal has come.
    """

    def __init__(self) -> None:
        self.interrupts = True
        self.stop_asked = False

    def __call__(self, number: int, _: object) -> None:
        """Note a signal; all but stop signals come too early to mean anything."""
        if INTENTS[signal.Signals(number)] is Intent.STOP:
            self.stop_asked = True
            if self.interrupts:
                raise KeyboardInterrupt


@contextmanager
def latch_signals() -> Iterator[SignalLatch]:
    """Latch our signals while the body runs, in the main thread of a process that ends after it."""
    latch = SignalLatch()
    with ignore_signals_at_last():
        try:
            for number in INTENTS:
                signal.signal(number, latch)
            yield latch
        finally:
            latch.interrupts = False


@contextmanager
def ignore_signals_at_last(numbers: Iterable[int] = INTENTS) -> Iterator[None]:
    """Ignore signals from the end of the body on.

    Use it inside Trio too: Trio closes the descriptor that handlers write to before it takes it back.
    """
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
