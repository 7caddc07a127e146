"""What a service manager is told about us: sd_notify(3) and sd_watchdog_enabled(3), without a library.

A `Notifier` without a socket says nothing, so nobody has to ask whether there is a manager. Nothing in here fails the
server: what cannot be said is logged once. Sockets that the manager hands over are in `sockets.py`.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

logger = logging.getLogger("trioserve")

_PATIENCE = 0.5
"""Seconds that a manager may keep us waiting that does not read. Its socket has room for thousands of messages."""


class Notifier:
    """Tells a service manager how we are.

    Args:
        address: the path of its socket, or "@" and a name in the abstract namespace; "" = there is nobody to tell.
        watchdog_interval: seconds after which it takes us for hung if `feed` was not called; None = never.
    """

    def __init__(self, address: str = "", watchdog_interval: float | None = None) -> None:
        self.watchdog_interval = watchdog_interval if address else None
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._failed = False

    @classmethod
    def from_environ(cls, environ: MutableMapping[str, str]) -> Notifier:
        """Read and remove NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID: no process that we start speaks for us."""
        address, microseconds, pid = (
            environ.pop(name, "") for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
        )
        if address and not address.startswith(("/", "@")):
            logger.warning("cannot notify %r: neither a path nor an abstract name", address)
            address = ""
        ours = not pid or pid == str(os.getpid())
        known = microseconds.isascii() and microseconds.isdigit() and int(microseconds) > 0
        return cls(address, int(microseconds) / 1e6 if ours and known else None)

    def ready(self, status: str) -> None:
        """Say that everybody serves; also when a reload has ended, however it did.

        Args:
            status: what an administrator sees in `systemctl status`, one line.
        """
        self._send("READY=1", _status(status))

    def reloading(self) -> None:
        """Say that a reload has begun; `ready` is due at its end (the time is for Type=notify-reload)."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", _status("reloading"))

    def stopping(self) -> None:
        """Say that the end has begun."""
        self._send("STOPPING=1", _status("stopping"))

    def status(self, text: str) -> None:
        """Say something in words."""
        self._send(_status(text))

    def feed(self) -> None:
        """Say that we are not hung."""
        self._send("WATCHDOG=1")

    async def feed_while(self, healthy: Callable[[], bool]) -> None:
        """Feed the watchdog twice in each of its intervals, unless `healthy()` is false; return if there is none."""
        if self.watchdog_interval is None:
            return
        while True:
            if healthy():
                self.feed()
            await trio.sleep(self.watchdog_interval / 2)

    def _send(self, *assignments: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(_PATIENCE)
                sock.sendto(os.fsencode("\n".join(assignments)), self._address)
        except (OSError, ValueError) as error:  # ValueError: a zero byte within a path
            if not self._failed:
                self._failed = True
                logger.warning("cannot notify the service manager: %s", error)


def _status(text: str) -> str:
    return f"STATUS={' '.join(text.split())}"
