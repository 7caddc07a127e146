"""The template and its launcher, with real processes and without a supervisor."""

from __future__ import annotations

import os
import signal
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from trioserve.config import Config, LoadedConfig, LoggingSettings
from trioserve.process.control import Beat, ControlChannel, Failed, Ready
from trioserve.process.sockets import open_sockets
from trioserve.process.template_launcher import REPORT_TIMEOUT, UNKNOWN_STATUS, TemplateLauncher

APP = """
import os
imported = os.getpid()
async def app(scope, receive, send):
    raise NotImplementedError
"""


@asynccontextmanager
async def open_launcher(directory, source=APP):
    (directory / "main.py").write_text(source)
    config = Config(
        app="main:app", app_dir=str(directory), bind="127.0.0.1:0", logging=LoggingSettings(level="critical")
    )
    sockets = open_sockets(config)
    launcher = TemplateLauncher(LoadedConfig(config, None), sockets)
    try:
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(launcher.run)
                yield launcher
                launcher.close()
    finally:
        sockets.close()


class Worker:
    def __init__(self, launched):
        self.launched = launched
        self.process = launched.process
        self.channel = ControlChannel(launched.control)

    async def receive_of(self, kind):
        while (message := await self.channel.receive()) is not None:
            if isinstance(message, kind):
                return message
            assert isinstance(message, Beat)
        raise AssertionError(f"{kind} never came")

    def let_go(self):
        self.channel.close()
        os.close(self.launched.stacks)


def parent_of(pid):
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])


