"""An ASGI scope as a WSGI environ (PEP 3333, "environ Variables"; RFC 3875).

All text in an environ is bytes decoded as latin-1. What is the same for all requests to one address is rendered once
and copied. Fields whose names contain an underscore are left out, since `X_User` and `X-User` would become one, and so
is `Proxy`, which would become HTTP_PROXY, a variable that configures HTTP clients.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import unquote, unquote_to_bytes

from trioserve.wsgi.file_wrapper import FileWrapper
from trioserve.wsgi.tls_variables import render_tls

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trioserve.asgi.types import Scope

Environ: TypeAlias = dict[str, Any]

MOST_NAMES = 1024
"""Field names that are remembered with their keys; whoever sends more can have them rendered each time."""
LONGEST_NAME = 64
MOST_BASES = 64


class EnvironBuilder:
    """Builds the environs of one application.

    Args:
        multiprocess: other processes run the application, too.
    """

    def __init__(self, *, multiprocess: bool) -> None:
        self._multiprocess = multiprocess
        self._keys: dict[bytes, str] = {}
        self._bases: dict[Any, Environ] = {}

    def build(self, scope: Scope) -> Environ:
        """Return what a scope says; `wsgi.input`, `wsgi.errors` and what runs the request are for the caller to add."""
        facts = (scope.get("server"), scope["scheme"], scope.get("root_path", ""), scope["http_version"])
        base = self._bases.get(facts)
        if base is None:
            base = self._render_base(*facts)
            if len(self._bases) >= MOST_BASES:
                self._bases.clear()
            self._bases[facts] = base
        environ = base.copy()
        environ["REQUEST_METHOD"] = scope["method"]
        query = scope.get("query_string", b"").decode("latin-1")
        environ["QUERY_STRING"] = query
        raw_path = scope.get("raw_path")
        path = scope["path"]
        if facts[2] or path.encode("latin-1", "replace") != raw_path or path[:1] != "/":
            environ["PATH_INFO"] = _render_path(path, raw_path, facts[2]) or ("" if facts[2] else "/")
        else:
            environ["PATH_INFO"] = path
        target = path if raw_path is None else raw_path.decode("latin-1")
        environ["REQUEST_URI"] = environ["RAW_URI"] = f"{target}?{query}" if query else target
        client = scope.get("client")
        if client is not None:
            environ["REMOTE_ADDR"] = client[0]
            environ["REMOTE_PORT"] = str(client[1])
        self._add_fields(environ, scope["headers"])
        tls = scope.get("extensions", {}).get("tls")
        if tls is not None:
            environ.update(render_tls(tls))
        return environ

    def _add_fields(self, environ: Environ, fields: Iterable[tuple[bytes, bytes]]) -> None:
        keys = self._keys
        repeated: dict[str, list[str]] | None = None
        for name, value in fields:
            key = keys.get(name)
            if key is None:
                key = self._render_key(name)
            if not key:
                continue
            if key not in environ:
                environ[key] = value.decode("latin-1")
                continue
            if repeated is None:
                repeated = {}
            if key not in repeated:
                repeated[key] = [environ[key]]
            repeated[key].append(value.decode("latin-1"))
        if repeated is not None:
            for key, values in repeated.items():
                environ[key] = ("; " if key == "HTTP_COOKIE" else ",").join(values)

    def _render_key(self, name: bytes) -> str:
        """The key of a field, "" for one that is left out; remembered, within limits."""
        text = name.decode("latin-1").upper()
        if "_" in text or text == "PROXY":
            key = ""
        elif text in ("CONTENT-TYPE", "CONTENT-LENGTH"):
            key = text.replace("-", "_")
        else:
            key = sys.intern("HTTP_" + text.replace("-", "_"))
        if len(self._keys) < MOST_NAMES and len(name) <= LONGEST_NAME:
            self._keys[name] = key
        return key

    def _render_base(
        self, server: tuple[str, int | None] | None, scheme: str, root_path: str, http_version: str
    ) -> Environ:
        port = None if server is None else server[1]
        if server is None or port is None:  # a unix socket has neither
            host, port = "localhost", 443 if scheme == "https" else 80
        else:
            host = server[0]
        environ: Environ = {
            "GATEWAY_INTERFACE": "CGI/1.1",
            "SERVER_SOFTWARE": "trioserve",
            "SERVER_NAME": f"[{host}]" if ":" in host else host,
            "SERVER_PORT": str(port),
            # RFC 3875 section 4.1.16 has two numbers, and there are applications that read both.
            "SERVER_PROTOCOL": f"HTTP/{http_version}" if "." in http_version else f"HTTP/{http_version}.0",
            "SCRIPT_NAME": _as_latin(root_path.rstrip("/")),
            "REMOTE_ADDR": "",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": scheme,
            "wsgi.multithread": True,
            "wsgi.multiprocess": self._multiprocess,
            "wsgi.run_once": False,
            "wsgi.input_terminated": True,
            "wsgi.file_wrapper": FileWrapper,
        }
        if scheme == "https":
            environ["HTTPS"] = "on"
        return environ


def _as_latin(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("latin-1")


def _render_path(path: str, raw_path: bytes | None, root_path: str) -> str:
    """PATH_INFO: the bytes of the percent-decoded path behind `root_path`, as latin-1.

    Servers differ in whether `raw_path` begins with `root_path`, and frameworks that mount an application change
    `root_path` or `path` alone, so `raw_path` is believed only where it agrees with them.
    """
    root_path = root_path.rstrip("/")
    if raw_path is not None:
        if raw_path == b"*":
            return ""  # of OPTIONS, which is about the server
        decoded = unquote_to_bytes(raw_path)
        seen = raw_path.decode("latin-1")
        if "%" in seen:
            seen = unquote(seen)
        if path == root_path + seen:
            return decoded.decode("latin-1")
        root = root_path.encode()
        if path == seen and decoded.startswith(root):
            return decoded[len(root) :].decode("latin-1")
    return _as_latin(path.removeprefix(root_path))
