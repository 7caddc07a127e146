"""serve(): listeners, connections, and how they end.

The task tree is the failure policy: services (poller, deadlines, log) enclose the lifespan, which encloses the
connections. Stopping is in one place, `Server._stop`, as statements in their order. Nothing is shielded without a
deadline.
"""

from __future__ import annotations

import importlib
import logging
import socket
from functools import partial
from typing import TYPE_CHECKING, Any

import trio
import trio.abc

from trioserve.asgi.background import Background
from trioserve.asgi.channel import Peer
from trioserve.asgi.lifespan import Lifespan, LifespanFailed, LifespanOutcome, open_lifespan
from trioserve.config import Config, resolve_connection_limit
from trioserve.protocols.headers import ProxyRules
from trioserve.protocols.http1 import Http1Limits, machine_class
from trioserve.protocols.http2.limits import Http2Limits, Rate
from trioserve.server.acceptor import AT_ONCE, AT_ONCE_BESIDE_OTHERS, Acceptor
from trioserve.server.certificates import follow_certificates
from trioserve.server.connection import serve_socket, serve_stream
from trioserve.server.context import ConnectionSettings, ServerContext
from trioserve.server.date import ServerFields
from trioserve.server.deadlines import Deadlines
from trioserve.server.listeners import Listener, open_listeners
from trioserve.server.log_flusher import AccessLogFlusher
from trioserve.server.poller import Poller, build_poller
from trioserve.server.tls import build_tls_contexts
from trioserve.telemetry.access_log import AccessLog
from trioserve.telemetry.metrics import Counters, Stats, snapshot

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Sequence

    from trioserve.asgi.types import Application

logger = logging.getLogger("trioserve")

ALPN = ("h2", "http/1.1")
ALPN_WITHOUT_HTTP2 = ("http/1.1",)
ANSWER_GRACE = 0.5
"""Seconds that cancelled requests get for the answer they are owed, also when stopping at once."""
TCP_NOTSENT_LOWAT = 25
"""Linux's number, the same on all architectures; the socket module does not name it."""


class LifespanDied(Exception):
    """The application's lifespan ended while the server was serving; it has stopped."""


