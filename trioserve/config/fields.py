"""How a setting is declared: `key: Annotated[type, kind("what it does")] = default`, in a frozen struct.

`Settings` is the base of every group; its `__post_init__` checks and normalises each field by its kind,
so that a group built in Python is exactly as strict as one from a file. Defaults are trusted: the tests
check them, not each start.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, get_args, get_origin

import msgspec

from .errors import ConfigError, InvalidValue
from .kinds import BindText, Choice, Count, Duration, FilePath, Kind, ListOf, Rate, Size, Switch, Text

if TYPE_CHECKING:
    from collections.abc import Callable


class Field(NamedTuple):
    """One declared setting of a group."""

    key: str
    kind: Kind
    help: str
    default: Any


def _declare(help_text: str, kind: Kind | None) -> msgspec.Meta:
    return msgspec.Meta(description=help_text, extra={"kind": kind})


def switch(help_text: str) -> msgspec.Meta:
    """A boolean."""
    return _declare(help_text, Switch())


def count(
    help_text: str, *, least: int = 0, most: int | None = None, word: str | None = None
) -> msgspec.Meta:
    """A whole number, or `word`."""
    return _declare(help_text, Count(least, word, most))


def duration(help_text: str) -> msgspec.Meta:
    """Seconds."""
    return _declare(help_text, Duration())


def size(help_text: str, *, least: int = 0, most: int | None = None) -> msgspec.Meta:
    """Bytes."""
    return _declare(help_text, Size(least, most))


def rate(help_text: str) -> msgspec.Meta:
    """Events in a time."""
    return _declare(help_text, Rate())


def choice(help_text: str) -> msgspec.Meta:
    """One of the words of the field's `Literal`."""
    return _declare(help_text, None)


def text(
    help_text: str,
    expected: str = "a text",
    check: Callable[[str], str | None] | None = None,
    *,
    optional: bool = False,
    secret: bool = False,
) -> msgspec.Meta:
    """Text, narrowed by `check`."""
    return _declare(help_text, Text(expected, check, optional=optional, secret=secret))


def path(help_text: str, *, words: tuple[str, ...] = (), optional: bool = True) -> msgspec.Meta:
    """A path, or one of `words`."""
    return _declare(help_text, FilePath(words, optional=optional))


def binds(help_text: str, *, required: bool = False) -> msgspec.Meta:
    """A list of binds."""
    return _declare(help_text, ListOf(BindText(), required=required))


def items(help_text: str, item: Kind, *, separator: str = ",") -> msgspec.Meta:
    """A list of any kind."""
    return _declare(help_text, ListOf(item, separator))


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """A group of settings, that is, one TOML table."""

    TABLE: ClassVar[str] = ""

    def __post_init__(self) -> None:
        """Check and normalise every field, then what the fields mean together."""
        for field in fields_of(type(self)):
            value = getattr(self, field.key)
            if value is field.default:
                continue
            try:
                parsed = field.kind.parse(value)
            except InvalidValue as error:
                raise self.refuse(field.key, str(error)) from None
            msgspec.structs.force_setattr(self, field.key, parsed)
        self.check_combinations()

    def check_combinations(self) -> None:
        """Refuse values that are right alone and impossible together; groups override it."""

    def refuse(self, key: str, reason: str) -> ConfigError:
        """The error for one key of this group."""
        return ConfigError(display_key(self.TABLE, key), None, reason)


def display_key(table: str, key: str) -> str:
    """A key as messages show it: "[timeouts] head", or "app" for the top level."""
    return f"[{table}] {key}" if table else key


@cache
def fields_of(group: type[Settings]) -> tuple[Field, ...]:
    """The declared settings of a group, in the order of declaration; nested groups are not among them."""
    found = []
    for info in msgspec.structs.fields(group):
        meta = next((arg for arg in get_args(info.type) if isinstance(arg, msgspec.Meta)), None)
        if meta is not None:
            kind = (meta.extra or {})["kind"] or _kind_of_literal(get_args(info.type)[0])
            found.append(Field(info.name, kind, meta.description or "", info.default))
    return tuple(found)


def _kind_of_literal(annotation: Any) -> Kind:
    assert get_origin(annotation) is Literal
    return Choice(get_args(annotation))
