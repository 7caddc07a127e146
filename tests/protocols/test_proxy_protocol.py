from __future__ import annotations

import socket
import struct

import pytest

from trioserve.protocols.errors import LocalProtocolError, RemoteProtocolError
from trioserve.protocols.proxy_protocol import (
    MAX_V2_BODY,
    NEED_DATA,
    ProxyHeader,
    ProxyHeaderParser,
    ProxyTls,
)

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
LOCAL, PROXY = 0x20, 0x21
UNSPEC, TCP4, UDP4, TCP6, UNIX = 0x00, 0x11, 0x12, 0x21, 0x31
IPV4_BODY = struct.pack("!4s4sHH", bytes([192, 0, 2, 1]), bytes([198, 51, 100, 1]), 4711, 443)
IPV6_BODY = struct.pack(
    "!16s16sHH",
    socket.inet_pton(socket.AF_INET6, "2001:db8::1"),
    socket.inet_pton(socket.AF_INET6, "2001:db8::2"),
    4711,
    443,
)
MAPPED_BODY = struct.pack(
    "!16s16sHH",
    socket.inet_pton(socket.AF_INET6, "::ffff:192.0.2.1"),
    socket.inet_pton(socket.AF_INET6, "::ffff:198.51.100.1"),
    4711,
    443,
)
FOUR = ProxyHeader(("192.0.2.1", 4711), ("198.51.100.1", 443))
SIX = ProxyHeader(("2001:db8::1", 4711), ("2001:db8::2", 443))
NOTHING = ProxyHeader(None, None)


def v2(command, family, body):
    return SIGNATURE + bytes([command, family]) + len(body).to_bytes(2, "big") + body


def tlv(kind, value):
    return bytes([kind]) + len(value).to_bytes(2, "big") + value


