"""What an HTTP/2 stream and a WebSocket session lend to `RequestControl` in the same way: deadline, opt-out, grace."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import trio

    from trioserve.asgi.background import Background
    from trioserve.server.context import ServerContext, Timeouts


class ControlledExchange:
    """The part of a `ControlledConnection` that serves one exchange only.

    The class that inherits it sets the attributes, and says whether the exchange goes on and its client has left.
    """

    __slots__ = ("_cancel_on_disconnect", "_context", "_request_deadline", "_timeouts")

    _cancel_on_disconnect: bool
    _context: ServerContext
    _request_deadline: float
    _timeouts: Timeouts

    @property
    def _goes_on(self) -> bool:
        """Whether the exchange can still be steered."""
        raise NotImplementedError

    @property
    def _client_left(self) -> bool:
        """Whether the client has ended its sending side, or cannot be reached any more."""
        raise NotImplementedError

    def _settle_exchange_deadline(self) -> None:
        """Put the deadline where all that bears on it asks for."""
        raise NotImplementedError

    @property
    def background(self) -> Background:
        """See `ControlledConnection`."""
        return self._context.background

    @property
    def draining(self) -> trio.Event:
        """See `ControlledConnection`."""
        return self._context.draining

    @property
    def cleanup_grace(self) -> float:
        """See `ControlledConnection`."""
        return self._timeouts.cleanup_grace

    @property
    def arrival(self) -> tuple[int, int]:
        """See `ControlledConnection`."""
        return 0, 0

    def deadline_of(self, exchange: object) -> float:  # noqa: ARG002 - here there is but one
        """See `ControlledConnection`."""
        return self._request_deadline if self._goes_on else inf

    def set_deadline(self, exchange: object, at: float) -> None:  # noqa: ARG002
        """See `ControlledConnection`."""
        if self._goes_on:
            self._request_deadline = at
            self._settle_exchange_deadline()

    def has_lost(self, exchange: object) -> bool:  # noqa: ARG002
        """See `ControlledConnection`."""
        return self._client_left or not self._goes_on

    def cancels(self, exchange: object) -> bool:  # noqa: ARG002
        """See `ControlledConnection`."""
        return self._goes_on and self._cancel_on_disconnect

    def set_cancels(self, exchange: object, wanted: bool) -> None:  # noqa: ARG002
        """See `ControlledConnection`."""
        self._cancel_on_disconnect = wanted
        if self._goes_on:
            self._settle_exchange_deadline()
