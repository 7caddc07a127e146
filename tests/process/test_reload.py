from __future__ import annotations

import os
import shutil
import sys
import threading
from pathlib import Path

import pytest
import trio
import watchfiles

from trioserve.config import ConfigError, load_config
from trioserve.process.reload import Watch, check_watchfiles, open_changes, render_changes

PATIENCE = 10.0


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "project"
    folder.mkdir()
    return folder.resolve()


def load(folder: Path, **flags: object):
    flags = {"app": "main:app", "reload": True, "app_dir": str(folder)} | flags
    return load_config(flags.pop("config", None), {}, flags, cwd=folder)


async def next_change(changes) -> list[Path]:
    with trio.fail_after(PATIENCE):
        return await anext(changes)


# -- what matters ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["main.py", "a/b/c.py", ".hidden/a.py", "build.py", "venv.py", "page.html", "a/page.html", ".env"]
)
def test_these_matter(folder, name):
    (folder / ".env").touch()
    watch = Watch.of(load(folder, reload_include=["*.html"], env_file=str(folder / ".env")))

    assert watch.find_relevant(folder / name) == folder / name


@pytest.mark.parametrize(
    "name",
    [
        *("notes.txt", "main.pyc", "other.env", "page.htm"),
        *(
            "__pycache__/main.py",
            ".git/hooks/a.py",
            ".venv/lib/a.py",
            "a/node_modules/b.py",
            ".ruff_cache/a.py",
        ),
        *("main.py~", ".main.py.swp", ".#main.py", "._main.py", "flycheck_main.py", "main.py___jb_tmp___"),
        *("generated/a.py", "a/generated/b.py", "test_main.py", "tests/test_main.py"),
    ],
)
def test_these_do_not(folder, name):
    watch = Watch.of(load(folder, reload_exclude=["generated", "test_*.py"]))

    assert watch.find_relevant(folder / name) is None
    assert watch.find_relevant(folder / "main.py") is not None


def test_noise_in_the_name_of_the_project_itself_is_none(tmp_path):
    folder = tmp_path / "node_modules" / "venv"
    folder.mkdir(parents=True)
    watch = Watch.of(load(folder))

    assert watch.find_relevant(folder.resolve() / "main.py") is not None


def test_everything_may_be_included_but_noise(folder):
    watch = Watch.of(load(folder, reload_include=["*"]))

    assert watch.find_relevant(folder / "notes.txt") is not None
    assert watch.find_relevant(folder / "notes.txt~") is None
    assert watch.find_relevant(folder / "__pycache__" / "main.cpython-311.pyc") is None


def test_given_directories_replace_that_of_the_application(folder, tmp_path):
    (tmp_path / "library").mkdir()
    watch = Watch.of(load(folder, reload_dirs=[str(tmp_path / "library")]))

    assert watch.find_relevant((tmp_path / "library" / "a.py").resolve()) is not None
    assert watch.find_relevant(folder / "main.py") is None


def test_a_directory_stands_for_what_is_in_it(folder):
    package = folder / "package"
    (package / "empty").mkdir(parents=True)
    watch = Watch.of(load(folder))

    assert watch.find_relevant(package) is None
    (package / "inner").mkdir()
    (package / "inner" / "a.py").touch()
    assert watch.find_relevant(package) == package / "inner" / "a.py"


def test_the_configuration_file_is_watched_wherever_it_is(folder, tmp_path):
    (tmp_path / "etc").mkdir()
    file = tmp_path / "etc" / "server.toml"
    file.write_text('app = "main:app"')
    outside = Watch.of(load(folder, config=file))
    (folder / "server.toml").write_text("")
    inside = Watch.of(load(folder, config=folder / "server.toml"))

    assert outside.find_relevant(file) == file
    assert outside.find_relevant(tmp_path / "etc" / "other.py") is None
    assert outside.loose_folders == (tmp_path / "etc",)
    assert inside.find_relevant(folder / "server.toml") is not None
    assert inside.loose_folders == ()


# -- watching --------------------------------------------------------------------------------------------------------


async def test_a_change_is_seen(folder):
    async with open_changes(Watch.of(load(folder))) as changes:
        (folder / "notes.txt").write_text("nothing")
        (folder / "main.py").write_text("app = 1")
        assert await next_change(changes) == [folder / "main.py"]

        (folder / "main.py").unlink()
        assert await next_change(changes) == [folder / "main.py"]

        (folder / "draft").write_text("app = 2")
        os.replace(folder / "draft", folder / "main.py")
        assert await next_change(changes) == [folder / "main.py"]


async def test_a_burst_of_saves_is_one_change(folder):
    files = [folder / f"m{number}.py" for number in range(30)]
    async with open_changes(Watch.of(load(folder))) as changes:
        for _ in range(3):
            for file in files:
                file.write_text("x")
        assert await next_change(changes) == sorted(files)

        (folder / "last.py").touch()
        assert await next_change(changes) == [folder / "last.py"]


async def test_changes_that_nobody_took_yet_come_together(folder):
    async with open_changes(Watch.of(load(folder))) as changes:
        (folder / "a.py").touch()
        await settle(changes)
        (folder / "b.py").touch()
        await settle(changes)
        assert await next_change(changes) == [folder / "a.py", folder / "b.py"]


async def settle(changes) -> None:
    """Wait until one more burst has been reported, without taking it."""
    before = changes._received.statistics().current_buffer_used
    with trio.fail_after(PATIENCE):
        while changes._received.statistics().current_buffer_used == before:  # noqa: ASYNC110
            await trio.sleep(0.01)


