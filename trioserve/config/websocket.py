"""The settings of WebSocket: what one session may cost, and how long it waits for its peer.

They hold for sessions on HTTP/1.1 and on HTTP/2 alike. The limits of a message are enforced by the machine of
`protocols/websocket`, which knows nothing of settings, and the times by `server/`.
"""

from __future__ import annotations

from typing import Annotated

from .fields import Settings, count, duration, size, switch

_MIB = 1024 * 1024


class WebSocketSettings(Settings, frozen=True, kw_only=True):
    """Whether WebSocket is spoken, what a session may cost, and how long it waits for its peer."""

    TABLE = "websocket"

    enabled: Annotated[
        bool, switch("Speak WebSocket; when off, an opening handshake is a request like any other.")
    ] = True
    max_message_size: Annotated[
        int,
        size(
            "Largest message that a client may send, after inflation; a larger one ends with 1009.", least=1
        ),
    ] = 16 * _MIB
    max_fragments: Annotated[
        int, count("Most frames of under 64 bytes in one message; more end the session with 1009.", least=1)
    ] = 4096
    queue: Annotated[
        int,
        count("Messages that may wait for the application before nothing more is read.", least=1),
    ] = 32
    ping_interval: Annotated[
        float, duration("Send a ping when nothing was received for so long; 0 = never.")
    ] = 20.0
    ping_timeout: Annotated[
        float, duration("End the session when a ping is not answered within this; 0 = wait without a limit.")
    ] = 20.0
    close_timeout: Annotated[float, duration("The closing handshake must end within this; 0 = no limit.")] = (
        10.0
    )
    deflate: Annotated[bool, switch("Take permessage-deflate from clients that offer it.")] = True
    idle_timeout: Annotated[
        float, duration("Close a session in which no message was sent or received for so long; 0 = never.")
    ] = 0.0
