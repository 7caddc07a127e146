from __future__ import annotations

import pickle
import resource
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from trioserve.config import (
    Config,
    ConfigError,
    EventRate,
    HeaderSettings,
    Http1Settings,
    Http2Settings,
    LifecycleSettings,
    LimitSettings,
    LoggingSettings,
    ProcessSettings,
    ProxySettings,
    TcpBind,
    TimeoutSettings,
    TlsSettings,
    UnixBind,
    UnixSocketSettings,
    WebSocketSettings,
    WsgiSettings,
    resolve_connection_limit,
    settings,
)

DURATION = 'expected a duration of 0 or more, such as 30, "250ms" or "5m", got '
BOUNDED = 'expected a size from {} to {}, such as 65536 or "1MiB"'
RATE = 'expected a count in a time, such as "200/10s" or "50/500ms", got '


def test_every_default_is_what_its_own_kind_makes_of_it() -> None:
    for setting in settings():
        parsed = setting.kind.parse(setting.default)
        assert (parsed, type(parsed)) == (setting.default, type(setting.default)), setting.name


def test_a_config_without_arguments_is_the_documented_one() -> None:
    config = Config()
    assert config.binds == (TcpBind("127.0.0.1", 8000),)
    assert config.insecure_binds == ()
    assert not config.tls.enabled
    assert config.timeouts.keep_alive == 75
    assert config.http1.max_head_size == 65536
    assert config.unix.mode_bits == 0o660
    assert config.http2 == Http2Settings(
        enabled=True,
        h2c=True,
        h2c_upgrade=False,
        max_concurrent_streams=100,
        max_head_size="64KiB",
        max_fields=100,
        window="1MiB",
        connection_window="1MiB",
        max_frame_size="16KiB",
        reset_budget="200/10s",
        control_budget="1000/10s",
    )
    assert config.websocket == WebSocketSettings(
        enabled=True,
        max_message_size="16MiB",
        max_fragments=4096,
        queue=32,
        ping_interval=20,
        ping_timeout="20s",
        close_timeout=10,
        deflate=True,
        idle_timeout=0,
    )
    assert config.http2.window == 1 << 20
    assert (config.http2.control_budget.count, config.http2.control_budget.seconds) == (1000, 10.0)


def test_values_are_normalised_in_python_too() -> None:
    config = Config(
        bind="[::1]:0",
        server_names=["Example.ORG"],
        app_dir=Path("."),
        timeouts=TimeoutSettings(graceful=5, head="250ms"),
        limits=LimitSettings(body_size="16MiB"),
        proxy=ProxySettings(trusted="10.0.0.0/8"),
        headers=HeaderSettings(extra=["X-One: 1", ("X-Two", " 2 ")]),
        unix=UnixSocketSettings(mode="0600", user=""),
    )
    assert config.bind == ("[::1]:0",)
    assert config.server_names == ("example.org",)
    assert config.app_dir == "."
    assert (config.timeouts.graceful, type(config.timeouts.graceful)) == (5.0, float)
    assert config.timeouts.head == 0.25
    assert config.limits.body_size == 16 << 20
    assert config.proxy.trusted == ("10.0.0.0/8",)
    assert config.headers.extra == (("x-one", "1"), ("x-two", "2"))
    assert (config.unix.mode_bits, config.unix.user) == (0o600, None)


def test_the_bounds_of_the_wire_are_themselves_allowed() -> None:
    least = Http2Settings(max_concurrent_streams=1, window=65535, max_frame_size=16384, max_head_size="1KiB")
    assert (least.window, least.max_frame_size, least.max_head_size) == (65535, 16384, 1024)
    most = Http2Settings(connection_window=2**31 - 1, max_frame_size=16777215)
    assert (most.connection_window, most.max_frame_size) == (2**31 - 1, 16777215)


