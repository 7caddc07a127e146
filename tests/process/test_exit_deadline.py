from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

BOUND = 3.0  # long enough to stop the process before it

PROGRAM = """
import sys, threading
from trioserve.process.exit_deadline import ExitDeadline
deadline = ExitDeadline()
deadline.set(float(sys.argv[1]), 7)
print("set", flush=True)
sys.stdin.readline()  # the end takes as long as the test wants
sys.exit(5)
"""


def start(seconds):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(seconds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"set\n"
    return process


def test_a_process_that_does_not_end_is_ended():
    with start(1.0) as process:
        assert process.wait(20) == 7
        assert b"the process ends although it has not finished" in process.stderr.read()


def test_a_process_that_was_stopped_over_its_deadline_may_still_end_by_itself():
    with start(BOUND) as process:
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(BOUND + 1.5)  # nothing tells that a deadline has passed in a process that is stopped
        os.kill(process.pid, signal.SIGCONT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.stdin.close()
        assert process.wait(20) == 5


def test_a_process_that_was_stopped_over_its_deadline_has_to_end_soon():
    with start(BOUND) as process:
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(BOUND + 1.5)
        os.kill(process.pid, signal.SIGCONT)
        assert process.wait(20) == 7
