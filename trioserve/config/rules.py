"""What single settings may say beyond their kind: applications, host names, trusted peers, header fields.

Each `check_*` returns the normalised text, or None for what is not as expected; the words that say what
is expected stand beside the field in `model.py`.
"""

from __future__ import annotations

import re
from typing import Any

from .errors import InvalidValue, render_text
from .kinds import Kind

_APPLICATION = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*(?:\.[^\W\d]\w*)*")
_HOST_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?|\[[0-9A-Fa-f:.]+\]")
_MODE = re.compile(r"0?[0-7]{3}")
_UMASK = re.compile(r"0?[0-7]{1,3}")
_PATH = re.compile(r"(?:/[^/?#\s]+)*")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
_FIELD_VALUE = re.compile(r"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")
# RFC 9110 section 7.6.1 and RFC 9112 section 6: these say where a message ends and belong to the server.
_SERVER_FIELDS = frozenset(
    {"connection", "content-length", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
)


def check_application(text: str) -> str | None:
    """A module and its attribute, both possibly dotted, with a colon between."""
    return text if _APPLICATION.fullmatch(text) else None


def check_root_path(text: str) -> str | None:
    """Empty, or segments that each begin with a slash."""
    return text if _PATH.fullmatch(text) else None


def check_host_name(text: str) -> str | None:
    """A host name or a bracketed IPv6 address, without port, in lower case."""
    return text.lower() if _HOST_NAME.fullmatch(text) else None


def check_certificate_name(text: str) -> str | None:
    """A host name, or `*.` and a host name, which stands for one label in its place."""
    prefix = "*." if text.startswith("*.") else ""
    name = check_host_name(text.removeprefix(prefix))
    return None if name is None else prefix + name


def check_socket_mode(text: str) -> str | None:
    """Three octal digits."""
    return text.removeprefix("0") if _MODE.fullmatch(text) and len(text.removeprefix("0")) == 3 else None


def check_umask(text: str) -> str | None:
    """One to four octal digits, of which the first of four is a zero."""
    return text if _UMASK.fullmatch(text) else None


def check_trusted_peer(text: str) -> str | None:
    """An address, a network, "unix" or "*"."""
    if text in {"unix", "*"}:
        return text
    from ipaddress import ip_address, ip_network

    try:
        return str(ip_network(text) if "/" in text else ip_address(text))
    except ValueError:
        return None


class HeaderField(Kind):
    """A response header field, kept as (name in lower case, value)."""

    expected = 'a header field such as "name: value"'
    metavar = "NAME: VALUE"

    def parse(self, value: Any) -> tuple[str, str]:
        """From "name: value" or a pair."""
        if isinstance(value, str) and ":" in value:
            name, _, content = value.partition(":")
        elif isinstance(value, (list, tuple)) and len(value) == 2 and all(isinstance(v, str) for v in value):
            name, content = value
        else:
            raise self.refuse(value)
        name, content = name.lower(), content.strip(" \t")
        if not _TOKEN.fullmatch(name) or not _FIELD_VALUE.fullmatch(content):
            raise self.refuse(value)
        if name in _SERVER_FIELDS:
            raise InvalidValue(f"{name} belongs to the server and cannot be set")
        return name, content

    def render(self, value: Any) -> str:
        """One string."""
        return render_text(f"{value[0]}: {value[1]}")
