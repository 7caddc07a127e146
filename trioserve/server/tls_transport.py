"""TLS on a non-blocking socket, between two buffers in memory (RFC 8446, RFC 5246).

A `SocketTransport` whose bytes go through an `ssl.SSLObject`; see `TlsTransport` for why not `ssl.SSLSocket`. Not here:
contexts and certificates (`tls.py`).
"""

from __future__ import annotations

import contextlib
import ssl
from typing import TYPE_CHECKING

import trio

from trioserve.server.transport import RECEIVE_SIZE, SocketTransport, Transport

if TYPE_CHECKING:
    import socket

    from trioserve.server.poller import Poller

ENCRYPT_AHEAD = 65536
"""Bytes that are encrypted before the socket has taken what was encrypted before them."""
NOTHING = memoryview(b"")


class TlsTransport(SocketTransport):
    """TLS over a non-blocking socket, in memory: `ssl.MemoryBIO` on both sides of the TLS state.

    One `recv` takes all records that have come, where OpenSSL on a socket reads header and body of each with a system
    call of its own, and no exception is needed to learn that nothing is left.
    """

    __slots__ = ("_encrypting", "_incoming", "_outgoing", "_unsent", "ssl_object")

    def __init__(self, sock: socket.socket, poller: Poller, context: ssl.SSLContext) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.ssl_object: ssl.SSLObject = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._encrypting = False  # bytes go through TLS: after the handshake, and until close_notify
        self._unsent = NOTHING  # encrypted bytes that the socket has not taken yet; one record run at most
        super().__init__(sock, poller)

    async def do_handshake(self) -> None:
        """Perform the TLS handshake.

        Raises:
            ssl.SSLError: the peer does not speak TLS, or not as we have to; it has been told.
            trio.BrokenResourceError: the connection was reset or ended.
        """
        while True:
            try:
                self.ssl_object.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._flush()
                data = await self.receive_some(RECEIVE_SIZE)
                if not data:
                    raise trio.BrokenResourceError("the peer left during the handshake") from None
                self._incoming.write(data)
            except ssl.SSLError:
                with contextlib.suppress(trio.BrokenResourceError):
                    await self._flush()  # the alert that says why
                raise
        await self._flush()
        self._encrypting = True
        self.readable = True  # the first request may have come with the end of the handshake

    # -- reading --------------------------------------------------------------------------------------------------

    def _read_now(self, max_bytes: int) -> bytes:
        if not self._encrypting:
            return super()._read_now(max_bytes)
        incoming, tls = self._incoming, self.ssl_object
        while True:
            if incoming.pending or tls.pending():
                try:
                    data = tls.read(max_bytes)
                except ssl.SSLWantReadError:
                    pass  # a record that is not complete, or one without application data
                except ssl.SSLEOFError:
                    data = b""
                else:
                    return self._end_read(data)
            raw = super()._read_now(RECEIVE_SIZE)
            if not raw:
                return self._end_read(b"")
            incoming.write(raw)

    def _end_read(self, data: bytes) -> bytes:
        if not data:
            self.half_closed = self.readable = True
        elif self._incoming.pending or self.ssl_object.pending():
            self.readable = True
        if self._outgoing.pending and not self._sending and not self._unsent:
            self._push()  # an answer of TLS itself, such as to a key update
        return data

    # -- writing --------------------------------------------------------------------------------------------------

    def _advance(self, data: bytes | bytearray | memoryview) -> memoryview | None:
        """As for plain sockets; what is left may be empty: encrypted, and not taken by the socket yet."""
        if len(data) <= ENCRYPT_AHEAD and not self._unsent:
            if data:
                self._encrypt(data)
            return None if self._push() else memoryview(b"")
        left = memoryview(data).cast("B")
        while self._push():
            if not left:
                return None
            self._encrypt(left[:ENCRYPT_AHEAD])
            left = left[ENCRYPT_AHEAD:]
        return left

    def _encrypt(self, data: bytes | bytearray | memoryview) -> None:
        if not self._encrypting:
            raise trio.BrokenResourceError("TLS is not established")
        try:
            self.ssl_object.write(data)
        except OSError as error:
            raise self._broken_by(error) from error

    def _push(self) -> bool:
        """Send encrypted bytes; whether the socket has taken all of them."""
        while self._unsent or self._outgoing.pending:
            data = self._unsent or memoryview(self._outgoing.read())
            left = super()._advance(data)
            if left is not None:
                self._unsent = left
                return False
            self._unsent = NOTHING
        return True

    async def _flush(self) -> None:
        if not self._push():
            await self.send_rest(NOTHING)

    async def send_file(self, file: int, offset: int | None, count: int) -> None:
        """See `Transport.send_file`; the bytes have to come by here to be encrypted."""
        await Transport.send_file(self, file, offset, count)

    def send_plain(self, data: bytes) -> None:
        """Send bytes below TLS, for a peer that does not speak it; whatever fails is ignored."""
        with contextlib.suppress(OSError):
            self._sock.send(data)

    # -- ending ---------------------------------------------------------------------------------------------------

    async def send_eof(self) -> None:
        """Send TLS's close_notify, then a FIN. What the peer still sends is no longer decrypted."""
        if not self._eof_sent and not self._closed and not self._sending:
            self._say_goodbye()
            await self._flush()
        await super().send_eof()

    def _say_goodbye(self) -> None:
        """Put a close_notify behind what was sent; the peer's own is not waited for."""
        if self._encrypting and not self.broken:
            self._encrypting = False
            with contextlib.suppress(ssl.SSLError):
                self.ssl_object.unwrap()

    def close(self) -> None:
        """Close in order: with a close_notify if the socket takes it, so that this is no truncation."""
        if not self._closed and not self._eof_sent and not self._sending:
            self._say_goodbye()
            with contextlib.suppress(trio.BrokenResourceError):
                self._push()
        super().close()

    def abort(self) -> None:
        """Close with a reset and without close_notify, so that the peer sees a truncation."""
        self._encrypting = False
        super().abort()
