"""What holds for a request on every protocol: who sent it, whether it reaches the application, how it is recorded.

Functions of a request head and the server's context; the protocols' connections call them at the same points.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from trioserve.asgi.channel import Peer

if TYPE_CHECKING:
    from trioserve.asgi.exchange import HttpExchange
    from trioserve.asgi.session import WebSocketSession
    from trioserve.asgi.types import Headers
    from trioserve.server.context import ServerContext


class JudgedHead(Protocol):
    """The parts of a request head that the rules look at, and may change."""

    headers: Headers
    host: bytes
    content_length: int | None


def apply_proxy_rules(context: ServerContext, head: JudgedHead, peer: Peer, *, trusted: bool) -> Peer:
    """Put what a trusted proxy says in the place of what we see, and remove what others say."""
    forwarded = context.proxies.apply(head.headers, peer.client, peer.scheme, trusted=trusted)
    head.headers = forwarded.headers
    if forwarded.host is not None:
        head.host = forwarded.host
    return Peer(forwarded.client, peer.server, forwarded.scheme, forwarded.root_path, peer.connection)


def judge_admission(context: ServerContext, head: JudgedHead) -> tuple[int, str, Headers] | None:
    """Say what answers a request that does not reach the application: status, text, fields; None if it does.

    Needs to be asked only where `ConnectionSettings.refuses_requests`.
    """
    settings = context.settings
    limits = settings.limits
    if settings.server_names and _host_name(head.host) not in settings.server_names:
        return 421, "This server does not serve this host\n", []
    if limits.body_size and head.content_length is not None and head.content_length > limits.body_size:
        return 413, "The request body is too large\n", []
    if limits.requests and context.counters.requests_running >= limits.requests:
        return 503, "The server is busy\n", [(b"retry-after", b"1")]
    return None


def record_exchange(context: ServerContext, exchange: HttpExchange | WebSocketSession, now: float) -> None:
    """Count and log an exchange that is over."""
    counters = context.counters
    counters.bytes_sent += exchange.body_bytes_sent
    counters.bytes_received += exchange.bytes_received
    counters.errors += exchange.crashed
    if exchange.outcome != "complete":
        counters.count_outcome(exchange.outcome)
    if context.access_log is not None:
        exchange.finished = now
        context.access_log.add(exchange)


def _host_name(host: bytes) -> bytes:
    """The host of a Host field, in lower case and without its port."""
    name, _, port = host.lower().rpartition(b":")
    return name if port.isdigit() and name else host.lower()
