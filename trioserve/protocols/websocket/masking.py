"""The mask over what a WebSocket client sends (RFC 6455 section 5.3).

Unmasking is the only work here that Python has to do for each byte. Where the package websockets is installed, its
C function does it; `unmask_in_python` gives the same bytes without it. Nothing else of that package is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

# XOR on one big integer is fastest for short payloads; for long ones, four translations by table are.
_LONG_PAYLOAD: Final = 256
_XOR: Final = [bytes(byte ^ key for byte in range(256)) for key in range(256)]


def unmask_in_python(payload: bytes, key: bytes) -> bytes | bytearray:
    """Apply the four bytes of a masking key to a payload; what was unmasked becomes masked by it again."""
    size = len(payload)
    if size < _LONG_PAYLOAD:
        keys = key * ((size + 3) // 4)
        number = int.from_bytes(payload, "little") ^ int.from_bytes(keys, "little")
        return number.to_bytes(len(keys), "little")[:size]
    data = bytearray(size)
    data[::4] = payload[::4].translate(_XOR[key[0]])
    data[1::4] = payload[1::4].translate(_XOR[key[1]])
    data[2::4] = payload[2::4].translate(_XOR[key[2]])
    data[3::4] = payload[3::4].translate(_XOR[key[3]])
    return data


unmask: Callable[[bytes, bytes], bytes | bytearray]
"""The faster of the two; the arguments are a payload and the four bytes of the key."""
try:
    from websockets.speedups import apply_mask as unmask
except ImportError:  # the package, or the compiled part of it
    unmask = unmask_in_python
