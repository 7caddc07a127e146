from __future__ import annotations

from typing import Any

import pytest
import trustme

from trioserve.config import Config, ConfigError, SniCertificate, TlsSettings


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    directory = tmp_path_factory.mktemp("pem")
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    issued.private_key_and_cert_chain_pem.write_to_path(directory / "both.pem")
    issued.private_key_pem.write_to_path(directory / "key.pem")
    issued.cert_chain_pems[0].write_to_path(directory / "cert.pem")
    authority.cert_pem.write_to_path(directory / "ca.pem")
    (directory / "empty.pem").touch()
    return {name: str(directory / f"{name}.pem") for name in ("both", "key", "cert", "ca", "empty", "absent")}


def build(pem: dict[str, str], values: dict[str, Any]) -> TlsSettings:
    files = {"certificate", "key", "ca"}
    return TlsSettings(
        **{key: pem.get(value, value) if key in files else value for key, value in values.items()}
    )


@pytest.mark.parametrize(
    "values",
    [
        {"certificate": "cert", "key": "key"},
        {"certificate": "both"},
        {"certificate": "both", "ca": "ca", "client_certificates": "required"},
    ],
    ids=str,
)
def test_certificates_with_keys_turn_tls_on(pem: dict[str, str], values: dict[str, Any]) -> None:
    assert build(pem, values).enabled


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"certificate": "cert"}, "[tls] key: missing, and {cert} holds no private key"),
        ({"certificate": "key"}, "[tls] certificate: {key} holds no certificate in PEM form"),
        ({"certificate": "empty"}, "[tls] certificate: {empty} holds no certificate in PEM form"),
        ({"certificate": "absent"}, "[tls] certificate: cannot read {absent}: No such file or directory"),
        ({"certificate": "/"}, "[tls] certificate: cannot read /: Is a directory"),
        (
            {"certificate": "cert", "key": "absent"},
            "[tls] key: cannot read {absent}: No such file or directory",
        ),
        ({"certificate": "cert", "key": "cert"}, "[tls] key: {cert} holds no private key in PEM form"),
        ({"key": "key"}, "[tls] key: has no effect without [tls] certificate"),
        ({"key_password": "x"}, "[tls] key_password: has no effect without [tls] certificate"),
        ({"ca": "ca"}, "[tls] ca: has no effect without [tls] certificate"),
        ({"ciphers": "HIGH"}, "[tls] ciphers: has no effect without [tls] certificate"),
        (
            {"client_certificates": "required"},
            "[tls] client_certificates: has no effect without [tls] certificate",
        ),
        (
            {"certificate": "both", "client_certificates": "optional"},
            '[tls] ca: missing, client_certificates = "optional" needs it',
        ),
        ({"certificate": "both", "ca": "ca"}, '[tls] ca: has no effect while client_certificates is "none"'),
        (
            {"certificate": "both", "ca": "key", "client_certificates": "required"},
            "[tls] ca: {key} holds no certificate in PEM form",
        ),
        ({"minimum_version": 1.2}, "[tls] minimum_version: expected one of 1.2, 1.3, got 1.2"),
    ],
    ids=str,
)
def test_impossible_tls_is_refused(pem: dict[str, str], values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(pem, values)
    assert str(caught.value) == message.format(**pem)


def test_sni_entries_are_tables_texts_or_structs(pem: dict[str, str]) -> None:
    table = {"name": "A.example", "certificate": pem["cert"], "key": pem["key"]}
    struct = SniCertificate(name="c.example", certificate=pem["both"])
    tls = TlsSettings(certificate=pem["both"], sni=[table, f"b.example={pem['both']}", struct])  # type: ignore[arg-type]
    assert tls.sni == (
        SniCertificate(name="a.example", certificate=pem["cert"], key=pem["key"]),
        SniCertificate(name="b.example", certificate=pem["both"]),
        struct,
    )


SNI_EXPECTED = 'expected a table with name, certificate and key, or "name=certificate:key", got '


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (3, SNI_EXPECTED + "3"),
        ({"name": "a"}, SNI_EXPECTED + "{{'name': 'a'}}"),
        (
            {"name": "a", "certificate": "x", "kye": "y"},
            "unknown key kye, an entry has name, certificate and key",
        ),
        ({"name": "", "certificate": "x"}, 'name: expected a host name, got ""'),
        ("a=", 'certificate: expected a path, got ""'),
        ("a=/absent", "a: certificate: cannot read /absent: No such file or directory"),
        (lambda pem: f"a={pem['cert']}", "a: key: missing, and {cert} holds no private key"),
    ],
    ids=str,
)
def test_wrong_sni_entries_are_refused(pem: dict[str, str], entry: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TlsSettings(certificate=pem["both"], sni=(entry(pem) if callable(entry) else entry,))
    assert str(caught.value) == "[tls] sni: " + message.format(**pem)


def test_a_name_has_one_certificate(pem: dict[str, str]) -> None:
    entry = SniCertificate(name="a.example", certificate=pem["both"])
    with pytest.raises(ConfigError, match=r"\[tls\] sni: a.example is given twice"):
        TlsSettings(certificate=pem["both"], sni=(entry, entry))


def test_plain_binds_stand_beside_tls_ones(pem: dict[str, str]) -> None:
    tls = TlsSettings(certificate=pem["both"])
    assert Config(insecure_bind="127.0.0.1:80", tls=tls).insecure_bind == ("127.0.0.1:80",)
    with pytest.raises(ConfigError, match=r"insecure_bind: 127\.0\.0\.1:8000 is given twice"):
        Config(insecure_bind="127.0.0.1:8000", tls=tls)
