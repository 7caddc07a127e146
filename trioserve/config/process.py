"""The [process] group: how many workers there are, who they are, and when one makes room for another.

What the numbers mean is done in `process/`. A server that is embedded in a Trio program (`serve`) is a part of its
process and looks at none of them but the backlog.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from .fields import Settings, count, duration, path, size, switch, text
from .rules import check_umask

SHORTEST_HEARTBEAT: Final = 0.5
"""Seconds. Full collections, page faults and busy processors stop an event loop that is well for a little less."""


class ProcessSettings(Settings, frozen=True, kw_only=True):
    """The supervisor and its workers."""

    TABLE = "process"

    workers: Annotated[
        int | Literal["auto"],
        count(
            'Worker processes; "auto" = the processors that we may use; 0 = serve without a supervisor.',
            word="auto",
            most=1024,
        ),
    ] = 1
    preload: Annotated[
        bool, switch("Import the application once, before workers are forked, so that they share its memory.")
    ] = False
    max_requests: Annotated[int, count("Replace a worker after so many requests; 0 = never.")] = 0
    max_requests_jitter: Annotated[
        int, count("Add up to so many to max_requests, at random, so that workers are not replaced together.")
    ] = 0
    max_lifetime: Annotated[
        float, duration("Replace a worker that is so old, with up to a tenth more at random; 0 = never.")
    ] = 0.0
    max_rss: Annotated[int, size("Replace a worker whose resident memory is larger; 0 = never.")] = 0
    heartbeat: Annotated[
        float,
        duration(
            "Replace a worker whose event loop has not run for so long, 0.5 s or more, with its stacks in the log; "
            "0 = never."
        ),
    ] = 30.0
    startup: Annotated[
        float,
        duration("A worker must be ready within this, import of the application included; 0 = no limit."),
    ] = 60.0
    user: Annotated[
        str | None, text("User that workers run as, by name or number; needs root.", optional=True)
    ] = None
    group: Annotated[
        str | None,
        text("Group that workers run as, by name or number; default: that of the user.", optional=True),
    ] = None
    umask: Annotated[
        str | None,
        text(
            "File mode creation mask in octal.",
            'octal digits in quotes, such as "027"',
            check_umask,
            optional=True,
        ),
    ] = None
    pid_file: Annotated[
        str | None, path("File with the supervisor's process number; there while the server runs.")
    ] = None
    title: Annotated[
        str | None,
        text("Name of the processes in lists; needs the extra `title`; default: trioserve.", optional=True),
    ] = None
    backlog: Annotated[
        int, count("Connections that the kernel holds for each listener until they are accepted.", least=1)
    ] = 2048

    def check_combinations(self) -> None:
        """A jitter belongs to a limit, preloading and replacing to workers; a heartbeat must be possible."""
        if 0 < self.heartbeat < SHORTEST_HEARTBEAT:
            expected = f"expected a duration of at least {SHORTEST_HEARTBEAT:g} s, or 0 = never"
            raise self.refuse("heartbeat", f"{expected}, got {self.heartbeat:g} s")
        if self.max_requests_jitter and not self.max_requests:
            raise self.refuse("max_requests_jitter", "has no effect without max_requests")
        if self.workers == 0:
            for name in ("preload", "max_requests", "max_lifetime", "max_rss"):
                if getattr(self, name):
                    raise self.refuse(name, "has no effect without workers")
