"""One HTTP request and its response, as an ASGI application sees them.

`HttpExchange` turns `receive()` and `send()` into calls on a `ResponseChannel`, which each protocol implements. It
keeps the order of messages, decides what happens when the application errs, and collects what the access log
tells. It never touches a transport and starts no task.

Invariant: `phase` only moves forward, and whoever sees `Phase.COMPLETE` may write nothing more.
"""

from __future__ import annotations

import os
from enum import Enum, auto
from typing import TYPE_CHECKING

import trio
import trio.lowlevel

from trioserve.asgi.errors import ApplicationError, ClientDisconnected
from trioserve.asgi.record import ExchangeRecord, logger
from trioserve.protocols.errors import LocalProtocolError

if TYPE_CHECKING:
    from trioserve.asgi.channel import Peer, Request, ResponseChannel, Rest
    from trioserve.asgi.types import Application, Headers, Message, Scope

checkpoint_if_cancelled = trio.lowlevel.checkpoint_if_cancelled  # a module name, since every send() calls it

PLAIN_TEXT: Headers = [(b"content-type", b"text/plain; charset=utf-8")]
MESSAGES_BETWEEN_CHECKPOINTS = 8


class Phase(Enum):
    """How far the response has come."""

    AWAITING_HEAD = auto()
    HEAD_HELD = auto()  # http.response.start was accepted; the head waits for the first piece of the body
    BODY = auto()
    TRAILERS = auto()
    COMPLETE = auto()  # nothing more may be written: answered in full, aborted, or the client left


AWAITING_HEAD = Phase.AWAITING_HEAD
HEAD_HELD = Phase.HEAD_HELD
BODY = Phase.BODY
TRAILERS = Phase.TRAILERS
COMPLETE = Phase.COMPLETE


