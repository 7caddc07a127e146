from __future__ import annotations

import pytest

from trioserve.protocols.errors import LocalProtocolError
from trioserve.protocols.http1.framing import FORBIDDEN_TRAILERS
from trioserve.protocols.http1.response_fields import RULES, DefaultLines
from trioserve.protocols.http1.response_writer import ResponseWriter
from trioserve.protocols.http2 import response_framing
from trioserve.protocols.http2.response_framing import (
    KNOWN_FIELDS,
    KNOWN_SIZE,
    NO_FIELDS,
    DefaultFields,
    ResponseFraming,
)

DATE = (b"date", b"now")
SERVER = (b"server", b"trioserve")
EXTRA = (b"alt-svc", b"x")
DEFAULTS = DefaultFields([DATE], [SERVER], [EXTRA])
DEFAULT_LINES = DefaultLines(b"date: now\r\n", b"server: trioserve\r\n", b"alt-svc: x\r\n")


@pytest.fixture(autouse=True)
def forget():
    response_framing._known_fields.clear()


def begun(status=200, headers=(), *, is_head=False, length=None):
    framing = ResponseFraming()
    framing.prepare_head(status, headers)
    return framing, framing.render_head(is_head, NO_FIELDS, length)


class TestHead:
    def test_whole(self):
        framing = ResponseFraming()
        framing.prepare_head(
            200, [(b"content-type", b"text/plain"), (b"content-length", b"5"), (b"x-a", b"1")]
        )
        assert not framing.begun
        head = framing.render_head(False, DEFAULTS, None)
        assert head == [
            (b":status", b"200"),
            (b"content-type", b"text/plain"),
            (b"x-a", b"1"),
            (b"content-length", b"5"),
            DATE,
            SERVER,
            EXTRA,
        ]
        assert (framing.begun, framing.ended, framing.bodyless) == (True, False, False)
        framing.count(2)
        framing.count(3)
        framing.end()
        assert framing.ended

    @pytest.mark.parametrize("status", [200, 299, 304, 404, 599])
    def test_status(self, status):
        assert begun(status)[1][0] == (b":status", str(status).encode())

    @pytest.mark.parametrize(
        ("own", "expected"),
        [
            ([(b"date", b"then")], [(b"date", b"then"), SERVER, EXTRA]),
            ([(b"Server", b"mine")], [(b"server", b"mine"), DATE, EXTRA]),
            ([(b"DATE", b"then"), (b"server", b"mine")], [(b"date", b"then"), (b"server", b"mine"), EXTRA]),
            ([(b"alt-svc", b"mine")], [(b"alt-svc", b"mine"), DATE, SERVER, EXTRA]),
        ],
    )
    def test_own_date_and_server_win(self, own, expected):
        for _ in range(2):
            framing = ResponseFraming()
            framing.prepare_head(200, own)
            assert framing.render_head(False, DEFAULTS, None)[1:] == expected

    @pytest.mark.parametrize(
        ("given", "sent"),
        [
            ((b"X-Name", b"A Value"), [(b"x-name", b"A Value")]),
            ((b"x", b" \ta\t "), [(b"x", b"a")]),
            ((b"x", b""), [(b"x", b"")]),
            ((b"x", b"\x01\xff"), [(b"x", b"\x01\xff")]),
            ([b"x", b"y"], [(b"x", b"y")]),
            ((b"Content-Length", b"7"), [(b"content-length", b"7")]),
            ((b"connection", b"close"), []),
            ((b"Connection", b"x"), []),
            ((b"keep-alive", b"timeout=1"), []),
            ((b"proxy-connection", b"x"), []),
            ((b"transfer-encoding", b"chunked"), []),
            ((b"Upgrade", b"h2c"), []),
            ((b"te", b"trailers"), []),
        ],
    )
    def test_fields(self, given, sent):
        for _ in range(2):
            head = begun(200, [given])[1]
            assert head[1:] == sent
            assert {type(field) for field in head} == {tuple}

    def test_the_list_is_the_callers(self):
        head = begun(200, [(b"a", b"1")])[1]
        head.clear()
        assert begun(200, [(b"a", b"1")])[1] == [(b":status", b"200"), (b"a", b"1")]

    def test_headers_may_be_an_iterator(self):
        assert begun(200, iter([(b"a", b"1"), (b"B", b"2")]))[1][1:] == [(b"a", b"1"), (b"b", b"2")]

    def test_another_head_may_be_prepared(self):
        framing = ResponseFraming()
        framing.prepare_head(200, [(b"content-length", b"5"), (b"priority", b"u=1"), (b"date", b"then")])
        framing.prepare_head(500, [(b"a", b"1")])
        assert framing.priority is None
        assert framing.render_head(False, DEFAULTS, 3) == [
            *((b":status", b"500"), (b"a", b"1"), (b"content-length", b"3")),
            *(DATE, SERVER, EXTRA),
        ]

    @pytest.mark.parametrize(
        ("values", "priority"),
        [([], None), ([b"u=1, i"], b"u=1, i"), ([b"u=1", b"i"], b"u=1, i")],
    )
    def test_priority_is_kept_and_sent(self, values, priority):
        for _ in range(2):
            fields = [(b"Priority", value) for value in values]
            framing, head = begun(200, fields)
            assert framing.priority == priority
            assert head[1:] == [(b"priority", value) for value in values]


