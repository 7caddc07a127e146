"""What a client gets for one request, on HTTP/1.0, 1.1 and 2: also when the response breaks off."""

from __future__ import annotations

from typing import NamedTuple

import trio

from trioserve.testing.http2_client import Http2Client

TIMEOUT = 20
PROTOCOLS = ("HTTP/1.1", "HTTP/1.0", "HTTP/2")


class Outcome(NamedTuple):
    """Status 0 when no head came; `complete` is whether the body ended as the protocol wants it to."""

    status: int
    headers: dict[str, str]
    body: bytes
    complete: bool


class Address(NamedTuple):
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Address:
        host, _, port = url.partition("://")[2].rpartition(":")
        return cls(host, int(port))


async def fetch(
    address: Address, protocol: str, path: str, *, method: str = "GET", headers=(), body: bytes | None = None
) -> Outcome:
    """Ask on a connection of its own; `headers` are pairs of bytes with names in lower case."""
    with trio.fail_after(TIMEOUT):
        stream = await trio.open_tcp_stream(*address)
        async with stream:
            if protocol == "HTTP/2":
                return await _fetch_http2(stream, path, method, headers, body)
            length = [] if body is None else [(b"content-length", b"%d" % len(body))]
            fields = [(b"host", b"test"), (b"connection", b"close"), *length, *headers]
            lines = [f"{method} {path} {protocol}".encode(), *[b": ".join(pair) for pair in fields]]
            await stream.send_all(b"\r\n".join(lines) + b"\r\n\r\n" + (body or b""))
            received, reset = await receive_until_end(stream)
            return parse(received, reset, method)


async def receive_until_end(stream: trio.abc.ReceiveStream) -> tuple[bytes, bool]:
    """Everything that comes, and whether it ended with a reset."""
    received = bytearray()
    try:
        async for data in stream:
            received += data
    except trio.BrokenResourceError:
        return bytes(received), True
    return bytes(received), False


def parse(received: bytes, reset: bool, method: str = "GET") -> Outcome:
    """One response with all that came on a connection (RFC 9112 section 6.3)."""
    head, separator, rest = received.partition(b"\r\n\r\n")
    if not separator:
        return Outcome(0, {}, b"", complete=False)
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    status = int(first.split()[1])
    if method == "HEAD" or status in (204, 304):
        return Outcome(status, headers, rest, complete=True)
    if headers.get("transfer-encoding") == "chunked":
        body, complete = _undo_chunks(rest)
        return Outcome(status, headers, body, complete)
    if "content-length" in headers:
        return Outcome(status, headers, rest, complete=len(rest) == int(headers["content-length"]))
    return Outcome(status, headers, rest, complete=not reset)


def _undo_chunks(rest: bytes) -> tuple[bytes, bool]:
    body = b""
    while True:
        size_line, separator, rest = rest.partition(b"\r\n")
        if not separator:
            return body, False
        size = int(size_line, 16)
        if size == 0:
            return body, rest == b"\r\n"
        body += rest[:size]
        if rest[size : size + 2] != b"\r\n":
            return body, False
        rest = rest[size + 2 :]


async def _fetch_http2(stream: trio.abc.Stream, path, method, headers, body) -> Outcome:
    client = Http2Client(stream, timeout=TIMEOUT)
    await client.start()
    stream_id = await client.request(method, path, headers=headers, body=body)
    record = client.record(stream_id)
    while not record.ended and record.reset is None:
        await client.next_frame()
    if not record.heads:
        return Outcome(0, {}, b"", complete=False)
    response = record.response()
    fields = {name.decode(): value.decode("latin-1") for name, value in response.headers}
    return Outcome(response.status, fields, response.body, record.ended and record.reset is None)
