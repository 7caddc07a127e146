"""Variables for the application from a file of NAME=value lines.

Strict and small: blank lines, comments, `export `, single quotes (nothing inside is special) and double quotes
(with backslash escapes). Nothing is expanded or executed, and a value never goes on in the next line. A mistake
is a `ConfigError` with file and line; values, which may be secrets, are never quoted in it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from trioserve.config import ConfigError

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from pathlib import Path

_LINE = re.compile(r"(?:export[ \t]+)?(?P<name>[^=\s]*)[ \t]*=[ \t]*(?P<value>.*)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SINGLE_QUOTED = re.compile(r"'(?P<text>[^']*)'")
_DOUBLE_QUOTED = re.compile(r'"(?P<text>(?:[^"\\]|\\.)*)"')
_COMMENT = re.compile(r"[ \t]*(?:[ \t]#.*)?")
_ESCAPE = re.compile(r"\\(.)")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", '"': '"', "'": "'", "$": "$", "`": "`"}


def apply_env_file(path: Path, environ: MutableMapping[str, str]) -> None:
    """Add a file's variables to `environ`; one that is there already stays as it is.

    Raises:
        ConfigError: the file cannot be read or has a mistake; nothing is changed then.
    """
    for name, value in parse_env_file(_read(path), str(path)).items():
        environ.setdefault(name, value)


def parse_env_file(text: str, source: str) -> dict[str, str]:
    """Read NAME=value lines.

    Args:
        text: the file's content.
        source: the file's name, for messages.

    Raises:
        ConfigError: a line is no such line, or a name is given twice.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        stripped = line.strip(" \t")
        if not stripped or stripped.startswith("#"):
            continue
        try:
            name, value = _parse_line(stripped)
            if name in found:
                raise ValueError(f"{name} is given twice")
        except ValueError as error:
            raise ConfigError(f"line {number}", source, str(error)) from None
        found[name] = value
    return found


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError("", str(path), error.strerror or "cannot be read") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"line {line}", str(path), "not UTF-8") from None


def _parse_line(line: str) -> tuple[str, str]:
    match = _LINE.fullmatch(line)
    if match is None:
        raise ValueError("expected NAME=value")
    name = match["name"]
    if not _NAME.fullmatch(name):
        raise ValueError("a name has letters, digits and underscores, and begins with no digit")
    value = _parse_value(name, match["value"])
    if "\0" in value:
        raise ValueError(f"the value of {name} holds a zero byte")
    return name, value


def _parse_value(name: str, written: str) -> str:
    if not written.startswith(("'", '"')):
        return re.sub(r"(?:^|[ \t]+)#.*", "", written).rstrip(" \t")
    quoted = (_SINGLE_QUOTED if written[0] == "'" else _DOUBLE_QUOTED).match(written)
    if quoted is None:
        raise ValueError(f"the quotes of {name} are not closed in this line")
    if not _COMMENT.fullmatch(written, quoted.end()):
        raise ValueError(f"something follows the closing quote of {name}")
    text = quoted["text"]
    return text if written[0] == "'" else _ESCAPE.sub(lambda escape: _unescape(name, escape[1]), text)


def _unescape(name: str, character: str) -> str:
    if character not in _ESCAPES:
        raise ValueError(
            f"the value of {name} has an unknown escape, use single quotes for a literal backslash"
        )
    return _ESCAPES[character]
