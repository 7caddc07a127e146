"""SETTINGS, ours and the peer's: what is announced, what h2 has to know, what the peer may say (RFC 9113 section 6.5).

Values only; what follows from them is done by the receiver and by h2. Settings that nobody knows are not passed on,
since a peer may send any number of them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from h2.settings import SettingCodes, Settings
from hyperframe.frame import SettingsFrame

from trioserve.protocols.http2 import frame_gate as wire
from trioserve.protocols.http2.frame_gate import ConnectionFault

if TYPE_CHECKING:
    from trioserve.protocols.http2.limits import Http2Limits

UNLIMITED: Final = 2**31 - 1
SETTING_SIZE: Final = 6

_NO_RFC7540_PRIORITIES: Final = 9  # RFC 9218 section 2.1
_KNOWN: Final = frozenset((1, 2, 3, 4, 5, 6, 8))
_ANY_VALUE: Final = (0, 2**32 - 1, wire.NO_ERROR)
_LEGAL_VALUES: Final = {  # RFC 9113 section 6.5.2, RFC 8441 section 3, RFC 9218 section 2.1
    SettingCodes.ENABLE_PUSH: (0, 1, wire.PROTOCOL_ERROR),
    SettingCodes.INITIAL_WINDOW_SIZE: (0, 2**31 - 1, wire.FLOW_CONTROL_ERROR),
    SettingCodes.MAX_FRAME_SIZE: (16384, 2**24 - 1, wire.PROTOCOL_ERROR),
    SettingCodes.ENABLE_CONNECT_PROTOCOL: (0, 1, wire.PROTOCOL_ERROR),
    _NO_RFC7540_PRIORITIES: (0, 1, wire.PROTOCOL_ERROR),
}


class PeerSettings(NamedTuple):
    """What a SETTINGS frame of the peer says.

    Args:
        known: the settings that mean something to h2; the last value of each counts.
        table_sizes: HPACK table sizes that later ones in the same frame replace; an encoder has to tell the smallest
            (RFC 7541 section 4.2).
        refuses_tree: the peer does not use the priorities of RFC 7540.
    """

    known: dict[int, int]
    table_sizes: list[int]
    refuses_tree: bool


def read_settings(payload: bytes) -> PeerSettings:
    """Read a SETTINGS frame.

    Args:
        payload: whole settings of six bytes each.

    Raises:
        ConnectionFault: a value is illegal, also where a later one replaces it (RFC 9113 section 6.5.3).
    """
    known: dict[int, int] = {}
    table_sizes: list[int] = []
    refuses_tree = False
    for start in range(0, len(payload), SETTING_SIZE):
        code = int.from_bytes(payload[start : start + 2], "big")
        value = int.from_bytes(payload[start + 2 : start + SETTING_SIZE], "big")
        least, most, fault = _LEGAL_VALUES.get(code, _ANY_VALUE)
        if not least <= value <= most:
            raise ConnectionFault(fault, "a setting has an illegal value")
        if code == SettingCodes.HEADER_TABLE_SIZE and code in known:
            table_sizes.append(known[code])
        if code in _KNOWN:
            known[code] = value
        elif code == _NO_RFC7540_PRIORITIES and value:
            refuses_tree = True
    return PeerSettings(known, table_sizes, refuses_tree)


def announce_settings(limits: Http2Limits) -> bytes:
    """Return the SETTINGS frame that a connection begins with."""
    settings: dict[int, int] = {
        SettingCodes.MAX_CONCURRENT_STREAMS: limits.max_concurrent_streams,
        SettingCodes.INITIAL_WINDOW_SIZE: limits.window,
        SettingCodes.MAX_FRAME_SIZE: limits.max_frame_size,
        SettingCodes.MAX_HEADER_LIST_SIZE: limits.max_head_size,
    }
    if limits.extended_connect:
        settings[SettingCodes.ENABLE_CONNECT_PROTOCOL] = 1
    return SettingsFrame(0, {int(code): value for code, value in settings.items()}).serialize()


@lru_cache(maxsize=8)
def local_settings(limits: Http2Limits) -> Settings:
    """Our settings as h2 has to know them: one object for all connections, since they never change and take 5 KB."""
    return Settings(
        client=False,
        initial_values={
            SettingCodes.MAX_CONCURRENT_STREAMS: UNLIMITED,  # h2 would end the connection; we refuse the stream
            SettingCodes.INITIAL_WINDOW_SIZE: limits.window,
            SettingCodes.MAX_FRAME_SIZE: limits.max_frame_size,
            SettingCodes.MAX_HEADER_LIST_SIZE: limits.max_head_size,
            SettingCodes.ENABLE_CONNECT_PROTOCOL: int(limits.extended_connect),
        },
    )
