from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from trioserve.config import Config, load_config, settings
from trioserve.config.reference import main, render_page, render_reference

ROOT = Path(__file__).parents[2]


def test_the_generated_files_are_current() -> None:
    assert (ROOT / "config/reference.toml").read_text(encoding="utf-8") == render_reference()
    assert (ROOT / "docs/settings.md").read_text(encoding="utf-8") == render_page()


def test_the_reference_is_a_configuration_of_defaults(tmp_path: Path) -> None:
    commented = tmp_path / "commented.toml"
    commented.write_text(render_reference())
    assert load_config(commented, {}, {}, cwd=tmp_path).config == Config()
    active, count = re.subn(r"^# (?=\w+ = )", "", render_reference(), flags=re.MULTILINE)
    assert count == len(settings())
    commented.write_text(active)
    config = load_config(commented, {}, {}, cwd=tmp_path).config
    assert config == Config(app_dir=str(tmp_path))


def test_the_page_names_every_setting() -> None:
    page = render_page()
    for setting in settings():
        row = next(line for line in page.splitlines() if f"`{setting.env}`" in line)
        assert row.count("|") - row.count("\\|") == 6, row
        assert f"`{setting.flag or setting.key}`" in row


def test_check_writes_nothing_and_finds_what_is_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--check"]) == 1
    assert list(tmp_path.iterdir()) == []
    assert "config/reference.toml is not current" in capsys.readouterr().err
    assert main([]) == 0
    assert main(["--check"]) == 0
    (tmp_path / "docs/settings.md").write_text("old")
    assert main(["--check"]) == 1


@pytest.mark.parametrize("name", ["development", "production"])
def test_the_supplied_configurations_load_from_anywhere(name: str, tmp_path: Path) -> None:
    config = load_config(ROOT / f"config/{name}.toml", {}, {}, cwd=tmp_path).config
    assert Path(config.app_dir).resolve() == ROOT
    assert config.app is not None


def test_importing_the_package_loads_nothing_rare() -> None:
    rare = "{'difflib', 'tomllib', 'ssl', 'trio', 'asyncio', 'resource', 'json', 'logging'}"
    code = f"import sys, trioserve.config as c; c.Config(); print(sorted({rare} & sys.modules.keys()))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"
