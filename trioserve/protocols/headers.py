"""Header fields about the way of a message: token lists, hop-by-hop fields, trusted proxies.

What a proxy tells about the client (RFC 7239 `Forwarded`, or the older `X-Forwarded-*`) is believed only when
every hop between it and us is trusted: the list is walked from the right over trusted addresses, and the
first that is not trusted is the client. Nothing here raises for what a peer sent: what cannot be read ends
the walk. PROXY protocol lives in `proxy_protocol`, which needs no headers.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

Headers: TypeAlias = list[tuple[bytes, bytes]]
Peer: TypeAlias = tuple[str, int] | None
ForwardingFamily: TypeAlias = Literal["auto", "forwarded", "x-forwarded", "off"]

# RFC 9110 section 7.6.1; in HTTP/2 they are malformed, save `te: trailers` (RFC 9113 section 8.2.2).
HOP_BY_HOP: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade"}
)

# Bounds the work that one request can cause; what lies further left is not looked at.
MAX_HOPS: Final = 64

_X_FIELDS: Final = (b"x-forwarded-", b"x-real-ip")
_X_CHOICE: Final = frozenset({b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"})
_FIELDS: Final = (b"forwarded", *_X_FIELDS)
_SCHEMES: Final = {  # what a proxy may say -> (said of a request, said of a WebSocket)
    b"http": ("http", "ws"),
    b"https": ("https", "wss"),
    b"ws": ("http", "ws"),
    b"wss": ("https", "wss"),
}
_LONGEST_NODE: Final = 120
_DEFAULT_PORTS: Final = {"http": 80, "ws": 80, "https": 443, "wss": 443}
_HOST = re.compile(rb"(?:[A-Za-z0-9._~-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_PREFIX = re.compile(rb"(?:/[A-Za-z0-9._~!$&'()*+,;=:@-]+)+")
_NODE = re.compile(rb"(?:\[([0-9A-Fa-f:.]{2,45})\]|([0-9.]{7,15}))(?::(_[A-Za-z0-9._-]{1,64}|[0-9]{1,5}))?")
# Possessive, so that a quote which is never closed costs one pass; group 1 is empty for such a one.
_QUOTED = re.compile(rb'"(?:[^"\\]|\\.)*+("?)', re.DOTALL)
# Addresses with a port or in brackets should be quoted (RFC 7239 section 6); unquoted they are just as clear.
_PAIR = re.compile(
    rb"([A-Za-z0-9!#$%&'*+.^_`|~-]+)="
    rb'(?:"((?:[^"\\\x00-\x08\x0a-\x1f\x7f]|\\[\t -~\x80-\xff])*+)"|([A-Za-z0-9!#$%&'
    rb"'*+.^_`|~:\[\]-]*))"
)
_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)


def parse_token_list(value: bytes) -> list[bytes]:
    """Split a list of tokens (RFC 9110 section 5.6.1) into its members, in lower case; empty ones vanish."""
    return [token for part in value.split(b",") if (token := part.strip(b" \t").lower())]


def parse_address(text: str) -> str | None:
    """Return an IP address in its one canonical spelling, or None.

    IPv4-mapped IPv6 addresses (RFC 4291 section 2.5.5.2), as dual-stack sockets report them, become IPv4.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if address.version == 6 and (mapped := address.ipv4_mapped) is not None:
        return str(mapped)
    return str(address)


def has_forwarding_fields(headers: Headers) -> bool:
    """Tell cheaply whether `ProxyRules.apply` has anything to do; for most direct clients it has not."""
    for name, _ in headers:  # noqa: SIM110 - any() over a generator costs three times as much
        if name >= b"forwarded" and name.startswith(_FIELDS):  # the comparison spares most names the search
            return True
    return False


class Forwarded(NamedTuple):
    """What the application shall see of a request, after the proxies' word was weighed."""

    client: Peer
    scheme: str
    host: bytes | None  # set when the host header was replaced
    headers: Headers
    root_path: (
        str  # "" or "/prefix", which the proxy took off the path: it belongs before scope["path"] again
    )


class _Hop(NamedTuple):
    """One element of a forwarding list: what a proxy wrote about the connection that reached it."""

    node: bytes | None
    proto: bytes | None = None
    host: bytes | None = None


