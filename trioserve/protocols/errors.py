"""The two ways in which a protocol can be broken.

Machines raise `RemoteProtocolError` for the peer's mistakes and `LocalProtocolError` for ours (in practice:
the application's). A machine that has raised stays in its error state, so a caller who ignores the exception
cannot go on by accident.
"""

from __future__ import annotations


class ProtocolError(Exception):
    """Somebody broke a protocol."""


class LocalProtocolError(ProtocolError):
    """We were about to send something that the protocol forbids."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something that the protocol, or our acceptance policy, forbids.

    Args:
        reason: one sentence for the log and the body of the answer; it never quotes the peer's bytes.
        status_hint: the HTTP status that answers the mistake best (RFC 9110 section 15.5 and 15.6).
    """

    def __init__(self, reason: str, status_hint: int = 400) -> None:
        super().__init__(reason)
        self.status_hint = status_hint
