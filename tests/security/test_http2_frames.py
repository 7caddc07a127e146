from __future__ import annotations

import random
import ssl
from contextlib import asynccontextmanager

import pytest
import trio
import trustme
from hyperframe.frame import PingFrame, RstStreamFrame

from tests.security.http2_rows import FRAME_SIZE_ERROR, PROTOCOL_ERROR, ROWS, data, ping
from tests.security.recording_app import NO_LIFESPAN, QUIET, Recorder, read_body, respond, serving
from trioserve import Config
from trioserve.config import TimeoutSettings, TlsSettings, WebSocketSettings
from trioserve.protocols.http2.limits import Http2Limits
from trioserve.testing.http2_checks import (
    EMPTY_SETTINGS,
    NEXT,
    NEXT_PING,
    NEXT_STREAM,
    PREFACE,
    Http2Row,
    answer_of,
    judge_record,
    render_fields,
)
from trioserve.testing.http2_client import Http2Client

AT_ONCE = 40
LONG = 400  # a longer row would only repeat the same state
LEAVING = TimeoutSettings(disconnect_grace=0.05)
HOST = "a.example"


# -- the application of the rows, and a server around it ---------------------------------------------------------------


async def answer(scope, receive, send):
    """See `trioserve.testing.http2_checks.RowApplication`."""
    path = scope["raw_path"]
    if path == b"/hold":
        await trio.sleep_forever()
    if path == b"/early":
        await respond(send)
        return
    complete = await read_body(receive)
    if complete is None:
        return
    body, trailers = complete
    if path == b"/fields":
        body = render_fields(scope["headers"])
    status, content = answer_of(path, body, trailers)
    await respond(send, content, status)


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def certificate(authority, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("tls") / "combined.pem")
    authority.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(path)
    return path


@pytest.fixture(params=["cleartext", "tls"])
def way(request, certificate, authority):
    """How clients come to speak HTTP/2: by prior knowledge, or by ALPN."""
    return Way(request.param == "tls", certificate, authority)


@pytest.fixture
def clear(certificate, authority):
    return Way(False, certificate, authority)


class Way:
    def __init__(self, secure: bool, certificate: str, authority: trustme.CA) -> None:
        self.secure = secure
        self._tls = TlsSettings(certificate=certificate) if secure else TlsSettings()
        self._context = ssl.create_default_context()
        authority.configure_trust(self._context)
        self._context.set_alpn_protocols(["h2"])

    def serving(self, app=answer, **settings):
        settings.setdefault("timeouts", LEAVING)
        settings.setdefault("websocket", WebSocketSettings(enabled=False))  # so that CONNECT is not extended
        config = Config(bind="127.0.0.1:0", logging=QUIET, lifecycle=NO_LIFESPAN, tls=self._tls, **settings)
        return serving(app, config)

    @asynccontextmanager
    async def connect(self, server):
        stream = await trio.open_tcp_stream(*server.addresses[0][:2])
        if self.secure:
            stream = trio.SSLStream(stream, self._context, server_hostname=HOST, https_compatible=True)
            await stream.do_handshake()
            assert stream.selected_alpn_protocol() == "h2"
        client = Http2Client(stream, timeout=10)
        client.update_windows = False
        with trio.move_on_after(20) as scope:
            try:
                yield client
            finally:
                await trio.aclose_forcefully(stream)
        assert not scope.cancelled_caught, client.complaint("this takes too long")


# -- the table -----------------------------------------------------------------------------------------------------


async def send_pieces(client, raw, size):
    """Send in pieces, until the server does not want any more."""
    try:
        for start in range(0, len(raw), size):
            await client.send(raw[start : start + size])
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass


async def play(way, server, row: Http2Row, size: int) -> str | None:
    """Send a row and what stands behind it; what is wrong with the answer."""
    async with way.connect(server) as client:
        await send_pieces(client, row.opening, size)
        for step in row.script:
            if isinstance(step, bytes):
                await send_pieces(client, step, size)
            else:
                await client.response(step)
        followed = row.goaway is None and not row.leaves
        if followed:
            await send_pieces(client, NEXT, size)
            await settle(client, row)
        else:
            await client.wait_closed()
        return judge_record(row, client, followed=followed)


async def settle(client, row):
    """Wait for what applications, which have tasks of their own, still have to say, and that it is no more."""
    for stream_id in [*(stream_id for stream_id, _, _ in row.answers), NEXT_STREAM]:
        await client.response(stream_id)
    for stream_id, size in row.partial:
        while not client.record(stream_id).heads or len(client.record(stream_id).body) < size:
            await client.next_frame()
    wanted = len(row.resets)
    while sum(isinstance(frame, RstStreamFrame) for frame in client.frames) < wanted or not is_over(client):
        await client.next_frame()


def is_over(client):
    return any(isinstance(frame, PingFrame) and frame.opaque_data == NEXT_PING for frame in client.frames)


async def judge(way, server, row, size, failures, limit):
    async with limit:
        try:
            wrong = await play(way, server, row, size)
        except (AssertionError, trio.TooSlowError) as error:
            wrong = f"{row.name}: {error}"
        if wrong is not None:
            failures.append(wrong)


async def play_rows(way, size, caplog):
    limit = trio.CapacityLimiter(AT_ONCE)
    rows = [row for row in ROWS if row.limits == Http2Limits()]
    if not way.secure:  # otherwise it is HTTP/1.1
        rows = [row for row in rows if row.opening.startswith(PREFACE)]
    if size < 65536:
        rows = [row for row in rows if row.size <= LONG]
    failures: list[str] = []
    async with way.serving() as server, trio.open_nursery() as nursery:
        for row in rows:
            nursery.start_soon(judge, way, server, row, size, failures, limit)
    assert not failures, "\n".join(failures[:20])
    assert len(rows) > 600
    assert not [record for record in caplog.records if record.name == "trioserve.error"]


