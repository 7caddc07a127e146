"""The kinds of values that settings have: how each is read from TOML, Python and text, and written as TOML.

A kind knows nothing of keys, files or tables; it raises `InvalidValue` with a reason. Parsing is
idempotent: what `parse` returns, `parse` accepts and returns unchanged, so a value may be checked early
by the loader (which knows its source) and again by the struct that holds it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from .binds import UnixBind, parse_bind
from .errors import UNPRINTABLE, InvalidValue, render_text, show
from .units import (
    LARGEST_SIZE,
    EventRate,
    parse_duration,
    parse_rate,
    parse_size,
    render_duration,
    render_rate,
    render_size,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_LARGEST_COUNT = 10**18 - 1
_WHOLE_NUMBER = re.compile(r"[0-9]{1,18}")
_TRUE_WORDS = frozenset({"true", "yes", "on", "1"})
_FALSE_WORDS = frozenset({"false", "no", "off", "0"})


class Kind:
    """One kind of value; subclasses say what they expect."""

    expected: str = "a value"
    metavar: ClassVar[str] = "TEXT"
    unit: ClassVar[str | None] = None
    python_type: ClassVar[type] = str
    choices: tuple[str, ...] = ()
    # What stands between the items of a list in one text; None for kinds that are no lists.
    separator: str | None = None
    secret: bool = False

    def parse(self, value: Any) -> Any:
        """Check and normalise a value from TOML or Python."""
        raise NotImplementedError

    def parse_text(self, text: str) -> Any:
        """Check and normalise a value from the environment or the command line."""
        return self.parse(text)

    def resolve(self, value: Any, base: str) -> Any:  # noqa: ARG002 - only kinds with paths look at the base
        """Make the relative paths in a parsed value relative to the directory `base`."""
        return value

    def render(self, value: Any) -> str:
        """A TOML value that parses to the same."""
        return render_text(value or "")

    def refuse(self, value: object) -> InvalidValue:
        """The error for a value that is not as expected."""
        got = "something else" if self.secret else show(value)
        return InvalidValue(f"expected {self.expected}, got {got}")


class Switch(Kind):
    """On or off."""

    expected = "true or false"
    metavar = "BOOLEAN"
    python_type = bool

    def parse(self, value: Any) -> bool:
        """Only a real boolean."""
        if not isinstance(value, bool):
            raise self.refuse(value)
        return value

    def parse_text(self, text: str) -> bool:
        """The usual words."""
        word = text.lower()
        if word in _TRUE_WORDS or word in _FALSE_WORDS:
            return word in _TRUE_WORDS
        raise self.refuse(text)

    def render(self, value: Any) -> str:
        """True or false."""
        return "true" if value else "false"


class Count(Kind):
    """A whole number; `word`, if given, stands for "find out yourself"."""

    metavar = "NUMBER"
    python_type = int

    def __init__(self, least: int, word: str | None = None, most: int | None = None) -> None:
        self.least = least
        self.most = _LARGEST_COUNT if most is None else most
        self.word = word
        span = f"of at least {least}" if most is None else f"from {least} to {most}"
        self.expected = f"a whole number {span}" + (f' or "{word}"' if word else "")

    def parse(self, value: Any) -> int | str:
        """A number that is no boolean and within the bounds."""
        if self.word is not None and value == self.word:
            return self.word
        if isinstance(value, bool) or not isinstance(value, int) or not self.least <= value <= self.most:
            raise self.refuse(value)
        return value

    def parse_text(self, text: str) -> int | str:
        """Decimal digits."""
        if not _WHOLE_NUMBER.fullmatch(text):
            if text == self.word:
                return text
            raise self.refuse(text)
        return self.parse(int(text))

    def render(self, value: Any) -> str:
        """The number, or the word in quotes."""
        return render_text(value) if isinstance(value, str) else str(value)


class Duration(Kind):
    """Seconds."""

    expected = 'a duration of 0 or more, such as 30, "250ms" or "5m"'
    metavar = "DURATION"
    unit = "seconds"
    python_type = float

    def parse(self, value: Any) -> float:
        """Seconds, or text with a unit."""
        try:
            return value if type(value) is float and value > 0 and value < 1e300 else parse_duration(value)
        except ValueError:
            raise self.refuse(value) from None

    def render(self, value: Any) -> str:
        """Seconds as a number."""
        return render_duration(value)


class Size(Kind):
    """Bytes."""

    metavar = "SIZE"
    unit = "bytes"
    python_type = int

    def __init__(self, least: int, most: int | None = None) -> None:
        self.least = least
        self.most = LARGEST_SIZE if most is None else most
        if most is not None:
            self.expected = f'a size from {least} to {most}, such as 65536 or "1MiB"'
        else:
            self.expected = 'a size such as 65536 or "16MiB"' + (f" of at least {least}" if least else "")

    def parse(self, value: Any) -> int:
        """Bytes, or text with a unit."""
        try:
            size = parse_size(value)
        except ValueError:
            raise self.refuse(value) from None
        if not self.least <= size <= self.most:
            raise self.refuse(value)
        return size

    def render(self, value: Any) -> str:
        """With a unit where that is shorter."""
        text = render_size(value)
        return text if text.isdigit() else render_text(text)


class Rate(Kind):
    """Events in a time, kept as an `EventRate`."""

    expected = 'a count in a time, such as "200/10s" or "50/500ms"'
    metavar = "COUNT/DURATION"
    python_type = EventRate

    def parse(self, value: Any) -> EventRate:
        """A text, or what was made of one."""
        try:
            return parse_rate(value)
        except ValueError:
            raise self.refuse(value) from None

    def render(self, value: Any) -> str:
        """A text."""
        return render_text(render_rate(value))


class Choice(Kind):
    """One of a few words."""

    def __init__(self, choices: tuple[str, ...]) -> None:
        self.choices = choices
        self.expected = f"one of {', '.join(choices)}"

    def parse(self, value: Any) -> str:
        """The word as it is written; case matters."""
        if not isinstance(value, str) or value not in self.choices:
            raise self.refuse(value)
        return value


class Text(Kind):
    """Text; `check` narrows and normalises it, and an optional text is None when empty."""

    def __init__(
        self,
        expected: str = "a text",
        check: Callable[[str], str | None] | None = None,
        *,
        optional: bool = False,
        secret: bool = False,
    ) -> None:
        self.expected = expected
        self.check = check
        self.optional = optional
        self.secret = secret

    def parse(self, value: Any) -> str | None:
        """The normalised text; `check` returns None for what is not as expected."""
        if self.optional and (value is None or value == ""):
            return None
        if not isinstance(value, str) or (not self.secret and UNPRINTABLE.search(value)):
            raise self.refuse(value)
        text = value if self.check is None else self.check(value)
        if text is None:
            raise self.refuse(value)
        return text


class FilePath(Kind):
    """A path; some words are no paths but have a meaning of their own ("-", "off")."""

    metavar = "PATH"

    def __init__(self, words: tuple[str, ...] = (), *, optional: bool = True) -> None:
        self.words = words
        self.optional = optional
        alternatives = "".join(f'"{word}", ' for word in words).removesuffix(", ")
        self.expected = f"{alternatives} or a path" if words else "a path"

    def parse(self, value: Any) -> str | None:
        """The path as text, as it was given."""
        if self.optional and (value is None or value == ""):
            return None
        path = value.__fspath__() if hasattr(value, "__fspath__") else value
        if not isinstance(path, str) or not path or UNPRINTABLE.search(path):
            raise self.refuse(value)
        return path

    def resolve(self, value: Any, base: str) -> Any:
        """An absolute path."""
        return value if value is None or value in self.words else str(Path(base, value))


class BindText(Kind):
    """One bind, kept as its canonical text."""

    expected = "host:port, [v6]:port, unix:/path or fd:N"
    metavar = "BIND"

    def parse(self, value: Any) -> str:
        """The canonical text of the bind."""
        if not isinstance(value, str):
            raise self.refuse(value)
        return str(parse_bind(value))

    def resolve(self, value: Any, base: str) -> Any:
        """Unix sockets get an absolute path, unless they have an abstract name (`unix:@name`)."""
        bind = parse_bind(value)
        if not isinstance(bind, UnixBind) or bind.path.startswith("@"):
            return value
        return str(UnixBind(str(Path(base, bind.path))))


class ListOf(Kind):
    """A list of one kind, kept as a tuple; a single item may stand alone."""

    python_type = tuple

    def __init__(self, item: Kind, separator: str = ",", *, required: bool = False) -> None:
        self.item = item
        self.separator: str = separator
        self.required = required
        self.expected = f"a list of {item.expected}"

    @property
    def item_metavar(self) -> str:
        """What one item looks like on the command line."""
        return self.item.metavar

    def parse(self, value: Any) -> tuple[Any, ...]:
        """A tuple of parsed items."""
        items = value if isinstance(value, (list, tuple)) else (value,)
        if self.required and not items:
            raise InvalidValue("must not be empty")
        return tuple([self.item.parse(item) for item in items])

    def parse_text(self, text: str) -> tuple[Any, ...]:
        """Items between separators; empty text is an empty list."""
        words = [word.strip() for word in text.split(self.separator)] if text.strip() else []
        items = tuple([self.item.parse_text(word) for word in words])
        return self.parse(items)

    def resolve(self, value: Any, base: str) -> Any:
        """Each item."""
        return tuple([self.item.resolve(item, base) for item in value])

    def render(self, value: Any) -> str:
        """A TOML array."""
        return "[" + ", ".join(self.item.render(item) for item in value) + "]"
