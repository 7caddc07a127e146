"""One call of a WSGI application, in its thread: `start_response`, the iteration, `close` (PEP 3333).

The application's mistakes are errors that say what is wrong, raised where it makes them. Whatever it does, its iterable
is closed once, and the bridge is told of the end.
"""

from __future__ import annotations

import contextvars
import re
import threading
from typing import TYPE_CHECKING, Any, TypeAlias

from trioserve.asgi.errors import ApplicationError
from trioserve.protocols.http1.policy import MAX_LENGTH_DIGITS, TOKEN
from trioserve.wsgi.bridge import Bridge
from trioserve.wsgi.error_stream import ErrorStream
from trioserve.wsgi.file_wrapper import FileWrapper, open_part

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import TracebackType

    from trioserve.wsgi.environ import Environ
    from trioserve.wsgi.threads import ThreadPool

WsgiCallable: TypeAlias = "Callable[[Environ, Any], Iterable[bytes]]"
ExcInfo: TypeAlias = "tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]"

HOP_BY_HOP = frozenset(
    (
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization"),
        *("te", "trailer", "trailers", "transfer-encoding", "upgrade"),
    )
)
MOST_NAMES = 1024
"""Field names and status lines that are remembered in their rendered form."""
JOINED_BODY = 1024 * 1024
"""Bytes up to which a body that is a list is joined to be sent at once."""
NO_CONTENT_LENGTH = frozenset((204, 304))

_BREAKS_FIELD = re.compile(r"[\r\n\x00]")

_names: dict[str, bytes] = {}
_statuses: dict[str, int] = {}


class Call(Bridge):
    """One request, for one application.

    Args:
        app: the application.
        environ: its first argument, complete but for what belongs to this call.
        pool, body_ended: see `Bridge`.
        extensions: the scope's.
    """

    _begun = False  # a piece of the body has been handed over, so that the head is settled
    _length: int | None = None  # the application's Content-Length
    _late_error: Exception | None = None  # what it wanted to begin another response for, too late

    def __init__(
        self,
        app: WsgiCallable,
        environ: Environ,
        pool: ThreadPool,
        extensions: Mapping[str, Any],
        *,
        body_ended: bool,
    ) -> None:
        super().__init__(pool, extensions.get("trioserve"), body_ended=body_ended)
        self.environ: Environ | None = environ
        self.errors = ErrorStream()
        self._app = app
        self._line = environ["REQUEST_METHOD"], environ["REQUEST_URI"], environ["SERVER_PROTOCOL"]
        self._extensions = extensions
        self._context = contextvars.copy_context()

    @property
    def request_line(self) -> str:
        """See `Bridge`."""
        return " ".join(self._line).encode("ascii", "backslashreplace").decode()

    def run(self) -> None:
        """See `Job`."""
        self._thread = threading.get_ident()
        try:
            try:
                self._context.run(self._call_application)
            finally:
                self.errors.flush()  # may raise, too: filters of the log are the application's
        except Exception as error:
            self.failure = _without_our_frames(error)
        except BaseException as error:
            # SystemExit ends a thread, and nothing else; the server is not the application's to stop.
            self.failure = RuntimeError(f"the application raised {error!r}")
            self.failure.__cause__ = error
        finally:
            if self._late_error is not None:
                self.failure, self._late_error = self._late_error, None
            self.environ = None  # which has methods of ours
            self._end()

    def _call_application(self) -> None:
        assert self.environ is not None
        iterable = self._app(self.environ, self.start_response)
        try:
            kind = type(iterable)
            if kind is list or kind is tuple:
                self._send_sized(iterable)  # type: ignore[arg-type]
            elif not (isinstance(iterable, FileWrapper) and self._send_file(iterable)):
                for item in iterable:
                    self.write_body(item)
                self._check_started()
        finally:
            close = getattr(iterable, "close", None)
            if close is not None:
                close()

    # -- the head --------------------------------------------------------------------------------------------------

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None
    ) -> Callable[[bytes], None]:
        """See PEP 3333, "The start_response() Callable"."""
        if exc_info is not None:
            try:
                if self._begun and exc_info[1] is not None:
                    self._give_up(exc_info[1])
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # it refers to this frame
        elif self.head is not None:
            raise AssertionError("start_response() was called twice, the second time without exc_info")
        code = _statuses.get(status) or _parse_status(status)
        if type(headers) is not list:
            raise TypeError(f"start_response() takes a list of headers, not {type(headers).__name__}")
        fields = []
        self._length = None
        for name, value in headers:
            rendered = _names.get(name) or _render_name(name)
            if type(value) is not str and not isinstance(value, str):
                raise TypeError(f"the value of the header {name!r} has to be str, not {type(value).__name__}")
            if rendered == b"content-length":
                if self._length is not None:
                    raise ValueError("there are two headers Content-Length")
                self._length = _parse_length(value)
            if "\n" in value or "\r" in value or "\0" in value:
                raise ValueError(f"the value of the header {name!r} has a line end or NUL in it: {value!r}")
            try:
                fields.append((rendered, value.encode("latin-1")))
            except UnicodeEncodeError:
                raise ValueError(f"the value of the header {name!r} is not in latin-1: {value!r}") from None
        self.head = (code, fields)
        return self.write_body

    def _give_up(self, error: BaseException) -> None:
        """Let nothing more of a response leave that the application wants to replace, whether it goes on or not."""
        if isinstance(error, Exception):
            self._late_error = error
        if self.broken is None:
            self.broken = ApplicationError(
                "the application gave this response up, by start_response() with exc_info"
            )

    def _check_started(self) -> None:
        if self.head is None:
            raise ApplicationError("the application did not call start_response() before its response")

    def send_early_hints(self, headers: Iterable[tuple[str, str]]) -> None:
        """`wsgi.early_hints`: send 103 with the `Link` fields among `headers`; nothing once the head is settled.

        Raises:
            ClientDisconnected: the client has left.
            ValueError: a link cannot be sent.
        """
        links = [value for name, value in headers if name.lower() == "link"]
        if any(_BREAKS_FIELD.search(link) for link in links):
            raise ValueError(f"there is a line end or NUL in a link: {links!r}")
        if links and not self._begun:
            self.send_hints([link.encode("latin-1") for link in links])

    # -- the body --------------------------------------------------------------------------------------------------

    def write_body(self, data: bytes) -> None:
        """Send a piece of the body: `write()`, and what is done with each item of the iterable."""
        if self.head is None:
            self._check_started()
        if type(data) is not bytes:
            data = _checked_piece(data)
        if data:
            self._begun = True
            self.write(data)

    def _send_sized(self, items: list[bytes] | tuple[bytes, ...]) -> None:
        """Send a body that is here in full, so that its length is known."""
        self._check_started()
        assert self.head is not None
        for item in items:
            if type(item) is not bytes:
                _checked_piece(item)
        if len(items) != 1:
            size = sum(map(len, items))
            if size <= JOINED_BODY:
                items = [b"".join(items)]
            elif not self._begun and self._length is None and self.head[0] not in NO_CONTENT_LENGTH:
                self.head[1].append((b"content-length", b"%d" % size))
        self._begun = True
        if self.broken is not None:
            raise self.broken
        # Nobody waits for any of it, however large: it is in memory anyway, and this thread has done its work.
        self._orders.extend(item for item in items if item)

    def _send_file(self, wrapper: FileWrapper) -> bool:
        """Let the server send a file without reading it; False where that cannot be done."""
        self._check_started()
        assert self.head is not None
        if self._begun:
            return False
        part = open_part(wrapper) if "http.response.zerocopysend" in self._extensions else None
        if part is None:
            wrapper.limit = self._length
            return False
        if self._length is not None:
            part = part._replace(length=min(part.length, self._length))
        self._begun = True
        self._orders.append(part)
        return True


