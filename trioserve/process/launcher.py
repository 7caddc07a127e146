"""Starting worker processes: fresh ones here, forks of a preloaded one through `template.py`.

Whatever started it, a worker is a `WorkerProcess` and our end of its control socket. What it inherits is counted:
the other end, the listening sockets, and a pipe for its stacks. This module is imported, and its first processes are
started, before Trio is: the first worker begins while the supervisor is still loading.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from trioserve.process.control import Assignment, send_assignment

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from trioserve.config import LoadedConfig
    from trioserve.process.sockets import SocketSet

ASSIGNMENT_TIMEOUT = 5.0
LOOK_INTERVAL = 0.1
"""Seconds between two looks whether a process is still there, where the system cannot tell."""


class WorkerProcess(Protocol):
    """A process that will end."""

    @property
    def pid(self) -> int:
        """Its number; 0 until it is known."""

    async def wait(self) -> int:
        """Wait for its end and return its exit status, or the negative number of the signal that ended it.

        Cancelling it loses nothing.
        """

    def send_signal(self, number: int) -> None:
        """Send a signal; one that has ended gets none."""


@dataclass(frozen=True, eq=False)
class Launched:
    """A worker that has been started, and what we hold of it.

    Args:
        process: the process.
        control: our end of its control socket.
        stacks: the reading end of its pipe.
    """

    process: WorkerProcess
    control: socket.socket
    stacks: int

    def close(self) -> None:
        """Let go of a worker that nobody looks after: the end of its control socket tells it to drain."""
        self.control.close()
        os.close(self.stacks)


class Launcher(Protocol):
    """A way of starting the workers of one configuration."""

    def start(self, slot: int) -> Launched:
        """Start a worker for the slot with that number; raises `OSError` when the system refuses."""

    def close(self) -> None:
        """Let go of what was needed to start more; those that run go on."""

    async def run(self) -> None:
        """Look after what is needed to start workers, until it is closed and they have ended."""


class SpawnLauncher:
    """Starts a fresh interpreter for each worker.

    Args:
        loaded: the configuration.
        sockets: what they listen on.
    """

    def __init__(self, loaded: LoadedConfig, sockets: SocketSet) -> None:
        self._loaded = loaded
        self._sockets = sockets.describe()

    def start(self, slot: int) -> Launched:
        """Start a worker; see `Launcher`."""
        with WorkerEnds() as ends:
            assignment = Assignment(self._loaded, self._sockets, slot, ends.stacks)
            inherited = [ends.stacks, *(each.fd for each in self._sockets)]
            process = start_python("trioserve.process.worker_process", ends.control, inherited)
            assign(ends.ours, assignment)
            return ends.launch(process)

    def close(self) -> None:
        """Nothing is held."""

    async def run(self) -> None:
        """Nothing has to be looked after."""


class WorkerEnds:
    """Both ends of a new worker's control socket and of its pipe, until it is started.

    Attributes:
        ours: our end of the control socket.
        control: the worker's.
        stacks: the writing end of the pipe.
    """

    def __init__(self) -> None:
        self.ours, self.control = socket.socketpair()
        try:
            self._reading, self.stacks = os.pipe()
        except BaseException:
            self.ours.close()
            self.control.close()
            raise
        self._launched = False

    def __enter__(self) -> WorkerEnds:
        return self

    def __exit__(self, *_: object) -> None:
        self.control.close()
        os.close(self.stacks)
        if not self._launched:
            self.ours.close()
            os.close(self._reading)

    def launch(self, process: WorkerProcess) -> Launched:
        """Keep what is ours of a worker that has been started, and return it."""
        self._launched = True
        return Launched(process, self.ours, self._reading)


def assign(control: socket.socket, assignment: Assignment) -> None:
    """Give a process that has just been started its assignment; one that has died already is told nothing."""
    control.settimeout(ASSIGNMENT_TIMEOUT)
    try:
        send_assignment(control, assignment)
    except OSError:
        pass


def start_python(module: str, control: socket.socket, inherited: Iterable[int]) -> ChildProcess:
    """Start `python -m module FD` with a control socket and other descriptors, under the numbers they have here."""
    fds = [control.fileno(), *inherited]
    command = [sys.executable, *_interpreter_flags(), "-m", module, str(control.fileno())]
    return ChildProcess(subprocess.Popen(command, pass_fds=fds))  # noqa: S603 - our own interpreter and module


def _interpreter_flags() -> Sequence[str]:
    """Options of this interpreter that a new one needs to behave alike."""
    flags = list(subprocess._args_from_interpreter_flags())  # type: ignore[attr-defined]
    if not sys.flags.safe_path and sys.path[:1] not in ([""], [_find_working_directory()]):
        # With -m the working directory would come first, and an email.py in it before Python's own.
        flags.append("-P")
    return flags


def _find_working_directory() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109 - as Python does
    except FileNotFoundError:  # nothing can be imported from there
        return None


_unreaped: set[int] = set()


def is_child_of_ours(pid: int) -> bool:
    """Whether somebody here has started that process, and will ask how it has ended."""
    return pid in _unreaped


class ChildProcess:
    """A child of this process.

    Args:
        popen: it, just started.
    """

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self._popen = popen
        self.pid = popen.pid
        _unreaped.add(self.pid)

    async def wait(self) -> int:
        """Wait for its end; see `WorkerProcess`."""
        if self._popen.poll() is None:
            await wait_for_exit(self.pid)
        status = self._popen.wait()
        _unreaped.discard(self.pid)
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal; see `WorkerProcess`."""
        self._popen.send_signal(number)


async def wait_for_exit(pid: int) -> None:
    """Wait until a process, which is a child or has not been reaped yet, has ended. Does not reap it."""
    import trio

    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except (AttributeError, OSError):  # another system, or no descriptors are left
        await _wait_without_descriptor(pid)
        return
    try:
        await trio.lowlevel.wait_readable(fd)
    finally:
        os.close(fd)


async def _wait_without_descriptor(pid: int) -> None:
    """Wait in a thread for a child; for a template's there is no better way than to look again and again."""
    import trio

    ours = trio.CapacityLimiter(1)  # the default one would let only so many workers be waited for
    if not await trio.to_thread.run_sync(_wait_blocking, pid, abandon_on_cancel=True, limiter=ours):
        while _is_there(pid):  # noqa: ASYNC110
            await trio.sleep(LOOK_INTERVAL)


def _wait_blocking(pid: int) -> bool:
    """Wait for a child; whether it is one, and has not been reaped."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def describe_status(status: int) -> str:
    """Say how a process ended: "exit status 1", "SIGKILL"."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
