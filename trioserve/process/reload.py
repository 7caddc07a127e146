"""Changes of code and configuration, for development: what is watched, and what has changed.

watchfiles waits for the operating system's notices in a thread; here it is decided which of them matter. Python files
and what `reload_include` names do, in the directories of `reload_dirs` or the application's; so do the configuration
file and `env_file`, wherever they are. Certificates have a watcher of their own, which replaces no worker. Nothing is
read but names: whether a change can be used is for the next worker to find out.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from contextlib import asynccontextmanager
from fnmatch import fnmatchcase
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Set

    from trioserve.config import Config, LoadedConfig

__all__ = ["Changes", "Watch", "check_watchfiles", "open_changes", "render_changes"]

logger = logging.getLogger("trioserve")

_QUIET, _LONGEST_BURST, _LOOK_AROUND = 100, 1600, 500
"""Milliseconds: saves closer than the first are one burst, of the second at most; then missing places are sought."""

_SHOWN = 3

_NOISE = (
    r"\.git|\.hg|\.svn|\.jj|\.idea|\.vscode|\.venv|venv|\.tox|\.nox|node_modules|site-packages|__pycache__",
    r"\.\w+_cache|\.hypothesis|\.eggs|.*\.egg-info",
    r".*~|.*\.sw[a-z]|4913|\.#.*|#.*#|\._.*|\.DS_Store|.*\.tmp|.*___jb_(tmp|old)___|flycheck_.*|.*\.py[cod]",
)
_is_noise = re.compile("|".join(_NOISE)).fullmatch
"""Names that belong to tools: repositories, environments, caches; then editors' copies and probes."""


def check_watchfiles(config: Config) -> None:
    """Find out early whether changes can be watched.

    Raises:
        ConfigError: `reload` is on, and watchfiles is not installed.
    """
    if config.reload:
        try:
            import watchfiles  # noqa: F401 - only whether it is there
        except ImportError:
            raise config.refuse("reload", 'needs watchfiles: pip install "trioserve[reload]"') from None


class Watch(msgspec.Struct, frozen=True):
    """What is watched.

    Args:
        folders: directories, with all that is below them; they may come and go.
        files: files that matter whatever their names are.
        include: patterns of names that matter in `folders`.
        exclude: patterns of names, of files or directories below `folders`, that do not.
    """

    folders: tuple[Path, ...]
    files: tuple[Path, ...] = ()
    include: tuple[str, ...] = ("*.py",)
    exclude: tuple[str, ...] = ()

    @classmethod
    def of(cls, loaded: LoadedConfig) -> Watch:
        """Read it from a configuration; relative paths are those of the working directory."""
        config = loaded.config
        files = [Path(file).absolute() for file in (loaded.source, config.env_file) if file is not None]
        return cls(
            folders=tuple(Path(folder).resolve() for folder in config.reload_dirs or (config.app_dir,)),
            files=tuple(files),
            include=("*.py", *config.reload_include),
            exclude=config.reload_exclude,
        )

    @property
    def loose_folders(self) -> tuple[Path, ...]:
        """Directories of `files` that lie in none of `folders`; of what is in them only the files matter."""
        homes = {file.parent for file in self.files}
        return tuple(home for home in sorted(homes) if self._below(home) is None)

    def find_relevant(self, path: Path) -> Path | None:
        """The path itself if its change matters; of a new directory a file in it that does, if there is one."""
        if path in self.files:
            return path
        inner = self._below(path)
        if inner is None or any(self._is_ignored(part) for part in inner.parts):
            return None
        if any(fnmatchcase(path.name, pattern) for pattern in self.include):
            return path
        # A directory that was moved here, or filled before it could be watched.
        found = (self.find_relevant(Path(child)) for child in _list(path)) if inner.parts else ()
        return next((file for file in found if file is not None), None)

    def _below(self, path: Path) -> Path | None:
        return next((path.relative_to(each) for each in self.folders if path.is_relative_to(each)), None)

    def _is_ignored(self, name: str) -> bool:
        return _is_noise(name) is not None or any(fnmatchcase(name, pattern) for pattern in self.exclude)


def _list(path: Path) -> list[str]:
    try:
        return [entry.path for entry in os.scandir(path)] if not path.is_symlink() else []
    except OSError:  # a file, or gone again
        return []


class Changes:
    """Bursts of changes: each step of the iteration gives the paths, once they have settled, in order.

    What changes between two steps comes with the next one. The iteration does not end; cancelling it loses nothing.
    """

    def __init__(self, received: trio.MemoryReceiveChannel[Set[Path]]) -> None:
        self._received = received

    def __aiter__(self) -> Changes:
        """Return itself."""
        return self

    async def __anext__(self) -> list[Path]:
        """Wait for changes."""
        paths = set(await self._received.receive())
        while True:
            try:
                paths |= self._received.receive_nowait()
            except trio.WouldBlock:
                return sorted(paths)