def test_a_config_is_frozen_and_survives_pickling_and_replacement() -> None:
    config = Config(
        bind=("127.0.0.1:0", "unix:/run/x"),
        timeouts=TimeoutSettings(graceful=5),
        http2=Http2Settings(reset_budget=EventRate(5, 1)),
    )
    with pytest.raises(AttributeError):
        config.bind = ()  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(config)) == config
    assert replace(config, bind="127.0.0.1:1").bind == ("127.0.0.1:1",)
    assert config.binds[1] == UnixBind("/run/x")
    with pytest.raises(ConfigError):
        replace(config, bind="1")


def test_a_config_error_survives_pickling() -> None:
    error = ConfigError("[tls] key", "serve.toml", "missing")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.key, copy.source, copy.reason) == ("[tls] key", "serve.toml", "missing")
    assert str(copy) == "serve.toml: [tls] key: missing"


def test_an_unknown_argument_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="keep_alve"):
        TimeoutSettings(keep_alve=3)  # type: ignore[call-arg]


WRONG: list[tuple[type, dict[str, Any], str]] = [
    (Config, {"app": "main"}, 'app: expected "module:attribute", got "main"'),
    (Config, {"app": ":app"}, 'app: expected "module:attribute", got ":app"'),
    (Config, {"app": 3}, 'app: expected "module:attribute", got 3'),
    (Config, {"interface": "wsgi3"}, 'interface: expected one of auto, asgi3, asgi2, wsgi, got "wsgi3"'),
    (Config, {"factory": 1}, "factory: expected true or false, got 1"),
    (Config, {"app_dir": "/does/not/exist"}, "app_dir: /does/not/exist is not a directory"),
    (Config, {"env_file": "/absent.env"}, "env_file: /absent.env is not a file"),
    (Config, {"env_file": "\udcff"}, 'env_file: expected a path, got "\\udcff"'),
    (LoggingSettings, {"config": "/"}, "[logging] config: / is not a file"),
    (Config, {"app_dir": ""}, 'app_dir: expected a path, got ""'),
    (Config, {"bind": ()}, "bind: must not be empty"),
    (Config, {"bind": [3]}, "bind: expected host:port, [v6]:port, unix:/path or fd:N, got 3"),
    (Config, {"bind": ["a:1", "A:01"]}, "bind: a:1 is given twice"),
    (Config, {"bind": [":80", "0.0.0.0:80"]}, "bind: 0.0.0.0:80 is given twice"),
    (
        Config,
        {"insecure_bind": "127.0.0.1:80"},
        "insecure_bind: needs [tls] certificate; without TLS, bind is plain already",
    ),
    (Config, {"root_path": "api"}, 'root_path: expected a path such as "/api", got "api"'),
    (Config, {"root_path": "/api/"}, 'root_path: expected a path such as "/api", got "/api/"'),
    (Config, {"server_names": [""]}, 'server_names: expected a host name without port, got ""'),
    (Config, {"server_names": ["a:80"]}, 'server_names: expected a host name without port, got "a:80"'),
    (Config, {"timeouts": {"head": 3}}, "[timeouts]: expected TimeoutSettings"),
    (ProcessSettings, {"backlog": 0}, "[process] backlog: expected a whole number of at least 1, got 0"),
    (
        ProcessSettings,
        {"workers": "many"},
        '[process] workers: expected a whole number from 0 to 1024 or "auto", got "many"',
    ),
    (
        ProcessSettings,
        {"umask": "9"},
        '[process] umask: expected octal digits in quotes, such as "027", got "9"',
    ),
    (
        ProcessSettings,
        {"max_requests_jitter": 5},
        "[process] max_requests_jitter: has no effect without max_requests",
    ),
    (ProcessSettings, {"preload": True, "workers": 0}, "[process] preload: has no effect without workers"),
    (ProcessSettings, {"max_rss": "1GiB", "workers": 0}, "[process] max_rss: has no effect without workers"),
    (Config, {"reload_dirs": "/absent"}, "reload_dirs: /absent is not a directory"),
    (
        Config,
        {"reload": True, "process": ProcessSettings(workers=0)},
        "reload: needs workers that can be replaced, and [process] workers is 0",
    ),
    (WsgiSettings, {"threads": 0}, "[wsgi] threads: expected a whole number from 1 to 4096, got 0"),
    (
        ProcessSettings,
        {"backlog": True},
        "[process] backlog: expected a whole number of at least 1, got true",
    ),
    (
        UnixSocketSettings,
        {"mode": 660},
        '[unix] mode: expected three octal digits in quotes, such as "660", got 660',
    ),
    (
        UnixSocketSettings,
        {"mode": "8"},
        '[unix] mode: expected three octal digits in quotes, such as "660", got "8"',
    ),
    (Http1Settings, {"parser": "x"}, '[http1] parser: expected one of auto, h11, httptools, got "x"'),
    (
        Http1Settings,
        {"max_head_size": 8},
        '[http1] max_head_size: expected a size such as 65536 or "16MiB" of at least 256, got 8',
    ),
    (Http1Settings, {"lenient_bare_lf": "yes"}, '[http1] lenient_bare_lf: expected true or false, got "yes"'),
    (
        Http2Settings,
        {"max_concurrent_streams": 0},
        "[http2] max_concurrent_streams: expected a whole number from 1 to 2147483647, got 0",
    ),
    (
        Http2Settings,
        {"max_concurrent_streams": 2**31},
        "[http2] max_concurrent_streams: expected a whole number from 1 to 2147483647, got 2147483648",
    ),
    (Http2Settings, {"max_fields": 0}, "[http2] max_fields: expected a whole number of at least 1, got 0"),
    (
        Http2Settings,
        {"max_head_size": 1023},
        f"[http2] max_head_size: {BOUNDED.format(1024, 2**31 - 1)}, got 1023",
    ),
    (Http2Settings, {"window": 65534}, f"[http2] window: {BOUNDED.format(65535, 2**31 - 1)}, got 65534"),
    (
        Http2Settings,
        {"connection_window": "2GiB"},
        f'[http2] connection_window: {BOUNDED.format(65535, 2**31 - 1)}, got "2GiB"',
    ),
    (
        Http2Settings,
        {"max_frame_size": 16383},
        f"[http2] max_frame_size: {BOUNDED.format(16384, 16777215)}, got 16383",
    ),
    (
        Http2Settings,
        {"max_frame_size": "16MiB"},
        f'[http2] max_frame_size: {BOUNDED.format(16384, 16777215)}, got "16MiB"',
    ),
    (Http2Settings, {"reset_budget": "0/10s"}, f'[http2] reset_budget: {RATE}"0/10s"'),
    (Http2Settings, {"reset_budget": 200}, f"[http2] reset_budget: {RATE}200"),
    (Http2Settings, {"control_budget": (5, 1.0)}, f"[http2] control_budget: {RATE}(5, 1.0)"),
    (
        Config,
        {"http2": Http2Settings(h2c_upgrade=True), "proxy": ProxySettings(trusted=())},
        "[http2] h2c_upgrade: has no effect while [proxy] trusted is empty",
    ),
    (
        WebSocketSettings,
        {"max_message_size": 0},
        '[websocket] max_message_size: expected a size such as 65536 or "16MiB" of at least 1, got 0',
    ),
    (
        WebSocketSettings,
        {"max_fragments": 0},
        "[websocket] max_fragments: expected a whole number of at least 1, got 0",
    ),
    (WebSocketSettings, {"queue": 0}, "[websocket] queue: expected a whole number of at least 1, got 0"),
    (WebSocketSettings, {"ping_interval": "often"}, f'[websocket] ping_interval: {DURATION}"often"'),
    (WebSocketSettings, {"close_timeout": -1}, f"[websocket] close_timeout: {DURATION}-1"),
    (WebSocketSettings, {"deflate": "off"}, '[websocket] deflate: expected true or false, got "off"'),
    (TimeoutSettings, {"head": -1}, f"[timeouts] head: {DURATION}-1"),
    (TimeoutSettings, {"head": float("nan")}, f"[timeouts] head: {DURATION}nan"),
    (TimeoutSettings, {"head": float("inf")}, f"[timeouts] head: {DURATION}inf"),
    (TimeoutSettings, {"head": True}, f"[timeouts] head: {DURATION}true"),
    (TimeoutSettings, {"head": None}, f"[timeouts] head: {DURATION}None"),
    (
        LimitSettings,
        {"body_size": "lots"},
        '[limits] body_size: expected a size such as 65536 or "16MiB", got "lots"',
    ),
    (
        LimitSettings,
        {"connections": "many"},
        '[limits] connections: expected a whole number of at least 0 or "auto", got "many"',
    ),
    (LifecycleSettings, {"lifespan": True}, "[lifecycle] lifespan: expected one of auto, on, off, got true"),
    (
        ProxySettings,
        {"trusted": ["10.0.0.1/8"]},
        '[proxy] trusted: expected an address, a network, "unix" or "*", got "10.0.0.1/8"',
    ),
    (ProxySettings, {"protocol": "v3"}, '[proxy] protocol: expected one of off, v1, v2, any, got "v3"'),
    (
        ProxySettings,
        {"protocol": "any", "trusted": ()},
        "[proxy] protocol: has no effect while [proxy] trusted is empty",
    ),
    (
        HeaderSettings,
        {"extra": ["x"]},
        '[headers] extra: expected a header field such as "name: value", got "x"',
    ),
    (
        HeaderSettings,
        {"extra": [["x y", "1"]]},
        "[headers] extra: expected a header field such as \"name: value\", got ['x y', '1']",
    ),
    (
        HeaderSettings,
        {"extra": ["x: a\r\nb: c"]},
        '[headers] extra: expected a header field such as "name: value", got "x: a\\u000d\\u000ab: c"',
    ),
    (
        HeaderSettings,
        {"extra": ["Content-Length: 3"]},
        "[headers] extra: content-length belongs to the server and cannot be set",
    ),
    (
        LoggingSettings,
        {"level": "INFO"},
        '[logging] level: expected one of debug, info, warning, error, critical, got "INFO"',
    ),
    (LoggingSettings, {"access": ""}, '[logging] access: expected "-", "off" or a path, got ""'),
    (TlsSettings, {"key_password": 12345}, "[tls] key_password: expected a text, got something else"),
]


