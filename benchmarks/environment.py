"""The interpreter that runs the servers: a virtual environment at the repository root, made once.

All servers run in the same environment, so a ratio never compares two interpreters. The environment is
`.venv-bench-<version>`; it is made again when the requirements change, and trioserve in it is the checkout
itself (an editable install). Nothing is ever installed into the environment that runs the benchmark.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "benchmarks" / "requirements.txt"
PREFERRED = "3.13"

_IDENTIFY = "import sys; print(sys.executable); print('%d.%d' % sys.version_info[:2])"
_PACKAGES = "trioserve uvicorn uvloop httptools h11 granian hypercorn trio wsproto websockets gunicorn waitress cheroot"
_VERSIONS = f"""
import importlib.metadata as metadata
def version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return 'absent'
print(', '.join(name + ' ' + version(name) for name in '{_PACKAGES}'.split()))
"""


class PrepareError(Exception):
    """The environment of the servers could not be made; the message says why."""


def prepare(python: str | None) -> Path:
    """The servers' interpreter, from an environment that is made now if it is missing or out of date.

    `python` is a base interpreter to prefer; without it 3.13 is taken if it is found, else the current one.
    Raises PrepareError with the output of pip when the installation fails.
    """
    base, version = _base_interpreter(python)
    directory = ROOT / f".venv-bench-{version}"
    interpreter = directory / "bin" / "python"
    mark = directory / ".ready"
    wanted = _wanted()
    if interpreter.exists() and mark.exists() and mark.read_text() == wanted:
        return interpreter
    print(f"preparing {directory.name} from {base} (once) ...", file=sys.stderr, flush=True)
    _run([base, "-m", "venv", "--clear", str(directory)])
    pip = [str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*pip, "--requirement", str(REQUIREMENTS), "--editable", f"{ROOT}[fast]"])
    mark.write_text(wanted)
    return interpreter


def describe(interpreter: Path) -> str:
    """One line: the interpreter's version and the versions of the servers."""
    version = _output([str(interpreter), "--version"]) or "unknown interpreter"
    return f"{version}; {_output([str(interpreter), '-c', _VERSIONS])}"


def _wanted() -> str:
    """What the installation depends on, as one digest: the peers, and what trioserve requires and installs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ours = [project.get(key) for key in ("dependencies", "optional-dependencies", "scripts")]
    return hashlib.sha256(REQUIREMENTS.read_bytes() + repr(ours).encode()).hexdigest()


def _base_interpreter(python: str | None) -> tuple[str, str]:
    candidates = [python] if python else [*_preferred_interpreters(), sys.executable]
    for candidate in candidates:
        found = _output([candidate, "-c", _IDENTIFY])
        if found:
            executable, version = found.splitlines()
            return executable, version
    raise PrepareError(f"{python} is not a Python interpreter that runs")


def _preferred_interpreters() -> list[str]:
    """Candidates for the preferred version. A pyenv shim exists also for versions that are not switched on,
    and then only prints an error, hence the look into pyenv's own folder.
    """
    command = f"python{PREFERRED}"
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    installed = sorted(pyenv.glob(f"versions/{PREFERRED}.*/bin/{command}"), reverse=True)
    on_path = shutil.which(command)
    return [*([on_path] if on_path else []), *map(str, installed)]


def _output(command: list[str]) -> str:
    """What the command prints, or an empty string if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise PrepareError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}".rstrip())
