"""Raw HTTP/1.1 requests and the one right reading of each.

Data only, so that the same table runs against the machines and, over sockets, against a whole server. All rows but
those in LIMIT_ROWS and LENIENT_ROWS are meant for default limits.
"""

from __future__ import annotations

from trioserve.protocols.http1 import Http1Limits
from trioserve.testing.checks import Http1Row, SeenRequest

HOST = b"Host: a.example\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST
POST = b"POST /in HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
END = b"\r\n"

SEEN_GET = SeenRequest("GET", b"/")


def good(
    name: str, raw: bytes, *seen: SeenRequest, closes: bool = False, limits: Http1Limits | None = None
) -> Http1Row:
    return Http1Row(name, raw, seen or (SEEN_GET,), None, closes, False, limits or Http1Limits())


def bad(
    name: str, raw: bytes, status: int = 400, *seen: SeenRequest, limits: Http1Limits | None = None
) -> Http1Row:
    return Http1Row(name, raw, seen, status, True, False, limits or Http1Limits())


def cut(name: str, raw: bytes, *seen: SeenRequest) -> Http1Row:
    """The client ends its side too early."""
    return Http1Row(name, raw, seen, 400, True, True)


def posted(body: bytes, *trailers: tuple[bytes, bytes]) -> SeenRequest:
    return SeenRequest("POST", b"/in", body, trailers)


# -- request lines ---------------------------------------------------------------------------------------------

