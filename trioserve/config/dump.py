"""A `Config` as TOML that loads back to an equal one.

Everything is written, defaults too, except what is not set (a comment) and secrets (masked, in a
comment). Paths are written as they are; those of a loaded configuration are absolute.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from .settings import Setting, settings

if TYPE_CHECKING:
    from .model import Config


def dump_toml(config: Config) -> str:
    """All settings of a configuration as a TOML document; secrets are masked."""
    parts = []
    for table, members in groupby(settings(), key=lambda setting: setting.table):
        group = getattr(config, table) if table else config
        lines = [f"[{table}]"] if table else []
        lines += [_dump_setting(setting, getattr(group, setting.key)) for setting in members]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _dump_setting(setting: Setting, value: object) -> str:
    if value is None:
        return f"# {setting.key} is not set"
    if setting.name == "app_dir" and value == setting.default:
        return f"# {setting.key} is the working directory"  # in a file, "." would be the file's directory
    if setting.secret:
        return f'# {setting.key} = "***"'
    return f"{setting.key} = {setting.kind.render(value)}"
