"""Floor 0: settings as frozen data, and where they come from.

Build a `Config` in Python or let `load_config` read one; both are equally strict and raise `ConfigError`.
Nothing here opens a socket or knows of Trio, and importing it costs little: parsers of rare inputs are
imported on use.
"""

from __future__ import annotations

from .binds import Bind, FdBind, TcpBind, UnixBind, parse_bind
from .dump import dump_toml
from .errors import ConfigError
from .load import LoadedConfig, load_config
from .model import (
    Config,
    HeaderSettings,
    Http1Settings,
    Http2Settings,
    LifecycleSettings,
    LimitSettings,
    LoggingSettings,
    ProcessSettings,
    ProxySettings,
    SniCertificate,
    TimeoutSettings,
    TlsSettings,
    UnixSocketSettings,
    WebSocketSettings,
    WsgiSettings,
    resolve_connection_limit,
)
from .settings import Setting, settings
from .units import EventRate

__all__ = [
    "Bind",
    "Config",
    "ConfigError",
    "EventRate",
    "FdBind",
    "HeaderSettings",
    "Http1Settings",
    "Http2Settings",
    "LifecycleSettings",
    "LimitSettings",
    "LoadedConfig",
    "LoggingSettings",
    "ProcessSettings",
    "ProxySettings",
    "Setting",
    "SniCertificate",
    "TcpBind",
    "TimeoutSettings",
    "TlsSettings",
    "UnixBind",
    "UnixSocketSettings",
    "WebSocketSettings",
    "WsgiSettings",
    "dump_toml",
    "load_config",
    "parse_bind",
    "resolve_connection_limit",
    "settings",
]
