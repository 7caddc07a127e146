from __future__ import annotations

import datetime as dt
import ssl
import sys

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from trioserve.config import ConfigError, SniCertificate, TlsSettings
from trioserve.server.tls import ServerNames, TlsContext, build_tls_contexts, tls_extension

HTTP1 = ["http/1.1"]


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


class Files:
    def __init__(self, folder, cert):
        self.certificate = str(folder / "cert.pem")
        self.key = str(folder / "key.pem")
        self.combined = str(folder / "combined.pem")
        cert.cert_chain_pems[0].write_to_path(self.certificate)
        cert.private_key_pem.write_to_path(self.key)
        cert.private_key_and_cert_chain_pem.write_to_path(self.combined)


@pytest.fixture(scope="module")
def server(authority, tmp_path_factory):
    return Files(tmp_path_factory.mktemp("server"), authority.issue_cert("server.example"))


@pytest.fixture(scope="module")
def other(authority, tmp_path_factory):
    return Files(tmp_path_factory.mktemp("other"), authority.issue_cert("other.example"))


@pytest.fixture
def ca_file(authority, tmp_path):
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return str(tmp_path / "ca.pem")


def client_context(authority, *, cert=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    if cert is not None:
        cert.configure_cert(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


def shake_hands(server_context, context, name="server.example"):
    """Both ends in memory, until both are done; returns (server, client)."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    client = context.wrap_bio(to_client, to_server, server_hostname=name)
    waiting = [client, server]
    for _ in range(10):
        for end in list(waiting):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(end)
        if not waiting:
            return server, client
    raise AssertionError("the handshake did not end")


def test_a_client_gets_the_certificate_and_the_protocol(server, authority):
    context = build_tls_contexts(TlsSettings(certificate=server.certificate, key=server.key), HTTP1)
    connection, client = shake_hands(context, client_context(authority))
    assert client.version() == "TLSv1.3"
    assert connection.selected_alpn_protocol() == "http/1.1"
    assert ("DNS", "server.example") in client.getpeercert()["subjectAltName"]


def test_one_file_may_hold_certificate_and_key(server, authority):
    context = build_tls_contexts(TlsSettings(certificate=server.combined), HTTP1)
    shake_hands(context, client_context(authority))


def test_hardened_defaults_stay(server):
    plain = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context = build_tls_contexts(TlsSettings(certificate=server.combined), HTTP1)
    assert context.options & plain.options == plain.options
    for option in (ssl.OP_NO_COMPRESSION, ssl.OP_NO_RENEGOTIATION, ssl.OP_CIPHER_SERVER_PREFERENCE):
        assert context.options & option
    assert not context.options & ssl.OP_NO_TICKET
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.verify_mode == ssl.CERT_NONE


def test_minimum_version(server, authority):
    old = client_context(authority)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    both = build_tls_contexts(TlsSettings(certificate=server.combined), HTTP1)
    assert shake_hands(both, old)[0].version() == "TLSv1.2"
    new = build_tls_contexts(TlsSettings(certificate=server.combined, minimum_version="1.3"), HTTP1)
    with pytest.raises(ssl.SSLError):
        shake_hands(new, old)


def test_ciphers(server, authority):
    settings = TlsSettings(certificate=server.combined, ciphers="ECDHE-ECDSA-AES256-GCM-SHA384")
    old = client_context(authority)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    connection, _ = shake_hands(build_tls_contexts(settings, HTTP1), old)
    assert connection.cipher()[0] == "ECDHE-ECDSA-AES256-GCM-SHA384"
    assert tls_extension(connection)["cipher_suite"] == 0xC02C


@pytest.mark.parametrize(
    ("mode", "has_certificate", "accepted"),
    [("none", False, True), ("optional", False, True), ("optional", True, True), ("required", True, True)],
)
def test_client_certificates(server, authority, ca_file, mode, has_certificate, accepted):
    ca = None if mode == "none" else ca_file
    context = build_tls_contexts(
        TlsSettings(certificate=server.combined, client_certificates=mode, ca=ca), HTTP1
    )
    cert = authority.issue_cert("client.example", common_name="client") if has_certificate else None
    connection, _ = shake_hands(context, client_context(authority, cert=cert))
    assert bool(connection.getpeercert()) is has_certificate


@pytest.mark.parametrize("issuer", [None, "stranger"])
def test_a_required_client_certificate_must_be_there_and_verify(server, authority, ca_file, issuer):
    settings = TlsSettings(certificate=server.combined, client_certificates="required", ca=ca_file)
    cert = trustme.CA().issue_cert("client.example") if issuer else None
    with pytest.raises(ssl.SSLError):
        shake_hands(build_tls_contexts(settings, HTTP1), client_context(authority, cert=cert))


@pytest.mark.parametrize(
    ("name", "served"),
    [
        ("other.example", "other.example"),
        ("OTHER.example", "other.example"),
        ("server.example", "server.example"),
    ],
)
def test_certificates_by_server_name(server, other, authority, name, served):
    entry = SniCertificate(name="other.example", certificate=other.certificate, key=other.key)
    context = build_tls_contexts(TlsSettings(certificate=server.combined, sni=(entry,)), HTTP1)
    connection, client = shake_hands(context, client_context(authority), name)
    assert ("DNS", served) in client.getpeercert()["subjectAltName"]
    assert connection.selected_alpn_protocol() == "http/1.1"
    der = client.getpeercert(binary_form=True)
    assert ssl.PEM_cert_to_DER_cert(tls_extension(connection)["server_cert"]) == der


def test_names_without_certificate_get_the_default(server, other, authority):
    entry = SniCertificate(name="other.example", certificate=other.certificate, key=other.key)
    context = build_tls_contexts(TlsSettings(certificate=server.combined, sni=(entry,)), HTTP1)
    client = client_context(authority)
    client.check_hostname = False
    for name in ["sub.other.example", None]:
        connection, _ = shake_hands(context, client, name)
        assert connection.context is context


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        (None, "default"),
        ("example.org", "default"),
        ("www.example.org", "exact"),
        ("WWW.Example.ORG", "exact"),
        ("api.example.org", "wildcard"),
        ("a.api.example.org", "default"),
        ("example.com", "default"),
        ("", "default"),
    ],
)
def test_exact_names_go_before_wildcards(name, chosen):
    contexts = {"default": None, "exact": TlsContext(), "wildcard": TlsContext()}
    names = ServerNames([("*.Example.org", contexts["wildcard"]), ("www.example.org", contexts["exact"])])
    assert names.choose(name) is contexts[chosen]


def encrypt(path, key_file, password):
    with open(key_file, "rb") as stream:
        key = load_pem_private_key(stream.read(), None)
    encryption = BestAvailableEncryption(password)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    return str(path)


def test_key_password(server, authority, tmp_path):
    key = encrypt(tmp_path / "encrypted.pem", server.key, b"secret")
    good = TlsSettings(certificate=server.certificate, key=key, key_password="secret")
    shake_hands(build_tls_contexts(good, HTTP1), client_context(authority))
    wrong = TlsSettings(certificate=server.certificate, key=key, key_password="wrong")
    with pytest.raises(ConfigError, match=r"\[tls\] key_password: wrong for .*encrypted\.pem") as caught:
        build_tls_contexts(wrong, HTTP1)
    assert "wrong" not in caught.value.reason.replace("wrong for", "")
    missing = TlsSettings(certificate=server.certificate, key=key)
    with pytest.raises(
        ConfigError, match=r"\[tls\] key_password: missing, and .*encrypted\.pem is encrypted"
    ):
        build_tls_contexts(missing, HTTP1)


BROKEN = "-----BEGIN {0}-----\nbm90aGluZw==\n-----END {0}-----\n"


def test_a_key_that_does_not_match(server, other):
    settings = TlsSettings(certificate=server.certificate, key=other.key)
    with pytest.raises(ConfigError, match=rf"^\[tls\] key: {other.key} does not match {server.certificate}$"):
        build_tls_contexts(settings, HTTP1)


def test_broken_files_are_named(server, tmp_path):
    broken = tmp_path / "broken.pem"
    broken.write_text(BROKEN.format("CERTIFICATE"))
    with pytest.raises(ConfigError, match=r"^\[tls\] certificate: .*broken\.pem holds no usable certificate"):
        build_tls_contexts(TlsSettings(certificate=str(broken), key=server.key), HTTP1)
    settings = TlsSettings(certificate=server.combined, client_certificates="required", ca=str(broken))
    with pytest.raises(ConfigError, match=r"^\[tls\] ca: .*broken\.pem holds no usable certificate"):
        build_tls_contexts(settings, HTTP1)
    key = tmp_path / "broken-key.pem"
    key.write_text(BROKEN.format("PRIVATE KEY"))
    with pytest.raises(ConfigError, match=r"^\[tls\] key: .*broken-key\.pem cannot be used"):
        build_tls_contexts(TlsSettings(certificate=server.certificate, key=str(key)), HTTP1)


def test_files_that_vanish_after_the_configuration_was_read_are_named(server, other, tmp_path):
    copy = tmp_path / "gone.pem"
    for settings_for in (
        lambda: TlsSettings(certificate=str(copy), key=server.key),
        lambda: TlsSettings(certificate=server.certificate, key=str(copy)),
        lambda: TlsSettings(certificate=server.combined, client_certificates="optional", ca=str(copy)),
        lambda: TlsSettings(
            certificate=server.combined, sni=(SniCertificate(name="a.example", certificate=str(copy)),)
        ),
    ):
        with open(server.combined) as stream:
            copy.write_text(stream.read())
        settings = settings_for()
        copy.unlink()
        with pytest.raises(ConfigError, match=r"cannot read .*gone\.pem: No such file"):
            build_tls_contexts(settings, HTTP1)


def test_errors_of_named_certificates_say_the_name(server, other):
    entry = SniCertificate(name="other.example", certificate=other.certificate, key=server.key)
    with pytest.raises(ConfigError, match=r"^\[\[tls\.sni\]\] other\.example key: .* does not match"):
        build_tls_contexts(TlsSettings(certificate=server.combined, sni=(entry,)), HTTP1)


def test_unknown_ciphers(server):
    with pytest.raises(ConfigError, match=r"^\[tls\] ciphers: .*'NOPE'"):
        build_tls_contexts(TlsSettings(certificate=server.combined, ciphers="NOPE"), HTTP1)


def test_without_certificate_there_is_no_context():
    with pytest.raises(ConfigError, match=r"^\[tls\] certificate: missing"):
        build_tls_contexts(TlsSettings(), HTTP1)


def test_tls_extension_without_client_certificate(server, authority):
    connection, client = shake_hands(
        build_tls_contexts(TlsSettings(certificate=server.combined), HTTP1), client_context(authority)
    )
    extension = tls_extension(connection)
    der = client.getpeercert(binary_form=True)
    assert ssl.PEM_cert_to_DER_cert(extension.pop("server_cert")) == der
    suites = {
        "TLS_AES_128_GCM_SHA256": 0x1301,
        "TLS_AES_256_GCM_SHA384": 0x1302,
        "TLS_CHACHA20_POLY1305_SHA256": 0x1303,
    }
    assert extension == {
        "client_cert_chain": [],
        "client_cert_name": None,
        "client_cert_error": None,
        "tls_version": 0x0304,
        "cipher_suite": suites[client.cipher()[0]],
    }


def issue_odd_client(tmp_path):
    """A self-signed certificate whose name needs every kind of escape."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "DE"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, 'Example, "Sons" <and> Co; \\ + '),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "#1"),
            x509.NameAttribute(NameOID.COMMON_NAME, " J\u00fcrgen"),
            x509.NameAttribute(NameOID.EMAIL_ADDRESS, "j@example.org"),
        ]
    )
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    file = tmp_path / "odd.pem"
    file.write_bytes(
        certificate.public_bytes(Encoding.PEM)
        + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    return str(file)


def test_tls_extension_names_the_client_as_rfc_4514_writes_it(server, authority, tmp_path):
    odd = issue_odd_client(tmp_path)
    settings = TlsSettings(certificate=server.combined, client_certificates="required", ca=odd)
    client = client_context(authority)
    client.load_cert_chain(odd)
    connection, _ = shake_hands(build_tls_contexts(settings, HTTP1), client)
    assert tls_extension(connection)["client_cert_name"] == (
        "emailAddress=j@example.org,CN=\\ J\u00fcrgen,OU=\\#1,"
        'O=Example\\, \\"Sons\\" \\<and\\> Co\\; \\\\ \\+\\ ,C=DE'
    )


def test_tls_extension_has_the_clients_chain(server, authority, ca_file):
    child = authority.create_child_ca()
    cert = child.issue_cert("client.example", common_name="client")
    settings = TlsSettings(certificate=server.combined, client_certificates="required", ca=ca_file)
    connection, _ = shake_hands(build_tls_contexts(settings, HTTP1), client_context(authority, cert=cert))
    chain = tls_extension(connection)["client_cert_chain"]
    sent = [pem.bytes().decode().strip() for pem in cert.cert_chain_pems]
    assert len(sent) == 2
    expected = sent if sys.version_info >= (3, 13) else sent[:1]
    assert [pem.strip() for pem in chain[: len(expected)]] == expected
