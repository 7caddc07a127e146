"""How much more content the peer may send: when its windows are widened again (RFC 9113 sections 5.2 and 6.9).

The window of a stream is widened by what its application has taken, which bounds what one stream can make us hold.
The connection's is widened as content comes: waiting for the slowest application would let one unread upload stall all
other streams. It waits only while very much is held.

Invariant: every byte that came is given back to the connection's window exactly once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hyperframe.frame import WindowUpdateFrame

from trioserve.protocols.http2 import frame_gate as wire
from trioserve.protocols.http2.frame_gate import ConnectionFault

if TYPE_CHECKING:
    from trioserve.protocols.http2.lean_connection import LeanConnection
    from trioserve.protocols.http2.limits import Http2Limits
    from trioserve.protocols.http2.streams import StreamState

HELD_WINDOWS: Final = 4
"""Connection windows of unread bodies that are held before the connection as a whole is made to wait."""


class InboundCredit:
    """The credit that the peer of one connection has with us.

    Args:
        connection: keeps the windows.
        limits: their sizes.
    """

    __slots__ = ("_connection", "_held", "_ignored", "_limits", "_returned")

    def __init__(self, connection: LeanConnection, limits: Http2Limits) -> None:
        self._connection = connection
        self._limits = limits
        self._held = 0  # bytes of bodies that the application has not taken
        self._returned = 0  # bytes by which the connection's window has yet to be widened
        self._ignored = 0  # the same, of frames that h2 never saw

    def receive(self, size: int) -> None:
        """Take note that `size` bytes came, with padding; widen the connection's window once it is worth a frame."""
        self._returned += size
        window = self._limits.connection_window
        if self._returned >= window // 2 and self._held <= HELD_WINDOWS * window:
            self._connection.increment_flow_control_window(self._returned)
            self._returned = 0

    def hold(self, size: int) -> None:
        """Take note that `size` bytes wait for an application, until `release`."""
        self._held += size

    def release(self, size: int) -> None:
        """Take note that an application took `size` bytes, or nobody will."""
        self._held -= size
        self.receive(0)

    def widen(self, stream: StreamState, size: int) -> None:
        """Widen a stream's window, once it is worth a frame."""
        stream.credit += size
        if stream.credit >= self._limits.window // 2:
            self._connection.increment_flow_control_window(stream.credit, stream.stream_id)
            stream.credit = 0

    def ignore(self, size: int) -> None:
        """Give back what came on a stream that we had reset, and h2 shall not see.

        Raises:
            ConnectionFault: it was more than the connection's window.
        """
        self._ignored += size
        if self._ignored > self._connection.inbound_flow_control_window:
            raise ConnectionFault(wire.FLOW_CONTROL_ERROR, "the connection's window was overrun")
        if self._ignored >= self._limits.connection_window // 2:
            self._connection.emit(WindowUpdateFrame(0, self._ignored).serialize())
            self._ignored = 0
