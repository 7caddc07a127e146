from __future__ import annotations

import h11
import pytest
import trio
import trio.testing

from tests.security.http1_rows import DEFAULT_ROWS
from tests.security.recording_app import Recorder, connect, read_body, respond, serving
from trioserve.config import Http1Settings, LimitSettings
from trioserve.testing.checks import Http1Row, SeenRequest

PARSERS = ("h11", "httptools")
NEXT = b"GET /next HTTP/1.1\r\nHost: next.example\r\nConnection: close\r\n\r\n"
SEEN_NEXT = SeenRequest("GET", b"/next")
AT_ONCE = 40
LONG = 3000  # a longer row would only repeat the same state byte by byte


@pytest.fixture(params=PARSERS)
def parser(request):
    return Http1Settings(parser=request.param)


# -- the table -----------------------------------------------------------------------------------------------------


async def send_pieces(client, raw, size):
    """Send in pieces, until the server does not want any more."""
    try:
        for start in range(0, len(raw), size):
            await client.send(raw[start : start + size])
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass


async def send_row(client, row, size, answered):
    if not row.needs_end:
        await send_pieces(client, row.raw + NEXT, size)
        return
    await send_pieces(client, row.raw, size)
    await answered.wait()  # who ends its side is asked for no further request
    await client.half_close()


async def play(server, app, row: Http1Row, size: int):
    """Send a row and what stands behind it; returns the statuses, the requests the application saw, and the end."""
    async with await connect(server) as client, trio.open_nursery() as nursery:
        name = client.stream.socket.getsockname()
        app.seen.pop(name, None)  # an earlier connection may have had the same port
        answered = trio.Event()
        nursery.start_soon(send_row, client, row, size, answered)
        statuses = []
        for method in [*(seen.method for seen in row.requests), "GET"]:
            if row.needs_end and len(statuses) == len(row.requests):
                answered.set()
            try:
                response = await client.receive_response(method)
            except h11.RemoteProtocolError:
                break  # the server has closed instead
            assert response.reason, "a response without a reason phrase"
            statuses.append(response.status)
        rest = await client.receive_all()
    seen = tuple(SeenRequest(s.method, s.target, s.body, s.trailers) for s in app.seen.get(name, ()))
    return statuses, seen, rest


def expected(row: Http1Row):
    # An ASGI scope cannot tell an empty query from none.
    requests = tuple(
        seen._replace(target=seen.target[:-1]) if seen.target.endswith(b"/?") else seen
        for seen in row.requests
    )
    if row.status is not None:
        return [200] * len(row.requests) + [row.status], requests, b""
    if row.closes:
        return [200] * len(requests), requests, b""
    return [200] * (len(requests) + 1), (*requests, SEEN_NEXT), b""


async def judge(server, app, row, size, failures, limit):
    async with limit:
        with trio.move_on_after(10) as scope:
            result = await play(server, app, row, size)
        if scope.cancelled_caught:
            failures.append(f"{row.name}: no end")
        elif result != expected(row):
            failures.append(f"{row.name}: got {result}, not {expected(row)}")


@pytest.mark.parametrize("size", [65536, 1], ids=["whole", "byte by byte"])
async def test_every_row(parser, size, caplog):
    app, limit = Recorder(), trio.CapacityLimiter(AT_ONCE)
    rows = [
        row
        for row in DEFAULT_ROWS
        if (size > 1 or len(row.raw) <= LONG) and not row.raw.startswith(b"PRI *")  # which is HTTP/2 here
    ]
    failures: list[str] = []
    async with serving(app, http1=parser) as server, trio.open_nursery() as nursery:
        for row in rows:
            nursery.start_soon(judge, server, app, row, size, failures, limit)
    assert not failures, "\n".join(failures[:20])
    assert len(rows) > 300
    assert not [record for record in caplog.records if record.name == "trioserve.error"]


# -- traps of their own --------------------------------------------------------------------------------------------


async def exchange(app, raw, *, method="GET", **settings):
    """One response, and what comes behind it until the server closes."""
    async with serving(app, **settings) as server, await connect(server) as client:
        await client.send(raw)
        with trio.fail_after(5):
            return await client.receive_response(method), await client.receive_all()


async def test_bytes_behind_a_close_in_a_list_are_not_parsed(parser):
    app = Recorder()
    raw = b"GET /1 HTTP/1.1\r\nHost: a\r\nConnection: a, close\r\n\r\n"
    response, rest = await exchange(app, raw + b"\x00garbage" + NEXT, http1=parser)
    assert (response.status, response.header("connection"), rest) == (200, b"close", b"")
    assert [seen.target for seens in app.seen.values() for seen in seens] == [b"/1"]