ILLEGAL = {
    "name empty": (b"", b"x"),
    "name with a blank": (b"a b", b"x"),
    "name with a colon": (b":status", b"200"),
    "name above ASCII": (b"\xe4", b"x"),
    "LF in the value": (b"x", b"a\nb"),
    "CR in the value": (b"x", b"a\rb"),
    "NUL in the value": (b"x", b"a\x00"),
    "CRLF behind": (b"x", b"a\r\n"),
    "LF in a common field": (b"content-type", b"a\nb"),
    "str": ("x", "y"),
    "str value": (b"x", "y"),
    "int value": (b"x", 1),
    "None": None,
    "one part": (b"x",),
    "three parts": (b"x", b"y", b"z"),
    "no part": (),
    "length signed": (b"content-length", b"+1"),
    "length empty": (b"content-length", b""),
    "length of 21 digits": (b"content-length", b"0" * 21),
    "length in capitals, with letters": (b"Content-Length", b"a"),
    "length int": (b"content-length", 5),
}


class TestIllegalHead:
    @pytest.mark.parametrize("field", ILLEGAL.values(), ids=ILLEGAL.keys())
    def test_same_words_as_http1(self, field):
        with pytest.raises(LocalProtocolError) as expected:
            ResponseWriter().prepare_head(200, [(b"a", b"1"), field])
        framing = ResponseFraming()
        for _ in range(2):
            with pytest.raises(LocalProtocolError) as caught:
                framing.prepare_head(200, [(b"a", b"1"), field])
            assert str(caught.value) == str(expected.value)
        with pytest.raises(LocalProtocolError, match="no response head was prepared"):
            framing.render_head(False, DEFAULTS, None)

    @pytest.mark.parametrize("headers", [None, 5, [(b"x", bytearray(b"y"))]])
    def test_not_fields_at_all(self, headers):
        with pytest.raises(LocalProtocolError, match="must be a pair of bytes"):
            ResponseFraming().prepare_head(200, headers)

    @pytest.mark.parametrize("names", [(b"content-length",) * 2, (b"content-length", b"Content-Length")])
    def test_length_repeated(self, names):
        with pytest.raises(LocalProtocolError, match="illegal or repeated content-length b'1'"):
            ResponseFraming().prepare_head(200, [(name, b"1") for name in names])

    @pytest.mark.parametrize("status", [0, 100, 199, 600, -1, "200", None])
    def test_status(self, status):
        with pytest.raises(LocalProtocolError, match="cannot begin a final response"):
            ResponseFraming().prepare_head(status, [])

    def test_second_head(self):
        framing, _ = begun()
        with pytest.raises(LocalProtocolError, match="a second response head"):
            framing.prepare_head(200, [])
        with pytest.raises(LocalProtocolError, match="no response head was prepared"):
            framing.render_head(False, DEFAULTS, None)

    def test_length_that_is_not_the_contents(self):
        framing = ResponseFraming()
        framing.prepare_head(200, [(b"content-length", b"5")])
        with pytest.raises(LocalProtocolError, match="response content of 4 bytes with content-length 5"):
            framing.render_head(False, DEFAULTS, 4)
        assert not framing.begun


@pytest.mark.parametrize("is_head", [False, True])
@pytest.mark.parametrize("status", [200, 204, 205, 304, 404])
@pytest.mark.parametrize("own", [None, b"0", b"5"])
@pytest.mark.parametrize("known", [None, 0, 5])
def test_length_and_content_as_on_http1(is_head, status, own, known):
    headers = [] if own is None else [(b"content-length", own)]

    def outcome_of_http1():
        writer = ResponseWriter()
        writer.prepare_head(status, headers)
        head = writer.render_head((is_head, True), DEFAULT_LINES, known, False)
        lines = [line for line in head.split(b"\r\n")[1:-2] if not line.startswith(b"transfer-encoding")]
        writer.frame_body(b"12345")
        writer.frame_end()
        return lines

    def outcome():
        framing = ResponseFraming()
        framing.prepare_head(status, headers)
        head = framing.render_head(is_head, DEFAULTS, known)
        framing.count(5)
        framing.end()
        assert framing.bodyless is (is_head or status in {204, 304})
        return [b"%b: %b" % field for field in head[1:]]

    def attempt(function):
        try:
            return function()
        except LocalProtocolError as error:
            return str(error)

    assert attempt(outcome) == attempt(outcome_of_http1)


