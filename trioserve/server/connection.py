"""One accepted socket or stream: from its first byte to its protocol, and the boundary around it.

Whatever goes wrong in here ends one connection. `serve_socket` and `serve_stream` never raise an `Exception`: what
is not the peer's doing is logged as a bug of ours, and the server goes on.
"""

from __future__ import annotations

import logging
import socket
import ssl
from math import inf
from typing import TYPE_CHECKING, Any

import trio
import trio.abc

from trioserve.asgi.channel import Peer
from trioserve.protocols.errors import RemoteProtocolError
from trioserve.protocols.headers import parse_address
from trioserve.protocols.proxy_protocol import NEED_DATA, ProxyHeader, ProxyHeaderParser
from trioserve.server.h2c import build_http2_machine
from trioserve.server.http1 import Http1Connection
from trioserve.server.stream_transport import StreamTransport
from trioserve.server.tls import tls_extension
from trioserve.server.tls_transport import TlsTransport
from trioserve.server.transport import SocketTransport

if TYPE_CHECKING:
    from collections.abc import Callable

    from trioserve.config import Config
    from trioserve.server.acceptor import Accepted
    from trioserve.server.context import ServerContext
    from trioserve.server.http2 import Http2Connection
    from trioserve.server.listeners import Listener
    from trioserve.server.transport import Transport

logger = logging.getLogger("trioserve.error")

EXTENSIONS: dict[str, dict[str, Any]] = {
    "http.response.trailers": {},
    "http.response.early_hint": {},
    "http.response.pathsend": {},
    "http.response.zerocopysend": {},
}

_HTTPS_ONLY = b"This port speaks HTTPS, and the request was plain HTTP\n"
PLAIN_HTTP_ON_TLS = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (len(_HTTPS_ONLY), _HTTPS_ONLY)
)


async def serve_socket(
    context: ServerContext,
    config: Config,
    listener: Listener,
    accepted: Accepted,
    release: Callable[[], None],
) -> None:
    """Serve one accepted, non-blocking socket until it is closed.

    Args:
        context: what all connections share.
        config: for what concerns the beginning of a connection, `[proxy]` and `[tls]`.
        listener: where the socket was accepted.
        accepted: its socket is closed at the end, also when cancelled.
        release: called at the end.
    """
    counters = context.counters
    counters.connections_open += 1
    try:
        connection = await _open_connection(context, config, listener, accepted)
        # No coroutine in between: thousands of connections are idle in here.
        while connection is not None:
            await connection.run()
            connection = _next_connection(connection)
    except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError, OSError) as error:
        logger.debug("a connection from %s ended: %s", accepted.address, error)
    except RemoteProtocolError as error:
        logger.info("a connection from %s was refused: %s", accepted.address, error)
    except Exception:
        logger.exception("this is a bug in trioserve; one connection was closed")
    finally:
        accepted.sock.close()
        counters.connections_open -= 1
        release()


async def _open_connection(
    context: ServerContext, config: Config, listener: Listener, accepted: Accepted
) -> Http1Connection | Http2Connection | None:
    """Read what comes before HTTP, PROXY header and TLS handshake; None when the peer does not get through them."""
    sock = accepted.sock
    client, server = _addresses(listener, sock, accepted.address)
    if config.proxy.protocol != "off" and context.proxies.trusts(client):
        with trio.fail_after(context.settings.timeouts.head):
            header = await _read_proxy_header(sock, ProxyHeaderParser(config.proxy.protocol))
        client = header.source or client
        server = header.destination or server
    peer = Peer(client, server, listener.scheme, connection=accepted.number)
    if listener.ssl_context is None:
        return _begin_cleartext(context, SocketTransport(sock, context.poller), peer)
    certificates = context.certificates
    ssl_context = listener.ssl_context if certificates is None else await certificates.current()
    transport = TlsTransport(sock, context.poller, ssl_context)
    try:
        if not await _shake_hands(transport, config.tls.handshake_timeout or inf):
            return None
        extensions = {**EXTENSIONS, "tls": tls_extension(transport.ssl_object)}
        if transport.ssl_object.selected_alpn_protocol() == "h2":
            machine = build_http2_machine(context.http2_limits)
            return _build_http2_connection(context, transport, peer, extensions, machine)
        return Http1Connection(context, transport, peer, extensions)
    except BaseException:
        transport.close()
        raise


def _begin_cleartext(context: ServerContext, transport: Transport, peer: Peer) -> Http1Connection:
    """HTTP/1.1, from which a client may change to HTTP/2 with its first bytes or with a request."""
    settings = context.settings.http2
    switches = settings.enabled and (settings.h2c or settings.h2c_upgrade)
    return Http1Connection(context, transport, peer, EXTENSIONS, switches=switches)


def _next_connection(ended: Http1Connection | Http2Connection) -> Http2Connection | None:
    """What goes on with the transport of a connection that has left it open."""
    if not isinstance(ended, Http1Connection):
        return None
    switch = ended.switch
    if switch is None or switch.machine is None:
        return None
    return _build_http2_connection(
        ended.context, ended.transport, ended.peer, EXTENSIONS, switch.machine, switch.received
    )


def _build_http2_connection(*args: Any) -> Http2Connection:
    """As `build_http2_machine`: imported with the first one."""
    from trioserve.server.http2 import Http2Connection

    return Http2Connection(*args)


async def serve_stream(context: ServerContext, stream: trio.abc.Stream, peer: Peer) -> None:
    """Serve one connection over any `trio.abc.Stream` until it ends; the stream is closed then.

    Args:
        context: what all connections share.
        stream: the byte stream.
        peer: the addresses and the scheme that requests report.
    """
    transport = StreamTransport(stream)
    context.counters.connections_accepted += 1
    context.counters.connections_open += 1
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(transport.pump)
            connection: Http1Connection | Http2Connection | None = _begin_cleartext(context, transport, peer)
            while connection is not None:
                await connection.run()
                connection = _next_connection(connection)
            nursery.cancel_scope.cancel()
    except Exception:
        logger.exception("this is a bug in trioserve; one connection was closed")
    finally:
        context.counters.connections_open -= 1


def _addresses(
    listener: Listener, sock: socket.socket, address: Any
) -> tuple[tuple[str, int] | None, tuple[str, int | None] | None]:
    """The ASGI `client` and `server` of an accepted socket."""
    if sock.family == socket.AF_UNIX:
        return None, (str(listener.address), None)
    host, port = address[:2]
    local = sock.getsockname()
    return (parse_address(host.partition("%")[0]) or host, port), (local[0], local[1])


async def _read_proxy_header(sock: socket.socket, parser: ProxyHeaderParser) -> ProxyHeader:
    """Read the PROXY header and not a byte more, since TLS has to find the rest on the socket."""
    while True:
        await trio.lowlevel.wait_readable(sock)
        header = parser.receive_data(sock.recv(parser.wanted))
        if header is not NEED_DATA:
            return header


async def _shake_hands(transport: TlsTransport, timeout: float) -> bool:
    """Perform the TLS handshake; False when the peer does not get through it."""
    with trio.move_on_after(timeout):
        try:
            await transport.do_handshake()
            return True
        except ssl.SSLError as error:
            if error.reason == "HTTP_REQUEST":
                transport.send_plain(PLAIN_HTTP_ON_TLS)
            logger.debug("TLS handshake failed: %s", error.reason)
    transport.close()
    return False
