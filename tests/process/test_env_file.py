from __future__ import annotations

import pytest

from trioserve.config import ConfigError
from trioserve.process.env_file import apply_env_file, parse_env_file


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=1", "1"),
        ("A = 1", "1"),
        ("  A=1  ", "1"),
        ("export A=1", "1"),
        ("export\tA=1", "1"),
        ("A=", ""),
        ("A=''", ""),
        ("A=two words", "two words"),
        ("A=1 # comment", "1"),
        ("A= # comment", ""),
        ("A=#comment", ""),
        ("A=x#y", "x#y"),
        ("A=it's", "it's"),
        ("A=$HOME", "$HOME"),
        (r"A=C:\new", r"C:\new"),
        ("A='# \" \\n $B'", '# " \\n $B'),
        ("A='x' # comment", "x"),
        (r'A="a\nb\t\"c\" \\ \$"', 'a\nb\t"c" \\ $'),
        ('A="a # b"', "a # b"),
        ("A=b=c", "b=c"),
        ("A=1\r", "1"),
        ("A=\u00e9", "\u00e9"),
    ],
)
def test_value(line, value):
    assert parse_env_file(f"# first\n\n{line}\n", "x.env") == {"A": value}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("A", "expected NAME=value"),
        ("=1", "a name has letters"),
        ("1A=1", "a name has letters"),
        ("A-B=1", "a name has letters"),
        ("A B=1", "expected NAME=value"),
        ("set A=1", "expected NAME=value"),
        ("A='secret", "not closed"),
        ('A="secret', "not closed"),
        ('A="secret\\"', "not closed"),
        ("A='secret'x", "something follows"),
        ("A='secret'#x", "something follows"),
        (r'A="secret\q"', "unknown escape"),
        ("A=secret\0", "zero byte"),
        ("B=secret", "B is given twice"),
    ],
)
def test_mistake_names_the_line_and_never_the_value(line, reason):
    with pytest.raises(ConfigError) as caught:
        parse_env_file(f"B=1\n\n{line}", "x.env")
    assert str(caught.value).startswith("x.env: line 3: ")
    assert reason in str(caught.value)
    assert "secret" not in str(caught.value)


def test_environment_wins(tmp_path):
    file = tmp_path / "x.env"
    file.write_text("\ufeffA=file\nB=file\n", encoding="utf-8")
    environ = {"A": "real"}
    apply_env_file(file, environ)
    assert environ == {"A": "real", "B": "file"}


def test_mistake_changes_nothing(tmp_path):
    file = tmp_path / "x.env"
    file.write_text("A=1\nB\n", encoding="utf-8")
    environ: dict[str, str] = {}
    with pytest.raises(ConfigError):
        apply_env_file(file, environ)
    assert environ == {}


def test_unreadable_files(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        apply_env_file(tmp_path / "none", {})
    file = tmp_path / "x.env"
    file.write_bytes(b"A=1\nB=\xff\n")
    with pytest.raises(ConfigError, match="line 2: not UTF-8"):
        apply_env_file(file, {})
