"""When a worker has to make room for a successor: the limits of [process], as rules without clock or system calls.

Jitter and the extra lifetime are drawn once, at the start, so that workers that were started together are not
replaced together. The answer is given once; who asks decides how to go.
"""

from __future__ import annotations

import random
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trioserve.config.process import ProcessSettings

_MEBIBYTE = 1024 * 1024
_LIFETIME_JITTER = 0.1


class Retirement:
    """The limits of one worker.

    Args:
        settings: `max_requests` with its jitter, `max_lifetime` and `max_rss`; 0 = no limit.
        started: when the worker began to serve, in seconds.
        chance: where the jitter comes from.

    Attributes:
        limited: there is a limit at all.
        max_requests: the limit with its jitter.
        end_of_life: when the worker is too old, on the clock of `started`.
    """

    def __init__(
        self, settings: ProcessSettings, started: float, chance: random.Random | None = None
    ) -> None:
        chance = chance or random.Random()  # noqa: S311 - nothing secret; a fork must not share the state
        self.max_requests: float = inf
        if settings.max_requests:
            self.max_requests = settings.max_requests + chance.randint(0, settings.max_requests_jitter)
        self.end_of_life = inf
        if settings.max_lifetime:
            self.end_of_life = started + settings.max_lifetime * (1 + chance.uniform(0, _LIFETIME_JITTER))
        self._max_rss = settings.max_rss or inf
        self.limited = min(self.max_requests, self.end_of_life, self._max_rss) < inf
        self._over = False

    def find_reason(self, now: float, requests: int, rss: int) -> str | None:
        """The limit that the worker has reached, in words; once, then None for ever.

        Args:
            now: seconds, on the clock of `started`.
            requests: how many have begun.
            rss: resident memory in bytes.
        """
        if self._over:
            return None
        reason = None
        if requests >= self.max_requests:
            reason = f"it has served {requests} requests"
        elif now >= self.end_of_life:
            reason = "it has reached its max_lifetime"
        elif rss > self._max_rss:
            reason = f"it uses {rss / _MEBIBYTE:.1f} MiB of memory"
        self._over = reason is not None
        return reason
