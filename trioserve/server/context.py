"""What every connection of a server shares, frozen once the application has started."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar

from trioserve.protocols.websocket.events import WebSocketLimits
from trioserve.server.leavers import Leavers

if TYPE_CHECKING:
    from collections.abc import Callable

    import trio

    from trioserve.asgi.background import Background
    from trioserve.asgi.types import Application
    from trioserve.config import (
        Config,
        Http1Settings,
        Http2Settings,
        LifecycleSettings,
        LimitSettings,
        TimeoutSettings,
        WebSocketSettings,
    )
    from trioserve.protocols.headers import ProxyRules
    from trioserve.protocols.http1.machine import Http1Machine
    from trioserve.protocols.http2.limits import Http2Limits
    from trioserve.server.certificates import Certificates
    from trioserve.server.date import ServerFields
    from trioserve.server.deadlines import Deadlines
    from trioserve.server.log_flusher import AccessLogFlusher
    from trioserve.server.poller import Poller
    from trioserve.telemetry.metrics import Counters


@dataclass(frozen=True, slots=True)
class Timeouts:
    """The durations of `[timeouts]` in seconds, with infinity where the setting says 0 for "none"."""

    keep_alive: float
    head: float
    body_stall: float
    write_stall: float
    request: float
    disconnect_grace: float
    cleanup_grace: float
    graceful: float
    drain_delay: float
    lifespan_startup: float
    lifespan_shutdown: float

    GRACES: ClassVar[tuple[str, ...]] = ("disconnect_grace", "cleanup_grace", "drain_delay")
    """Zero means at once for these."""

    @classmethod
    def of(cls, settings: TimeoutSettings) -> Timeouts:
        """Read the settings."""
        values = {field.name: getattr(settings, field.name) for field in fields(cls)}
        return cls(**{name: v if v or name in cls.GRACES else inf for name, v in values.items()})


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """The settings of `[websocket]`, times in seconds, with infinity where the setting says 0 for "none"."""

    enabled: bool
    deflate: bool
    limits: WebSocketLimits
    queue: int
    ping_interval: float
    ping_timeout: float
    close_timeout: float
    idle_timeout: float

    @classmethod
    def of(cls, settings: WebSocketSettings) -> SessionSettings:
        """Read the settings."""
        return cls(
            settings.enabled,
            settings.deflate,
            WebSocketLimits(settings.max_message_size, settings.max_fragments),
            settings.queue,
            settings.ping_interval or inf,
            settings.ping_timeout or inf,
            settings.close_timeout or inf,
            settings.idle_timeout or inf,
        )


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """The groups of the configuration that connections use."""

    http1: Http1Settings
    http2: Http2Settings
    websocket: SessionSettings
    timeouts: Timeouts
    limits: LimitSettings
    lifecycle: LifecycleSettings
    root_path: str
    server_names: frozenset[bytes]
    refuses_requests: bool  # whether any setting can keep a well-formed request from the application

    @classmethod
    def of(cls, config: Config) -> ConnectionSettings:
        """Pick them from a whole configuration."""
        limits = config.limits
        return cls(
            config.http1,
            config.http2,
            SessionSettings.of(config.websocket),
            Timeouts.of(config.timeouts),
            config.limits,
            config.lifecycle,
            config.root_path,
            frozenset(name.lower().encode() for name in config.server_names),
            bool(config.server_names or limits.body_size or limits.requests),
        )


@dataclass(frozen=True, slots=True)
class ServerContext:
    """The shared services of one server."""

    app: Application
    state: dict[str, Any]
    settings: ConnectionSettings
    build_machine: Callable[[], Http1Machine]
    http2_limits: Http2Limits
    fields: ServerFields
    proxies: ProxyRules
    counters: Counters
    deadlines: Deadlines
    poller: Poller
    access_log: AccessLogFlusher | None
    certificates: Certificates | None  # for listeners with TLS; None = each keeps the context that it has
    # spawn(async_function, *args): a task among the connections, in the lifespan's context. It must not raise.
    spawn: Callable[..., None]
    background: Background
    draining: trio.Event
    leavers: Leavers = field(default_factory=Leavers)