class TestContent:
    def test_before_the_head(self):
        framing = ResponseFraming()
        framing.prepare_head(200, [])
        with pytest.raises(LocalProtocolError, match="response content without a response under way"):
            framing.count(0)
        with pytest.raises(LocalProtocolError, match="the end of a response without a response under way"):
            framing.end()

    def test_after_the_end(self):
        framing, _ = begun()
        framing.end()
        with pytest.raises(LocalProtocolError, match="response content without a response under way"):
            framing.count(0)
        with pytest.raises(LocalProtocolError, match="the end of a response without a response under way"):
            framing.end()

    def test_too_long(self):
        framing, _ = begun(200, [(b"content-length", b"5")])
        framing.count(3)
        with pytest.raises(LocalProtocolError, match="response content is longer than its content-length"):
            framing.count(3)

    def test_too_short(self):
        framing, _ = begun(200, [(b"content-length", b"5")])
        framing.count(4)
        with pytest.raises(LocalProtocolError, match="response content is shorter than its content-length"):
            framing.end()
        assert not framing.ended

    def test_known_length_counts_too(self):
        framing, head = begun(length=2)
        assert head[1:] == [(b"content-length", b"2")]
        with pytest.raises(LocalProtocolError, match="longer"):
            framing.count(3)

    def test_without_a_length_anything_goes(self):
        framing, head = begun()
        assert head == [(b":status", b"200")]
        framing.count(1 << 40)
        framing.end()

    @pytest.mark.parametrize(("status", "is_head"), [(200, True), (204, False), (304, False)])
    def test_swallowed_content_is_held_to_nothing(self, status, is_head):
        framing, _ = begun(status, [(b"content-length", b"5")], is_head=is_head)
        framing.count(6)
        framing.end()


class TestInformation:
    def test_rendered(self):
        framing = ResponseFraming()
        for _ in range(2):
            assert framing.render_information(103, [(b"Link", b" </a>; rel=preload "), (b"x", b"1")]) == [
                (b":status", b"103"),
                (b"link", b"</a>; rel=preload"),
                (b"x", b"1"),
            ]
        assert framing.render_information(100, []) == [(b":status", b"100")]
        assert not framing.begun

    def test_length_and_connection_specific_fields_are_dropped(self):
        names = [name for name, rule in RULES.items() if rule.name in {"DROP", "CONNECTION", "LENGTH"}]
        assert len(names) == 7
        fields = [(name.title(), b"1") for name in names]
        assert ResponseFraming().render_information(103, fields) == [(b":status", b"103")]

    @pytest.mark.parametrize(
        ("status", "words"),
        [
            (99, "status 99 is not informational"),
            (200, "status 200 is not informational"),
            (101, "HTTP/2 has no status 101"),
        ],
    )
    def test_status(self, status, words):
        with pytest.raises(LocalProtocolError, match=words):
            ResponseFraming().render_information(status, [])

    @pytest.mark.parametrize("field", [(b"a b", b"1"), (b":status", b"1"), (b"a", b"\n"), ("a", "b")])
    def test_illegal(self, field):
        with pytest.raises(LocalProtocolError):
            ResponseFraming().render_information(103, [field])

    def test_after_the_head(self):
        framing, _ = begun()
        with pytest.raises(LocalProtocolError, match="an interim response after the final one"):
            framing.render_information(103, [])


class TestTrailers:
    def test_rendered_before_or_after_the_end(self):
        framing, _ = begun()
        for _ in range(2):
            assert framing.render_trailers([(b"Grpc-Status", b" 0"), (b"x", b"")]) == [
                (b"grpc-status", b"0"),
                (b"x", b""),
            ]
            if not framing.ended:
                framing.end()

    def test_forbidden_ones_are_dropped(self):
        framing, _ = begun()
        names = FORBIDDEN_TRAILERS | {
            name for name, rule in RULES.items() if rule.name in {"DROP", "CONNECTION"}
        }
        assert framing.render_trailers([(name.upper(), b"1") for name in names]) == []

    @pytest.mark.parametrize("field", [(b":status", b"1"), (b"a b", b"1"), (b"a", b"\x00"), ("a", "b")])
    def test_illegal(self, field):
        framing, _ = begun()
        with pytest.raises(LocalProtocolError):
            framing.render_trailers([field])

    def test_none_without_content(self):
        framing, _ = begun(204)
        assert framing.render_trailers([(b"a", b"1")]) == []


class TestMemory:
    def test_is_bounded(self):
        for index in range(KNOWN_FIELDS + 10):
            begun(200, [(b"x", b"%d" % index)])
            assert len(response_framing._known_fields) <= KNOWN_FIELDS
        assert (b"x", b"%d" % index) in response_framing._known_fields

    @pytest.mark.parametrize(
        "field",
        [
            (b"x", b"1" * KNOWN_SIZE),
            (b"x", b" " * KNOWN_SIZE),
            (b"Date", b"a"),
            (b"server", b"a"),
            (b"priority", b"u=1"),
            (b"content-length", b"1"),
            (b"Content-Length", b"1"),
            (b"connection", b"close"),
            (b"set-cookie", b"a=b"),
            [b"x", b"1"],
        ],
    )
    def test_holds_only_what_needs_no_second_look(self, field):
        begun(200, [field])
        assert not response_framing._known_fields
