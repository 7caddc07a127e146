"""One generation of workers after another: which one is in force, and how the next one takes its place.

The slots take up a new generation one after the other. The first that fails sends those before it back, and the old
one stays in force. Sockets and launchers that only the other one needed are closed in either case.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from trioserve.process.reloading import restore_log
from trioserve.process.slot import Generation
from trioserve.process.sockets import open_next_sockets

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import trio

    from trioserve.config import LoadedConfig
    from trioserve.process.launcher import Launcher
    from trioserve.process.slot import Slot
    from trioserve.process.sockets import SocketSet

logger = logging.getLogger("trioserve")


class Succession:
    """The generations of one server.

    Args:
        generation: the first.
        slots: where its workers are; slots may come and go at any time.
        build_launcher: makes what starts the workers of a configuration.

    Attributes:
        generation: the one in force.
        following: the one that is being taken up.
    """

    def __init__(
        self,
        generation: Generation,
        slots: Sequence[Slot],
        build_launcher: Callable[[LoadedConfig, SocketSet], Launcher],
    ) -> None:
        self.generation = generation
        self.following: Generation | None = None
        self._outdated = False
        self._slots = slots
        self._build_launcher = build_launcher

    async def take_up(self, loaded: LoadedConfig, lives: trio.Nursery) -> bool:
        """Go over to another configuration, or stay with this one; return whether all workers are new.

        Cancelling it leaves what is there to `close`.

        Args:
            loaded: the configuration.
            lives: where launchers live.

        Raises:
            BindError: an address cannot be had; nothing has changed.
            ConfigError: [unix] names an unknown user or group; nothing has changed.
        """
        former = self.generation
        sockets = await open_next_sockets(loaded.config, former.sockets)
        self._outdated = False
        self.following = following = Generation(loaded, sockets, self._build_launcher(loaded, sockets))
        lives.start_soon(following.launcher.run, name="launcher")
        succeeded = await self._replace_all(following)
        if succeeded:
            self.generation = following
        else:
            restore_log(former.loaded.config)
            if not self._outdated:
                logger.error("not reloaded: the new worker did not start, and the old ones stay")
            await self._send_back(former)
        self.following = None
        rejected = former if succeeded else following
        rejected.launcher.close()
        rejected.sockets.close(but=self.generation.sockets)
        return succeeded

    def give_up_following(self) -> None:
        """Wait no longer for new workers that only start: there is something newer to take up."""
        if self.following is not None:
            self._outdated = True
            for slot in self._slots:
                slot.give_up_replacement()

    def close(self) -> None:
        """Start no more workers, and close the ports; workers go on listening until they are told to finish.

        Socket files stay until `remove_files`.
        """
        if self.following is not None:
            self.following.launcher.close()
            self.following.sockets.close(but=self.generation.sockets)
        self.generation.launcher.close()
        self.generation.sockets.release(admit=self.generation.loaded.config.timeouts.drain_delay > 0)

    def remove_files(self) -> None:
        """Take socket files away."""
        self.generation.sockets.remove_files()

    async def _replace_all(self, following: Generation) -> bool:
        """Replace the worker of one slot after the other, also of slots that are opened meanwhile."""
        while (slot := self._find_slot_without(following)) is not None:
            if self._outdated or (not await slot.replace(following) and slot in self._slots):
                return False
        return True

    async def _send_back(self, former: Generation) -> None:
        """Replace those that have got new workers already; one for which that fails keeps the new one.

        So do all when something newer follows, which replaces them anyway.
        """
        for slot in tuple(self._slots):
            if slot.generation is not former and (self._outdated or not await slot.replace(former)):
                slot.generation = former

    def _find_slot_without(self, generation: Generation) -> Slot | None:
        return next((slot for slot in self._slots if slot.generation is not generation), None)
