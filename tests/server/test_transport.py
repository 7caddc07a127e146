from __future__ import annotations

import socket
import ssl
import struct
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
import trustme

from trioserve.server.connection import TlsTransport
from trioserve.server.poller import EpollPoller, PortablePoller
from trioserve.server.stream_transport import StreamTransport
from trioserve.server.transport import SocketTransport
from trioserve.testing.transport_checks import (
    TRANSPORT_CHECKS,
    CheckpointedTransport,
    TransportPair,
    check_transport,
    run_check,
)


def tcp_socketpair():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    for sock in (client, server):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
    return server, client


def unix_socketpair():
    server, client = socket.socketpair(socket.AF_UNIX)
    server.setblocking(False)
    client.setblocking(False)
    return server, client


def reset(sock):
    def reset_peer():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()

    return reset_peer


@asynccontextmanager
async def running(task, *closing):
    """Run what serves a transport, until the block ends; then close what is left."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(task)
        await trio.testing.wait_all_tasks_blocked()
        try:
            yield
        finally:
            for resource in closing:
                await trio.aclose_forcefully(resource)
            nursery.cancel_scope.cancel()


def socket_pair(socketpair, poller_class):
    @asynccontextmanager
    async def make():
        server, client = socketpair()
        poller = poller_class()
        transport = SocketTransport(server, poller)
        wrapped = trio.socket.from_stdlib_socket(client)
        peer = trio.SocketStream(wrapped)
        tcp = server.family != socket.AF_UNIX
        async with running(poller.run, transport, peer):
            yield TransportPair(
                transport,
                peer,
                resets=tcp,
                hears_past_unread=poller_class is EpollPoller,
                reset_peer=reset(wrapped) if tcp else None,
            )

    return make


AUTHORITY = trustme.CA()
SERVER_CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
SERVER_CONTEXT.num_tickets = 0  # a peer that closes with unread tickets resets the connection
AUTHORITY.issue_cert("localhost").configure_cert(SERVER_CONTEXT)
CLIENT_CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
AUTHORITY.configure_trust(CLIENT_CONTEXT)


def tls_pair(poller_class):
    @asynccontextmanager
    async def make():
        server, client = tcp_socketpair()
        poller = poller_class()
        transport = TlsTransport(server, poller, SERVER_CONTEXT)
        wrapped = trio.socket.from_stdlib_socket(client)
        peer = trio.SSLStream(trio.SocketStream(wrapped), CLIENT_CONTEXT, server_hostname="localhost")
        async with running(poller.run, transport, peer):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(transport.do_handshake)
                nursery.start_soon(peer.do_handshake)
            yield TransportPair(
                transport,
                peer,
                resets=True,
                peer_half_closes=False,  # trio.SSLStream cannot
                hears_past_unread=poller_class is EpollPoller,
                reads_after_eof=False,  # nothing is decrypted after our close_notify
                reset_peer=reset(wrapped),
            )

    return make


@asynccontextmanager
async def memory_pair():
    theirs, ours = trio.testing.memory_stream_pair()
    transport = StreamTransport(theirs)
    async with running(transport.pump, transport, ours):
        yield TransportPair(transport, ours, bounded=False, hears_past_unread=False)


@asynccontextmanager
async def stream_over_tcp_pair():
    server, client = tcp_socketpair()
    transport = StreamTransport(trio.SocketStream(trio.socket.from_stdlib_socket(server)))
    wrapped = trio.socket.from_stdlib_socket(client)
    peer = trio.SocketStream(wrapped)
    async with running(transport.pump, transport, peer):
        yield TransportPair(transport, peer, hears_past_unread=False, reset_peer=reset(wrapped))


PAIRS = {
    "tcp, epoll": socket_pair(tcp_socketpair, EpollPoller),
    "tcp, portable": socket_pair(tcp_socketpair, PortablePoller),
    "unix, epoll": socket_pair(unix_socketpair, EpollPoller),
    "unix, portable": socket_pair(unix_socketpair, PortablePoller),
    "tls, epoll": tls_pair(EpollPoller),
    "tls, portable": tls_pair(PortablePoller),
    "memory stream": memory_pair,
    "socket stream": stream_over_tcp_pair,
}


@pytest.mark.parametrize("check", TRANSPORT_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("make_pair", PAIRS.values(), ids=PAIRS.keys())
async def test_contract(make_pair, check):
    await run_check(check, make_pair)


async def test_the_whole_battery_in_one_call():
    await check_transport(PAIRS["memory stream"])


def two_ends(socketpair):
    """Two transports that talk to each other, as Trio's own checks want them."""
    pollers = []

    async def make():
        sockets = socketpair()
        for sock in sockets:  # a buffer that grows by itself would not stay clogged
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        return tuple(CheckpointedTransport(SocketTransport(sock, pollers[0])) for sock in sockets)

    async def make_clogged():
        ends = await make()
        for end in ends:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(end.send_all, bytes(10_000_000))
                    await trio.testing.wait_all_tasks_blocked(0.05)  # TCP acknowledges with a delay
                    scope.cancel()
        return ends

    return pollers, make, make_clogged


@pytest.mark.parametrize("poller_class", [EpollPoller, PortablePoller])
@pytest.mark.parametrize("socketpair", [tcp_socketpair, unix_socketpair])
async def test_trios_own_checks(socketpair, poller_class):
    pollers, make, make_clogged = two_ends(socketpair)
    pollers.append(poller_class())
    async with running(pollers[0].run):
        with trio.fail_after(60):
            await trio.testing.check_half_closeable_stream(make, make_clogged)


class Told:
    """An observer that receives what waits, as far as there is anything."""

    def __init__(self, transport):
        self.transport, self.received, self.left = transport, [], False

    def bytes_waiting(self):
        self.received.append(self.transport.receive_now(4))

    def peer_left(self, broken):
        self.left = True


async def test_what_was_read_ahead_of_a_stream_is_there_at_once():
    ours, theirs = trio.testing.memory_stream_pair()
    transport = StreamTransport(theirs)
    observer = Told(transport)
    transport.observe(observer)
    async with running(transport.pump, transport, ours):
        await trio.testing.wait_all_tasks_blocked()
        assert (transport.receive_now(4), transport.readable) == (None, False)
        await ours.send_all(b"abcdef")
        await trio.testing.wait_all_tasks_blocked()
        assert (observer.received, transport.readable) == ([b"abcd"], True)
        assert (transport.receive_now(4), transport.readable) == (b"ef", False)
        assert transport.receive_now(4) is None
        await ours.send_eof()
        await trio.testing.wait_all_tasks_blocked()
        assert (observer.received, observer.left) == ([b"abcd", b""], True)
        assert await transport.receive_some() == transport.receive_now(4) == b""


async def test_what_the_peer_takes_is_known_before_there_is_room_for_more():
    async with socket_pair(unix_socketpair, EpollPoller)() as pair:
        transport = pair.transport
        assert transport.send_now(bytes(1_000_000))
        sent, delivered = transport.bytes_sent, transport.bytes_delivered
        assert delivered < sent
        for _ in range(4):
            await pair.peer.receive_some(10_000)
        assert transport.bytes_sent == sent
        assert transport.bytes_delivered > delivered
        transport.close()
        assert transport.bytes_delivered == sent
