"""What to listen on: "host:port", "[v6]:port", ":port", "unix:/path" and "fd:N", as typed wishes.

A bind is only the wish; `server/listeners.py` makes a listener of it. Names are not resolved here and
nothing is opened. `str(bind)` is the canonical text, and `parse_bind(str(bind)) == bind`.
"""

from __future__ import annotations

import re
from typing import Final, TypeAlias

from msgspec import Struct

from .errors import UNPRINTABLE, InvalidValue, show

EXPECTED: Final = "host:port, [v6]:port, unix:/path or fd:N"
_ALL_ADDRESSES: Final = "0.0.0.0"
_HOST_NAME = re.compile(r"[A-Za-z0-9._-]+")
_IPV6_ADDRESS = re.compile(r"[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(?:%[A-Za-z0-9._-]+)?")
_DIGITS = re.compile(r"[0-9]{1,9}")
_LARGEST_PORT: Final = 65535


class TcpBind(Struct, frozen=True):
    """An address and a port; port 0 lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class UnixBind(Struct, frozen=True):
    """A Unix socket by its path."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


class FdBind(Struct, frozen=True):
    """An inherited, listening file descriptor."""

    fd: int

    def __str__(self) -> str:
        return f"fd:{self.fd}"


Bind: TypeAlias = TcpBind | UnixBind | FdBind


def parse_bind(text: str) -> Bind:
    """Read one bind.

    Raises:
        InvalidValue: a `ValueError` whose text says what is wrong and, for a slip, what to write.
    """
    if text.startswith("unix:"):
        return _parse_unix(text)
    if text.startswith("fd:"):
        return _parse_fd(text)
    return _parse_tcp(text)


def _parse_unix(text: str) -> UnixBind:
    path = text.removeprefix("unix:")
    if path.startswith("//"):
        path = "/" + path.lstrip("/")  # unix:///run/x is how URLs write it
    if not path or path.endswith("/") or UNPRINTABLE.search(path):
        raise InvalidValue(f"expected unix:/path of a socket, got {show(text)}")
    return UnixBind(path)


def _parse_fd(text: str) -> FdBind:
    digits = text.removeprefix("fd:")
    if not _DIGITS.fullmatch(digits):
        raise InvalidValue(f"expected fd:N with the number of a descriptor, got {show(text)}")
    return FdBind(int(digits))


def _parse_tcp(text: str) -> TcpBind:
    host, colon, port = text.rpartition(":")
    if not colon:
        raise InvalidValue(f"expected {EXPECTED}, got {show(text)}{_hint_without_colon(text)}")
    if not _DIGITS.fullmatch(port) or int(port) > _LARGEST_PORT:
        raise InvalidValue(
            f"expected a port from 0 to {_LARGEST_PORT} after the last colon, got {show(text)}"
        )
    return TcpBind(_parse_host(host, text), int(port))


def _parse_host(host: str, text: str) -> str:
    if not host:
        return _ALL_ADDRESSES
    if host.startswith("[") and host.endswith("]"):
        if not _IPV6_ADDRESS.fullmatch(host[1:-1]) or not _is_ipv6(host[1:-1]):
            raise InvalidValue(f"expected an IPv6 address between the brackets, got {show(text)}")
        return host[1:-1].lower()
    if ":" in host:
        raise InvalidValue(f"an IPv6 address needs brackets, as in [::1]:8000, got {show(text)}")
    if not _HOST_NAME.fullmatch(host):
        hint = ", write 0.0.0.0 for all addresses" if host == "*" else ""
        raise InvalidValue(f"expected {EXPECTED}, got {show(text)}{hint}")
    return host.lower()


def _is_ipv6(address: str) -> bool:
    from ipaddress import IPv6Address

    try:
        IPv6Address(address)
    except ValueError:
        return False
    return True


def _hint_without_colon(text: str) -> str:
    if _DIGITS.fullmatch(text):
        return f", did you mean 127.0.0.1:{text}?"
    if "/" in text:
        return f", did you mean unix:{text}?"
    return ""
