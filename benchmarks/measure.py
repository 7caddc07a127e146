"""Rounds of one case: first, second, first, second, and what each round cost.

For requests both servers of a case stay up for all its rounds; the one that is not under load waits, at next
to no cost. Memory and start-up are measured on a fresh process each time, because a process grows and starts
once. A case that fails does so alone: its error becomes its outcome.
"""

from __future__ import annotations

import contextlib
import http.client
import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from benchmarks.apps import answer_size
from benchmarks.cases import IDLE_CONNECTIONS, Case
from benchmarks.connections import check_answer, idle_connections
from benchmarks.cost import CostError, memory, processor_time
from benchmarks.load import LoadError
from benchmarks.servers import (
    SERVERS,
    START_TIMEOUT,
    Running,
    Server,
    Site,
    StartError,
    check_alive,
    launched,
    output_end,
    running,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.h2load import Http2Load
    from benchmarks.load import Load
    from benchmarks.websocket_load import WebSocketLoad

_ROUND_LIMIT = {"memory": 3, "start": 7}  # more would cost time and change little
_WARM_UP = 1
_SETTLE = 0.3
_START_INTERVAL = 0.005
_LOGGED_SHARE = 0.9


@dataclass(frozen=True)
class Plan:
    """How much is measured: rounds of every case, seconds of load, and the connections of the memory case."""

    rounds: int
    seconds: int
    processor: int
    idle_connections: int = IDLE_CONNECTIONS


@dataclass
class Outcome:
    """The rounds of a case as (first, second): microseconds, bytes or milliseconds; or an error."""

    case: Case
    rounds: list[tuple[float, float]] = field(default_factory=list)
    error: str | None = None

    @property
    def first(self) -> float:
        """The median of the first server."""
        return statistics.median(first for first, _ in self.rounds)

    @property
    def second(self) -> float:
        """The median of the second server."""
        return statistics.median(second for _, second in self.rounds)

    @property
    def ratios(self) -> list[float]:
        """The ratio of each round."""
        return [first / second for first, second in self.rounds]

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios: what the case says."""
        return statistics.median(self.ratios)

    @property
    def met(self) -> bool | None:
        """Whether the target was met; None without a target or a result."""
        if self.error or self.case.target is None:
            return None
        return self.ratio <= self.case.target


def measure_case(case: Case, plan: Plan, site: Site) -> Outcome:
    """All rounds of a case. Failures of the servers or of the load are in the outcome, not raised."""
    outcome = Outcome(case)
    try:
        if case.load is not None:
            _request_rounds(outcome, case.load, plan, site)
        else:
            _fresh_rounds(outcome, plan, site)
    except (StartError, LoadError, CostError) as error:
        outcome.error = str(error)
    return outcome


def _request_rounds(outcome: Outcome, load: Load | Http2Load | WebSocketLoad, plan: Plan, site: Site) -> None:
    case = outcome.case
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(running(SERVERS[case.first], case.setting, site))
        second = stack.enter_context(running(SERVERS[case.second], case.setting, site))
        for server in (first, second):
            with _about(server):
                check_answer(server)
                load.run(server.url, answer_size(server.setting.app), _WARM_UP, plan.processor)
        for _ in range(plan.rounds):
            cost = _cost(first, load, plan)
            outcome.rounds.append((cost, _cost(second, load, plan)))


def _fresh_rounds(outcome: Outcome, plan: Plan, site: Site) -> None:
    case = outcome.case
    once = _memory if case.measure == "memory" else _start
    servers = SERVERS[case.first], SERVERS[case.second]
    if case.measure == "start":
        for server in servers:  # writes the bytecode files, which an installed package has
            once(server, case, plan, site)
    for _ in range(min(plan.rounds, _ROUND_LIMIT[case.measure])):
        figures = [once(server, case, plan, site) for server in servers]
        outcome.rounds.append((figures[0], figures[1]))


def _cost(server: Running, load: Load | Http2Load | WebSocketLoad, plan: Plan) -> float:
    """Microseconds of processor time per request or message."""
    with _about(server):
        written = server.output.stat().st_size
        before = processor_time(server.pid)
        requests = load.run(server.url, answer_size(server.setting.app), plan.seconds, plan.processor)
        used = processor_time(server.pid).since(before)
        if server.setting.access_log:
            _check_logged(server, written, requests)
    return used / 1000 / requests


def _check_logged(server: Running, written: int, requests: int) -> None:
    """An access log that is not written costs nothing, and must not be compared with one that is."""
    with server.output.open("rb") as file:
        file.seek(written)
        lines = sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
    if lines < requests * _LOGGED_SHARE:
        raise LoadError(f"the access log has {lines} lines for {requests} requests")


def _memory(server: Server, case: Case, plan: Plan, site: Site) -> float:
    """Bytes that each of many idle connections adds to the server."""
    with running(server, case.setting, site) as started, _about(started):
        check_answer(started)
        time.sleep(_SETTLE)
        before = memory(started.pid)
        with idle_connections(started.port, plan.idle_connections):
            time.sleep(_SETTLE)
            return (memory(started.pid) - before) / plan.idle_connections


def _start(server: Server, case: Case, plan: Plan, site: Site) -> float:
    """Milliseconds of processor time from the start of the process to its first answer."""
    with launched(server, case.setting, site) as started:
        deadline = time.monotonic() + START_TIMEOUT
        while not _answers(started.port):
            check_alive(started)
            if time.monotonic() > deadline:
                raise StartError(f"{server.name} does not answer; its output:\n{output_end(started.output)}")
            time.sleep(_START_INTERVAL)
        return processor_time(started.pid).total / 1e6


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_TIMEOUT)
    with contextlib.closing(connection):
        try:
            connection.request("GET", "/")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False


@contextlib.contextmanager
def _about(server: Running) -> Iterator[None]:
    """Say which server an error is about, and show what it wrote if it has ended."""
    try:
        yield
    except (LoadError, CostError) as error:
        check_alive(server)
        raise LoadError(f"{server.server.name}: {error}") from error
