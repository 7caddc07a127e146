from __future__ import annotations

import h11
import pytest
import trio
import trio.testing

from trioserve.testing.raw_client import RawClient


@pytest.fixture
def ends():
    ours, theirs = trio.testing.memory_stream_pair()
    return RawClient(ours), theirs


async def test_two_responses_in_one_piece_are_told_apart(ends):
    client, server = ends
    await server.send_all(
        b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"
        b"HTTP/1.1 200 Fine\r\nSet-Cookie: a\r\nset-cookie: b\r\ntransfer-encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n"
        b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno"
    )
    first = await client.receive_response()
    assert (first.status, first.reason, first.body, first.http_version) == (200, "Fine", b"abc", "1.1")
    assert first.header("Set-Cookie") == b"a, b"
    assert first.header("cookie") is None
    assert first.trailers == [(b"x-sum", b"1")]
    assert [(hint.status, hint.headers) for hint in first.informational] == [(103, [(b"link", b"</a>")])]
    second = await client.receive_response()
    assert (second.status, second.body) == (404, b"no")


async def test_a_response_to_head_has_no_body(ends):
    client, server = ends
    await server.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n")
    assert (await client.receive_response("HEAD")).body == b""
    assert (await client.receive_response()).status == 204


async def test_a_body_without_a_length_ends_with_the_connection(ends):
    client, server = ends
    await server.send_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nabc")
    await server.send_eof()
    assert (await client.receive_response()).body == b"abc"


@pytest.mark.parametrize(
    "sent", [b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab", b"What?\r\n\r\n"]
)
async def test_what_is_no_whole_response_is_an_error(ends, sent):
    client, server = ends
    if sent:
        await server.send_all(sent)
    await server.aclose()
    with pytest.raises(h11.RemoteProtocolError):
        await client.receive_response()


async def test_wait_closed_objects_to_more_bytes(ends):
    client, server = ends
    await server.send_all(b"surprise")
    await server.send_eof()
    with pytest.raises(AssertionError, match="surprise"):
        await client.wait_closed()


async def test_receive_all_begins_with_what_a_response_left(ends):
    client, server = ends
    await server.send_all(b"HTTP/1.1 204 No Content\r\n\r\nmore")
    await client.receive_response()
    await server.send_all(b" and more")
    await server.aclose()
    assert await client.receive_all() == b"more and more"


async def test_half_close_ends_only_the_clients_side(ends):
    client, server = ends
    await client.half_close()
    assert await server.receive_some() == b""
    await server.send_all(b"still here")
    assert await client.receive_some() == b"still here"
