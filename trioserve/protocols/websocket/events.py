"""What a WebSocket machine reports: whole messages, the end, and two signals; and what one session may cost.

Events are plain data; they are built by the machine and belong to whoever took them.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

import msgspec


class Message(msgspec.Struct, gc=False):
    """A whole message: text as `str`, binary as `bytes`."""

    data: str | bytes


class Closed(msgspec.Struct, gc=False):
    """Nothing more will come: the peer has closed, or broke the protocol.

    Args:
        code: what the peer said (RFC 6455 section 7.4), 1005 if it said nothing; for a broken protocol, what it was
            told: 1002, 1007 or 1009.
        reason: the words that came, or were sent, with it.
        failed: the peer broke the protocol; nothing of it is looked at any more.
    """

    code: int
    reason: str
    failed: bool = False


class Signal(enum.Enum):
    """Events without content."""

    NEED_DATA = enum.auto()  # receive more bytes, then ask again
    PONG = enum.auto()  # the peer has answered our latest ping


NEED_DATA: Final = Signal.NEED_DATA
PONG: Final = Signal.PONG

Event = Message | Closed | Signal


@dataclass(frozen=True, slots=True)
class WebSocketLimits:
    """What one session may cost.

    Args:
        max_message_size: bytes of a message, inflated, all fragments together. Above it: 1009.
        max_fragments: frames of under 64 bytes in one message; its size bounds the larger ones. Above it: 1009.
    """

    max_message_size: int = 16 << 20
    max_fragments: int = 4096


@dataclass(frozen=True, slots=True)
class Deflate:
    """What both sides agreed on for permessage-deflate (RFC 7692 section 7.1).

    Args:
        server_window_bits: of what we send, 9 to 15.
        client_window_bits: of what the peer sends.
        server_no_takeover: we forget our window after each message.
        client_no_takeover: the peer does.
    """

    server_window_bits: int = 15
    client_window_bits: int = 15
    server_no_takeover: bool = True
    client_no_takeover: bool = True
