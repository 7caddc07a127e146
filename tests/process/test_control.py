from __future__ import annotations

import socket

import pytest
import trio

from trioserve.config import Config, LoadedConfig
from trioserve.process.control import (
    Assignment,
    Beat,
    Command,
    ControlChannel,
    Failed,
    InheritedSocket,
    Order,
    Ready,
    Retire,
    receive_assignment,
    send_assignment,
)


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_an_assignment_arrives_as_it_was_sent(pair):
    sockets = (InheritedSocket(5, "127.0.0.1:0", False), InheritedSocket(6, "unix:/run/x", True))
    sent = Assignment(LoadedConfig(Config(app="main:app"), None), sockets, 3)
    send_assignment(pair[0], sent)
    assert receive_assignment(pair[1]) == sent


def test_a_supervisor_that_went_before_the_assignment(pair):
    pair[0].sendall(b"\0\0")
    pair[0].close()
    with pytest.raises(EOFError):
        receive_assignment(pair[1])


@pytest.mark.parametrize(
    "message",
    [
        Ready(["http://127.0.0.1:1"]),
        Beat(3, 4096),
        Retire("100 requests", accepts=True),
        Retire("it drains"),
        Failed("line\nbreak"),
        *[Command(order) for order in Order],
    ],
    ids=str,
)
async def test_messages_arrive_one_by_one(pair, message):
    ours, theirs = map(ControlChannel, pair)
    assert ours.send(message)
    assert ours.send(Beat(1, 2))
    assert await theirs.receive() == message
    assert await theirs.receive() == Beat(1, 2)


async def test_the_end_of_the_stream_is_none_for_ever(pair):
    ours, theirs = map(ControlChannel, pair)
    ours.send(Beat(1, 1))
    ours.close()
    assert await theirs.receive() == Beat(1, 1)
    assert await theirs.receive() is None
    assert await theirs.receive() is None
    assert not theirs.send(Beat(1, 1))
    theirs.close()


async def test_a_side_that_does_not_read_never_stops_the_other(pair):
    ours, theirs = map(ControlChannel, pair)
    sent = 0
    while ours.send(Retire("x" * 500)):
        sent += 1
    for _ in range(sent):
        assert await theirs.receive() == Retire("x" * 500)
    assert ours.send(Beat(0, 0))
    assert await theirs.receive() == Beat(0, 0)


async def test_a_cancelled_wait_loses_nothing(pair):
    ours, theirs = map(ControlChannel, pair)
    pair[0].send(b'{"type":"beat","requests":1,')
    with trio.move_on_after(0):
        await theirs.receive()
    pair[0].send(b'"rss":2}\n')
    assert await theirs.receive() == Beat(1, 2)
    ours.close()
