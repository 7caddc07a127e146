from __future__ import annotations

import errno
import fcntl
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
import tty

import pytest

from trioserve.telemetry.line_writer import LineWriter
from trioserve.telemetry.turns import turns_of

WRITER = """
import random, sys
from trioserve.telemetry.line_writer import LineWriter

number, fd, count, longest = map(int, sys.argv[1:])
chance = random.Random(number)
writers = LineWriter(fd), LineWriter(fd, None, records=True)
for index in range(count):
    length = int(longest ** chance.random())
    writer = writers[index % 2]
    while writers[0].waiting or writers[1].waiting:
        for each in writers:
            each.finish(60)
    line = f"<{number} {index} {length} {'x' * length}>\\n"
    if index % 2:
        line += f"  [{number} {index} {length} {'y' * length}]\\n" * 3
    writer.write(line.encode())
while writers[0].waiting or writers[1].waiting:
    for each in writers:
        each.finish(60)
for each in writers:
    each.close(60)
    assert each.lost == 0
"""
PIECE = re.compile(
    rb"<(\d+) (\d+) (\d+) (x*)>\n(?:  \[\1 \2 \3 (y*)\]\n  \[\1 \2 \3 \5\]\n  \[\1 \2 \3 \5\]\n)?"
)


def start_writers(fd, count, longest):
    return [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(number), str(fd), str(count), str(longest)], pass_fds=[fd]
        )
        for number in range(4)
    ]


def check_whole(text, count):
    """Every line and record is there, whole, and those of one log of one process in order."""
    last = {}
    position = 0
    while position < len(text):
        match = PIECE.match(text, position)
        assert match, text[position : position + 200]
        position = match.end()
        number, index, length = map(int, match.groups()[:3])
        assert len(match[4]) == length
        assert (index % 2 == 0) or len(match[5]) == length
        assert last.get((number, index % 2), index % 2 - 2) == index - 2
        last[number, index % 2] = index
    assert sorted(last) == [(number, odd) for number in range(4) for odd in (0, 1)]
    assert all(index >= count - 2 for index in last.values())


def end_all(processes):
    for process in processes:
        process.kill()
        process.wait()


def open_pipe():
    return os.pipe()


def open_socket():
    first, second = socket.socketpair()
    return first.detach(), second.detach()


def open_terminal():
    reading, writing = pty.openpty()
    tty.setraw(writing)
    return reading, writing


@pytest.mark.parametrize(
    ("open_pair", "count", "longest"),
    [(open_pipe, 1000, 20_000), (open_socket, 1000, 20_000), (open_terminal, 300, 20_000)],
)
def test_lines_and_records_of_four_processes_stay_whole(open_pair, count, longest):
    reading, writing = open_pair()
    processes = start_writers(writing, count, longest)
    os.close(writing)
    received = bytearray()
    try:
        while data := read_or_end(reading):
            received += data
            if len(received) % 7 == 0:
                time.sleep(0.001)  # a reader that falls behind now and then
        assert [process.wait(20) for process in processes] == [0] * 4
    finally:
        end_all(processes)
        os.close(reading)
    check_whole(bytes(received), count)


def read_or_end(fd):
    try:
        return os.read(fd, 10_000)
    except OSError:  # EIO is the end of a terminal
        return b""


def test_lines_and_records_of_four_processes_stay_whole_in_a_file(tmp_path):
    path = tmp_path / "one.log"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    processes = start_writers(fd, 1000, 20_000)
    os.close(fd)
    try:
        assert [process.wait(20) for process in processes] == [0] * 4
    finally:
        end_all(processes)
    check_whole(path.read_bytes(), 1000)


@pytest.fixture
def pipe():
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)
    os.close(writing)


LONG = b"a" * 100_000 + b"\n"  # more than a pipe holds


def test_the_turn_lasts_until_a_long_line_is_whole_and_nobody_waits_for_it(pipe):
    reading, writing = pipe
    first, second = LineWriter(writing), LineWriter(os.dup(writing))
    first.write(LONG)
    second.write(b"short\n")
    assert first.waiting
    assert second.waiting
    received = b""
    while first.waiting or second.waiting:
        received += os.read(reading, 65536)
        second.write(b"")
        first.write(b"")
    os.set_blocking(reading, False)
    assert received + os.read(reading, 65536) == LONG + b"short\n"


def test_a_process_that_dies_in_its_turn_gives_it_up(pipe):
    reading, writing = pipe
    child = os.fork()
    if child == 0:
        LineWriter(writing).write(LONG)
        signal.pause()
    while len(os.read(reading, 4096)) < 4096:
        pass
    writer = LineWriter(writing)
    writer.write(b"waits\n")
    assert writer.waiting
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.set_blocking(reading, False)
    received = b""
    writer.write(b"")
    while writer.waiting:
        received += os.read(reading, 65536)
        writer.write(b"")
    assert (received + os.read(reading, 65536)).endswith(b"waits\n")


def test_a_forked_process_writes_nothing_of_its_parent_and_has_no_turn(pipe):
    writing = pipe[1]
    writer = LineWriter(writing)
    writer.write(LONG + b"waiting\n")
    assert writer.waiting
    child = os.fork()
    if child == 0:
        held = turns_of(writing).take(writer, writing)
        os._exit(int(held or writer.waiting))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_thing_that_cannot_be_locked_is_written_to_all_the_same(pipe, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EINVAL, "no locks here")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    reading, writing = pipe
    LineWriter(writing).write(b"line\n")
    assert os.read(reading, 100) == b"line\n"


def test_devices_and_files_have_no_turns(tmp_path):
    for path in (tmp_path / "file", "/dev/null", "/dev/full"):
        with open(path, "ab") as file:
            assert turns_of(file.fileno()) is None
