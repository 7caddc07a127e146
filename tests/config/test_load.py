from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from trioserve.config import (
    Config,
    ConfigError,
    LimitSettings,
    LoadedConfig,
    TimeoutSettings,
    load_config,
    settings,
)

DURATION = 'expected a duration of 0 or more, such as 30, "250ms" or "5m", got '


def load(directory: Path, toml: str | None = None, environ: Any = None, flags: Any = None) -> LoadedConfig:
    path = None
    if toml is not None:
        path = Path("serve.toml")
        (directory / path).write_text(toml, encoding="utf-8")
    return load_config(path, environ or {}, flags or {}, cwd=directory)


def fail(directory: Path, toml: str | None = None, environ: Any = None, flags: Any = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(directory, toml, environ, flags)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_without_sources_the_defaults_are_in_force(tmp_path: Path) -> None:
    assert load(tmp_path, environ={"HOME": "/", "PATH": "/bin"}) == LoadedConfig(Config(), None)


def test_later_sources_win_and_lists_replace_lists(tmp_path: Path) -> None:
    toml = 'bind = ["a:1", "b:2"]\n[timeouts]\nhead = 1\nrequest = 1\ngraceful = 1'
    environ = {
        "TRIOSERVE_TIMEOUTS_REQUEST": "2s",
        "TRIOSERVE_TIMEOUTS_GRACEFUL": "2",
        "TRIOSERVE_BIND": "c:3,d:4",
    }
    flags = {"timeouts_graceful": "3s", "bind": ("e:5",), "timeouts_head": None, "server_names": ()}
    loaded = load(tmp_path, toml, environ, flags)
    assert loaded.config == Config(bind="e:5", timeouts=TimeoutSettings(head=1, request=2, graceful=3))
    assert loaded.source == Path("serve.toml")
    assert load(tmp_path, toml, environ).config.bind == ("c:3", "d:4")


def test_files_of_the_working_directory_are_found(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.trioserve.limits]\nrequests = 1")
    assert load(tmp_path) == LoadedConfig(Config(limits=LimitSettings(requests=1)), Path("pyproject.toml"))
    (tmp_path / "trioserve.toml").write_text("[limits]\nrequests = 2")
    assert load(tmp_path) == LoadedConfig(Config(limits=LimitSettings(requests=2)), Path("trioserve.toml"))
    assert load(tmp_path, "").config == Config()


@pytest.mark.parametrize("text", ["this is no TOML", "[tool.other]\nx = 1", '[project]\nname = "trioserve"'])
def test_a_project_file_without_our_table_is_nothing_to_us(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    assert load(tmp_path) == LoadedConfig(Config(), None)


def test_errors_in_a_project_file_name_the_whole_table(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.trioserve.timeouts]\nkeep_alve = 1")
    message = "pyproject.toml: [tool.trioserve.timeouts] keep_alve: unknown key, did you mean keep_alive?"
    assert fail(tmp_path) == message
    (tmp_path / "pyproject.toml").write_text("[tool.trioserve]\nfactory = 1")
    assert fail(tmp_path) == "pyproject.toml: [tool.trioserve] factory: expected true or false, got 1"
    (tmp_path / "pyproject.toml").write_text("[tool]\ntrioserve = 1")
    assert fail(tmp_path) == "pyproject.toml: [tool.trioserve]: expected a table"


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[timeouts]\nkeep_alve = 1", "[timeouts] keep_alve: unknown key, did you mean keep_alive?"),
        ("[timeouts]\nkeep-alive = 1", "[timeouts] keep-alive: unknown key, did you mean keep_alive?"),
        ("keep_alive = 1", "keep_alive: unknown key, did you mean [timeouts] keep_alive?"),
        ("keep_alve = 1", "keep_alve: unknown key, did you mean [timeouts] keep_alive?"),
        ("[limits]\nbacklog = 1", "[limits] backlog: unknown key, did you mean [process] backlog?"),
        ('[http1]\nbind = "a:1"', "[http1] bind: unknown key, did you mean bind?"),
        ("bnid = 1", "bnid: unknown key, did you mean bind?"),
        ("timeuots = 1", "timeuots: unknown key, did you mean [timeouts]?"),
        ("zzzzzzzz = 1", "zzzzzzzz: unknown key"),
        ('"\\u001b[31m\\nx" = 1', "\\u001b[31m x: unknown key"),
        ('bind = "unix:/a\\u0007"', 'bind: expected unix:/path of a socket, got "unix:/a\\u0007"'),
        ("[timeout]\nhead = 1", "[timeout]: unknown table, did you mean [timeouts]?"),
        ("[qqqq]\nhead = 1", "[qqqq]: unknown table"),
        ("[timeouts.head]\nx = 1", f"[timeouts] head: {DURATION}{{'x': 1}}"),
        ("timeouts = 3", "[timeouts]: expected a table"),
        ("[[timeouts]]\nhead = 3", "[timeouts]: expected a table"),
        ("[workers]\nx = 1", "[workers]: unknown table"),
        ('[limits]\nbody_size = "lots"',
         '[limits] body_size: expected a size such as 65536 or "16MiB", got "lots"'),
        ("bind = 8000", "bind: expected host:port, [v6]:port, unix:/path or fd:N, got 8000"),
        ('bind = "8000"',
         'bind: expected host:port, [v6]:port, unix:/path or fd:N, got "8000", did you mean 127.0.0.1:8000?'),
        ("factory = 1", "factory: expected true or false, got 1"),
        ("factory = 2024-01-01",
         "factory: expected true or false, got datetime.date(2024, 1, 1)"),
        ('insecure_bind = "a:1"',
         "insecure_bind: needs [tls] certificate; without TLS, bind is plain already"),
        ("[proxy]\ntrusted = []\nprotocol = 'v2'",
         "[proxy] protocol: has no effect while [proxy] trusted is empty"),
        ("x = \n", "line 1, column 5: Invalid value"),
        ("a = 1\na = 2\nb = 3", "line 2, column 6: Cannot overwrite a value"),
        ("[timeouts]\nx", "line 2: Expected '=' after a key in a key/value pair (at end of document)"),
        ("\n\nx = '''", "line 3: Expected \"'''\" (at end of document)"),
        ("x = " + "[" * 100_000, "nested too deeply"),
    ],
    ids=lambda text: text[:40],
)  # fmt: skip
def test_mistakes_in_a_file_are_named(tmp_path: Path, toml: str, message: str) -> None:
    assert fail(tmp_path, toml) == "serve.toml: " + message


