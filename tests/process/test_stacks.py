from __future__ import annotations

import os
import select
import subprocess
import sys

import pytest

from trioserve.process.stacks import STACKS_SIGNAL

CHILD = """
import os, sys, threading, time
import trio
from trioserve.process.stacks import register_stacks
register_stacks(int(sys.argv[1]))

def sleeping():
    os.write(1, b"there\\n")
    time.sleep(60)

def computing():
    os.write(1, b"there\\n")
    while True:
        pass

def in_c():
    os.write(1, b"there\\n")
    pow(3, 1 << 40)

def deep(levels=90):
    if levels:
        return deep(levels - 1)
    sleeping()

def many():
    for _ in range(100):
        threading.Thread(target=deep, daemon=True).start()
    time.sleep(60)

async def main():
    globals()[sys.argv[2]]()

trio.run(main)
"""


def read_for_a_moment(fd):
    received = b""
    while select.select([fd], [], [], 2.0 if not received else 0.3)[0]:
        received += os.read(fd, 65536)
    return received.decode()


@pytest.fixture
def child():
    children = []

    def start(behaviour):
        reading, writing = os.pipe()
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(writing), behaviour], pass_fds=[writing], stdout=subprocess.PIPE
        )
        os.close(writing)
        children.append((process, reading))
        return process, reading

    yield start
    for process, reading in children:
        process.kill()
        process.wait()
        process.stdout.close()
        os.close(reading)


@pytest.mark.parametrize("behaviour", ["sleeping", "computing", "in_c"])
def test_stacks_of_a_loop_that_does_not_run(child, behaviour):
    process, reading = child(behaviour)
    assert process.stdout.readline() == b"there\n"
    for _ in range(2):
        process.send_signal(STACKS_SIGNAL)
        text = read_for_a_moment(reading)
        assert "(most recent call first)" in text
        assert f"in {behaviour}" in text
        assert text.index(f"in {behaviour}") < text.index("in main")
    assert process.poll() is None


def test_stacks_that_nobody_reads_do_not_stop_the_process(child):
    process, reading = child("many")
    for _ in range(100):
        assert process.stdout.readline() == b"there\n"
    for _ in range(3):  # far more than a pipe holds
        process.send_signal(STACKS_SIGNAL)
    assert len(read_for_a_moment(reading)) > 60_000
    process.send_signal(STACKS_SIGNAL)
    assert "(most recent call first)" in read_for_a_moment(reading)
