from __future__ import annotations

import socket
import struct

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
import trio
import trio.testing
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from trioserve.testing.http2_client import PREFACE, Http2Client
from trioserve.testing.http2_record import Failure, render_frame

FIELDS = [(b":status", b"200")]


class Peer:
    """A server's end that is driven by hand."""

    def __init__(self, stream):
        self.stream = stream
        self.connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self.events = []

    async def start(self):
        self.connection.initiate_connection()
        await self.flush()
        await self.next_event(h2.events.SettingsAcknowledged)

    async def flush(self):
        if data := self.connection.data_to_send():
            await self.stream.send_all(data)

    async def next_event(self, kind):
        """The next event of a kind; what came before it is dropped."""
        while True:
            while self.events:
                if isinstance(event := self.events.pop(0), kind):
                    return event
            data = await self.stream.receive_some(65536)
            assert data, f"the client left without {kind}"
            self.events += self.connection.receive_data(data)
            await self.flush()

    async def answer(self, stream_id, body=b"", fields=FIELDS, trailers=None):
        self.connection.send_headers(stream_id, fields)
        self.connection.send_data(stream_id, body, end_stream=not trailers)
        if trailers:
            self.connection.send_headers(stream_id, trailers, end_stream=True)
        await self.flush()


@pytest.fixture
def ends():
    ours, theirs = trio.testing.memory_stream_pair()
    return Http2Client(ours, authority="a.test"), Peer(theirs)


@pytest.fixture
async def started(ends):
    client, peer = ends
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.start)
        await client.start()
    return client, peer


async def test_start_brings_the_settings_of_both_sides_into_force(ends):
    client, peer = ends
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.start)
        await client.start(
            {SettingsFrame.INITIAL_WINDOW_SIZE: 7, SettingsFrame.ENABLE_PUSH: 0}, window=70_000
        )
    assert client.server_settings[SettingsFrame.MAX_FRAME_SIZE] == 16384
    assert client.unseen == []
    assert peer.connection.remote_settings.initial_window_size == 7
    assert peer.connection.outbound_flow_control_window == 70_000


async def test_response_with_everything(started):
    client, peer = started
    stream_id = await client.request("GET", "/x?y", headers=[(b"te", b"trailers")])
    request = await peer.next_event(h2.events.RequestReceived)
    assert request.stream_id == stream_id == 1
    assert request.headers == [
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":path", b"/x?y"),
        (b":authority", b"a.test"),
        (b"te", b"trailers"),
    ]
    peer.connection.send_headers(1, [(b":status", b"103"), (b"link", b"</a>")])
    await peer.answer(1, b"hello", [*FIELDS, (b"x-a", b"1"), (b"x-a", b"2")], [(b"x-sum", b"3")])
    response = await client.response(1)
    assert (response.status, response.body, response.http_version) == (200, b"hello", "2")
    assert response.headers == [(b"x-a", b"1"), (b"x-a", b"2")]
    assert response.trailers == [(b"x-sum", b"3")]
    assert [(hint.status, hint.headers) for hint in response.informational] == [(103, [(b"link", b"</a>")])]


async def test_get_with_a_head_in_several_frames(started):
    client, peer = started
    large = b"a" * 40_000
    peer.connection.update_settings({h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: 100_000})
    peer.connection.decoder.max_header_list_size = 100_000
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def answer():
            request = await peer.next_event(h2.events.RequestReceived)
            assert request.headers[-1] == (b"x-large", large)
            await peer.answer(request.stream_id, fields=[*FIELDS, (b"x-large", large)])

        response = await client.get(headers=[(b"x-large", large)])
    assert response.header("x-large") == large


async def test_responses_to_several_tasks(started):
    client, peer = started
    bodies = {}

    async def get(path):
        bodies[path] = (await client.get(path)).body

    async with trio.open_nursery() as nursery:
        nursery.start_soon(get, "/1")
        nursery.start_soon(get, "/2")
        ids = {}
        for _ in range(2):
            request = await peer.next_event(h2.events.RequestReceived)
            ids[dict(request.headers)[b":path"]] = request.stream_id
        await peer.answer(ids[b"/2"], b"two")
        await trio.testing.wait_all_tasks_blocked()
        assert bodies == {"/2": b"two"}
        await peer.answer(ids[b"/1"], b"one")
    assert bodies == {"/1": b"one", "/2": b"two"}


async def test_body_waits_for_the_windows(started):
    client, peer = started
    body = bytes(range(256)) * 300  # more than both windows
    received = bytearray()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: client.request("POST", body=body))
        await trio.testing.wait_all_tasks_blocked()
        assert client.window == 0
        while len(received) < len(body):
            event = await peer.next_event(h2.events.DataReceived)
            received += event.data
            peer.connection.acknowledge_received_data(event.flow_controlled_length, 1)
            await peer.flush()
        await peer.next_event(h2.events.StreamEnded)
    assert received == body


async def test_body_after_a_reset_is_given_up(started):
    client, peer = started
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: client.request("POST", body=bytes(100_000)))
        await trio.testing.wait_all_tasks_blocked()
        peer.connection.receive_data(await peer.stream.receive_some(100_000))
        peer.connection.reset_stream(1, 8)
        await peer.flush()
    assert client.record(1).reset == 8
    with pytest.raises(AssertionError, match=r"stream 1 was reset with 8 \(CANCEL\)"):
        await client.response(1)


