from __future__ import annotations

import base64
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from trioserve.telemetry.access_format import ATOMS, TEXT_FORMAT, _prepare, compile_format


@dataclass
class Request:
    method: str = "GET"
    target: bytes = b"/items?page=2"
    http_version: str = "1.1"
    headers: list[tuple[bytes, bytes]] = field(
        default_factory=lambda: [
            (b"host", b"example.org"),
            (b"user-agent", b"probe/1"),
            (b"referer", b"http://r/"),
        ]
    )


@dataclass
class Exchange:
    request: Request = field(default_factory=Request)
    client: tuple[str, int] | None = ("192.0.2.7", 50000)
    server: tuple[str, int | None] | None = ("127.0.0.1", 8000)
    scheme: str = "https"
    status: int = 404
    response_headers: list[tuple[bytes, bytes]] = field(
        default_factory=lambda: [(b"Content-Type", b"text/plain")]
    )
    body_bytes_sent: int = 13
    bytes_received: int = 7
    started: float = 1000.0
    first_byte: float = 1000.25
    finished: float = 1001.5
    outcome: str = "complete"


def render(pattern: str, exchange: Exchange | None = None, now: float = 1741168800.5) -> str:
    line = compile_format(pattern, lambda: now)(exchange or Exchange())
    assert line.endswith("\n")
    assert line.count("\n") == 1
    return line[:-1]


def with_headers(*headers: tuple[bytes, bytes]) -> Exchange:
    return Exchange(Request(headers=list(headers)))


ABSENT = Exchange(
    request=Request(method="", target=b"", headers=[]),
    client=None,
    status=0,
    response_headers=[],
    body_bytes_sent=0,
    bytes_received=0,
    first_byte=0.0,
    outcome="refused",
)


@pytest.mark.parametrize(
    ("atom", "present", "absent"),
    [
        ("h", "192.0.2.7", "-"),
        ("l", "-", "-"),
        ("u", "-", "-"),
        ("r", "GET /items?page=2 HTTP/1.1", "- - HTTP/1.1"),
        ("R", "GET /items?page=2 HTTP/1.1", "- - HTTP/1.1"),
        ("m", "GET", "-"),
        ("U", "/items", "-"),
        ("Uq", "/items?page=2", "-"),
        ("q", "page=2", ""),
        ("H", "HTTP/1.1", "HTTP/1.1"),
        ("S", "https", "https"),
        ("s", "404", "-"),
        ("st", "Not Found", "-"),
        ("b", "13", "-"),
        ("B", "13", "0"),
        ("rb", "7", "0"),
        ("f", "http://r/", "-"),
        ("a", "probe/1", "-"),
        ("T", "1", "1"),
        ("M", "1500", "1500"),
        ("D", "1500000", "1500000"),
        ("L", "1.500000", "1.500000"),
        ("ttfb", "0.250000", "-"),
        ("outcome", "complete", "refused"),
        ("unfinished", "", " refused"),
        ("{User-Agent}i", "probe/1", "-"),
        ("{content-type}o", "text/plain", "-"),
        ("{x-missing}o", "-", "-"),
    ],
)
def test_each_atom_when_its_value_is_there_and_when_it_is_not(atom, present, absent):
    assert render(f"<%({atom})s>") == f"<{present}>"
    assert render(f"<%({atom})s>", ABSENT) == f"<{absent}>"


def test_every_atom_compiles_alone_and_all_together():
    for name in ATOMS:
        render(f"%({name})s")
    render(" ".join(f"%({name})s" for name in ATOMS))


def test_the_process_id_and_the_environment(monkeypatch):
    monkeypatch.setenv("REGION", 'north "1"')
    monkeypatch.delenv("NO_SUCH", raising=False)
    assert re.fullmatch(r"<\d+>", render("%(p)s"))
    assert render("%({REGION}e)s %({region}e)s %({NO_SUCH}e)s") == "north \\x221\\x22 north \\x221\\x22 -"


def test_whole_seconds_are_not_rounded_up():
    assert render("%(T)s", Exchange(started=0.0, finished=1.9)) == "1"
    assert render("%(M)s", Exchange(started=0.0, finished=0.0019)) == "1"


def test_the_default_text_line():
    line = render("text")
    stamp = r"\[\d\d/Mar/2025:\d\d:\d\d:\d\d [+-]\d{4}\]"
    assert re.fullmatch(
        r"192\.0\.2\.7 - - "
        + stamp
        + r' "GET /items\?page=2 HTTP/1\.1" 404 13 "http://r/" "probe/1" 1\.500000 0\.250000 <\d+>',
        line,
    )
    assert render("text", Exchange(outcome="timeout")).endswith(f" 1.500000 0.250000 <{os.getpid()}> timeout")


def test_the_time_stamp_is_rendered_again_only_in_a_new_second():
    times = iter([1741168800.1, 1741168800.9, 1741168801.0, 1741168799.0])
    line = compile_format("%(t)s", lambda: next(times))
    first, same, later, earlier = (line(Exchange()) for _ in range(4))
    assert first == same
    assert len({first, later, earlier}) == 3


