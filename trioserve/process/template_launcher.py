"""The supervisor's side of `template.py`: asks for forks, and knows how they ended.

A template that has died, or could not load the application, is replaced with the next worker that is wanted. Its
workers outlive it; how those ended is then unknown. Like `launcher.py`, this is imported before Trio is.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
from typing import TYPE_CHECKING, Final

from trioserve.process.control import Assignment
from trioserve.process.launcher import WorkerEnds, assign, start_python, wait_for_exit

if TYPE_CHECKING:
    from collections.abc import Callable

    import trio

    from trioserve.config import LoadedConfig
    from trioserve.process.launcher import ChildProcess, Launched
    from trioserve.process.sockets import SocketSet

REQUEST: Final = struct.Struct("!II")
"""Number of the request, number of the slot. With it come the control socket, the pipe and the listening sockets."""
REPORT: Final = struct.Struct("!II?i")
"""Number of the request, pid (0 = there was no fork), whether it has ended, its exit status."""
REPORT_TIMEOUT: Final = 1.0
"""Seconds between the end of a forked worker and the template's report, and at last the template's own end."""
LAST_WORDS: Final = 0.2
"""Seconds that reports of a template that has ended may take; a child of it may hold its socket open."""
UNKNOWN_STATUS: Final = -int(signal.SIGKILL)
"""For a worker that nobody was left to reap."""


class TemplateLauncher:
    """Forks the workers of one configuration from a process that has imported the application.

    Args:
        loaded: the configuration.
        sockets: what they listen on.
    """

    def __init__(self, loaded: LoadedConfig, sockets: SocketSet) -> None:
        self._assignment = Assignment(loaded, sockets.describe(), 0)
        self._template: _TemplateProcess | None = None
        self._nursery: trio.Nursery | None = None
        self._over: trio.Event | None = None
        self._closed = False

    def start(self, slot: int) -> Launched:
        """Start a worker; see `Launcher`. Until the template has loaded the application it has no pid."""
        if self._template is None or self._template.spent:
            self._template = self._start_template()
        listening = [each.fd for each in self._assignment.sockets]
        try:
            return self._template.fork(slot, listening)
        except (BrokenPipeError, ConnectionResetError):  # it has died, and nobody has noticed yet
            self._template = self._start_template()
            return self._template.fork(slot, listening)

    def _start_template(self) -> _TemplateProcess:
        template = _TemplateProcess(self._assignment)
        if self._nursery is not None:
            self._nursery.start_soon(template.run, name="template")
        return template

    def close(self) -> None:
        """Ask for no more workers; see `Launcher`."""
        self._closed = True
        if self._over is not None:
            self._over.set()
        if self._template is not None:
            self._template.retire()

    async def run(self) -> None:
        """Hear what the templates report; see `Launcher`."""
        import trio

        self._over = trio.Event()
        async with trio.open_nursery() as self._nursery:
            if self._template is not None:
                self._nursery.start_soon(self._template.run, name="template")
            if not self._closed:
                await self._over.wait()


class _TemplateProcess:
    """One template.

    Args:
        assignment: what its workers are to do.

    Attributes:
        spent: it has gone, or cannot load the application; the next worker needs another one.
    """

    def __init__(self, assignment: Assignment) -> None:
        self.spent = False
        self._workers: list[_ForkedProcess] = []  # by number of the request
        self._sock, theirs = socket.socketpair()
        try:
            with theirs:
                self._process: ChildProcess = start_python("trioserve.process.template", theirs, ())
        except BaseException:
            self._sock.close()
            raise
        assign(self._sock, assignment)
        self._sock.setblocking(False)

    def fork(self, slot: int, listening: list[int]) -> Launched:
        """Ask for a worker; raises `OSError`."""
        with WorkerEnds() as ends:
            request = REQUEST.pack(len(self._workers), slot)
            socket.send_fds(self._sock, [request], [ends.control.fileno(), ends.stacks, *listening])
            worker = _ForkedProcess(self)
            self._workers.append(worker)
            return ends.launch(worker)

    def send_signal(self, number: int) -> None:
        """Send the template a signal."""
        self._process.send_signal(number)

    def is_wanted_beside(self, given_up: _ForkedProcess) -> bool:
        """Whether there are other workers, or requests for some."""
        return any(worker is not given_up for worker in self._living)

    @property
    def _living(self) -> list[_ForkedProcess]:
        return [worker for worker in self._workers if worker.status is None]

    def retire(self) -> None:
        """Let it end with its last worker, or at once if it has none."""
        self._ask_for_no_more()
        if not any(worker.pid for worker in self._living):
            self.send_signal(signal.SIGKILL)  # it may be importing, and has nothing to finish

    def _ask_for_no_more(self) -> None:
        self.spent = True
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has gone

    async def run(self) -> None:
        """Take its reports until it has ended."""
        import trio

        sock = trio.socket.from_stdlib_socket(self._sock)
        try:
            async with trio.open_nursery() as nursery:
                silent = trio.Event()
                nursery.start_soon(self._read, sock, silent)
                nursery.start_soon(self._end_when_silent, silent)
                status = await self._process.wait()
                with trio.move_on_after(LAST_WORDS):
                    await silent.wait()
                nursery.cancel_scope.cancel()
            for worker in self._workers:
                worker.lose_template(status)
        finally:
            self.spent = True
            sock.close()

    async def _end_when_silent(self, silent: trio.Event) -> None:
        import trio

        await silent.wait()
        await trio.sleep(REPORT_TIMEOUT)
        self.send_signal(signal.SIGKILL)

    async def _read(self, sock: trio.socket.SocketType, silent: trio.Event) -> None:
        received = b""
        while True:
            try:
                data = await sock.recv(4096)
            except ConnectionResetError:
                data = b""
            if not data:
                silent.set()
                return
            received += data
            whole = len(received) - len(received) % REPORT.size
            for number, pid, ended, status in REPORT.iter_unpack(received[:whole]):
                self._workers[number].note(pid, status if ended else None)
                if not pid:
                    self._ask_for_no_more()
            received = received[whole:]


class _ForkedProcess:
    """A worker that a template forks; see `WorkerProcess`.

    Args:
        template: which one.

    Attributes:
        pid: its number, 0 until the template has forked it.
        status: how it has ended.
    """

    def __init__(self, template: _TemplateProcess) -> None:
        self.pid = 0
        self.status: int | None = None
        self._template = template
        self._orphan = False
        self._exited = False
        self._terminated = False
        self._changed: trio.Event | None = None  # while somebody waits

    def note(self, pid: int, status: int | None) -> None:
        """Take a report."""
        if self.status is not None:
            return
        self.pid = self.pid or pid
        self.status = status
        self._tell()

    def lose_template(self, status: int) -> None:
        """Take note that nobody will report any more; without a fork the template's end is that of the worker."""
        self._orphan = True
        if self.status is None:
            self.note(self.pid, None if self.pid else status or 1)

    async def wait(self) -> int:
        """Wait for its end; see `WorkerProcess`."""
        import trio

        await self._wait_until(lambda: self.pid != 0 or self.status is not None)
        async with trio.open_nursery() as nursery:
            # The report may come first, and its pid may be another process's by now.
            nursery.start_soon(self._watch_exit)
            await self._wait_until(lambda: self._exited or self.status is not None)
            nursery.cancel_scope.cancel()
        with trio.move_on_after(REPORT_TIMEOUT):
            await self._wait_until(lambda: self._orphan or self.status is not None)
        if self.status is None:
            if not self._orphan:  # a template that does not report is of no use
                self._template.send_signal(signal.SIGKILL)
            self.status = UNKNOWN_STATUS
        return self.status

    async def _watch_exit(self) -> None:
        await wait_for_exit(self.pid)
        self._exited = True
        self._tell()

    async def _wait_until(self, fact: Callable[[], bool]) -> None:
        import trio

        while not fact():
            self._changed = trio.Event()
            await self._changed.wait()

    def _tell(self) -> None:
        if self._changed is not None:
            self._changed.set()

    def send_signal(self, number: int) -> None:
        """Send a signal. See `WorkerProcess`.

        Before the fork it is the template that has to end, when it takes too long: SIGTERM, then SIGKILL. SIGKILL
        alone means that nobody wants this worker any more; others may wait for the same template.
        """
        if self.status is not None:
            return
        if not self.pid:
            self._terminated = self._terminated or number == signal.SIGTERM
            if self._terminated or not self._template.is_wanted_beside(self):
                self._template.send_signal(number)
            else:
                self.note(0, -number)  # if it is forked yet, it finds that its supervisor has gone
            return
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            pass
