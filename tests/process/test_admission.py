from __future__ import annotations

import socket
import sys

import pytest

from trioserve.process.admission import end_admission

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot do that")


def listen(family, tmp_path):
    sock = socket.socket(family)
    sock.bind(
        {
            socket.AF_INET: ("127.0.0.1", 0),
            socket.AF_INET6: ("::1", 0),
            socket.AF_UNIX: str(tmp_path / "listening"),
        }[family]
    )
    sock.listen()
    sock.setblocking(False)
    return sock


def connect(listening):
    client = socket.socket(listening.family)
    client.settimeout(0.2)
    try:
        client.connect(listening.getsockname())
    except OSError:
        client.close()
        raise
    return client


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX])
def test_who_waits_is_served_and_nobody_else(family, tmp_path):
    listening = listen(family, tmp_path)
    with connect(listening) as early:
        with listening:
            assert end_admission(listening)
            with pytest.raises(OSError, match=r"timed out|refused"):
                connect(listening)
            accepted, _ = listening.accept()
            with pytest.raises(BlockingIOError):
                listening.accept()
        with accepted:
            early.sendall(b"question")
            assert accepted.recv(100) == b"question"
            accepted.sendall(b"answer")
        assert early.recv(100) == b"answer"


def test_a_socket_that_is_closed_admits_nobody_anyway(tmp_path):
    sock = listen(socket.AF_UNIX, tmp_path)
    sock.close()
    assert not end_admission(sock)
