from __future__ import annotations

import signal

from tests.process.supervised import Supervised, wait_until


def test_the_application_is_imported_once_for_all_workers(tmp_path):
    with Supervised(tmp_path, "-w", "4", "--process-preload") as server:
        url = server.wait_until_serving()
        workers = server.wait_for_workers(4)
        imported = server.events("import")
        assert len(imported) == 1
        assert imported[0] not in workers
        assert sorted(server.events("startup")) == sorted(workers)
        assert int(server.ask(url)) in workers

        server.reload(4)
        assert len(server.events("import")) == 2
        wait_until(lambda: imported[0] not in server.processes(), "the old template has ended")
        assert server.stop() == 0
        assert len(server.events("shutdown")) == 8


def test_without_it_every_worker_imports(tmp_path):
    with Supervised(tmp_path, "-w", "3") as server:
        server.wait_until_serving()
        assert sorted(server.events("import")) == sorted(server.wait_for_workers(3))
        assert server.stop() == 0


def test_a_killed_template_is_made_anew(tmp_path):
    import os

    with Supervised(tmp_path, "-w", "2", "--process-preload") as server:
        url = server.wait_until_serving()
        server.wait_for_workers(2)
        os.kill(server.events("import")[0], signal.SIGKILL)
        wait_until(lambda: len(server.events("import")) == 2 or server.ask(url), "somebody serves")
        os.kill(server.ready[0], signal.SIGKILL)
        server.wait_for_workers(3)
        assert server.ask(url)
        assert server.stop() == 0
        assert server.processes() == set()
