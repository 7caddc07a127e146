"""The listening sockets of a supervisor: opened once, kept over reloads, handed to every worker.

A set of sockets never changes. A reload makes the next set, which shares what both configurations want, so that
nothing waiting in a backlog is lost; the one that is not needed any more closes what only it has. systemd's sockets
come in as binds "fd:N" of the configuration.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from trioserve.config import Config, FdBind
from trioserve.process.admission import end_admission
from trioserve.process.control import InheritedSocket
from trioserve.server.listeners import Listener, open_bind, resolve, resolve_blocking

if TYPE_CHECKING:
    from collections.abc import MutableMapping, Sequence

    from trioserve.config import Bind, LoadedConfig
    from trioserve.server.listeners import ResolvedAddress

FIRST_ACTIVATED_FD: Final = 3  # sd_listen_fds(3)
_INSECURE: Final = "insecure"

logger = logging.getLogger("trioserve")


@dataclass(frozen=True, eq=False)
class OpenBind:
    """A bind and its sockets, several when a host name has several addresses."""

    bind: str
    listeners: tuple[Listener, ...]

    @property
    def is_findable(self) -> bool:
        """Whether clients can find it; somebody may have cleared away the folder with the socket file in it."""
        return all(
            listener.inode is None or os.path.lexists(str(listener.address)) for listener in self.listeners
        )


@dataclass(frozen=True, eq=False)
class SocketSet:
    """The sockets of one configuration, in its order."""

    secure: tuple[OpenBind, ...] = ()
    insecure: tuple[OpenBind, ...] = ()

    @property
    def _all(self) -> tuple[OpenBind, ...]:
        return self.secure + self.insecure

    @property
    def listeners(self) -> list[Listener]:
        """All of them."""
        return [listener for each in self._all for listener in each.listeners]

    def describe(self) -> tuple[InheritedSocket, ...]:
        """Say what a worker has to know of them."""
        return tuple(
            InheritedSocket(listener.socket.fileno(), each.bind, insecure)
            for insecure, group in ((False, self.secure), (True, self.insecure))
            for each in group
            for listener in each.listeners
        )

    def close(self, but: SocketSet | None = None) -> None:
        """Close all, and take socket files away, except what another set has too. May be called again."""
        kept = set(but.listeners) if but is not None else set()
        for listener in self.listeners:
            if listener not in kept:
                listener.close()

    def release(self, *, admit: bool) -> None:
        """Stop listening here; workers that have the sockets go on, and so socket files stay.

        Args:
            admit: let new connections in as long as a worker listens; otherwise only those that are there already.
        """
        for listener in self.listeners:
            if not admit and listener.kind != "fd":  # which is not ours alone
                end_admission(listener.socket)
            listener.socket.close()

    def remove_files(self) -> None:
        """Take socket files away."""
        for listener in self.listeners:
            listener.remove_file()

    def relisten(self, backlog: int) -> None:
        """Change how many connections the kernel holds for each."""
        for listener in self.listeners:
            if listener.kind != "fd":
                listener.socket.listen(backlog)


def open_sockets(config: Config) -> SocketSet:
    """Open all binds of a configuration, or none, where no Trio runs.

    Raises:
        BindError: one of them cannot be had.
        ConfigError: [unix] names an unknown user or group.
    """
    opening = _Opening(config, SocketSet())
    return opening.finish({bind: resolve_blocking(bind) for bind in opening.missing})


async def open_next_sockets(config: Config, present: SocketSet) -> SocketSet:
    """Make the set of another configuration, with those of `present` that it wants too; raises the same.

    Nothing of `present` is touched. Cancellation can only strike while a host name is looked up, and leaves
    nothing open.
    """
    opening = _Opening(config, present)
    return opening.finish({bind: await resolve(bind) for bind in opening.missing})


class _Opening:
    """What is to be kept, and what is to be opened.

    Args:
        config: the configuration.
        present: what is open already.
    """

    def __init__(self, config: Config, present: SocketSet) -> None:
        self._config = config
        self._wishes = (*config.binds, *config.insecure_binds)
        there = [each for each in present.secure + present.insecure if each.is_findable]
        places = find_kept([str(bind) for bind in self._wishes], [each.bind for each in there])
        self._kept = [None if place is None else there[place] for place in places]

    @property
    def missing(self) -> list[Bind]:
        """The binds that have to be opened."""
        return [bind for bind, kept in zip(self._wishes, self._kept, strict=True) if kept is None]

    def finish(self, addresses: dict[Bind, list[ResolvedAddress]]) -> SocketSet:
        """Open what is missing, at these addresses, or nothing."""
        config, every, opened = self._config, list[OpenBind](), list[Listener]()
        try:
            for bind, kept in zip(self._wishes, self._kept, strict=True):
                if kept is not None:
                    every.append(kept)
                    continue
                backlog = config.process.backlog
                listeners = open_bind(bind, addresses[bind], backlog=backlog, unix=config.unix)
                opened += listeners
                every.append(OpenBind(str(bind), tuple(listeners)))
        except BaseException:
            for listener in opened:
                listener.close()
            raise
        count = len(config.binds)
        return SocketSet(tuple(every[:count]), tuple(every[count:]))


def find_kept(wishes: Sequence[str], present: Sequence[str]) -> list[int | None]:
    """Return for each wish which of the present binds it can keep, each once; None = it has to be opened."""
    free = dict(enumerate(present))
    places: list[int | None] = []
    for wish in wishes:
        place = next((number for number, bind in free.items() if bind == wish), None)
        if place is not None:
            del free[place]
        places.append(place)
    return places


# -- systemd -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Activation:
    """The listening sockets that systemd, or a program that speaks its protocol, has started us with.

    Args:
        names: one for each socket, from descriptor 3 on.
    """

    names: tuple[str, ...] = ()

    @classmethod
    def take(cls, environ: MutableMapping[str, str], pid: int) -> Activation:
        """Read sd_listen_fds(3)'s variables if they are meant for process `pid`, and remove them in any case."""
        there = {key: environ.pop(key, "") for key in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")}
        count = there["LISTEN_FDS"]
        if there["LISTEN_PID"] != str(pid) or not (count.isascii() and count.isdigit()):
            return cls()
        names = there["LISTEN_FDNAMES"].split(":")
        if not names[0] or len(names) != int(count):
            names = ["unknown"] * int(count)  # what systemd calls a socket without a name
        return cls(tuple(names))

    def place(self, loaded: LoadedConfig) -> LoadedConfig:
        """Let a configuration listen on these sockets.

        They take the place of its binds, unless one of those names such a descriptor itself. A socket with the
        name "insecure" speaks no TLS. What its author may not expect is logged.
        """
        config = loaded.config
        wishes = [*config.binds, *config.insecure_binds]
        if not self.names:
            return loaded
        ours = range(FIRST_ACTIVATED_FD, FIRST_ACTIVATED_FD + len(self.names))
        named = {wish.fd for wish in wishes if isinstance(wish, FdBind)}
        if not named.isdisjoint(ours):
            if unused := ", ".join(f"fd:{fd}" for fd in ours if fd not in named):
                logger.warning("no bind names these activated sockets, which are not used: %s", unused)
            return loaded
        if config.bind != Config().bind or config.insecure_bind:
            shown = ", ".join(map(str, wishes))
            logger.warning("activated sockets are served, and the configured binds are not: %s", shown)
        plain = {fd for fd, name in zip(ours, self.names, strict=True) if name == _INSECURE}
        if not config.tls.enabled or len(plain) == len(self.names):
            plain = set()
        placed = replace(
            config,
            bind=tuple(f"fd:{fd}" for fd in ours if fd not in plain),
            insecure_bind=tuple(f"fd:{fd}" for fd in ours if fd in plain),
        )
        return replace(loaded, config=placed)
