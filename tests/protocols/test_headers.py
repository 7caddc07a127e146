from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioserve.protocols.headers import (
    HOP_BY_HOP,
    MAX_HOPS,
    ProxyRules,
    has_forwarding_fields,
    parse_address,
    parse_token_list,
)

PROXY = ("10.0.0.1", 40000)
LOCAL_TRUST = ["10.0.0.0/8", "fd00::/8", "127.0.0.1"]


def see(fields, *, trusted=LOCAL_TRUST, family="auto", peer=PROXY, scheme="http"):
    rules = ProxyRules(trusted, family)
    headers = [(b"host", b"inner")] + [(name.encode(), value.encode("latin-1")) for name, value in fields]
    return rules.apply(headers, peer, scheme, trusted=rules.trusts(peer))


@pytest.mark.parametrize(
    ("value", "tokens"),
    [
        (b"", []),
        (b"close", [b"close"]),
        (b"Keep-Alive, Upgrade", [b"keep-alive", b"upgrade"]),
        (b" ,a,,\tb ,", [b"a", b"b"]),
    ],
)
def test_token_lists(value, tokens):
    assert parse_token_list(value) == tokens


def test_hop_by_hop_fields_are_those_of_rfc_9110():
    assert {b"connection", b"te", b"transfer-encoding", b"upgrade", b"keep-alive"} <= HOP_BY_HOP
    assert not HOP_BY_HOP & {b"host", b"content-length", b"trailer", b"content-encoding"}


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("192.0.2.01", None),
        ("localhost", None),
        ("", None),
    ],
)
def test_addresses_have_one_spelling(text, address):
    assert parse_address(text) == address


@pytest.mark.parametrize(
    ("trusted", "peer", "answer"),
    [
        ([], ("127.0.0.1", 1), False),
        ([], None, False),
        (["127.0.0.1"], ("127.0.0.1", 1), True),
        (["127.0.0.1"], ("127.0.0.2", 1), False),
        (["127.0.0.1"], ("::ffff:127.0.0.1", 1), True),
        (["::ffff:127.0.0.1"], ("127.0.0.1", 1), True),
        (["::ffff:10.0.0.0/104"], ("10.9.9.9", 1), True),
        (["10.0.0.0/8"], ("10.255.0.1", 1), True),
        (["10.0.0.0/8"], ("11.0.0.1", 1), False),
        (["10.0.0.0/8"], ("::1", 1), False),
        (["fe80::/10"], ("fe80::1%eth0", 1), True),
        (["2001:DB8::1"], ("2001:db8:0::1", 1), True),
        (["unix"], None, True),
        (["unix"], ("127.0.0.1", 1), False),
        (["127.0.0.1"], None, False),
        (["*"], ("203.0.113.9", 1), True),
        (["*"], None, True),
        (["10.0.0.1"], ("no address", 1), False),
    ],
)
def test_who_is_trusted(trusted, peer, answer):
    assert ProxyRules(trusted).trusts(peer) is answer


@pytest.mark.parametrize(
    ("entry", "message"),
    [("10.0.0.1/8", "host bits"), ("localhost", "'localhost'"), ("10.0.0", "'10.0.0'"), ("", "''")],
)
def test_a_slip_in_the_trust_list_is_an_error(entry, message):
    with pytest.raises(ValueError, match=message):
        ProxyRules([entry])


