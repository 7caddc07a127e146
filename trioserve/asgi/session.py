"""One WebSocket session, as an ASGI application sees it (ASGI HTTP & WebSocket specification 2.5).

`WebSocketSession` is the sibling of `HttpExchange`: it turns `receive()` and `send()` into calls on a `SessionChannel`,
keeps the order of messages, decides what happens when the application errs, and collects what the access log tells.
Frames, pings and deadlines are the channel's. It starts no task.

Several tasks may send at once, as applications that broadcast do: what one of them writes is never inside what
another does. Invariant: `phase` only moves forward.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
import trio.lowlevel

from trioserve.asgi.errors import ApplicationError, ClientDisconnected
from trioserve.asgi.exchange import MESSAGES_BETWEEN_CHECKPOINTS, PLAIN_TEXT, checkpoint_if_cancelled
from trioserve.asgi.record import ExchangeRecord, logger
from trioserve.asgi.scope import SESSION_SCHEMES
from trioserve.asgi.session_fields import (
    checked_bytes,
    checked_code,
    checked_denial_status,
    checked_payload,
    checked_text,
    fitting_reason,
)
from trioserve.asgi.session_phase import (
    CLOSED,
    DENIAL_BODY,
    DENIAL_HELD,
    DENIED,
    HANDSHAKE,
    LEFT,
    OPEN,
    UNDECIDED,
    VANISHED,
    WHEN,
)
from trioserve.protocols.errors import LocalProtocolError

if TYPE_CHECKING:
    from trioserve.asgi.channel import Peer, Request, Rest, SessionChannel, SessionEnd
    from trioserve.asgi.session_phase import End, SessionPhase
    from trioserve.asgi.types import Application, Headers, Message, Scope

LARGE_MESSAGE = 1 << 20
"""Bytes of a message before and after which others have their turn: to inflate it may have taken long."""
LONGEST_CHAIN = 16
"""Errors behind an error that are looked at; a chain may be a circle."""


class WebSocketSession(ExchangeRecord):
    """One WebSocket session.

    Args:
        request: the head of the opening handshake.
        channel: the protocol's side of this session.
        peer: the client and the addresses, after the proxy rules.
        started: when the head was complete, on Trio's clock.
    """

    phase: SessionPhase = HANDSHAKE
    _connect_told: bool = False
    _end: SessionEnd | End | None = None  # known, and told or about to be told
    _disconnect_told: bool = False
    _undecided: trio.CancelScope | None = None  # around a receive() that waits for the application's decision
    _turn: trio.Lock | None = None  # there is one while a task is in the middle of writing
    _sends: int = 0  # both since the last checkpoint of either
    _receives: int = 0

    def __init__(self, request: Request, channel: SessionChannel, peer: Peer, started: float) -> None:
        self.request = request
        self.channel = channel
        self.peer = peer
        self.started = started

    @property
    def scheme(self) -> str:
        """`ws` or `wss`, after the proxy rules."""
        return SESSION_SCHEMES.get(self.peer.scheme, self.peer.scheme)

    # -- the application ------------------------------------------------------------------------------------------

    async def run(self, app: Application, scope: Scope) -> None:
        """Run the application in the calling task and see the session to an end, whatever the application does.

        Returns when the close frame has been taken by the transport; the peer's answer is the channel's to await.
        Never raises an `Exception`. `Cancelled` passes through, and the caller decides what the client is told.
        """
        try:
            await app(scope, self.receive, self.send)
        except Exception as error:
            await self._end_after_error(error)
        except BaseExceptionGroup as group:  # errors beside a cancellation
            errors, rest = group.split(Exception)
            if errors is not None and not self._is_told(errors):
                self.log_error(errors)
            if rest is not None:
                raise rest from None
        else:
            await self._end_after_return()
        if self.phase is LEFT and self.outcome == "complete" and (self._end or VANISHED).code == 1006:
            self.outcome = "disconnected"

    async def answer(self, status: int, text: str, headers: Headers | None = None) -> None:
        """Refuse the session with a plain text of our own; only before anything was sent.

        Raises:
            ClientDisconnected: the client has left.
        """
        fields = [*PLAIN_TEXT, *(headers or ())]
        body = text.encode()
        self.status, self.response_headers = status, fields
        self.phase = DENIED
        self.channel.prepare_head(status, fields)
        self.body_bytes_sent = len(body)
        rest = self.channel.write_head(body, True)
        self._note_first_byte()
        if rest is not None:
            await self.channel.write_rest(rest)
        self._tell_decision()

    async def _end_after_error(self, error: Exception) -> None:
        if self._is_told(error):
            group = error if isinstance(error, ExceptionGroup) else ExceptionGroup("", [error])
            if group.split(ClientDisconnected)[1] is not None:
                logger.info("the application raised %r after its client left: %s", error, self.request_line)
            if self.phase in UNDECIDED:
                self._lose()
        else:
            self.log_error(error)
            await self._end_for_application(1011)

    async def _end_after_return(self) -> None:
        if self.phase in UNDECIDED:
            if self.channel.gone or (self._disconnect_told and self.channel.left):
                self._lose()
                return
            what = "accepting or refusing" if self.phase is HANDSHAKE else "sending the end of its refusal of"
            logger.error("the application returned without %s a session: %s", what, self.request_line)
        await self._end_for_application(1000)

    async def _end_for_application(self, code: int) -> None:
        """Do what the application has left undone: 500 before it has decided, a close frame after."""
        try:
            if self.phase is OPEN:
                if code != 1000:
                    self.outcome = "aborted"
                await self._send_in_turn("websocket.close", {"code": code})
            elif self.phase is DENIAL_BODY:
                self._cut_off()
            elif self.phase in UNDECIDED:
                await self.answer(500, "Internal Server Error\n")
        except ClientDisconnected:
            self._lose()
        except ApplicationError:  # a task that outlives the application has closed meanwhile
            pass
        except LocalProtocolError:  # the head was rendered, and the piece of the body behind it refused
            self._cut_off()

    def _is_told(self, error: BaseException) -> bool:
        """Whether an error says no more than what we told: that the client has left.

        Frameworks raise errors of their own in the place of ours, or for `websocket.disconnect` and with its code.
        """
        if isinstance(error, BaseExceptionGroup):
            return all(self._is_told(inner) for inner in error.exceptions)
        if self.phase is not LEFT and self._end is None:
            return False  # it is about another session
        if self._end is not None and getattr(error, "code", None) == self._end.code:
            return True
        behind: BaseException | None = error
        for _ in range(LONGEST_CHAIN):
            if behind is None or isinstance(behind, ClientDisconnected):
                break
            behind = behind.__cause__ or behind.__context__
        return isinstance(behind, ClientDisconnected)

    # -- receive --------------------------------------------------------------------------------------------------

    async def receive(self) -> Message:
        """ASGI `receive()`: `websocket.connect`, then the client's messages, then `websocket.disconnect` for ever.

        What is known already is returned without a checkpoint, so that a caller inside a cancelled scope gets it;
        only every eighth message is preceded by one, and what follows a large one. Cancelling it loses nothing.
        Asked for a message before the application has accepted, it waits for that too.

        Raises:
            ApplicationError: another task waits in it already.
        """
        if self.phase is not OPEN or not self._connect_told:
            known = await self._receive_outside()
            if known is not None:
                return known
        while True:
            self._receives += 1
            if self._receives >= MESSAGES_BETWEEN_CHECKPOINTS:
                self._sends = self._receives = 0
                await trio.lowlevel.checkpoint()  # before a message is taken, so that cancelling loses none
            try:
                event = await self.channel.receive_message()
            except trio.BusyResourceError:
                await trio.lowlevel.checkpoint()
                raise ApplicationError("two tasks wait in receive() of one session") from None
            if not hasattr(event, "data"):
                return self._tell_end(event)
            data = event.data
            size = len(data)
            if size >= LARGE_MESSAGE:
                self._receives = MESSAGES_BETWEEN_CHECKPOINTS
            if type(data) is str:
                self.bytes_received += size if data.isascii() else len(data.encode())
                message: Message = {"type": "websocket.receive", "text": data}
            else:
                self.bytes_received += size
                message = {"type": "websocket.receive", "bytes": data}
            if self.phase is not CLOSED:  # after its own close an application expects the end alone
                return message

    async def _receive_outside(self) -> Message | None:
        """Return what is to be told while the session is not open; None if the channel has to be asked."""
        if not self._connect_told:
            self._connect_told = True
            return {"type": "websocket.connect"}
        if self._end is None and self.phase in UNDECIDED:
            if not self.channel.left:
                await self._wait_decided()
            if self.phase is HANDSHAKE:
                self._lose()
            elif self.phase in UNDECIDED:
                self._end = VANISHED  # it may have ended its sending side alone, and gets the whole answer
        if self._end is None:
            if self.phase is not DENIED:
                return None
            self._end = VANISHED
        return await self._tell_again(self._end)

    async def _wait_decided(self) -> None:
        """Wait until the client has left, or the application has accepted or refused it in another task."""
        if self._undecided is not None:
            await trio.lowlevel.checkpoint()
            raise ApplicationError("two tasks wait in receive() of one session")
        with trio.CancelScope() as self._undecided:
            try:
                await self.channel.wait_disconnected()
            finally:
                self._undecided = None

    def _tell_decision(self) -> None:
        if self._undecided is not None:
            self._undecided.cancel()

    def _tell_end(self, end: SessionEnd | End) -> Message:
        self._end = end
        self._disconnect_told = True
        if self.phase is OPEN:
            self.phase = LEFT
        return {"type": "websocket.disconnect", "code": end.code, "reason": end.reason}

    async def _tell_again(self, end: SessionEnd | End) -> Message:
        if self._disconnect_told:
            await trio.lowlevel.checkpoint()  # an application that loops here must not stop the others
        return self._tell_end(end)

    # -- send -----------------------------------------------------------------------------------------------------

    async def send(self, message: Message) -> None:
        """ASGI `send()`: `websocket.accept`, `.send`, `.close` and `websocket.http.response.start`, `.body`.

        Waits while the client does not take what was sent before. Always a cancellation point, before anything of
        the message is taken; cancelled while it waits, it cuts the session.

        Raises:
            ApplicationError: the message is out of order or malformed, or `websocket.close` was sent before.
            ClientDisconnected: the client has closed, or has left.
        """
        await checkpoint_if_cancelled()
        try:
            kind = message.get("type")
            if kind == "websocket.send" and self._turn is None:
                rest = self._write_message(message)
                if rest is not None:
                    await self._write_rest_alone(rest)
            else:
                await self._send_in_turn(kind, message)
        except ApplicationError:
            await trio.lowlevel.checkpoint()  # an application that tries for ever must not stop the others
            raise
        except LocalProtocolError as error:
            await trio.lowlevel.checkpoint()
            raise ApplicationError(str(error)) from None
        except ClientDisconnected:
            self._lose()
            await trio.lowlevel.checkpoint()
            raise
        self._sends += 1
        if self._sends >= MESSAGES_BETWEEN_CHECKPOINTS:
            self._sends = self._receives = 0
            await trio.lowlevel.checkpoint()  # nor one whose client takes everything at once

    async def _send_in_turn(self, kind: object, message: Message) -> None:
        turn = self._turn
        if turn is None:
            turn = self._turn = trio.Lock()
            turn.acquire_nowait()
        else:
            await turn.acquire()
        try:
            await self._send_alone(kind, message)
        finally:
            self._pass_turn(turn)

    async def _write_rest_alone(self, rest: Rest) -> None:
        turn = self._turn = trio.Lock()
        turn.acquire_nowait()
        try:
            await self._write_rest(rest)
        finally:
            self._pass_turn(turn)

    def _pass_turn(self, turn: trio.Lock) -> None:
        turn.release()
        if not turn.locked():  # otherwise it is the next one's already
            self._turn = None

    async def _send_alone(self, kind: object, message: Message) -> None:
        if kind == "websocket.send":
            rest = self._write_message(message)
            if rest is not None:
                await self._write_rest(rest)
        elif kind == "websocket.accept":
            await self._accept(message)
        elif kind == "websocket.close":
            await self._close(message)
        elif kind == "websocket.http.response.start":
            self._start_denial(message)
        elif kind == "websocket.http.response.body":
            await self._write_denial(message)
        else:
            raise ApplicationError(f"unknown message type {kind!r} for a websocket scope")

    def _check_phase(self, kind: str, *allowed: SessionPhase) -> None:
        if self.phase in allowed:
            return
        if self.phase is LEFT:
            raise ClientDisconnected("the client has left")
        raise ApplicationError(f"{kind} was sent {WHEN[self.phase]}")

    def _write_message(self, message: Message) -> Rest | None:
        if self.phase is not OPEN:
            self._check_phase("websocket.send", OPEN)
        data, size = checked_payload(message)
        rest = self.channel.write_message(data)
        self.body_bytes_sent += size
        return rest

    async def _write_rest(self, rest: Rest) -> None:
        """Wait until the client takes what was left; a cancellation cuts the session, and nothing may follow."""
        try:
            await self.channel.write_rest(rest)
        except trio.Cancelled:
            self._cut_off()
            raise

    async def _accept(self, message: Message) -> None:
        self._check_phase("websocket.accept", HANDSHAKE)
        subprotocol = message.get("subprotocol")
        if subprotocol is not None:
            subprotocol = checked_text("websocket.accept: subprotocol", subprotocol)
        headers = list(message.get("headers") or ())
        try:
            await self.channel.accept(subprotocol, headers)
        except trio.Cancelled:
            self._cut_off()
            raise
        self._note_first_byte()
        self.phase = OPEN
        self.status = 200 if self.request.http_version == "2" else 101  # RFC 8441 section 5
        self.response_headers = headers
        self._tell_decision()

    async def _close(self, message: Message) -> None:
        self._check_phase("websocket.close", HANDSHAKE, OPEN)
        code = checked_code(message.get("code"))
        if self.phase is HANDSHAKE:  # nobody gets to see the reason, which some frameworks make of anything
            await self.answer(403, "Forbidden\n")
        else:
            reason = fitting_reason(message.get("reason"))
            self.phase = CLOSED
            await self.channel.close(code, reason)

    def _start_denial(self, message: Message) -> None:
        self._check_phase("websocket.http.response.start", HANDSHAKE)
        status = checked_denial_status(message.get("status"), self.request.http_version)
        headers = list(message.get("headers") or ())
        self.channel.prepare_head(status, headers)
        self.status = status
        self.response_headers = headers
        self.phase = DENIAL_HELD

    async def _write_denial(self, message: Message) -> None:
        self._check_phase("websocket.http.response.body", DENIAL_HELD, DENIAL_BODY)
        data = checked_bytes("websocket.http.response.body: body", message.get("body", b""))
        last = not message.get("more_body", False)
        if self.phase is DENIAL_HELD:
            rest = self.channel.write_head(data, last)
            self._note_first_byte()
        else:
            rest = self.channel.write_body(data, last)
        self.phase = DENIED if last else DENIAL_BODY
        self.body_bytes_sent += len(data)
        if rest is not None:
            await self._write_rest(rest)
        if last:
            self._tell_decision()

    # -- ends -----------------------------------------------------------------------------------------------------

    def _note_first_byte(self) -> None:
        if not self.first_byte:  # some channels know better
            self.first_byte = trio.current_time()

    def _lose(self) -> None:
        """Nothing reaches the client any more."""
        if self.phase in UNDECIDED or self.phase is DENIED:
            self._end = VANISHED
            self.channel.abort()
        self.phase = LEFT
        self._tell_decision()

    def _cut_off(self) -> None:
        """End the session so that the client can tell it did not end well."""
        self.outcome = "aborted"
        self.cut = True
        self._end = self._end or VANISHED
        self.phase = LEFT
        self.channel.abort()
        self._tell_decision()
