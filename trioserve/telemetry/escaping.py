r"""What a peer or an application supplies, made safe to print on one line of a log.

One rule for the text and the JSON form: a byte that is not printable ASCII, a double quote and a backslash
are written `\xNN`. Nothing is lost (the backslash itself is escaped, so the spelling can be undone), no line
can be forged, no quoted field can be left, and no terminal is sent a control sequence. Clean input costs one
table lookup per byte in C.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Key = TypeVar("Key", str, bytes)

_CLEAN = frozenset(range(0x20, 0x7F)) - {0x22, 0x5C}
# An unclean byte is changed by this table, whatever it is changed into; so "unchanged" means "clean".
_CHANGES_UNCLEAN = bytes(byte if byte in _CLEAN else 0x3F for byte in range(256))
_SPELLING = {byte: f"\\x{byte:02x}" for byte in range(256) if byte not in _CLEAN}


def escape_bytes(raw: bytes) -> str:
    """Printable ASCII for `raw`, without double quotes; `\\xNN` for everything else."""
    if raw.translate(_CHANGES_UNCLEAN) == raw:
        return raw.decode("ascii")
    return raw.decode("latin-1").translate(_SPELLING)


def escape_text(text: str) -> str:
    """The same for text, by its UTF-8 bytes; lone surrogates are no error."""
    return escape_bytes(text.encode("utf-8", "surrogatepass"))


class Memo(dict[Key, str]):
    """Rendered forms of values that come again and again (addresses, methods, user agents): `memo[value]`.

    Bounded, because peers choose the values: it is emptied at `capacity`, and long values are not kept.

    Args:
        render: what makes the text for a value that is not known yet.
        capacity: entries.
        longest: characters or bytes of the longest value that is kept.
    """

    __slots__ = ("_capacity", "_longest", "_render")

    def __init__(self, render: Callable[[Key], str], capacity: int = 1024, longest: int = 256) -> None:
        super().__init__()
        self._render: Callable[[Key], str] = render
        self._capacity = capacity
        self._longest = longest

    def __missing__(self, value: Key) -> str:
        rendered = self._render(value)
        if len(value) <= self._longest:
            if len(self) >= self._capacity:
                self.clear()
            self[value] = rendered
        return rendered
