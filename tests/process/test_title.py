from __future__ import annotations

import subprocess
import sys

import pytest

from trioserve.config import Config, ConfigError, ProcessSettings
from trioserve.process.title import check_title, render_title, set_title

CHILD = """
import sys
from pathlib import Path
from trioserve.config import Config
from trioserve.process.title import set_title
set_title(Config(app="main:app"), "worker 2")
sys.stdout.write(Path("/proc/self/cmdline").read_text().rstrip("\\0"))
"""


@pytest.fixture
def without_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "setproctitle", None)


@pytest.mark.parametrize(
    ("title", "expected"),
    [(None, "trioserve: worker 2 [main:app]"), ("shop", "shop: worker 2 [main:app]")],
)
def test_a_title_names_role_and_application(title, expected):
    config = Config(app="main:app", process=ProcessSettings(title=title))
    assert render_title(config, "worker 2") == expected


def test_the_system_shows_it():
    shown = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True).stdout
    assert shown == "trioserve: worker 2 [main:app]"


def test_without_the_package_nothing_happens_unless_a_title_is_wanted(without_package):
    set_title(Config(app="main:app"), "worker 2")
    check_title(Config())
    with pytest.raises(ConfigError, match=r"\[process\] title: .*trioserve\[title\]"):
        check_title(Config(process=ProcessSettings(title="shop")))


def test_with_the_package_a_title_is_in_order():
    check_title(Config(process=ProcessSettings(title="shop")))
