"""What a peer says about the order of answers: RFC 9218 urgency and RFC 7540 dependencies, read and never obeyed here.

Priority signals are hints, so nothing in a `priority` value is an error: what cannot be read means the defaults.
Values are RFC 8941 dictionaries, read in one pass whose cost is linear in a bounded length. Who sends next is
decided in `scheduler`.
"""

from __future__ import annotations

import functools
import re
from typing import Final, NamedTuple, TypeAlias

LONGEST_VALUE: Final = 256
"""Bytes of a `priority` value; a longer one counts as unreadable. The registered members need seven."""


class Urgency(NamedTuple):
    """An RFC 9218 priority.

    Args:
        urgency: 0 (first) to 7 (last).
        incremental: the client can use parts of the answer, so that sharing with others makes sense.
    """

    urgency: int = 3
    incremental: bool = False


class Dependency(NamedTuple):
    """An RFC 7540 section 5.3 priority.

    Args:
        parent: the stream to be served before this one; 0 for none.
        weight: share among the streams of the same parent, 1 to 256; the octet on the wire and one.
        exclusive: the other streams of that parent come to depend on this one.
    """

    parent: int = 0
    weight: int = 16
    exclusive: bool = False


PrioritySignal: TypeAlias = Urgency | Dependency

_DEFAULT: Final = Urgency()
_LEAST_URGENT: Final = 7
_BOOLEANS: Final = {b"0": False, b"1": True}

# RFC 8941 section 3. Everything is possessive: no value makes the search go back.
_KEY = r"[a-z*][a-z0-9_.*-]*+"
_DECIMAL = r"-?[0-9]{1,12}+\.[0-9]{1,3}+"
_INTEGER = r"-?[0-9]{1,15}+"
_OTHER = (
    r'"(?:[ !#-\[\]-~]|\\["\\])*+"'  # string
    r"|[A-Za-z*][A-Za-z0-9!#$%&'*+.^_`|~:/-]*+"  # token
    r"|:[A-Za-z0-9+/=]*+:"  # byte sequence
)
_BARE_ITEM = rf"(?:{_DECIMAL}|{_INTEGER}|{_OTHER}|\?[01])"
_PARAMETERS = rf"(?:; *+{_KEY}(?:={_BARE_ITEM})?+)*+"
_ITEM = rf"{_BARE_ITEM}{_PARAMETERS}"
_INNER_LIST = rf"\( *+(?:{_ITEM}(?: ++{_ITEM})*+ *+)?+\)"
_MEMBER = re.compile(
    (
        rf"(?P<key>{_KEY})"
        rf"(?:=(?:{_DECIMAL}|(?P<integer>{_INTEGER})|\?(?P<boolean>[01])|{_OTHER}|{_INNER_LIST})|(?P<bare>))"
        rf"{_PARAMETERS}[ \t]*+(?:,[ \t]*+(?!\Z)|\Z)"
    ).encode()
)


def parse_priority(value: bytes) -> Urgency:
    """Read the value of a `priority` field (RFC 9218 section 4).

    Args:
        value: the field value; several lines are joined with ", " before.

    Returns:
        What it says of `u` and `i`, and the defaults for what it does not say, says in another type or out of
        range, and for all of it when it is no dictionary. Never raises.
    """
    return merge_response_priority(_DEFAULT, value)


def merge_response_priority(request: Urgency, value: bytes) -> Urgency:
    """Return the priority of a response that has a `priority` field of its own (RFC 9218 section 8).

    Args:
        request: what the client asked for.
        value: the field value of the response; only the members that it has, with a proper value, override.
    """
    if len(value) > LONGEST_VALUE:
        return request
    return _merge(request, value)


def parse_priority_update(payload: bytes) -> tuple[int, Urgency]:
    """Read the payload of a PRIORITY_UPDATE frame (RFC 9218 section 7.1).

    Returns:
        The prioritised stream, which may be 0 (a connection error, for the caller to raise), and its priority.

    Raises:
        ValueError: the payload is too short to name a stream.
    """
    if len(payload) < 4:
        raise ValueError("a PRIORITY_UPDATE frame has at least 4 octets")
    return int.from_bytes(payload[:4], "big") & 0x7FFF_FFFF, parse_priority(payload[4:])


def parse_dependency(payload: bytes) -> Dependency:
    """Read the five octets of PRIORITY, or those that HEADERS may begin with (RFC 7540 section 6.3)."""
    parent = int.from_bytes(payload[:4], "big")
    return Dependency(parent & 0x7FFF_FFFF, payload[4] + 1, parent > 0x7FFF_FFFF)


@functools.lru_cache(maxsize=64)  # clients use few values
def _merge(request: Urgency, value: bytes) -> Urgency:
    urgency, incremental = _read_members(value)
    return Urgency(
        request.urgency if urgency is None else urgency,
        request.incremental if incremental is None else incremental,
    )


def _read_members(value: bytes) -> tuple[int | None, bool | None]:
    """Return `u` and `i`, each None where a value does not give it."""
    urgency: int | None = None
    incremental: bool | None = None
    position = len(value) - len(value.lstrip(b" "))
    while position < len(value):
        match = _MEMBER.match(value, position)
        if match is None:
            return None, None  # RFC 8941 section 4.2: all of it is discarded
        # A later member replaces an earlier one of the same key, also with a value that is of no use.
        if match["key"] == b"u":
            urgency = _urgency(match["integer"])
        elif match["key"] == b"i":
            incremental = True if match["bare"] is not None else _BOOLEANS.get(match["boolean"])
        position = match.end()
    return urgency, incremental


def _urgency(integer: bytes | None) -> int | None:
    if integer is None:
        return None
    urgency = int(integer)
    return urgency if 0 <= urgency <= _LEAST_URGENT else None
