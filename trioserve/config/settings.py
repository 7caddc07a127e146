"""Each setting under all its names: TOML key, flag, environment variable.

The command line builds its options from `settings()`, the loader its lookups, the reference its pages.
Nothing is declared here; everything is read off the model.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from msgspec import Struct

from .fields import Settings, display_key, fields_of
from .kinds import Kind, ListOf, Switch
from .model import GROUPS, Config

ENVIRONMENT_PREFIX = "TRIOSERVE_"
_OTHER_FLAGS = {"bind": ("-b",), "process_workers": ("-w", "--workers")}
_POSITIONAL = "app"


class Setting(Struct, frozen=True, kw_only=True):
    """One setting under all its names.

    `name` is what `load_config` takes in its `flags`. A switch has a `negative_flag` and takes no value; any
    other flag takes a text, and a `repeatable` one several. `flag` is None for the positional argument.
    """

    name: str
    table: str
    key: str
    flag: str | None
    negative_flag: str | None
    other_flags: tuple[str, ...]
    env: str
    kind: Kind
    default: Any
    help: str

    @property
    def display(self) -> str:
        """The key as messages show it: "[timeouts] head"."""
        return display_key(self.table, self.key)

    @property
    def positional(self) -> bool:
        """Whether the command line takes it as its argument and not as a flag."""
        return self.flag is None

    @property
    def python_type(self) -> type:
        """bool, int, float, str or tuple."""
        return self.kind.python_type

    @property
    def unit(self) -> str | None:
        """What its numbers count: "seconds", "bytes" or None."""
        return self.kind.unit

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that are allowed, if only some are."""
        return self.kind.choices

    @property
    def repeatable(self) -> bool:
        """Whether the flag may be given several times."""
        return isinstance(self.kind, ListOf)

    @property
    def is_switch(self) -> bool:
        """Whether the flag takes no value."""
        return isinstance(self.kind, Switch)

    @property
    def secret(self) -> bool:
        """Whether the value must not be shown."""
        return self.kind.secret

    @property
    def metavar(self) -> str:
        """What stands for the value in the help."""
        return self.kind.item_metavar if isinstance(self.kind, ListOf) else self.kind.metavar


@cache
def settings() -> tuple[Setting, ...]:
    """All settings: the top level first, then table by table, in the order of declaration."""
    groups: dict[str, type[Settings]] = {"": Config, **GROUPS}
    return tuple([_describe(table, field) for table, group in groups.items() for field in fields_of(group)])


def _describe(table: str, field: Any) -> Setting:
    name = f"{table}_{field.key}" if table else field.key
    words = name.replace("_", "-")
    return Setting(
        name=name,
        table=table,
        key=field.key,
        flag=None if name == _POSITIONAL else f"--{words}",
        negative_flag=f"--no-{words}" if isinstance(field.kind, Switch) else None,
        other_flags=_OTHER_FLAGS.get(name, ()),
        env=ENVIRONMENT_PREFIX + name.upper(),
        kind=field.kind,
        default=field.default,
        help=field.help,
    )
