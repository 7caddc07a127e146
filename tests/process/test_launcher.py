from __future__ import annotations

import json
import os
import signal
import socket
import sys

import pytest
import trio

from trioserve.config import Config, LoadedConfig
from trioserve.process import launcher
from trioserve.process.control import Assignment, receive_assignment
from trioserve.process.launcher import WorkerEnds, assign, describe_status, start_python, wait_for_exit

CHILD = """
import json, os, sys
from trioserve.process.control import receive_assignment
import socket
sock = socket.socket(fileno=int(sys.argv[1]))
assignment = receive_assignment(sock)
there = sorted(int(fd) for fd in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd/" + fd))
sock.sendall(json.dumps([assignment.slot, there, sys.flags.safe_path, sys.flags.optimize]).encode())
sys.exit(assignment.slot)
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module that can be started with -m by its name."""
    (tmp_path / "child_of_a_test.py").write_text(CHILD)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return "child_of_a_test"


@pytest.fixture
def assignment():
    return Assignment(LoadedConfig(Config(app="main:app"), None), (), 7)


def count_descriptors():
    return len(os.listdir("/proc/self/fd"))


async def test_a_process_gets_what_it_needs_and_nothing_else(module, assignment):
    before = count_descriptors()
    with socket.create_server(("127.0.0.1", 0)) as listening, WorkerEnds() as ends:
        given = [ends.control.fileno(), ends.stacks, listening.fileno()]
        process = start_python(module, ends.control, given[1:])
        assign(ends.ours, assignment)
        launched = ends.launch(process)
        answer = json.loads(launched.control.recv(65536))
        assert answer == [7, sorted([0, 1, 2, *given]), answer[2], sys.flags.optimize]
        with trio.fail_after(20):
            assert await process.wait() == 7
            assert await process.wait() == 7
    process.send_signal(signal.SIGTERM)  # nobody gets it
    launched.close()
    assert count_descriptors() == before


async def test_waiting_for_a_process_that_is_killed(module):
    with WorkerEnds() as ends:
        process = start_python(module, ends.control, ())
        with trio.move_on_after(0.05) as scope:
            await process.wait()
        assert scope.cancelled_caught
        process.send_signal(signal.SIGKILL)
        with trio.fail_after(20):
            assert await process.wait() == -signal.SIGKILL


async def test_waiting_without_pidfd(module, monkeypatch):
    monkeypatch.delattr(os, "pidfd_open")
    with WorkerEnds() as ends:
        process = start_python(module, ends.control, ())
        process.send_signal(signal.SIGKILL)
        with trio.fail_after(20):
            await wait_for_exit(process.pid)
            assert await process.wait() == -signal.SIGKILL
            await wait_for_exit(process.pid)  # it has been reaped


def test_an_assignment_to_a_process_that_has_died_is_no_error(assignment):
    with WorkerEnds() as ends:
        ends.control.close()
        assign(ends.ours, assignment)


def test_an_assignment_arrives_whatever_its_size(assignment):
    with WorkerEnds() as ends:
        assign(ends.ours, assignment)
        assert receive_assignment(ends.control) == assignment


def test_ends_that_were_not_used_are_closed():
    before = count_descriptors()
    with WorkerEnds():
        assert count_descriptors() == before + 4
    assert count_descriptors() == before


def test_without_descriptors_nothing_leaks(monkeypatch):
    before = count_descriptors()

    def refuse():
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pipe", refuse)
    with pytest.raises(OSError, match="Too many"):
        WorkerEnds()
    assert count_descriptors() == before


@pytest.mark.parametrize(
    ("first", "flagged"), [("", False), (None, False), ("/usr/bin", True)], ids=["empty", "cwd", "script"]
)
def test_the_working_directory_is_on_the_path_of_workers_only_if_it_is_on_ours(monkeypatch, first, flagged):
    monkeypatch.setattr(sys, "path", [os.getcwd() if first is None else first, *sys.path[1:]])
    assert ("-P" in launcher._interpreter_flags()) is flagged


@pytest.mark.parametrize(
    ("status", "text"), [(0, "exit status 0"), (3, "exit status 3"), (-9, "SIGKILL"), (-100, "signal 100")]
)
def test_a_status_in_words(status, text):
    assert describe_status(status) == text