@pytest.mark.parametrize(
    ("authorization", "user"),
    [
        (b"Basic " + base64.b64encode(b"ann:secret"), "ann"),
        (b"bAsIc " + base64.b64encode(b"ann:"), "ann"),
        (b"Basic " + base64.b64encode(b"a b\n:x"), "a\\x20b\\x0a"),
        (b"Basic " + base64.b64encode("zo\u00eb:x".encode()), "zo\\xc3\\xab"),
        (b"Basic " + base64.b64encode(b"no colon"), "-"),
        (b"Basic " + base64.b64encode(b":only"), "-"),
        (b"Basic %%%", "-"),
        (b"Basic \xff", "-"),
        (b"Bearer abc", "-"),
        (b"", "-"),
    ],
)
def test_the_user_of_basic_authorization(authorization, user):
    assert render("%(u)s", with_headers((b"authorization", authorization))) == user


HOSTILE = bytes(range(256))


def hostile_exchange() -> Exchange:
    word = HOSTILE.decode("latin-1")
    request = Request(
        word, HOSTILE, word, [(b"user-agent", HOSTILE), (b"referer", HOSTILE), (b"host", HOSTILE)]
    )
    return Exchange(request, (word, 1), scheme=word, response_headers=[(b"x", HOSTILE)])


def test_nothing_a_peer_sends_leaves_its_field_or_its_line():
    line = render(
        '"%(h)s" "%(r)s" "%(f)s" "%(a)s" "%({host}i)s" "%({x}o)s" "%(S)s" "%(U)s" "%(q)s"', hostile_exchange()
    )
    assert line.isascii()
    assert line.isprintable()
    assert line.count('"') == 18


def test_json_has_fixed_keys_and_null_for_what_is_missing():
    present = json.loads(render("json"))
    absent = json.loads(render("json", ABSENT))
    assert present == {
        "time": "2025-03-05T10:00:00Z",
        "pid": present["pid"],
        "client": "192.0.2.7",
        "method": "GET",
        "target": "/items?page=2",
        "http_version": "1.1",
        "scheme": "https",
        "host": "example.org",
        "status": 404,
        "bytes_sent": 13,
        "bytes_received": 7,
        "duration": 1.5,
        "ttfb": 0.25,
        "outcome": "complete",
        "referer": "http://r/",
        "user_agent": "probe/1",
    }
    assert list(absent) == list(present)
    missing = {key for key, value in absent.items() if value is None}
    assert missing == {"client", "host", "status", "ttfb", "referer", "user_agent"}


def test_json_stays_valid_and_says_the_same_escapes_as_text():
    exchange = hostile_exchange()
    line = render("json", exchange)
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line)["target"] == render("%(Uq)s", exchange)
    assert json.loads(line)["user_agent"] == render("%(a)s", exchange)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("%(hh)s", ["%(hh)s", "did you mean %(h)s"]),
        ("%(ttbf)s", ["%(ttbf)s", "did you mean %(ttfb)s"]),
        ("%(OUTCOM)s", ["did you mean %(outcome)s"]),
        ("%(zzz)s", ["known are h l u"]),
        ("%h %s", ["%h %s", "%(name)s"]),
        ("100%", ["percent sign is %%"]),
        ("%({host}x)s", ["%(name)s"]),
        ("%(r)d", ["%(name)s"]),
    ],
)
def test_a_wrong_format_is_refused_with_advice(pattern, words):
    with pytest.raises(ValueError, match="access log format") as caught:
        compile_format(pattern)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "literal",
    [
        "{exchange}",
        "{1+1}",
        "'''",
        '"""',
        "\\",
        "\\n{",
        "}",
        "{{}}",
        "'+str(1)+'",
        "caf\u00e9",
        "\N{SNOWMAN}",
    ],
)
def test_literal_text_never_becomes_code(literal):
    assert render(f"{literal}%(m)s{literal}") == f"{literal}GET{literal}"


def test_names_in_braces_never_become_code():
    name = "x')or(1)};{\"".replace("{", "").replace("}", "")
    assert render(f"%({{{name}}}i)s %({{{name}}}o)s %({{{name}}}e)s") == "- - -"


def test_a_doubled_percent_sign_is_one():
    assert render("%%%(m)s%%(m)s") == "%GET%(m)s"


def test_text_that_cannot_be_encoded_is_refused_at_once():
    with pytest.raises(ValueError):
        compile_format("\ud800")


def test_a_line_computes_only_what_its_format_names():
    assert _prepare("{agent}", {}).split("\n")[:2] == [
        " request = exchange.request",
        " headers = dict(request.headers)",
    ]
    assert "read_user" not in _prepare("{agent}", {})
    assert _prepare("{phrase}", {}).count("\n") == 1
    assert _prepare("{exchange.body_bytes_sent}", {}) == ""


def test_the_documentation_lists_every_atom_and_the_default_format():
    page = (Path(__file__).parents[2] / "docs" / "logging.md").read_text()
    for name, atom in ATOMS.items():
        assert f"| `%({name})s` | {atom.meaning} |" in page
    assert TEXT_FORMAT in page
    line = json.loads(render("json"))
    documented = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert [key for key in documented if key in line][: len(line)] == list(line)
