from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioserve.config import (
    ConfigError,
    FdBind,
    SniCertificate,
    TcpBind,
    UnixBind,
    load_config,
    parse_bind,
)


@pytest.mark.parametrize(
    ("text", "bind", "canonical"),
    [
        ("127.0.0.1:8000", TcpBind("127.0.0.1", 8000), "127.0.0.1:8000"),
        ("localhost:0", TcpBind("localhost", 0), "localhost:0"),
        (":8000", TcpBind("0.0.0.0", 8000), "0.0.0.0:8000"),
        ("Example.ORG:080", TcpBind("example.org", 80), "example.org:80"),
        ("[::1]:8000", TcpBind("::1", 8000), "[::1]:8000"),
        ("[::]:65535", TcpBind("::", 65535), "[::]:65535"),
        ("[fe80::1%eth0]:1", TcpBind("fe80::1%eth0", 1), "[fe80::1%eth0]:1"),
        ("unix:/run/web.sock", UnixBind("/run/web.sock"), "unix:/run/web.sock"),
        ("unix:///run/web.sock", UnixBind("/run/web.sock"), "unix:/run/web.sock"),
        ("unix:web.sock", UnixBind("web.sock"), "unix:web.sock"),
        ("fd:3", FdBind(3), "fd:3"),
    ],
)
def test_binds_are_read_and_rendered(text: str, bind: object, canonical: str) -> None:
    assert parse_bind(text) == bind
    assert str(bind) == canonical


EXPECTED = "expected host:port, [v6]:port, unix:/path or fd:N, got "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("8000", EXPECTED + '"8000", did you mean 127.0.0.1:8000?'),
        ("/run/web.sock", EXPECTED + '"/run/web.sock", did you mean unix:/run/web.sock?'),
        ("localhost", EXPECTED + '"localhost"'),
        ("", EXPECTED + '""'),
        ("*:80", EXPECTED + '"*:80", write 0.0.0.0 for all addresses'),
        ("ex ample:80", EXPECTED + '"ex ample:80"'),
        ("a:65536", 'expected a port from 0 to 65535 after the last colon, got "a:65536"'),
        ("a:", 'expected a port from 0 to 65535 after the last colon, got "a:"'),
        ("a:-1", 'expected a port from 0 to 65535 after the last colon, got "a:-1"'),
        ("a:٣", 'expected a port from 0 to 65535 after the last colon, got "a:٣"'),
        ("::1:8000", 'an IPv6 address needs brackets, as in [::1]:8000, got "::1:8000"'),
        ("[nope]:80", 'expected an IPv6 address between the brackets, got "[nope]:80"'),
        ("[1:2]:80", 'expected an IPv6 address between the brackets, got "[1:2]:80"'),
        ("unix:", 'expected unix:/path of a socket, got "unix:"'),
        ("unix:/run/", 'expected unix:/path of a socket, got "unix:/run/"'),
        ("fd:x", 'expected fd:N with the number of a descriptor, got "fd:x"'),
        ("fd:-1", 'expected fd:N with the number of a descriptor, got "fd:-1"'),
    ],
)
def test_wrong_binds_say_what_is_right(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_bind(text)
    assert str(caught.value) == message


@given(st.integers(0, 65535), st.ip_addresses().map(str))
def test_a_rendered_bind_reads_back_as_the_same(port: int, address: str) -> None:
    bind = TcpBind(address, port)
    assert parse_bind(str(bind)) == bind


@given(st.text(max_size=20))
def test_any_text_is_a_bind_or_a_value_error(text: str) -> None:
    try:
        bind = parse_bind(text)
    except ValueError:
        return
    assert parse_bind(str(bind)) == bind


def test_abstract_unix_names_are_no_paths(tmp_path):
    file = tmp_path / "serve.toml"
    file.write_text('bind = ["unix:@name", "unix:real.sock"]\n')
    config = load_config(file, {}, {}, cwd=tmp_path).config
    assert config.bind == ("unix:@name", f"unix:{tmp_path}/real.sock")


@pytest.mark.parametrize("name", ["*.example.org", "EXAMPLE.org", "a.b.example.org"])
def test_certificate_names(name):
    assert SniCertificate(name=name, certificate="c.pem", key="k.pem").name == name.lower()


@pytest.mark.parametrize("name", ["*", "*example.org", "a.*.org", "*.*.org", ""])
def test_certificate_names_that_are_refused(name):
    with pytest.raises(ConfigError, match="name"):
        SniCertificate(name=name, certificate="c.pem", key="k.pem")