class Server:
    """A running server, as `nursery.start(serve, app, config)` returns it.

    Attributes:
        addresses: where it listens, as `(host, port)`, or the path of a unix socket; port 0 is resolved.
        urls: the same for people, such as "http://127.0.0.1:8000".
        draining: an event that is set when nothing new is accepted any more.
    """

    def __init__(self, config: Config, app: Application, listeners: Sequence[Listener]) -> None:
        self.addresses = [listener.address for listener in listeners]
        self.urls = [listener.url for listener in listeners]
        self._app = app
        self._config = config
        self._listeners = listeners
        self._settings = ConnectionSettings.of(config)
        self._counters = Counters()
        self._drain_wanted = trio.Event()
        self._stop_wanted = trio.Event()
        self.draining = trio.Event()
        self._context: ServerContext | None = None
        self._lifespan: Lifespan | None = None
        timeouts = self._settings.timeouts
        self._deadlines = Deadlines(
            (
                *(timeouts.keep_alive, timeouts.head, timeouts.body_stall, timeouts.write_stall),
                *(timeouts.request, timeouts.disconnect_grace, timeouts.cleanup_grace),
            )
        )
        self._access_log = _open_access_log(config)

    # -- what users call -------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Begin to finish: accept nothing new, let requests end, and return from `serve` then.

        Requests are cancelled when `[timeouts] graceful` has passed. May be called again; returns at once.
        """
        self._drain_wanted.set()

    def stop_now(self) -> None:
        """Finish at once: cancel what runs, and give the lifespan's shutdown a moment only."""
        self._drain_wanted.set()
        self._stop_wanted.set()
        if self._lifespan is not None:
            self._lifespan.hurry()

    def stats(self) -> Stats:
        """Return what the server has done so far."""
        return snapshot(self._counters)

    def reopen_logs(self) -> None:
        """Open the access log's file again, after it was renamed."""
        if self._access_log is not None:
            self._access_log.log.reopen()

    async def serve_stream(
        self,
        stream: trio.abc.Stream,
        *,
        client: tuple[str, int] | None = ("127.0.0.1", 0),
        scheme: str = "http",
    ) -> None:
        """Serve one connection over any stream until it ends; the stream is closed then.

        Args:
            stream: a `trio.abc.Stream`, such as one end of `trio.testing.memory_stream_pair()`.
            client: what requests report as the client's address.
            scheme: "http" or "https".

        Raises nothing for what the peer does. Cancelling it closes the connection at once.
        """
        scope = trio.CancelScope()
        ended = self._start_stream(stream, Peer(client, ("127.0.0.1", 80), scheme), scope)
        try:
            await ended.wait()
        except trio.Cancelled:
            scope.cancel()
            raise

    def start_stream(
        self,
        stream: trio.abc.Stream,
        *,
        client: tuple[str, int] | None = ("127.0.0.1", 0),
        scheme: str = "http",
    ) -> trio.Event:
        """Serve one connection over any stream in a task of the server's, as an accepted one; see `serve_stream`.

        Returns an event that is set when the connection has ended.
        """
        return self._start_stream(stream, Peer(client, ("127.0.0.1", 80), scheme), trio.CancelScope())

    def _start_stream(self, stream: trio.abc.Stream, peer: Peer, scope: trio.CancelScope) -> trio.Event:
        context = self._context
        assert context is not None, "the server is not running"
        ended = trio.Event()

        async def serve_one() -> None:
            try:
                with scope:
                    await serve_stream(context, stream, peer)
            finally:
                ended.set()

        context.spawn(serve_one)
        return ended

    # -- the server's life -----------------------------------------------------------------------------------------

    async def run(self, task_status: trio.TaskStatus[Server]) -> None:
        """Start the application, serve until told to stop, and shut the application down.

        Raises:
            LifespanFailed: the application failed to start; nothing was served.
            LifespanDied: its lifespan ended while serving; the server has drained.
        """
        poller = build_poller()
        timeouts = self._settings.timeouts
        failure: LifespanFailed | None = None
        async with trio.open_nursery() as services:
            services.start_soon(poller.run, name="poller")
            services.start_soon(self._deadlines.run, name="deadlines")
            if self._access_log is not None:
                services.start_soon(self._access_log.run, name="access log")
            lifespan_times = (timeouts.lifespan_startup, timeouts.lifespan_shutdown)
            mode = self._config.lifecycle.lifespan
            try:
                async with open_lifespan(self._app, mode, *lifespan_times) as self._lifespan:
                    await self._serve(self._lifespan, poller, task_status)
            except LifespanFailed as error:
                failure = error  # raised below, where no nursery wraps it into a group
            services.cancel_scope.cancel()
        if failure is not None:
            raise failure
        if self._lifespan is not None and self._lifespan.outcome is LifespanOutcome.DIED:
            raise LifespanDied(self._lifespan.outcome.value)

    async def _serve(self, lifespan: Lifespan, poller: Poller, task_status: trio.TaskStatus[Server]) -> None:
        async with trio.open_nursery() as watchers:
            watchers.start_soon(self._watch_lifespan, lifespan, name="watch the lifespan")
            async with trio.open_nursery() as work:
                over = trio.Event()  # no connection is left that could start background tasks
                background = await work.start(_hold_nursery, over, name="background")
                async with trio.open_nursery() as connections:
                    context = self._build_context(lifespan, poller, connections, Background(background))
                    self._context = context
                    await self._accept(self._build_acceptor(context), task_status)
                    watchers.start_soon(self._bound_the_end, background, connections, name="bound the end")
                over.set()
            # Here every connection and every background task has ended.
            watchers.cancel_scope.cancel()

    async def _accept(self, acceptor: Acceptor, task_status: trio.TaskStatus[Server]) -> None:
        """Accept connections until told to drain."""
        async with trio.open_nursery() as accepting:
            for listener in self._listeners:
                accepting.start_soon(acceptor.run, listener, name=f"accept on {listener.url}")
            task_status.started(self)
            await self._drain_wanted.wait()
            with trio.move_on_after(self._settings.timeouts.drain_delay):
                await self._stop_wanted.wait()
            accepting.cancel_scope.cancel()
        self._begin_to_finish(acceptor)

    # -- stopping --------------------------------------------------------------------------------------------------

    def _begin_to_finish(self, acceptor: Acceptor) -> None:
        """Stop listening, and tell applications and peers."""
        for listener in self._listeners:
            # Whoever is in the backlog was promised an answer; the kernel lets one more in than it was told.
            acceptor.accept_waiting(listener, self._config.process.backlog + 1)
            listener.close()
        self.draining.set()
        for connection in tuple(self._deadlines.connections):
            connection.drain()

    async def _bound_the_end(self, background: trio.Nursery, connections: trio.Nursery) -> None:
        """Cancel what has not ended within its grace, in three steps that each are harder."""
        timeouts = self._settings.timeouts
        with trio.move_on_after(timeouts.graceful):
            await self._stop_wanted.wait()
        for connection in tuple(self._deadlines.connections):
            connection.end()
        background.cancel_scope.cancel()
        with trio.move_on_after(timeouts.cleanup_grace + ANSWER_GRACE):
            await self._stop_wanted.wait()
            await trio.sleep(ANSWER_GRACE)
        connections.cancel_scope.cancel()

    async def _watch_lifespan(self, lifespan: Lifespan) -> None:
        if lifespan.outcome is not LifespanOutcome.UNSUPPORTED:  # it may have died already
            await lifespan.ended.wait()
            self.drain()

    # -- building --------------------------------------------------------------------------------------------------

    def _build_context(
        self, lifespan: Lifespan, poller: Poller, connections: trio.Nursery, background: Background
    ) -> ServerContext:
        config = self._config
        http1 = config.http1
        limits = Http1Limits(
            max_head_size=http1.max_head_size,
            max_target_size=http1.max_target_size,
            max_fields=http1.max_fields,
            lenient_bare_lf=http1.lenient_bare_lf,
            lenient_folding=http1.lenient_folding,
        )
        extra = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in config.headers.extra]

        def spawn(async_function: Callable[..., Awaitable[None]], *args: Any) -> None:
            lifespan.context.run(lambda: connections.start_soon(async_function, *args))

        return ServerContext(
            app=self._app,
            state=lifespan.state,
            settings=self._settings,
            build_machine=partial(machine_class(http1.parser), limits),
            http2_limits=_http2_limits(config),
            fields=ServerFields(b"trioserve" if config.headers.server else None, config.headers.date, extra),
            proxies=ProxyRules(config.proxy.trusted, config.proxy.headers),
            counters=self._counters,
            deadlines=self._deadlines,
            poller=poller,
            access_log=self._access_log,
            certificates=follow_certificates(config.tls, choose_alpn(config), self._listeners),
            spawn=spawn,
            background=background,
            draining=self.draining,
        )

    def _build_acceptor(self, context: ServerContext) -> Acceptor:
        limits = self._config.limits
        acceptor = Acceptor(
            partial(serve_socket, context, self._config),
            context.spawn,
            self._counters,
            resolve_connection_limit(limits),
            limits.connections_per_ip,
            AT_ONCE if self._config.process.workers in (0, 1) else AT_ONCE_BESIDE_OTHERS,
        )
        for listener in self._listeners:
            if listener.socket.family != socket.AF_UNIX:
                # Accepted sockets inherit it: the kernel holds so much unsent data of one, and no more.
                try:
                    listener.socket.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, limits.send_buffer)
                except OSError:
                    logger.debug("this system has no TCP_NOTSENT_LOWAT")
        return acceptor


