"""What is compared with what, and the ratio that is aimed at: one row per case.

`first` and `second` are names from servers.py; the ratio is cost of the first over cost of the second, so
below 1 the first is cheaper. Reference cases have no target, mostly compare peers with each other, and run only
when they are named.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.h2load import Http2Load
from benchmarks.load import Load
from benchmarks.servers import Setting
from benchmarks.websocket_load import WebSocketLoad

Measure = Literal["requests", "messages", "memory", "start"]

IDLE_CONNECTIONS = 5000

_UPLOAD = Path(__file__).with_name("upload.lua")

_HELLO = Setting("hello")
_SPREAD = Setting("hello", spread=True)
_LOGGED = Setting("hello", access_log=True)
_TLS = Setting("hello", tls=True)
_IDLE = Setting("hello", long_keep_alive=True)
_HTTP2 = Setting("hello", tls=True, http2=True)
_HTTP2_DOWNLOAD = Setting("large_download", tls=True, http2=True)

_SPREAD_LOAD = Load(64, spread=True)
_STREAMS = Http2Load(connections=8, streams=16, requests=10_000)
# The window is about what browsers announce, so the server meets its end and waits for more.
_ONE_STREAM = Http2Load(connections=1, streams=1, requests=2, window=24)

_WSGI = Setting("wsgi_hello")

_ECHO = Setting("echo")
_SMALL_MESSAGES = WebSocketLoad(connections=32, size=100, messages=10_000)
_MESSAGES = WebSocketLoad(connections=32, size=10_000, messages=5_000)

_OURS = "trioserve httptools"
_OURS_ALONE = "trioserve httptools, no supervisor"
_OURS_H11 = "trioserve h11"
_OURS_HTTP2 = "trioserve http2"
_OURS_WSGI = "trioserve wsgi"
_OURS_WORKERS = "trioserve, 2 workers"
_UVICORN = "uvicorn uvloop httptools"
_UVICORN_H11 = "uvicorn asyncio h11"
_UVICORN_WSPROTO = "uvicorn uvloop wsproto"
_UVICORN_WEBSOCKETS = "uvicorn uvloop websockets"
_HYPERCORN = "hypercorn uvloop"


@dataclass(frozen=True)
class Case:
    """One row of the table of targets. Without a load it is not a case of requests."""

    name: str
    first: str
    second: str
    setting: Setting
    load: Load | Http2Load | WebSocketLoad | None = None
    target: float | None = None
    measure: Measure = "requests"
    reference: bool = False


def _websocket(name: str, first: str, second: str, load: WebSocketLoad, target: float | None = None) -> Case:
    """A case of messages; without a target it is a reference."""
    return Case(name, first, second, _ECHO, load, target, measure="messages", reference=target is None)


CASES = (
    Case("hello-64", _OURS, _UVICORN, _HELLO, Load(64), 0.75),
    Case("hello-256", _OURS, _UVICORN, _HELLO, Load(256), 0.75),
    Case("hello-1", _OURS, _UVICORN, _HELLO, Load(1), 0.90),
    Case("hello-log", _OURS, _UVICORN, _LOGGED, Load(64), 0.60),
    Case("hello-granian", _OURS, "granian", _HELLO, Load(64), 1.15),
    Case("hello-h11", _OURS_H11, _UVICORN_H11, _HELLO, Load(64), 0.80),
    Case("hello-h11-hypercorn", _OURS_H11, "hypercorn trio", _HELLO, Load(64), 0.25),
    Case("hello-tls", _OURS, _UVICORN, _TLS, Load(64), 0.75),
    Case("download", _OURS, _UVICORN, Setting("download"), Load(4), 1.0),
    Case("upload", _OURS, _UVICORN, Setting("upload"), Load(4, _UPLOAD), 1.0),
    Case("http2-hypercorn-uvloop", _OURS_HTTP2, _HYPERCORN, _HTTP2, _STREAMS, 0.50),
    Case("http2-hypercorn-trio", _OURS_HTTP2, "hypercorn trio", _HTTP2, _STREAMS, 0.12),
    Case("http2-download", _OURS_HTTP2, _HYPERCORN, _HTTP2_DOWNLOAD, _ONE_STREAM, 0.70),
    _websocket("websocket-100", _OURS, _UVICORN_WSPROTO, _SMALL_MESSAGES, 0.80),
    _websocket("websocket-10k", _OURS, _UVICORN_WSPROTO, _MESSAGES, 0.80),
    Case("wsgi-uvicorn", _OURS_WSGI, "uvicorn wsgi", _WSGI, Load(64), 0.75),
    Case("wsgi-gunicorn", _OURS_WSGI, "gunicorn gthread", _WSGI, Load(64), 0.75),
    Case("memory-idle", _OURS, _UVICORN, _IDLE, target=1.0, measure="memory"),
    # Uvicorn starts without a supervisor, too; what ours adds is a case of its own.
    Case("start", _OURS_ALONE, _UVICORN, _HELLO, target=1.2, measure="start"),
    Case("start-supervised", _OURS, _UVICORN, _HELLO, measure="start", reference=True),
    Case("peer-granian", "granian", _UVICORN, _HELLO, Load(64), reference=True),
    Case("peer-granian-1", "granian", _UVICORN, _HELLO, Load(1), reference=True),
    Case("peer-granian-log", "granian", _UVICORN, _LOGGED, Load(64), reference=True),
    Case("peer-granian-tls", "granian", _UVICORN, _TLS, Load(64), reference=True),
    Case("peer-granian-start", "granian", _UVICORN, _HELLO, measure="start", reference=True),
    Case("peer-h11", _UVICORN_H11, _UVICORN, _HELLO, Load(64), reference=True),
    Case("peer-hypercorn", "hypercorn trio", _UVICORN_H11, _HELLO, Load(64), reference=True),
    Case("peer-hypercorn-memory", "hypercorn trio", _UVICORN, _IDLE, measure="memory", reference=True),
    Case("peer-download", _UVICORN_H11, _UVICORN, Setting("download"), Load(4), reference=True),
    Case("peer-upload", _UVICORN_H11, _UVICORN, Setting("upload"), Load(4, _UPLOAD), reference=True),
    _websocket("websocket-100-websockets", _OURS, _UVICORN_WEBSOCKETS, _SMALL_MESSAGES),
    _websocket("websocket-10k-websockets", _OURS, _UVICORN_WEBSOCKETS, _MESSAGES),
    _websocket("websocket-100-granian", _OURS, "granian", _SMALL_MESSAGES),
    _websocket("websocket-10k-granian", _OURS, "granian", _MESSAGES),
    _websocket("peer-websocket-100", _UVICORN_WEBSOCKETS, _UVICORN_WSPROTO, _SMALL_MESSAGES),
    _websocket("peer-websocket-10k", _UVICORN_WEBSOCKETS, _UVICORN_WSPROTO, _MESSAGES),
    _websocket("peer-websocket-granian", "granian", _UVICORN_WSPROTO, _SMALL_MESSAGES),
    Case("workers-uvicorn", _OURS_WORKERS, "uvicorn, 2 workers", _SPREAD, _SPREAD_LOAD, reference=True),
    Case("workers-granian", _OURS_WORKERS, "granian, 2 workers", _SPREAD, _SPREAD_LOAD, reference=True),
    Case("wsgi-waitress", _OURS_WSGI, "waitress", _WSGI, Load(64), reference=True),
    Case("wsgi-cheroot", _OURS_WSGI, "cheroot", _WSGI, Load(64), reference=True),
    Case("wsgi-granian", _OURS_WSGI, "granian wsgi", _WSGI, Load(64), reference=True),
    Case("peer-wsgi", "gunicorn gthread", "uvicorn wsgi", _WSGI, Load(64), reference=True),
    Case("peer-http2-hypercorn", "hypercorn trio", _HYPERCORN, _HTTP2, _STREAMS, reference=True),
    Case("peer-http2-granian", "granian http2", _HYPERCORN, _HTTP2, _STREAMS, reference=True),
    Case("peer-http2-download", "granian http2", _HYPERCORN, _HTTP2_DOWNLOAD, _ONE_STREAM, reference=True),
)
