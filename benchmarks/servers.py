"""How each server is started, held to one processor, and ended.

One row of the table is one server with one parser and one loop. The rows say what differs; `running` does the
rest: a free port on 127.0.0.1, a session of its own, output to a file, ready when it accepts, ended by pid
whatever happens. A server never outlives its `with` block.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.cost import session_processes
from benchmarks.environment import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


START_TIMEOUT = 20.0
STOP_TIMEOUT = 4.0


class StartError(Exception):
    """A server did not start or did not stay; the message holds the end of its output."""


@dataclass(frozen=True)
class Server:
    """A command line in parts. `{port}`, `{app}`, `{certificate}`, `{key}` and `{benchmarks}` are filled in."""

    name: str
    command: tuple[str, ...]
    access_log_off: tuple[str, ...]
    access_log_on: tuple[str, ...]
    tls: tuple[str, ...]
    keep_alive: tuple[str, ...] = ()  # the options that keep an idle connection for 75 seconds


@dataclass(frozen=True)
class Setting:
    """What one measurement wants of a server, the same for both sides."""

    app: str
    tls: bool = False
    http2: bool = False
    access_log: bool = False
    long_keep_alive: bool = False
    spread: bool = False  # over all processors, which the load shares then


@dataclass(frozen=True)
class Site:
    """Where servers run: the interpreter, the processor, a folder for output and certificates."""

    interpreter: Path
    processor: int
    directory: Path

    @property
    def certificate(self) -> Path:
        """The certificate of the TLS cases; its key lies beside it."""
        return self.directory / "certificate.pem"

    @property
    def key(self) -> Path:
        """The key of the certificate."""
        return self.directory / "key.pem"


@dataclass(frozen=True)
class Running:
    """A server that accepts connections. Its session id is its pid."""

    server: Server
    setting: Setting
    port: int
    pid: int
    output: Path

    @property
    def url(self) -> str:
        """Where the application is."""
        return f"{'https' if self.setting.tls else 'http'}://127.0.0.1:{self.port}/"


def _uvicorn(name: str, *options: str) -> Server:
    return Server(
        name,
        ("uvicorn", "{app}", "--host", "127.0.0.1", "--port", "{port}", *options),
        access_log_off=("--no-access-log",),
        access_log_on=("--access-log",),
        tls=("--ssl-certfile", "{certificate}", "--ssl-keyfile", "{key}"),
        keep_alive=("--timeout-keep-alive", "75"),
    )


def _trioserve(name: str, *options: str) -> Server:
    return Server(
        name,
        ("trioserve", "{app}", "--bind", "127.0.0.1:{port}", *options),
        access_log_off=("--logging-access", "off"),
        access_log_on=("--logging-access", "-"),
        tls=("--tls-certificate", "{certificate}", "--tls-key", "{key}"),
        keep_alive=("--timeouts-keep-alive", "75"),
    )


def _granian(name: str, version: str, workers: int = 1) -> Server:
    listen = ("--host", "127.0.0.1", "--port", "{port}", "--http", version)
    return Server(
        name,
        ("granian", "{app}", *listen, "--interface", "asgi", "--workers", str(workers), "--loop", "uvloop"),
        access_log_off=("--no-access-log",),
        access_log_on=("--access-log",),
        tls=("--ssl-certificate", "{certificate}", "--ssl-keyfile", "{key}"),
    )


def _hypercorn(name: str, worker_class: str) -> Server:
    listen = ("--bind", "127.0.0.1:{port}", "--config", "{benchmarks}/hypercorn.toml")
    return Server(
        name,
        ("hypercorn", "{app}", *listen, "--worker-class", worker_class, "--workers", "1"),
        access_log_off=(),
        access_log_on=("--access-logfile", "-"),
        tls=("--certfile", "{certificate}", "--keyfile", "{key}"),
        keep_alive=("--keep-alive", "75"),
    )


def _gunicorn(name: str, *options: str) -> Server:
    return Server(
        name,
        ("gunicorn", "{app}", "--bind", "127.0.0.1:{port}", "--workers", "1", *options),
        access_log_off=(),
        access_log_on=("--access-logfile", "-"),
        tls=("--certfile", "{certificate}", "--keyfile", "{key}"),
        keep_alive=("--keep-alive", "75"),
    )


def _small(name: str, *command: str) -> Server:
    """A server that is measured without access log and TLS alone."""
    return Server(name, command, access_log_off=(), access_log_on=(), tls=())


WSGI_THREADS = "8"
"""Of every server that can be told; Uvicorn has 10."""
_GTHREAD = ("--worker-class", "gthread", "--threads", WSGI_THREADS)
_LISTEN = ("--host", "127.0.0.1", "--port", "{port}")
_GRANIAN_WSGI = ("--interface", "wsgi", "--workers", "1", "--blocking-threads", WSGI_THREADS)

SERVERS = {
    server.name: server
    for server in (
        _trioserve("trioserve httptools", "--http1-parser", "httptools"),
        _trioserve(
            "trioserve httptools, no supervisor", "--http1-parser", "httptools", "--process-workers", "0"
        ),
        _trioserve("trioserve h11", "--http1-parser", "h11"),
        _trioserve("trioserve http2"),
        _uvicorn("uvicorn uvloop httptools", "--loop", "uvloop", "--http", "httptools"),
        _uvicorn("uvicorn asyncio h11", "--loop", "asyncio", "--http", "h11"),
        _uvicorn("uvicorn uvloop wsproto", "--loop", "uvloop", "--http", "httptools", "--ws", "wsproto"),
        _uvicorn(
            "uvicorn uvloop websockets",
            "--loop",
            "uvloop",
            "--http",
            "httptools",
            "--ws",
            "websockets-sansio",
        ),
        _granian("granian", "1"),
        _granian("granian http2", "2"),
        _trioserve("trioserve, 2 workers", "--http1-parser", "httptools", "--process-workers", "2"),
        _uvicorn("uvicorn, 2 workers", "--loop", "uvloop", "--http", "httptools", "--workers", "2"),
        _granian("granian, 2 workers", "1", workers=2),
        _trioserve("trioserve wsgi", "--http1-parser", "httptools", "--wsgi-threads", WSGI_THREADS),
        _uvicorn("uvicorn wsgi", "--loop", "uvloop", "--http", "httptools", "--interface", "wsgi"),
        _gunicorn("gunicorn gthread", *_GTHREAD),
        _small("waitress", "waitress", "--listen", "127.0.0.1:{port}", "--threads", WSGI_THREADS, "{app}"),
        _small("cheroot", "cheroot", "{app}", "--bind", "127.0.0.1:{port}", "--threads", WSGI_THREADS),
        _small("granian wsgi", "granian", "{app}", *_LISTEN, *_GRANIAN_WSGI, "--no-access-log"),
        _hypercorn("hypercorn trio", "trio"),
        _hypercorn("hypercorn uvloop", "uvloop"),
    )
}


def command_line(server: Server, setting: Setting, site: Site, port: int) -> list[str]:
    """The command that starts a server."""
    parts = [
        *server.command,
        *(server.access_log_on if setting.access_log else server.access_log_off),
        *(server.tls if setting.tls else ()),
        *(server.keep_alive if setting.long_keep_alive else ()),
    ]
    values = {
        "port": port,
        "app": f"benchmarks.apps:{setting.app}",
        "certificate": site.certificate,
        "key": site.key,
        "benchmarks": ROOT / "benchmarks",
    }
    return [str(site.interpreter), "-m", *(part.format(**values) for part in parts)]


@contextlib.contextmanager
def launched(server: Server, setting: Setting, site: Site) -> Iterator[Running]:
    """A started process that may not accept yet; ended with all its children when the block is left."""
    port = _free_port()
    output = site.directory / f"output-{port}.txt"
    processors = set(range(os.cpu_count() or 1)) if setting.spread else {site.processor}
    with output.open("wb") as file:
        process = subprocess.Popen(
            command_line(server, setting, site, port),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=site.directory,
            env=_variables(),
            start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, processors),
        )
    try:
        yield Running(server, setting, port, process.pid, output)
    finally:
        _end(process)


@contextlib.contextmanager
def running(server: Server, setting: Setting, site: Site) -> Iterator[Running]:
    """A server that accepts connections. Raises StartError if it does not within START_TIMEOUT seconds."""
    with launched(server, setting, site) as started:
        wait_until_accepting(started)
        yield started


def wait_until_accepting(started: Running, interval: float = 0.02) -> None:
    """Return when a connection is accepted; raise StartError when the process ends or the time is over."""
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", started.port), timeout=1).close()
        except OSError:
            check_alive(started)
            time.sleep(interval)
        else:
            return
    waited = f"{started.server.name} accepts no connection after {START_TIMEOUT:.0f} s"
    raise StartError(f"{waited}; its output:\n{output_end(started.output)}")


def check_alive(started: Running) -> None:
    """Raise StartError if the server has ended."""
    if not session_processes(started.pid):
        raise StartError(f"{started.server.name} has ended; its output:\n{output_end(started.output)}")


def output_end(output: Path, lines: int = 15) -> str:
    """The last lines a server has written, indented."""
    text = output.read_text(errors="replace").splitlines()[-lines:]
    return "\n".join(f"    | {line}" for line in text) or "    | (nothing)"


def make_certificate(site: Site) -> None:
    """A self-signed certificate for 127.0.0.1, valid for two days."""
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    names = ["-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(site.key), "-out", str(site.certificate)]
    subprocess.run([*command, *names, *files], check=True, capture_output=True)


def _variables() -> dict[str, str]:
    """No variable of the caller may configure a server (WEB_CONCURRENCY, PORT, UVICORN_*, GRANIAN_*)."""
    kept = {
        name: os.environ[name] for name in ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR") if name in os.environ
    }
    return kept | {"PYTHONPATH": str(ROOT)}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the server to stop, then end whatever is left of its session."""
    try:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT)
    finally:
        for pid in session_processes(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
