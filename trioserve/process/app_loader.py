"""From "module:attribute" to an application that can be served.

Importing happens in `load_app`; factories are called in `LoadedApp.open`, because they may be asynchronous
or be context managers that enclose the life of the worker. Whatever interface the object has, `open` gives
an ASGI 3 callable. A mistake becomes an `AppLoadError`: one sentence with advice when we know what is
wrong, and the application's own traceback, without our frames, when its code raised.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import sys
import traceback
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from trioserve.config import WsgiSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from trioserve.asgi.types import Application, Receive, Scope, Send

Interface: TypeAlias = Literal["asgi3", "asgi2", "wsgi"]

INTERFACES = ("auto", "asgi3", "asgi2", "wsgi")


class AppLoadError(Exception):
    """The application cannot be loaded or built.

    Args:
        message: one sentence for the log.
        traceback_text: what the application's code raised, ready to print; None for a mistake in the target.
    """

    def __init__(self, message: str, traceback_text: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.traceback_text = traceback_text


@dataclass(frozen=True)
class LoadedApp:
    """An imported application, or its factory.

    Args:
        target: what was asked for, "module:attribute".
        loaded: the attribute.
        factory: the attribute is to be called for the application.
        interface: "auto", "asgi3", "asgi2" or "wsgi".
        wsgi: how the application is run if it turns out to be one for WSGI.
        multiprocess: other processes serve the application, too.
    """

    target: str
    loaded: Any
    factory: bool
    interface: str
    wsgi: WsgiSettings = field(default_factory=WsgiSettings)
    multiprocess: bool = False

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Application]:
        """Give the application as an ASGI 3 callable, for as long as the worker lives.

        A factory is called here, and awaited if it is a coroutine function; if it gives an async context
        manager, that encloses the body. Exceptions and cancellation of the body pass through it untouched.

        Raises:
            AppLoadError: the factory raised, or gave something that is no application.
        """
        if not self.factory:
            yield self._adapt(self.loaded)
            return
        product = await self._call_factory()
        if not _is_context_manager(product):
            yield self._adapt(product)
            return
        entered = False
        try:
            async with product as application:
                adapted = self._adapt(application)
                entered = True
                yield adapted
        except AppLoadError:
            raise
        except Exception as error:
            if entered:
                raise
            raise _application_raised(f"the context manager of {self.target!r}", error) from error

    async def _call_factory(self) -> Any:
        try:
            product = self.loaded()
            return await product if inspect.isawaitable(product) else product
        except (Exception, SystemExit) as error:
            raise _application_raised(f"the factory {self.target!r}", error) from error

    def _adapt(self, application: Any) -> Application:
        _check_callable(self.target, application)
        interface = detect_interface(application) if self.interface == "auto" else self.interface
        if interface == "asgi2":
            return adapt_asgi2(application)
        if interface == "wsgi":
            from trioserve.wsgi.application import (  # who serves ASGI needs none
                SWITCH_INTERVAL,
                WsgiApplication,
            )

            return WsgiApplication(
                application,
                threads=self.wsgi.threads,
                multiprocess=self.multiprocess,
                switch_interval=SWITCH_INTERVAL,
            )
        return cast("Application", application)


def load_app(
    target: str,
    *,
    app_dir: Path,
    factory: bool = False,
    interface: str = "auto",
    wsgi: WsgiSettings | None = None,
    multiprocess: bool = False,
) -> LoadedApp:
    """Import an application.

    Args:
        target: "module:attribute"; both may be dotted, as in "pkg.main:site.app".
        app_dir: put first on the import path.
        factory: the attribute is to be called, without arguments, for the application.
        interface: "auto", "asgi3", "asgi2" or "wsgi".
        wsgi: how an application for WSGI is run; default: the defaults of the settings.
        multiprocess: other processes serve the application, too; WSGI applications are told.

    Raises:
        AppLoadError: it cannot be imported, found, called, or served.
    """
    if interface not in INTERFACES:
        raise AppLoadError(f"interface {interface!r} cannot be served; known are {', '.join(INTERFACES)}")
    module_name, path = _split_target(target)
    _put_first_on_path(str(app_dir.resolve()))
    loaded = _find_attribute(_import_module(module_name, app_dir), path, target)
    _check_callable(target, loaded)
    if not factory and _accepts(loaded, 0) and not any(_accepts(loaded, count) for count in (1, 2, 3)):
        raise AppLoadError(f"{target!r} takes no arguments; if it makes the application, set factory = true")
    return LoadedApp(target, loaded, factory, interface, wsgi or WsgiSettings(), multiprocess)


def detect_interface(application: Callable[..., Any]) -> Interface:
    """Which interface an application has, as far as its signature says; ASGI 3 when that could be several.

    ASGI 3 is called with three arguments, WSGI with two (PEP 3333), ASGI 2 with the scope alone. Where there may be
    two as well as three, the name that PEP 3333 gives to the second one tells, and so does the standard validator.
    """
    inner = application
    while isinstance(inner, functools.partial):
        inner = inner.func
    if inspect.iscoroutinefunction(inner):
        return "asgi3"
    if not inspect.isclass(inner) and inspect.iscoroutinefunction(getattr(inner, "__call__", None)):  # noqa: B004
        return "asgi3"
    if _accepts(application, 2) and (_names_start_response(application) or _is_validator(inner)):
        return "wsgi"
    if _accepts(application, 3):
        return "asgi3"
    if _accepts(application, 1):
        return "asgi2"
    return "wsgi" if _accepts(application, 2) else "asgi3"


def _names_start_response(application: Callable[..., Any]) -> bool:
    return "start_response" in inspect.signature(application).parameters


def _is_validator(inner: Any) -> bool:
    """Whether it is what `wsgiref.validate.validator` makes: a function of any arguments."""
    return getattr(inner, "__module__", None) == "wsgiref.validate"


def adapt_asgi2(application: Callable[..., Any]) -> Application:
    """An ASGI 2 application, `application(scope)` and then `instance(receive, send)`, as an ASGI 3 one."""

    async def call_both(scope: Scope, receive: Receive, send: Send) -> None:
        instance = application(scope)
        await instance(receive, send)

    return call_both


def _split_target(target: str) -> tuple[str, list[str]]:
    module_name, _, attribute = target.partition(":")
    path = attribute.split(".")
    words = module_name.removesuffix(".py").replace("\\", "/").split("/")
    if len(words) > 1 or module_name.endswith(".py"):
        name = ".".join(word for word in words if word not in ("", ".", ".."))
        advice = f"{name}:{attribute or 'app'}"
        raise AppLoadError(f'application {target!r}: expected a module, not a file, such as "{advice}"')
    if not all(name.isidentifier() for name in (*module_name.split("."), *path)):
        raise AppLoadError(f'application {target!r}: expected "module:attribute", such as "main:app"')
    return module_name, path


def _put_first_on_path(folder: str) -> None:
    if sys.path[:1] != [folder]:
        sys.path[:] = [folder, *(each for each in sys.path if each != folder)]


def _import_module(name: str, app_dir: Path) -> Any:
    importlib.invalidate_caches()  # a file may be younger than what the import system remembers of its folder
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # The target itself, or a package it is in: a slip in the target. Anything else: the application's.
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise AppLoadError(_describe_missing_module(name, error.name, app_dir)) from None
        raise _application_raised(f"importing {name!r}", error) from error
    except (Exception, SystemExit) as error:
        raise _application_raised(f"importing {name!r}", error) from error


def _describe_missing_module(name: str, missing: str, app_dir: Path) -> str:
    parent, _, last = missing.rpartition(".")
    folder = app_dir.joinpath(*parent.split(".")) if parent else app_dir
    names = {each.stem for each in folder.glob("*.py")} | {
        each.parent.name for each in folder.glob("*/__init__.py")
    }
    nearest = difflib.get_close_matches(last, sorted(names), 1)
    advice = f"; did you mean {'.'.join(filter(None, (parent, *nearest)))!r}?" if nearest else ""
    place = "" if missing == name else f" (for {name!r})"
    return f"no module {missing!r}{place} in {app_dir.resolve()} or on the import path{advice}"


def _find_attribute(module: Any, path: list[str], target: str) -> Any:
    found = module
    for name in path:
        try:
            found = getattr(found, name)
        except AttributeError:
            public = [each for each in dir(found) if not each.startswith("_")]
            nearest = difflib.get_close_matches(name, public, 1)
            advice = f"; did you mean {nearest[0]!r}?" if nearest else ""
            raise AppLoadError(f"no attribute {name!r} for {target!r}{advice}") from None
        except Exception as error:
            raise _application_raised(f"reading {target!r}", error) from error
    return found


def _check_callable(target: str, loaded: Any) -> None:
    if not callable(loaded):
        kind = type(loaded).__name__
        raise AppLoadError(f"{target!r} gives an object of type {kind}, which cannot be called")


def _is_context_manager(product: Any) -> bool:
    """An async context manager, and not an application that happens to be one as well.

    That it can be called says nothing: what `asynccontextmanager` makes can, being a decorator too.
    """
    kind = type(product)
    return hasattr(kind, "__aenter__") and hasattr(kind, "__aexit__") and not _accepts(product, 3)


def _accepts(target: Any, count: int) -> bool:
    """`target` can be called with `count` positional arguments, as far as its signature says."""
    if not callable(target):
        return False
    try:
        inspect.signature(target).bind(*[None] * count)
    except (TypeError, ValueError):  # ValueError: a builtin without a signature
        return False
    return True


def _application_raised(place: str, error: BaseException) -> AppLoadError:
    report = traceback.TracebackException.from_exception(error)
    _remove_foreign_frames(report)
    summary = " ".join(traceback.format_exception_only(error)[-1].split())
    return AppLoadError(f"{place} failed: {summary}", "".join(report.format()))


def _remove_foreign_frames(report: traceback.TracebackException) -> None:
    """Drop our frames and those of the import system, also from the exceptions that came before."""
    chain: list[traceback.TracebackException | None] = [report]
    while chain:
        each = chain.pop()
        if each is None:
            continue
        each.stack[:] = [frame for frame in each.stack if not _is_foreign(frame.filename)]
        chain += [each.__cause__, each.__context__, *(each.exceptions or ())]


def _is_foreign(filename: str) -> bool:
    return filename.startswith("<frozen importlib") or filename in (__file__, importlib.__file__)
