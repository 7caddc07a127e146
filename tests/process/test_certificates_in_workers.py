from __future__ import annotations

import os
import shutil
import ssl
import time

import pytest
import trustme

from tests.process.clients import Http1Connection, open_socket
from tests.process.load import ONE_EACH, Load
from tests.process.supervised import PATIENCE, Supervised

PROMPT = 2.0


@pytest.fixture
def authority():
    return trustme.CA()


@pytest.fixture
def context(authority):
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


class Certificates:
    """The file that the server reads, with certificate and key in one, and new ones to copy over it."""

    def __init__(self, authority: trustme.CA, folder):
        self._authority, self._folder = authority, folder
        self.file = folder / "server.pem"
        self.current = b""
        self.renew()

    def renew(self, *, replace: bool = False) -> None:
        """Copy a new certificate over the old one, or rename it into its place."""
        issued = self._authority.issue_cert("localhost")
        draft = self._folder / "draft.pem"
        issued.private_key_and_cert_chain_pem.write_to_path(draft)
        self.current = ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())
        if replace:
            os.replace(draft, self.file)
        else:
            shutil.copyfile(draft, self.file)


def see(url: str, context: ssl.SSLContext) -> bytes:
    """The certificate of a new handshake."""
    with open_socket(url, context) as sock:
        return sock.getpeercert(binary_form=True)


def wait_until_seen(certificates: Certificates, url: str, context: ssl.SSLContext) -> float:
    """Seconds until twenty handshakes in a row, which all workers have a part in, show the current certificate."""
    start, in_a_row, first = time.monotonic(), 0, 0.0
    while in_a_row < 20:
        assert time.monotonic() - start < PATIENCE
        if see(url, context) != certificates.current:
            in_a_row = 0
        else:
            first = first if in_a_row else time.monotonic()
            in_a_row += 1
    return first - start


def test_a_new_certificate_is_used_under_load_without_a_restart(tmp_path, authority, context):
    certificates = Certificates(authority, tmp_path)
    with Supervised(tmp_path, "-w", "2", "--tls-certificate", str(certificates.file)) as server:
        url = server.wait_until_serving()
        assert see(url, context) == certificates.current
        open_connection = Http1Connection(open_socket(url, context))
        pid = open_connection.ask("/")
        with Load(url, mode=ONE_EACH, clients=2, context=context) as load:
            load.wait_for(20)
            for replace in (False, True):
                certificates.renew(replace=replace)
                assert wait_until_seen(certificates, url, context) < PROMPT
            assert open_connection.ask("/") == pid

            good = certificates.file.read_bytes()
            certificates.file.write_bytes(good[: len(good) // 3])
            server.wait_for_line("certificate|server.pem")
            assert {see(url, context) for _ in range(10)} == {certificates.current}
            certificates.file.write_bytes(good)
            load.wait_for(20)
        assert open_connection.ask("/") == pid
        open_connection.close()
        assert load.failures == []
        assert len(server.events("startup")) == 2
        assert server.stop() == 0