async def _hold_nursery(until: trio.Event, *, task_status: trio.TaskStatus[trio.Nursery]) -> None:
    """Give a nursery that is open until the event. In a task of its own, its cancellation reaches nobody else."""
    async with trio.open_nursery() as nursery:
        task_status.started(nursery)
        await until.wait()


def _http2_limits(config: Config) -> Http2Limits:
    http2 = config.http2
    return Http2Limits(
        max_concurrent_streams=http2.max_concurrent_streams,
        max_head_size=http2.max_head_size,
        max_fields=http2.max_fields,
        window=http2.window,
        connection_window=http2.connection_window,
        max_frame_size=http2.max_frame_size,
        send_buffer=config.limits.send_buffer,
        resets=Rate(*http2.reset_budget),
        control_frames=Rate(*http2.control_budget),
        extended_connect=config.websocket.enabled,
    )


def _open_access_log(config: Config) -> AccessLogFlusher | None:
    logging_settings = config.logging
    if logging_settings.access == "off":
        return None
    return AccessLogFlusher(
        AccessLog(logging_settings.access, logging_settings.access_format or logging_settings.format)
    )


async def serve(
    app: Application,
    config: Config | None = None,
    *,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an ASGI application until told to stop.

    In a Trio program: `server = await nursery.start(serve, app, config)`. That returns once the application has
    started and all binds listen, with a `Server` that knows the bound addresses, `drain()` and `stats()`. No
    signal is touched. Cancelling the nursery is a hard stop: connections are closed at once, and the lifespan's
    shutdown runs under its own deadline.

    Args:
        app: an ASGI 3 application.
        config: the settings; default: `Config()`, which listens on 127.0.0.1:8000.

    Raises:
        BindError: an address cannot be had.
        ConfigError: a certificate cannot be used.
        LifespanFailed: the application failed to start.
        LifespanDied: its lifespan ended while it was being served.
    """
    config = config or Config()
    ssl_context = build_ssl_context(config)
    options: dict[str, Any] = {"backlog": config.process.backlog, "unix": config.unix}
    async with (
        open_listeners(config.binds, ssl_context=ssl_context, **options) as listeners,
        open_listeners(config.insecure_binds, **options) as insecure,
    ):
        await serve_listeners(app, config, [*listeners, *insecure], task_status=task_status)


async def serve_listeners(
    app: Application,
    config: Config,
    listeners: Sequence[Listener],
    *,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve on listeners that are open already, such as inherited ones; the binds of `config` are not looked at.

    They are closed when the server drains. Otherwise the same as `serve`.
    """
    if config.tls.enabled and config.http2.enabled:
        importlib.import_module("trioserve.server.http2")  # the first client that wants it shall not wait
    await Server(config, app, listeners).run(task_status)


def build_ssl_context(config: Config) -> ssl.SSLContext | None:
    """Make the TLS context of the binds, None without TLS; raises `ConfigError` for files that cannot be used."""
    return build_tls_contexts(config.tls, choose_alpn(config)) if config.tls.enabled else None


def choose_alpn(config: Config) -> tuple[str, ...]:
    """The protocols that TLS connections may speak, the preferred first."""
    return ALPN if config.http2.enabled else ALPN_WITHOUT_HTTP2
