"""The [wsgi] group: the threads that run applications written for WSGI (PEP 3333)."""

from __future__ import annotations

from typing import Annotated

from .fields import Settings, count


class WsgiSettings(Settings, frozen=True, kw_only=True):
    """How WSGI applications are run."""

    TABLE = "wsgi"

    threads: Annotated[
        int, count("Requests of a WSGI application that run at once in each worker.", least=1, most=4096)
    ] = 32