@asynccontextmanager
async def open_changes(watch: Watch) -> AsyncIterator[Changes]:
    """Watch while the body runs: changes from its begin on are seen. Entering and leaving takes a tenth of a second.

    When the system refuses to watch, for instance because of its limits, that is logged, and nothing ever changes.

    Raises:
        ImportError: watchfiles is not installed.
    """
    import watchfiles  # noqa: F401 - in the main thread, and before anything is opened

    send, receive = trio.open_memory_channel[set[Path]](inf)
    token = trio.lowlevel.current_trio_token()
    stop = threading.Event()

    def report(paths: set[Path]) -> None:
        token.run_sync_soon(send.send_nowait, paths)

    observers = [
        _Observer(watch, places, report, recursive=recursive)
        for places, recursive in ((watch.folders, True), (watch.loose_folders, False))
        if places
    ]
    async with trio.open_nursery() as nursery:
        try:
            for observer in observers:
                # Not abandoned at a cancellation: `stop` ends it, and no thread outlives us.
                nursery.start_soon(trio.to_thread.run_sync, observer.run, stop, name="watch files")
            for observer in observers:
                await observer.begun.wait()
            yield Changes(receive)
        finally:
            stop.set()


class _Observer:
    """The thread that waits for notices.

    Args:
        watch: which of them matter.
        places: directories; those that do not exist are looked for twice a second.
        report: called in the thread with paths that have changed.
        recursive: whether all that is below the places is watched too.

    Attributes:
        begun: set when changes from now on are seen.
    """

    def __init__(
        self,
        watch: Watch,
        places: tuple[Path, ...],
        report: Callable[[set[Path]], None],
        *,
        recursive: bool,
    ) -> None:
        self.begun = trio.Event()
        self._token = trio.lowlevel.current_trio_token()
        self._watch = watch
        self._places = places
        self._report = report
        self._recursive = recursive
        self._seen = self._present()

    def run(self, stop: threading.Event) -> None:
        try:
            while not stop.is_set():
                present = self._present()
                arrived = present - self._seen
                self._seen = set(present)
                if present:
                    self._observe(present, arrived, stop)
                else:
                    self._begin()
                    stop.wait(_LOOK_AROUND / 1000)
        except OSError as error:
            logger.error("changes cannot be watched: %s; smaller reload_dirs may help", error)
            self._begin()

    def _begin(self) -> None:
        if not self.begun.is_set():
            self._token.run_sync_soon(self.begun.set, idempotent=True)

    def _observe(self, present: set[Path], arrived: set[Path], stop: threading.Event) -> None:
        """Report until one of the places has come or gone: what has come has to be watched anew.

        What is in places that have arrived is reported too, once they are watched; nothing is missed in between.
        """
        from watchfiles import Change, watch

        def begin() -> None:
            if changed := _drop_none(map(self._find_any, arrived)):
                self._report(changed)
            arrived.clear()
            self._begin()

        def matters(kind: Change, path: str) -> bool:  # what does not is not even logged: a log may lie here
            removed = kind is Change.deleted and Path(path) in present
            return removed or self._watch.find_relevant(Path(path)) is not None

        notices = watch(
            *sorted(present),
            watch_filter=matters,
            debounce=_LONGEST_BURST,
            step=_QUIET,
            stop_event=_StopSign(stop, begin),
            rust_timeout=_LOOK_AROUND,
            yield_on_timeout=True,
            raise_interrupt=False,
            recursive=self._recursive,
            ignore_permission_denied=True,
        )
        try:
            for notice in notices:
                paths = {Path(path) for _, path in notice}
                if changed := _drop_none(map(self._watch.find_relevant, paths)):
                    self._report(changed)
                self._seen -= paths
                there = self._present()
                if self._seen != present or there - present:
                    break
                self._seen &= there  # what has gone with a place the next notice may tell
        except FileNotFoundError:  # it went between our look and the watch's beginning
            self._seen &= self._present()
            stop.wait(_LOOK_AROUND / 1000)
        finally:
            notices.close()

    def _present(self) -> set[Path]:
        return {place for place in self._places if place.is_dir()}

    def _find_any(self, place: Path) -> Path | None:
        found = (self._watch.find_relevant(Path(child)) for child in _list(place))
        return next((path for path in found if path is not None), None)


class _StopSign:
    """Looked at by watchfiles ten times a second, from when it watches on: it is also how we know that it does.

    Args:
        stop: what it says.
        begin: called at each look.
    """

    def __init__(self, stop: threading.Event, begin: Callable[[], None]) -> None:
        self._stop = stop
        self._begin = begin

    def is_set(self) -> bool:
        """Whether to stop."""
        self._begin()
        return self._stop.is_set()


def _drop_none(paths: Iterable[Path | None]) -> set[Path]:
    return {path for path in paths if path is not None}


def render_changes(paths: Iterable[Path]) -> str:
    """Name what has changed, for a line of the log: relative to the working directory, the first few of many."""
    here = Path.cwd()
    names = [str(path.relative_to(here) if path.is_relative_to(here) else path) for path in sorted(paths)]
    shown, others = names[:_SHOWN], len(names) - _SHOWN
    return ", ".join(shown) + (f" and {others} more" if others > 0 else "")
