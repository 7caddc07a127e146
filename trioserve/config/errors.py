"""What can be wrong with a configuration.

`ConfigError` is the only error that leaves this floor; its text is one line, fit for stderr.
`InvalidValue` is how a kind of value says "not like this" before anybody knows which key of which file
the value came from.
"""

from __future__ import annotations

import re

_LONGEST_QUOTE = 60
# Control characters, C1 too, and halves of surrogate pairs: no terminal and no TOML file should get them.
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class InvalidValue(ValueError):
    """A value that its kind refuses; the text is the reason, without key or source."""


class ConfigError(ValueError):
    """A configuration that cannot be used.

    Args:
        key: the setting as its author wrote it: "[tls] key", "TRIOSERVE_TLS_KEY", "--tls-key"; empty when the
            whole source is at fault.
        source: the file, "environment", "command line", or None for a `Config` built in Python.
        reason: what is wrong and, where possible, what would be right.
    """

    def __init__(self, key: str, source: str | None, reason: str) -> None:
        super().__init__(key, source, reason)
        self.key = key
        self.source = source
        self.reason = reason

    def __str__(self) -> str:
        text = ": ".join(part for part in (self.source, self.key, self.reason) if part)
        return UNPRINTABLE.sub(_escape, " ".join(text.split()))


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


def render_text(text: str) -> str:
    """A TOML basic string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + UNPRINTABLE.sub(_escape, escaped) + '"'


def show(value: object) -> str:
    """A wrong value as its author wrote it, short, for the end of a message."""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = render_text(value) if isinstance(value, str) else repr(value)
    return text if len(text) <= _LONGEST_QUOTE else text[: _LONGEST_QUOTE - 3] + "..."
