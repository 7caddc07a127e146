"""Defaults < TOML < environment < flags, strictly.

Each source is read into the same form, values by setting, already parsed and with absolute paths; the
last source that names a setting wins, and a list replaces a list. An unknown key, a wrong type and an
impossible combination are errors that name their source; within a file the first one is reported.

Relative paths in a file are relative to the file's directory, so that a configuration means the same
wherever the server is started; those of the environment and of flags are relative to the working
directory.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from .errors import ConfigError, InvalidValue
from .kinds import ListOf
from .model import GROUPS, Config
from .settings import ENVIRONMENT_PREFIX, Setting, settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_ENVIRONMENT = "environment"
_COMMAND_LINE = "command line"
_DEFAULT_FILE = "trioserve.toml"
_PROJECT_FILE = "pyproject.toml"
_LARGEST_PORT = 65535


class LoadedConfig(Struct, frozen=True):
    """A configuration and the file it came from, None if there was no file."""

    config: Config
    source: Path | None


class _Origin(Struct, frozen=True):
    """Where a value came from, and what its author calls a setting there."""

    source: str
    prefix: str = ""  # of tables, for pyproject.toml

    def name(self, setting: Setting) -> str:
        if self.source == _ENVIRONMENT:
            return setting.env
        if self.source == _COMMAND_LINE:
            return setting.flag or setting.key.upper()
        return self.key(setting.table, setting.key)

    def key(self, table: str, key: str) -> str:
        """A key of a file, known or not; an empty key is the table itself."""
        path = ".".join(part for part in (self.prefix, table) if part)
        return " ".join(part for part in (f"[{path}]" if path else "", key) if part)


_Values = dict[Setting, tuple[Any, _Origin]]


def load_config(
    path: Path | None,
    environ: Mapping[str, str],
    flags: Mapping[str, object],
    *,
    cwd: Path,
) -> LoadedConfig:
    """Read all sources.

    Args:
        path: the TOML file; None = trioserve.toml in `cwd`, else [tool.trioserve] of its pyproject.toml.
        environ: the environment; TRIOSERVE_*, PORT and WEB_CONCURRENCY are looked at.
        flags: values of the command line by `Setting.name`: text, texts or a boolean; None or () = not given.
        cwd: the working directory.

    Raises:
        ConfigError: something is wrong; its text is one line.
    """
    values: _Values = {}
    source = _read_file(values, path, cwd)
    _read_environment(values, environ, cwd)
    _read_flags(values, flags, cwd)
    _read_port(values, environ)
    _read_concurrency(values, environ)
    return LoadedConfig(_build(values), source)


def _read_file(values: _Values, path: Path | None, cwd: Path) -> Path | None:
    if path is not None:
        _read_tables(values, _parse_toml(cwd / path, str(path)), _Origin(str(path)), (cwd / path).parent)
        return path
    if (cwd / _DEFAULT_FILE).exists():
        _read_tables(values, _parse_toml(cwd / _DEFAULT_FILE, _DEFAULT_FILE), _Origin(_DEFAULT_FILE), cwd)
        return Path(_DEFAULT_FILE)
    table = _find_project_table(cwd)
    if table is None:
        return None
    _read_tables(values, table, _Origin(_PROJECT_FILE, "tool.trioserve"), cwd)
    return Path(_PROJECT_FILE)


def _find_project_table(cwd: Path) -> dict[str, Any] | None:
    try:
        mentioned = b"trioserve" in (cwd / _PROJECT_FILE).read_bytes()
    except OSError:
        return None
    if not mentioned:  # spares the parser's import, and projects of others their mistakes
        return None
    tool = _parse_toml(cwd / _PROJECT_FILE, _PROJECT_FILE).get("tool")
    table = tool.get("trioserve") if isinstance(tool, dict) else None
    if table is not None and not isinstance(table, dict):
        raise ConfigError("[tool.trioserve]", _PROJECT_FILE, "expected a table")
    return table


def _parse_toml(file: Path, source: str) -> dict[str, Any]:
    import tomllib

    try:
        text = file.read_bytes().decode()
    except OSError as error:
        raise ConfigError("", source, error.strerror or "cannot be read") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"line {line}", source, "not UTF-8") from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        reason, _, place = str(error).rpartition(" (at ")
        place = place.removesuffix(")")
        if place.startswith("line "):
            raise ConfigError(place, source, reason) from None
        raise ConfigError(f"line {text.count(chr(10)) + 1}", source, str(error)) from None
    except RecursionError:
        raise ConfigError("", source, "nested too deeply") from None


def _read_tables(values: _Values, data: dict[str, Any], origin: _Origin, base: Path) -> None:
    for key, value in data.items():
        if key not in GROUPS:
            _read_key(values, ("", key, value), origin, base)
        elif isinstance(value, dict):
            for inner_key, inner_value in value.items():
                _read_key(values, (key, inner_key, inner_value), origin, base)
        else:
            raise ConfigError(origin.key(key, ""), origin.source, "expected a table")


def _read_key(values: _Values, entry: tuple[str, str, Any], origin: _Origin, base: Path) -> None:
    table, key, value = entry
    setting = next((s for s in settings() if s.table == table and s.key == key), None)
    if setting is None:
        if not table and isinstance(value, dict):
            shown, hint = origin.key(key, ""), _suggest_table(key)
            raise ConfigError(shown, origin.source, f"unknown table{hint}")
        raise ConfigError(origin.key(table, key), origin.source, f"unknown key{_suggest_key(table, key)}")
    try:
        parsed = setting.kind.parse(value)
    except InvalidValue as error:
        raise ConfigError(origin.name(setting), origin.source, str(error)) from None
    values[setting] = (setting.kind.resolve(parsed, str(base)), origin)


def _read_environment(values: _Values, environ: Mapping[str, str], cwd: Path) -> None:
    by_env = {setting.env: setting for setting in settings()}
    for name in sorted(name for name in environ if name.startswith(ENVIRONMENT_PREFIX)):
        if name not in by_env:
            near = _find_nearest(name, by_env)
            hint = f", did you mean {near}?" if near else ""
            raise ConfigError(name, _ENVIRONMENT, f"unknown variable{hint}")
        _read_text(values, by_env[name], environ[name], _Origin(_ENVIRONMENT), cwd)


def _read_flags(values: _Values, flags: Mapping[str, object], cwd: Path) -> None:
    by_name = {setting.name: setting for setting in settings()}
    for name, value in flags.items():
        if value is not None and value != () and value != []:
            _read_text(values, by_name[name], value, _Origin(_COMMAND_LINE), cwd)


def _read_text(values: _Values, setting: Setting, value: object, origin: _Origin, cwd: Path) -> None:
    kind = setting.kind
    try:
        if isinstance(value, str):
            parsed = kind.parse_text(value)
        elif isinstance(kind, ListOf) and isinstance(value, (list, tuple)):
            parsed = kind.parse([item for text in value for item in kind.parse_text(text)])
        else:
            parsed = kind.parse(value)
    except InvalidValue as error:
        raise ConfigError(origin.name(setting), origin.source, str(error)) from None
    values[setting] = (kind.resolve(parsed, str(cwd)), origin)


def _read_port(values: _Values, environ: Mapping[str, str]) -> None:
    """PORT is how platforms tell a service its port; a bind of ours is more to the point and wins."""
    bind = next(setting for setting in settings() if setting.name == "bind")
    port = environ.get("PORT", "")
    if not port or bind in values:
        return
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= _LARGEST_PORT):
        raise ConfigError(
            "PORT", _ENVIRONMENT, f'expected a port from 0 to {_LARGEST_PORT}, got "{port[:60]}"'
        )
    values[bind] = ((f"0.0.0.0:{int(port)}",), _Origin(_ENVIRONMENT))


def _read_concurrency(values: _Values, environ: Mapping[str, str]) -> None:
    """WEB_CONCURRENCY is how platforms tell a service its number of workers; a number of ours wins."""
    workers = next(setting for setting in settings() if setting.name == "process_workers")
    wanted = environ.get("WEB_CONCURRENCY", "")
    if not wanted or workers in values:
        return
    try:
        values[workers] = (workers.kind.parse_text(wanted), _Origin(_ENVIRONMENT))
    except InvalidValue as error:
        raise ConfigError("WEB_CONCURRENCY", _ENVIRONMENT, str(error)) from None


def _build(values: _Values) -> Config:
    by_table: dict[str, dict[str, Any]] = {}
    for setting, (value, _) in values.items():
        by_table.setdefault(setting.table, {})[setting.key] = value
    top = by_table.pop("", {})
    try:
        groups: dict[str, Any] = {table: GROUPS[table](**keys) for table, keys in by_table.items()}
        return Config(**top, **groups)
    except ConfigError as error:
        raise _locate(error, values) from None


def _locate(error: ConfigError, values: _Values) -> ConfigError:
    """Name the source of an impossible combination: that of the key at fault, else of a key beside it."""
    setting = next((s for s in settings() if s.display == error.key), None)
    if setting is None:
        return error
    origins = [origin for other, (_, origin) in values.items() if other.table == setting.table]
    if setting in values:
        origins.append(values[setting][1])
    if not origins:
        return error
    return ConfigError(origins[-1].name(setting), origins[-1].source, error.reason)


def _suggest_key(table: str, key: str) -> str:
    """The nearest right name: the same key elsewhere, a similar one here, a similar one elsewhere."""
    word = key.replace("-", "_").lower()
    here = {setting.key: setting for setting in settings() if setting.table == table}
    elsewhere = {setting.key: setting for setting in settings() if setting.table != table}
    if word not in here and word in elsewhere:
        return f", did you mean {elsewhere[word].display}?"
    near = _find_nearest(word, here)
    if near is not None:
        return f", did you mean {near}?"
    near = _find_nearest(word, [*elsewhere, *(() if table else GROUPS)])
    if near in elsewhere:
        return f", did you mean {elsewhere[near].display}?"
    return f", did you mean [{near}]?" if near else ""


def _suggest_table(table: str) -> str:
    near = _find_nearest(table.replace("-", "_").lower(), GROUPS)
    return f", did you mean [{near}]?" if near else ""


def _find_nearest(word: str, known: Iterable[str]) -> str | None:
    from difflib import get_close_matches

    return next(iter(get_close_matches(word, known, n=1)), None)
