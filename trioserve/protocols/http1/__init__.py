"""HTTP/1.1 without I/O: bytes <-> events, for one server-side connection.

`build_machine` chooses the parser library whose opinion is heard beside our own; everything else is the same.
"""

from __future__ import annotations

from typing import Literal

from trioserve.protocols.http1.events import (
    CLOSED,
    NEED_DATA,
    PAUSED,
    BodyChunk,
    Event,
    Headers,
    RequestHead,
    Signal,
)
from trioserve.protocols.http1.machine import Http1Machine
from trioserve.protocols.http1.policy import Http1Limits
from trioserve.protocols.http1.response_fields import NO_LINES, STATUS_LINES, DefaultLines, FieldLines

__all__ = [
    "CLOSED",
    "NEED_DATA",
    "NO_LINES",
    "PAUSED",
    "STATUS_LINES",
    "BodyChunk",
    "DefaultLines",
    "Event",
    "FieldLines",
    "Headers",
    "Http1Limits",
    "Http1Machine",
    "RequestHead",
    "Signal",
    "build_machine",
    "machine_class",
]

Parser = Literal["auto", "h11", "httptools"]


def machine_class(parser: Parser) -> type[Http1Machine]:
    """Resolve the setting `[http1] parser`; "auto" is httptools when it is installed, else h11.

    Raises:
        ImportError: httptools was asked for by name and is not installed.
    """
    # Imported here, since each library takes its time and only one is used.
    if parser != "h11":
        try:
            from trioserve.protocols.http1.httptools_machine import HttptoolsMachine
        except ImportError as error:
            if parser == "httptools":
                message = "the httptools parser needs the extra `fast`: pip install trioserve[fast]"
                raise ImportError(message) from error
        else:
            return HttptoolsMachine
    from trioserve.protocols.http1.h11_machine import H11Machine

    return H11Machine


def build_machine(parser: Parser, limits: Http1Limits) -> Http1Machine:
    """Build a machine for a new connection; see `machine_class`."""
    return machine_class(parser)(limits)
