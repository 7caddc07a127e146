"""A WSGI application as an ASGI 3 application.

The server knows nothing of WSGI: limits, deadlines, drain and logs work as for any application. A request is read, up
to a size, before it takes a thread, so that slow clients hold none; what is larger, and the response, pass over the
bridge while the thread works.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from trioserve.wsgi.body import open_input
from trioserve.wsgi.call import Call
from trioserve.wsgi.environ import EnvironBuilder
from trioserve.wsgi.threads import ThreadPool

if TYPE_CHECKING:
    from trioserve.asgi.types import Receive, Scope, Send
    from trioserve.wsgi.call import WsgiCallable
    from trioserve.wsgi.environ import Environ

READ_AHEAD = 64 * 1024
"""Bytes of a body that are received before a thread is taken."""
SWITCH_INTERVAL = 0.001
"""Seconds for `switch_interval` where the process serves nothing else."""


class WsgiApplication:
    """Serves a WSGI application (PEP 3333) to an ASGI server that runs on Trio.

    Use it where an ASGI application goes: `await nursery.start(serve, WsgiApplication(app))`. One object belongs to one
    run of Trio at a time. Its threads are started when they are needed, and end with the lifespan, or with the run.

    Args:
        app: the application.
        threads: how many requests it handles at once; others wait, in their order.
        multiprocess: other processes run it, too; the application is told.
        switch_interval: seconds after which a thread that computes lets others run, for the whole process, from the
            lifespan's start-up to its shutdown; None leaves the interpreter's own, see `sys.setswitchinterval`.
    """

    def __init__(
        self,
        app: WsgiCallable,
        *,
        threads: int = 32,
        multiprocess: bool = False,
        switch_interval: float | None = None,
    ) -> None:
        if threads < 1:
            raise ValueError(f"threads has to be at least 1, not {threads}")
        self.app = app
        self.threads = threads
        self.multiprocess = multiprocess
        self._switch_interval = switch_interval
        self._environs = EnvironBuilder(multiprocess=multiprocess)
        self._pool: ThreadPool | None = None

    @property
    def stuck_threads(self) -> int:
        """How many threads are lost to requests that were cancelled and did not end."""
        return 0 if self._pool is None else self._pool.stuck

    @property
    def waiting_requests(self) -> int:
        """How many requests wait for a thread."""
        return 0 if self._pool is None else self._pool.waiting

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification; WebSocket sessions are refused."""
        kind = scope["type"]
        if kind == "http":
            call = await self._serve(scope, receive, send)
            if call is not None and call.failure is not None:
                failure, call.failure = call.failure, None
                try:
                    raise failure
                finally:
                    del failure  # it refers to this frame
        elif kind == "lifespan":
            await self._live(receive, send)
        elif kind == "websocket":
            await receive()
            await send({"type": "websocket.close"})  # before it is accepted: 403
        else:
            raise ValueError(f"WSGI has nothing for a scope of type {kind!r}")

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        pool = self._open_pool()
        pool.users += 1
        interval = sys.getswitchinterval()
        if self._switch_interval is not None:
            sys.setswitchinterval(self._switch_interval)
        try:
            await send({"type": "lifespan.startup.complete"})
            await receive()
        finally:
            pool.users -= 1
            if not pool.users:
                pool.close()
            if self._switch_interval is not None:
                sys.setswitchinterval(interval)
        await send({"type": "lifespan.shutdown.complete"})

    def _open_pool(self) -> ThreadPool:
        pool = self._pool
        if pool is None or pool.closed:
            pool = self._pool = ThreadPool(self.threads)
        return pool

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> Call | None:
        pool = self._pool
        if pool is None or pool.closed:
            pool = self._open_pool()
        environ = self._environs.build(scope)
        first, complete = b"", True
        if _may_have_body(environ):
            if "HTTP_EXPECT" in environ:
                complete = False  # the client sends nothing before the application asks for it
            else:
                parts = await _receive_first(receive)
                if parts is None:
                    return None  # there is nobody to answer
                first, complete = parts
                if complete and first and "CONTENT_LENGTH" not in environ:
                    environ["CONTENT_LENGTH"] = str(len(first))  # for frameworks that read no more than that
        extensions = scope.get("extensions", {})
        call = Call(self.app, environ, pool, extensions, body_ended=complete)
        environ["wsgi.input"] = open_input(call, first, complete)
        environ["wsgi.errors"] = call.errors
        environ["trioserve.disconnected"] = call.is_disconnected
        if "http.response.early_hint" in extensions:
            environ["wsgi.early_hints"] = call.send_early_hints
        await call.serve(receive, send)
        return call


def _may_have_body(environ: Environ) -> bool:
    """Whether a body can follow the head (RFC 9112 section 6.3); on HTTP/2 nothing but the stream tells."""
    return (
        "CONTENT_LENGTH" in environ
        or "HTTP_TRANSFER_ENCODING" in environ
        or not environ["SERVER_PROTOCOL"].startswith("HTTP/1")
    )


async def _receive_first(receive: Receive) -> tuple[bytes, bool] | None:
    """The body, or its first `READ_AHEAD` bytes, and whether that is all of it; None if the client has left."""
    parts: list[bytes] = []
    size = 0
    while size < READ_AHEAD:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        data = message.get("body", b"")
        parts.append(data)
        size += len(data)
        if not message.get("more_body", False):
            return b"".join(parts), True
    return b"".join(parts), False