def children_of(pid):
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def is_alive(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"


def count_descriptors():
    return len(os.listdir("/proc/self/fd"))


async def test_workers_are_forked_and_end_when_their_control_socket_does(tmp_path):
    before = count_descriptors()
    async with open_launcher(tmp_path) as launcher:
        workers = [Worker(launcher.start(slot)) for slot in (1, 2)]
        urls = [(await worker.receive_of(Ready)).urls for worker in workers]
        assert urls[0] == urls[1]
        template = {parent_of(worker.process.pid) for worker in workers}
        assert len(template) == 1
        assert template != {os.getpid()}
        for worker in workers:
            worker.let_go()
        assert [await worker.process.wait() for worker in workers] == [0, 0]
    assert count_descriptors() == before


async def test_the_template_ends_with_its_last_worker(tmp_path):
    async with open_launcher(tmp_path) as launcher:
        worker = Worker(launcher.start(1))
        await worker.receive_of(Ready)
        template = parent_of(worker.process.pid)
        launcher.close()
        await worker.receive_of(Beat)
        os.kill(template, 0)
        worker.let_go()
        assert await worker.process.wait() == 0
    with pytest.raises(ProcessLookupError):
        os.kill(template, 0)


async def test_how_a_worker_ended_is_reported(tmp_path):
    async with open_launcher(tmp_path) as launcher:
        worker = Worker(launcher.start(1))
        await worker.receive_of(Ready)
        worker.process.send_signal(signal.SIGUSR2)
        assert await worker.process.wait() == -signal.SIGUSR2
        worker.process.send_signal(signal.SIGKILL)  # nobody gets it
        worker.let_go()


async def test_an_application_that_cannot_be_loaded_fails_every_worker_and_the_next_template_tries_again(
    tmp_path,
):
    async with open_launcher(tmp_path, "1 / 0") as launcher:
        workers = [Worker(launcher.start(slot)) for slot in (1, 2)]
        for worker in workers:
            assert "ZeroDivisionError" in (await worker.receive_of(Failed)).reason
            assert await worker.process.wait() == 3
            worker.let_go()
        (tmp_path / "main.py").write_text(APP)
        worker = Worker(launcher.start(1))
        await worker.receive_of(Ready)
        worker.let_go()
        assert await worker.process.wait() == 0


async def test_workers_outlive_a_template_that_is_killed(tmp_path):
    async with open_launcher(tmp_path) as launcher:
        first = Worker(launcher.start(1))
        await first.receive_of(Ready)
        template = parent_of(first.process.pid)
        os.kill(template, signal.SIGKILL)
        await first.receive_of(Beat)
        while parent_of(first.process.pid) == template:
            await trio.lowlevel.checkpoint()
        first.let_go()
        assert await first.process.wait() == UNKNOWN_STATUS
        second = Worker(launcher.start(1))
        await second.receive_of(Ready)
        assert parent_of(second.process.pid) != template
        second.let_go()
        assert await second.process.wait() == 0


async def test_a_template_that_is_stopped_is_of_no_use(tmp_path):
    async with open_launcher(tmp_path) as launcher:
        worker = Worker(launcher.start(1))
        await worker.receive_of(Ready)
        os.kill(parent_of(worker.process.pid), signal.SIGSTOP)
        worker.process.send_signal(signal.SIGKILL)
        assert await worker.process.wait() == UNKNOWN_STATUS
        worker.let_go()


async def test_a_template_that_never_ends_its_import_is_ended_with_its_worker(tmp_path):
    async with open_launcher(tmp_path, "import threading; threading.Event().wait()") as launcher:
        worker = Worker(launcher.start(1))
        assert worker.process.pid == 0
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.process.wait() == -signal.SIGTERM
        worker.let_go()


async def test_closing_ends_a_template_that_still_imports(tmp_path):
    async with open_launcher(tmp_path, "import threading; threading.Event().wait()") as launcher:
        worker = Worker(launcher.start(1))
        launcher.close()
        assert await worker.process.wait() == -signal.SIGKILL
        worker.let_go()


async def test_the_pid_of_a_worker_is_known_before_it_is_ready(tmp_path):
    slow = "import time\nos.register_at_fork(after_in_parent=lambda: time.sleep(1))\n"
    async with open_launcher(tmp_path, APP + slow) as launcher:
        worker = Worker(launcher.start(1))
        await worker.receive_of(Ready)
        await trio.testing.wait_all_tasks_blocked()
        assert worker.process.pid
        worker.let_go()
        assert await worker.process.wait() == 0


async def test_a_template_is_gone_also_when_a_child_of_the_application_holds_its_socket(tmp_path):
    fork = "import time\nif os.fork() == 0:\n    time.sleep(60)\n    os._exit(0)\n"
    async with open_launcher(tmp_path, APP + fork) as launcher:
        first = Worker(launcher.start(1))
        await first.receive_of(Ready)
        template = parent_of(first.process.pid)
        (helper,) = children_of(template) - {first.process.pid}
        try:
            os.kill(template, signal.SIGKILL)
            first.let_go()
            assert await first.process.wait() == UNKNOWN_STATUS
            second = Worker(launcher.start(1))
            await second.receive_of(Ready)
            second.let_go()
            assert await second.process.wait() == 0
        finally:
            os.kill(helper, signal.SIGKILL)


async def test_a_template_that_has_just_died_is_replaced_at_once(tmp_path):
    async with open_launcher(tmp_path) as launcher:
        first = Worker(launcher.start(1))
        await first.receive_of(Ready)
        template = parent_of(first.process.pid)
        os.kill(template, signal.SIGKILL)
        while is_alive(template):  # nothing is awaited, so that nobody takes note
            pass
        second = Worker(launcher.start(1))
        await second.receive_of(Ready)
        assert parent_of(second.process.pid) != template
        for worker in (first, second):
            worker.let_go()
            await worker.process.wait()


async def test_workers_are_waited_for_where_processes_have_no_descriptors(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "pidfd_open")
    async with open_launcher(tmp_path) as launcher:
        first, second = (Worker(launcher.start(slot)) for slot in (1, 2))
        for worker in (first, second):
            await worker.receive_of(Ready)
        template = parent_of(first.process.pid)
        with trio.move_on_after(1.5 * REPORT_TIMEOUT) as scope:
            await first.process.wait()
        assert scope.cancelled_caught
        first.process.send_signal(signal.SIGUSR2)
        assert await first.process.wait() == -signal.SIGUSR2
        os.kill(template, signal.SIGKILL)
        second.let_go()
        assert await second.process.wait() == UNKNOWN_STATUS
        first.let_go()


async def test_giving_up_one_worker_leaves_the_template_to_the_others(tmp_path):
    slow = "import time\ntime.sleep(1)\n"
    async with open_launcher(tmp_path, APP + slow) as launcher:
        first, second = (Worker(launcher.start(slot)) for slot in (1, 2))
        first.process.send_signal(signal.SIGKILL)
        assert await first.process.wait() == -signal.SIGKILL
        first.let_go()
        await second.receive_of(Ready)
        template = parent_of(second.process.pid)
        only = {second.process.pid}  # the first one is forked, finds that nobody wants it, and ends
        while children_of(template) != only:  # noqa: ASYNC110
            await trio.sleep(0.01)
        second.let_go()
        assert await second.process.wait() == 0


async def test_a_template_that_takes_too_long_is_ended_for_all(tmp_path):
    async with open_launcher(tmp_path, "import threading; threading.Event().wait()") as launcher:
        first, second = (Worker(launcher.start(slot)) for slot in (1, 2))
        first.process.send_signal(signal.SIGTERM)
        for worker in (first, second):
            assert await worker.process.wait() == -signal.SIGTERM
            worker.let_go()