class ProxyRules:
    """Which peers are trusted proxies, and what their word changes. Built once, shared by all connections.

    Args:
        trusted: addresses ("10.0.0.1"), networks ("10.0.0.0/8", "fd00::/8"), "unix" (whoever may connect to
            our Unix sockets) and "*" (everybody).
        headers: the family of fields to read. "auto" reads `X-Forwarded-*` if there is any, else `Forwarded`.
            "off" leaves all of them as they came, for an application that has rules of its own.

    Raises:
        ValueError: an entry of `trusted` is none of these.
    """

    def __init__(self, trusted: Sequence[str], headers: ForwardingFamily = "auto") -> None:
        self.headers: Final = headers
        self._everybody = "*" in trusted
        self._unix = self._everybody or "unix" in trusted
        networks = [_parse_network(entry) for entry in trusted if entry not in {"*", "unix"}]
        self._networks = tuple(network for network in networks if network.num_addresses > 1)
        self._addresses = frozenset(str(network[0]) for network in networks if network.num_addresses == 1)

    def trusts(self, peer: Peer) -> bool:
        """Tell whether a peer's word counts; None is a peer on a Unix socket. Ask once per connection.

        Behind PROXY protocol, ask for the address that its header gave: that is who speaks HTTP to us.
        """
        if peer is None:
            return self._unix
        if self._everybody:
            return True
        address = parse_address(peer[0].partition("%")[0])
        return address is not None and self._trusts_address(address)

    def apply(self, headers: Headers, client: Peer, scheme: str, *, trusted: bool) -> Forwarded:
        """Return the request as the client sent it, as far as trusted proxies vouch for it.

        Args:
            headers: names in lower case. The list is not changed; the result may be the same list.
            client: the peer of the connection.
            scheme: "http", "https", "ws" or "wss", as the connection has it; the result is of the same kind
                (request or WebSocket).
            trusted: what `trusts(client)` answered for this connection.
        """
        if self.headers == "off" or not has_forwarding_fields(headers):
            return Forwarded(client, scheme, None, headers, "")
        if not trusted:
            return Forwarded(client, scheme, None, _without(headers, _FIELDS), "")
        if self._reads_x(headers):
            headers = _without(headers, (b"forwarded",), exact=True)
            hops, prefix, port = _read_x_forwarded(headers)
        else:
            headers = _without(headers, _X_FIELDS)
            hops, prefix, port = _read_forwarded(headers), b"", b""
        client, proto, host = self._walk(hops, client)
        scheme = _weigh_scheme(proto, scheme)
        if host is None or not _HOST.fullmatch(host):
            return Forwarded(client, scheme, None, headers, prefix.decode("ascii"))
        host = _add_port(host, port, scheme)
        return Forwarded(client, scheme, host, _with_host(headers, host), prefix.decode("ascii"))

    def _reads_x(self, headers: Headers) -> bool:
        # Nearly all proxies write X-Forwarded-For and hand a client's own Forwarded on as it came. So when
        # both are there, Forwarded is the one that anybody may have written.
        if self.headers == "auto":
            return any(name in _X_CHOICE for name, _ in headers)
        return self.headers == "x-forwarded"

    def _walk(self, hops: Sequence[_Hop], client: Peer) -> tuple[Peer, bytes | None, bytes | None]:
        """Go from the nearest hop outwards while who wrote the next one is trusted.

        Protocol and host come from the outermost hop that was believed and states them: that is the one which
        the client's own request reached.
        """
        proto: bytes | None = None
        host: bytes | None = None
        for hop in reversed(hops):
            proto = proto if hop.proto is None else hop.proto
            host = host if hop.host is None else hop.host
            if hop.node == b"unix:" and self._unix:  # what nginx writes for a peer on a Unix socket
                continue
            node = None if hop.node is None or len(hop.node) > _LONGEST_NODE else _parse_node(hop.node)
            if node is None:  # unknown, hidden or nonsense: the nearest hop that has an address stands for it
                break
            client = node
            if not (self._everybody or self._trusts_address(node[0])):
                break
        return client, proto, host

    def _trusts_address(self, address: str) -> bool:
        if address in self._addresses:
            return True
        if not self._networks:
            return False
        parsed = ipaddress.ip_address(address)
        return any(parsed in network for network in self._networks)


