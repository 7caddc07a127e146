from __future__ import annotations

import io
import json
import logging
import re
import sys

import pytest

from trioserve.telemetry.logs import (
    JsonFormatter,
    TextFormatter,
    _shows_colour,
    configure_logging,
    escape_controls,
    reopen_logs,
)

server_log = logging.getLogger("trioserve")
error_log = logging.getLogger("trioserve.error")


@pytest.fixture(autouse=True)
def restored_loggers():
    root = logging.getLogger()
    before = (server_log.handlers[:], server_log.level, server_log.propagate, root.handlers[:], root.level)
    yield
    for handler in server_log.handlers:
        if handler not in before[0]:
            handler.close()
    server_log.handlers[:], server_log.level, server_log.propagate = before[:3]
    root.handlers[:], root.level = before[3:]
    logging.getLogger("elsewhere").disabled = False
    server_log.manager._clear_cache()


class CapturedText:
    def __init__(self, capsys):
        self._capsys = capsys
        self._text = ""

    def getvalue(self) -> str:
        self._text += self._capsys.readouterr().err
        return self._text


@pytest.fixture
def stderr(capsys):
    return CapturedText(capsys)


def boom() -> None:
    raise ValueError("line one\n2025-03-05 10:00:00.000+00:00 [1] info: forged\x1b[2J")


def test_a_text_line_has_time_pid_level_and_message(stderr):
    configure_logging()
    server_log.info("listening on %s", "127.0.0.1:8000")
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d \[\d+\] info: listening on 127\.0\.0\.1:8000\n",
        stderr.getvalue(),
    )


def test_the_level_filters_and_an_unknown_one_is_refused(stderr):
    configure_logging(level="WARNING")
    server_log.info("quiet")
    error_log.warning("heard")
    assert "quiet" not in stderr.getvalue()
    assert "warning: heard" in stderr.getvalue()
    with pytest.raises(ValueError, match="debug, info, warning"):
        configure_logging(level="loud")


def test_configuring_twice_writes_each_record_once(stderr):
    configure_logging()
    configure_logging()
    server_log.info("once")
    assert stderr.getvalue().count("once") == 1


def test_the_root_logger_is_neither_changed_nor_reached(stderr, caplog):
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    configure_logging(level="debug")
    server_log.error("ours")
    assert (root.handlers, root.level) == before
    assert "ours" not in caplog.text


def test_handlers_of_others_stay(stderr):
    mine = logging.StreamHandler(io.StringIO())
    server_log.addHandler(mine)
    configure_logging()
    assert mine in server_log.handlers


def test_a_message_stays_on_one_line_and_sends_no_control_characters(stderr):
    configure_logging()
    server_log.info("bad target %s", "/a\r\nforged\x1b[31m\x9b\u202e")
    text = stderr.getvalue()
    assert text.count("\n") == 1
    assert text.endswith("bad target /a\\x0d\\x0aforged\\x1b[31m\\x9b\\u202e\n")


def test_letters_of_all_languages_are_left_alone():
    assert escape_controls("größe 大小") == "größe 大小"


def test_traceback_lines_are_indented_so_that_none_can_be_forged(stderr):
    configure_logging()
    try:
        boom()
    except ValueError:
        error_log.exception("error in the application")
    head, *below = stderr.getvalue().splitlines()
    assert head.endswith("error: error in the application")
    assert below[0] == "  Traceback (most recent call last):"
    assert all(line.startswith("  ") for line in below)
    assert "\x1b" not in stderr.getvalue()


def test_details_follow_the_message(stderr):
    configure_logging()
    server_log.warning("task tree", extra={"detail": "init\n  main"})
    assert stderr.getvalue().splitlines()[1:] == ["  init", "    main"]


