"""WebSocket without I/O (RFC 6455, RFC 7692, RFC 8441): the handshake, and frames to whole messages."""
