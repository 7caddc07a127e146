from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from trioserve.config import (
    Config,
    ConfigError,
    LimitSettings,
    Setting,
    SniCertificate,
    TimeoutSettings,
    dump_toml,
    load_config,
    settings,
)
from trioserve.config.errors import render_text
from trioserve.config.kinds import BindText, Choice, Count, Duration, FilePath, ListOf, Rate, Size, Switch
from trioserve.config.rules import HeaderField
from trioserve.config.tls import SniEntry

# Settings whose kind does not say what a right value is.
TEXTS = {
    "app": "package.module:build.app",
    "root_path": "/api",
    "server_names": "a.example,b.example",
    "reload_dirs": "folder",
    "reload_include": "*.html,*.toml",
    "reload_exclude": "build,*.tmp",
    "process_heartbeat": "1500ms",
    "process_user": "nobody",
    "process_group": "nogroup",
    "process_umask": "027",
    "process_title": "shop",
    "unix_mode": "600",
    "unix_user": "nobody",
    "unix_group": "nogroup",
    "tls_key_password": "secret",
    "tls_ciphers": "HIGH",
    "proxy_trusted": "10.0.0.0/8,unix",
    "logging_access_format": '%(h)s "%(r)s" \\',
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("settings")
    authority = trustme.CA()
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(directory / "both.pem")
    (directory / "folder").mkdir()
    return directory


def other_text(setting: Setting) -> str:
    """A right value, as text, that is not the default."""
    kind = setting.kind.item if isinstance(setting.kind, ListOf) else setting.kind
    match kind:
        case _ if setting.name in TEXTS:
            return TEXTS[setting.name]
        case Switch():
            return "false" if setting.default else "true"
        case Count():
            return "7"
        case Duration():
            return "250ms"
        case Size():
            return "3KiB" if kind.least <= 3072 else "3MiB"
        case Rate():
            return "50/500ms"
        case Choice():
            return next(word for word in reversed(kind.choices) if word != setting.default)
        case FilePath():
            return "folder" if setting.name == "app_dir" else "both.pem"
        case BindText():
            return "unix:a.sock,[::1]:0"
        case HeaderField():
            return "X-One: 1, 2\nx-two: 3"
        case SniEntry():
            return "a.example=both.pem,b.example=both.pem:both.pem"
    raise AssertionError(setting.name)


def as_toml(setting: Setting, text: str) -> str:
    """The same value as somebody would write it in a file."""
    if isinstance(setting.kind, Switch | Count):
        return text
    if isinstance(setting.kind, ListOf):
        return "[" + ", ".join(render_text(item) for item in text.split(setting.kind.separator)) + "]"
    return render_text(text)


def as_flag(setting: Setting, text: str) -> Any:
    if setting.is_switch:
        return text == "true"
    return tuple(text.split(setting.kind.separator)) if setting.repeatable else text


def partners(setting: Setting) -> dict[str, str]:
    """What the setting has no effect without."""
    environ = {}
    if setting.table == "tls" or setting.name == "insecure_bind":
        environ["TRIOSERVE_TLS_CERTIFICATE"] = "both.pem"
    if setting.name == "tls_ca":
        environ["TRIOSERVE_TLS_CLIENT_CERTIFICATES"] = "optional"
    if setting.name == "tls_client_certificates":
        environ["TRIOSERVE_TLS_CA"] = "both.pem"
    if setting.name == "process_max_requests_jitter":
        environ["TRIOSERVE_PROCESS_MAX_REQUESTS"] = "100"
    environ.pop(setting.env, None)
    return environ


@pytest.mark.parametrize("setting", settings(), ids=lambda setting: setting.name)
def test_each_source_means_the_same(setting: Setting, directory: Path) -> None:
    text, environ = other_text(setting), partners(setting)
    toml = f"{setting.key} = {as_toml(setting, text)}"
    (directory / "serve.toml").write_text(f"[{setting.table}]\n{toml}" if setting.table else toml)
    path = Path("serve.toml")
    from_file = load_config(path, environ, {}, cwd=directory).config
    from_environment = load_config(None, environ | {setting.env: text}, {}, cwd=directory).config
    from_flag = load_config(None, environ, {setting.name: as_flag(setting, text)}, cwd=directory).config
    without = load_config(None, environ if setting.table != "tls" else {}, {}, cwd=directory).config

    assert from_file == from_environment == from_flag
    assert from_file != without
    group = getattr(from_file, setting.table) if setting.table else from_file
    assert getattr(group, setting.key) != setting.default
    assert isinstance(getattr(group, setting.key), setting.python_type)

    if not setting.secret:
        dumped = directory / "dumped.toml"
        dumped.write_text(dump_toml(from_file))
        assert load_config(dumped, {}, {}, cwd=Path("/")).config == from_file


def test_names_are_unique_and_follow_the_rule() -> None:
    found = settings()
    assert len({setting.name for setting in found}) == len(found)
    by_name = {setting.name: setting for setting in found}
    head = by_name["timeouts_keep_alive"]
    assert (head.flag, head.env) == ("--timeouts-keep-alive", "TRIOSERVE_TIMEOUTS_KEEP_ALIVE")
    assert (head.display, head.unit, head.default) == ("[timeouts] keep_alive", "seconds", 75)
    assert by_name["headers_server"].negative_flag == "--no-headers-server"
    assert (by_name["bind"].other_flags, by_name["bind"].repeatable) == (("-b",), True)
    assert [setting.name for setting in found if setting.positional] == ["app"]
    assert by_name["http1_parser"].choices == ("auto", "h11", "httptools")
    assert by_name["http2_reset_budget"].metavar == "COUNT/DURATION"
    assert by_name["http2_max_concurrent_streams"].env == "TRIOSERVE_HTTP2_MAX_CONCURRENT_STREAMS"
    assert by_name["tls_sni"].metavar == "NAME=CERTIFICATE:KEY"
    flags = [flag for setting in found for flag in (setting.flag, setting.negative_flag) if flag]
    assert len(set(flags)) == len(flags)


def test_every_help_is_a_sentence() -> None:
    for setting in settings():
        assert setting.help[0].isupper(), setting.name
        assert setting.help.endswith("."), setting.name


def test_secrets_are_not_dumped(directory: Path) -> None:
    environ = {"TRIOSERVE_TLS_CERTIFICATE": "both.pem", "TRIOSERVE_TLS_KEY_PASSWORD": "hunter2"}
    text = dump_toml(load_config(None, environ, {}, cwd=directory).config)
    assert "hunter2" not in text
    assert '# key_password = "***"' in text


def test_odd_text_survives_the_dump(directory: Path) -> None:
    sni = SniCertificate(name="a", certificate=str(directory / "both.pem"))
    (directory / "odd.toml").write_text(
        "[tls]\ncertificate = 'both.pem'\n[[tls.sni]]\nname = 'a'\ncertificate = 'both.pem'\n"
        "[headers]\nextra = [['X', 'quote \" and \\ and é']]"
    )
    config = load_config(Path("odd.toml"), {}, {}, cwd=directory).config
    assert config.tls.sni == (sni,)
    assert config.headers.extra == (("x", 'quote " and \\ and é'),)
    (directory / "dumped.toml").write_text(dump_toml(config), encoding="utf-8")
    assert load_config(Path("dumped.toml"), {}, {}, cwd=directory).config == config


@given(
    st.floats(0, allow_infinity=False, allow_nan=False), st.integers(0, 2**63 - 1), st.integers(0, 10**18 - 1)
)
def test_numbers_survive_the_dump(
    tmp_path_factory: pytest.TempPathFactory, seconds: float, size: int, count: int
) -> None:
    config = Config(
        timeouts=TimeoutSettings(head=seconds), limits=LimitSettings(body_size=size, requests=count)
    )
    path = tmp_path_factory.getbasetemp() / "numbers.toml"
    path.write_text(dump_toml(config))
    assert load_config(path, {}, {}, cwd=Path("/")).config.timeouts == config.timeouts
    assert load_config(path, {}, {}, cwd=Path("/")).config.limits == config.limits


@given(st.sampled_from(settings()), st.text(max_size=12))
def test_any_text_is_a_value_or_a_config_error_of_one_line(setting: Setting, text: str) -> None:
    message = "environment: TRIOSERVE_"
    try:
        load_config(None, {setting.env: text}, {}, cwd=Path("/nonexistent"))
    except ConfigError as error:
        message = str(error)
    assert message.startswith("environment: TRIOSERVE_")
    assert len(message.splitlines()) == 1
