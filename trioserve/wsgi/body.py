"""`wsgi.input`: a request's body as a blocking file (PEP 3333, "Input and Error Streams").

A body that is here in full is an `io.BytesIO`, but for telling when its request was ended. Of a larger one,
`BridgedBody` asks the request's task for a portion at a time, and `io.BufferedReader` makes `read`, `readline` and
iteration of it. Either way its end is the end of the body; a body that the client cut short raises, again and again,
and never looks complete.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Buffer  # type: ignore[attr-defined, unused-ignore] # new in Python 3.12

PORTION = 256 * 1024
"""Bytes of a body that are received for a thread at a time, at most."""
BUFFER_SIZE = 65536


class BodySource(Protocol):
    """Where a thread gets the rest of a body."""

    @property
    def interruption(self) -> Exception | None:
        """Why there is nothing more to be done for the request, such as `ClientDisconnected`."""
        ...

    def read_body(self, size: int, *, whole: bool) -> bytes:
        """Return up to `size` bytes, b"" at the end; as many as there are until then if `whole`, else the next ones.

        Raises:
            ClientDisconnected: the body was cut short, or the request is over.
        """
        ...


class ReceivedBody(io.BytesIO):
    """A body that is here in full; reading it raises once its request was ended, as for any other body.

    Args:
        source: tells of that.
        content: the body.
    """

    __slots__ = ("_source",)

    def __init__(self, source: BodySource, content: bytes) -> None:
        super().__init__(content)
        self._source = source

    def _check(self) -> None:
        reason = self._source.interruption
        if reason is not None:
            raise reason

    def read(self, size: int | None = -1, /) -> bytes:
        """See `io.BytesIO`."""
        self._check()
        return super().read(size)

    def read1(self, size: int | None = -1, /) -> bytes:
        """See `io.BytesIO`."""
        self._check()
        return super().read1(size)

    def readinto(self, buffer: Buffer, /) -> int:
        """See `io.BytesIO`."""
        self._check()
        return super().readinto(buffer)

    def readline(self, size: int | None = -1, /) -> bytes:
        """See `io.BytesIO`."""
        self._check()
        return super().readline(size)

    def readlines(self, size: int | None = None, /) -> list[bytes]:
        """See `io.BytesIO`."""
        self._check()
        return super().readlines(size)

    def __next__(self) -> bytes:
        """See `io.BytesIO`."""
        self._check()
        return super().__next__()


class BridgedBody(io.RawIOBase):
    """The rest of a body, behind a first part that is here already.

    Args:
        source: where the rest comes from.
        first: the first part.
    """

    def __init__(self, source: BodySource, first: bytes) -> None:
        super().__init__()
        self._source = source
        self._held = first  # received, and not yet asked for

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Buffer) -> int:
        """Fill a buffer larger than `BUFFER_SIZE` as far as possible; for others, take what comes next."""
        view = memoryview(buffer).cast("B")
        size = len(view)
        data = self._held
        if not data:
            data = self._source.read_body(min(size, PORTION), whole=size > BUFFER_SIZE)
        count = min(len(data), size)
        view[:count] = data[:count]
        self._held = data[count:]
        return count

    def readall(self) -> bytes:
        """Return all that is left."""
        parts = [self._held]
        self._held = b""
        while data := self._source.read_body(PORTION, whole=True):
            parts.append(data)
        return b"".join(parts)


def open_input(source: BodySource, first: bytes, complete: bool) -> BinaryIO:
    """Return `wsgi.input` for a body that begins with `first`, and ends with it if `complete`."""
    if complete:
        return ReceivedBody(source, first)
    return cast(BinaryIO, io.BufferedReader(BridgedBody(source, first), BUFFER_SIZE))
