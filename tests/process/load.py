"""Clients that keep a server busy and forgive nothing.

Threads with blocking sockets. A request that was sent and got no complete answer is a failure, with its reason and the
worker that had it, as far as that is known. These are none: a keep-alive connection that was closed, and seen to be,
before anything was sent on it; an HTTP/2 stream above the last one of a GOAWAY, or refused, which is asked again.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from tests.process.clients import PATIENCE, Http1Connection, Http2Connection, Lost, open_socket

if TYPE_CHECKING:
    import ssl

KEEP_ALIVE, ONE_EACH, HTTP2 = "keep-alive", "one connection per request", "HTTP/2"
MODES = (KEEP_ALIVE, ONE_EACH, HTTP2)
PAUSE = 0.005


class Failure(NamedTuple):
    """A request that was lost; `pid` is the worker of the connection's last answer, 0 if it had none."""

    reason: str
    pid: int
    when: float


class Load:
    """A number of clients that ask as fast as they are answered, while the body runs.

    Args:
        url: http or https, with host and port, or unix:/path.
        mode: one of `MODES`.
        clients: how many of them; a thread and at most one connection each.
        path: what is asked for.
        streams: requests at once on an HTTP/2 connection.
        pause: seconds that a client waits after each answer, to leave processor time for what is tested.
        context: for https, with its ALPN protocols set.

    Attributes:
        pids: answers by worker.
        failures: what was lost.
        connections: how many were opened.
        retried: streams that were asked again.
    """

    def __init__(
        self,
        url: str,
        *,
        mode: str = KEEP_ALIVE,
        clients: int = 6,
        path: str = "/",
        streams: int = 4,
        pause: float = PAUSE,
        context: ssl.SSLContext | None = None,
    ):
        self.pids: Counter[int] = Counter()
        self.failures: list[Failure] = []
        self.connections = 0
        self.retried = 0
        self._url, self._path, self._streams, self._context = url, path, streams, context
        self._mode, self._pause = mode, pause
        self._news = threading.Condition()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Send no more requests, and take the answers to those that were sent."""
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE + 5.0)
            assert not thread.is_alive()

    @property
    def completed(self) -> int:
        """Requests with a complete answer."""
        with self._news:
            return self.pids.total()

    def wait_for(self, more: int = 1, *, total: int = 0, patience: float = 4 * PATIENCE) -> None:
        """Wait until so many more requests, and so many in all, have been answered."""
        end = time.monotonic() + patience
        with self._news:
            wanted = max(self.pids.total() + more, total)
            while self.pids.total() < wanted and time.monotonic() < end:
                self._news.wait(1.0)
            assert self.pids.total() >= wanted, (self.pids, self.failures[:5])

    def describe(self) -> str:
        """The figures, for a report."""
        kinds = Counter(failure.reason for failure in self.failures)
        return (
            f"{self._mode}: {self.completed} answered by {len(self.pids)} workers on {self.connections} "
            f"connections, {self.retried} streams asked again, {len(self.failures)} failed {dict(kinds) or ''}"
        )

    # -- clients -----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        use = {KEEP_ALIVE: self._keep_alive, ONE_EACH: self._ask_once, HTTP2: self._use_streams}[self._mode]
        while not self._stop.is_set():
            try:
                sock = open_socket(self._url, self._context)
                with self._news:
                    self.connections += 1
                with sock:
                    use(sock)
            except (Lost, OSError) as error:
                self._fail(repr(error), 0)
                self._stop.wait(0.05)  # no flood of failures while nobody listens
            except Exception as error:  # a mistake of this file
                self._fail(f"client: {error!r}", 0)
                raise

    def _keep_alive(self, sock) -> None:
        connection = Http1Connection(sock)
        while connection.reusable and not self._stop.is_set() and not connection.is_closed():
            self._ask(connection)

    def _ask_once(self, sock) -> None:
        self._ask(Http1Connection(sock), close=True)

    def _ask(self, connection: Http1Connection, *, close: bool = False) -> None:
        try:
            connection.ask(self._path, close=close)
        except (Lost, OSError) as error:
            self._fail(repr(error), connection.pid)
            connection.reusable = False
        else:
            self._succeed([connection.pid])

    def _use_streams(self, sock) -> None:
        connection = Http2Connection(sock, "http" if self._context is None else "https")
        try:
            while self._refill(connection) and connection.read_more():
                self._collect(connection)
            problem = "closed"
        except OSError as error:
            problem = repr(error)
        self._collect(connection)
        for _ in connection.running:
            self._fail(f"{problem} with an open stream", connection.pid)
        connection.close()

    def _refill(self, connection: Http2Connection) -> bool:
        """Whether there is anything to wait for."""
        while connection.accepting and not self._stop.is_set() and len(connection.running) < self._streams:
            connection.ask(self._path)
        return bool(connection.running)

    def _collect(self, connection: Http2Connection) -> None:
        self._succeed(connection.answered)
        for reason in connection.failed:
            self._fail(reason, connection.pid)
        with self._news:
            self.retried += len(connection.refused)
        for taken in (connection.answered, connection.failed, connection.refused):
            taken.clear()

    def _succeed(self, pids: list[int]) -> None:
        with self._news:
            self.pids.update(pids)
            self._news.notify_all()
        if self._pause and pids:
            self._stop.wait(self._pause)

    def _fail(self, reason: str, pid: int) -> None:
        with self._news:
            self.failures.append(Failure(reason, pid, time.monotonic()))