@pytest.mark.parametrize("updated", [True, False])
async def test_credit_for_content(started, updated):
    client, peer = started
    client.update_windows = updated
    stream_id = await client.request()
    await peer.next_event(h2.events.RequestReceived)
    peer.connection.send_headers(1, FIELDS)
    peer.connection.send_data(1, bytes(1000), pad_length=23)
    await peer.flush()
    await client.wait_for(DataFrame, stream_id)
    await client.send(PingFrame(opaque_data=b"12345678"))
    await peer.next_event(h2.events.PingReceived)
    used = 0 if updated else 1024
    assert peer.connection.local_flow_control_window(1) == 65535 - used


async def test_frames_are_taken_in_any_order_and_once(started):
    client, peer = started
    await peer.stream.send_all(
        RstStreamFrame(5, 1).serialize()
        + render_frame(0xBB, b"unknown", flags=3, stream_id=7)
        + RstStreamFrame(3, 2).serialize()
    )
    assert (await client.wait_for(RstStreamFrame, 3)).error_code == 2
    assert (await client.wait_error()) == Failure(5, 1)
    assert (await client.next_frame()).stream_id == 7
    with pytest.raises(
        AssertionError, match=r"(?s)no RstStreamFrame within 0 s.*RstStreamFrame\(stream_id=3"
    ):
        await client.wait_for(RstStreamFrame, timeout=0)
    assert [frame.stream_id for frame in client.frames][-3:] == [5, 7, 3]
    assert client.record(3).frames == [client.frames[-1]]


async def test_errors_of_the_connection(started):
    client, peer = started
    await client.request()
    await peer.stream.send_all(
        GoAwayFrame(last_stream_id=2**31 - 1).serialize()
        + GoAwayFrame(last_stream_id=0, error_code=11).serialize()
    )
    assert await client.wait_error() == (0, 11)
    with pytest.raises(AssertionError, match="stream 1 is not processed"):
        await client.response(1)
    await peer.stream.aclose()
    with pytest.raises(AssertionError, match="the server closed the connection, no HeadersFrame on stream 1"):
        await client.wait_for(HeadersFrame, 1)
    await client.wait_closed()
    assert client.goaway.error_code == 11


async def test_wait_that_is_too_long(started, autojump_clock):
    client, _ = started
    with pytest.raises(
        AssertionError, match=r"no the end of stream 1 within 120 s; \d frames came"
    ) as caught:
        await client.get()
    assert "SettingsFrame" in str(caught.value)


async def test_settings_and_pings_are_answered(started):
    client, peer = started
    peer.connection.ping(b"abcdefgh")
    peer.connection.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1000})
    await peer.flush()
    await client.wait_for(PingFrame)
    assert (await peer.next_event(h2.events.PingAckReceived)).ping_data == b"abcdefgh"
    await client.wait_for(SettingsFrame)
    await peer.next_event(h2.events.SettingsAcknowledged)
    assert client.record(1).window == 1000


async def test_what_is_switched_off_is_not_answered(started):
    client, peer = started
    client.acknowledge_settings = client.answer_pings = False
    await peer.stream.send_all(SettingsFrame().serialize() + PingFrame().serialize())
    await client.wait_for(PingFrame)
    await client.aclose()
    assert await peer.stream.receive_some() == b""


async def test_ping_returns_after_what_was_said_before(started):
    client, peer = started
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.ping)
        await peer.stream.send_all(RstStreamFrame(1).serialize())
        await peer.next_event(h2.events.PingReceived)
    assert client.record(1).reset == 0


async def test_push(started):
    client, peer = started
    await client.request()
    await peer.next_event(h2.events.RequestReceived)
    promised = [(b":method", b"GET"), (b":path", b"/a"), (b":scheme", b"http"), (b":authority", b"a.test")]
    peer.connection.push_stream(1, 2, promised)
    await peer.answer(2, b"pushed")
    await peer.answer(1, b"page")
    assert (await client.response(1)).body == b"page"
    assert (await client.wait_for(PushPromiseFrame)).promised_stream_id == 2
    assert client.record(2).promise == promised
    assert (await client.response(2)).body == b"pushed"


async def test_anything_can_be_sent(ends):
    client, peer = ends
    frames = client.request_frames(
        "G T", "\xff", headers=[(b"Bad Name", b"\0")], body=bytes(20_000), stream_id=6
    )
    assert [type(frame) for frame in frames] == [HeadersFrame, DataFrame, DataFrame]
    await client.send(PREFACE[:3], *frames, WindowUpdateFrame(6, 1), b"junk")
    received = await peer.stream.receive_some(65536)
    assert received.startswith(b"PRI")
    assert received.endswith(b"junk")
    unread = memoryview(received)[3:-4]
    while unread:
        frame, length = Frame.parse_frame_header(unread[:9])
        assert frame.stream_id == 6
        unread = unread[9 + length :]
    assert client.window == 65535 - 20_000
    assert client.next_stream_id == 1


async def test_bytes_that_were_read_before():
    ours, _ = trio.testing.memory_stream_pair()
    client = Http2Client(ours, unread=SettingsFrame(settings={3: 9}).serialize())
    await client.wait_for(SettingsFrame)
    assert client.server_settings == {3: 9}


async def test_a_reset_of_the_connection_is_its_end():
    listener = await trio.open_tcp_listeners(0, host="127.0.0.1")
    client = Http2Client(await trio.testing.open_stream_to_socket_listener(listener[0]))
    accepted = await listener[0].accept()
    await client.send(PREFACE)
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing resets
    await accepted.aclose()
    await client.wait_closed()
    assert client.closed
    await client.aclose()
    await listener[0].aclose()


async def test_async_with_closes(ends):
    client, peer = ends
    async with client:
        pass
    assert await peer.stream.receive_some() == b""


def test_stream_without_a_response(ends):
    client, _ = ends
    with pytest.raises(AssertionError, match="no response"):
        client.record(1).response()
