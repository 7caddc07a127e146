"""Descriptors 0 to 2, which every process of ours has to have."""

from __future__ import annotations

import os


def open_standard_streams() -> None:
    """Fill gaps among descriptors 0 to 2, or the next socket would take the place and be written to as a log.

    Child processes inherit what fills them.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest number that is free
