"""The load of the WebSocket cases: conversations in which each message has to come back before the next is sent.

It runs in this process, which is held to the processor of the load and does little: the masked frame is made once,
sent again and again, and what comes back is compared with the one frame it has to be. A run counts only if every
message was answered, with the same content and in one frame, and every conversation ended with a closing handshake:
a server that drops or cuts messages is cheap.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import select
import socket
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from benchmarks.load import LoadError

_STALL_TIMEOUT = 10.0
_TIMEOUT = 300.0  # the slowest server on a busy machine
_LARGEST_READ = 1 << 18
_LARGEST_HEAD = 1 << 14

# RFC 6455: section 4.2.2 (the key's companion), 5.2 (the first bytes of a frame), 5.5.1 and 7.4.1 (closing normally).
_KEY_COMPANION = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TEXT, _CLOSE = 0x81, 0x88
_MASKED = 0x80
_NORMAL_CLOSURE = (1000).to_bytes(2, "big")
_MASK = b"\x37\xfa\x21\x3d"

_HANDSHAKE = (
    "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
)


@dataclass(frozen=True)
class WebSocketLoad:
    """Conversations with an echo, without compression.

    Args:
        connections: how many conversations, all opened at the start and kept.
        size: bytes of each message, a text.
        messages: how many there are for each second that a round is asked to take, over all conversations.
    """

    connections: int
    size: int
    messages: int

    def require(self) -> None:
        """Nothing but this process is needed."""

    def run(self, url: str, _size: int, seconds: int, _processor: int) -> int:
        """Have all messages sent back and return how many there were.

        Args:
            url: where the echo is.
            seconds: how long a round is asked to take; the number of messages follows from it.

        Raises:
            LoadError: a message was not answered, or with something else.
        """
        content = (b"0123456789abcdef" * (self.size // 16 + 1))[: self.size]
        sent, expected = build_frame(_TEXT, content, _MASK), build_frame(_TEXT, content)
        turns = max(1, self.messages * seconds // self.connections)
        port = urlsplit(url).port
        assert port is not None
        with contextlib.ExitStack() as stack:
            conversations = [
                stack.enter_context(contextlib.closing(_open_conversation(port)))
                for _ in range(self.connections)
            ]
            _converse([_Conversation(opened, turns) for opened in conversations], sent, expected)
            for opened in conversations:
                _close_conversation(opened)
        return turns * self.connections


@dataclass
class _Conversation:
    socket: socket.socket
    left: int  # messages that have not come back
    received: bytearray = field(default_factory=bytearray)


def build_frame(first: int, content: bytes, mask: bytes = b"") -> bytes:
    """A frame with its whole content (RFC 6455 section 5.2); masked, as clients have to, if there is a mask."""
    size, bit = len(content), _MASKED if mask else 0
    if size < 126:
        head = bytes((first, bit | size))
    elif size < 1 << 16:
        head = bytes((first, bit | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, bit | 127)) + size.to_bytes(8, "big")
    if mask:
        whole = (mask * (size // 4 + 1))[:size]
        content = (int.from_bytes(content, "big") ^ int.from_bytes(whole, "big")).to_bytes(size, "big")
    return head + mask + content


def _open_conversation(port: int) -> socket.socket:
    """A connection after the opening handshake."""
    key = base64.b64encode(os.urandom(16))
    accepted = base64.b64encode(hashlib.sha1(key + _KEY_COMPANION).digest())
    try:
        opened = socket.create_connection(("127.0.0.1", port), timeout=_STALL_TIMEOUT)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.sendall(_HANDSHAKE.format(key=key.decode()).encode())
        answer = b""
        while b"\r\n\r\n" not in answer and len(answer) < _LARGEST_HEAD:
            part = opened.recv(4096)
            if not part:
                break
            answer += part
    except OSError as error:
        raise LoadError(f"the opening handshake failed: {error!r}") from error
    if not answer.startswith(b"HTTP/1.1 101 ") or accepted not in answer or not answer.endswith(b"\r\n\r\n"):
        opened.close()
        raise LoadError(f"the opening handshake was not accepted: {answer[:300]!r}")
    return opened


def _converse(conversations: list[_Conversation], sent: bytes, expected: bytes) -> None:
    """Send a message in each conversation whenever the one before it has come back, until none is left."""
    deadline = time.monotonic() + _TIMEOUT
    running = {conversation.socket.fileno(): conversation for conversation in conversations}
    with select.epoll() as poll:
        for number, conversation in running.items():
            conversation.socket.setblocking(False)
            poll.register(number, select.EPOLLIN)
            _send(conversation, sent)
        while running:
            ready = poll.poll(_STALL_TIMEOUT)
            if not ready:
                raise LoadError(f"{len(running)} messages were not answered within {_STALL_TIMEOUT:.0f} s")
            if time.monotonic() > deadline:
                raise LoadError(f"the messages were not answered within {_TIMEOUT:.0f} s")
            for number, _ in ready:
                conversation = running[number]
                if not _has_come_back(conversation, expected):
                    continue
                conversation.left -= 1
                if conversation.left:
                    _send(conversation, sent)
                else:
                    poll.unregister(number)
                    del running[number]


def _send(conversation: _Conversation, frame: bytes) -> None:
    try:
        taken = conversation.socket.send(frame)
    except OSError as error:
        raise LoadError(f"a conversation was cut: {error!r}") from error
    if taken < len(frame):
        raise LoadError(f"an empty socket took {taken} bytes of a message with {len(frame)}")


def _has_come_back(conversation: _Conversation, expected: bytes) -> bool:
    """Read what is there; whether the echo is complete. Raises LoadError if it is not the echo."""
    try:
        data = conversation.socket.recv(_LARGEST_READ)
    except OSError as error:
        raise LoadError(f"a conversation was cut: {error!r}") from error
    if data == expected and not conversation.received:
        return True
    received = conversation.received
    received += data
    if not data or not expected.startswith(received):
        raise LoadError(f"{len(received)} bytes came back that are no echo: {bytes(received[:100])!r}")
    if len(received) < len(expected):
        return False
    received.clear()
    return True


def _close_conversation(opened: socket.socket) -> None:
    """Make the closing handshake, and see the server end the connection."""
    answer = b""
    try:
        opened.settimeout(_STALL_TIMEOUT)
        opened.sendall(build_frame(_CLOSE, _NORMAL_CLOSURE, _MASK))
        while part := opened.recv(4096):
            answer += part
    except OSError as error:
        raise LoadError(f"the closing handshake failed: {error!r}") from error
    if answer != build_frame(_CLOSE, _NORMAL_CLOSURE):
        raise LoadError(f"the closing handshake was answered with {answer[:100]!r}")
