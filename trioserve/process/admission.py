"""The end of admission to a listening socket that several processes accept from, when all of them are about to stop.

A process that closes such a socket accepts what waits in its backlog first; yet the kernel goes on taking connections
until the last one has closed it, and resets those that nobody was left to accept, although their clients may have
sent a request. So the door is shut before the waiting room is emptied. The socket must be ours alone: whoever else
has it, such as a service manager, would be shut out too, for good. See docs/decisions/0014.
"""

from __future__ import annotations

import array
import socket
import struct
import sys
from typing import Final

_SO_ATTACH_FILTER: Final = 26  # <asm-generic/socket.h>
# socket(7) and the kernel's networking/filter.rst: a program that sees each TCP segment and says how much of it passes.
_INSTRUCTION: Final = struct.Struct("=HBBI")
_NO_NEW_CONNECTIONS: Final = b"".join(
    _INSTRUCTION.pack(*instruction)
    for instruction in (
        (0x30, 0, 0, 13),  # load the byte with the flags (RFC 9293 section 3.1)
        (0x54, 0, 0, 0x12),  # keep ACK and SYN
        (0x15, 0, 1, 0x02),  # SYN alone, a request for a connection?
        (0x06, 0, 0, 0),  # yes: drop it
        (0x06, 0, 0, 0xFFFFFFFF),  # no: let it pass, as the end of a handshake that has begun
    )
)


def end_admission(sock: socket.socket) -> bool:
    """Let no more connections into the backlog of a listening socket; those in it can be accepted as before.

    A client that comes now finds nobody, over TCP when it tries again after a second. Returns whether the system can
    do that.
    """
    if sys.platform != "linux":
        return False
    try:
        if sock.family == socket.AF_UNIX:
            sock.shutdown(socket.SHUT_RD)
        else:
            program = array.array("B", _NO_NEW_CONNECTIONS)
            address, size = program.buffer_info()
            sock.setsockopt(
                socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", size // _INSTRUCTION.size, address)
            )
    except OSError:
        return False
    return True