class HttpExchange(ExchangeRecord):
    """One request and its response.

    Args:
        request: the request's head.
        channel: the protocol's side of this exchange.
        peer: the client and the addresses, after the proxy rules.
        started: when the head was complete, on Trio's clock.
    """

    phase: Phase = Phase.AWAITING_HEAD
    body_received: bool = False
    _disconnect_told: bool = False
    _trailers_follow: bool = False
    _trailers: Headers | None = None
    _sends: int = 0
    _receives: int = 0

    def __init__(self, request: Request, channel: ResponseChannel, peer: Peer, started: float) -> None:
        self.request = request
        self.channel = channel
        self.peer = peer
        self.started = started

    # -- the application ------------------------------------------------------------------------------------------

    async def run(self, app: Application, scope: Scope) -> None:
        """Run the application in the calling task and see the response to an end, whatever the application does.

        Never raises an `Exception`. `Cancelled` passes through; the response is then unfinished, and the caller
        decides what is owed.
        """
        try:
            await app(scope, self.receive, self.send)
        except Exception as error:
            await self._end_after_error(error)
        except BaseExceptionGroup as group:  # errors beside a cancellation are the application's
            errors, rest = group.split(Exception)
            if errors is not None and not self._is_disconnect(errors):
                self.log_error(errors)
            if rest is not None:
                raise rest from None
        else:
            if self.phase is not COMPLETE:
                await self._end_incomplete()

    async def answer(self, status: int, text: str, headers: Headers | None = None) -> None:
        """Answer with a plain text of our own instead of the application's response."""
        fields = [*PLAIN_TEXT, *(headers or ())]
        self.status, self.response_headers = status, fields
        self.phase = COMPLETE
        body = text.encode()
        self.channel.prepare_head(status, fields)
        self.body_bytes_sent = len(body)
        rest = self.channel.write_head(body, True)
        if rest is not None:
            await self.channel.write_rest(rest)

    async def _end_after_error(self, error: Exception) -> None:
        if self._is_disconnect(error):
            if self.phase is not COMPLETE or self.channel.gone:
                self._end_aborted("disconnected")
            return
        if self.channel.gone or (self._disconnect_told and self.channel.left):
            # Frameworks raise errors of their own in the place of ours, and for a body that was cut short.
            logger.info("the application raised %r after its client had left: %s", error, self.request_line)
        else:
            self.log_error(error)
        if self.phase is not COMPLETE:
            await self._answer_500()

    async def _end_incomplete(self) -> None:
        if self.channel.gone or (self._disconnect_told and self.channel.left):
            self._end_aborted("disconnected")
            return
        what = "a response" if self.phase is AWAITING_HEAD else "the end of its response"
        logger.error("the application returned without sending %s: %s", what, self.request_line)
        await self._answer_500()

    async def _answer_500(self) -> None:
        """Answer 500 if nothing was written yet; otherwise cut the response, so that it cannot look complete."""
        if self.phase is not AWAITING_HEAD and self.phase is not HEAD_HELD:
            self._end_aborted("aborted")
            return
        try:
            await self.answer(500, "Internal Server Error\n")
        except ClientDisconnected:
            self._end_aborted("disconnected")
        except LocalProtocolError:  # the head was rendered, and the piece of the body behind it refused
            self._end_aborted("aborted")

    def _end_aborted(self, outcome: str) -> None:
        self.phase = COMPLETE
        self.outcome = outcome
        self.channel.abort()

    def _is_disconnect(self, error: BaseException) -> bool:
        """Whether nothing but the client's leaving is behind an error, also inside an exception group."""
        if isinstance(error, BaseExceptionGroup):
            return all(self._is_disconnect(inner) for inner in error.exceptions)
        return isinstance(error, ClientDisconnected)

    # -- receive --------------------------------------------------------------------------------------------------

    async def receive(self) -> Message:
        """ASGI `receive()`: the request's body in pieces, then `http.disconnect`.

        What is known already is returned without a checkpoint, so that a caller inside a cancelled scope gets it;
        otherwise it waits, and cancelling it loses nothing. After the body it waits until the client has left or
        the response is complete.
        """
        if not self.body_received:
            if not self.request.has_body:
                self.body_received = True
                return {"type": "http.request", "body": b"", "more_body": False}
            if self.phase is not COMPLETE:
                return await self._receive_body()
        if self.phase is not COMPLETE and not self.channel.left:
            await self.channel.wait_disconnected()
        if self._disconnect_told:
            await trio.lowlevel.checkpoint()  # an application that loops here must not stop the others
        self._disconnect_told = True
        return {"type": "http.disconnect"}

    async def _receive_body(self) -> Message:
        self._receives += 1
        if self._receives % MESSAGES_BETWEEN_CHECKPOINTS == 0:
            # Before the piece is taken, so that a cancellation loses nothing.
            await trio.lowlevel.checkpoint()
        try:
            piece = await self.channel.read_body()
        except trio.BusyResourceError:
            raise ApplicationError("two tasks wait in receive() for the body of one request") from None
        except ClientDisconnected:
            self.body_received = True
            self._disconnect_told = True
            return {"type": "http.disconnect"}
        self.bytes_received += len(piece.data)
        self.body_received = piece.last
        message: Message = {"type": "http.request", "body": piece.data, "more_body": not piece.last}
        if piece.trailers:
            message["trailers"] = piece.trailers
        return message

    # -- send -----------------------------------------------------------------------------------------------------

    async def send(self, message: Message) -> None:
        """ASGI `send()`: `http.response.start`, `.body`, and the messages of the offered extensions.

        Waits while the client does not take what was sent before. Always a cancellation point, before anything of
        the message is taken; cancelled while it waits, it cuts the response.

        Raises:
            ApplicationError: the message is out of order, malformed, or carries an illegal header.
            ClientDisconnected: the client has left.
        """
        await checkpoint_if_cancelled()
        try:
            kind = message["type"]
            channel = self.channel
            phase = self.phase
            if phase is COMPLETE or channel.gone:
                await self._refuse_late(kind)
            elif kind == "http.response.body":
                data = message.get("body", b"")
                last = not message.get("more_body", False)
                if type(data) is not bytes or (phase is not HEAD_HELD and phase is not BODY):
                    self._check_body(data)
                final = last and not self._trailers_follow
                self.phase = COMPLETE if final else TRAILERS if last else BODY
                try:
                    rest = (
                        channel.write_head(data, final)
                        if phase is HEAD_HELD
                        else channel.write_body(data, final)
                    )
                except LocalProtocolError as error:
                    self.phase = phase
                    raise ApplicationError(str(error)) from None
                self.body_bytes_sent += len(data)
                if rest is not None:
                    await self._write_rest(rest)
                if not last:
                    await self._yield()
            elif kind == "http.response.start":
                self._start(message)
            else:
                await self._send_extension(kind, message)
        except ApplicationError:
            await trio.lowlevel.checkpoint()  # an application that tries for ever must not stop the others
            raise

    async def _write_rest(self, rest: Rest) -> None:
        """Wait until the client takes what was left; a cancellation cuts the response, and nothing may follow."""
        try:
            await self.channel.write_rest(rest)
        except trio.Cancelled:
            self._end_aborted("aborted")
            raise

    def _check_body(self, data: object) -> None:
        if self.phase is not HEAD_HELD and self.phase is not BODY:
            raise ApplicationError(f"http.response.body was sent {_WHEN[self.phase]}")
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise ApplicationError(f"http.response.body: body has to be bytes, not {type(data).__name__}")

    async def _refuse_late(self, kind: str) -> None:
        await trio.lowlevel.checkpoint()  # an application that loops on send() must not stop the others
        if self.channel.gone or self.outcome != "complete":
            raise ClientDisconnected("the client has left")
        raise ApplicationError(f"{kind} after the response was complete")

    async def _yield(self) -> None:
        """Give others a turn now and then: a client that takes everything at once must not stop them."""
        self._sends += 1
        if self._sends % MESSAGES_BETWEEN_CHECKPOINTS == 0:
            await trio.lowlevel.checkpoint()

    def _start(self, message: Message) -> None:
        if self.phase is not AWAITING_HEAD:
            raise ApplicationError("http.response.start was sent twice")
        status = message["status"]
        if type(status) is not int:
            status = _checked_status(status)
        headers = message.get("headers", ())
        try:
            self.channel.prepare_head(status, headers)
        except LocalProtocolError as error:
            raise ApplicationError(str(error)) from None
        self.status = status
        self.response_headers = headers
        if message.get("trailers", False):
            self._trailers_follow = True
        self.phase = HEAD_HELD

    async def _send_extension(self, kind: str, message: Message) -> None:
        await self._yield()
        if kind == "http.response.trailers":
            await self._write_trailers(message)
        elif kind == "http.response.early_hint":
            if self.phase is not AWAITING_HEAD:
                raise ApplicationError("http.response.early_hint after http.response.start")
            links = [(b"link", bytes(link)) for link in message.get("links", ())]
            try:
                await self.channel.write_information(103, links)
            except LocalProtocolError as error:
                raise ApplicationError(str(error)) from None
        elif kind == "http.response.push":
            try:
                self.channel.push(message["path"], message.get("headers", ()))
            except LocalProtocolError as error:
                raise ApplicationError(str(error)) from None
        elif kind == "http.response.pathsend":
            await self._send_path(message["path"])
        elif kind == "http.response.zerocopysend":
            file = message["file"]
            descriptor = file if isinstance(file, int) else file.fileno()
            last = not message.get("more_body", False)
            await self._write_file(descriptor, message.get("offset"), message.get("count"), last)
        else:
            raise ApplicationError(f"unknown message type {kind!r} for an http scope")

    async def _write_trailers(self, message: Message) -> None:
        if self.phase is not TRAILERS:
            raise ApplicationError(
                "http.response.trailers needs `trailers: True` in http.response.start and the whole body before it"
            )
        self._trailers = [*(self._trailers or ()), *message.get("headers", ())]
        if message.get("more_trailers", False):
            return
        try:
            rest = self.channel.write_trailers(self._trailers)
        except LocalProtocolError as error:
            raise ApplicationError(str(error)) from None
        self.phase = COMPLETE
        if rest is not None:
            await self._write_rest(rest)

    async def _send_path(self, path: str | os.PathLike[str]) -> None:
        if self.phase is not HEAD_HELD:
            raise ApplicationError(f"http.response.pathsend was sent {_WHEN[self.phase]}")
        flags = os.O_RDONLY | os.O_CLOEXEC
        file = await trio.to_thread.run_sync(os.open, path, flags)
        try:
            await self._write_file(file, 0, None, True)
        finally:
            os.close(file)

    async def _write_file(self, file: int, offset: int | None, count: int | None, last: bool) -> None:
        phase = self.phase
        if phase is not HEAD_HELD and phase is not BODY:
            raise ApplicationError(f"a file was sent {_WHEN[phase]}")
        final = last and not self._trailers_follow
        if count is None:
            position = os.lseek(file, 0, os.SEEK_CUR) if offset is None else offset
            count = max(0, os.fstat(file).st_size - position)
        try:
            if phase is HEAD_HELD:
                rest = self.channel.write_head(b"", False, count if final else None)
                self.phase = BODY
                if rest is not None:
                    await self._write_rest(rest)
            self.body_bytes_sent += count
            try:
                await self.channel.write_file(file, offset, count, final)
            except trio.Cancelled:
                self._end_aborted("aborted")
                raise
        except LocalProtocolError as error:
            raise ApplicationError(str(error)) from None
        if last:
            self.phase = COMPLETE if final else TRAILERS


_WHEN = {
    Phase.AWAITING_HEAD: "before http.response.start",
    Phase.HEAD_HELD: "too early",
    Phase.BODY: "after the body was begun",
    Phase.TRAILERS: "after the end of the body",
    Phase.COMPLETE: "after the response was complete",
}


def _checked_status(status: object) -> int:
    """Return the number in an `http.HTTPStatus` or a similar subclass of int."""
    if isinstance(status, int) and not isinstance(status, bool):
        return int(status)
    raise ApplicationError(f"http.response.start: status has to be an int, not {type(status).__name__}")
