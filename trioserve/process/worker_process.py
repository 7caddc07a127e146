"""The main function of a worker: from the end of a socket pair to an exit status.

The supervisor's assignment comes first, then its orders. The end of the stream means that the supervisor is gone, and
counts as the order to drain, so no worker ever stays behind. While the application is imported Trio does not run; an
order to stop then interrupts the import through SIGIO. Nothing that was inherited is handed on to the application's own
subprocesses. What ends the worker before it is ready is logged here and told to the supervisor in one line.
"""

from __future__ import annotations

import fcntl
import logging
import os
import select
import signal
import socket
import sys
from contextlib import contextmanager
from functools import partial
from math import inf
from typing import TYPE_CHECKING

if __name__ == "__main__":
    # Ctrl-C reaches the whole process group, and the imports below take a while.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

import trio

from trioserve.config import ConfigError, parse_bind
from trioserve.process.control import (
    Command,
    ControlChannel,
    Failed,
    Order,
    Ready,
    Retire,
    receive_assignment,
)
from trioserve.process.ending import find_exit_code, summarise
from trioserve.process.exit_codes import CRASHED, STOPPED, UNUSABLE
from trioserve.process.exit_deadline import EXIT_GRACE, ExitDeadline
from trioserve.process.heartbeat import beat_interval, send_beats
from trioserve.process.preparation import Prepared, prepare
from trioserve.process.retirement import Retirement
from trioserve.process.serving import Serving, bound_stop
from trioserve.process.signal_latch import ignore_signals_at_last
from trioserve.process.signals import Intent, open_signals
from trioserve.process.stacks import register_stacks
from trioserve.process.standard_streams import open_standard_streams
from trioserve.process.title import set_title
from trioserve.server.listeners import BindError, Listener, build_listener

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from trioserve.process.app_loader import LoadedApp
    from trioserve.process.control import Assignment
    from trioserve.server.server import Server

OWN_SIGNALS = {
    signal.SIGTERM: Intent.STOP,
    signal.SIGUSR1: Intent.REOPEN_LOGS,
    signal.SIGQUIT: Intent.DUMP_TASKS,
}
"""What a worker itself obeys; everything else that operators send is the supervisor's."""
_UNHEEDED = (signal.SIGINT, signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU)
_ALL_SIGNALS = (*OWN_SIGNALS, *_UNHEEDED, signal.SIGIO)
_STOP_ORDERS = (Order.DRAIN, Order.STOP_NOW)
_PEEK_SIZE = 65536

logger = logging.getLogger("trioserve")


def main(sock: socket.socket, prepared: Prepared | None = None, assignment: Assignment | None = None) -> int:
    """Be a worker until the end, in the main thread of a process that is about to end.

    Args:
        sock: the worker's end of the control socket.
        prepared: what a parent has prepared, which became another user for it; None = that is done here.
        assignment: what to do; None = it is waiting in `sock`.

    Returns the exit status. Threads that are left then have a few seconds.
    """
    open_standard_streams()
    sock.set_inheritable(False)
    deadline = ExitDeadline()
    with _take_signals(deadline) as early:
        try:
            assignment = assignment or receive_assignment(sock)
        except (EOFError, OSError):
            return STOPPED  # nobody wants us any more
        status = _WorkerProcess(assignment, sock, deadline, early).run(prepared)
    deadline.set(EXIT_GRACE, status)
    return status


class _WorkerProcess:
    """One worker.

    Args:
        assignment: what to do.
        sock: the way to the supervisor.
        deadline: bounds the end of the process.
        early: knows what came before Trio ran.
    """

    def __init__(
        self, assignment: Assignment, sock: socket.socket, deadline: ExitDeadline, early: _EarlyOrders
    ) -> None:
        self._assignment = assignment
        self._config = assignment.loaded.config
        self._sock = sock
        self._deadline = deadline
        self._early = early
        self._channel: ControlChannel | None = None
        self._ready = False

    def run(self, prepared: Prepared | None) -> int:
        """Prepare and serve; returns the exit status, with the reason logged and told."""
        try:
            listening = self._take_over()
            self._early.begin(self._sock, bound_stop(self._config))
            set_title(self._config, f"worker {self._assignment.slot}")
            prepared = prepared or prepare(self._config)
            listeners = [
                build_listener(sock, parse_bind(bind), None if insecure else prepared.ssl_context)
                for sock, bind, insecure in listening
            ]
            self._early.end()
            trio.run(self._serve, prepared.application, listeners)
        except BaseException as error:
            self._early.end()
            status = self._conclude(error)
            if status != STOPPED and not self._ready:
                self._tell_failure(error)
            return status
        return STOPPED

    def _take_over(self) -> list[tuple[socket.socket, str, bool]]:
        """Take what was inherited, so that no subprocess inherits it again."""
        assignment = self._assignment
        if assignment.stacks >= 0:
            os.set_inheritable(assignment.stacks, False)
            register_stacks(assignment.stacks)
        found = []
        for inherited in assignment.sockets:
            sock = socket.socket(fileno=inherited.fd)
            sock.set_inheritable(False)
            found.append((sock, inherited.bind, inherited.insecure))
        return found

    def _conclude(self, error: BaseException) -> int:
        try:
            return find_exit_code(error, self._config)
        except (ConfigError, BindError):
            return UNUSABLE  # the supervisor says why

    def _tell_failure(self, error: BaseException) -> None:
        channel = self._channel or ControlChannel(self._sock)
        channel.send(Failed(summarise(error)))

    # -- in Trio ---------------------------------------------------------------------------------------------------

    async def _serve(self, application: LoadedApp, listeners: list[Listener]) -> None:
        self._channel = channel = ControlChannel(self._sock)
        with ignore_signals_at_last(_ALL_SIGNALS), open_signals(OWN_SIGNALS) as intents:
            if self._early.stop_asked:
                return
            async with trio.open_nursery() as nursery:
                announce = partial(self._announce, channel, nursery)
                serving = Serving(self._assignment.loaded, application, self._deadline, listeners, announce)
                nursery.start_soon(_follow_signals, intents, channel, serving, name="signals")
                nursery.start_soon(_follow_orders, channel, serving, name="orders")
                await serving.run()
                nursery.cancel_scope.cancel()
        logger.debug("stopped")

    def _announce(self, channel: ControlChannel, nursery: trio.Nursery, server: Server) -> None:
        self._ready = True
        channel.send(Ready(server.urls))
        settings = self._config.process
        nursery.start_soon(
            send_beats,
            channel.send,
            lambda: server.stats().requests_total,
            Retirement(settings, trio.current_time()),
            beat_interval(settings.heartbeat),
            name="heartbeat",
        )
        nursery.start_soon(_ask_for_a_successor, channel, server, name="successor")


