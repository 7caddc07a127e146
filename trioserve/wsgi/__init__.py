"""WSGI applications (PEP 3333), on threads.

`WsgiApplication` turns one into an ordinary ASGI application, which is all that the server knows of it. What a request
needs is in `environ.py` and `body.py`, what runs the application in its thread in `call.py`, what passes between that
thread and the request's task in `bridge.py`, and the threads themselves in `threads.py`.
"""

from __future__ import annotations

from trioserve.wsgi.application import WsgiApplication

__all__ = ["WsgiApplication"]
