"""The fuzzing client of the Autobahn test suite: found an interpreter for, installed, and run.

It runs on Python 2.7 alone, so it lives in a user base of its own, `.venv-autobahn` at the root of the checkout,
which needs nothing of that old interpreter but pip. What it installs is pinned in requirements.txt; a change of
that file installs anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
BASE = ROOT / ".venv-autobahn"
INSTALL_TIMEOUT = 600
AGENT = "trioserve"


class Profile(NamedTuple):
    """Which cases run: so many, all but those excluded, within so many seconds."""

    cases: int
    excluded: tuple[str, ...]
    timeout: int


# 9 is about speed and large messages, 12 and 13 about compression.
QUICK = Profile(247, ("9.*", "12.*", "13.*"), timeout=180)
FULL = Profile(517, (), timeout=7200)


class AutobahnError(Exception):
    """The fuzzing client could not be installed, or did not run to its end."""


def find_python() -> str | None:
    """A Python 2.7 with pip, on the path or among the versions of pyenv; None if there is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    on_path = shutil.which("python2.7")
    candidates = [
        *([on_path] if on_path else []),
        *map(str, sorted(pyenv.glob("versions/2.7*/bin/python2.7"))),
    ]
    for candidate in candidates:
        # A shim of pyenv exists also for versions that are not switched on, and then only prints an error.
        done = subprocess.run(
            [candidate, "-m", "pip", "--version"], capture_output=True, check=False, timeout=60
        )
        if done.returncode == 0:
            return candidate
    return None


def install(python: str) -> None:
    """Install the fuzzing client unless it is there already."""
    stamp = BASE / "installed"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes() + python.encode()).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    shutil.rmtree(BASE, ignore_errors=True)
    BASE.mkdir()
    command = [python, "-m", "pip", "install", "--user", "--ignore-installed", "-r", str(REQUIREMENTS)]
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            env=_environment(),
            timeout=INSTALL_TIMEOUT,
        )
    except subprocess.TimeoutExpired as error:
        raise AutobahnError(f"pip took more than {INSTALL_TIMEOUT} s") from error
    if done.returncode != 0:
        raise AutobahnError(f"{' '.join(command)} failed:\n{done.stdout[-4000:]}")
    stamp.write_text(wanted)


def run(python: str, url: str, profile: Profile, directory: Path) -> dict[str, dict[str, object]]:
    """Run the cases against a server and return what each one found; the pages about them go to `directory`.

    Raises:
        AutobahnError: the client failed, took too long, or did not run all the cases of the profile.
    """
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    spec = directory / "spec.json"
    spec.write_text(
        json.dumps(
            {
                "outdir": str(directory),
                "servers": [{"agent": AGENT, "url": url}],
                "cases": ["*"],
                "exclude-cases": profile.excluded,
                "exclude-agent-cases": {},
            }
        )
    )
    output = directory / "output.txt"
    command = [python, "-u", str(BASE / "bin" / "wstest"), "-m", "fuzzingclient", "-s", str(spec)]
    with output.open("wb") as file:
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                check=False,
                cwd=directory,
                env=_environment(),
                timeout=profile.timeout,
            )
        except subprocess.TimeoutExpired as error:
            raise AutobahnError(f"the cases took more than {profile.timeout} s, see {output}") from error
    index = directory / "index.json"
    if done.returncode != 0 or not index.is_file():
        raise AutobahnError(f"the fuzzing client ended with {done.returncode}, see {output}")
    found: dict[str, dict[str, object]] = json.loads(index.read_bytes()).get(AGENT, {})
    if len(found) != profile.cases:
        raise AutobahnError(f"{len(found)} cases were run, not {profile.cases}, see {output}")
    return found


def _environment() -> dict[str, str]:
    """This process's, without what speaks to another Python."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))
    }
    return {**kept, "PYTHONUSERBASE": str(BASE)}
