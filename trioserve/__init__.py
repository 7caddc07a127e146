"""The web server for structured concurrency: ASGI and WSGI on Trio.

`serve(app, config)` is the whole server as one async function, for a nursery of your own; the command `trioserve`
runs it in a process. The code stands on floors, and imports go down only:

    cli, gunicorn          words on the command line; the same server under Gunicorn
    process/               operating-system processes: supervisor, workers, loading the application, signals
    server/                Trio I/O: poller, transports, listeners, connections, HTTP/1.1 and 2, WebSocket
    asgi/ wsgi/            the application's side: scope, receive, send, lifespan; WSGI on threads
    protocols/             sans-I/O machines: bytes <-> events
    config/ telemetry/     frozen settings, log lines and counters
    testing/               the same server over memory streams, for tests
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trioserve.config import Config, ConfigError

if TYPE_CHECKING:
    from trioserve.asgi.lifespan import LifespanFailed
    from trioserve.server.listeners import BindError
    from trioserve.server.server import LifespanDied, Server, serve

__version__ = "0.1.0"
__all__ = [
    "BindError",
    "Config",
    "ConfigError",
    "LifespanDied",
    "LifespanFailed",
    "Server",
    "__version__",
    "serve",
]

_FOUND_IN = {
    "BindError": "trioserve.server.listeners",
    "LifespanDied": "trioserve.server.server",
    "LifespanFailed": "trioserve.asgi.lifespan",
    "Server": "trioserve.server.server",
    "serve": "trioserve.server.server",
}


def __getattr__(name: str) -> Any:
    # Importing the package, as `trioserve --help` does, need not import Trio.
    if name in _FOUND_IN:
        from importlib import import_module

        return getattr(import_module(_FOUND_IN[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
