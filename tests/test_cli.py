from __future__ import annotations

import json
import subprocess
import sys
import tomllib

import pytest

import trioserve
from tests.server_process import clean_environment
from trioserve.cli import main
from trioserve.config import settings

APP = "async def app(scope, receive, send):\n    raise NotImplementedError\n"


@pytest.fixture
def directory(tmp_path, monkeypatch):
    for name in set(trioserve_variables()):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "main.py").write_text(APP, encoding="utf-8")
    return tmp_path


def trioserve_variables():
    return ["PORT", *(setting.env for setting in settings())]


def print_config(capsys, *arguments):
    assert main(["--print-config", *arguments]) == 0
    return tomllib.loads(capsys.readouterr().out)


def refusal(capsys, *arguments):
    """The one line on stderr."""
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert output.err.startswith("trioserve: error: ")
    return output.err.removeprefix("trioserve: error: ").rstrip("\n")


# -- answers without serving ---------------------------------------------------------------------------------------


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"trioserve {trioserve.__version__}\n"


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_describes_every_setting(capsys, flag):
    assert main([flag]) == 0
    words = capsys.readouterr().out.split()
    for setting in settings():
        assert setting.positional or setting.flag in words
        assert setting.negative_flag is None or setting.negative_flag in words


def test_help_has_a_section_for_each_table_with_units_and_defaults(capsys):
    assert main(["--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert (
        "[timeouts] How long the server waits, for peers, applications and itself: --timeouts-keep-alive"
        in text
    )
    assert (
        "A request head must be complete within this, else 408; 0 = no limit. [seconds; default: 15]" in text
    )
    assert (
        "--http1-max-head-size SIZE Largest request line and fields together; a larger head gets 431. [bytes;"
        in text
    )
    assert "--logging-format text|json Lines for people or for machines." in text


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["--print-config"], ["--timeouts-head", "x"]]
)
def test_what_needs_no_server_imports_none(arguments, directory):
    code = (
        "import sys, json; from trioserve.cli import main; main(sys.argv[1:]);"
        "print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=directory,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    modules = set(json.loads(result.stderr.splitlines()[-1]))
    assert "trioserve.config" in modules
    assert not modules & {"trio", "ssl", "asyncio", "h11", "trioserve.server"}
    ours = {name for name in modules if name.startswith("trioserve.process.")}
    assert ours == {"trioserve.process.standard_streams"}


# -- from words to settings ----------------------------------------------------------------------------------------


def test_flags_are_read(capsys, directory):
    config = print_config(
        capsys,
        *("-b", "127.0.0.1:1", "--bind", "unix:x.sock", "--timeouts-head", "250ms", "--factory"),
        *("--no-headers-server", "--logging-access", "-", "--http1-max-head-size", "1MiB", "main:app"),
    )
    assert config["app"] == "main:app"
    assert config["bind"] == ["127.0.0.1:1", f"unix:{directory}/x.sock"]
    assert config["factory"] is True
    assert config["timeouts"]["head"] == 0.25
    assert config["headers"] == {"server": False, "date": True, "extra": []}
    assert config["http1"]["max_head_size"] == "1MiB"
    assert config["logging"]["access"] == "-"


def test_flags_that_are_not_given_leave_the_file_alone(capsys, directory):
    (directory / "x.toml").write_text('factory = true\nbind = ["127.0.0.1:7"]\n[headers]\ndate = false\n')
    config = print_config(capsys, "-c", "x.toml")
    assert config["factory"] is True
    assert config["bind"] == ["127.0.0.1:7"]
    assert config["headers"]["date"] is False
    assert print_config(capsys, "--config", "x.toml", "--no-factory")["factory"] is False


def test_print_config_loads_back_and_hides_secrets(capsys, directory):
    assert main(["--print-config", "--timeouts-graceful", "7"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"# In force in trioserve {trioserve.__version__}, from no file\n")
    (directory / "again.toml").write_text(text)
    assert main(["--print-config", "--config", "again.toml"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == text.splitlines()[1:]


def test_print_config_names_its_file(capsys, directory):
    (directory / "trioserve.toml").write_text("[timeouts]\nhead = 3\n")
    assert main(["--print-config"]) == 0
    text = capsys.readouterr().out
    assert "from trioserve.toml\n" in text.splitlines(keepends=True)[0]
    assert tomllib.loads(text)["timeouts"]["head"] == 3


def test_port(capsys, directory, monkeypatch):
    monkeypatch.setenv("PORT", "8081")
    assert print_config(capsys)["bind"] == ["0.0.0.0:8081"]
    assert print_config(capsys, "--bind", "127.0.0.1:1")["bind"] == ["127.0.0.1:1"]


# -- mistakes ------------------------------------------------------------------------------------------------------


def test_misspelt_key(capsys, directory):
    (directory / "trioserve.toml").write_text("[timeouts]\ngracefull = 3\n")
    line = refusal(capsys, "main:app")
    assert line == "trioserve.toml: [timeouts] gracefull: unknown key, did you mean graceful?"


def test_wrong_type(capsys, directory):
    (directory / "x.toml").write_text('[headers]\ndate = "no"\n')
    line = refusal(capsys, "main:app", "-c", "x.toml")
    assert line == 'x.toml: [headers] date: expected true or false, got "no"'


def test_missing_file(capsys, directory):
    assert refusal(capsys, "main:app", "-c", "none.toml") == "none.toml: No such file or directory"


def test_certificate_without_key(capsys, directory):
    (directory / "cert.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    (directory / "x.toml").write_text('[tls]\ncertificate = "cert.pem"\n')
    line = refusal(capsys, "main:app", "-c", "x.toml")
    assert line == f"x.toml: [tls] key: missing, and {directory}/cert.pem holds no private key"


@pytest.mark.parametrize("more", [(), ("--check",)])
def test_no_application(capsys, directory, more):
    assert refusal(capsys, *more).startswith("no application: name it, as in `trioserve main:app`")


USAGE = {
    "unknown option": (["--binds", "x"], "No such option '--binds'."),
    "missing value": (["main:app", "--bind"], "Option '--bind' requires an argument."),
    "value for a switch": (["--factory=yes"], "Option '--factory' does not take a value."),
    "two applications": (["a:app", "b:app"], "Got unexpected extra argument (b:app)"),
    "value that is refused": (
        ["main:app", "--timeouts-head", "soon"],
        "command line: --timeouts-head: expected",
    ),
    "control characters": (["main:app", "--bind", "\x1b[31m"], "command line: --bind: "),
}


@pytest.mark.parametrize("name", USAGE)
def test_usage_errors_are_one_line(capsys, directory, name):
    arguments, reason = USAGE[name]
    line = refusal(capsys, *arguments)
    assert line.startswith(reason)
    assert line.isprintable()


def test_unprintable_option_is_escaped(capsys, directory):
    assert refusal(capsys, "--\x1b[31m").isprintable()
