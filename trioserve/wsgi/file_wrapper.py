"""`wsgi.file_wrapper`: a file as a response body (PEP 3333, "Optional Platform-Specific File Handling")."""

from __future__ import annotations

import io
import os
import stat
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK_SIZE = 65536

_BUFFERED = (io.BufferedReader, io.BufferedRandom)


class FileWrapper:
    """An iterable over the blocks of a file; the server may send an untouched one without reading it.

    Attributes:
        limit: how many bytes the iteration gives at most; None = all. The server sets it to the response's length.

    Args:
        file: a file-like object, with `read`.
        block_size: how many bytes to read at a time, when they have to be read.
    """

    __slots__ = ("block_size", "close", "file", "limit")

    def __init__(self, file: Any, block_size: int = BLOCK_SIZE) -> None:
        self.file = file
        self.block_size = block_size
        self.limit: int | None = None
        self.close = getattr(file, "close", _do_nothing)

    def __iter__(self) -> Iterator[bytes]:
        """Read to the end or the limit, block by block."""
        left = self.limit
        while left != 0 and (data := self.file.read(self.block_size)):
            if left is not None:
                data = data[:left]
                left -= len(data)
            yield data


class FilePart(NamedTuple):
    """Bytes of an open file."""

    descriptor: int
    offset: int
    length: int


def open_part(wrapper: FileWrapper) -> FilePart | None:
    """A descriptor of our own for the rest of a regular file; None for what is not one, and has to be read.

    The file may be closed by its owner then; it is not moved in. Only the interpreter's own classes are believed:
    others lend the descriptor of what is beneath them, such as a gzip file, and give other bytes when they are read.
    """
    file = wrapper.file
    raw = file.raw if type(file) in _BUFFERED else file
    if type(raw) is not io.FileIO:
        return None
    try:
        descriptor = raw.fileno()
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or not status.st_size:
            return None  # of size 0 are also those of /proc, which have content nevertheless
        offset = file.tell()  # what Python has read ahead of the application is not gone from the file
        return FilePart(os.dup(descriptor), offset, max(0, status.st_size - offset))
    except (OSError, ValueError):  # ValueError: closed
        return None


def _do_nothing() -> None:
    pass
