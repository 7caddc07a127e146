"""The command line: which cases, how long, how often; then the table.

Exit status: 0 if every case ran, 1 if one failed or `--strict` found a missed target, 2 if nothing could be
measured at all, 130 after an interrupt (what was measured until then is printed).
"""

from __future__ import annotations

import fnmatch
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from benchmarks import environment, report
from benchmarks.awake import awake
from benchmarks.cases import CASES, IDLE_CONNECTIONS, Case
from benchmarks.connections import raise_file_limit
from benchmarks.load import LoadError
from benchmarks.measure import Outcome, Plan, measure_case
from benchmarks.servers import Site, make_certificate

if TYPE_CHECKING:
    from types import FrameType


_ROUNDS, _SECONDS = 5, 2
_QUICK_ROUNDS, _QUICK_SECONDS = 1, 1


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="One short round of each case: a first impression, not a result.")
@click.option("--rounds", type=click.IntRange(1, 50), help=f"Rounds of each case (default {_ROUNDS}).")
@click.option(
    "--duration", type=click.IntRange(1, 60), help=f"Seconds of load per round (default {_SECONDS})."
)
@click.option(
    "--only", multiple=True, metavar="NAME", help="Run this case; may be repeated and may hold * and ?."
)
@click.option("--list", "list_only", is_flag=True, help="Print the cases and end.")
@click.option("--python", metavar="PATH", help="Base interpreter of the servers' environment.")
@click.option("--strict", is_flag=True, help="A missed target gives exit status 1.")
def main(
    *,
    quick: bool,
    rounds: int | None,
    duration: int | None,
    only: tuple[str, ...],
    list_only: bool,
    python: str | None,
    strict: bool,
) -> None:
    """Measure trioserve against its peers on this machine and print the ratios of cost."""
    cases = _chosen(only)
    if list_only:
        return _list_cases(CASES)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        for case in cases:
            if case.load is not None:
                case.load.require()
        interpreter = environment.prepare(python)
    except (LoadError, environment.PrepareError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    server_processor, load_processor = _processors()
    plan = Plan(
        rounds=rounds or (_QUICK_ROUNDS if quick else _ROUNDS),
        seconds=duration or (_QUICK_SECONDS if quick else _SECONDS),
        processor=load_processor,
        idle_connections=min(IDLE_CONNECTIONS, raise_file_limit()),
    )
    print(report.machine_line(environment.describe(interpreter)), end="\n\n", flush=True)
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as directory:
        site = Site(interpreter, server_processor, Path(directory))
        make_certificate(site)
        os.sched_setaffinity(0, {load_processor})
        with awake({server_processor, load_processor}):
            interrupted = _measure(cases, plan, site, outcomes)
    if outcomes:
        print("\n" + report.table(outcomes))
    sys.exit(130 if interrupted else _status(outcomes, strict=strict))


def _measure(cases: list[Case], plan: Plan, site: Site, outcomes: list[Outcome]) -> bool:
    """Measure the cases one after the other; whether an interrupt ended this early."""
    try:
        for number, case in enumerate(cases, 1):
            print(f"[{number}/{len(cases)}] {case.name} ...", end=" ", file=sys.stderr, flush=True)
            outcomes.append(measure_case(case, plan, site))
            print("failed" if outcomes[-1].error else f"{outcomes[-1].ratio:.2f}", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return True
    return False


def _chosen(only: tuple[str, ...]) -> list[Case]:
    if not only:
        return [case for case in CASES if not case.reference]
    for pattern in only:
        if not any(fnmatch.fnmatchcase(case.name, pattern) for case in CASES):
            raise click.BadParameter(f"no case is named {pattern!r}; --list prints them", param_hint="--only")
    return [case for case in CASES if any(fnmatch.fnmatchcase(case.name, pattern) for pattern in only)]


def _list_cases(cases: tuple[Case, ...]) -> None:
    for case in cases:
        target = "reference" if case.reference else f"<= {case.target:.2f}"
        print(f"{case.name:24} {case.first} / {case.second}  ({case.measure}, {target})")


def _processors() -> tuple[int, int]:
    """One processor for the servers and another one for the load, if there are two."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) == 1:
        print("only one processor: servers and load share it, so expect noise", file=sys.stderr)
    return allowed[0], allowed[-1]


def _status(outcomes: list[Outcome], *, strict: bool) -> int:
    failed = any(outcome.error for outcome in outcomes)
    missed = any(outcome.met is False for outcome in outcomes)
    return int(failed or (strict and missed))


def _terminated(_number: int, _frame: FrameType | None) -> NoReturn:
    """A termination leaves the way an interrupt does, so that the servers are ended."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
