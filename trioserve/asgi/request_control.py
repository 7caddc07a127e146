"""What an application can see and steer of its own request: `scope["extensions"]["trioserve"]`.

Never required: an application that does not look here behaves as on any other server. The object belongs to one
request and is of no effect once that request's response is complete.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import trio

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from trioserve.asgi.background import Background


class Draining(Protocol):
    """The part of `trio.Event` that an application may use."""

    def is_set(self) -> bool:
        """Whether the server is finishing."""
        ...

    async def wait(self) -> None:
        """Return when the server begins to finish; a checkpoint."""
        ...


class ControlledConnection(Protocol):
    """What a server's connection lends to `RequestControl`; setting has no effect when the exchange is over."""

    @property
    def cancel_scope(self) -> trio.CancelScope:
        """The scope that the application runs in."""
        ...

    @property
    def background(self) -> Background:
        """Where work goes that outlives the request."""
        ...

    @property
    def draining(self) -> Draining:
        """Set when the server begins to finish."""
        ...

    @property
    def cleanup_grace(self) -> float:
        """Seconds that shielded cleanup may take."""
        ...

    @property
    def arrival(self) -> tuple[int, int]:
        """Sorts requests that came at about the same time."""
        ...

    def deadline_of(self, exchange: object) -> float:
        """When the exchange is cut; `math.inf` for never, or when it is over."""
        ...

    def set_deadline(self, exchange: object, at: float) -> None:
        """Cut the exchange at this time."""
        ...

    def has_lost(self, exchange: object) -> bool:
        """Whether the exchange's client has left, or the exchange is over; read from any thread."""
        ...

    def cancels(self, exchange: object) -> bool:
        """Whether the exchange is cancelled when its client leaves."""
        ...

    def set_cancels(self, exchange: object, wanted: bool) -> None:
        """Say whether the exchange is cancelled when its client leaves."""
        ...


class RequestControl:
    """The request's cancel scope, deadline, background nursery and draining event.

    Attributes:
        cancel_scope: the `trio.CancelScope` that the application runs in. On HTTP/1.1 it is the connection's:
            cancelling it ends the connection too, with 503 when no head was sent.
        nursery: `start_soon` and `start` for work that outlives the response yet not the worker; when the server
            finishes, it is given the same grace as requests and is then cancelled. A task that raises is logged.
        draining: an event that is set when the server begins to finish; long-lived responses end themselves then.
    """

    __slots__ = ("_connection", "_exchange", "cancel_scope")

    def __init__(self, connection: ControlledConnection, exchange: object) -> None:
        self._connection = connection
        self._exchange = exchange
        self.cancel_scope = connection.cancel_scope

    @property
    def nursery(self) -> Background:
        """Where work goes that must outlive the response: `start_soon` and `start`, as on a nursery."""
        return self._connection.background

    @property
    def draining(self) -> Draining:
        """Set when the server begins to finish."""
        return self._connection.draining

    @property
    def deadline(self) -> float:
        """When this request is answered 503 or cut, on Trio's clock (`trio.current_time()`); `math.inf` for never.

        May be set, to give one request more or less time than `[timeouts] request`.
        """
        return self._connection.deadline_of(self._exchange)

    @deadline.setter
    def deadline(self, at: float) -> None:
        self._connection.set_deadline(self._exchange, at)

    @property
    def arrival(self) -> tuple[int, int]:
        """The numbers of the connection, counted as they are accepted, and on HTTP/2 of the stream.

        Trio runs tasks that become ready at the same time in any order; these sort requests as they came.
        Both are 0 for a WebSocket session.
        """
        return self._connection.arrival

    @property
    def disconnected(self) -> bool:
        """Whether the client is known to have left, or the request is over. May be read from any thread.

        As for `receive()`, a client that has ended its sending side has left, though it may still be reading.
        """
        return self._connection.has_lost(self._exchange)

    @property
    def cancel_on_disconnect(self) -> bool:
        """Whether the application is cancelled `[timeouts] disconnect_grace` seconds after its client left.

        Set it to False around work that must not be interrupted; `receive()` and `send()` still tell.
        """
        return self._connection.cancels(self._exchange)

    @cancel_on_disconnect.setter
    def cancel_on_disconnect(self, wanted: bool) -> None:
        self._connection.set_cancels(self._exchange, wanted)

    def cleanup(self) -> AbstractContextManager[trio.CancelScope]:
        """A shielded scope for cleanup after a cancellation, bounded by `[timeouts] cleanup_grace` seconds.

        Use it in a `finally`: `with control.cleanup(): await connection.close()`.
        """
        return trio.move_on_after(self.cleanup_grace, shield=True)

    @property
    def cleanup_grace(self) -> float:
        """Seconds that cleanup after a cancellation may take, `[timeouts] cleanup_grace`; then the client is let go."""
        return self._connection.cleanup_grace