def test_json_has_one_object_per_record_with_the_traceback(stderr):
    configure_logging(format="json")
    try:
        boom()
    except ValueError:
        error_log.exception("failed\n%s", "x", extra={"detail": "more"}, stack_info=True)
    assert stderr.getvalue().count("\n") == 1
    entry = json.loads(stderr.getvalue())
    assert list(entry) == ["time", "level", "logger", "pid", "message", "exception", "stack", "detail"]
    assert (entry["level"], entry["logger"], entry["message"]) == ("error", "trioserve.error", "failed\nx")
    assert "ValueError: line one" in entry["exception"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "environment", "shows"),
    [
        (Terminal(), {}, True),
        (Terminal(), {"NO_COLOR": ""}, True),
        (Terminal(), {"NO_COLOR": "1"}, False),
        (Terminal(), {"TERM": "dumb"}, False),
        (io.StringIO(), {}, False),
    ],
)
def test_colour_is_for_terminals_that_want_it(stream, environment, shows):
    assert _shows_colour(stream, environment) is shows


def test_colour_can_be_forced_and_forbidden(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for setting, coloured in (("auto", True), ("always", True), ("never", False)):
        stream = Terminal()
        monkeypatch.setattr(sys, "stderr", stream)
        configure_logging(colour=setting)
        server_log.error("x")
        assert ("\x1b[31merror\x1b[0m: x" in stream.getvalue()) is coloured


def test_a_level_without_a_colour_is_no_error():
    record = logging.LogRecord("trioserve", 35, "", 1, "odd", (), None)
    assert TextFormatter(coloured=True).format(record).endswith(": odd")
    assert json.loads(JsonFormatter().format(record))["message"] == "odd"


def test_a_log_file_is_appended_to_and_reopened(tmp_path, stderr):
    path = tmp_path / "error.log"
    path.write_text("before\n")
    configure_logging(file=path, colour="auto")
    server_log.info("first")
    path.rename(tmp_path / "error.log.1")
    reopen_logs()
    server_log.info("second")
    assert re.fullmatch(r"before\n.* first\n", (tmp_path / "error.log.1").read_text())
    assert re.fullmatch(r".* second\n", path.read_text())
    assert stderr.getvalue() == ""


def test_a_failed_reopen_keeps_the_old_file(tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    configure_logging(file=folder / "error.log")
    folder.rename(tmp_path / "moved")
    reopen_logs()
    assert "cannot be reopened" in (tmp_path / "moved" / "error.log").read_text()


def test_reopening_standard_error_does_nothing(stderr):
    configure_logging()
    reopen_logs()
    server_log.info("still here")
    assert "still here" in stderr.getvalue()


def test_a_file_that_cannot_be_opened_leaves_the_old_logging(tmp_path, stderr):
    configure_logging()
    with pytest.raises(OSError):
        configure_logging(file=tmp_path / "missing" / "error.log")
    server_log.info("still here")
    assert "still here" in stderr.getvalue()


TOML_CONFIG = """
[formatters.short]
format = "SHORT %(message)s"
[handlers.out]
class = "logging.StreamHandler"
formatter = "short"
stream = "ext://sys.stderr"
[loggers.trioserve]
handlers = ["out"]
level = "INFO"
"""
JSON_CONFIG = {
    "formatters": {"short": {"format": "SHORT %(message)s"}},
    "handlers": {
        "out": {"class": "logging.StreamHandler", "formatter": "short", "stream": "ext://sys.stderr"}
    },
    "loggers": {"trioserve": {"handlers": ["out"], "level": "INFO"}},
}


@pytest.mark.parametrize(("name", "text"), [("log.toml", TOML_CONFIG), ("log.json", json.dumps(JSON_CONFIG))])
def test_a_dictionary_in_a_file_takes_over_and_disables_nobody(tmp_path, stderr, name, text):
    (tmp_path / name).write_text(text)
    elsewhere = logging.getLogger("elsewhere")
    configure_logging()
    configure_logging(level="error", config=tmp_path / name)
    server_log.info("hello")
    assert stderr.getvalue() == "SHORT hello\n"
    assert not elsewhere.disabled


@pytest.mark.parametrize(("name", "text"), [("log.toml", "a ="), ("log.json", "{"), ("log.json", "[]")])
def test_a_wrong_file_is_a_value_error_that_names_it(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=re.escape(name)):
        configure_logging(config=tmp_path / name)
