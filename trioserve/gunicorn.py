"""A worker class for Gunicorn: `gunicorn -k trioserve.gunicorn.TrioWorker app:app`.

Gunicorn keeps the processes, the sockets and the error log; the worker is much like one that our own supervisor holds.
Its settings are translated once, by `build_config`; what it leaves at its default is decided by trioserve's own
environment variables and file. Signals mean what Gunicorn's documentation says, not what they mean to our supervisor.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio
from gunicorn.arbiter import Arbiter
from gunicorn.workers.base import Worker
from msgspec.structs import replace

from trioserve.config import ConfigError, FdBind, LoadedConfig, load_config
from trioserve.process.app_loader import LoadedApp
from trioserve.process.ending import find_exit_code
from trioserve.process.exit_codes import APPLICATION_FAILED, STOPPED
from trioserve.process.exit_deadline import EXIT_GRACE, ExitDeadline
from trioserve.process.preparation import check_access_log, check_files
from trioserve.process.serving import Serving
from trioserve.process.signals import Intent
from trioserve.server.listeners import BindError, build_listener
from trioserve.server.server import build_ssl_context
from trioserve.telemetry.logs import flush_logs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import FrameType

    from trioserve.config import Config
    from trioserve.server.listeners import Listener
    from trioserve.server.server import Server

BEAT: Final = 1.0
"""Seconds between two looks at the parent, the limit of requests, and at most between two signs of life."""

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1)

# Settings of Gunicorn -> settings of ours, where the values mean the same.
_SAME: Final = {
    "asgi_disconnect_grace_period": (("timeouts", "disconnect_grace"),),
    "asgi_lifespan": (("lifecycle", "lifespan"),),
    "http2_max_concurrent_streams": (("http2", "max_concurrent_streams"),),
    "http2_max_frame_size": (("http2", "max_frame_size"),),
    "keepalive": (("timeouts", "keep_alive"),),
    "limit_request_fields": (("http1", "max_fields"), ("http2", "max_fields")),
    "limit_request_line": (("http1", "max_target_size"),),
    "root_path": (("", "root_path"),),
    "threads": (("wsgi", "threads"),),
    "websocket_max_message_size": (("websocket", "max_message_size"),),
    "worker_connections": (("limits", "connections"),),
}
_PROXY_PROTOCOLS: Final = {True: "any", "auto": "any", "v1": "v1", "v2": "v2"}
_CLIENT_CERTIFICATES: Final = ("none", "optional", "required")
_REQUESTS_SHARE: Final = 0.8  # of graceful_timeout; the rest is for cancelled requests and the lifespan


# -- settings ------------------------------------------------------------------------------------------------------


def build_config(cfg: Any, config: Config) -> Config:
    """Lay Gunicorn's settings over ours, except those that it has at its defaults.

    Args:
        cfg: a `gunicorn.config.Config`.
        config: ours.

    Raises:
        ConfigError: a value that Gunicorn accepts and we do not.
    """
    changes: dict[str, dict[str, Any]] = {}
    for name, targets in _SAME.items():
        if _is_set(cfg, name):
            for table, key in targets:
                changes.setdefault(table, {})[key] = cfg.settings[name].get()
    if _is_set(cfg, "keepalive") and not cfg.keepalive:
        changes["timeouts"].pop("keep_alive")  # where 0 means for ever
        changes.setdefault("http1", {})["max_requests_per_connection"] = 1
    if _is_set(cfg, "limit_request_line") and not cfg.limit_request_line:
        changes["http1"]["max_target_size"] = config.http1.max_head_size
    _add_proxy(changes, cfg)
    _add_access_log(changes, cfg, config)
    _add_timeouts(changes, cfg, config)
    if cfg.is_ssl:
        changes["tls"] = _translate_tls(cfg)
    top = changes.pop("", {})
    groups = {table: replace(getattr(config, table), **keys) for table, keys in changes.items()}
    return replace(config, **top, **groups)


def _is_set(cfg: Any, name: str) -> bool:
    """Whether a setting, which not all versions of Gunicorn have, differs from its default."""
    setting = cfg.settings.get(name)
    return setting is not None and setting.get() != type(setting)().get()


def _add_proxy(changes: dict[str, dict[str, Any]], cfg: Any) -> None:
    proxy: dict[str, Any] = {}
    if _is_set(cfg, "forwarded_allow_ips") or "FORWARDED_ALLOW_IPS" in os.environ:
        allowed = cfg.forwarded_allow_ips
        texts = allowed.split(",") if isinstance(allowed, str) else [str(each) for each in allowed]
        # Gunicorn trusts everyone on a Unix socket.
        proxy["trusted"] = (*(text.strip() for text in texts if text.strip()), "unix")
    if _is_set(cfg, "proxy_protocol"):
        proxy["protocol"] = _PROXY_PROTOCOLS[cfg.proxy_protocol]
    if proxy:
        changes["proxy"] = proxy


def _add_access_log(changes: dict[str, dict[str, Any]], cfg: Any, config: Config) -> None:
    """Gunicorn says where it goes, and writes none unless told to; the lines are ours."""
    keys: dict[str, Any] = {}
    if cfg.accesslog:
        keys["access"] = cfg.accesslog if cfg.accesslog == "-" else str(Path(cfg.accesslog).absolute())
    elif config.logging.access == "-":
        keys["access"] = "off"
    if _is_set(cfg, "access_log_format"):
        keys["access_format"] = cfg.access_log_format
    if keys:
        changes["logging"] = keys


def _add_timeouts(changes: dict[str, dict[str, Any]], cfg: Any, config: Config) -> None:
    """Fit the end into the time after which Gunicorn kills."""
    ours, whole = config.timeouts, max(cfg.graceful_timeout, 1)
    graceful = max(_REQUESTS_SHARE * whole - ours.drain_delay, 0.1)
    keys = changes.setdefault("timeouts", {})
    keys["graceful"] = min(ours.graceful or graceful, graceful)
    keys["cleanup_grace"] = min(ours.cleanup_grace, (1 - _REQUESTS_SHARE) / 2 * whole)
    keys["lifespan_shutdown"] = min(ours.lifespan_shutdown or whole, whole)


def _translate_tls(cfg: Any) -> dict[str, Any]:
    mode = _CLIENT_CERTIFICATES[cfg.cert_reqs]
    return {
        "certificate": cfg.certfile,
        "key": cfg.keyfile,
        "ca": cfg.ca_certs if mode != "none" else None,
        "client_certificates": mode,
        "ciphers": cfg.ciphers,
    }


# -- the worker ----------------------------------------------------------------------------------------------------


class TrioWorker(Worker):  # type: ignore[misc] # Gunicorn has no types
    """One worker process of Gunicorn.

    TERM drains, QUIT and INT stop at once, USR1 opens the logs again. The event loop itself gives the signs of life
    that `timeout` asks for: a loop that is blocked for longer is logged with its stack, and killed.
    """

    _serving: Serving | None = None
    _server: Server | None = None

    # -- signals outside of Trio's run -----------------------------------------------------------------------------

    def init_signals(self) -> None:
        """Take signals until Trio does, and leave waking up to Trio."""
        super().init_signals()
        signal.set_wakeup_fd(-1)

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """Take QUIT and INT; an exception would come into the middle of Trio's own code once it runs."""
        if self._serving is None:
            super().handle_quit(sig, frame)
        self.alive = False

    def handle_abort(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - Gunicorn's signature
        """Take ABRT, which comes when the event loop gave no sign of life; nothing else can run any more."""
        stack = "".join(traceback.format_stack(frame))
        self.log.critical(
            "the event loop has not run for %s s; it is at\n%s", self.cfg.timeout, stack.rstrip()
        )
        self.cfg.worker_abort(self)
        flush_logs()
        logging.shutdown()
        os._exit(1)

    # -- its life --------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until told to stop. Raises SystemExit when that was no success."""
        send_log_to(self.log)
        deadline = ExitDeadline()
        status = self._run(deadline)
        deadline.set(EXIT_GRACE, status)
        if status != STOPPED:
            sys.exit(status)

    def _run(self, deadline: ExitDeadline) -> int:
        try:
            loaded = load_config(None, os.environ, {}, cwd=Path.cwd())
            loaded = LoadedConfig(build_config(self.cfg, loaded.config), loaded.source)
        except ConfigError as error:
            self.log.critical("%s", error)
            return int(Arbiter.WORKER_BOOT_ERROR)
        try:
            check_files(loaded.config)
            check_access_log(loaded.config)
            self._serving = Serving(
                loaded,
                self._adapt(loaded.config),
                deadline,
                self._build_listeners(loaded.config),
                self._begin,
            )
            trio.run(self._serve, self._serving)
        except BaseException as error:
            return self._conclude(error, loaded.config)
        return STOPPED

    def _conclude(self, error: BaseException, config: Config) -> int:
        if isinstance(error, SystemExit):
            raise error
        try:
            status = find_exit_code(error, config)
        except (ConfigError, BindError) as reason:
            self.log.critical("%s", reason)
            status = APPLICATION_FAILED
        return int(Arbiter.WORKER_BOOT_ERROR) if status == APPLICATION_FAILED else status

    def _adapt(self, config: Config) -> LoadedApp:
        """The application that Gunicorn has loaded."""
        return LoadedApp(
            getattr(self.app, "app_uri", None) or type(self.app).__name__,
            self.wsgi,
            factory=False,
            interface=config.interface,
            wsgi=config.wsgi,
            multiprocess=self.cfg.workers > 1,
        )

    def _build_listeners(self, config: Config) -> list[Listener]:
        context = build_ssl_context(config)
        return [build_listener(each.sock, FdBind(each.sock.fileno()), context) for each in self.sockets]

    async def _serve(self, serving: Serving) -> None:
        with trio.open_signal_receiver(*_SIGNALS) as received:
            if not self.alive:
                return  # a signal has come while Trio did not run
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._follow, received, serving, name="signals")
                nursery.start_soon(self._beat, serving, name="signs of life")
                await serving.run()
                nursery.cancel_scope.cancel()

    async def _follow(self, received: AsyncIterator[int], serving: Serving) -> None:
        async for number in received:
            if number == signal.SIGTERM:
                serving.drain()  # some versions of Gunicorn send it again and again
            elif number == signal.SIGUSR1:
                self.log.reopen_files()
                serving.follow(Intent.REOPEN_LOGS)
            else:
                self.cfg.worker_int(self)
                serving.stop(now=True)

    async def _beat(self, serving: Serving) -> None:
        """Give signs of life until the end, and look at what has no signal."""
        interval = min(BEAT, self.timeout or BEAT)  # half of the setting
        while True:
            self.notify()
            if self.alive and os.getppid() != self.ppid:
                self.log.info("the parent of %s is gone", self)
                self.alive = False
            elif self.alive and self._reached_limit():
                self.alive = False
            if not self.alive:  # also when Gunicorn's reloader has seen a change
                serving.drain()
            await trio.sleep(interval)

    def _begin(self, server: Server) -> None:
        """Take the server when it serves."""
        self._server = server

    def _reached_limit(self) -> bool:
        served = self._server.stats().requests_total if self._server is not None else 0
        if served < self.max_requests:
            return False
        self.log.info("%s has served %d requests and makes room", self, served)
        return True


# -- the log -------------------------------------------------------------------------------------------------------


def send_log_to(log: Any) -> None:
    """Let our error log be written by Gunicorn's, with its level, format and destination."""
    logger = logging.getLogger("trioserve")
    logger.handlers[:] = [_Forwarder(log.error_log)]
    logger.setLevel(log.error_log.getEffectiveLevel())
    logger.propagate = False


class _Forwarder(logging.Handler):
    """Hands records to another logger, with what our own formats show below the line as a part of the message."""

    def __init__(self, target: logging.Logger) -> None:
        super().__init__()
        self._target = target

    def emit(self, record: logging.LogRecord) -> None:
        detail = getattr(record, "detail", None)
        if detail:
            record.msg, record.args = f"{record.getMessage()}\n{detail.rstrip()}", None
        self._target.handle(record)