@pytest.mark.parametrize(("group", "values", "message"), WRONG, ids=lambda value: str(value)[:60])
def test_wrong_values_are_named(group: type, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        group(**values)
    assert str(caught.value) == message
    assert caught.value.source is None


def test_long_wrong_values_are_cut() -> None:
    with pytest.raises(ConfigError) as caught:
        Config(app="x" * 100_000)
    assert len(str(caught.value)) < 120


def test_port_zero_may_be_given_twice() -> None:
    assert len(Config(bind=["127.0.0.1:0", "127.0.0.1:0"]).binds) == 2


@pytest.fixture
def open_files_limit() -> Any:
    saved = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield lambda soft: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, saved[1]))
    resource.setrlimit(resource.RLIMIT_NOFILE, saved)


@pytest.mark.parametrize(("soft", "limit"), [(1024, 896), (256, 192), (200, 136)])
def test_the_automatic_connection_limit_leaves_descriptors(
    open_files_limit: Any, soft: int, limit: int
) -> None:
    open_files_limit(soft)
    assert resolve_connection_limit(LimitSettings()) == limit


def test_an_explicit_connection_limit_is_taken_as_it_is() -> None:
    assert resolve_connection_limit(LimitSettings(connections=7)) == 7
    assert resolve_connection_limit(LimitSettings(connections=0)) == 0