async def test_every_row(way, caplog):
    await play_rows(way, 65536, caplog)


async def test_every_row_in_small_pieces(clear, caplog):
    await play_rows(clear, 4, caplog)  # which cuts every frame in its head; machines get single bytes


# -- openings, and the end of connections --------------------------------------------------------------------------

NO_PREFACE = [
    b"INVALID CONNECTION PREFACE\r\n\r\n",
    b"\0\0\0\4\0\0\0\0\0",
    b"\0",
]


@pytest.mark.parametrize("opening", NO_PREFACE)
async def test_what_is_no_http_is_closed_without_an_answer_in_http_1(clear, opening):
    async with clear.serving() as server, clear.connect(server) as client:
        await client.send(opening)
        assert await read_all(client) == b""


@pytest.mark.parametrize(
    "opening",
    [PREFACE[:18] + b"XX", PREFACE[:-1] + b"\r", PREFACE[:18] + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"],
)
async def test_a_preface_that_turns_wrong_gets_goaway(way, opening):
    async with way.serving() as server, way.connect(server) as client:
        await client.send(opening)
        await client.wait_closed()
        assert (client.goaway.error_code, client.goaway.last_stream_id) == (PROTOCOL_ERROR, 0)


@pytest.mark.parametrize(
    "opening", [b"", PREFACE[:1], PREFACE[:17], PREFACE[:23], PREFACE, PREFACE + b"\0\0"]
)
async def test_a_client_that_leaves_within_its_preface(clear, opening, caplog):
    async with clear.serving() as server, clear.connect(server) as client:
        await client.stream.send_all(opening)
        await client.stream.send_eof()
        client.take_in(await read_all(client))
        assert client.goaway is None
        async with clear.connect(server) as other:
            await other.start()
            assert (await other.get()).status == 200
    assert not [record for record in caplog.records if record.name == "trioserve.error"]


async def read_all(client):
    parts = []
    with trio.fail_after(5):
        while more := await client.stream.receive_some(65536):
            parts.append(bytes(more))
    return b"".join(parts)


async def test_goaway_is_readable_behind_much_that_is_not_read(way):
    """Closing with unread bytes would reset the connection, and GOAWAY be lost."""
    async with way.serving() as server, way.connect(server) as client, trio.open_nursery() as nursery:
        await client.start()
        raw = ping(b"short") + data(1, bytes(16384)) * 60
        nursery.start_soon(send_pieces, client, raw, 65536)
        await client.wait_closed()
        assert client.goaway.error_code == FRAME_SIZE_ERROR


async def test_errors_of_one_connection_are_none_of_another(way):
    async with way.serving() as server, way.connect(server) as good:
        await good.start()
        stream_id = await good.request("PUT", "/echo", end_stream=False)
        for row in [row for row in ROWS if row.goaway is not None][::20]:
            async with way.connect(server) as bad:
                await send_pieces(
                    bad, b"".join((row.opening, *(s for s in row.script if type(s) is bytes))), 65536
                )
        await good.send_body(stream_id, b"still here")
        assert (await good.response(stream_id)).body == b"still here"


async def test_only_complete_requests_reach_the_application(way):
    app = Recorder()
    rows = [row for row in ROWS if row.name.startswith("8.3 ") and row.resets]
    async with way.serving(app) as server, way.connect(server) as client:
        await client.start()
        sent = 0
        for number, row in enumerate(rows[:150]):
            raw = b"".join(step for step in row.script if isinstance(step, bytes))
            await client.send(on_stream(raw, 2 * number + 1))
            sent += 1
        client.next_stream_id = 4001
        assert (await client.get("/last")).status == 200
    assert sent > 100
    [[seen]] = app.seen.values()
    assert seen.path == "/last"


def on_stream(raw, stream_id):
    """The same frames on another stream than 1."""
    parts, start = [], 0
    while start < len(raw):
        end = start + 9 + int.from_bytes(raw[start : start + 3], "big")
        parts.append(raw[start : start + 5] + stream_id.to_bytes(4, "big") + raw[start + 9 : end])
        start = end
    return b"".join(parts)


# -- sessions that went wrong ----------------------------------------------------------------------------------------


def shuffled_session(seed: int) -> bytes:
    """Frames of the rows in any order, on few streams, some of them broken."""
    choice = random.Random(seed)
    frames = []
    for _ in range(choice.randrange(5, 40)):
        row = choice.choice(ROWS)
        frame = bytearray(
            choice.choice([step for step in row.script if isinstance(step, bytes)] or [b""])[:2000]
        )
        if len(frame) > 9 and frame[5:9] != bytes(4):
            frame[5:9] = choice.choice((1, 3, 5, 7, 9)).to_bytes(4, "big")
        if frame and choice.random() < 0.1:
            frame[choice.randrange(len(frame))] ^= 1 << choice.randrange(8)
        frames.append(bytes(frame))
    return PREFACE + EMPTY_SETTINGS + b"".join(frames)


async def test_no_session_makes_the_server_err(clear, caplog):
    async def play_session(seed):
        async with limit, clear.connect(server) as client:
            await send_pieces(client, shuffled_session(seed), 500)

    limit = trio.CapacityLimiter(20)
    async with clear.serving() as server:
        async with trio.open_nursery() as nursery:
            for seed in range(300):
                nursery.start_soon(play_session, seed)
        async with clear.connect(server) as client:
            await client.start()
            assert (await client.get()).status == 200
    assert not [record for record in caplog.records if record.name == "trioserve.error"]
