"""An HTTP/1.1 machine whose second opinion is llhttp, through the optional package httptools.

Only heads are shown to the library. Its parser is used again as long as it is between messages; a message
with a body leaves it waiting for one, so the next head gets a fresh parser, which is cheaper than feeding the
body.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import httptools

from trioserve.protocols.http1.machine import Http1Machine
from trioserve.protocols.http1.request_reader import Opinion

if TYPE_CHECKING:
    from trioserve.protocols.http1.policy import Http1Limits


class _Witness(Opinion):
    """Writes down what the parser reports; the names of the methods are the library's."""

    __slots__ = ()

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_message_complete(self) -> None:
        self.complete = True


class HttptoolsMachine(Http1Machine):
    """See `Http1Machine`."""

    __slots__ = ("_parser", "_witness")

    def __init__(self, limits: Http1Limits) -> None:
        super().__init__(limits)
        self._witness = _Witness(b"", [], False)
        self._parser: httptools.HttpRequestParser | None = None

    def _read_head(self, head: bytes) -> Opinion | None:
        witness = self._witness
        witness.target = b""
        witness.headers = []
        witness.complete = False
        parser = self._parser
        fresh = parser is None
        if parser is None:
            parser = httptools.HttpRequestParser(witness)
        self._parser = None
        try:
            parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            # llhttp stops at the end of a head that asks for another protocol, and does not say whether a
            # body follows. For us it is an ordinary request until somebody answers 101 (RFC 9110 section
            # 7.8).
            witness.complete = None
            return witness
        except httptools.HttpParserError:
            # llhttp takes no request after one with `Proxy-Connection: close`, which means nothing to us.
            return None if fresh else self._read_head(head)
        if witness.complete:
            self._parser = parser
        return witness