async def test_half_close_is_no_abort(parser):
    arrived, go_on = trio.Event(), trio.Event()

    async def app(scope, receive, send):
        await read_body(receive)
        arrived.set()
        await go_on.wait()
        assert await receive() == {"type": "http.disconnect"}
        await respond(send, b"x" * 300_000)

    async with serving(app, http1=parser) as server, await connect(server) as client:
        await client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok")
        await arrived.wait()
        await client.half_close()
        go_on.set()
        with trio.fail_after(5):
            response = await client.receive_response()
            await client.wait_closed()
        assert response.status == 200
        assert response.body == b"x" * 300_000


async def test_absolute_target_replaces_the_host(parser):
    app = Recorder()
    raw = b"GET http://real.example:81/a%20b?c HTTP/1.1\r\nHost: other\r\nConnection: close\r\n\r\n"
    await exchange(app, raw, http1=parser)
    [[seen]] = app.seen.values()
    assert (seen.target, seen.path) == (b"/a%20b?c", "/a b")
    assert [value for name, value in seen.headers if name == b"host"] == [b"real.example:81"]


async def test_trailers_never_join_the_fields(parser):
    app = Recorder()
    raw = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = b"1\r\na\r\n0\r\nX-Admin: yes\r\nContent-Length: 7\r\nHost: evil\r\n\r\n"
    await exchange(app, raw + body, http1=parser)
    [[seen]] = app.seen.values()
    assert seen.trailers == ((b"x-admin", b"yes"),)
    names = [name for name, _ in seen.headers]
    assert b"x-admin" not in names
    assert b"content-length" not in names
    assert (b"host", b"a") in seen.headers


@pytest.mark.parametrize("fields", [[], [(b"content-length", b"5")]], ids=["without length", "with length"])
async def test_head_has_no_body_and_keeps_the_length(parser, fields):
    async def app(scope, receive, send):
        await respond(send, b"hello", headers=fields)

    raw = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"
    response, rest = await exchange(
        app, raw + raw.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), method="HEAD", http1=parser
    )
    assert response.header("content-length") == b"5"
    assert rest.startswith(b"HTTP/1.1 200 OK\r\n")
    assert rest.endswith(b"\r\n\r\n")
    assert rest.count(b"\r\n\r\n") == 1


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("stream", [True, False])
async def test_statuses_without_body(parser, status, stream):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"never", "more_body": stream})
        if stream:
            await send({"type": "http.response.body", "body": b"seen" * 50_000})

    get = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    response, rest = await exchange(app, get + NEXT, http1=parser)
    assert (response.status, response.body) == (status, b"")
    assert response.header("transfer-encoding") is None
    assert rest.startswith(b"HTTP/1.1 %d " % status)
    assert rest.endswith(b"\r\n\r\n")


async def test_unknown_upgrade_keeps_its_body(parser):
    app = Recorder()
    raw = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: upgrade, close\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\nhello"
    response, _ = await exchange(app, raw, http1=parser)
    [[seen]] = app.seen.values()
    assert (response.status, seen.body) == (200, b"hello")


EXPECT = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"


async def test_continue_goes_out_when_the_body_is_asked_for(parser):
    async with serving(Recorder(), http1=parser) as server, await connect(server) as client:
        await client.send(EXPECT)
        with trio.fail_after(5):
            assert await client.receive_some() == b"HTTP/1.1 100 Continue\r\n\r\n"
            await client.send(b"hello")
            response = await client.receive_response()
        assert (response.status, response.informational) == (200, [])
        assert response.header("connection") is None


async def test_no_continue_for_an_answer_without_reading(parser):
    async def app(scope, receive, send):
        await respond(send, b"no", 403)

    response, rest = await exchange(app, EXPECT, http1=parser)
    assert (response.status, response.informational, rest) == (403, [], b"")
    assert response.header("connection") == b"close"


