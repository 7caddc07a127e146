"""What comes for an application that does not receive, or has been cancelled in `receive()`: it is looked at."""

from __future__ import annotations

import zlib

import pytest
import trio
import trio.abc
import trio.testing

from tests.server.session_server import PROTOCOLS, open_server
from trioserve.server.websocket_reader import QUEUE_SIZE
from trioserve.testing.websocket_client import (
    BINARY,
    CLOSE,
    FIN,
    PING,
    PONG,
    RSV1,
    client_frame,
    close_payload,
    open_http1_session,
)

both = pytest.mark.parametrize("protocol", PROTOCOLS)
GRACE = 3


async def silent(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    await trio.sleep_forever()


class Impatient:
    """Waits for a message until `scope` is cancelled, then for something else."""

    def __init__(self):
        self.accepted, self.scope, self.cancelled = trio.Event(), trio.CancelScope(), False

    async def __call__(self, scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        self.accepted.set()
        with self.scope:
            await receive()
        self.cancelled = self.scope.cancelled_caught
        await trio.sleep_forever()


async def test_inside_of_a_large_message_with_a_close_behind_it(autojump_clock):
    app = Impatient()
    async with open_server(app) as served:
        client = await served.session("http1")
        await app.accepted.wait()
        await trio.testing.wait_all_tasks_blocked()
        begun = trio.current_time()
        message = client_frame(FIN | BINARY, bytes(100_000))
        await client.send_bytes(message + client_frame(FIN | CLOSE, close_payload(1000)))
        app.scope.cancel()  # the application has begun to read, and lets others have their turn
        await client.wait_end()
        assert app.cancelled
        # Its client's leaving was noticed.
        assert trio.current_time() - begun == pytest.approx(GRACE, abs=0.1)


@both
async def test_in_the_moment_in_which_bytes_come(protocol, autojump_clock):
    app = Impatient()
    async with open_server(app) as served:
        client = await served.session(protocol)
        await app.accepted.wait()
        await trio.testing.wait_all_tasks_blocked()
        app.scope.cancel()
        await client.send_frame(FIN | PING, b"now")
        with trio.move_on_after(1):
            frame = await client.next_frame()
        assert app.cancelled
        assert (frame.opcode, frame.payload) == (PONG, b"now")


@pytest.mark.parametrize("polite", [True, False])
async def test_over_a_stream_that_is_no_socket(polite, autojump_clock):
    async with open_server(silent) as served:
        ours, theirs = trio.testing.memory_stream_pair()
        ended = served.server.start_stream(theirs)
        client = await open_http1_session(ours)
        await client.send_frame(FIN | PING, b"there?")
        frame = await client.next_frame()
        assert (frame.opcode, frame.payload) == (PONG, b"there?")
        begun = trio.current_time()
        if polite:
            await client.close()
        else:
            await ours.send_eof()
        await ended.wait()
        assert trio.current_time() - begun == pytest.approx(GRACE, abs=0.1)


class Steps(trio.abc.Instrument):
    """Counts how often tasks of a name have their turn."""

    def __init__(self, name):
        self.name, self.count = name, 0

    def before_task_step(self, task):
        self.count += self.name in task.name


async def test_large_messages_that_are_thrown_away_let_others_run(autojump_clock):
    async def app(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close"})
        await trio.sleep(5)

    deflater = zlib.compressobj(wbits=-15)
    payload = (deflater.compress(bytes(QUEUE_SIZE)) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]
    steps = Steps("_run_beside")
    async with open_server(app) as served:
        client = await served.session("http1", headers=[(b"sec-websocket-extensions", b"permessage-deflate")])
        trio.lowlevel.add_instrument(steps)
        await client.send_bytes(client_frame(FIN | RSV1 | BINARY, payload) * 20)
        await client.send_frame(FIN | CLOSE, close_payload(1000))
        await client.wait_end()
    assert steps.count >= 20


async def collapse():
    raise RuntimeError("the tunnel has collapsed")


async def test_a_stream_that_fails_in_a_way_of_its_own_ends_its_session_alone(autojump_clock):
    async with open_server(silent, complaints=["bug"]) as served:
        ours, theirs = trio.testing.memory_stream_pair()
        ended = served.server.start_stream(theirs)
        client = await open_http1_session(ours)
        theirs.send_stream.send_all_hook = collapse
        await client.send_frame(FIN | PING, b"there?")
        await ended.wait()
        assert (await served.session("http1")).accepted