def test_the_first_mistake_of_a_file_is_reported(tmp_path: Path) -> None:
    toml = "[timeouts]\nkeep_alive = 1\nhead = 'x'\n[limits]\nwrong = 1\n[alsowrong]"
    assert fail(tmp_path, toml).startswith("serve.toml: [timeouts] head:")


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    def fail_path(path: str) -> str:
        with pytest.raises(ConfigError) as caught:
            load_config(Path(path), {}, {}, cwd=tmp_path)
        return str(caught.value)

    assert fail_path("absent.toml") == "absent.toml: No such file or directory"
    assert fail_path("/") == "/: Is a directory"
    (tmp_path / "latin.toml").write_bytes(b"# one\n# caf\xe9\n")
    assert fail_path("latin.toml") == "latin.toml: line 2: not UTF-8"
    if os.geteuid() != 0:
        (tmp_path / "secret.toml").touch(mode=0)
        assert fail_path("secret.toml") == "secret.toml: Permission denied"


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"TRIOSERVE_TIMEOUTS_HEAD": "x"},
         f'TRIOSERVE_TIMEOUTS_HEAD: {DURATION}"x"'),
        ({"TRIOSERVE_TIMEOUT_HEAD": "1"},
         "TRIOSERVE_TIMEOUT_HEAD: unknown variable, did you mean TRIOSERVE_TIMEOUTS_HEAD?"),
        ({"TRIOSERVE_": "1"}, "TRIOSERVE_: unknown variable, did you mean TRIOSERVE_APP?"),
        ({"TRIOSERVE_FACTORY": "maybe"}, 'TRIOSERVE_FACTORY: expected true or false, got "maybe"'),
        ({"TRIOSERVE_PROCESS_BACKLOG": "1e3"},
         'TRIOSERVE_PROCESS_BACKLOG: expected a whole number of at least 1, got "1e3"'),
        ({"TRIOSERVE_BIND": ""}, "TRIOSERVE_BIND: must not be empty"),
        ({"TRIOSERVE_TLS_KEY": "k"}, "TRIOSERVE_TLS_KEY: has no effect without [tls] certificate"),
        ({"TRIOSERVE_TLS_CERTIFICATE": "/"}, "TRIOSERVE_TLS_CERTIFICATE: cannot read /: Is a directory"),
        ({"PORT": "http"}, 'PORT: expected a port from 0 to 65535, got "http"'),
        ({"PORT": "65536"}, 'PORT: expected a port from 0 to 65535, got "65536"'),
        ({"WEB_CONCURRENCY": "lots"},
         'WEB_CONCURRENCY: expected a whole number from 0 to 1024 or "auto", got "lots"'),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_mistakes_in_the_environment_are_named(tmp_path: Path, environ: dict[str, str], message: str) -> None:
    assert fail(tmp_path, environ=environ) == "environment: " + message


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"limits_requests": "-1"}, '--limits-requests: expected a whole number of at least 0, got "-1"'),
        (
            {"http2_reset_budget": "200"},
            '--http2-reset-budget: expected a count in a time, such as "200/10s" or "50/500ms", got "200"',
        ),
        (
            {"proxy_trusted": "", "http2_h2c_upgrade": True},
            "--http2-h2c-upgrade: has no effect while [proxy] trusted is empty",
        ),
        ({"bind": ["a:1", "a:1"]}, "--bind: a:1 is given twice"),
        ({"app": "main"}, 'APP: expected "module:attribute", got "main"'),
        ({"app_dir": "nowhere"}, "--app-dir: {0}/nowhere is not a directory"),
    ],
    ids=str,
)
def test_mistakes_on_the_command_line_are_named(tmp_path: Path, flags: dict[str, Any], message: str) -> None:
    assert fail(tmp_path, flags=flags) == "command line: " + message.format(tmp_path)


