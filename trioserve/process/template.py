"""A process that has imported the application and makes workers by forking itself (`preload = true`).

`main` is the template process, `TemplateLauncher` its counterpart in the supervisor. The template never
runs Trio and starts no thread, so that a fork of it is whole; it keeps no listening socket, but gets those of each
worker with the request for it. It reaps the workers and reports how they ended. The end of its socket is the order
to ask for no more: it ends with its last worker. A reload makes a new template, which imports the new code.
"""

from __future__ import annotations

import gc
import logging
import os
import select
import signal
import socket
import sys
import threading

if __name__ == "__main__":
    # Ctrl-C reaches the whole process group, and the imports below take a while.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

from msgspec.structs import replace

from trioserve.process import worker_process
from trioserve.process.control import Assignment, Failed, receive_assignment, send_message
from trioserve.process.ending import find_exit_code, summarise
from trioserve.process.exit_codes import CRASHED, UNUSABLE
from trioserve.process.preparation import Prepared, prepare
from trioserve.process.template_launcher import REPORT, REQUEST
from trioserve.process.title import set_title

logger = logging.getLogger("trioserve")


def main(sock: socket.socket) -> int:
    """Be a template until the supervisor asks for no more, or be one of its workers.

    Args:
        sock: the template's end of its control socket; an assignment is waiting in it, of which the configuration
            and the order of the sockets are used.

    Returns the exit status, in the template and in each process that it forks.
    """
    sock.set_inheritable(False)
    try:
        assignment = receive_assignment(sock)
    except (EOFError, OSError):
        return 0
    template = _Template(sock, assignment)
    set_title(assignment.loaded.config, "template")
    template.load()
    born = template.run()
    if born is None:
        return 0
    return worker_process.main(born.control, template.prepared, born.assignment)


class _Birth:
    """What a worker is born with."""

    def __init__(self, control: socket.socket, assignment: Assignment) -> None:
        self.control = control
        self.assignment = assignment


class _Template:
    """The template process.

    Args:
        sock: the way to the supervisor.
        assignment: what all workers are to do.
    """

    def __init__(self, sock: socket.socket, assignment: Assignment) -> None:
        self.prepared: Prepared | None = None
        self._sock = sock
        self._assignment = assignment
        self._failure: tuple[int, str] | None = None  # exit status and reason
        self._requests: dict[int, int] = {}  # pid -> request
        self._wakeup, self._wake = socket.socketpair()

    def load(self) -> None:
        """Prepare everything and import the application; a failure is told to all who ask for workers."""
        config = self._assignment.loaded.config
        try:
            self.prepared = prepare(config)
        except BaseException as error:
            self._failure = _judge(error, self._assignment), summarise(error)
        # What is there now is shared by all workers: a collection would write to it, and so copy it.
        gc.collect()
        gc.freeze()

    def run(self) -> _Birth | None:
        """Fork a worker for each request; return in a worker what it has, and in the template None at the end."""
        # Its end comes with that of its socket; a signal for all processes of a service is meant for the workers.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self._wake.setblocking(False)
        signal.signal(signal.SIGCHLD, _do_nothing)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        open_for_requests = True
        while open_for_requests or self._requests:
            waiting = [self._wakeup, self._sock] if open_for_requests else [self._wakeup]
            ready, _, _ = select.select(waiting, [], [])
            if self._wakeup in ready:
                self._wakeup.recv(4096)
                self._reap()
            if self._sock in ready:
                count = 2 + len(self._assignment.sockets)
                data, fds, _, _ = socket.recv_fds(self._sock, REQUEST.size, count)
                open_for_requests = len(data) == REQUEST.size and len(fds) == count
                if not open_for_requests:
                    continue
                request, slot = REQUEST.unpack(data)
                if (born := self._answer(request, slot, fds)) is not None:
                    return born
        return None

    def _answer(self, request: int, slot: int, fds: list[int]) -> _Birth | None:
        """Fork, and return in the worker what it has."""
        if self._failure is not None:
            status, reason = self._failure
            with socket.socket(fileno=os.dup(fds[0])) as control:
                send_message(control, Failed(reason))
            self._report(request, 0, status)
        elif (born := self._fork(request, slot, fds)) is not None:
            return born
        for fd in fds:
            os.close(fd)
        return None

    def _fork(self, request: int, slot: int, fds: list[int]) -> _Birth | None:
        if threading.active_count() > 1:
            names = ", ".join(sorted(thread.name for thread in threading.enumerate()))
            logger.warning(
                "the application has started threads at import, which workers will lack: %s", names
            )
        try:
            pid = os.fork()
        except OSError as error:
            logger.error("cannot fork a worker: %s", error.strerror)
            self._report(request, 0, CRASHED)
            return None
        if pid == 0:
            # Its pid has to be known before it says that it is ready, and its parent may be slow.
            self._report(request, os.getpid(), None)
            return self._become_worker(slot, fds)
        self._requests[pid] = request
        return None

    def _become_worker(self, slot: int, fds: list[int]) -> _Birth:
        """Leave everything of the template behind."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for sock in (self._sock, self._wakeup, self._wake):
            sock.close()
        control, stacks, *listening = fds
        there = zip(self._assignment.sockets, listening, strict=True)
        sockets = tuple([replace(each, fd=fd) for each, fd in there])
        assignment = replace(self._assignment, sockets=sockets, slot=slot, stacks=stacks)
        return _Birth(socket.socket(fileno=control), assignment)

    def _reap(self) -> None:
        """Report all who have ended; children of the application are none of ours."""
        for pid in tuple(self._requests):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                self._report(self._requests.pop(pid), pid, os.waitstatus_to_exitcode(status))

    def _report(self, request: int, pid: int, status: int | None) -> None:
        try:
            self._sock.sendall(REPORT.pack(request, pid, status is not None, status or 0))
        except OSError:
            pass  # the supervisor has gone


def _judge(error: BaseException, assignment: Assignment) -> int:
    """Log why the application cannot be served, and give the exit status of workers that fail for it."""
    try:
        return find_exit_code(error, assignment.loaded.config)
    except Exception:  # what its user has to mend, which the supervisor says
        return UNUSABLE


def _do_nothing(number: int, frame: object) -> None:
    """Let the wakeup descriptor tell; the default for SIGCHLD would be not to call anybody."""


if __name__ == "__main__":
    sys.exit(main(socket.socket(fileno=int(sys.argv[1]))))
