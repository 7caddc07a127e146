"""PROXY protocol, versions 1 and 2: whom a TCP proxy speaks for, said before the first byte of HTTP or TLS.

Feed bytes until a `ProxyHeader` comes back; what followed it is in `trailing_data`. Strict and bounded: all
but a well-formed header is an error at the earliest byte that shows it, and the parser stays in that error.
Whether the peer may be believed is not decided here; see `headers.ProxyRules`.
"""

from __future__ import annotations

import enum
import functools
import ipaddress
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from .errors import LocalProtocolError, RemoteProtocolError
from .headers import parse_address

if TYPE_CHECKING:
    from collections.abc import Iterator

Address: TypeAlias = tuple[str, int]
ProxyMode: TypeAlias = Literal["v1", "v2", "any"]

# The specification's worst case for a line, "\r\n" included (section 2.1).
MAX_V1_SIZE: Final = 107
# Behind the 16 fixed bytes; real ones with certificates' names stay below 1 KiB.
MAX_V2_BODY: Final = 4096

_V1_START: Final = b"PROXY "
_SHORTEST_V1_LINE: Final = len(b"PROXY UNKNOWN\r\n")
_V2_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_V2_FIXED: Final = 16
_V2_LOCAL: Final = 0x20
_V2_PROXY: Final = 0x21
_V2_ADDRESS_SIZES: Final = {
    0x00: 0,
    0x11: 12,
    0x21: 36,
    0x31: 216,
}  # unspecified; stream over IPv4, IPv6, Unix

_TLV_AUTHORITY: Final = 0x02
_TLV_CRC32C: Final = 0x03
_TLV_SSL: Final = 0x20
_TLV_SSL_VERSION: Final = 0x21
_TLV_SSL_CN: Final = 0x22
_TLV_SSL_CIPHER: Final = 0x23
_SSL_CLIENT_SSL: Final = 0x01
_SSL_CLIENT_CERTIFICATE: Final = (
    0x02 | 0x04
)  # presented on this connection, or on the session that it resumes


class NeedData(enum.Enum):
    """The one thing a parser says when it cannot say anything yet."""

    NEED_DATA = "NEED_DATA"


NEED_DATA: Final = NeedData.NEED_DATA


@dataclass(frozen=True, slots=True)
class ProxyTls:
    """TLS as the proxy spoke it with the client (PP2_TYPE_SSL)."""

    version: str | None  # "TLSv1.3"
    cipher: str | None
    client_name: (
        str | None
    )  # common name of the client's certificate; only to be believed when it was verified
    client_verified: bool


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """The proxy's word; without a source (UNKNOWN, unspecified, Unix) the connection's own addresses hold."""

    source: Address | None
    destination: Address | None
    local: bool = False  # the proxy speaks for itself, such as in a health check
    tls: ProxyTls | None = None
    authority: str | None = None  # the server name that the client asked for in its TLS handshake


class ProxyHeaderParser:
    """One header at the start of one connection.

    Args:
        mode: the version to accept; a header must come in any case: to guess would let clients write it.
    """

    def __init__(self, mode: ProxyMode) -> None:
        self._mode = mode
        self._buffer = bytearray()
        self._failed = False
        self._done = False

    def receive_data(self, data: bytes) -> ProxyHeader | NeedData:
        """Take bytes from the peer, `b""` at the end of its stream; return the header when it is whole.

        Raises:
            RemoteProtocolError: this is no PROXY header of the accepted version; later calls say so too.
            LocalProtocolError: the header was returned already; what follows it belongs to another protocol.
        """
        if self._done:
            raise LocalProtocolError("the PROXY header was already complete")
        if self._failed:
            raise RemoteProtocolError("the PROXY header was malformed")
        try:
            if not data:
                raise RemoteProtocolError("the connection ended within the PROXY header")
            self._buffer += data
            header = self._parse()
        except RemoteProtocolError:
            self._failed = True
            self._buffer.clear()
            raise
        if header is None:
            return NEED_DATA
        self._done = True
        return header

    @property
    def wanted(self) -> int:
        """How many bytes may be read without passing the end of the header; 0 once it is complete.

        For a reader that must leave what follows, a TLS handshake, in the socket. A line of version 1 does not
        tell its size, so its end is approached in steps of two bytes.
        """
        if self._done:
            return 0
        size = len(self._buffer)
        if self._buffer.startswith(_V2_SIGNATURE[:1]) or (self._mode == "v2" and not size):
            if size < _V2_FIXED:
                return _V2_FIXED - size
            return _V2_FIXED + int.from_bytes(self._buffer[14:16], "big") - size
        return max(_SHORTEST_V1_LINE - size, 1 if self._buffer.endswith(b"\r") else 2)

    @property
    def trailing_data(self) -> bytes:
        """Bytes received behind the header; empty before it is complete."""
        return bytes(self._buffer) if self._done else b""

    def _parse(self) -> ProxyHeader | None:
        start = bytes(self._buffer[: len(_V2_SIGNATURE)])
        if self._mode != "v2" and _V1_START.startswith(start[: len(_V1_START)]):
            return self._parse_v1()
        if self._mode != "v1" and _V2_SIGNATURE.startswith(start):
            return self._parse_v2()
        raise RemoteProtocolError("the connection did not start with a PROXY header")

    def _parse_v1(self) -> ProxyHeader | None:
        end = self._buffer.find(b"\n", 0, MAX_V1_SIZE)
        if end < 0:
            if len(self._buffer) >= MAX_V1_SIZE:
                raise RemoteProtocolError("the PROXY line is too long")
            return None
        line = bytes(self._buffer[: end + 1])
        if not line.endswith(b"\r\n") or b"\r" in line[:-2]:
            raise RemoteProtocolError("the PROXY line does not end in CR LF")
        del self._buffer[: end + 1]
        return _parse_line(line[len(_V1_START) : -2])

    def _parse_v2(self) -> ProxyHeader | None:
        buffer = self._buffer
        if len(buffer) > 12 and buffer[12] not in {_V2_LOCAL, _V2_PROXY}:
            raise RemoteProtocolError("unknown version or command in the PROXY header")
        if len(buffer) < _V2_FIXED:
            return None
        size = int.from_bytes(buffer[14:16], "big")
        if size > MAX_V2_BODY:
            raise RemoteProtocolError("the PROXY header is too long")
        if len(buffer) < _V2_FIXED + size:
            return None
        header = bytes(buffer[: _V2_FIXED + size])
        del buffer[: _V2_FIXED + size]
        if header[12] == _V2_LOCAL:  # the rest means nothing and must be skipped (section 2.2)
            return ProxyHeader(None, None, local=True)
        return _parse_binary(header)