V1 = [
    (b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\r\n", FOUR),
    (b"PROXY TCP6 2001:db8::1 2001:DB8::2 4711 443\r\n", SIX),
    (b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:198.51.100.1 4711 443\r\n", FOUR),
    (
        b"PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n",
        ProxyHeader(("0.0.0.0", 0), ("255.255.255.255", 65535)),
    ),
    (b"PROXY UNKNOWN\r\n", NOTHING),
    (b"PROXY UNKNOWN " + b"x" * (107 - 16) + b"\r\n", NOTHING),
]
V2 = [
    (v2(PROXY, TCP4, IPV4_BODY), FOUR),
    (v2(PROXY, TCP6, IPV6_BODY), SIX),
    (v2(PROXY, TCP6, MAPPED_BODY), FOUR),
    (v2(PROXY, UNIX, b"/run/a".ljust(108, b"\0") + b"/run/b".ljust(108, b"\0")), NOTHING),
    (v2(PROXY, UNSPEC, b""), NOTHING),
    (v2(LOCAL, UNSPEC, b""), ProxyHeader(None, None, local=True)),
    (v2(LOCAL, TCP4, b"whatever"), ProxyHeader(None, None, local=True)),
    (v2(PROXY, TCP4, IPV4_BODY + tlv(0x04, b"\0" * 7) + tlv(0xEE, b"")), FOUR),
    (v2(PROXY, TCP4, IPV4_BODY + tlv(0x04, bytes(MAX_V2_BODY - 12 - 3))), FOUR),
    (
        v2(PROXY, TCP4, IPV4_BODY + tlv(0x02, b"shop.example")),
        ProxyHeader(FOUR.source, FOUR.destination, authority="shop.example"),
    ),
]


@pytest.mark.parametrize("mode", ["own", "any"])
@pytest.mark.parametrize(("wire", "header"), V1 + V2)
def test_headers_whole_byte_by_byte_and_with_trailing_bytes(wire, header, mode):
    if mode == "own":
        mode = "v1" if wire.startswith(b"PROXY") else "v2"
    whole = ProxyHeaderParser(mode)
    assert whole.receive_data(wire) == header
    assert whole.trailing_data == b""

    trickle = ProxyHeaderParser(mode)
    for index in range(len(wire) - 1):
        assert trickle.receive_data(wire[index : index + 1]) is NEED_DATA
        assert trickle.trailing_data == b""
    assert trickle.receive_data(wire[-1:]) == header

    trailing = ProxyHeaderParser(mode)
    assert trailing.receive_data(wire + b"\nGET / HTTP/1.1\r\n") == header
    assert trailing.trailing_data == b"\nGET / HTTP/1.1\r\n"


@pytest.mark.parametrize("mode", ["own", "any"])
@pytest.mark.parametrize(("wire", "header"), V1 + V2)
def test_a_reader_can_stop_at_the_end_of_the_header(wire, header, mode):
    if mode == "own":
        mode = "v1" if wire.startswith(b"PROXY") else "v2"
    parser = ProxyHeaderParser(mode)
    rest = wire + b"\x16\x03\x01"
    result = NEED_DATA
    while result is NEED_DATA:
        wanted = parser.wanted
        assert wanted > 0
        result = parser.receive_data(rest[:wanted])
        rest = rest[wanted:]
    assert result == header
    assert rest == b"\x16\x03\x01"
    assert parser.trailing_data == b""
    assert parser.wanted == 0


def ssl_field(flags, verify, *fields):
    return tlv(0x20, struct.pack("!BI", flags, verify) + b"".join(fields))


@pytest.mark.parametrize(
    ("field", "tls"),
    [
        (ssl_field(0x01, 1), ProxyTls(None, None, None, client_verified=False)),
        (
            ssl_field(0x01, 0, tlv(0x21, b"TLSv1.3"), tlv(0x23, b"TLS_AES_128_GCM_SHA256")),
            ProxyTls("TLSv1.3", "TLS_AES_128_GCM_SHA256", None, client_verified=False),
        ),
        (
            ssl_field(0x03, 0, tlv(0x22, b"j\xc3\xbcrgen")),
            ProxyTls(None, None, "j\u00fcrgen", client_verified=True),
        ),
        (ssl_field(0x05, 0), ProxyTls(None, None, None, client_verified=True)),
        (ssl_field(0x03, 20, tlv(0x22, b"eve")), ProxyTls(None, None, "eve", client_verified=False)),
        (ssl_field(0x00, 0, tlv(0x21, b"TLSv1.3")), None),
    ],
)
def test_tls_facts(field, tls):
    header = ProxyHeaderParser("v2").receive_data(v2(PROXY, TCP4, IPV4_BODY + field))
    assert header.source == FOUR.source
    assert header.tls == tls


MALFORMED = [
    b"GET / HTTP/1.1\r\n",
    b"\x16\x03\x01\x02",
    b"proxy TCP4 192.0.2.1 198.51.100.1 4711 443\r\n",
    b"PROXY\tTCP4 192.0.2.1 198.51.100.1 4711 443\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\r\r\n",
    b"PROXY TCP4  192.0.2.1 198.51.100.1 4711 443\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443 \r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.1 4711\r\n",
    b"PROXY TCP4 192.0.2.01 198.51.100.1 4711 443\r\n",
    b"PROXY TCP4 192.0.2.256 198.51.100.1 4711 443\r\n",
    b"PROXY TCP4 2001:db8::1 198.51.100.1 4711 443\r\n",
    b"PROXY TCP6 2001:db8::1 198.51.100.1 4711 443\r\n",
    b"PROXY TCP6 fe80::1%eth0 fe80::2 4711 443\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.1 04711 443\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.1 65536 443\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.1 -1 443\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.1 \xb2 443\r\n",
    b"PROXY UDP4 192.0.2.1 198.51.100.1 4711 443\r\n",
    b"PROXY \r\n",
    b"PROXY UNKNOWN " + b"x" * (108 - 16) + b"\r\n",
    b"PROXY UNKNOWN " + b"x" * 1000,
    b"PROXY UNKNOWN a\rb\r\n",
    b"\r\n\r\n\x00\r\nQUIT\r",
    v2(0x22, TCP4, IPV4_BODY),
    v2(0x11, TCP4, IPV4_BODY),
    v2(PROXY, 0x41, IPV4_BODY),
    v2(PROXY, UDP4, IPV4_BODY),
    v2(PROXY, TCP4, IPV4_BODY[:-1]),
    v2(PROXY, TCP6, IPV4_BODY),
    v2(PROXY, UNIX, b"/run/a"),
    v2(PROXY, TCP4, IPV4_BODY + b"\x04"),
    v2(PROXY, TCP4, IPV4_BODY + b"\x04\x00"),
    v2(PROXY, TCP4, IPV4_BODY + b"\x04\x00\x02x"),
    v2(PROXY, TCP4, IPV4_BODY + tlv(0x02, b"\xff")),
    v2(PROXY, TCP4, IPV4_BODY + tlv(0x20, b"\x01\0\0\0")),
    v2(PROXY, TCP4, IPV4_BODY + ssl_field(0x01, 0, b"\x21\x00\x09TLS")),
    v2(PROXY, TCP4, IPV4_BODY + tlv(0x03, b"\0\0\0\0")),
    v2(PROXY, TCP4, IPV4_BODY + tlv(0x03, b"\0\0\0")),
    v2(LOCAL, UNSPEC, bytes(MAX_V2_BODY + 1)),
]


@pytest.mark.parametrize("wire", MALFORMED)
def test_malformed_headers_are_refused_for_good(wire):
    whole = ProxyHeaderParser("any")
    with pytest.raises(RemoteProtocolError):
        whole.receive_data(wire)
    with pytest.raises(RemoteProtocolError):
        whole.receive_data(V1[0][0])
    assert whole.trailing_data == b""

    trickle = ProxyHeaderParser("any")
    with pytest.raises(RemoteProtocolError):
        for index in range(len(wire)):
            assert trickle.receive_data(wire[index : index + 1]) is NEED_DATA


@pytest.mark.parametrize(("mode", "wire"), [("v1", V2[0][0]), ("v2", V1[0][0])])
def test_the_other_version_is_refused_at_its_first_byte(mode, wire):
    with pytest.raises(RemoteProtocolError, match="did not start"):
        ProxyHeaderParser(mode).receive_data(wire[:1])


def test_an_oversized_header_is_refused_before_its_body_comes():
    head = v2(PROXY, TCP4, bytes(MAX_V2_BODY + 1))[:16]
    with pytest.raises(RemoteProtocolError, match="too long"):
        ProxyHeaderParser("v2").receive_data(head)


@pytest.mark.parametrize("start", [b"", b"PROXY TCP4", SIGNATURE])
def test_an_end_within_the_header_is_an_error(start):
    parser = ProxyHeaderParser("any")
    if start:
        parser.receive_data(start)
    with pytest.raises(RemoteProtocolError, match="ended"):
        parser.receive_data(b"")


def test_bytes_after_the_header_belong_to_somebody_else():
    parser = ProxyHeaderParser("any")
    parser.receive_data(V1[0][0])
    with pytest.raises(LocalProtocolError):
        parser.receive_data(b"GET")


def crc32c(data):  # long division, unlike the table of the parser
    remainder = 0xFFFFFFFF
    for bit in ((byte >> shift) & 1 for byte in data for shift in range(8)):
        low = (remainder & 1) ^ bit
        remainder >>= 1
        if low:
            remainder ^= 0x82F63B78
    return remainder ^ 0xFFFFFFFF


def test_checksums_are_verified():
    assert crc32c(b"123456789") == 0xE3069283  # the check value of CRC-32C
    before, after = tlv(0x05, b"id"), tlv(0x02, b"shop.example")
    blank = v2(PROXY, TCP4, IPV4_BODY + before + tlv(0x03, bytes(4)) + after)
    checksum = tlv(0x03, crc32c(blank).to_bytes(4, "big"))
    good = v2(PROXY, TCP4, IPV4_BODY + before + checksum + after)
    assert ProxyHeaderParser("v2").receive_data(good).authority == "shop.example"
    with pytest.raises(RemoteProtocolError, match="checksum"):
        ProxyHeaderParser("v2").receive_data(good.replace(b"shop", b"evil"))


def test_only_one_checksum_is_computed():
    def build(checksum):
        return v2(PROXY, TCP4, IPV4_BODY + tlv(0x03, checksum) + tlv(0x03, bytes(4)))

    with pytest.raises(RemoteProtocolError, match="two checksums"):
        ProxyHeaderParser("v2").receive_data(build(crc32c(build(bytes(4))).to_bytes(4, "big")))
