"""An access-log format, compiled once into one function from an exchange to a line.

The atoms are those of Gunicorn and Hypercorn, `%(h)s`, and a few of our own; ATOMS is the whole list. An
atom is a piece of an f-string over local variables, and each variable has one statement that computes it,
so a line costs only what its format names. The invariant that makes `exec` safe here: source comes from
the two tables below and from literal text through `repr`; header names enter as constants only.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import os
import re
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple

from trioserve.telemetry.escaping import Memo, escape_bytes, escape_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from trioserve.telemetry.access_log import LoggedExchange

    RenderLine = Callable[[LoggedExchange], str]

TEXT_FORMAT = '%(h)s - %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s" %(L)s %(ttfb)s %(p)s%(unfinished)s'
"""The `text` format: the combined log format, duration, time to first byte, outcome when not complete."""


class Atom(NamedTuple):
    """One `%(name)s`: its piece of the f-string, and what it means."""

    fragment: str
    meaning: str


ATOMS: dict[str, Atom] = {
    "h": Atom("{host}", "address of the client after the proxy rules; - on a unix socket"),
    "l": Atom("-", "always -"),
    "u": Atom("{user}", "user name of Basic authorization"),
    "t": Atom("{stamp}", "time when the line was written, [05/Mar/2025:10:00:00 +0000]"),
    "r": Atom("{method} {target} {protocol}", "request line: method, target with query, protocol"),
    "R": Atom("{method} {target} {protocol}", "the same; Hypercorn's name for it"),
    "m": Atom("{method}", "method"),
    "U": Atom("{path}", "target without query, as it was sent"),
    "Uq": Atom("{target}", "target with query, as it was sent"),
    "q": Atom("{query}", "query without ?; empty when there is none"),
    "H": Atom("{protocol}", "protocol, HTTP/1.1"),
    "S": Atom("{scheme}", "scheme: http, https, ws, wss"),
    "s": Atom("{status}", "status; - when no head was sent"),
    "st": Atom("{phrase}", "reason phrase of the status"),
    "b": Atom("{sent_or_dash}", "bytes of the response body; - for none"),
    "B": Atom("{exchange.body_bytes_sent}", "bytes of the response body"),
    "rb": Atom("{exchange.bytes_received}", "bytes of the request body that were received"),
    "f": Atom("{referer}", "Referer header"),
    "a": Atom("{agent}", "User-Agent header"),
    "T": Atom("{seconds}", "duration, whole seconds"),
    "M": Atom("{milliseconds}", "duration, milliseconds"),
    "D": Atom("{microseconds}", "duration, microseconds"),
    "L": Atom("{duration:.6f}", "duration, seconds with six decimals"),
    "ttfb": Atom("{first}", "time to the first byte of the response, seconds; - when there was none"),
    "outcome": Atom("{outcome}", "complete, aborted, disconnected, timeout, cancelled, refused"),
    "unfinished": Atom("{unfinished}", "a space and the outcome, or nothing when it is complete"),
    "p": Atom("{pid}", "process id, <1234>"),
}

# In the order of computation: a statement uses only variables that stand above it.
_STATEMENTS: dict[str, str] = {
    "request": "request = exchange.request",
    "sent_headers": "sent_headers = {name.lower(): value for name, value in exchange.response_headers}",
    "headers": "headers = dict(request.headers)",
    "client": "client = exchange.client",
    "host": "host = WORDS[client[0]] if client else '-'",
    "user": "user = read_user(headers.get(b'authorization'))",
    "stamp": "stamp = read_clock()",
    "method": "method = WORDS[request.method] or '-'",
    "raw_target": "raw_target = request.target",
    "target": "target = escape_bytes(raw_target) or '-'",
    "path": "path = escape_bytes(raw_target.partition(b'?')[0]) or '-'",
    "query": "query = escape_bytes(raw_target.partition(b'?')[2])",
    "protocol": "protocol = PROTOCOLS[request.http_version]",
    "scheme": "scheme = WORDS[exchange.scheme]",
    "status": "status = exchange.status or '-'",
    "phrase": "phrase = PHRASES.get(exchange.status, '-')",
    "sent_or_dash": "sent_or_dash = exchange.body_bytes_sent or '-'",
    "referer": "referer = escape_bytes(found) if (found := headers.get(b'referer')) else '-'",
    "agent": "agent = AGENTS[found] if (found := headers.get(b'user-agent')) else '-'",
    "duration": "duration = exchange.finished - exchange.started",
    "seconds": "seconds = int(duration)",
    "milliseconds": "milliseconds = int(duration * 1e3)",
    "microseconds": "microseconds = round(duration * 1e6)",
    "first": "first = f'{exchange.first_byte - exchange.started:.6f}' if exchange.first_byte else '-'",
    "outcome": "outcome = exchange.outcome",
    "unfinished": "unfinished = '' if outcome == 'complete' else ' ' + outcome",
}

_PIECE = re.compile(r"%(?:%|\((?:(?P<atom>\w+)|\{(?P<name>[^{}]+)\}(?P<kind>[ioe]))\)s)?")
_NAMES = re.compile(r"(?<![.\w'-])[a-z_]\w*")  # in a statement: not attributes, not inside b'user-agent'
_PHRASES: dict[int, str] = {status.value: status.phrase for status in HTTPStatus}
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def compile_format(format: str, clock: Callable[[], float] = time.time) -> RenderLine:  # noqa: A002
    """The function that renders one exchange as one line, with its line end.

    Args:
        format: "text", "json", or a format with atoms such as `%(h)s "%(r)s" %(s)s`.
        clock: seconds since the epoch, for the time stamp.

    Raises:
        ValueError: an unknown atom (with the nearest right name), or a `%` that begins none.
    """
    if format == "json":
        return _build_json_renderer(clock)
    names: dict[str, Any] = {
        "escape_bytes": escape_bytes,
        "escape_text": escape_text,
        "read_user": _read_user,
        "read_clock": _build_clock(clock, _render_clf_time),
        "WORDS": Memo(escape_text),
        "PROTOCOLS": Memo(_render_protocol),
        "AGENTS": Memo(escape_bytes),
        "PHRASES": _PHRASES,
        "pid": f"<{os.getpid()}>",
    }
    fragments, extra = _parse(TEXT_FORMAT if format == "text" else format, names)
    template = "".join(fragments) + "\n"
    source = f"def render(exchange):\n{_prepare(template, extra)} return f{template!r}\n"
    template.encode()  # a format with lone surrogates fails here, not at the first write
    exec(compile(source, "<access log format>", "exec"), names)  # noqa: S102  # see the invariant above
    render: RenderLine = names["render"]
    return render


def _parse(format: str, names: dict[str, Any]) -> tuple[list[str], dict[str, str]]:  # noqa: A002
    """The pieces of the f-string, and the statements for headers in it, whose names are added to `names`."""
    fragments: list[str] = []
    statements: dict[str, str] = {}
    position = 0
    for match in _PIECE.finditer(format):
        fragments.append(_braces_doubled(format[position : match.start()]))
        position = match.end()
        variable = f"named_{len(statements)}"
        if match["atom"]:
            fragments.append(_find_atom(match["atom"]).fragment)
        elif match["kind"] == "e":
            fragments.append(_braces_doubled(escape_text(_read_environment(match["name"]) or "-")))
        elif match["kind"]:
            mapping = "headers" if match["kind"] == "i" else "sent_headers"
            names[variable.upper()] = match["name"].lower().encode("latin-1", "replace")
            statements[variable] = f"{variable} = escape_bytes({mapping}.get({variable.upper()}) or b'-')"
            fragments.append(f"{{{variable}}}")
        elif match[0] == "%%":
            fragments.append("%")
        else:
            found = format[match.start() : match.start() + 12]
            raise ValueError(
                f"access log format: {found!r} is not of the form %(name)s; a percent sign is %%"
            )
    fragments.append(_braces_doubled(format[position:]))
    return fragments, statements


def _find_atom(name: str) -> Atom:
    atom = ATOMS.get(name)
    if atom is not None:
        return atom
    nearest = difflib.get_close_matches(name, ATOMS, 1) or difflib.get_close_matches(name.lower(), ATOMS, 1)
    advice = f"did you mean %({nearest[0]})s?" if nearest else f"known are {' '.join(ATOMS)}"
    raise ValueError(f"access log format: unknown atom %({name})s; {advice}")


def _prepare(template: str, extra: dict[str, str]) -> str:
    """The statements that the template needs, in order; found from the last to the first."""
    needed = set(re.findall(r"\{(\w+)", template))
    chosen: list[str] = []
    for variable, statement in reversed((_STATEMENTS | extra).items()):
        if variable in needed:
            needed.update(_NAMES.findall(statement))
            chosen.append(f" {statement}\n")
    return "".join(reversed(chosen))


def _braces_doubled(literal: str) -> str:
    return literal.replace("{", "{{").replace("}", "}}")


def _read_environment(name: str) -> str | None:
    return os.environ.get(name, os.environ.get(name.upper()))


def _read_user(authorization: bytes | None) -> str:
    """The user name of RFC 7617 credentials, or - for none, another scheme, or what cannot be decoded."""
    if authorization is None or authorization[:6].lower() != b"basic ":
        return "-"
    try:
        user, colon, _ = base64.b64decode(authorization[6:].strip(), validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return "-"
    # The field stands unquoted, so a space in it would shift all others.
    return escape_bytes(user).replace(" ", "\\x20") if user and colon else "-"


def _build_clock(clock: Callable[[], float], render: Callable[[int], str]) -> Callable[[], str]:
    """A function that gives the present second as text and renders it once per second."""
    begin = end = 0.0
    text = ""

    def read_clock() -> str:
        nonlocal begin, end, text
        now = clock()
        if not begin <= now < end:  # also when the clock was set back
            begin = now // 1
            end = begin + 1
            text = render(int(now))
        return text

    return read_clock


def _render_clf_time(second: int) -> str:
    # Not strftime's %b: an application may set a locale, and the log must not change its language.
    now = time.localtime(second)
    return time.strftime(f"[%d/{_MONTHS[now.tm_mon - 1]}/%Y:%H:%M:%S %z]", now)


def _render_iso_time(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second))


def _render_protocol(version: str) -> str:
    return "HTTP/" + escape_text(version)


def _quote(raw: bytes) -> str:
    """A JSON string whose value is the escaped text; so its backslashes are doubled."""
    return '"' + escape_bytes(raw).replace("\\", "\\\\") + '"'


def _quote_text(text: str) -> str:
    return _quote(text.encode("utf-8", "surrogatepass"))


def _build_json_renderer(clock: Callable[[], float]) -> RenderLine:
    """One object per line with fixed keys; what is missing is null."""
    read_clock = _build_clock(clock, _render_iso_time)
    words = Memo(_quote_text)
    values = Memo(_quote)
    pid = os.getpid()

    def render(exchange: LoggedExchange) -> str:
        request = exchange.request
        header = dict(request.headers).get
        client = exchange.client
        started = exchange.started
        host, referer, agent = header(b"host"), header(b"referer"), header(b"user-agent")
        return (
            f'{{"time":"{read_clock()}","pid":{pid},"client":{words[client[0]] if client else "null"},'
            f'"method":{words[request.method]},"target":{_quote(request.target)},'
            f'"http_version":{words[request.http_version]},"scheme":{words[exchange.scheme]},'
            f'"host":{values[host] if host else "null"},"status":{exchange.status or "null"},'
            f'"bytes_sent":{exchange.body_bytes_sent},"bytes_received":{exchange.bytes_received},'
            f'"duration":{exchange.finished - started:.6f},'
            f'"ttfb":{f"{exchange.first_byte - started:.6f}" if exchange.first_byte else "null"},'
            f'"outcome":"{exchange.outcome}","referer":{_quote(referer) if referer else "null"},'
            f'"user_agent":{values[agent] if agent else "null"}}}\n'
        )

    return render
