"""A wake-up call for one task that looks at the facts by itself, so that it does not matter how often it was called."""

from __future__ import annotations

import trio


class Bell:
    """Wakes one task; what rings while nobody waits is heard by the next wait."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def ring(self) -> None:
        """Wake whoever waits."""
        self._event.set()

    async def wait(self) -> None:
        """Wait for a ring since the last wait."""
        await self._event.wait()
        self._event = trio.Event()