def _parse_network(entry: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        network = ipaddress.ip_network(entry)
    except ValueError as error:
        reason = "has host bits set" if "host bits" in str(error) else "is no address, network, 'unix' or '*'"
        raise ValueError(f"trusted proxy {entry!r} {reason}") from None
    if network.version == 6 and network.prefixlen >= 96 and (mapped := network[0].ipv4_mapped) is not None:
        return ipaddress.IPv4Network((mapped, network.prefixlen - 96))
    return network


@functools.lru_cache(
    maxsize=1024
)  # a client sends many requests, and a proxy's own address is always the same
def _parse_node(text: bytes) -> tuple[str, int] | None:
    """`192.0.2.1:47`, `[2001:db8::1]:47` or a bare address -> address and port, 0 when there is none."""
    match = _NODE.fullmatch(text)
    host, port = (match[1] or match[2], match[3]) if match else (text, None)
    if len(host) > 45 or b"%" in host or (address := parse_address(host.decode("latin-1"))) is None:
        return None
    if port is None or port.startswith(b"_"):
        return address, 0
    number = int(port)
    return (address, number) if number <= 65535 else None


def _read_forwarded(headers: Headers) -> list[_Hop]:
    """The elements of all `Forwarded` lines in order (RFC 7239 section 4)."""
    elements: list[bytes] = []
    for name, line in headers:
        if name == b"forwarded":
            # A client that opens a quote and never closes it must not swallow what the proxies wrote behind
            # it. No proxy has reason to quote a comma, so cut at every one: their elements stay whole.
            parts = _split_unquoted(line, b",") or line.split(b",")
            elements.extend(element for part in parts if (element := part.strip(b" \t")))
    return [_parse_element(element) for element in elements[-MAX_HOPS:]]


def _parse_element(element: bytes) -> _Hop:
    """`for=192.0.2.1;proto=https` -> hop; one that breaks the grammar, or repeats a name, says nothing."""
    found: dict[bytes, bytes] = {}
    for part in _split_unquoted(element, b";") or [b"="]:
        if not (parameter := part.strip(b" \t")):
            continue
        match = _PAIR.fullmatch(parameter)
        if match is None or (name := match[1].lower()) in found:
            return _Hop(None)
        found[name] = match[3] if match[2] is None else _ESCAPE.sub(rb"\1", match[2])
    return _Hop(found.get(b"for"), found.get(b"proto"), found.get(b"host"))


def _split_unquoted(text: bytes, separator: bytes) -> list[bytes] | None:
    """Split at separators outside of quoted strings; None when a quote is not closed."""
    if b'"' not in text:
        return text.split(separator)
    masked = _QUOTED.sub(lambda match: b"x" * len(match[0]) if match[1] else match[0], text)
    if b'"' in masked:
        return None
    parts: list[bytes] = []
    start = 0
    for part in masked.split(separator):
        parts.append(text[start : start + len(part)])
        start += len(part) + 1
    return parts


def _read_x_forwarded(headers: Headers) -> tuple[list[_Hop], bytes, bytes]:
    """Return hops, the prefix and the port that `X-Forwarded-*` state."""
    lists: dict[bytes, list[bytes]] = {}
    for name, line in headers:
        if name.startswith(b"x-forwarded-"):
            members = [member.strip(b" \t") for member in line.rsplit(b",", MAX_HOPS)]
            lists.setdefault(name, []).extend(member for member in members if member)
    nodes: list[bytes | None] = [*lists.get(b"x-forwarded-for", [])[-MAX_HOPS:]]
    protos = _align(lists.get(b"x-forwarded-proto", []), len(nodes))
    hosts = _align(lists.get(b"x-forwarded-host", []), len(nodes))
    hops = [_Hop(*fields) for fields in zip(nodes or [None], protos, hosts, strict=True)]
    prefix = (lists.get(b"x-forwarded-prefix") or [b""])[-1].rstrip(b"/")
    port = (lists.get(b"x-forwarded-port") or [b""])[-1]
    return hops, prefix if _is_prefix(prefix) else b"", port


def _align(values: list[bytes], count: int) -> list[bytes | None]:
    """Give each of `count` hops its own value, or, if the numbers differ, the last one to the nearest."""
    if len(values) == count and count:
        return list(values)
    return [*[None] * (count - 1), values[-1] if values else None]


def _is_prefix(prefix: bytes) -> bool:
    return bool(_PREFIX.fullmatch(prefix)) and not {b".", b".."}.intersection(prefix.split(b"/"))


def _weigh_scheme(proto: bytes | None, scheme: str) -> str:
    kinds = _SCHEMES.get(proto.lower()) if proto is not None else None
    return scheme if kinds is None else kinds[scheme.startswith("ws")]


def _add_port(host: bytes, port: bytes, scheme: str) -> bytes:
    """`X-Forwarded-Port` completes a host that names no port."""
    if not port.isdigit() or len(port) > 5 or not 0 < int(port) <= 65535:
        return host
    if int(port) == _DEFAULT_PORTS[scheme] or re.search(rb":[0-9]+\Z", host.rpartition(b"]")[2]):
        return host
    return host + b":" + port


def _with_host(headers: Headers, host: bytes) -> Headers:
    return [(b"host", host), *(field for field in headers if field[0] != b"host")]


def _without(headers: Headers, names: tuple[bytes, ...], *, exact: bool = False) -> Headers:
    kept = [field for field in headers if not (field[0] in names if exact else field[0].startswith(names))]
    return headers if len(kept) == len(headers) else kept
