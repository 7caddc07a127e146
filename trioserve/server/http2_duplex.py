"""An HTTP/2 stream as a byte transport, after an extended CONNECT (RFC 8441): what WebSocket needs below it.

`Http2Duplex` passes the battery of transports and Trio's own check of two-way streams. Bytes that come are the pieces
of the stream's request body, bytes that go are content of its response; the windows bound both.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, NoReturn

import trio

from trioserve.asgi.errors import ClientDisconnected
from trioserve.protocols.http2.frame_gate import CANCEL
from trioserve.server.transport import Transport

if TYPE_CHECKING:
    from trioserve.server.http2_session import Http2SessionStream

NOTHING = memoryview(b"")


class Http2Duplex(Transport):
    """The bytes of one stream in both directions; see `Transport`.

    Args:
        stream: one whose request was an extended CONNECT and has been answered with a head that does not end it.
    """

    __slots__ = ("_closed", "_ended", "_left_over", "_receiving", "_sending", "_stream", "_taken")

    def __init__(self, stream: Http2SessionStream) -> None:
        super().__init__()
        self._stream = stream
        self._left_over = b""
        self._receiving = False
        self._sending = False
        self._ended = False  # our side
        self._closed = False

    @property
    def ended(self) -> bool:
        """Our side has, in order, and the client's need not have."""
        return self._ended and not self._closed

    @property
    def bytes_sent(self) -> int:
        """See `Transport`: it grows as frames leave, which they do when the client's windows let them."""
        return self._taken - self._stream.unsent

    @bytes_sent.setter
    def bytes_sent(self, count: int) -> None:
        self._taken = count

    # -- what the stream tells ------------------------------------------------------------------------------------

    def bytes_came(self) -> None:
        """Tell the observer of bytes that nobody waits for."""
        if not self._receiving and self._observer is not None:
            self._observer.bytes_waiting()

    def peer_left(self, broken: bool) -> None:
        """Tell the observer that the client has ended its side, or that nothing reaches it any more."""
        if self.half_closed and (self.broken or not broken):
            return
        self.half_closed = True
        self.broken = broken
        if self._observer is not None:
            self._observer.peer_left(broken)
        self.bytes_came()  # the end is something to read

    # -- reading --------------------------------------------------------------------------------------------------

    def receive_now(self, max_bytes: int) -> bytes | None:
        """See `Transport`."""
        if operator.index(max_bytes) < 1:
            raise ValueError("max_bytes must be at least 1")
        if self._receiving:
            raise trio.BusyResourceError("another task is reading from this stream")
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")
        data = self._left_over or self._stream.take_content()
        if data is None:
            if self._stream.gone:
                raise trio.BrokenResourceError("the stream was reset")
            return None
        self._left_over = data[max_bytes:]
        return data[:max_bytes]

    async def parked_receive(self, max_bytes: int) -> bytes:
        """See `Transport`."""
        while True:
            self._receiving = True
            try:
                await self._stream.wait_for_content()
            finally:
                self._receiving = False
            data = self.receive_now(max_bytes)
            if data is not None:
                return data

    # -- writing --------------------------------------------------------------------------------------------------

    def send_now(self, data: bytes | bytearray | memoryview) -> memoryview | None:
        """See `Transport`; all is taken, and what is left is only to wait."""
        if self._sending or self._closed or self._ended or self._stream.gone:
            self._refuse_to_send()
        self._taken += len(data)
        fits = self._stream.put_content(bytes(data), last=False)
        return None if fits else NOTHING

    def _refuse_to_send(self) -> NoReturn:
        if self._sending:
            raise trio.BusyResourceError("another task is writing to this stream")
        if self._closed or self._ended:
            raise trio.ClosedResourceError("the sending side of this stream was closed")
        raise trio.BrokenResourceError("the stream was reset")

    async def send_rest(self, rest: memoryview) -> None:  # noqa: ARG002 - what is left is in the machine
        """See `Transport`."""
        self._sending = True
        try:
            await self._stream.write_rest([])
        except ClientDisconnected as error:
            if not self._closed:
                raise trio.BrokenResourceError("the stream was reset") from error
        finally:
            self._sending = False
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")

    async def wait_send_all_might_not_block(self) -> None:
        """See `Transport`."""
        if self._sending or self._closed or self._ended or self._stream.gone:
            self._refuse_to_send()
        if self._stream.full:
            await self.send_rest(NOTHING)
        else:
            await trio.lowlevel.checkpoint()

    # -- ending ---------------------------------------------------------------------------------------------------

    async def send_eof(self) -> None:
        """See `Transport`: END_STREAM."""
        if self._sending:
            raise trio.BusyResourceError("another task is writing to this stream")
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")
        if not self._ended:
            self._ended = True
            if not self._stream.gone and not self._stream.put_content(b"", last=True):
                await self.send_rest(NOTHING)

    async def aclose(self) -> None:
        """Close both directions; who reads or writes gets `trio.ClosedResourceError`. A checkpoint, always."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Close now, in order, without waiting for anything: what was sent still leaves, for a while."""
        if not self._closed:
            self._closed = True
            self._observer = None
            self._stream.wind_up()

    def abort(self) -> None:
        """Reset the stream."""
        if not self._closed:
            self._closed = True
            self._observer = None
            self._stream.interrupt(CANCEL)