@pytest.mark.parametrize("expect", [True, False], ids=["with continue", "without"])
async def test_too_large_is_refused_by_its_length_and_readable(parser, expect):
    app = Recorder()
    size = 3_000_000
    async with (
        serving(app, http1=parser, limits=LimitSettings(body_size=100)) as server,
        await connect(server) as client,
        trio.open_nursery() as nursery,
    ):
        raw = EXPECT.replace(b"Length: 5", b"Length: %d" % size)
        if not expect:
            # The client sends all of it before it looks: closing at once would lose the answer in a reset.
            raw = raw.replace(b"Expect: 100-continue\r\n", b"") + b"x" * size
        with trio.fail_after(8):
            nursery.start_soon(send_pieces, client, raw, 65536)
            await trio.testing.wait_all_tasks_blocked(0.2)
            response = await client.receive_response()
        assert (response.status, response.informational) == (413, [])
        assert response.header("connection") == b"close"
        nursery.cancel_scope.cancel()
    assert not app.begun


async def test_keep_alive_on_1_0(parser):
    async with serving(Recorder(), http1=parser) as server, await connect(server) as client:
        for _ in range(2):
            await client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            response = await client.receive_response()
            assert (response.status, response.header("connection")) == (200, b"keep-alive")
        await client.send(b"GET / HTTP/1.0\r\n\r\n")
        assert (await client.receive_response()).status == 200
        with trio.fail_after(5):
            await client.wait_closed()


async def test_stream_on_1_0_ends_with_the_connection(parser):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(3):
            await send({"type": "http.response.body", "body": b"part", "more_body": True})
        await send({"type": "http.response.body"})

    response, _ = await exchange(
        app, b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + NEXT, http1=parser
    )
    assert response.body == b"part" * 3
    assert response.header("transfer-encoding") is None


async def test_pipelined_answers_come_in_order(parser):
    async def app(scope, receive, send):
        if int(scope["path"][1:]) % 3 == 0:
            await trio.lowlevel.checkpoint()
        await respond(send, scope["raw_path"])

    raw = b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(500))
    async with serving(app, http1=parser) as server, await connect(server) as client:
        await client.send(raw)
        for number in range(500):
            assert (await client.receive_response()).body == b"/%d" % number


async def test_pipelined_answers_do_not_mix_when_the_first_is_read_slowly(parser):
    async def app(scope, receive, send):
        await respond(send, b"x" * int(scope["path"][1:]))

    async with serving(app, http1=parser) as server, await connect(server) as client:
        await client.send(b"GET /8000000 HTTP/1.1\r\nHost: a\r\n\r\nGET /1 HTTP/1.1\r\nHost: a\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked(0.2)
        await client.send(b"GET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked(0.1)
        with trio.fail_after(10):
            sizes = [len((await client.receive_response()).body) for _ in range(3)]
        assert sizes == [8000000, 1, 2]


async def answer_unread(scope, receive, send):
    await respond(send, scope["raw_path"])


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_small_unread_body_keeps_the_connection(parser, framing):
    body = {"length": b"x" * 5000, "chunked": b"1388\r\n" + b"x" * 5000 + b"\r\n0\r\nA: b\r\n\r\n"}[framing]
    field = {"length": b"Content-Length: 5000", "chunked": b"Transfer-Encoding: chunked"}[framing]
    async with serving(answer_unread, http1=parser) as server, await connect(server) as client:
        await client.send(b"POST /1 HTTP/1.1\r\nHost: a\r\n" + field + b"\r\n\r\n" + body[:100])
        assert (await client.receive_response()).body == b"/1"
        await client.send(body[100:] + NEXT)
        with trio.fail_after(5):
            assert (await client.receive_response()).body == b"/next"


async def test_large_unread_body_closes_and_the_answer_is_readable(parser):
    async with (
        serving(answer_unread, http1=parser) as server,
        await connect(server) as client,
        trio.open_nursery() as nursery,
    ):
        raw = b"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000000\r\n\r\n" + b"x" * 5_000_000
        nursery.start_soon(send_pieces, client, raw, 65536)
        with trio.fail_after(8):
            assert (await client.receive_response()).body == b"/1"
            await client.wait_closed()


async def test_malformed_rest_of_an_unread_body_is_never_a_request(parser, caplog):
    async with serving(answer_unread, http1=parser) as server, await connect(server) as client:
        await client.send(b"POST /1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert (await client.receive_response()).body == b"/1"
        await client.send(b"zz\r\n" + NEXT)
        with trio.fail_after(5):
            await client.wait_closed()
    assert not caplog.records


async def test_body_behind_an_early_answer_is_never_a_request(parser):
    """The body that an application leaves unread is a request itself."""
    async with serving(answer_unread, http1=parser) as server, await connect(server) as client:
        smuggled = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
        head = b"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(smuggled)
        await client.send(head + smuggled + NEXT)
        bodies = [(await client.receive_response()).body for _ in range(2)]
        assert bodies == [b"/1", b"/next"]
