from __future__ import annotations

import pytest
from hpack.struct import HeaderTuple, NeverIndexedHeaderTuple

from trioserve.protocols.errors import RemoteProtocolError
from trioserve.protocols.http1.framing import FORBIDDEN_TRAILERS
from trioserve.protocols.http1.policy import Http1Limits, judge_head, parse_request_line
from trioserve.protocols.http2 import request_policy
from trioserve.protocols.http2.events import Headers, Http2Request
from trioserve.protocols.http2.limits import Http2Limits
from trioserve.protocols.http2.request_policy import (
    KNOWN_FIELDS,
    KNOWN_SIZE,
    MalformedRequest,
    judge_request,
    judge_trailers,
)

LIMITS = Http2Limits()
EXTENDED = Http2Limits(extended_connect=True)
START = {b":method": b"GET", b":scheme": b"https", b":authority": b"a.example", b":path": b"/"}


@pytest.fixture(autouse=True)
def forget():
    request_policy._known_fields.clear()
    request_policy._known_hosts.clear()


def start(**changes: bytes | None) -> Headers:
    """The pseudo-header fields of a plain request; None leaves one out."""
    pseudo = START | {b":" + name.encode(): value for name, value in changes.items()}
    return [(name, value) for name, value in pseudo.items() if value is not None]


def judge(fields: Headers, ended: bool = True, limits: Http2Limits = LIMITS) -> Http2Request:
    """Judge twice, the second time with whatever was remembered: the verdict must be the same."""
    size = sum(len(name) + len(value) + 32 for name, value in fields)
    verdicts: list[object] = []
    for given in (fields, [HeaderTuple(*field) for field in fields], fields):
        before = list(given)
        try:
            verdicts.append(judge_request(1, given, ended, limits, size))
        except (MalformedRequest, RemoteProtocolError) as error:
            verdicts.append((type(error), str(error), getattr(error, "status_hint", None)))
            failure = error
        assert given == before
    assert verdicts[0] == verdicts[1] == verdicts[2]
    if not isinstance(verdicts[0], Http2Request):
        raise failure
    return verdicts[0]


def with_field(name: bytes, value: bytes) -> Headers:
    return [*start(), (name, value)]


