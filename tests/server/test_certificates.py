"""Certificates that change on disk while they are in use."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import ssl
import weakref

import h11
import pytest
import trio
import trio.testing
import trustme

from trioserve.config import Config, LifecycleSettings, LoggingSettings, SniCertificate, TlsSettings
from trioserve.server.certificates import LOOK_INTERVAL, SETTLED, Certificates
from trioserve.server.server import serve
from trioserve.server.tls import build_tls_contexts
from trioserve.testing.raw_client import RawClient

READ_AGAIN = "certificates were read again"
REFUSED = "certificates have changed and cannot be used, the old ones stay in use: "
REJECTED = (trio.BrokenResourceError, h11.RemoteProtocolError)  # in TLS 1.3 the client learns of it later
BROKEN = "-----BEGIN CERTIFICATE-----\nbm90aGluZw==\n-----END CERTIFICATE-----\n"


class Pair:
    """A certificate with its key, to be copied over others."""

    def __init__(self, authority, name="127.0.0.1"):
        self.cert = authority.issue_cert(name)
        self.certificate = b"".join(pem.bytes() for pem in self.cert.cert_chain_pems)
        self.key = self.cert.private_key_pem.bytes()
        self.der = ssl.PEM_cert_to_DER_cert(self.cert.cert_chain_pems[0].bytes().decode())

    def write(self, folder, name=""):
        (folder / f"{name}certificate.pem").write_bytes(self.certificate)
        (folder / f"{name}key.pem").write_bytes(self.key)


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def pairs(authority):
    """Two certificates for the same name."""
    return Pair(authority), Pair(authority)


@pytest.fixture
def folder(tmp_path, pairs):
    pairs[0].write(tmp_path)
    return tmp_path


@pytest.fixture
def messages(caplog):
    caplog.set_level(logging.INFO, "trioserve")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "trioserve"]


def tls_settings(folder, **others):
    files = {"certificate": str(folder / "certificate.pem"), "key": str(folder / "key.pem")}
    return TlsSettings(**files, **others)


class Clocks:
    """Both clocks of `Certificates`. Files that tests write have just changed, until `settle`."""

    def __init__(self):
        self.now = 100.0
        self.age = 0

    def wall_clock(self):
        return self._newest + self.age

    def follow(self, tls):
        self._tls = tls
        context = build_tls_contexts(tls, ["http/1.1"])
        return Certificates(tls, ["http/1.1"], context, now=lambda: self.now, wall_clock=self.wall_clock)

    @property
    def _newest(self):
        paths = [self._tls.certificate, self._tls.key, self._tls.ca]
        return max(os.stat(path).st_ctime_ns for path in paths if path and os.path.exists(path))

    def advance(self, seconds=LOOK_INTERVAL):
        self.now += seconds


@pytest.fixture
def clocks():
    return Clocks()


class TestLooks:
    async def test_a_new_certificate_is_used_after_the_next_look(self, folder, pairs, clocks, messages):
        certificates = clocks.follow(tls_settings(folder))
        first = await certificates.current()
        pairs[1].write(folder)
        clocks.advance(0.9)
        assert await certificates.current() is first
        clocks.advance(0.1)
        second = await certificates.current()
        assert second is not first
        assert second.certificate_pem.encode() == pairs[1].cert.cert_chain_pems[0].bytes()
        clocks.advance(10)
        assert await certificates.current() is second
        assert messages() == [READ_AGAIN]

    async def test_a_change_before_the_first_connection(self, folder, pairs, clocks):
        certificates = clocks.follow(tls_settings(folder))
        pairs[1].write(folder)
        assert (await certificates.current()).certificate_pem.encode() == pairs[1].cert.cert_chain_pems[
            0
        ].bytes()

    async def test_files_that_do_not_change_are_not_read(self, folder, clocks, messages):
        certificates = clocks.follow(tls_settings(folder))
        first = await certificates.current()
        for _ in range(10):
            clocks.advance()
            assert await certificates.current() is first
        assert messages() == []

    @pytest.mark.parametrize(
        "touched", ["certificate.pem", "key.pem", "ca.pem", "a-certificate.pem", "a-key.pem"]
    )
    async def test_each_file_counts(self, folder, pairs, authority, clocks, touched):
        pairs[0].write(folder, "a-")
        authority.cert_pem.write_to_path(folder / "ca.pem")
        sni = SniCertificate(
            name="a.example", certificate=str(folder / "a-certificate.pem"), key=str(folder / "a-key.pem")
        )
        ca = str(folder / "ca.pem")
        tls = tls_settings(folder, ca=ca, client_certificates="optional", sni=(sni,))
        certificates = clocks.follow(tls)
        first = await certificates.current()
        os.utime(folder / touched, (1, 1))
        clocks.advance()
        assert await certificates.current() is not first

    async def test_the_same_size_and_the_same_time_of_modification(self, folder, pairs, clocks):
        # `cp -p` within a file: only the time of the change tells.
        certificates = clocks.follow(tls_settings(folder))
        first = await certificates.current()
        status = (folder / "key.pem").stat()
        (folder / "key.pem").write_bytes((folder / "key.pem").read_bytes())
        os.utime(folder / "key.pem", ns=(status.st_atime_ns, status.st_mtime_ns))
        clocks.advance()
        assert await certificates.current() is not first

    @pytest.mark.parametrize("style", ["certbot", "kubernetes"])
    async def test_links_that_are_switched(self, tmp_path, pairs, clocks, style):
        for number, pair in enumerate(pairs):
            (tmp_path / f"version{number}").mkdir()
            pair.write(tmp_path / f"version{number}")
        live = tmp_path / "live"

        def switch(number):
            if style == "kubernetes":  # the names are links through one link to a folder, which is replaced
                (tmp_path / "new").symlink_to(f"version{number}")
                (tmp_path / "new").rename(tmp_path / "..data")
                return
            for name in ("certificate.pem", "key.pem"):
                (live / name).unlink(missing_ok=True)
                (live / name).symlink_to(tmp_path / f"version{number}" / name)

        live.mkdir()
        switch(0)
        if style == "kubernetes":
            for name in ("certificate.pem", "key.pem"):
                (live / name).symlink_to(f"../..data/{name}")
        certificates = clocks.follow(tls_settings(live))
        await certificates.current()
        switch(1)
        clocks.advance()
        assert (await certificates.current()).certificate_pem.encode() == pairs[1].cert.cert_chain_pems[
            0
        ].bytes()

    async def test_others_go_on_with_the_old_one_while_files_are_read(self, folder, pairs, clocks):
        certificates = clocks.follow(tls_settings(folder))
        first = await certificates.current()
        pairs[1].write(folder)
        (folder / "key.pem").unlink()
        os.mkfifo(folder / "key.pem")  # whoever reads it waits
        os.link(folder / "key.pem", folder / "pipe")
        clocks.advance()
        found = []

        async def find():
            found.append(await certificates.current())

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(find)
                await trio.testing.wait_all_tasks_blocked()
                clocks.advance()
                assert await certificates.current() is first
                assert found == []
                await trio.to_thread.run_sync(feed, folder, pairs[1].key)
        assert found[0] is not first

    async def test_whoever_reads_the_files_may_be_cancelled(self, folder, pairs, clocks):
        certificates = clocks.follow(tls_settings(folder))
        first = await certificates.current()
        pairs[1].write(folder)
        clocks.advance()
        with trio.move_on_after(0):
            await certificates.current()
        clocks.advance()
        assert await certificates.current() is not first


def feed(folder, key):
    """Give the key to the one who reads the pipe, and a file to OpenSSL, which reads it after that."""
    with open(folder / "pipe", "wb") as pipe:  # there is a reader now
        (folder / "new.pem").write_bytes(key)
        (folder / "new.pem").rename(folder / "key.pem")
        pipe.write(key)


class TestFlaws:
    """What cannot be used leaves the old context in use."""

    async def test_a_key_that_comes_a_moment_later_is_no_flaw(self, folder, pairs, clocks, messages):
        certificates = clocks.follow(tls_settings(folder))
        first = await certificates.current()
        (folder / "certificate.pem").write_bytes(pairs[1].certificate)
        clocks.advance()
        assert await certificates.current() is first
        (folder / "key.pem").write_bytes(pairs[1].key)
        clocks.advance()
        assert await certificates.current() is not first
        assert messages() == [READ_AGAIN]

    async def test_a_mismatch_that_stays_is_logged_at_the_next_look(self, folder, pairs, clocks, messages):
        certificates = clocks.follow(tls_settings(folder))
        first = await certificates.current()
        (folder / "certificate.pem").write_bytes(pairs[1].certificate)
        for _ in range(5):
            clocks.advance()
            assert await certificates.current() is first
        [message] = messages()
        assert message.startswith(REFUSED)
        assert message.endswith(f"[tls] key: {folder}/key.pem does not match {folder}/certificate.pem")
        (folder / "key.pem").write_bytes(pairs[1].key)
        clocks.advance()
        assert await certificates.current() is not first
        assert messages()[1:] == [READ_AGAIN]

    async def test_a_flaw_that_is_a_second_old_is_logged_at_once(self, folder, clocks, messages):
        certificates = clocks.follow(tls_settings(folder))
        await certificates.current()
        (folder / "certificate.pem").write_text(BROKEN)
        clocks.age = SETTLED
        clocks.advance()
        await certificates.current()
        assert [message.startswith(REFUSED) for message in messages()] == [True]

    async def test_each_state_is_logged_once(self, folder, clocks, messages):
        certificates = clocks.follow(tls_settings(folder))
        await certificates.current()
        for broken in (BROKEN, "nothing", ""):
            (folder / "certificate.pem").write_text(broken)
            for _ in range(4):
                clocks.advance()
                await certificates.current()
        assert len(messages()) == 3

    async def test_a_file_that_goes_and_comes_back(self, folder, clocks, messages):
        certificates = clocks.follow(tls_settings(folder))
        first = await certificates.current()
        (folder / "key.pem").rename(folder / "away.pem")
        for _ in range(3):
            clocks.advance()
            assert await certificates.current() is first
        (folder / "away.pem").rename(folder / "key.pem")
        clocks.advance()
        await certificates.current()
        assert messages() == [
            f"{REFUSED}[tls] key: cannot read {folder}/key.pem: No such file or directory",
            READ_AGAIN,
        ]

    @pytest.mark.parametrize("length", range(0, 600, 37))
    async def test_half_written_files(self, folder, pairs, clocks, length):
        certificates = clocks.follow(tls_settings(folder))
        first = await certificates.current()
        (folder / "certificate.pem").write_bytes(pairs[0].certificate[:length])
        clocks.advance()
        assert await certificates.current() is first
        (folder / "certificate.pem").write_bytes(pairs[0].certificate)
        (folder / "key.pem").write_bytes(pairs[0].key[: min(length, 200)])
        clocks.advance()
        assert await certificates.current() is first


class TestMemory:
    async def test_contexts_of_the_past_are_gone_at_once(self, folder, pairs, clocks):
        pairs[0].write(folder, "a-")
        sni = SniCertificate(
            name="a.example", certificate=str(folder / "a-certificate.pem"), key=str(folder / "a-key.pem")
        )
        certificates = clocks.follow(tls_settings(folder, sni=(sni,)))
        past = weakref.WeakSet()
        gc.disable()
        try:
            for number in range(200):
                pairs[number % 2].write(folder)
                clocks.advance()
                past.add(await certificates.current())
            assert len(past) == 1
        finally:
            gc.enable()


# -- in a server ---------------------------------------------------------------------------------------------------


async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


class Serving:
    """A server on a port, its clients, and a clock that only jumps."""

    def __init__(self, server, authority, clock):
        self._server = server
        self._authority = authority
        self._clock = clock

    def pass_time(self):
        self._clock.jump(LOOK_INTERVAL)

    async def connect(self, name="127.0.0.1", cert=None, session=None):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._authority.configure_trust(context)
        if cert is not None:
            cert.configure_cert(context)
        stream = await trio.open_tcp_stream(*self._server.addresses[0])
        secure = trio.SSLStream(stream, context, server_hostname=name, https_compatible=True)
        return Client(secure)

    async def served(self, name="127.0.0.1", **options):
        """The certificate that a new connection is shown."""
        async with await self.connect(name, **options) as client:
            assert await client.get() == b"ok"
            return client.certificate()


class Client(RawClient):
    def __init__(self, stream):
        super().__init__(stream)
        self._secure = stream

    def certificate(self):
        return self._secure.getpeercert(binary_form=True)

    async def get(self):
        await self.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        return (await self.receive_response()).body


@contextlib.asynccontextmanager
async def open_server(tls, authority, clock):
    config = Config(
        bind=("127.0.0.1:0",),
        logging=LoggingSettings(access="off"),
        lifecycle=LifecycleSettings(lifespan="off"),
        tls=tls,
    )
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve, app, config)
        yield Serving(server, authority, clock)
        server.stop_now()
        clock.jump(100)


class TestServer:
    async def test_open_connections_go_on(self, folder, pairs, authority, mock_clock):
        async with (
            open_server(tls_settings(folder), authority, mock_clock) as server,
            await server.connect() as keep_alive,
        ):
            assert await keep_alive.get() == b"ok"
            assert keep_alive.certificate() == pairs[0].der
            pairs[1].write(folder)
            server.pass_time()
            assert await server.served() == pairs[1].der
            assert await keep_alive.get() == b"ok"
            assert keep_alive.certificate() == pairs[0].der

    async def test_a_broken_one_leaves_the_old_one(self, folder, pairs, authority, mock_clock, messages):
        async with open_server(tls_settings(folder), authority, mock_clock) as server:
            (folder / "certificate.pem").write_text(BROKEN)
            for _ in range(4):
                server.pass_time()
                assert await server.served() == pairs[0].der
            assert len([message for message in messages() if message.startswith(REFUSED)]) == 1
            pairs[1].write(folder)
            server.pass_time()
            assert await server.served() == pairs[1].der
        assert READ_AGAIN in messages()

    async def test_reload_switched_off(self, folder, pairs, authority, mock_clock):
        async with open_server(tls_settings(folder, reload=False), authority, mock_clock) as server:
            pairs[1].write(folder)
            server.pass_time()
            assert await server.served() == pairs[0].der

    async def test_the_certificate_of_a_name_alone(self, folder, pairs, authority, mock_clock):
        old, new = Pair(authority, "a.example"), Pair(authority, "a.example")
        old.write(folder, "a-")
        sni = SniCertificate(
            name="a.example", certificate=str(folder / "a-certificate.pem"), key=str(folder / "a-key.pem")
        )
        async with open_server(tls_settings(folder, sni=(sni,)), authority, mock_clock) as server:
            assert await server.served("a.example") == old.der
            new.write(folder, "a-")
            server.pass_time()
            assert await server.served("a.example") == new.der
            assert await server.served() == pairs[0].der

    async def test_other_authorities_for_clients(self, folder, pairs, authority, mock_clock):
        stranger = trustme.CA()
        authority.cert_pem.write_to_path(folder / "ca.pem")
        tls = tls_settings(folder, ca=str(folder / "ca.pem"), client_certificates="required")
        ours, theirs = authority.issue_cert("client.example"), stranger.issue_cert("client.example")
        async with open_server(tls, authority, mock_clock) as server:
            assert await server.served(cert=ours) == pairs[0].der
            with pytest.raises(REJECTED):
                await server.served(cert=theirs)
            stranger.cert_pem.write_to_path(folder / "ca.pem")
            server.pass_time()
            assert await server.served(cert=theirs) == pairs[0].der
            with pytest.raises(REJECTED):
                await server.served(cert=ours)

    async def test_changes_while_connections_come(self, folder, pairs, authority, mock_clock):
        """No handshake fails, whatever state it finds the files in."""
        async with open_server(tls_settings(folder), authority, mock_clock) as server:
            for number in range(1, 12):
                pair = pairs[number % 2]
                (folder / "certificate.pem").write_bytes(pair.certificate[:100])
                server.pass_time()
                await server.served()
                (folder / "certificate.pem").write_bytes(pair.certificate)
                server.pass_time()
                await server.served()
                (folder / "key.pem").write_bytes(pair.key)
                server.pass_time()
                assert await server.served() == pair.der


class TestTickets:
    def test_a_ticket_from_before_means_a_full_handshake(self, folder, authority):
        tls = tls_settings(folder)
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        authority.configure_trust(client)
        client.maximum_version = ssl.TLSVersion.TLSv1_2  # the ticket is there with the end of the handshake
        first, second = build_tls_contexts(tls, ["http/1.1"]), build_tls_contexts(tls, ["http/1.1"])
        session = shake_hands(first, client).session
        assert shake_hands(first, client, session).session_reused
        assert not shake_hands(second, client, session).session_reused


def shake_hands(server_context, client_context, session=None):
    """The client's side of a handshake in memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    client = client_context.wrap_bio(to_client, to_server, server_hostname="127.0.0.1", session=session)
    for _ in range(4):
        for end in (client, server):
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    return client
