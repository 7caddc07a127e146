"""Every setting, declared once: type, default, unit and one sentence of help.

TOML keys, flags, environment names, the reference file and the settings page are generated from here. A
`Config` is frozen, complete and already checked: who holds one need not ask again. Nobody passes the
whole of it on; each component takes its own group.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from .binds import Bind, TcpBind, parse_bind
from .errors import ConfigError
from .fields import Settings, binds, choice, count, duration, items, path, size, switch, text
from .http2 import Http2Settings
from .kinds import FilePath, Text
from .process import ProcessSettings
from .rules import (
    HeaderField,
    check_application,
    check_host_name,
    check_root_path,
    check_socket_mode,
    check_trusted_peer,
)
from .tls import SniCertificate, TlsSettings
from .websocket import WebSocketSettings
from .wsgi import WsgiSettings

__all__ = [
    "Config",
    "HeaderSettings",
    "Http1Settings",
    "Http2Settings",
    "LifecycleSettings",
    "LimitSettings",
    "LoggingSettings",
    "ProcessSettings",
    "ProxySettings",
    "SniCertificate",
    "TimeoutSettings",
    "TlsSettings",
    "UnixSocketSettings",
    "WebSocketSettings",
    "WsgiSettings",
    "resolve_connection_limit",
]

_KIB = 1024


class UnixSocketSettings(Settings, frozen=True, kw_only=True):
    """Who may connect to the Unix sockets among the binds."""

    TABLE = "unix"

    mode: Annotated[
        str, text("Permissions in octal.", 'three octal digits in quotes, such as "660"', check_socket_mode)
    ] = "660"
    user: Annotated[
        str | None, text("Owner, by name or number; default: who runs the server.", optional=True)
    ] = None
    group: Annotated[
        str | None, text("Group, by name or number; default: that of who runs the server.", optional=True)
    ] = None

    @property
    def mode_bits(self) -> int:
        """The mode as `os.chmod` takes it."""
        return int(self.mode, 8)


class Http1Settings(Settings, frozen=True, kw_only=True):
    """What is accepted as an HTTP/1.1 request."""

    TABLE = "http1"

    parser: Annotated[
        Literal["auto", "h11", "httptools"], choice("The parser; auto takes httptools when it is installed.")
    ] = "auto"
    max_head_size: Annotated[
        int, size("Largest request line and fields together; a larger head gets 431.", least=256)
    ] = 64 * _KIB
    max_target_size: Annotated[int, size("Longest request target; a longer one gets 414.", least=1)] = (
        16 * _KIB
    )
    max_fields: Annotated[int, count("Most fields in a head or in trailers; more get 431.", least=1)] = 100
    max_requests_per_connection: Annotated[
        int, count("Close the connection after so many requests; 0 = no limit.")
    ] = 0
    lenient_bare_lf: Annotated[
        bool, switch("Accept a line that ends with LF alone. Leave it off behind a proxy.")
    ] = False
    lenient_folding: Annotated[
        bool, switch("Accept field values that go on in the next line. Leave it off behind a proxy.")
    ] = False


class TimeoutSettings(Settings, frozen=True, kw_only=True):
    """How long the server waits, for peers, applications and itself."""

    TABLE = "timeouts"

    keep_alive: Annotated[float, duration("Close a connection that is idle for so long; 0 = never.")] = 75.0
    head: Annotated[
        float, duration("A request head must be complete within this, else 408; 0 = no limit.")
    ] = 15.0
    body_stall: Annotated[
        float, duration("Longest pause between two pieces of a request body; 0 = no limit.")
    ] = 60.0
    write_stall: Annotated[
        float, duration("Abort a response of which the peer takes nothing for so long; 0 = never.")
    ] = 60.0
    request: Annotated[
        float, duration("A whole exchange must end within this, else 503 or an abort; 0 = no limit.")
    ] = 0.0
    disconnect_grace: Annotated[
        float, duration("Time between a client's leaving and the cancellation of its request; 0 = none.")
    ] = 3.0
    cleanup_grace: Annotated[
        float, duration("Time that shielded cleanup of a cancelled application is given; 0 = none.")
    ] = 3.0
    graceful: Annotated[
        float, duration("When stopping, cancel what still runs after this; 0 = wait without a limit.")
    ] = 30.0
    drain_delay: Annotated[
        float, duration("When told to stop, go on accepting for so long, until balancers know; 0 = none.")
    ] = 0.0
    lifespan_startup: Annotated[
        float, duration("The application's start-up must end within this; 0 = no limit.")
    ] = 60.0
    lifespan_shutdown: Annotated[
        float, duration("The application's shutdown must end within this; 0 = no limit.")
    ] = 30.0


class LimitSettings(Settings, frozen=True, kw_only=True):
    """How much of a resource may be in use, in each worker."""

    TABLE = "limits"

    connections: Annotated[
        int | Literal["auto"],
        count('Open connections; "auto" = what RLIMIT_NOFILE leaves; 0 = no limit.', word="auto"),
    ] = "auto"
    connections_per_ip: Annotated[int, count("Open connections of one address; 0 = no limit.")] = 0
    requests: Annotated[int, count("Applications that run at once; more get 503; 0 = no limit.")] = 0
    body_size: Annotated[int, size("Largest request body; a larger one gets 413; 0 = no limit.")] = 0
    send_buffer: Annotated[
        int, size("Bytes of one response held for a slow peer before send() waits.", least=1)
    ] = 64 * _KIB


class LifecycleSettings(Settings, frozen=True, kw_only=True):
    """The beginning and the end of applications and requests."""

    TABLE = "lifecycle"

    lifespan: Annotated[
        Literal["auto", "on", "off"],
        choice("The ASGI lifespan; auto accepts an application that does not know it, on does not."),
    ] = "auto"
    on_disconnect: Annotated[
        Literal["cancel", "notify"],
        choice("When a client leaves: cancel its request after a grace, or only tell the application."),
    ] = "cancel"


class ProxySettings(Settings, frozen=True, kw_only=True):
    """Whose word about the client is taken."""

    TABLE = "proxy"

    trusted: Annotated[
        tuple[str, ...],
        items(
            'Peers whose forwarding headers count: addresses, networks, "unix", or "*" for all.',
            Text('an address, a network, "unix" or "*"', check_trusted_peer),
        ),
    ] = ("127.0.0.1", "::1")
    headers: Annotated[
        Literal["auto", "forwarded", "x-forwarded", "off"],
        choice("Which headers count: Forwarded, X-Forwarded-*, auto for both, or none."),
    ] = "auto"
    protocol: Annotated[
        Literal["off", "v1", "v2", "any"],
        choice("The PROXY protocol's versions that trusted peers speak before HTTP."),
    ] = "off"

    def check_combinations(self) -> None:
        """The PROXY protocol is spoken by trusted peers only."""
        if self.protocol != "off" and not self.trusted:
            raise self.refuse("protocol", "has no effect while [proxy] trusted is empty")


class HeaderSettings(Settings, frozen=True, kw_only=True):
    """Fields that the server adds to responses."""

    TABLE = "headers"

    server: Annotated[bool, switch("Send the Server field.")] = True
    date: Annotated[bool, switch("Send the Date field.")] = True
    extra: Annotated[
        tuple[tuple[str, str], ...],
        items(
            'Fields to add to every response: "name: value" or [name, value]; in the environment one a line.',
            HeaderField(),
            separator="\n",
        ),
    ] = ()


class LoggingSettings(Settings, frozen=True, kw_only=True):
    """What is logged, where and how."""

    TABLE = "logging"

    level: Annotated[
        Literal["debug", "info", "warning", "error", "critical"], choice("Least severity that is logged.")
    ] = "info"
    format: Annotated[Literal["text", "json"], choice("Lines for people or for machines.")] = "text"
    access: Annotated[
        str, path('The access log: "-" for stdout, "off", or a file.', words=("-", "off"), optional=False)
    ] = "-"
    access_format: Annotated[
        str | None, text("Format of an access-log line; default: that of `format`.", optional=True)
    ] = None
    colour: Annotated[
        Literal["auto", "always", "never"], choice("Coloured text; auto asks whether it is a terminal.")
    ] = "auto"
    config: Annotated[str | None, path("A logging.config.dictConfig file, TOML or JSON.")] = None
    file: Annotated[str | None, path("The error log; default: stderr.")] = None

    def check_combinations(self) -> None:
        """The file that is to be read must be there; those to be written may come later."""
        if self.config is not None and not Path(self.config).is_file():
            raise self.refuse("config", f"{self.config} is not a file")


class Config(Settings, frozen=True, kw_only=True):
    """All settings of a server.

    `bind` and `insecure_bind` may be given as one text or several and are tuples afterwards; `binds` and
    `insecure_binds` are what they mean. Durations are seconds and sizes bytes, or texts with a unit.

    Raises:
        ConfigError: a value or a combination of values is impossible.
    """

    app: Annotated[
        str | None,
        text("The application: module:attribute.", '"module:attribute"', check_application, optional=True),
    ] = None
    interface: Annotated[
        Literal["auto", "asgi3", "asgi2", "wsgi"], choice("What kind of application it is; auto finds out.")
    ] = "auto"
    factory: Annotated[bool, switch("Call the attribute to get the application.")] = False
    app_dir: Annotated[str, path("Directory that is put first on the import path.", optional=False)] = "."
    bind: Annotated[
        str | list[str] | tuple[str, ...],
        binds("Where to listen: host:port, [v6]:port, :port, unix:/path, fd:N; several.", required=True),
    ] = ("127.0.0.1:8000",)
    insecure_bind: Annotated[
        str | list[str] | tuple[str, ...], binds("Where to listen without TLS, beside the binds with TLS.")
    ] = ()
    root_path: Annotated[
        str,
        text(
            "ASGI root_path: where a proxy mounts the application.", 'a path such as "/api"', check_root_path
        ),
    ] = ""
    server_names: Annotated[
        tuple[str, ...],
        items(
            "Host names that are served, without port; others get 421; empty = all.",
            Text("a host name without port", check_host_name),
        ),
    ] = ()
    reload: Annotated[
        bool, switch("For development: replace the workers when code changes; needs the extra `reload`.")
    ] = False
    reload_dirs: Annotated[
        tuple[str, ...],
        items("Directories that reload watches; default: app_dir.", FilePath(optional=False)),
    ] = ()
    reload_include: Annotated[
        tuple[str, ...],
        items("Patterns of file names that reload watches beside *.py.", Text("a pattern such as *.html")),
    ] = ()
    reload_exclude: Annotated[
        tuple[str, ...],
        items("Patterns of file or directory names that reload ignores.", Text("a pattern such as build")),
    ] = ()
    env_file: Annotated[str | None, path("File with NAME=value lines for the application's environment.")] = (
        None
    )

    process: ProcessSettings = ProcessSettings()
    unix: UnixSocketSettings = UnixSocketSettings()
    tls: TlsSettings = TlsSettings()
    http1: Http1Settings = Http1Settings()
    http2: Http2Settings = Http2Settings()
    websocket: WebSocketSettings = WebSocketSettings()
    wsgi: WsgiSettings = WsgiSettings()
    timeouts: TimeoutSettings = TimeoutSettings()
    limits: LimitSettings = LimitSettings()
    lifecycle: LifecycleSettings = LifecycleSettings()
    proxy: ProxySettings = ProxySettings()
    headers: HeaderSettings = HeaderSettings()
    logging: LoggingSettings = LoggingSettings()

    @property
    def binds(self) -> tuple[Bind, ...]:
        """`bind`, parsed."""
        return tuple([parse_bind(text) for text in self.bind])

    @property
    def insecure_binds(self) -> tuple[Bind, ...]:
        """`insecure_bind`, parsed."""
        return tuple([parse_bind(text) for text in self.insecure_bind])

    def check_combinations(self) -> None:
        """Groups are groups, files exist, no bind is given twice, plain binds stand beside TLS ones."""
        for name, group in GROUPS.items():
            if not isinstance(getattr(self, name), group):
                raise ConfigError(f"[{name}]", None, f"expected {group.__name__}")
        if self.env_file is not None and not Path(self.env_file).is_file():
            raise self.refuse("env_file", f"{self.env_file} is not a file")
        if self.app_dir != "." and not Path(self.app_dir).is_dir():
            raise self.refuse("app_dir", f"{self.app_dir} is not a directory")
        for folder in self.reload_dirs:
            if not Path(folder).is_dir():
                raise self.refuse("reload_dirs", f"{folder} is not a directory")
        if self.reload and self.process.workers == 0:
            raise self.refuse("reload", "needs workers that can be replaced, and [process] workers is 0")
        if self.insecure_bind and not self.tls.enabled:
            raise self.refuse("insecure_bind", "needs [tls] certificate; without TLS, bind is plain already")
        if self.http2.h2c_upgrade and not self.proxy.trusted:
            raise self.http2.refuse("h2c_upgrade", "has no effect while [proxy] trusted is empty")
        self._refuse_repeated_binds()

    def _refuse_repeated_binds(self) -> None:
        seen: set[Bind] = set()
        for key, wishes in (("bind", self.binds), ("insecure_bind", self.insecure_binds)):
            for wish in wishes:
                if wish in seen:
                    raise self.refuse(key, f"{wish} is given twice")
                if not (isinstance(wish, TcpBind) and wish.port == 0):  # the system gives each its own port
                    seen.add(wish)


GROUPS: dict[str, type[Settings]] = {
    group.TABLE: group
    for group in (
        ProcessSettings,
        UnixSocketSettings,
        TlsSettings,
        Http1Settings,
        Http2Settings,
        WebSocketSettings,
        WsgiSettings,
        TimeoutSettings,
        LimitSettings,
        LifecycleSettings,
        ProxySettings,
        HeaderSettings,
        LoggingSettings,
    )
}


def resolve_connection_limit(limits: LimitSettings) -> int:
    """How many connections may be open; 0 = no limit.

    "auto" leaves an eighth of RLIMIT_NOFILE, and at least 64 descriptors, to the application, its database
    connections and files; under a very small limit half of it.
    """
    if limits.connections != "auto":
        return limits.connections
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 0
    return max(soft - max(soft // 8, 64), soft // 2, 1)