ALL_FIELDS = [
    ("forwarded", "for=192.0.2.7;proto=https;host=evil.example"),
    ("x-forwarded-for", "192.0.2.7"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-host", "evil.example"),
    ("x-forwarded-port", "444"),
    ("x-forwarded-prefix", "/evil"),
    ("x-forwarded-anything", "else"),
    ("x-real-ip", "192.0.2.7"),
]


@pytest.mark.parametrize("family", ["auto", "forwarded", "x-forwarded"])
def test_untrusted_peers_have_their_fields_removed(family):
    seen = see([*ALL_FIELDS, ("accept", "*/*")], peer=("203.0.113.5", 5), family=family)
    assert seen == (("203.0.113.5", 5), "http", None, [(b"host", b"inner"), (b"accept", b"*/*")], "")


def test_off_leaves_everything_as_it_came():
    for peer in [PROXY, ("203.0.113.5", 5)]:
        seen = see(ALL_FIELDS, peer=peer, family="off")
        assert seen[:3] == (peer, "http", None)
        assert len(seen.headers) == 1 + len(ALL_FIELDS)


def test_a_request_without_such_fields_keeps_its_very_list():
    headers = [(b"host", b"a"), (b"x-forward", b"no"), (b"accept", b"*/*")]
    assert not has_forwarding_fields(headers)
    assert ProxyRules(["*"]).apply(headers, PROXY, "http", trusted=True).headers is headers


@pytest.mark.parametrize("name", [name for name, _ in ALL_FIELDS])
def test_every_forwarding_field_is_noticed(name):
    assert has_forwarding_fields([(b"host", b"a"), (name.encode(), b"x")])


@pytest.mark.parametrize(
    ("lines", "client"),
    [
        (["192.0.2.7"], ("192.0.2.7", 0)),
        (["192.0.2.7:4711"], ("192.0.2.7", 4711)),
        (["2001:db8::1"], ("2001:db8::1", 0)),
        (["[2001:db8::1]"], ("2001:db8::1", 0)),
        (["[2001:db8::1]:4711"], ("2001:db8::1", 4711)),
        (["::ffff:192.0.2.7"], ("192.0.2.7", 0)),
        (["[::ffff:10.0.0.3]:1, 10.0.0.2"], ("10.0.0.3", 1)),
        (["6.6.6.6, 192.0.2.7"], ("192.0.2.7", 0)),  # the client wrote 6.6.6.6 itself
        (["127.0.0.1, 192.0.2.7"], ("192.0.2.7", 0)),  # ... or a trusted address
        (["192.0.2.7, 10.0.0.2"], ("192.0.2.7", 0)),
        (["6.6.6.6, 192.0.2.7, 10.0.0.3, fd00::2"], ("192.0.2.7", 0)),
        (["6.6.6.6", "192.0.2.7", "10.0.0.2"], ("192.0.2.7", 0)),
        (["192.0.2.7,", ", 10.0.0.2 ,"], ("192.0.2.7", 0)),
        (["10.0.0.9, 10.0.0.2"], ("10.0.0.9", 0)),  # all trusted: the left-most
        ([""], PROXY),
        (["nonsense"], PROXY),
        ([" , ,"], PROXY),
        (["192.0.2.7, nonsense"], PROXY),
        (["192.0.2.7, unknown, 10.0.0.2"], ("10.0.0.2", 0)),
        (["192.0.2.7:70000"], PROXY),
        (["192.0.2.7:"], PROXY),
        (["192.0.2.7.8"], PROXY),
        (["[192.0.2.7"], PROXY),
        (["fe80::1%eth0"], PROXY),
        (['"192.0.2.7"'], PROXY),
        (["192.0.2.\u00b2"], PROXY),
        (["1" * 5000], PROXY),
    ],
)
def test_x_forwarded_for(lines, client):
    assert see([("x-forwarded-for", line) for line in lines]).client == client


def test_the_word_of_everybody_leads_to_the_left_most_address():
    assert see([("x-forwarded-for", "6.6.6.6, 192.0.2.7, 10.0.0.2")], trusted=["*"]).client == ("6.6.6.6", 0)


def test_hops_over_unix_sockets():
    fields = [("x-forwarded-for", "6.6.6.6, 192.0.2.7, unix:")]
    assert see(fields, trusted=["unix"], peer=None).client == ("192.0.2.7", 0)
    assert see(fields).client == PROXY
    assert see([("x-forwarded-for", "unix:")], trusted=["unix"], peer=None).client is None


@pytest.mark.parametrize(
    ("addresses", "protos", "scheme"),
    [
        (None, "https", "https"),
        ("192.0.2.7", "HTTPS", "https"),
        ("192.0.2.7", "wss", "https"),
        ("192.0.2.7", "gopher", "http"),
        ("192.0.2.7", "", "http"),
        ("6.6.6.6, 192.0.2.7", "http", "http"),
        ("6.6.6.6, 192.0.2.7", "https, http", "http"),  # the client wrote "https" itself
        ("192.0.2.7, 10.0.0.2", "https, http", "https"),  # TLS ends at the outer proxy
        ("6.6.6.6, 192.0.2.7, 10.0.0.2", "http, https, http", "https"),
        ("192.0.2.7, 10.0.0.2", "https", "https"),
        (
            "192.0.2.7, 10.0.0.2",
            "https, https, http",
            "http",
        ),  # no way to match them: the nearest proxy's word
    ],
)
def test_x_forwarded_proto(addresses, protos, scheme):
    fields = [("x-forwarded-proto", protos)]
    if addresses:
        fields.append(("x-forwarded-for", addresses))
    assert see(fields).scheme == scheme


@pytest.mark.parametrize(
    ("proto", "own", "scheme"),
    [("https", "ws", "wss"), ("http", "wss", "ws"), ("ws", "https", "http"), ("gopher", "wss", "wss")],
)
def test_the_scheme_stays_of_its_kind(proto, own, scheme):
    assert see([("x-forwarded-proto", proto)], scheme=own).scheme == scheme


@pytest.mark.parametrize(
    ("fields", "host"),
    [
        ([("x-forwarded-host", "shop.example")], b"shop.example"),
        ([("x-forwarded-host", "shop.example:8443")], b"shop.example:8443"),
        ([("x-forwarded-host", "[2001:db8::1]:8443")], b"[2001:db8::1]:8443"),
        ([("x-forwarded-host", "evil.example, shop.example")], b"shop.example"),
        ([("x-forwarded-host", "shop.example"), ("x-forwarded-port", "8443")], b"shop.example:8443"),
        ([("x-forwarded-host", "[::1]"), ("x-forwarded-port", "8443")], b"[::1]:8443"),
        ([("x-forwarded-host", "shop.example:1"), ("x-forwarded-port", "8443")], b"shop.example:1"),
        ([("x-forwarded-host", "shop.example"), ("x-forwarded-port", "80")], b"shop.example"),
        (
            [("x-forwarded-host", "s"), ("x-forwarded-port", "443"), ("x-forwarded-proto", "https")],
            b"s",
        ),
        ([("x-forwarded-host", "shop.example"), ("x-forwarded-port", "99999")], b"shop.example"),
        ([("x-forwarded-host", "shop.example"), ("x-forwarded-port", "\u00b2")], b"shop.example"),
        ([("x-forwarded-port", "8443")], None),
        ([("x-forwarded-host", "a b")], None),
        ([("x-forwarded-host", "user@shop.example")], None),
        ([("x-forwarded-host", "shop.example/path")], None),
        ([("x-forwarded-host", "shop.example:port")], None),
        ([("x-forwarded-host", "")], None),
        ([("x-forwarded-host", "a" * 300)], None),
        ([("forwarded", 'for=192.0.2.7;host="shop.example:8443"')], b"shop.example:8443"),
        ([("forwarded", 'for=192.0.2.7;host="a b"')], None),
    ],
)
def test_host(fields, host):
    seen = see(fields)
    assert seen.host == host
    assert [value for name, value in seen.headers if name == b"host"] == [host or b"inner"]


@pytest.mark.parametrize(
    ("prefix", "root_path"),
    [
        ("/shop", "/shop"),
        ("/shop/", "/shop"),
        ("/a/b-c", "/a/b-c"),
        ("/", ""),
        (" ,", ""),
        ("shop", ""),
        ("//evil.example", ""),
        ("/a/../b", ""),
        ("/a b", ""),
        ("/%2e", ""),
        ("/caf\u00e9", ""),
        ("/evil, /shop", "/shop"),
    ],
)
def test_x_forwarded_prefix(prefix, root_path):
    assert see([("x-forwarded-for", "192.0.2.7"), ("x-forwarded-prefix", prefix)]).root_path == root_path


@pytest.mark.parametrize(
    ("lines", "client", "scheme"),
    [
        (["for=192.0.2.7;proto=https"], ("192.0.2.7", 0), "https"),
        (["For=192.0.2.7 ; Proto=HTTPS;"], ("192.0.2.7", 0), "https"),
        (['for="192.0.2.7:4711"'], ("192.0.2.7", 4711), "http"),
        (['for="[2001:db8::1]:4711";proto=https;by=10.0.0.1'], ("2001:db8::1", 4711), "https"),
        (['for="[2001:db8::1]"'], ("2001:db8::1", 0), "http"),
        (["for=[2001:db8::1]:4711"], ("2001:db8::1", 4711), "http"),
        (['for="192.0.2.7:_hidden"'], ("192.0.2.7", 0), "http"),
        (['for="\\1\\92.0.2.7"'], ("192.0.2.7", 0), "http"),
        (['ext="a, for=6.6.6.6; \\" x";for=192.0.2.7'], ("192.0.2.7", 0), "http"),
        # protocol of the same hop as the client
        (["for=6.6.6.6;proto=https, for=192.0.2.7;proto=http"], ("192.0.2.7", 0), "http"),
        (["for=192.0.2.7;proto=https, for=10.0.0.2;proto=http"], ("192.0.2.7", 0), "https"),
        (["for=192.0.2.7, for=10.0.0.2;proto=https"], ("192.0.2.7", 0), "https"),
        (["for=192.0.2.7;proto=https", "for=10.0.0.2"], ("192.0.2.7", 0), "https"),
        (["for=6.6.6.6;proto=https, for=192.0.2.7"], ("192.0.2.7", 0), "http"),
        (["for=10.0.0.9;proto=https, for=10.0.0.2"], ("10.0.0.9", 0), "https"),
        # what cannot be read ends the walk
        (["for=6.6.6.6, for=unknown;proto=https"], PROXY, "https"),
        (["for=6.6.6.6, for=_secret, for=10.0.0.2"], ("10.0.0.2", 0), "http"),
        (["for=6.6.6.6, proto=https"], PROXY, "https"),
        (["for=6.6.6.6;for=192.0.2.7"], PROXY, "http"),
        (["for=6.6.6.6;;proto"], PROXY, "http"),
        (["for = 6.6.6.6"], PROXY, "http"),
        (['for="6.6.6.6"x'], PROXY, "http"),
        (['for="6.6.6.6'], PROXY, "http"),
        (['for="6.6.6.6\\"'], PROXY, "http"),
        (["nonsense"], PROXY, "http"),
        ([""], PROXY, "http"),
        # a quote that the client opened does not swallow what the proxy wrote
        (['for="6.6.6.6, for=192.0.2.7;proto=https'], ("192.0.2.7", 0), "https"),
        (['for="', "for=192.0.2.7;proto=https"], ("192.0.2.7", 0), "https"),
        (['for="x, for="[2001:db8::1]"'], ("2001:db8::1", 0), "http"),
        (['for="x\\, for=192.0.2.7, for="10.0.0.2:8"'], ("192.0.2.7", 0), "http"),
    ],
)
def test_forwarded(lines, client, scheme):
    seen = see([("forwarded", line) for line in lines])
    assert (seen.client, seen.scheme) == (client, scheme)


BOTH = [("forwarded", "for=6.6.6.6"), ("x-forwarded-for", "192.0.2.7"), ("x-real-ip", "192.0.2.8")]


@pytest.mark.parametrize(
    ("family", "client", "left"),
    [
        ("auto", "192.0.2.7", {b"x-forwarded-for", b"x-real-ip"}),
        ("x-forwarded", "192.0.2.7", {b"x-forwarded-for", b"x-real-ip"}),
        ("forwarded", "6.6.6.6", {b"forwarded"}),
    ],
)
def test_of_two_families_one_is_read_and_the_other_removed(family, client, left):
    seen = see(BOTH, family=family)
    assert seen.client == (client, 0)
    assert {name for name, _ in seen.headers} == left | {b"host"}


def test_a_family_that_is_not_read_is_removed_even_alone():
    seen = see([("forwarded", "for=6.6.6.6;proto=https")], family="x-forwarded")
    assert seen == (PROXY, "http", None, [(b"host", b"inner")], "")
    seen = see([("x-forwarded-for", "6.6.6.6"), ("x-forwarded-prefix", "/p")], family="forwarded")
    assert seen == (PROXY, "http", None, [(b"host", b"inner")], "")


def test_the_callers_list_is_not_changed():
    headers = [(b"host", b"inner"), (b"x-forwarded-for", b"1.2.3.4"), (b"x-forwarded-host", b"outer")]
    before = list(headers)
    rules = ProxyRules(["*"])
    rules.apply(headers, PROXY, "http", trusted=True)
    rules.apply(headers, PROXY, "http", trusted=False)
    assert headers == before


def test_hops_further_out_than_the_limit_are_not_believed():
    hops = ["10.0.0.2"] * MAX_HOPS
    assert see([("x-forwarded-for", ", ".join(["192.0.2.7", *hops[1:]]))]).client == ("192.0.2.7", 0)
    assert see([("x-forwarded-for", ", ".join(["192.0.2.7", *hops]))]).client == ("10.0.0.2", 0)
    elements = ["for=10.0.0.2"] * MAX_HOPS
    assert see([("forwarded", ", ".join(["for=192.0.2.7", *elements]))]).client == ("10.0.0.2", 0)


@pytest.mark.parametrize(
    "line",
    ['"\\' * 32_000, 'for="' + '\\"' * 32_000, '"",' * 20_000, "," * 64_000, "a=b;" * 16_000, '""' * 32_000],
)
def test_large_nonsense_costs_little(line):
    started = time.process_time()
    assert see([("forwarded", line)]).client == PROXY
    assert see([("x-forwarded-for", line)], trusted=["*"]).client == PROXY
    assert time.process_time() - started < 0.5


@given(st.text(alphabet='",;=\\ for1.x[]:\x00\xff', max_size=40))
@pytest.mark.parametrize(
    ("own", "client"),
    [
        ("for=192.0.2.7;proto=https", ("192.0.2.7", 0)),
        ('for="[2001:db8::1]:4711";proto="https"', ("2001:db8::1", 4711)),
    ],
)
def test_nothing_that_a_client_writes_in_front_changes_what_the_proxy_wrote(own, client, text):
    for lines in ([f"{text}, {own}"], [text, own]):
        seen = see([("forwarded", line) for line in lines])
        assert (seen.client, seen.scheme) == (client, "https")
        seen = see([("x-forwarded-for", line.replace(own, "192.0.2.7")) for line in lines])
        assert seen.client == ("192.0.2.7", 0)
