from __future__ import annotations

import resource

import pytest

from tests.process.supervised import Supervised

AT_FIRST = 11  # the standard streams, the listening socket and a few more


@pytest.mark.parametrize("limit", range(AT_FIRST, AT_FIRST + 12))
def test_a_supervisor_with_few_descriptors_goes_on_with_the_workers_that_it_can_have(tmp_path, limit):
    def limit_descriptors():
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

    with Supervised(tmp_path, "-w", "8", preexec_fn=limit_descriptors) as server:
        server.wait_for_line(r"cannot be started.*Too many open files|worker 8 .* is ready")
        assert server.stop() == 0
    assert "Traceback" not in server.errors