METHODS = [
    *("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "MKCOL", "M-SEARCH"),
    *("QUERY", "SOURCE", "PRI", "DESCRIBE", "get", "Get", "BREW", "X", "!#$%&'*+-.^_`|~09AZaz", "A" * 64),
]

BAD_METHODS = [
    *(
        "",
        "GE T",
        "GET\t",
        "G(T",
        "G)T",
        "G/T",
        "G:T",
        "G=T",
        "G@T",
        "G[T",
        "G{T",
        'G"T',
        "G,T",
        "G;T",
        "G\\T",
    ),
    *("A" * 65, "<GET>", "GET\x7f", "\xc3\x84"),
]

GOOD_TARGETS = [
    *(
        b"/",
        b"//",
        b"//a.example/b",
        b"/a/../b",
        b"/%",
        b"/%00",
        b"/%zz",
        b"/a?b=c&d=e",
        b"/?",
        b"/??",
        b"/a;b=c",
    ),
    *(
        b"/:80",
        b"/*",
        b"/http://b.example/",
        b"/a'b(c)d",
        b'/"<>\\^`{|}',
        b"/[::1]",
        b"/~!$&'()*+,;=:@-._",
        b"/a?/",
    ),
]

BAD_TARGETS = [
    *(
        b"foo",
        b"a:80",
        b"a.example:80",
        b"*a",
        b"?a=b",
        b"/a#b",
        b"/#",
        b"#",
        b"http:",
        b"http:/a",
        b"http:///a",
    ),
    *(
        b"http://",
        b"http://u@a.example/",
        b"http://u:p@a.example/",
        b"http://a b/",
        b"http://a.example:port/",
    ),
    *(
        b"http://a.example:123456/",
        b"http://a,b/",
        b"http://[::1/",
        b"http://::1/",
        b"http://a_\\b/",
        b"http://[]/",
    ),
    *(
        b"ftp://a.example/",
        b"ws://a.example/",
        b"file:///etc/passwd",
        b"mailto:a@b",
        b"javascript:0",
        b"://a/",
    ),
    *(b"/a\xc3\xa4", b"/\xff", b"\\", b"..", b"%2f", b"http://%/", b"http://:80/", b"http://a.example#b"),
]

ABSOLUTE_TARGETS = [
    (b"http://b.example/c?d", b"/c?d"),
    (b"http://b.example", b"/"),
    (b"HTTP://b.example/c", b"/c"),
    (b"https://b.example:8443/c", b"/c"),
    (b"http://b.example?d", b"/?d"),
    (b"http://[::1]:80/c", b"/c"),
    (b"http://b.example:/c", b"/c"),
    (b"http://b.example/http://c/", b"/http://c/"),
]

BAD_VERSIONS = [
    *(b"HTTP/1", b"HTTP/1.", b"HTTP/.1", b"HTTP/11", b"HTTP/1.10", b"HTTP/01.1", b"HTTP/1.01", b"HTTP/1,1"),
    *(
        b"http/1.1",
        b"Http/1.1",
        b"HTTP 1.1",
        b"HTTP/ 1.1",
        b"HTTP/1.1x",
        b"HTTP/x.1",
        b"HTTP/-1.1",
        b"HTTP/+1.1",
    ),
    *(
        b"HTTPS/1.1",
        b"XHTTP/1.1",
        b"HTTP/1.1 ",
        b" HTTP/1.1",
        b"HTTP/1.1\t",
        b"",
        b"1.1",
        b"HTTP/\xb9.1",
        b"ICE/1.0",
    ),
]

UNSUPPORTED_VERSIONS = [b"0.9", b"1.2", b"1.9", b"2.0", b"2.1", b"3.0", b"9.9", b"0.0", b"0.1"]

LINE_ROWS = [
    *(
        good(
            f"method {name[:20]}", name.encode() + b" /m HTTP/1.1\r\n" + HOST + END, SeenRequest(name, b"/m")
        )
        for name in METHODS
    ),
    *(
        bad(f"method {name[:20]!r}", name.encode("latin-1") + b" / HTTP/1.1\r\n" + HOST + END)
        for name in BAD_METHODS
    ),
    *(
        good(
            f"target {target!r}", b"GET " + target + b" HTTP/1.1\r\n" + HOST + END, SeenRequest("GET", target)
        )
        for target in GOOD_TARGETS
    ),
    *(bad(f"target {target!r}", b"GET " + target + b" HTTP/1.1\r\n" + HOST + END) for target in BAD_TARGETS),
    *(
        good(
            f"absolute {target!r}", b"GET " + target + b" HTTP/1.1\r\n" + HOST + END, SeenRequest("GET", path)
        )
        for target, path in ABSOLUTE_TARGETS
    ),
    *(bad(f"version {version!r}", b"GET / " + version + b"\r\n" + HOST + END) for version in BAD_VERSIONS),
    *(
        bad(f"version {version!r} unsupported", b"GET / HTTP/" + version + b"\r\n" + HOST + END, 505)
        for version in UNSUPPORTED_VERSIONS
    ),
    bad("http2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    good("options *", b"OPTIONS * HTTP/1.1\r\n" + HOST + END, SeenRequest("OPTIONS", b"*")),
    good(
        "options absolute",
        b"OPTIONS http://b.example HTTP/1.1\r\n" + HOST + END,
        SeenRequest("OPTIONS", b"*"),
    ),
    good("options /", b"OPTIONS / HTTP/1.1\r\n" + HOST + END, SeenRequest("OPTIONS", b"/")),
    bad("get *", b"GET * HTTP/1.1\r\n" + HOST + END),
    bad("options lower case *", b"options * HTTP/1.1\r\n" + HOST + END),
    bad("connect authority", b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n", 501),
    bad("connect path", b"CONNECT / HTTP/1.1\r\n" + HOST + END, 501),
    bad("simple request", b"GET /\r\n"),
    bad("simple request, no target", b"GET\r\n"),
    bad("two spaces before the target", b"GET  / HTTP/1.1\r\n" + HOST + END),
    bad("two spaces before the version", b"GET /  HTTP/1.1\r\n" + HOST + END),
    bad("leading space", b" GET / HTTP/1.1\r\n" + HOST + END),
    bad("tab for a space", b"GET\t/ HTTP/1.1\r\n" + HOST + END),
    bad("space in the target", b"GET /a b HTTP/1.1\r\n" + HOST + END),
    bad("form feed for a space", b"GET\x0c/ HTTP/1.1\r\n" + HOST + END),
    bad("no-break space", b"GET\xa0/ HTTP/1.1\r\n" + HOST + END),
    bad("bare LF after the request line", b"GET / HTTP/1.1\n" + HOST + END),
    bad("bare CR after the request line", b"GET / HTTP/1.1\r" + HOST + END),
    bad("two CR after the request line", b"GET / HTTP/1.1\r\r\n" + HOST + END),
    bad("tls client hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    bad("socks 5", b"\x05\x01\x00"),
    bad("ssh banner", b"SSH-2.0-OpenSSH_9.6\r\n"),
    bad("proxy protocol where none is expected", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + GET + END),
    bad("byte order mark", b"\xef\xbb\xbfGET / HTTP/1.1\r\n" + HOST + END),
    good("empty line first", b"\r\n" + GET + END),
    good("empty lines first", b"\r\n\r\n\r\n" + GET + END),
    bad("empty line of a bare LF first", b"\n" + GET + END),
    bad("empty line of a bare CR first", b"\r" + GET + END),
    bad("blank line first", b" \r\n" + GET + END),
    cut("request line cut short", b"GET / HT"),
    cut("one byte", b"G"),
    cut("head cut short", GET),
    cut("head cut in its last line end", GET + b"\r"),
    cut("second head cut short", GET + END + b"GET /", SEEN_GET),
    good("1.0", b"GET / HTTP/1.0\r\n\r\n", closes=True),
    good("1.0 with host", b"GET / HTTP/1.0\r\n" + HOST + END, closes=True),
    good("1.0 absolute", b"GET http://b.example/c HTTP/1.0\r\n\r\n", SeenRequest("GET", b"/c"), closes=True),
]

# -- field lines -----------------------------------------------------------------------------------------------

CONTROL_BYTES = [bytes((byte,)) for byte in (*range(9), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F)]

BAD_NAMES = [
    *(
        b"",
        b" X",
        b"\tX",
        b"X ",
        b"X\t",
        b"X Y",
        b"X(",
        b"X)",
        b"X<",
        b"X>",
        b"X@",
        b"X,",
        b"X;",
        b"X\\",
        b'X"',
    ),
    *(b"X/", b"X[", b"X]", b"X?", b"X=", b"X{", b"X}", b"X\xe4", b"\xc3\xa4", b"X\x80", b"X\x00", b"X\x7f"),
]

GOOD_VALUES = [
    *(
        b"",
        b" ",
        b"\t",
        b" \t ",
        b"a",
        b" a",
        b"a ",
        b"\ta\t",
        b"  a  b  ",
        b"a\tb",
        b"\xe4\xf6",
        b"\x80\xff",
    ),
    *(
        b'"quoted, \\" string"',
        b"a:b",
        b":",
        b"a,,b",
        b"{}[]()<>@\\",
        b"=?utf-8?q?a?=",
        b"a" * 4000,
        b"%0d%0aX: y",
    ),
]

FIELD_ROWS = [
    *(
        bad(f"control byte {byte!r} in a value", GET + b"X: a" + byte + b"b\r\n\r\n")
        for byte in CONTROL_BYTES
    ),
    *(bad(f"name {name!r}", GET + name + b": y\r\n\r\n") for name in BAD_NAMES),
    *(good(f"value {value[:30]!r}", GET + b"X:" + value + b"\r\n\r\n") for value in GOOD_VALUES),
    good("every token character in a name", GET + b"!#$%&'*+-.^_`|~09azAZ: y\r\n\r\n"),
    good("underscore in a name", GET + b"X_Y: z\r\n\r\n"),
    good("numeric name", GET + b"0: y\r\n\r\n"),
    good("same field twice", GET + b"X: y\r\nX: z\r\n\r\n"),
    good("a hundred fields", b"GET / HTTP/1.1\r\n" + HOST + b"X: y\r\n" * 99 + END),
    bad("no colon", GET + b"X\r\n\r\n"),
    bad("no colon, digits", GET + b"12345\r\n\r\n"),
    bad("a second request line", GET + b"GET / HTTP/1.1\r\n\r\n"),
    bad("folded line", GET + b"X: y\r\n z\r\n\r\n"),
    bad("folded line with a tab", GET + b"X: y\r\n\tz\r\n\r\n"),
    bad("folded line, blank only", GET + b"X: y\r\n \r\n\r\n"),
    bad("folded host", b"GET / HTTP/1.1\r\nHost:\r\n a.example\r\n\r\n"),
    bad("folded transfer-encoding", POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"),
    bad("space before the first field", b"GET / HTTP/1.1\r\n " + HOST + END),
    bad("space before the colon of host", b"GET / HTTP/1.1\r\nHost : a.example\r\n\r\n"),
    bad("space before the colon of content-length", POST + b"Content-Length : 2\r\n\r\nok"),
    bad("tab before the colon of transfer-encoding", POST + b"Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n"),
    bad("bare LF after a field", GET + b"X: y\n\r\n"),
    bad("bare LF for the empty line", GET + b"\n"),
    bad("bare LF in a value", GET + b"X: y\nTransfer-Encoding: chunked\r\n\r\n"),
    bad("bare CR in a value", GET + b"X: y\rz\r\n\r\n"),
    bad("bare CR for a line end", GET + b"X: y\rZ: a\r\n\r\n"),
    bad("bare CR for the empty line", GET + b"\rX"),
    bad("two CR at a line end", GET + b"X: y\r\r\n\r\n"),
    bad("LF CR for a line end", GET + b"X: y\n\r\n\r"),
    bad("NUL before the end of a value", GET + b"X: y\x00\r\n\r\n"),
    bad("NUL for a line end", GET + b"X: y\x00Z: a\r\n\r\n"),
]

# -- host, content-type, expect, connection -------------------------------------------------------------------

GOOD_HOSTS = [
    *(
        b"a.example",
        b"a.example:80",
        b"a.example:",
        b"127.0.0.1:8000",
        b"[::1]",
        b"[::1]:8000",
        b"[::ffff:1.2.3.4]",
    ),
    *(
        b"A.EXAMPLE",
        b"a_b",
        b"xn--4ca.example",
        b"a%20b",
        b"a.",
        b"-",
        b"1",
        b"a;b",
        b"",
        b"a~b",
        b"localhost:65535",
    ),
]

BAD_HOSTS = [
    *(
        b"a b",
        b"a/b",
        b"a.example/",
        b"http://a.example",
        b"a@b",
        b"u:p@a",
        b"a,b",
        b"a.example, b.example",
        b"a?b",
    ),
    *(
        b"a#b",
        b"a\\b",
        b'"a"',
        b"<a>",
        b"a:b",
        b"a:80:80",
        b"a:-1",
        b"a:+1",
        b"a:123456",
        b":80",
        b"[::1",
        b"::1]",
    ),
    *(
        b"::1",
        b"[]",
        b"[::1]x",
        b"[::g]",
        b"[v1.a]",
        b"[fe80::1%25en0]",
        b"a%2",
        b"a%zz",
        b"\xe4",
        b"a^b",
        b"a`b",
    ),
    *(b"a|b", b"{a}", b"a\tb"),
]

HOST_ROWS = [
    *(good(f"host {host!r}", b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n") for host in GOOD_HOSTS),
    *(bad(f"host {host!r}", b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n") for host in BAD_HOSTS),
    bad("no host", b"GET / HTTP/1.1\r\n\r\n"),
    bad("no host, absolute target", b"GET http://a.example/ HTTP/1.1\r\n\r\n"),
    bad("two hosts", GET + b"Host: b.example\r\n\r\n"),
    bad("the same host twice", GET + HOST + END),
    bad("two hosts in different case", GET + b"HOST: b.example\r\n\r\n"),
    bad("two hosts, absolute target", b"GET http://a.example/ HTTP/1.1\r\n" + HOST + HOST + END),
    bad("two hosts on 1.0", b"GET / HTTP/1.0\r\n" + HOST + HOST + END),
    bad("malformed host on 1.0", b"GET / HTTP/1.0\r\nHost: a/b\r\n\r\n"),
    bad("malformed host behind an absolute target", b"GET http://a.example/ HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    good("one content-type", GET + b"Content-Type: text/plain\r\n\r\n"),
    bad("two content-types", GET + b"Content-Type: text/plain\r\nContent-type: text/html\r\n\r\n"),
    bad("the same content-type twice", GET + b"Content-Type: text/plain\r\n" * 2 + END),
    bad("unknown expectation", GET + b"Expect: 200-ok\r\n\r\n", 417),
    bad("two expectations", GET + b"Expect: 100-continue, x\r\n\r\n", 417),
    bad("expectation with a parameter", GET + b"Expect: 100-continue;x=y\r\n\r\n", 417),
    good("empty expectation", GET + b"Expect:\r\n\r\n"),
    good("continue without a body", GET + b"Expect: 100-continue\r\n\r\n"),
    good(
        "continue with its body", POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\nok", posted(b"ok")
    ),
    good("close", GET + b"Connection: close\r\n\r\n", closes=True),
    good("close in a list", GET + b"Connection: a, Close ,b\r\n\r\n", closes=True),
    good("close in a second line", GET + b"Connection: keep-alive\r\nConnection: close\r\n\r\n", closes=True),
    good("close wins over keep-alive", GET + b"Connection: close, keep-alive\r\n\r\n", closes=True),
    good("close is a whole word", GET + b"Connection: closed, xclose\r\n\r\n"),
    good("empty connection", GET + b"Connection:\r\n\r\n"),
    good("empty connection elements", GET + b"Connection: , ,\r\n\r\n"),
    good("keep-alive on 1.0", b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"),
    good("close wins on 1.0", b"GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n", closes=True),
    good("unknown upgrade", GET + b"Connection: upgrade\r\nUpgrade: teapot/1\r\n\r\n"),
    good("upgrade not listed", GET + b"Upgrade: teapot/1\r\n\r\n"),
    good("upgrade listed, not named", GET + b"Connection: upgrade\r\n\r\n"),
    good(
        "unknown upgrade keeps its body",
        POST + b"Connection: upgrade\r\nUpgrade: teapot\r\nContent-Length: 2\r\n\r\nok",
        posted(b"ok"),
    ),
    good(
        "unknown upgrade keeps its chunks",
        POST
        + b"Connection: upgrade\r\nUpgrade: teapot\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        posted(b"ok"),
    ),
    good("proxy-connection means nothing", GET + b"Proxy-Connection: close\r\n\r\n"),
    good(
        "proxy-connection means nothing to the next request",
        GET + b"Proxy-Connection: close \r\n\r\n" + GET + b"X: y \r\n\r\n",
        *(SEEN_GET, SEEN_GET),
    ),
]

# -- framing ---------------------------------------------------------------------------------------------------

BAD_LENGTHS = [
    *(
        b"-1",
        b"+1",
        b"-0",
        b"1.0",
        b"1e1",
        b"0x1",
        b"1_0",
        b"1 0",
        b"1,1",
        b"1, 1",
        b"1;1",
        b"a",
        b"",
        b" ",
        b"'1'",
    ),
    *(
        b'"1"',
        b"1\t1",
        b"\xb2",
        b"\xd9\xa1",
        b"1" * 21,
        b"0" * 21,
        b"18446744073709551616",
        b"9223372036854775808",
    ),
    *(b"99999999999999999999", b"1,", b",1", b"NaN", b"inf", b"0b1", b"0o1", b"1L"),
]

BAD_CODINGS = [
    *(
        b"chunked, chunked",
        b"chunked,chunked",
        b"chunked, gzip",
        b"gzip, chunked, gzip",
        b"chunked, identity",
    ),
    *(
        b"",
        b" ",
        b",",
        b"chunked,",
        b",chunked",
        b"chunked;q=1",
        b"chunked ;a=b",
        b"chunked; foo",
        b'"chunked"',
    ),
    *(b"chunked chunked", b"chunked\t\tx", b"chunked/1", b"gzip, chunked,", b"\xe4", b"c\xe4hunked"),
]

UNKNOWN_CODINGS = [
    *(b"gzip", b"identity", b"deflate", b"compress", b"x-gzip", b"br", b"xchunked", b"chunkedx", b"chunke"),
    *(b"gzip, chunked", b"'chunked'", b"identity, chunked", b"gzip;a=b, chunked", b"cow", b"chunk\x65d2"),
]

FRAMING_ROWS = [
    *(
        bad(f"length {length!r}", POST + b"Content-Length: " + length + b"\r\n\r\n1")
        for length in BAD_LENGTHS
    ),
    *(
        bad(f"coding {coding!r}", POST + b"Transfer-Encoding: " + coding + b"\r\n\r\n0\r\n\r\n")
        for coding in BAD_CODINGS
    ),
    *(
        bad(f"coding {coding!r} unknown", POST + b"Transfer-Encoding: " + coding + b"\r\n\r\n0\r\n\r\n", 501)
        for coding in UNKNOWN_CODINGS
    ),
    *(
        good(
            f"coding {coding!r}",
            POST + b"Transfer-Encoding:" + coding + b"\r\n\r\n1\r\na\r\n0\r\n\r\n",
            posted(b"a"),
        )
        for coding in (b"chunked", b" chunked ", b"\tchunked\t", b" Chunked", b" CHUNKED")
    ),
    good("no body", POST + END, posted(b"")),
    good("length 0", POST + b"Content-Length: 0\r\n\r\n", posted(b"")),
    good("length", POST + b"Content-Length: 5\r\n\r\nhello", posted(b"hello")),
    good("length with blanks", POST + b"Content-Length: \t5 \t\r\n\r\nhello", posted(b"hello")),
    good("length with zeros", POST + b"Content-Length: 00000000000000000005\r\n\r\nhello", posted(b"hello")),
    good(
        "length on get",
        b"GET /in HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\n\r\nok",
        SeenRequest("GET", b"/in", b"ok"),
    ),
    good(
        "length on 1.0",
        b"POST /in HTTP/1.0\r\nContent-Length: 2\r\n\r\nok",
        posted(b"ok"),
        closes=True,
    ),
    good(
        "a body that looks like a request",
        POST + b"Content-Length: 18\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        posted(b"GET / HTTP/1.1\r\n\r\n"),
    ),
    good(
        "any byte in a body",
        POST + b"Content-Length: 256\r\n\r\n" + bytes(range(256)),
        posted(bytes(range(256))),
    ),
    bad(
        "length with transfer-encoding",
        POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    bad(
        "transfer-encoding with length",
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    ),
    bad(
        "length 0 with transfer-encoding",
        POST + b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    bad("length with unknown coding", POST + b"Content-Length: 5\r\nTransfer-Encoding: gzip\r\n\r\nhello"),
    bad("two lengths", POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
    bad("the same length twice", POST + b"Content-Length: 5\r\n" * 2 + b"\r\nhello"),
    bad("two lengths in different case", POST + b"Content-Length: 5\r\ncontent-length: 5\r\n\r\nhello"),
    bad(
        "two codings in two lines",
        POST + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n",
        501,
    ),
    bad("chunked in two lines", POST + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n0\r\n\r\n"),
    bad(
        "chunked, then identity", POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n"
    ),
    bad("vertical tab before chunked", POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
    bad("bare CR before chunked", POST + b"Transfer-Encoding: \rchunked\r\n\r\n0\r\n\r\n"),
    bad("transfer-encoding on 1.0", b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    bad("unknown coding on 1.0", b"POST / HTTP/1.0\r\nTransfer-Encoding: gzip\r\n\r\n"),
    good(
        "names that look like framing",
        POST + b"Content_Length: 5\r\nTransfer_Encoding: chunked\r\n\r\n",
        posted(b""),
    ),
    good("te is no transfer-encoding", GET + b"TE: trailers, chunked\r\n\r\n"),
    cut("body cut short", POST + b"Content-Length: 5\r\n\r\nhell"),
    cut("body missing", POST + b"Content-Length: 5\r\n\r\n"),
    good("pipeline", GET + END + GET + END, SEEN_GET, SEEN_GET),
    good(
        "pipeline with bodies",
        POST + b"Content-Length: 2\r\n\r\nok" + CHUNKED + b"2\r\nok\r\n0\r\n\r\n" + GET + END,
        *(posted(b"ok"), posted(b"ok"), SEEN_GET),
    ),
    good("empty lines between requests", GET + END + b"\r\n\r\n" + GET + END, SEEN_GET, SEEN_GET),
    good("nothing after close", GET + b"Connection: close\r\n\r\n", closes=True),
    bad("good, then bad", GET + END + b"GET / HTTP/1.1\r\n\r\n", 400, SEEN_GET),
    bad("body longer than its length", POST + b"Content-Length: 2\r\n\r\nok\x00", 400, posted(b"ok")),
    bad("get with an unannounced body", GET + END + b"{}\r\n", 400, SEEN_GET),
    bad("good, then http2", GET + END + b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, SEEN_GET),
]

# -- chunks ----------------------------------------------------------------------------------------------------

BAD_CHUNKS = {
    "plus sign": b"+5\r\nhello\r\n",
    "minus sign": b"-5\r\nhello\r\n",
    "hex prefix": b"0x5\r\nhello\r\n",
    "upper-case hex prefix": b"0X5\r\nhello\r\n",
    "underscore in the size": b"1_0\r\nhello\r\n",
    "hex suffix": b"5h\r\nhello\r\n",
    "space before the size": b" 5\r\nhello\r\n",
    "space after the size": b"5 \r\nhello\r\n",
    "tab after the size": b"5\t\r\nhello\r\n",
    "space before the extension": b"5 ;a\r\nhello\r\n",
    "space in the size": b"0 5\r\nhello\r\n",
    "no size": b"\r\nhello\r\n",
    "extension without a size": b";a=b\r\nhello\r\n",
    "not hex": b"g\r\nhello\r\n",
    "quoted size": b'"5"\r\nhello\r\n',
    "non-ASCII digit": b"\xb5\r\nhello\r\n",
    "comma": b"5,5\r\nhello\r\n",
    "size of 17 digits": b"00000000000000005\r\nhello\r\n",
    "size beyond 64 bits": b"10000000000000005\r\nhello\r\n",
    "size beyond 63 bits": b"8000000000000000\r\nhello\r\n",
    "all bits set": b"ffffffffffffffff\r\nhello\r\n",
    "bare LF after the size": b"5\nhello\r\n",
    "bare CR after the size": b"5\rhello\r\n",
    "two CR after the size": b"5\r\r\nhello\r\n",
    "LF CR after the size": b"5\n\rhello\r\n",
    "bare LF after the data": b"5\r\nhello\n0\r\n\r\n",
    "bare CR after the data": b"5\r\nhello\r0\r\n\r\n",
    "nothing after the data": b"5\r\nhello0\r\n\r\n",
    "data too long": b"5\r\nhello!\r\n",
    "data too short": b"5\r\nhell\r\n0\r\n\r\n",
    "space after the data": b"5\r\nhello \r\n0\r\n\r\n",
    "bare LF in an extension": b"5;a\nb\r\nhello\r\n",
    "bare LF ending an extension": b"5;a=b\nhello\r\n",
    "bare CR in an extension": b"5;a\rb\r\nhello\r\n",
    "NUL in an extension": b"5;a=\x00\r\nhello\r\n",
    "control byte in an extension": b"5;\x01\r\nhello\r\n",
    "DEL in an extension": b"5;\x7f\r\nhello\r\n",
    "NUL in the size": b"5\x00\r\nhello\r\n",
    "extensions too large": b"5;" + b"a" * 4096 + b"\r\nhello\r\n",
    "extensions too large together": b"1;"
    + b"a" * 1400
    + b"\r\nb\r\n"
    + (b"1;" + b"a" * 1400 + b"\r\nb\r\n") * 2,
    "many tiny extensions": b"1;a=b\r\nc\r\n" * 1100,
    "endless extension": b"1;" + b"a" * 5000,
    "second chunk malformed": b"1\r\na\r\n-1\r\nb\r\n",
    "bare LF after the last chunk": b"0\n\r\n",
    "bare LF for the end": b"0\r\n\n",
    "bare CR for the end": b"0\r\n\rX",
    "last chunk with a sign": b"-0\r\n\r\n",
    "last chunk with a space": b"0 \r\n\r\n",
    "trailer without a colon": b"0\r\nX\r\n\r\n",
    "trailer name with a space": b"0\r\nX : y\r\n\r\n",
    "trailer folded": b"0\r\nX: y\r\n z\r\n\r\n",
    "trailer section begins with a space": b"0\r\n X: y\r\n\r\n",
    "trailer with a bare LF": b"0\r\nX: y\n\r\n",
    "trailer with a bare CR": b"0\r\nX: y\rz\r\n\r\n",
    "trailer with NUL": b"0\r\nX: \x00\r\n\r\n",
    "trailer without a name": b"0\r\n: y\r\n\r\n",
    "another request for trailers": b"0\r\nGET / HTTP/1.1\r\n\r\n",
}

GOOD_CHUNKS: dict[str, tuple[bytes, SeenRequest]] = {
    "empty": (b"0\r\n\r\n", posted(b"")),
    "one": (b"5\r\nhello\r\n0\r\n\r\n", posted(b"hello")),
    "several": (b"1\r\nh\r\n2\r\nel\r\n2\r\nlo\r\n0\r\n\r\n", posted(b"hello")),
    "upper-case hex": (b"A\r\n0123456789\r\n0\r\n\r\n", posted(b"0123456789")),
    "lower-case hex": (b"a\r\n0123456789\r\n0\r\n\r\n", posted(b"0123456789")),
    "leading zeros": (b"0000000000000005\r\nhello\r\n0000\r\n\r\n", posted(b"hello")),
    "extension": (b"5;a\r\nhello\r\n0\r\n\r\n", posted(b"hello")),
    "extension with a value": (b'5;a=b;c="d e"\r\nhello\r\n0;f=g\r\n\r\n', posted(b"hello")),
    "empty extension": (b"5;\r\nhello\r\n0;\r\n\r\n", posted(b"hello")),
    "blanks in an extension": (b"5; a = b\t\r\nhello\r\n0\r\n\r\n", posted(b"hello")),
    "obs-text in an extension": (b"5;a=\xff\r\nhello\r\n0\r\n\r\n", posted(b"hello")),
    "extensions up to the limit": (b"5;" + b"a" * 4095 + b"\r\nhello\r\n0\r\n\r\n", posted(b"hello")),
    "CRLF in the data": (b"2\r\n\r\n\r\n0\r\n\r\n", posted(b"\r\n")),
    "a last chunk in the data": (b"5\r\n0\r\n\r\n\r\n0\r\n\r\n", posted(b"0\r\n\r\n")),
    "trailer": (b"1\r\na\r\n0\r\nX-Sum: 1\r\n\r\n", posted(b"a", (b"x-sum", b"1"))),
    "trailers": (b"0\r\nA:\r\nB: \tc \r\n\r\n", posted(b"", (b"a", b""), (b"b", b"c"))),
    "framing trailers dropped": (
        b"1\r\na\r\n0\r\nContent-Length: 9\r\nTransfer-Encoding: gzip\r\nHost: b\r\nTrailer: x\r\nX: y\r\n\r\n",
        posted(b"a", (b"x", b"y")),
    ),
    "credentials in trailers dropped": (
        b"0\r\nAuthorization: Basic eA==\r\nCookie: a=b\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n",
        posted(b""),
    ),
    "connection in trailers dropped": (b"0\r\nConnection: close\r\nContent-Type: a/b\r\n\r\n", posted(b"")),
}

CHUNK_ROWS = [
    *(bad(f"chunk: {name}", CHUNKED + body) for name, body in BAD_CHUNKS.items()),
    *(good(f"chunks: {name}", CHUNKED + body, seen) for name, (body, seen) in GOOD_CHUNKS.items()),
    cut("chunked body missing", CHUNKED),
    cut("chunk line cut short", CHUNKED + b"5"),
    cut("chunk line without data", CHUNKED + b"5\r\n"),
    cut("chunk data cut short", CHUNKED + b"5\r\nhell"),
    cut("chunk without its line end", CHUNKED + b"5\r\nhello"),
    cut("chunk cut in its line end", CHUNKED + b"5\r\nhello\r"),
    cut("last chunk missing", CHUNKED + b"5\r\nhello\r\n"),
    cut("last chunk cut short", CHUNKED + b"5\r\nhello\r\n0\r\n"),
    cut("last line end cut short", CHUNKED + b"5\r\nhello\r\n0\r\n\r"),
    cut("trailer cut short", CHUNKED + b"0\r\nX: y\r\n"),
]

# -- limits, under the default settings ------------------------------------------------------------------------

SIZE_ROWS = [
    good(
        "target of 16 KiB",
        b"GET /" + b"a" * 16383 + b" HTTP/1.1\r\n" + HOST + END,
        SeenRequest("GET", b"/" + b"a" * 16383),
    ),
    bad("target above 16 KiB", b"GET /" + b"a" * 16384 + b" HTTP/1.1\r\n" + HOST + END, 414),
    bad("endless target", b"GET /" + b"a" * 70000, 414),
    bad("endless method", b"A" * 70000),
    bad("too many fields", b"GET / HTTP/1.1\r\n" + HOST + b"X: y\r\n" * 100 + END, 431),
    bad("head above 64 KiB", GET + b"X: " + b"y" * 66000 + b"\r\n\r\n", 431),
    bad("endless name", GET + b"X" * 66000, 431),
    bad("endless empty lines", b"\r\n" * 33000, 431),
    bad("too many trailers", CHUNKED + b"0\r\n" + b"X: y\r\n" * 101 + END, 431),
    bad("trailers above 64 KiB", CHUNKED + b"0\r\nX: " + b"y" * 66000, 431),
    bad("control byte before the target is too long", b"GET /\x01" + b"a" * 17000 + b" HTTP/1.1\r\n", 400),
    bad("target too long before the control byte", b"GET /" + b"a" * 17000 + b"\x01 HTTP/1.1\r\n", 414),
    bad("head too large before the control byte", GET + b"X: " + b"y" * 66000 + b"\x01", 431),
    bad("control byte before the head is too large", GET + b"X: \x01" + b"y" * 66000, 400),
    bad("version before too many fields", b"GET / HTTP/2.0\r\n" + b"X: y\r\n" * 200, 505),
    bad("too many fields before the missing host", b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 101 + END, 431),
]

DEFAULT_ROWS = [*LINE_ROWS, *FIELD_ROWS, *HOST_ROWS, *FRAMING_ROWS, *CHUNK_ROWS, *SIZE_ROWS]

# -- other settings --------------------------------------------------------------------------------------------

SMALL = Http1Limits(max_head_size=80, max_target_size=10, max_fields=3)
EXACT = b"GET /234567890 HTTP/1.1\r\nHost: a\r\nB: c\r\nD: "

LIMIT_ROWS = [
    good(
        "at every limit",
        EXACT + b"e" * (76 - len(EXACT)) + b"\r\n\r\n",
        SeenRequest("GET", b"/234567890"),
        limits=SMALL,
    ),
    bad("one byte above the head limit", EXACT + b"e" * (77 - len(EXACT)) + b"\r\n\r\n", 431, limits=SMALL),
    bad("one byte above the target limit", b"GET /2345678901 HTTP/1.1\r\nHost: a\r\n\r\n", 414, limits=SMALL),
    bad(
        "one field above the limit", b"GET / HTTP/1.1\r\nHost: a\r\nB:\r\nC:\r\nD:\r\n\r\n", 431, limits=SMALL
    ),
    bad("empty lines count", b"\r\n" + EXACT + b"e" * (76 - len(EXACT)) + b"\r\n\r\n", 431, limits=SMALL),
    good(
        "each head has its own limit",
        b"GET / HTTP/1.1\r\nHost: a\r\nB: c\r\n\r\n" * 3,
        *(SEEN_GET, SEEN_GET, SEEN_GET),
        limits=SMALL,
    ),
    bad(
        "trailers have the same limits",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA:\r\nB:\r\nC:\r\nD:\r\n\r\n",
        431,
        limits=SMALL,
    ),
]

BARE_LF = Http1Limits(lenient_bare_lf=True)
FOLDING = Http1Limits(lenient_folding=True)

LENIENT_ROWS = [
    good("bare LF allowed", b"GET / HTTP/1.1\nHost: a\n\n", limits=BARE_LF),
    good("mixed line ends allowed", b"\nGET / HTTP/1.1\r\nHost: a\nX: y\r\n\n", limits=BARE_LF),
    bad("bare LF allowed, bare CR not", b"GET / HTTP/1.1\nHost: a\rX: y\n\n", limits=BARE_LF),
    bad("bare LF allowed, two CR not", b"GET / HTTP/1.1\nHost: a\r\r\n\n", limits=BARE_LF),
    bad("bare LF allowed, NUL not", b"GET / HTTP/1.1\nHost: a\x00\n\n", limits=BARE_LF),
    bad("bare LF allowed, folding not", b"GET / HTTP/1.1\nHost: a\n b\n\n", limits=BARE_LF),
    bad("bare LF allowed, not in chunks", CHUNKED + b"1\na\r\n", limits=BARE_LF),
    bad("bare LF allowed, not in trailers", CHUNKED + b"0\r\nX: y\n\r\n", limits=BARE_LF),
    good("folding allowed", GET + b"X: y\r\n z\r\n\tw\r\n\r\n", limits=FOLDING),
    good("folded blank line allowed", GET + b"X: y\r\n \r\n\r\n", limits=FOLDING),
    good(
        "folded coding allowed",
        POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        posted(b""),
        limits=FOLDING,
    ),
    bad(
        "folding allowed, not of two codings",
        POST + b"Transfer-Encoding: chunked\r\n , chunked\r\n\r\n",
        limits=FOLDING,
    ),
    bad("folding allowed, not before a field", b"GET / HTTP/1.1\r\n X: y\r\n" + HOST + END, limits=FOLDING),
    bad("folding allowed, bare LF not", GET + b"X: y\n z\r\n\r\n", limits=FOLDING),
    bad("folding allowed, not in trailers", CHUNKED + b"0\r\nX: y\r\n z\r\n\r\n", limits=FOLDING),
]

ROWS = [*DEFAULT_ROWS, *LIMIT_ROWS, *LENIENT_ROWS]