def test_a_missing_half_is_reported_to_who_gave_the_other(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("-----BEGIN CERTIFICATE-----")
    message = f"missing, and {tmp_path}/cert.pem holds no private key"
    assert fail(tmp_path, '[tls]\ncertificate = "cert.pem"') == f"serve.toml: [tls] key: {message}"
    assert fail(tmp_path, flags={"tls_certificate": "cert.pem"}) == f"command line: --tls-key: {message}"


def test_port_counts_only_when_nobody_names_a_bind(tmp_path: Path) -> None:
    environ = {"PORT": "8080"}
    assert load(tmp_path, environ=environ).config.bind == ("0.0.0.0:8080",)
    assert load(tmp_path, 'bind = "a:1"', environ).config.bind == ("a:1",)
    assert load(tmp_path, None, environ | {"TRIOSERVE_BIND": "b:1"}).config.bind == ("b:1",)
    assert load(tmp_path, None, environ, {"bind": ("c:1",)}).config.bind == ("c:1",)
    assert load(tmp_path, environ={"PORT": ""}).config == Config()


def test_web_concurrency_counts_only_when_nobody_names_the_workers(tmp_path: Path) -> None:
    environ = {"WEB_CONCURRENCY": "3"}
    assert load(tmp_path, environ=environ).config.process.workers == 3
    assert load(tmp_path, "[process]\nworkers = 2", environ).config.process.workers == 2
    assert load(tmp_path, None, environ, {"process_workers": "auto"}).config.process.workers == "auto"
    assert load(tmp_path, environ={"WEB_CONCURRENCY": ""}).config == Config()


def test_paths_are_relative_to_who_wrote_them(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "app.env").touch()
    (tmp_path / "log.json").touch()
    (tmp_path / "etc" / "serve.toml").write_text(
        'app_dir = "."\nbind = ["unix:web.sock", "a:1"]\n[logging]\naccess = "access.log"\nfile = "/log"'
    )
    environ = {"TRIOSERVE_ENV_FILE": "app.env"}
    config = load_config(Path("etc/serve.toml"), environ, {"logging_config": "log.json"}, cwd=tmp_path).config
    assert config.app_dir == f"{tmp_path}/etc"
    assert config.bind == (f"unix:{tmp_path}/etc/web.sock", "a:1")
    assert config.logging.access == f"{tmp_path}/etc/access.log"
    assert config.logging.file == "/log"
    assert config.env_file == f"{tmp_path}/app.env"
    assert config.logging.config == f"{tmp_path}/log.json"


def test_words_are_not_paths(tmp_path: Path) -> None:
    assert load(tmp_path, '[logging]\naccess = "off"').config.logging.access == "off"
    assert load(tmp_path, '[logging]\naccess = "-"').config.logging.access == "-"


def test_empty_text_takes_an_optional_setting_back(tmp_path: Path) -> None:
    toml = 'env_file = "x"\nserver_names = ["a"]'
    config = load(tmp_path, toml, {"TRIOSERVE_ENV_FILE": ""}, {"server_names": ""}).config
    assert (config.env_file, config.server_names) == (None, ())


def test_an_unknown_flag_is_the_caller_s_mistake(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        load(tmp_path, flags={"keep_alive": "3"})


def test_every_mistyped_key_is_suggested_back(tmp_path: Path) -> None:
    for setting in settings():
        wrong = setting.key + "x"
        toml = f"[{setting.table}]\n{wrong} = 1" if setting.table else f"{wrong} = 1"
        assert fail(tmp_path, toml).endswith(f"unknown key, did you mean {setting.key}?")
