"""`wsgi.file_wrapper`: a file as a response body (PEP 3333, "Optional Platform-Specific File Handling")."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK_SIZE = 65536


class FileWrapper:
    """An iterable over the blocks of a file; the server may send an untouched one without reading it.

    Args:
        file: a file-like object, with `read`.
        block_size: how many bytes to read at a time, when they have to be read.
    """

    __slots__ = ("block_size", "close", "file")

    def __init__(self, file: Any, block_size: int = BLOCK_SIZE) -> None:
        self.file = file
        self.block_size = block_size
        self.close = getattr(file, "close", _do_nothing)

    def __iter__(self) -> Iterator[bytes]:
        """Read to the end, block by block."""
        while data := self.file.read(self.block_size):
            yield data


class FilePart(NamedTuple):
    """Bytes of an open file."""

    descriptor: int
    offset: int
    length: int


def open_part(wrapper: FileWrapper) -> FilePart | None:
    """A descriptor of our own for the rest of a regular file; None for what is not one, and has to be read.

    The file may be closed by its owner then; it is not moved in.
    """
    try:
        descriptor = wrapper.file.fileno()
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return None
        # What Python has read ahead of the application is not gone from the file.
        tell = getattr(wrapper.file, "tell", None)
        offset = os.lseek(descriptor, 0, os.SEEK_CUR) if tell is None else tell()
        return FilePart(os.dup(descriptor), offset, max(0, status.st_size - offset))
    except (AttributeError, OSError, ValueError):  # ValueError: closed; io.UnsupportedOperation is an OSError
        return None


def _do_nothing() -> None:
    pass
