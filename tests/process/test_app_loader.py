from __future__ import annotations

import functools
import sys
import textwrap
import wsgiref.validate
from typing import TYPE_CHECKING

import pytest
import trio

from trioserve.config import WsgiSettings
from trioserve.process.app_loader import AppLoadError, LoadedApp, adapt_asgi2, detect_interface, load_app
from trioserve.testing.memory import open_memory_server
from trioserve.wsgi import WsgiApplication

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def restored_imports(monkeypatch):
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def write(tmp_path):
    def write_module(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    return write_module


def load(tmp_path: Path, target: str, **settings) -> LoadedApp:
    return load_app(target, app_dir=tmp_path, **settings)


def refusal(tmp_path: Path, target: str, **settings) -> AppLoadError:
    with pytest.raises(AppLoadError) as caught:
        load(tmp_path, target, **settings)
    return caught.value


ECHO = """
    async def app(scope, receive, send):
        await send({"type": scope["type"], "got": await receive()})
"""


async def call(application) -> list:
    sent = []

    async def receive():
        return {"type": "given"}

    async def send(message):
        sent.append(message)

    await application({"type": "http"}, receive, send)
    return sent


ECHOED = [{"type": "http", "got": {"type": "given"}}]


async def served(loaded: LoadedApp) -> list:
    async with loaded.open() as application:
        return await call(application)


async def test_a_function_of_a_module(tmp_path, write):
    write("main_a.py", ECHO)
    assert await served(load(tmp_path, "main_a:app")) == ECHOED


async def test_dotted_modules_and_dotted_attributes(tmp_path, write):
    write("pkg_a/__init__.py", "")
    write("pkg_a/sub/__init__.py", "")
    write(
        "pkg_a/sub/main.py",
        ECHO + "    class site:\n        class inner:\n            web = staticmethod(app)\n",
    )
    assert await served(load(tmp_path, "pkg_a.sub.main:site.inner.web")) == ECHOED


def test_app_dir_comes_first_and_only_once(tmp_path, write):
    write("main_b.py", ECHO)
    (tmp_path / "x").mkdir()
    sys.path.append(str(tmp_path))
    load(tmp_path / "x" / "..", "main_b:app")
    load(tmp_path, "main_b:app")
    assert sys.path[0] == str(tmp_path)
    assert sys.path.count(str(tmp_path)) == 1


@pytest.mark.parametrize(
    "target", ["main", "main:", ":app", "", "main:a b", "main:app.", "ma in:app", "main..x:app"]
)
def test_a_target_of_the_wrong_form_is_told_the_right_one(tmp_path, target):
    error = refusal(tmp_path, target)
    assert 'expected "module:attribute", such as "main:app"' in error.message
    assert error.traceback_text is None


@pytest.mark.parametrize(
    ("target", "advice"),
    [("main.py:app", '"main:app"'), ("./src/web.py:site", '"src.web:site"'), ("src/web", '"src.web:app"')],
)
def test_a_file_name_is_told_the_module_name(tmp_path, target, advice):
    assert advice in refusal(tmp_path, target).message


def test_a_missing_module_is_told_without_a_traceback(tmp_path, write):
    write("service.py", ECHO)
    error = refusal(tmp_path, "servise:app")
    assert "no module 'servise'" in error.message
    assert "did you mean 'service'?" in error.message
    assert error.traceback_text is None


def test_a_missing_package_or_submodule_names_what_is_missing(tmp_path, write):
    write("pkg_b/__init__.py", "")
    write("pkg_b/main.py", ECHO)
    assert "no module 'nowhere' (for 'nowhere.main')" in refusal(tmp_path, "nowhere.main:app").message
    inner = refusal(tmp_path, "pkg_b.mian:app").message
    assert "no module 'pkg_b.mian'" in inner
    assert "did you mean 'pkg_b.main'?" in inner


def test_a_module_that_the_application_misses_is_its_own_error(tmp_path, write):
    write("main_c.py", "import no_such_library_here\n")
    error = refusal(tmp_path, "main_c:app")
    assert (
        error.message
        == "importing 'main_c' failed: ModuleNotFoundError: No module named 'no_such_library_here'"
    )
    assert "import no_such_library_here" in error.traceback_text


def test_a_traceback_has_the_applications_frames_only(tmp_path, write):
    write("inner_d.py", "def explode():\n    raise RuntimeError('broken')\n")
    write(
        "main_d.py",
        """
        import inner_d
        try:
            inner_d.explode()
        except RuntimeError as error:
            raise ValueError("while starting") from error
        """,
    )
    error = refusal(tmp_path, "main_d:app")
    assert error.message == "importing 'main_d' failed: ValueError: while starting"
    text = error.traceback_text
    assert "main_d.py" in text
    assert "inner_d.py" in text
    assert "RuntimeError: broken" in text
    assert "importlib" not in text
    assert "app_loader" not in text


def test_a_syntax_error_shows_the_line(tmp_path, write):
    write("main_e.py", "def app(:\n")
    error = refusal(tmp_path, "main_e:app")
    assert "SyntaxError" in error.message
    assert "def app(:" in error.traceback_text


def test_a_module_that_exits_does_not_end_the_server(tmp_path, write):
    write("main_f.py", "import sys\nsys.exit(7)\n")
    assert "SystemExit: 7" in refusal(tmp_path, "main_f:app").message


def test_a_missing_attribute_has_the_nearest_name(tmp_path, write):
    write("main_g.py", "application = print\nclass site:\n    frontend = print\n")
    assert "did you mean 'application'?" in refusal(tmp_path, "main_g:aplication").message
    assert "no attribute 'frontent'" in refusal(tmp_path, "main_g:site.frontent").message


def test_an_attribute_that_raises_is_the_applications_error(tmp_path, write):
    write("main_h.py", "def __getattr__(name):\n    raise OSError('no database')\n")
    error = refusal(tmp_path, "main_h:app")
    assert "OSError: no database" in error.message
    assert "__getattr__" in error.traceback_text


def test_an_object_that_cannot_be_called_is_refused(tmp_path, write):
    write("main_i.py", "app = {'a': 1}\n")
    assert "object of type dict, which cannot be called" in refusal(tmp_path, "main_i:app").message
    assert "dict" in refusal(tmp_path, "main_i:app", factory=True).message


def test_a_factory_without_the_setting_is_recognised(tmp_path, write):
    write("main_j.py", "def create():\n    return None\n")
    assert "set factory = true" in refusal(tmp_path, "main_j:create").message


def test_an_unknown_interface_is_refused(tmp_path, write):
    write("main_k.py", ECHO)
    assert "interface 'rsgi' cannot be served" in refusal(tmp_path, "main_k:app", interface="rsgi").message


# -- interfaces


async def asgi3_function(scope, receive, send): ...


async def asgi3_function_with_more(settings, scope, receive, send): ...


class Asgi3Object:
    async def __call__(self, scope, receive, send): ...


class Asgi3Class:
    def __init__(self, scope, receive, send): ...

    def __await__(self): ...


class PlainCallObject:
    def __call__(self, scope, receive, send): ...


class Asgi2Class:
    def __init__(self, scope):
        self.scope = scope

    async def __call__(self, receive, send):
        await send({"type": self.scope["type"], "got": await receive()})


class Asgi2ClassWithMore(Asgi2Class):
    def __init__(self, settings, scope):
        super().__init__(scope)


class Asgi2Object:
    def __call__(self, scope):
        return Asgi2Class(scope)


def asgi2_function(scope):
    return Asgi2Class(scope)


def asgi3_by_decoration(*args, **kwargs): ...


@pytest.mark.parametrize(
    "application",
    [
        asgi3_function,
        functools.partial(asgi3_function_with_more, "settings"),
        functools.partial(functools.partial(asgi3_function_with_more), "settings"),
        Asgi3Object(),
        functools.partial(Asgi3Object()),
        Asgi3Class,
        PlainCallObject(),
        Asgi3Object().__call__,
        asgi3_by_decoration,
        print,
        dict,
    ],
)
def test_asgi_3_is_recognised_and_is_the_assumption(application):
    assert detect_interface(application) == "asgi3"


@pytest.mark.parametrize(
    "application",
    [
        Asgi2Class,
        asgi2_function,
        Asgi2Object(),
        functools.partial(Asgi2ClassWithMore, "settings"),
        lambda scope: None,
    ],
)
def test_asgi_2_is_recognised(application):
    assert detect_interface(application) == "asgi2"


@pytest.mark.parametrize("application", [Asgi2Class, asgi2_function, Asgi2Object()])
async def test_an_asgi_2_application_is_called_twice(application):
    assert await call(adapt_asgi2(application)) == ECHOED
    assert await served(LoadedApp("m:a", application, factory=False, interface="auto")) == ECHOED


def wsgi_function(environ, start_response):
    start_response("200 OK", [])
    return [b"from wsgi"]


class WsgiClass:
    def __init__(self, environ, start_response):
        start_response("200 OK", [])

    def __iter__(self):
        yield b"from wsgi"


class WsgiObject:
    def __call__(self, environ, start_response):
        return wsgi_function(environ, start_response)

    def method(self, environ, start_response, *, debug=False):
        return wsgi_function(environ, start_response)


def wsgi_with_options(prefix, environ, start_response):
    return wsgi_function(environ, start_response)


@pytest.mark.parametrize(
    "application",
    [
        wsgi_function,
        WsgiClass,
        WsgiObject(),
        WsgiObject().method,
        functools.partial(wsgi_with_options, "/prefix"),
        functools.wraps(wsgi_function)(lambda *args: wsgi_function(*args)),
    ],
)
async def test_wsgi_is_found_and_wrapped(application):
    assert detect_interface(application) == "wsgi"
    await check_wsgi_is_served(LoadedApp("m:a", application, factory=False, interface="auto"))


async def check_wsgi_is_served(loaded):
    async with loaded.open() as application:
        assert isinstance(application, WsgiApplication)
        async with open_memory_server(application) as server, server.client() as client:
            assert (await client.get("/")).text == "from wsgi"


class WsgiWithMore:
    def __call__(self, environ, start_response, exc_info=None):
        return wsgi_function(environ, start_response)


class AsgiWithMore:
    def __call__(self, scope, receive, send, *rest):
        raise NotImplementedError


@pytest.mark.parametrize("application", [WsgiWithMore(), wsgiref.validate.validator(wsgi_function)])
def test_wsgi_that_could_be_called_with_three_arguments(application):
    assert detect_interface(application) == "wsgi"


def test_asgi_that_could_be_called_with_more_arguments():
    assert detect_interface(AsgiWithMore()) == "asgi3"


async def test_wsgi_by_name_where_the_signature_does_not_tell():
    def undecided(*args):
        return wsgi_function(*args)

    assert detect_interface(undecided) == "asgi3"
    await check_wsgi_is_served(LoadedApp("m:a", undecided, factory=False, interface="wsgi"))


async def test_a_factory_may_give_a_wsgi_application():
    await check_wsgi_is_served(LoadedApp("m:a", lambda: WsgiObject(), factory=True, interface="auto"))


async def test_wsgi_is_run_as_its_settings_say(tmp_path, write):
    write("main_w.py", "def app(environ, start_response): pass")
    loaded = load(tmp_path, "main_w:app", wsgi=WsgiSettings(threads=3), multiprocess=True)
    async with loaded.open() as application:
        assert (application.threads, application.multiprocess) == (3, True)


async def test_the_interface_setting_wins(tmp_path):
    def undecided(*args):
        return Asgi2Class(*args)

    assert await served(LoadedApp("m:a", undecided, factory=False, interface="asgi2")) == ECHOED
    with pytest.raises(TypeError):
        await served(LoadedApp("m:a", undecided, factory=False, interface="asgi3"))


# -- factories


FACTORIES = """
    import contextlib
    import trio

    life = []

    class Application:
        async def __call__(self, scope, receive, send):
            await send({"type": scope["type"], "got": await receive()})

    class Both(Application):
        async def __aenter__(self):
            life.append("entered by mistake")

        async def __aexit__(self, *args):
            pass

    def plain():
        return Application()

    async def awaited():
        await trio.lowlevel.checkpoint()
        return Application()

    @contextlib.asynccontextmanager
    async def enclosing():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            life.append("begin")
            try:
                yield Application()
            finally:
                life.append("end")
            nursery.cancel_scope.cancel()

    @contextlib.asynccontextmanager
    async def enclosing_asgi2():
        yield lambda scope: Application2(scope)

    class Application2:
        def __init__(self, scope):
            self.scope = scope

        async def __call__(self, receive, send):
            await send({"type": self.scope["type"], "got": await receive()})

    @contextlib.asynccontextmanager
    async def failing_to_begin():
        raise RuntimeError("no database")
        yield

    @contextlib.asynccontextmanager
    async def failing_at_the_end():
        yield Application()
        raise RuntimeError("cannot close")

    def raising():
        raise LookupError("no settings")

    async def exiting():
        raise SystemExit(4)

    def returning_nothing():
        pass

    @contextlib.asynccontextmanager
    async def yielding_nothing():
        yield

    def with_arguments(settings):
        return Application()
"""


@pytest.fixture
def factories(tmp_path, write):
    write("factories.py", FACTORIES)

    def load_factory(name: str) -> LoadedApp:
        return load(tmp_path, f"factories:{name}", factory=True)

    return load_factory


@pytest.mark.parametrize("name", ["plain", "awaited", "enclosing", "enclosing_asgi2", "Application", "Both"])
async def test_every_kind_of_factory_gives_an_application(factories, name):
    assert await served(factories(name)) == ECHOED
    assert "entered by mistake" not in sys.modules["factories"].life


async def test_a_context_manager_encloses_the_body(factories):
    loaded = factories("enclosing")
    life = sys.modules["factories"].life
    assert life == []
    async with loaded.open():
        assert life == ["begin"]
    assert life == ["begin", "end"]


async def test_cancelling_the_body_unwinds_the_context_manager(factories):
    loaded = factories("enclosing")
    with trio.CancelScope() as scope:
        async with loaded.open():
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert sys.modules["factories"].life == ["begin", "end"]


async def test_an_error_of_the_body_is_not_taken_for_the_factorys(factories):
    with pytest.raises(ZeroDivisionError):
        async with factories("enclosing_asgi2").open():
            raise ZeroDivisionError
    with pytest.raises(RuntimeError, match="cannot close"):
        async with factories("failing_at_the_end").open():
            pass


@pytest.mark.parametrize(
    ("name", "words", "frame"),
    [
        ("raising", "the factory 'factories:raising' failed: LookupError: no settings", "in raising"),
        ("exiting", "SystemExit: 4", "in exiting"),
        ("failing_to_begin", "RuntimeError: no database", "in failing_to_begin"),
        ("with_arguments", "TypeError", None),
    ],
)
async def test_a_factory_that_fails_is_a_load_error_with_its_traceback(factories, name, words, frame):
    with pytest.raises(AppLoadError) as caught:
        await served(factories(name))
    assert words in caught.value.message
    assert "app_loader" not in caught.value.traceback_text
    if frame:
        assert frame in caught.value.traceback_text


@pytest.mark.parametrize("name", ["returning_nothing", "yielding_nothing"])
async def test_a_factory_that_gives_no_application_is_a_load_error(factories, name):
    with pytest.raises(AppLoadError, match="object of type NoneType, which cannot be called"):
        await served(factories(name))
