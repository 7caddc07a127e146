from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.process.supervised import Supervised, wait_until

ORPHANS = 'import subprocess; subprocess.run(["sh", "-c", "(sleep 0.1; exit 3) & sleep 0.2 & true"])'


class Init(Supervised):
    """A supervisor that is the first process of a namespace of its own, as in a container."""

    command = (
        *("unshare", *(() if os.geteuid() == 0 else ("--user", "--map-root-user"))),
        *("--pid", "--fork", "--kill-child", sys.executable, "-m", "trioserve"),
    )

    @property
    def supervisor(self):
        """Its pid for everybody else."""
        (pid,) = find_children(self.process.pid)
        return pid


def find_children(pid):
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


@pytest.mark.parametrize("options", [(), ("--process-preload",)], ids=["spawned", "preloaded"])
def test_the_first_process_of_a_container_reaps_what_others_leave(tmp_path, options):
    with Init(tmp_path, *options, env={"APP_AT_STARTUP": ORPHANS}) as server:
        url = server.wait_until_serving()
        supervisor = server.supervisor
        wait_until(lambda: len(find_children(supervisor)) == 1, "only what the supervisor started is left")
        assert int(server.ask(url)) == server.ready[0]
        os.kill(supervisor, signal.SIGTERM)
        assert server.wait() == 0


def test_its_own_workers_still_end_with_the_status_that_they_had(tmp_path):
    with Init(tmp_path) as server:
        url = server.wait_until_serving()
        for number in range(3):
            (worker,) = find_children(server.supervisor)
            os.kill(worker, signal.SIGKILL)
            server.wait_for_line(rf"worker 1 \({server.ready[number]}\) has died \(SIGKILL\)")
            server.wait_for_workers(number + 2)
        assert int(server.ask(url)) == server.ready[-1]
        os.kill(server.supervisor, signal.SIGTERM)
        assert server.wait() == 0
