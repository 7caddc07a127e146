"""Two small blocking clients, which know exactly what happened to each request. See load.py for what is a failure."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
from typing import TYPE_CHECKING

import hpack

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 30.0
RECEIVE_SIZE = 65536

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
ACK, END_STREAM, END_HEADERS = 1, 1, 4
REFUSED_STREAM = 7
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Lost(Exception):
    """A request got no complete answer, or a bad one."""


def open_socket(url: str, context: ssl.SSLContext | None = None) -> socket.socket:
    """Connect to http://, https:// (with a context) or [http+]unix:/path."""
    if "unix:" in url:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(PATIENCE)
        try:
            sock.connect(url.partition("unix:")[2])
        except OSError:
            sock.close()
            raise
        return sock
    host, _, port = url.partition("://")[2].rstrip("/").rpartition(":")
    sock = socket.create_connection((host, int(port)), timeout=PATIENCE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock if context is None else context.wrap_socket(sock, server_hostname="localhost")


class Http1Connection:
    """One connection, one request at a time.

    Attributes:
        pid: the worker that answered last, 0 before.
        reusable: whether there may be another request.
    """

    def __init__(self, sock: socket.socket):
        self.pid = 0
        self.reusable = True
        self._sock = sock
        self._received = b""

    def ask(self, path: str, *, close: bool = False, body: bytes = b"") -> bytes:
        """Send a request and return the body of the answer."""
        self.send(path, close=close, body=body)
        return self.read_answer()

    def send(self, path: str, *, close: bool = False, body: bytes = b"") -> None:
        """Send a request."""
        lines = [f"{'POST' if body else 'GET'} {path} HTTP/1.1", "Host: localhost"]
        lines += [f"Content-Length: {len(body)}"] * bool(body) + ["Connection: close"] * close
        self._sock.sendall("\r\n".join([*lines, "", ""]).encode() + body)

    def wait_for_begin(self) -> None:
        """Wait until an answer has begun, which `read_answer` will read."""
        self._received += self._receive("closed instead of an answer")

    def read_answer(self) -> bytes:
        received, self._received = self._received, b""
        while b"\r\n\r\n" not in received:
            received += self._receive(f"closed after {len(received)} bytes of a head")
        head, _, content = received.partition(b"\r\n\r\n")
        status_line, *fields = head.decode().split("\r\n")
        headers = {
            name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)
        }
        while len(content) < int(headers["content-length"]):
            content += self._receive("closed within a body")
        self.reusable = headers.get("connection", "").lower() != "close"
        if " 200" not in status_line:
            raise Lost(status_line)
        self.pid = int(headers.get("worker", "0"))
        return content

    def is_closed(self) -> bool:
        """Whether the server has closed, or will not read on, while nothing is asked."""
        if not isinstance(self._sock, ssl.SSLSocket) and not select.select([self._sock], [], [], 0)[0]:
            return False
        self._sock.settimeout(0)
        try:
            if self._sock.recv(1):
                raise Lost("an answer to nothing")
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            pass
        else:
            return True
        finally:
            self._sock.settimeout(PATIENCE)
        return True

    def close(self) -> None:
        self._sock.close()

    def _receive(self, problem: str) -> bytes:
        data = self._sock.recv(RECEIVE_SIZE)
        if not data:
            raise Lost(problem)
        return data


class Http2Connection:
    """One connection, as many streams as wanted. Frames are read and written here: nothing is hidden by a library.

    Attributes:
        running: the streams without a complete answer.
        last_stream: the last one that the server answers, once it has said so.
        answered: workers of streams that have been answered, to be taken.
        refused: streams that may be asked again elsewhere, to be taken.
        pid: the worker that answered last.
    """

    def __init__(self, sock: socket.socket, scheme: str = "http"):
        self.running: dict[int, str] = {}
        self.last_stream: int | None = None
        self.answered: list[int] = []
        self.refused: list[int] = []
        self.failed: list[str] = []
        self.pid = 0
        self._sock = sock
        self._scheme = scheme
        self._next_stream = 1
        self._broken = False
        self._received = b""
        self._credit = 0
        self._decoder = hpack.Decoder()
        self._encoder = hpack.Encoder()
        self._pids: dict[int, int] = {}
        sock.sendall(PREFACE + frame(SETTINGS, 0, 0, b""))

    @property
    def accepting(self) -> bool:
        """Whether a new stream may be opened: there was no GOAWAY."""
        return self.last_stream is None and not self._broken

    def ask(self, path: str) -> None:
        """Open a stream with a request."""
        fields = [(":method", "GET"), (":scheme", self._scheme), (":authority", "localhost"), (":path", path)]
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        self.running[stream] = path
        try:
            self._sock.sendall(frame(HEADERS, END_STREAM | END_HEADERS, stream, self._encoder.encode(fields)))
        except OSError:  # what the server has said before it closed is still to be read
            self._broken = True

    def read_more(self) -> bool:
        """Take what has come; False at the end of the connection."""
        data = self._sock.recv(RECEIVE_SIZE)
        self._received += data
        for kind, flags, stream, payload in self._frames():
            self._take(kind, flags, stream, payload)
        if self._credit > RECEIVE_SIZE // 4:
            self._send(frame(WINDOW_UPDATE, 0, 0, struct.pack("!I", self._credit)))
            self._credit = 0
        return bool(data)

    def close(self) -> None:
        self._send(frame(GOAWAY, 0, 0, bytes(8)))
        self._sock.close()

    def _frames(self) -> Iterator[tuple[int, int, int, bytes]]:
        while len(self._received) >= 9:
            length = int.from_bytes(self._received[:3], "big")
            if len(self._received) < 9 + length:
                return
            kind, flags = self._received[3], self._received[4]
            stream = int.from_bytes(self._received[5:9], "big") & 0x7FFFFFFF
            payload, self._received = self._received[9 : 9 + length], self._received[9 + length :]
            yield kind, flags, stream, payload

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == SETTINGS and not flags & ACK:
            self._send(frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            self._send(frame(PING, ACK, 0, payload))
        elif kind == GOAWAY:
            last, code = struct.unpack_from("!II", payload)
            self.last_stream = last
            if code:
                self.failed.append(f"GOAWAY with error {code}")
            self._refuse([stream for stream in self.running if stream > last])
        elif kind == RST_STREAM:
            (code,) = struct.unpack("!I", payload)
            if code == REFUSED_STREAM:
                self._refuse([stream])
            elif self.running.pop(stream, None) is not None:
                self.failed.append(f"RST_STREAM with error {code}")
        elif kind == HEADERS:
            fields = dict(self._decoder.decode(payload))
            self._pids[stream] = int(fields.get("worker", "0"))
            if fields[":status"] != "200" and self.running.pop(stream, None) is not None:
                self.failed.append(f"status {fields[':status']}")
        elif kind == DATA:
            self._credit += len(payload)
        if kind in (HEADERS, DATA) and flags & END_STREAM and self.running.pop(stream, None) is not None:
            self.pid = self._pids.pop(stream)
            self.answered.append(self.pid)

    def _refuse(self, streams: list[int]) -> None:
        self.refused += [stream for stream in streams if self.running.pop(stream, None) is not None]

    def _send(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # whether the server still reads does not matter to it
            self._sock.sendall(data)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload
