from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest

from trioserve.config import ConfigError, ProcessSettings
from trioserve.process.pid_file import hold_pid_file

HOLDER = """
import sys
from trioserve.config import ProcessSettings
from trioserve.process.pid_file import hold_pid_file
with hold_pid_file(ProcessSettings(pid_file=sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def file(tmp_path):
    return tmp_path / "web.pid"


def hold(file):
    return hold_pid_file(ProcessSettings(pid_file=str(file)))


def start_holder(file):
    command = [sys.executable, "-c", HOLDER, str(file)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_the_number_is_there_while_the_server_runs(file):
    with hold(file):
        assert file.read_text() == f"{os.getpid()}\n"
    assert not file.exists()


def test_without_the_setting_nothing_happens():
    with hold_pid_file(ProcessSettings()):
        pass


def test_a_file_is_removed_also_when_the_server_crashes(file):
    with pytest.raises(LookupError), hold(file):
        raise LookupError
    assert not file.exists()


@pytest.mark.parametrize("text", ["99999999\n", "1\n", f"{os.getpid()}\n", "", "what is this?\n" * 9])
def test_a_stale_file_is_taken_over_whatever_number_is_in_it(file, text):
    file.write_text(text)
    with hold(file):
        assert file.read_text() == f"{os.getpid()}\n"
    assert not file.exists()


def test_a_file_whose_holder_lives_is_refused_and_left_alone(file):
    with start_holder(file) as other:
        with (
            pytest.raises(ConfigError, match=rf"pid_file: {file} is held by process {other.pid}$"),
            hold(file),
        ):
            raise AssertionError
        assert file.read_text() == f"{other.pid}\n"
        other.stdin.write("\n")
    assert other.returncode == 0
    assert not file.exists()


def test_a_file_whose_holder_was_killed_is_taken_over(file):
    with start_holder(file) as other:
        other.kill()
    assert file.read_text() == f"{other.pid}\n"
    with hold(file):
        assert file.read_text() == f"{os.getpid()}\n"


def test_a_file_that_somebody_has_replaced_is_left_alone(file):
    with hold(file):
        file.unlink()
        file.write_text("another server's")
    assert file.read_text() == "another server's"


def test_a_file_that_somebody_has_removed(file):
    with hold(file):
        file.unlink()


def test_a_child_does_not_inherit_the_lock(file):
    with hold(file):
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        with hold(file):
            pass
    finally:
        child.kill()
        child.wait()


UNUSABLE = {
    "no directory": ("none/web.pid", "No such file or directory"),
    "a directory": (".", "Is a directory"),
    "a device": ("/dev/full", "/dev/full is not a file"),
    "a pipe": ("pipe", "pipe is not a file"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_what_cannot_be_a_pid_file_is_refused(tmp_path, name):
    path, reason = UNUSABLE[name]
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match=reason), hold(tmp_path / path):
        raise AssertionError
    assert os.path.exists("/dev/full")


def test_a_full_disk_is_an_error_and_leaves_nothing(file):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
    try:
        with pytest.raises(ConfigError, match="File too large"), hold(file):
            raise AssertionError
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not file.exists()