async def _follow_signals(intents: AsyncIterator[Intent], channel: ControlChannel, serving: Serving) -> None:
    async for intent in intents:
        if intent is Intent.STOP:  # the supervisor need not wait for our end to find a successor
            channel.send(Retire("it was told to stop"))
        serving.follow(intent)


async def _ask_for_a_successor(channel: ControlChannel, server: Server) -> None:
    """Say so when nothing new is accepted any more; a supervisor that has ordered it does not heed that."""
    await server.draining.wait()
    channel.send(Retire("it drains"))


async def _follow_orders(channel: ControlChannel, serving: Serving) -> None:
    while (message := await channel.receive()) is not None:
        if not isinstance(message, Command):
            continue
        if message.order is Order.DRAIN:
            serving.drain()
        elif message.order is Order.STOP_NOW:
            serving.stop(now=True)
        elif message.order is Order.REOPEN_LOGS:
            serving.follow(Intent.REOPEN_LOGS)
        else:
            serving.follow(Intent.DUMP_TASKS)
    logger.warning("the supervisor is gone; its worker drains")
    serving.drain()


# -- before Trio runs ----------------------------------------------------------------------------------------------


class _EarlyOrders:
    """What asks the worker to stop while its event loop does not run: SIGTERM, an order, the end of the stream.

    Before Trio runs, the main thread is interrupted by KeyboardInterrupt, once; the order itself stays in the socket,
    where `_follow_orders` finds it if the application has swallowed the exception. Later only the end of the stream
    is looked at: a supervisor that is gone will not kill a worker whose loop is blocked, so its deadline begins.

    Attributes:
        stop_asked: SIGTERM has come before Trio ran.
    """

    def __init__(self, deadline: ExitDeadline) -> None:
        self.stop_asked = False
        self._deadline = deadline
        self._bound = inf
        self._interrupts = False
        self._sock: socket.socket | None = None

    def begin(self, sock: socket.socket, bound: float) -> None:
        """Interrupt from now on; nothing but orders comes over the socket any more.

        Args:
            sock: where they come from.
            bound: seconds that a blocked worker may live without a supervisor.
        """
        self._sock, self._bound = sock, bound
        self._interrupts = True
        fcntl.fcntl(sock, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(sock, fcntl.F_SETFL, fcntl.fcntl(sock, fcntl.F_GETFL) | os.O_ASYNC)
        self.look()  # what came before now raises no signal

    def end(self) -> None:
        """Interrupt no longer."""
        self._interrupts = False

    def look(self, *_: object) -> None:
        """Do what is to be done; the handler of SIGIO, which says that something has come."""
        if self._sock is None:
            return
        gone = _has_hung_up(self._sock)
        if gone and not self._interrupts:
            self._sock = None
            self._deadline.set(self._bound, CRASHED)
        elif gone or (self._interrupts and _is_told_to_stop(self._sock)):
            self._interrupt()

    def take_signal(self, number: int, _: object) -> None:
        """Take a signal of our own; the only one with a meaning as early as this is SIGTERM."""
        if number == signal.SIGTERM:
            self.stop_asked = True
            self._interrupt()

    def _interrupt(self) -> None:
        if self._interrupts:
            self._interrupts = False
            raise KeyboardInterrupt


def _has_hung_up(sock: socket.socket) -> bool:
    poll = select.poll()
    poll.register(sock, 0)  # a hang-up is always told
    return bool(poll.poll(0))


def _is_told_to_stop(sock: socket.socket) -> bool:
    try:
        waiting = sock.recv(_PEEK_SIZE, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except OSError:
        return False
    return any(f'"{order.value}"'.encode() in waiting for order in _STOP_ORDERS)


@contextmanager
def _take_signals(deadline: ExitDeadline) -> Iterator[_EarlyOrders]:
    """Take our signals while Trio does not."""
    early = _EarlyOrders(deadline)
    for number in _UNHEEDED:
        signal.signal(number, _do_nothing)
    for number in OWN_SIGNALS:
        signal.signal(number, early.take_signal)
    signal.signal(signal.SIGIO, early.look)
    with ignore_signals_at_last(_ALL_SIGNALS):
        yield early


def _do_nothing(number: int, frame: object) -> None:
    """Not SIG_IGN, which the application's subprocesses would inherit."""


if __name__ == "__main__":
    sys.exit(main(socket.socket(fileno=int(sys.argv[1]))))
