"""What passes between the thread that runs an application and the task of its request.

Theory of operation. The thread is the active party: it puts orders into a deque, and the task, which has started
nothing, carries them out one after the other. Pieces of a response are orders that nobody waits for, up to a window;
for the rest of the request's body, and when the window is used up, the thread blocks until it is answered. So memory is
bounded both ways, and a short response costs one hop to the thread and one back.

When the task is cancelled or the client has left, the bridge is broken: the thread gets the reason as an exception
from whatever it asks for next. A task that was cancelled does not wait for that, so that a client has its answer at
the deadline, whatever the thread is doing; another task sees to it that the thread comes to its end. One that does not
within a time is given up: it may run on, but its orders reach nobody.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import traceback
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import trio
import trio.lowlevel

from trioserve.asgi.errors import ApplicationError, ClientDisconnected
from trioserve.wsgi.file_wrapper import FilePart

if TYPE_CHECKING:
    from trioserve.asgi.request_control import RequestControl
    from trioserve.asgi.types import Headers, Receive, Send
    from trioserve.wsgi.threads import ThreadPool

logger = logging.getLogger("trioserve.error")

WINDOW = 32 * 1024
"""Bytes of a response after which the thread asks to be told when they have left; two windows can be under way."""
JOINED_SIZE = 64 * 1024
"""Bytes up to which pieces of a response that wait for the task are joined."""
CLEANUP_GRACE = 3.0
"""Seconds that a thread may take to its end after a cancellation, on servers that do not say."""
LAST_GRACE = 0.2
"""The same at the end of the server."""


class ReadBody(NamedTuple):
    """Answer with the next part of the body, `size` bytes or more if `whole` and there are so many."""

    size: int
    whole: bool


class SendHints(NamedTuple):
    """Send 103 Early Hints; nobody waits for it."""

    links: list[bytes]


class Synchronise(NamedTuple):
    """Say when everything before has left."""


SYNCHRONISE = Synchronise()

Order: TypeAlias = "bytes | ReadBody | SendHints | Synchronise | FilePart"


class Bridge:
    """One request between its task and its thread. `run` is the work of the thread, and what inherits this has it.

    Attributes:
        posted: belongs to the pool.
        head: status and fields of the response; the thread changes them until it has ordered a piece of the body.
        failure: what the application raised.
        broken: why nothing can be ordered any more.

    Args:
        pool: the threads.
        control: what the server tells of the request.
        body_ended: nothing of the request's body is left to be received.
    """

    posted = False
    head: tuple[int, Headers] | None = None
    failure: BaseException | None = None
    broken: Exception | None = None

    # The thread's.
    _thread = 0
    _lock: threading.Lock | None = None  # the thread sleeps on it
    _marked = False  # a SYNCHRONISE has been ordered, and its answer not been waited for
    _room = WINDOW

    # From the one to the other.
    _answer: bytes | Exception = b""
    _ended = False  # the thread will not be heard of again

    # The task's.
    _head_sent = False
    _complete = False  # the last of the response has been sent, although the thread may go on
    _body_cut = False  # the rest of the request's body will not come
    _owes = False  # the thread waits, or will wait, for the answer to an order that was taken
    _news = False
    _parked: trio.lowlevel.Task | None = None
    _over = False  # the task has gone
    _abandoned = False  # before the thread had ended

    def __init__(self, pool: ThreadPool, control: RequestControl | None, *, body_ended: bool) -> None:
        self._pool = pool
        self._control = control
        self._body_ended = body_ended
        self._orders: deque[Order] = deque()

    @property
    def request_line(self) -> str:
        """The request, for the log."""
        raise NotImplementedError

    def run(self) -> None:
        """See `Job`."""
        raise NotImplementedError

    @property
    def arrival(self) -> tuple[int, int]:
        """See `Job`."""
        return (0, 0) if self._control is None else self._control.arrival

    # -- the thread ------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Order a piece of the body to be sent; blocks while two windows of them are under way."""
        if self._room <= 0:
            self._settle()
            self._demand(SYNCHRONISE)
            self._marked = True
            self._room = WINDOW
        self._order(data)
        self._room -= len(data)

    def send_hints(self, links: list[bytes]) -> None:
        """Order an informational response (RFC 8297)."""
        self._order(SendHints(links))

    def read_body(self, size: int, *, whole: bool) -> bytes:
        """See `BodySource`."""
        self._settle()
        if self.broken is not None:
            raise self.broken
        self._demand(ReadBody(size, whole))
        self._wait()
        answer = self._answer
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def interruption(self) -> Exception | None:
        """Why the request was ended before its thread has come to an end, if it was."""
        return None if self._ended else self.broken

    def is_disconnected(self) -> bool:
        """Whether the client is known to have left, or the request is over."""
        return self.broken is not None or (self._control is not None and self._control.disconnected)

    def _order(self, order: Order) -> None:
        """Have something done while this thread goes on."""
        if self.broken is not None:
            raise self.broken
        self._orders.append(order)
        self._pool.post(self)

    def _demand(self, order: Order) -> None:
        """Have something done that is answered by releasing the lock; `_wait` has to follow, sooner or later."""
        if self._lock is None:
            self._lock = threading.Lock()
            self._lock.acquire()
        self._orders.append(order)

    def _settle(self) -> None:
        """Wait for the answer that may be outstanding."""
        if self._marked:
            self._marked = False
            self._wait()
            if self.broken is not None:
                raise self.broken

    def _wait(self) -> None:
        assert self._lock is not None
        if not self._pool.post_and_block(self, self._lock):
            raise ClientDisconnected("the server has ended")

    def _end(self) -> None:
        """The last act of the thread: nothing of it comes after this, also not from a thread of the application's."""
        if self.broken is None:
            self.broken = ClientDisconnected("the request has ended")
        self._ended = True
        self._pool.post_end(self)

    # -- the task --------------------------------------------------------------------------------------------------

    async def serve(self, receive: Receive, send: Send) -> None:
        """Have the application run, and do what it orders until its response is complete, or `failure` is set.

        Cancelled while the request waits for a thread, the application is never called. Later, its thread may take
        `cleanup_grace` seconds more, for which nobody waits here.
        """
        self._pool.submit(self)
        handed_over = False
        try:
            try:
                await self._obey(receive, send)
            except Exception as error:
                gone = isinstance(error, ClientDisconnected)
                self._break(ClientDisconnected(str(error)) if gone else ApplicationError(str(error)))
                await self._wait_for_thread()
                raise
        except trio.Cancelled:
            if self._pool.withdraw(self):
                raise
            self._break(ClientDisconnected("the request was cancelled"))
            handed_over = self._hand_over()
            if not handed_over:
                with trio.CancelScope(shield=True):
                    await self._outlast(CLEANUP_GRACE if self._control is None else LAST_GRACE)
            raise
        finally:
            if not handed_over:
                self._close()

    async def _obey(self, receive: Receive, send: Send) -> None:
        orders = self._orders
        while True:
            while not orders and not self._ended:
                await self._wait_for_news()
            ended = self._ended  # to be read before the orders, which the thread writes before
            if not orders:
                if ended:
                    break
                continue
            order = orders.popleft()
            if type(order) is bytes:
                if orders:
                    order = self._join(order)
                last = ended and not orders and self.failure is None
                await self._send_head(send)
                await send({"type": "http.response.body", "body": order, "more_body": not last})
                if last:
                    return
            else:
                await self._execute(order, receive, send)
        if self.failure is None and not self._complete:
            await self._send_head(send)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _join(self, data: bytes) -> bytes:
        """Put together what waits behind a piece, up to a size."""
        orders = self._orders
        parts, size = [data], len(data)
        while orders:
            following = orders[0]
            if type(following) is not bytes or size + len(following) > JOINED_SIZE:
                break
            parts.append(following)
            size += len(following)
            orders.popleft()
        return b"".join(parts)

    async def _send_head(self, send: Send) -> None:
        if not self._head_sent:
            assert self.head is not None
            self._head_sent = True
            status, fields = self.head
            await send({"type": "http.response.start", "status": status, "headers": fields})

    async def _execute(self, order: Order, receive: Receive, send: Send) -> None:
        """Carry out an order that is no piece of the body."""
        if isinstance(order, ReadBody):
            self._owes = True
            self._answer = await self._receive(receive, order)
            self._release()
        elif isinstance(order, Synchronise):
            self._owes = True
            self._release()
        elif isinstance(order, SendHints):
            if not self._head_sent:
                await send({"type": "http.response.early_hint", "links": order.links})
        elif isinstance(order, FilePart):
            try:
                await self._send_head(send)
                await send(
                    {
                        "type": "http.response.zerocopysend",
                        "file": order.descriptor,
                        "offset": order.offset,
                        "count": order.length,
                    }
                )
            finally:
                os.close(order.descriptor)
            self._complete = True

    async def _receive(self, receive: Receive, order: ReadBody) -> bytes | Exception:
        """The next part of the body, or why there is none."""
        parts: list[bytes] = []
        size = 0
        while not self._body_ended and size < (order.size if order.whole else 1):
            if not self._body_cut:
                message = await receive()
                self._body_cut = message["type"] == "http.disconnect"
            if self._body_cut:  # the same for ever: to ask again would be to wait for the client to leave
                return ClientDisconnected("the client has left before the end of its body")
            data = message.get("body", b"")
            parts.append(data)
            size += len(data)
            self._body_ended = not message.get("more_body", False)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _release(self) -> None:
        assert self._lock is not None
        self._owes = False
        try:
            self._lock.release()
        except RuntimeError:  # an application that uses one request in several threads gets what it asks for
            pass

    # -- the end of a bridge that is broken -----------------------------------------------------------------------

    def _break(self, reason: Exception) -> None:
        """Let nothing pass any more: the thread gets the reason from whatever it does next."""
        if self.broken is None:
            self.broken = reason
        self._answer = self.broken
        if self._owes:
            self._release()
        self._refuse_orders()

    def _refuse_orders(self) -> None:
        while self._orders:
            order = self._orders.popleft()
            if isinstance(order, ReadBody | Synchronise):
                self._release()
            elif isinstance(order, FilePart):
                os.close(order.descriptor)

    async def _wait_for_thread(self) -> None:
        while not self._ended:
            await self._wait_for_news()
            self._refuse_orders()
        self._refuse_orders()

    def _hand_over(self) -> bool:
        """Let a task in the background see to the end of the thread; not on other servers, nor at the end of ours."""
        if self._control is None or self._control.nursery.cancel_scope.cancel_called:
            return False
        self._control.nursery.start_soon(
            self._outlast, self._control.cleanup_grace, name="end of a WSGI thread"
        )
        return True

    async def _outlast(self, grace: float) -> None:
        """See to the end of the thread of a request that is over; after so many seconds it is given up.

        Cancelled at the end of the server, it still has `LAST_GRACE` seconds.
        """
        try:
            with trio.move_on_after(grace):
                await self._wait_for_thread()
        except trio.Cancelled:
            with trio.move_on_after(min(grace, LAST_GRACE), shield=True):
                await self._wait_for_thread()
            raise
        finally:
            self._close()
            if not self._ended:
                self._abandon()

    def _close(self) -> None:
        """The end of the task's part: from now on `notify` does what there is to do."""
        self._over = True
        self._refuse_orders()

    def _abandon(self) -> None:
        """Give the thread up, and say where it is."""
        self._abandoned = True
        pool = self._pool
        pool.stuck += 1
        frame = sys._current_frames().get(self._thread)
        logger.error(
            "the application does not end after its cancellation, %d of %d threads are left: %s",
            pool.size - pool.stuck,
            pool.size,
            self.request_line,
            extra={"detail": "".join(traceback.format_stack(frame)).rstrip() if frame else None},
        )

    # -- waiting ---------------------------------------------------------------------------------------------------

    async def _wait_for_news(self) -> None:
        """Return when the thread has ordered something, or ended; perhaps too early."""
        if not self._news:
            self._parked = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._unpark)
        self._news = False

    def _unpark(self, _: object) -> trio.lowlevel.Abort:
        self._parked = None
        return trio.lowlevel.Abort.SUCCEEDED

    def notify(self) -> None:
        """See `Job`."""
        if self._over:
            self._refuse_orders()
            if self._ended and self._abandoned:
                self._abandoned = False
                self._pool.stuck -= 1
            return
        self._news = True
        if self._parked is not None:
            trio.lowlevel.reschedule(self._parked)
            self._parked = None
