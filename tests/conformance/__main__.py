"""`make conformance`: Autobahn's fuzzing client against a trioserve process, over HTTP/1.1.

Exit status: 0 if no case failed and the server stopped as it should, 1 otherwise, 2 if the fuzzing client cannot run.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from typing import TYPE_CHECKING

from tests.conformance import autobahn, verdict
from tests.server_process import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

REPORTS = autobahn.ROOT / "build" / "autobahn"


def main() -> int:
    options = parse_arguments()
    python = autobahn.find_python()
    if python is None:
        print("The Autobahn test suite needs a Python 2.7 with pip, and there is none: not run.")
        return 0 if options.if_possible else 2
    profile = autobahn.QUICK if options.quick else autobahn.FULL
    reports = REPORTS / ("quick" if options.quick else "full")
    problems: list[str] = []
    try:
        autobahn.install(python)
        print(f"{profile.cases} cases of the Autobahn test suite, at most {profile.timeout} s", flush=True)
        with contextlib.nullcontext(options.url) if options.url else serve(problems) as url:
            found = autobahn.run(python, url, profile, reports)
    except autobahn.AutobahnError as error:
        print(error, file=sys.stderr)
        return 2
    print(verdict.render(found))
    if failed := verdict.failures(found):
        problems.append(f"{len(failed)} of {len(found)} cases failed, see {reports / 'index.html'}")
    print("\n".join(problems) or "conformant")
    return 1 if problems else 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance", description=__doc__.partition("\n")[0]
    )
    parser.add_argument(
        "--quick", action="store_true", help="without speed and compression: 10 s, not 15 min"
    )
    parser.add_argument("--if-possible", action="store_true", help="without a Python 2.7, say so and succeed")
    parser.add_argument("--url", help="a server that runs already, such as ws://127.0.0.1:8000")
    return parser.parse_args()


@contextlib.contextmanager
def serve(problems: list[str]) -> Iterator[str]:
    """An echoing server; what is wrong with it at the end is added to the problems."""
    flags = ["tests.conformance.echo:app", "-b", "127.0.0.1:0", "--logging-access", "off"]
    with ServerProcess(autobahn.ROOT, *flags) as process:
        yield process.wait_until_serving().replace("http", "ws", 1)
        if code := process.stop():
            problems.append(f"the server ended with {code}")
        problems += [line for line in process.lines if " error: " in line or " warning: " in line]


if __name__ == "__main__":
    sys.exit(main())
