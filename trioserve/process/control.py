"""What supervisor and worker say to each other, and the socket they say it over.

A worker is started with one end of a stream socket pair. The first thing that comes over it is the worker's
`Assignment`; from then on both sides send short messages, one JSON object a line. The end of the stream is a
message too: for a worker it means that its supervisor is gone and that it has to drain, for the supervisor that the
worker is gone or about to be. No message is ever waited for by its sender, so neither side can stop the other: what
a side that has stopped reading cannot take is lost, and the other one will find out by its silence.
"""

from __future__ import annotations

import enum
import pickle
import socket
import struct
from typing import TYPE_CHECKING, TypeAlias

import msgspec

if TYPE_CHECKING:
    from trioserve.config import LoadedConfig

_LENGTH = struct.Struct("!I")
_RECEIVE_SIZE = 65536
_LONGEST_MESSAGE = 1 << 20


class InheritedSocket(msgspec.Struct, frozen=True):
    """A listening socket that the supervisor has opened.

    Args:
        fd: its number, the same in both processes.
        bind: the bind that it was opened for, as `str(bind)` gives it.
        insecure: it belongs to `insecure_bind`, so that no TLS is spoken.
    """

    fd: int
    bind: str
    insecure: bool


class Assignment(msgspec.Struct, frozen=True):
    """What a worker is to do.

    Args:
        loaded: the configuration.
        sockets: where it accepts connections.
        slot: its place among the workers, from 1.
        stacks: the writing end of a pipe for the stacks of all threads, which the supervisor asks for by a signal
            when the event loop does not run; -1 = none.
    """

    loaded: LoadedConfig
    sockets: tuple[InheritedSocket, ...]
    slot: int
    stacks: int = -1


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The application has started and connections are accepted.

    Args:
        urls: where, for people.
    """

    urls: list[str]


class Beat(msgspec.Struct, frozen=True, tag="beat"):
    """The event loop runs. Sent once a second, or more often for a short `heartbeat`, from `Ready` on until its end.

    Args:
        requests: how many have begun so far.
        rss: resident memory in bytes; 0 where it cannot be known.
    """

    requests: int
    rss: int


class Retire(msgspec.Struct, frozen=True, tag="retire"):
    """The worker asks for a successor.

    Args:
        reason: one of its limits, or why it accepts nothing any more, in words.
        accepts: it goes on until it is told to drain; otherwise it drains by itself.
    """

    reason: str
    accepts: bool = False


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The worker ends before it was ready, for a reason that it has logged; its exit status says which kind.

    Args:
        reason: one line.
    """

    reason: str


class Order(enum.Enum):
    """What a supervisor asks of a worker."""

    DRAIN = "drain"
    STOP_NOW = "stop now"
    REOPEN_LOGS = "reopen logs"
    DUMP_TASKS = "dump tasks"


class Command(msgspec.Struct, frozen=True, tag="command"):
    """A supervisor's order."""

    order: Order


Message: TypeAlias = Ready | Beat | Retire | Failed | Command

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


def send_assignment(sock: socket.socket, assignment: Assignment) -> None:
    """Write an assignment; blocks until the worker has taken it, or the socket's timeout has passed."""
    data = pickle.dumps(assignment)
    sock.sendall(_LENGTH.pack(len(data)) + data)


def receive_assignment(sock: socket.socket) -> Assignment:
    """Read the assignment, before Trio runs.

    Raises:
        EOFError: the supervisor has gone.
    """
    (length,) = _LENGTH.unpack(_receive_exactly(sock, _LENGTH.size))
    assignment = pickle.loads(_receive_exactly(sock, length))  # noqa: S301 - from our own supervisor
    assert isinstance(assignment, Assignment)
    return assignment


def _receive_exactly(sock: socket.socket, count: int) -> bytes:
    received = b""
    while len(received) < count:
        data = sock.recv(count - len(received))
        if not data:
            raise EOFError("the supervisor has gone")
        received += data
    return received


def send_message(sock: socket.socket, message: Message) -> None:
    """Write one message where no Trio runs; one that cannot be delivered is lost."""
    try:
        sock.sendall(_encoder.encode(message) + b"\n", socket.MSG_DONTWAIT)
    except OSError:
        pass


class ControlChannel:
    """One side of the conversation, in a Trio program.

    Args:
        sock: a connected stream socket; the channel owns it.
    """

    def __init__(self, sock: socket.socket) -> None:
        import trio  # here, because a supervisor writes its first assignments before it has imported Trio

        sock.setblocking(False)
        self._plain = sock
        self._socket = trio.socket.from_stdlib_socket(sock)
        self._received = b""

    def send(self, message: Message) -> bool:
        """Send a message without waiting; whether the other side's buffer could take it."""
        try:
            # Lines are far shorter than what a socket pair takes at once, so a part of one is never written.
            return self._plain.send(_encoder.encode(message) + b"\n") > 0
        except OSError:  # full, gone or closed
            return False

    async def receive(self) -> Message | None:
        """Return the next message, or None at the end of the stream. Cancelling it loses nothing.

        What is no message counts as the end, because nothing that comes after it can be trusted.
        """
        while b"\n" not in self._received:
            try:
                data = await self._socket.recv(_RECEIVE_SIZE)
            except ConnectionResetError:
                data = b""
            if not data or len(self._received) > _LONGEST_MESSAGE:
                return None
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        try:
            return _decoder.decode(line)
        except msgspec.DecodeError:
            self._received = b""
            return None

    def close(self) -> None:
        """Close the socket; the other side sees the end of the stream."""
        self._socket.close()
