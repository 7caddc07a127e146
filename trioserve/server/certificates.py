"""Certificates that change on disk: the context for the next handshake, without a restart and without a task.

The files are looked at when a connection comes, at most once a second: a server without connections does nothing, and
one with many looks no more often. What cannot be used (half written, a key that does not fit yet) changes nothing:
the context in use is always one that was complete. Connections that are open keep the context they began with.
"""

from __future__ import annotations

import logging
import time
from math import inf
from typing import TYPE_CHECKING, Final

import trio

from trioserve.config import ConfigError
from trioserve.server.tls import FileStamps, TlsContext, build_tls_contexts, stamp_files

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trioserve.config import TlsSettings
    from trioserve.server.listeners import Listener

logger = logging.getLogger("trioserve")

LOOK_INTERVAL: Final = 1.0
"""Seconds from one look at the files to the next."""
SETTLED: Final = 1_000_000_000
"""Nanoseconds after which a file is not expected to be followed by another: key and certificate are two copies."""


class Certificates:
    """The TLS context in use, replaced when its files have changed.

    A change is found by the first connection that comes a second after the last look; it waits while a thread reads
    the files, and others go on with the old context meanwhile. A new context has keys of its own for session
    tickets, so that a client's ticket from before is not accepted and it makes a full handshake (RFC 8446 section
    4.6.1, RFC 5077 section 3.1); the same happens between workers.

    Args:
        tls: the settings; nothing but the content of its files is read again.
        alpn: protocols to offer, the preferred first.
        context: what was built of them when the server started.
        now: a clock in seconds; default: Trio's.
        wall_clock: nanoseconds since the epoch, to compare with the times of files.
    """

    def __init__(
        self,
        tls: TlsSettings,
        alpn: Sequence[str],
        context: TlsContext,
        *,
        now: Callable[[], float] = trio.current_time,
        wall_clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._tls = tls
        self._alpn = alpn
        self._context = context
        self._now = now
        self._wall_clock = wall_clock
        self._next_look = -inf
        self._reading = False
        self._judged = context.files  # the state of the files that was accepted, or refused and logged
        self._doubted: FileStamps = ()  # one that could not be used, and may only have been caught halfway
        self._limiter = trio.CapacityLimiter(1)  # not Trio's own, which the application may use up

    async def current(self) -> TlsContext:
        """Return the context for a handshake that begins now.

        Raises nothing for what is wrong with the files; that is logged, once for each state they are in. Not a
        checkpoint, unless they have changed. Cancelling it is postponed until they were read.
        """
        now = self._now()
        if now >= self._next_look and not self._reading:
            self._next_look = now + LOOK_INTERVAL
            files = stamp_files(self._tls)
            if files != self._judged:
                await self._read(files)
        return self._context

    async def _read(self, files: FileStamps) -> None:
        self._reading = True
        try:
            self._context = await trio.to_thread.run_sync(
                build_tls_contexts, self._tls, self._alpn, limiter=self._limiter
            )
        except ConfigError as error:
            if files == self._doubted or self._are_settled(files):
                self._judged = files
                logger.error(
                    "certificates have changed and cannot be used, the old ones stay in use: %s", error
                )
            self._doubted = files
        else:
            self._judged = self._context.files
            logger.info("certificates were read again")
        finally:
            self._reading = False

    def _are_settled(self, files: FileStamps) -> bool:
        newest = max((stamp.changed for stamp in files if stamp is not None), default=0)
        return self._wall_clock() - newest >= SETTLED


def follow_certificates(
    tls: TlsSettings, alpn: Sequence[str], listeners: Sequence[Listener]
) -> Certificates | None:
    """Follow the certificates of listeners that all have the same context; None if it is to stay what it is."""
    contexts = [each.ssl_context for each in listeners if isinstance(each.ssl_context, TlsContext)]
    return Certificates(tls, alpn, contexts[0]) if contexts and tls.reload else None
