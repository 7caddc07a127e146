from __future__ import annotations

import os
import signal
import socket

import pytest

from tests.process.supervised import Supervised, wait_until

WORKERS = pytest.mark.parametrize("workers", ["0", "2"])


@WORKERS
def test_the_second_server_on_a_port_says_so_and_ends(tmp_path, workers):
    with Supervised(tmp_path, "-w", "1") as first:
        url = first.wait_until_serving()
        address = url.partition("://")[2]
        with Supervised(tmp_path, "-w", workers, bind=address) as second:
            assert second.wait() == 2
            (line,) = second.lines
            assert line.startswith("trioserve: error: ")
            assert address in line
            assert "in use" in line
        assert first.ask(url)
        assert first.stop() == 0


@WORKERS
def test_a_unix_socket_whose_owner_lives_is_not_taken(tmp_path, workers):
    bind = f"unix:{tmp_path}/server.sock"
    with Supervised(tmp_path, "-w", "1", bind=bind) as first:
        first.wait_until_serving()
        with Supervised(tmp_path, "-w", workers, bind=bind) as second:
            assert second.wait() == 2
            (line,) = second.lines
            assert f"{tmp_path}/server.sock" in line
        assert first.ask(bind)
        assert first.stop() == 0
    assert not (tmp_path / "server.sock").exists()


@WORKERS
def test_a_unix_socket_whose_owner_died_is_taken_over(tmp_path, workers):
    bind = f"unix:{tmp_path}/server.sock"
    with Supervised(tmp_path, "-w", workers, bind=bind) as first:
        first.wait_until_serving()
        os.killpg(first.process.pid, signal.SIGKILL)
        first.wait()
    assert (tmp_path / "server.sock").exists()
    with Supervised(tmp_path, "-w", workers, bind=bind) as second:
        second.wait_until_serving()
        assert second.ask(bind)
        assert second.stop() == 0


def test_a_unix_socket_is_taken_over_while_orphans_still_finish(tmp_path):
    """The owner is dead, but its workers are not yet: they accept nothing, so the place is free."""
    bind = f"unix:{tmp_path}/server.sock"
    with Supervised(tmp_path, bind=bind) as first:
        first.wait_until_serving()
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(f"{tmp_path}/server.sock")
            sock.sendall(b"GET /slow/60 HTTP/1.1\r\nHost: a\r\n\r\n")
            assert sock.recv(1)
            first.signal(signal.SIGKILL)
            first.wait_for_line("supervisor is gone")

            def takes_over() -> bool:
                with Supervised(tmp_path, bind=bind) as second:
                    if second.wait_for_line("in use|serving .* on")[0].endswith("on"):
                        assert second.ask(bind)
                        return second.stop() == 0
                    return second.wait() != 2

            wait_until(takes_over, "a second server has the place")
