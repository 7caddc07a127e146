"""Certificates that are renewed while workers serve with them."""

from __future__ import annotations

import signal
import ssl
import time

import pytest
import trustme

from tests.process.clients import Http1Connection, open_socket
from tests.process.supervised import Supervised, wait_until

WITHIN = 2.0


class Authority:
    """Issues certificates for localhost into one file, and trusts them."""

    def __init__(self, directory):
        self._authority = trustme.CA()
        self.file = directory / "both.pem"
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._authority.configure_trust(self.context)

    def renew(self):
        """Write over the file; returns the certificate."""
        issued = self._authority.issue_cert("localhost")
        self.file.write_bytes(issued.private_key_and_cert_chain_pem.bytes())
        return ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


def shake_hands(url, authority):
    """The worker that serves a new connection, and the certificate that it shows."""
    with open_socket(url, authority.context) as sock:
        return int(Http1Connection(sock).ask("/", close=True)), sock.getpeercert(binary_form=True)


def serve(directory, authority, *flags):
    return Supervised(directory, "-w", "2", "--tls-certificate", str(authority.file), *flags)


@pytest.mark.parametrize("flags", [(), ("--process-preload",)], ids=["spawned", "forked"])
def test_all_workers_use_a_new_certificate_soon_and_open_connections_go_on(tmp_path, authority, flags):
    old = authority.renew()
    with serve(tmp_path, authority, *flags) as server:
        url = server.wait_until_serving()
        with open_socket(url, authority.context) as sock:
            open_connection = Http1Connection(sock)
            open_connection.ask("/")
            new = authority.renew()
            end = time.monotonic() + WITHIN
            while time.monotonic() < end:  # the connections are what lets the workers look
                assert shake_hands(url, authority)[1] in (old, new)
            workers = set()
            for _ in range(100):
                worker, certificate = shake_hands(url, authority)
                assert certificate == new
                workers.add(worker)
            assert len(workers) == 2
            open_connection.ask("/")
            assert sock.getpeercert(binary_form=True) == old
        assert server.stop() == 0
    assert len(server.ready) == 2  # nobody was replaced
    assert [line for line in server.lines if "certificates were read again" in line]


def test_a_broken_certificate_leaves_the_old_one_in_use(tmp_path, authority):
    old = authority.renew()
    with serve(tmp_path, authority) as server:
        url = server.wait_until_serving()
        whole = authority.file.read_bytes()
        authority.file.write_bytes(whole[: len(whole) // 2])
        end = time.monotonic() + WITHIN + 1.0
        while time.monotonic() < end:
            assert shake_hands(url, authority)[1] == old
        new = authority.renew()
        wait_until(lambda: shake_hands(url, authority)[1] == new, "the new one is in use")
        assert server.stop() == 0
    refused = [line for line in server.lines if "the old ones stay in use" in line]
    assert 1 <= len(refused) <= 2  # once in each worker


def test_a_reload_reads_certificates_too(tmp_path, authority):
    authority.renew()
    with serve(tmp_path, authority, "--no-tls-reload") as server:
        url = server.wait_until_serving()
        server.wait_for_workers(2)
        new = authority.renew()
        server.signal(signal.SIGHUP)
        server.wait_for_line("reloaded")
        wait_until(lambda: shake_hands(url, authority)[1] == new, "the new workers serve alone")
        assert server.stop() == 0


def test_a_reload_with_a_broken_certificate_changes_nothing(tmp_path, authority):
    old = authority.renew()
    with serve(tmp_path, authority, "--no-tls-reload") as server:
        url = server.wait_until_serving()
        workers = set(server.wait_for_workers(2))
        authority.file.write_text("nothing\n")
        server.signal(signal.SIGHUP)
        server.wait_for_line("not reloaded")
        worker, certificate = shake_hands(url, authority)
        assert (worker in workers, certificate) == (True, old)
        assert server.stop() == 0
