"""Responses of three pieces, of which each but the first waits until the client asks for it by another request."""

from __future__ import annotations

import threading
from collections import defaultdict

PATIENCE = 10

_asked = defaultdict(lambda: threading.Semaphore(0))


def ask(key):
    """Allow one piece more of the response with this key."""
    _asked[key].release()


def pieces(key):
    for number in range(3):
        if number and not _asked[key].acquire(timeout=PATIENCE):
            raise TimeoutError("nobody asked for the next piece")
        yield b"piece %d\n" % number