def _parse_status(status: str) -> int:
    if not isinstance(status, str):
        raise TypeError(f"start_response() takes the status as str, not {type(status).__name__}")
    digits = status[:3]
    well_formed = digits.isascii() and digits.isdigit() and status[3:4] in ("", " ") and status.isprintable()
    if not (well_formed and "200" <= digits <= "599"):
        raise ValueError(f'the status has to be 200 to 599 and a phrase, such as "200 OK", not {status!r}')
    code = int(digits)
    if len(_statuses) < MOST_NAMES:
        _statuses[status] = code
    return code


def _render_name(name: str) -> bytes:
    if not isinstance(name, str):
        raise TypeError(f"the name of a header has to be str, not {type(name).__name__}")
    lower = name.lower()
    if lower in HOP_BY_HOP:
        raise ValueError(f"the header {name!r} is the server's affair (PEP 3333, hop-by-hop)")
    try:
        rendered = lower.encode("ascii")
    except UnicodeEncodeError:
        raise ValueError(f"the name of a header has to be ASCII: {name!r}") from None
    if TOKEN.fullmatch(rendered) is None:
        raise ValueError(f"the name of a header has a character in it that is not allowed: {name!r}")
    if len(_names) < MOST_NAMES:
        _names[name] = rendered
    return rendered


def _parse_length(value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) <= MAX_LENGTH_DIGITS):
        raise ValueError(f"Content-Length has to be a number, not {value!r}")
    return int(value)


def _checked_piece(data: object) -> bytes:
    """Accept what inherits from bytes."""
    if isinstance(data, bytes):
        return bytes(data)
    raise TypeError(f"a piece of the body has to be bytes, not {type(data).__name__}")


def _without_our_frames(error: Exception) -> Exception:
    """Let the traceback begin in the application, if the error comes from there."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    return error if frames is None else error.with_traceback(frames)