async def test_a_package_that_was_moved_here_is_seen(folder, tmp_path):
    (tmp_path / "package" / "inner").mkdir(parents=True)
    (tmp_path / "package" / "inner" / "a.py").touch()
    async with open_changes(Watch.of(load(folder))) as changes:
        os.replace(tmp_path / "package", folder / "package")
        assert await next_change(changes) == [folder / "package" / "inner" / "a.py"]

        (folder / "package" / "inner" / "b.py").touch()
        assert await next_change(changes) == [folder / "package" / "inner" / "b.py"]


async def test_links_to_directories_are_followed(folder, tmp_path):
    (tmp_path / "library").mkdir()
    (folder / "library").symlink_to(tmp_path / "library")
    (tmp_path / "way").symlink_to(folder)
    async with open_changes(Watch.of(load(tmp_path / "way"))) as changes:
        (tmp_path / "library" / "a.py").touch()
        assert await next_change(changes) == [folder / "library" / "a.py"]


async def test_links_to_nowhere_are_no_obstacle(folder, tmp_path):
    (folder / "broken").symlink_to(tmp_path / "nowhere")
    (folder / "circle").symlink_to(folder)
    async with open_changes(Watch.of(load(folder))) as changes:
        (folder / "a.py").touch()
        assert folder / "a.py" in await next_change(changes)


async def test_a_directory_may_go_and_come_again(folder):
    async with open_changes(Watch.of(load(folder))) as changes:
        (folder / "marker.py").touch()
        assert await next_change(changes) == [folder / "marker.py"]
        shutil.rmtree(folder)
        assert await next_change(changes) == [folder / "marker.py"]

        folder.mkdir()
        (folder / "main.py").touch()
        assert await next_change(changes) == [folder / "main.py"]

        (folder / "other.py").touch()
        while (paths := await next_change(changes)) == [folder / "main.py"]:
            pass  # it may be seen by looking, and then be told of
        assert folder / "other.py" in paths


async def test_a_directory_is_seen_to_have_gone_before_anybody_tells(folder, monkeypatch):
    marker = folder / "marker.py"
    marker.touch()

    def watch(*places, stop_event, **_):
        stop_event.is_set()
        shutil.rmtree(folder)
        yield set()  # a look around, which happens to come first
        yield {(watchfiles.Change.deleted, str(marker)), (watchfiles.Change.deleted, str(folder))}
        while not stop_event.is_set():
            yield set()

    monkeypatch.setattr(watchfiles, "watch", watch)
    async with open_changes(Watch.of(load(folder))) as changes:
        assert await next_change(changes) == [marker]


async def test_a_directory_that_is_not_there_yet_is_waited_for(folder, tmp_path):
    watch = Watch.of(load(folder))
    folder.rmdir()
    async with open_changes(watch) as changes:
        folder.mkdir()
        (folder / "main.py").touch()
        assert await next_change(changes) == [folder / "main.py"]


async def test_a_file_elsewhere_is_seen_and_its_neighbours_are_not(folder, tmp_path):
    file = tmp_path / "server.toml"
    file.write_text('app = "main:app"')
    async with open_changes(Watch.of(load(folder, config=file))) as changes:
        (tmp_path / "neighbour.py").touch()
        os.replace(shutil.copy(file, tmp_path / "draft"), file)
        assert await next_change(changes) == [file]


async def test_a_cancellation_ends_the_thread_at_once(folder):
    before = {each.ident for each in threading.enumerate()}
    start = trio.current_time()
    with trio.CancelScope() as scope:
        async with open_changes(Watch.of(load(folder))) as changes:
            start = trio.current_time()
            scope.cancel()
            await anext(changes)

    assert trio.current_time() - start < 1.0
    watching = [
        each
        for each in threading.enumerate()
        if each.ident not in before and any("watchfiles" in name for name in stack_of(each))
    ]
    assert not watching


def stack_of(thread: threading.Thread) -> list[str]:
    frame = sys._current_frames().get(thread.ident)
    names = []
    while frame is not None:
        names.append(frame.f_code.co_filename)
        frame = frame.f_back
    return names


async def test_what_the_system_refuses_is_logged_and_nothing_ends(folder, caplog, monkeypatch):
    import watchfiles

    def refuse(*_: object, **__: object):
        raise OSError("OS file watch limit reached.")

    monkeypatch.setattr(watchfiles, "watch", refuse)
    async with open_changes(Watch.of(load(folder))) as changes:
        with trio.fail_after(PATIENCE):
            while "OS file watch limit reached.; smaller reload_dirs may help" not in caplog.text:  # noqa: ASYNC110
                await trio.sleep(0.01)
        with trio.move_on_after(0.05) as waited:
            await anext(changes)
    assert waited.cancelled_caught


# -- words -----------------------------------------------------------------------------------------------------------


def test_changes_are_named_for_people(monkeypatch, folder):
    monkeypatch.chdir(folder)
    files = [folder / name for name in ("b.py", "a/c.py")]

    assert render_changes(files) == "a/c.py, b.py"
    assert render_changes([Path("/elsewhere/x.toml")]) == "/elsewhere/x.toml"
    many = [folder / f"m{number}.py" for number in range(10)]
    assert render_changes(many) == "m0.py, m1.py, m2.py and 7 more"
    assert render_changes(many[:4]) == "m0.py, m1.py, m2.py and 1 more"
    assert render_changes(many[:3]) == "m0.py, m1.py, m2.py"


def test_the_extra_is_named_when_it_is_missing(monkeypatch, folder):
    config = load(folder).config
    check_watchfiles(config)
    monkeypatch.setitem(sys.modules, "watchfiles", None)

    with pytest.raises(ConfigError, match=r'reload.*needs watchfiles: pip install "trioserve\[reload\]"'):
        check_watchfiles(config)
    check_watchfiles(load(folder, reload=False).config)