def _parse_line(line: bytes) -> ProxyHeader:
    """`TCP4 192.0.2.1 198.51.100.1 4711 443` (section 2.1)."""
    words = line.split(b" ")
    if words[0] == b"UNKNOWN":  # whatever follows is to be ignored
        return ProxyHeader(None, None)
    version = {b"TCP4": 4, b"TCP6": 6}.get(words[0])
    if version is None or len(words) != 5:
        raise RemoteProtocolError("the PROXY line does not name two addresses and two ports")
    source, destination, source_port, destination_port = words[1:]
    return ProxyHeader(
        (_parse_v1_address(source, version), _parse_port(source_port)),
        (_parse_v1_address(destination, version), _parse_port(destination_port)),
    )


def _parse_v1_address(text: bytes, version: int) -> str:
    written = text.decode("latin-1")
    address = parse_address(written)
    if address is None or "%" in written or ipaddress.ip_address(written).version != version:
        raise RemoteProtocolError("an address in the PROXY line is malformed")
    return address


def _parse_port(text: bytes) -> int:
    if not text.isdigit() or len(text) > 5 or (len(text) > 1 and text.startswith(b"0")) or int(text) > 65535:
        raise RemoteProtocolError("a port in the PROXY line is malformed")
    return int(text)


def _parse_binary(header: bytes) -> ProxyHeader:
    """A whole version 2 header with the command PROXY (section 2.2)."""
    family = header[13]
    address_size = _V2_ADDRESS_SIZES.get(family)
    if address_size is None:
        raise RemoteProtocolError("unknown address family or transport in the PROXY header")
    body = header[_V2_FIXED:]
    if len(body) < address_size:
        raise RemoteProtocolError("the PROXY header is too short for its addresses")
    source, destination = _read_addresses(family, body)
    tls: ProxyTls | None = None
    authority: str | None = None
    checked = False
    for kind, value, end in _read_tlvs(body[address_size:]):
        if kind == _TLV_CRC32C:
            if checked:  # each one costs a pass over the header
                raise RemoteProtocolError("two checksums in the PROXY header")
            checked = True
            _check_crc(header, value, _V2_FIXED + address_size + end)
        elif kind == _TLV_SSL:
            tls = _read_tls(value)
        elif kind == _TLV_AUTHORITY:
            authority = _read_text(value)
    return ProxyHeader(source, destination, tls=tls, authority=authority)


def _read_addresses(family: int, body: bytes) -> tuple[Address | None, Address | None]:
    if family not in {0x11, 0x21}:
        return None, None  # a Unix socket's path tells nothing about a client
    form = "!4s4sHH" if family == 0x11 else "!16s16sHH"
    source, destination, source_port, destination_port = struct.unpack_from(form, body)
    return (_render_address(source), source_port), (_render_address(destination), destination_port)


def _render_address(packed: bytes) -> str:
    address = ipaddress.ip_address(packed)
    return parse_address(str(address)) or str(address)


def _read_tlvs(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Yield type, value and the offset behind it."""
    start = 0
    while start < len(data):
        end = start + 3 + int.from_bytes(data[start + 1 : start + 3], "big")
        if len(data) - start < 3 or end > len(data):
            raise RemoteProtocolError("a field of the PROXY header is cut short")
        yield data[start], data[start + 3 : end], end
        start = end


def _read_tls(value: bytes) -> ProxyTls | None:
    if len(value) < 5:
        raise RemoteProtocolError("the TLS field of the PROXY header is cut short")
    flags, verify = struct.unpack_from("!BI", value)
    if not flags & _SSL_CLIENT_SSL:
        return None
    texts = {kind: _read_text(text) for kind, text, _ in _read_tlvs(value[5:])}
    return ProxyTls(
        version=texts.get(_TLV_SSL_VERSION),
        cipher=texts.get(_TLV_SSL_CIPHER),
        client_name=texts.get(_TLV_SSL_CN),
        client_verified=bool(flags & _SSL_CLIENT_CERTIFICATE) and verify == 0,
    )


def _read_text(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise RemoteProtocolError("a text in the PROXY header is not UTF-8") from None


def _check_crc(header: bytes, value: bytes, end: int) -> None:
    """The checksum covers the whole header, with its own four bytes at zero (section 2.2.3)."""
    zeroed = header[: end - 4] + bytes(4) + header[end:]
    if len(value) != 4 or _crc32c(zeroed) != int.from_bytes(value, "big"):
        raise RemoteProtocolError("the checksum of the PROXY header is wrong")


def _crc32c(data: bytes) -> int:
    """CRC-32C (RFC 9260 appendix A)."""
    table = _build_crc_table()
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


@functools.cache
def _build_crc_table() -> tuple[int, ...]:
    table: list[int] = []
    for index in range(256):
        crc = index
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return tuple(table)