class TestAccepted:
    def test_everything_of_a_plain_request(self):
        request = judge_request(
            7, [*start(path=b"/p?q=%20"), (b"accept", b"*/*"), (b"x-empty", b"")], True, LIMITS, 200
        )
        assert request == Http2Request(
            7,
            "GET",
            b"/p?q=%20",
            [(b"host", b"a.example"), (b"accept", b"*/*"), (b"x-empty", b"")],
            "https",
            b"a.example",
            False,
            0,
            False,
            False,
            None,
        )

    def test_fields_become_plain_tuples(self):
        fields = [
            NeverIndexedHeaderTuple(*field)
            for field in [*start(), (b"a", b"1"), (b"cookie", b"a"), (b"te", b"trailers")]
        ]
        for _ in range(2):
            request = judge_request(1, fields, True, LIMITS, 0)
            assert {type(field) for field in request.headers} == {tuple}

    @pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 0, 3, 2)])
    def test_pseudo_fields_in_any_order(self, order):
        fields = start(path=b"/x")
        request = judge([fields[index] for index in order])
        assert (request.method, request.scheme, request.host, request.target) == (
            "GET",
            "https",
            b"a.example",
            b"/x",
        )

    @pytest.mark.parametrize(
        ("ended", "lengths", "has_body", "expected"),
        [
            (True, [], False, 0),
            (False, [], True, None),
            (True, [b"0"], False, 0),
            (False, [b"0"], True, 0),
            (False, [b"12"], True, 12),
            (False, [b"9223372036854775807"], True, 2**63 - 1),
        ],
    )
    def test_body(self, ended, lengths, has_body, expected):
        request = judge([*start(), *((b"content-length", value) for value in lengths)], ended)
        assert (request.has_body, request.content_length) == (has_body, expected)

    @pytest.mark.parametrize("method", [b"PROPFIND", b"get", b"!#$%&'*+-.^_`|~09AZaz", b"M" * 64])
    def test_methods(self, method):
        assert judge(start(method=method)).method == method.decode()

    @pytest.mark.parametrize(
        ("scheme", "expected"), [(b"http", "http"), (b"HTTPS", "https"), (b"Http", "http")]
    )
    def test_schemes(self, scheme, expected):
        assert judge(start(scheme=scheme)).scheme == expected

    @pytest.mark.parametrize(
        "authority",
        [b"a", b"A.Example:8443", b"a:", b"127.0.0.1:80", b"[::1]", b"[::1]:443", b"a%20b", b"x" * 5000],
    )
    def test_authorities(self, authority):
        request = judge(start(authority=authority))
        assert request.host == authority
        assert request.headers == [(b"host", authority)]

    def test_asterisk_form(self):
        assert judge(start(method=b"OPTIONS", path=b"*")).target == b"*"

    def test_same_bytes_in_a_path_as_on_http1(self):
        def is_accepted_by_http1(target: bytes) -> bool:
            try:
                return parse_request_line(b"GET %b HTTP/1.1" % target).target == target
            except RemoteProtocolError:
                return False

        def is_accepted(target: bytes) -> bool:
            try:
                return judge(start(path=target)).target == target
            except MalformedRequest:
                return False

        targets = [b"/a" + bytes((byte,)) for byte in range(256)]
        assert [is_accepted(target) for target in targets] == [
            is_accepted_by_http1(target) for target in targets
        ]

    def test_every_byte_of_a_value(self):
        for byte in range(256):
            field = (b"x", b"a" + bytes((byte,)) + b"b")
            if byte in b"\x00\r\n":
                with pytest.raises(MalformedRequest):
                    judge([*start(), field])
            elif (byte < 32 and byte != 9) or byte == 127:
                with pytest.raises(RemoteProtocolError) as caught:
                    judge([*start(), field])
                assert caught.value.status_hint == 400
            else:
                assert judge([*start(), field]).headers[1:] == [field]

    def test_every_byte_of_a_name(self):
        good = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
        for byte in range(256):
            field = (b"x" + bytes((byte,)), b"1")
            if byte in good:
                assert judge([*start(), field]).headers[1:] == [field]
            else:
                with pytest.raises(MalformedRequest):
                    judge([*start(), field])

    @pytest.mark.parametrize("value", [b"trailers", b"Trailers"])
    def test_te_trailers(self, value):
        assert judge(with_field(b"te", value)).headers[1:] == [(b"te", value)]

    @pytest.mark.parametrize(
        ("values", "expected"),
        [([b"100-continue"], True), ([b"100-Continue", b"100-continue"], True), ([b""], False), ([], False)],
    )
    def test_expectation(self, values, expected):
        request = judge([*start(), *((b"expect", value) for value in values)], False)
        assert request.expects_continue is expected

    @pytest.mark.parametrize("name", [b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-real-ip"])
    def test_forwarding_fields_are_noticed_every_time(self, name):
        fields = [*start(), (b"accept", b"*/*"), (name, b"for=1.2.3.4")]
        assert judge(fields).forwarded
        assert judge(fields).forwarded
        assert not judge(fields[:-1]).forwarded


class TestHost:
    @pytest.mark.parametrize(
        ("scheme", "authority", "host"),
        [
            (b"https", b"a.example", b"a.example"),
            (b"https", b"a.example", b"A.Example"),
            (b"https", b"a.example:443", b"a.example"),
            (b"https", b"a.example", b"a.example:443"),
            (b"http", b"a.example:80", b"a.example:"),
            (b"http", b"[::1]:80", b"[::1]"),
        ],
    )
    def test_equal_to_authority(self, scheme, authority, host):
        fields = [*start(scheme=scheme, authority=authority), (b"a", b"1"), (b"host", host), (b"b", b"2")]
        assert judge(fields).headers == [(b"host", authority), (b"a", b"1"), (b"b", b"2")]

    @pytest.mark.parametrize(
        ("scheme", "host"),
        [
            (b"https", b"b.example"),
            (b"https", b"a.example:80"),
            (b"http", b"a.example:443"),
            (b"https", b"a.example:8443"),
            (b"https", b"a.example."),
            (b"https", b""),
        ],
    )
    def test_other_than_authority(self, scheme, host):
        with pytest.raises(RemoteProtocolError, match="host and :authority differ") as caught:
            judge([*start(scheme=scheme), (b"host", host)])
        assert caught.value.status_hint == 400

    @pytest.mark.parametrize("host", [b"b.example:1", b""])
    def test_without_authority(self, host):
        request = judge([*start(authority=None), (b"a", b"1"), (b"host", host)])
        assert request.host == host
        assert request.headers == [(b"host", host), (b"a", b"1")]


MALFORMED = {
    "no field": [],
    "method missing": start(method=None),
    "scheme missing": start(scheme=None),
    "path missing": start(path=None),
    "method empty": start(method=b""),
    "scheme empty": start(scheme=b""),
    "path empty": start(path=b""),
    "authority empty": start(authority=b""),
    "method repeated": [(b":method", b"GET"), *start()],
    "scheme repeated": [(b":scheme", b"https"), *start()],
    "path repeated": [*start(), (b":path", b"/")],
    "path repeated, method missing": [*start(method=None), (b":path", b"/")],
    "authority repeated": [*start(), (b":authority", b"a.example")],
    "unknown pseudo-header field": [*start(), (b":name", b"a")],
    "unknown pseudo-header field first": [(b":name", b"a"), *start()],
    "colon alone": [*start(), (b":", b"a")],
    "status": [*start(), (b":status", b"200")],
    "capitals in a pseudo-header field": [*start(path=None), (b":Path", b"/")],
    "pseudo-header field after a field": [*start(path=None), (b"a", b"1"), (b":path", b"/")],
    "pseudo-header field after all": [*start(), (b"a", b"1"), (b":path", b"/")],
    "authority after a field": [*start(authority=None), (b"a", b"1"), (b":authority", b"a.example")],
    "method no token": start(method=b"GE T"),
    "method with a colon": start(method=b"A:B"),
    "method with a byte above ASCII": start(method=b"G\xcb\x86T"),
    "scheme no scheme": start(scheme=b"1https"),
    "scheme with a colon": start(scheme=b"https:"),
    "path without slash": start(path=b"a"),
    "path absolute": start(path=b"https://a.example/"),
    "path with a fragment": start(path=b"/#a"),
    "path with a blank": start(path=b"/a b"),
    "path with a blank behind": start(path=b"/ "),
    "path with LF": start(path=b"/\n"),
    "path above ASCII": start(path=b"/\xff"),
    "asterisk without OPTIONS": start(path=b"*"),
    "more than an asterisk": start(method=b"OPTIONS", path=b"*/"),
    "authority with user": start(authority=b"u@a.example"),
    "authority with user and password": start(authority=b"u:p@a.example"),
    "authority with a slash": start(authority=b"a/b"),
    "authority list": start(authority=b"a,b"),
    "authority with a blank": start(authority=b" a"),
    "authority with a long port": start(authority=b"a:123456"),
    "authority with CRLF": start(authority=b"a\r\n"),
    "name empty": with_field(b"", b"a"),
    "name with capitals": with_field(b"Accept", b"a"),
    "name with a colon": with_field(b"a:b", b"a"),
    "name with a colon behind": with_field(b"a:", b"a"),
    "name with a blank": with_field(b"a ", b"a"),
    "name above ASCII": with_field(b"\xe4", b"a"),
    "value with NUL": with_field(b"a", b"b\x00"),
    "value with CR": with_field(b"a", b"b\rc"),
    "value with LF": with_field(b"a", b"b\nc"),
    "value with LF and another control byte": with_field(b"a", b"b\x01\nc"),
    "value with CRLF behind": with_field(b"a", b"b\r\n"),
    "value with a blank before": with_field(b"a", b" b"),
    "value with a blank behind": with_field(b"a", b"b "),
    "value with a tab before": with_field(b"a", b"\tb"),
    "value with a tab behind": with_field(b"a", b"b\t"),
    "value of a blank": with_field(b"a", b" "),
    "cookie with a blank behind": with_field(b"cookie", b"a=b "),
    "connection": with_field(b"connection", b"close"),
    "keep-alive": with_field(b"keep-alive", b"timeout=1"),
    "proxy-connection": with_field(b"proxy-connection", b"keep-alive"),
    "transfer-encoding": with_field(b"transfer-encoding", b"chunked"),
    "upgrade": with_field(b"upgrade", b"h2c"),
    "te gzip": with_field(b"te", b"gzip"),
    "te trailers and more": with_field(b"te", b"trailers, deflate;q=0.5"),
    "te empty": with_field(b"te", b""),
    "length signed": with_field(b"content-length", b"+0"),
    "length empty": with_field(b"content-length", b""),
    "length list": with_field(b"content-length", b"0, 0"),
    "length of 21 digits": with_field(b"content-length", b"0" * 21),
    "length out of range": with_field(b"content-length", b"9223372036854775808"),
    "lengths that differ": [*with_field(b"content-length", b"0"), (b"content-length", b"00")],
    "length without content": with_field(b"content-length", b"1"),
    "CONNECT with :path": start(method=b"CONNECT", authority=b"a:1", scheme=None),
    "CONNECT with :scheme": start(method=b"CONNECT", authority=b"a:1", path=None),
    "CONNECT with both": start(method=b"CONNECT", authority=b"a:1"),
    "CONNECT without :authority": start(method=b"CONNECT", authority=None, scheme=None, path=None),
    "CONNECT with a malformed :authority": start(method=b"CONNECT", authority=b"a/", scheme=None, path=None),
    "CONNECT with a malformed field": [*start(method=b"CONNECT", scheme=None, path=None), (b"A", b"1")],
    "method too long, and a malformed field": [*start(method=b"M" * 65), (b"A", b"1")],
    "extended CONNECT is not offered": start(method=b"CONNECT", protocol=b"websocket"),
}


@pytest.mark.parametrize("fields", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed(fields):
    with pytest.raises(MalformedRequest):
        judge(fields)


class TestExtendedConnect:
    def test_accepted(self):
        request = judge(start(method=b"CONNECT", protocol=b"websocket", path=b"/chat"), False, EXTENDED)
        assert (request.method, request.protocol, request.target) == ("CONNECT", b"websocket", b"/chat")
        assert (request.scheme, request.host) == ("https", b"a.example")
        assert (request.has_body, request.content_length) == (True, None)

    def test_host_may_stand_for_authority(self):
        fields = [*start(method=b"CONNECT", protocol=b"websocket", authority=None), (b"host", b"b")]
        assert judge(fields, False, EXTENDED).host == b"b"

    @pytest.mark.parametrize(
        "changes",
        [
            {"method": b"GET"},
            {"path": None},
            {"scheme": None},
            {"protocol": b""},
            {"protocol": b"a b"},
            {"path": b"*"},
        ],
    )
    def test_malformed(self, changes):
        with pytest.raises(MalformedRequest):
            judge(start(**{"method": b"CONNECT", "protocol": b"websocket"} | changes), False, EXTENDED)


REFUSED = {
    "host missing": (start(authority=None), 400, "host missing"),
    "host missing among fields": ([*start(authority=None), (b"a", b"1")], 400, "host missing"),
    "host malformed": ([*start(authority=None), (b"host", b"u@a")], 400, "malformed host"),
    "host malformed beside authority": (with_field(b"host", b"a/b"), 400, "malformed host"),
    "host repeated": ([*with_field(b"host", b"a.example"), (b"host", b"a.example")], 400, "host repeated"),
    "host repeated, no authority": (
        [*start(authority=None), (b"host", b"a"), (b"host", b"a")],
        400,
        "host repeated",
    ),
    "content-type repeated": (
        [*with_field(b"content-type", b"a/b"), (b"content-type", b"a/b")],
        400,
        "content-type repeated",
    ),
    "content-length repeated": (
        [*with_field(b"content-length", b"0"), (b"content-length", b"0")],
        400,
        "content-length repeated",
    ),
    "control byte": (with_field(b"a", b"b\x1bc"), 400, "control byte in a field value"),
    "DEL": (with_field(b"cookie", b"\x7f"), 400, "control byte in a field value"),
    "expectation": (with_field(b"expect", b"200-ok"), 417, "unknown expectation"),
    "expectation beside the known": (
        [*with_field(b"expect", b"100-continue"), (b"expect", b"x")],
        417,
        "unknown expectation",
    ),
    "CONNECT": (start(method=b"CONNECT", scheme=None, path=None), 501, "CONNECT is not offered"),
    "scheme": (start(scheme=b"ftp"), 400, "the scheme is neither http nor https"),
    "scheme with another path": (
        start(scheme=b"urn", path=b"a"),
        400,
        "the scheme is neither http nor https",
    ),
    "method": (start(method=b"M" * 65), 400, "method too long"),
}


@pytest.mark.parametrize(("fields", "status", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(fields, status, reason):
    with pytest.raises(RemoteProtocolError) as caught:
        judge(fields)
    assert (caught.value.status_hint, str(caught.value)) == (status, reason)


class TestLimits:
    def test_size(self):
        limits = Http2Limits(max_head_size=200)
        judge_request(1, start(), True, limits, 200)
        with pytest.raises(RemoteProtocolError, match="header section too large") as caught:
            judge_request(1, start(), True, limits, 201)
        assert caught.value.status_hint == 431

    def test_fields_with_host_among_them(self):
        limits = Http2Limits(max_fields=4)
        fields = [*start(), (b"a", b"1"), (b"b", b"2"), (b"a", b"1")]
        assert len(judge(fields, limits=limits).headers) == 4
        with pytest.raises(RemoteProtocolError, match="too many fields") as caught:
            judge([*fields, (b"a", b"1")], limits=limits)
        assert caught.value.status_hint == 431

    def test_crumbs_are_one_field(self):
        fields = [*start(), *[(b"cookie", b"%d" % index) for index in range(50)]]
        assert len(judge(fields, limits=Http2Limits(max_fields=2)).headers) == 2


@pytest.mark.parametrize(
    ("values", "joined"),
    [([b"a=1"], b"a=1"), ([b"a=1", b"b=2", b"a=1"], b"a=1; b=2; a=1"), ([b"", b"b=2"], b"; b=2")],
)
def test_cookies_are_joined_at_the_place_of_the_first(values, joined):
    first, *rest = [(b"cookie", value) for value in values]
    request = judge([*start(), (b"x", b"1"), first, (b"y", b"2"), *rest, (b"z", b"3")])
    assert request.headers[1:] == [(b"x", b"1"), (b"cookie", joined), (b"y", b"2"), (b"z", b"3")]


class TestMemory:
    def test_is_bounded(self):
        for index in range(KNOWN_FIELDS + 10):
            judge_request(1, with_field(b"x", b"%d" % index), True, LIMITS, 0)
            judge_request(1, start(authority=b"a%d" % index), True, LIMITS, 0)
            assert len(request_policy._known_fields) <= KNOWN_FIELDS
            assert len(request_policy._known_hosts) <= KNOWN_FIELDS
        assert (b"x", b"%d" % index) in request_policy._known_fields
        assert b"a%d" % index in request_policy._known_hosts

    def test_holds_nothing_long(self):
        judge(with_field(b"x", b"1" * KNOWN_SIZE))
        judge(start(authority=b"a" * (KNOWN_SIZE + 1)))
        assert not request_policy._known_fields
        assert not request_policy._known_hosts.keys() - {b"a.example"}

    @pytest.mark.parametrize(
        "name", [b"cookie", b"authorization", b"proxy-authorization", b"content-type", b"x-forwarded-for"]
    )
    def test_holds_no_secret_and_no_rule(self, name):
        judge([*start(), (b"a", b"1"), (name, b"a")])
        assert list(request_policy._known_fields) == [(b"a", b"1")]

    def test_holds_nothing_of_a_refused_request(self):
        with pytest.raises(MalformedRequest):
            judge([*start(), (b"a", b"1"), (b"A", b"1")])
        assert not request_policy._known_fields


class TestTrailers:
    def test_accepted(self):
        fields = [HeaderTuple(b"grpc-status", b"0"), HeaderTuple(b"x", b""), HeaderTuple(b"te", b"trailers")]
        trailers = judge_trailers(fields)
        assert trailers == [(b"grpc-status", b"0"), (b"x", b"")]
        assert {type(field) for field in trailers} == {tuple}

    def test_forbidden_ones_are_dropped(self):
        malformed = {
            b"connection",
            b"keep-alive",
            b"proxy-connection",
            b"transfer-encoding",
            b"upgrade",
            b"te",
        }
        for name in FORBIDDEN_TRAILERS - malformed:
            assert judge_trailers([(b"a", b"1"), (name, b"1"), (b"b", b"2")]) == [(b"a", b"1"), (b"b", b"2")]

    @pytest.mark.parametrize(
        "field",
        [
            (b":path", b"/"),
            (b":status", b"200"),
            (b":", b""),
            (b"", b""),
            (b"X", b"1"),
            (b"a b", b"1"),
            (b"connection", b"close"),
            (b"transfer-encoding", b"chunked"),
            (b"te", b"gzip"),
            (b"a", b"b\r"),
            (b"a", b" b"),
            (b"a", b"\x01"),
            (b"content-length", b" 1"),
        ],
    )
    def test_malformed(self, field):
        with pytest.raises(MalformedRequest):
            judge_trailers([(b"a", b"1"), field])


@pytest.mark.parametrize(
    "headers",
    [
        [(b"content-type", b"a/b")],
        [(b"content-type", b"a/b"), (b"content-type", b"a/c")],
        [(b"expect", b"100-continue")],
        [(b"expect", b"100-continue, x")],
        [(b"expect", b",")],
        [(b"x-forwarded-for", b"1.2.3.4")],
        [(b"content-length", b"3")],
        [(b"accept", b"*/*"), (b"accept", b"a/b")],
        [(b"host", b"a.example")],
        [(b"host", b"b:x")],
    ],
)
def test_verdict_is_that_of_http1(headers):
    """Both policies see the same fields, HTTP/1.1 with Host where HTTP/2 has :authority (or Host instead)."""

    def summary(head):
        return (
            *(head.method, head.target, head.headers, head.has_body, head.content_length),
            *(head.expects_continue, head.forwarded, head.host),
        )

    has_host = any(name == b"host" for name, _ in headers)
    fields_1 = headers if has_host else [(b"host", b"a.example"), *headers]
    fields_2 = [*start(authority=None if has_host else b"a.example"), *headers]
    ended = not any(name == b"content-length" for name, _ in headers)

    def verdict(judge_it, *arguments):
        try:
            return summary(judge_it(*arguments))
        except RemoteProtocolError as error:
            return str(error), error.status_hint

    assert verdict(judge, fields_2, ended) == verdict(judge_head, "GET", b"/", "1.1", fields_1, b"")


def test_default_limits_are_those_of_http1():
    assert (LIMITS.max_head_size, LIMITS.max_fields) == (
        Http1Limits().max_head_size,
        Http1Limits().max_fields,
    )
