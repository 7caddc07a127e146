"""The [tls] group, and what can be said about its files without a TLS library.

TLS is on exactly when `certificate` is set. A certificate whose key cannot be found is an error and never
plain HTTP. Whether the key fits the certificate, and the cipher string, are checked where the TLS context
is built.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec.structs import replace

from .errors import ConfigError, InvalidValue, render_text
from .fields import Settings, choice, duration, items, path, switch, text
from .kinds import FilePath, Kind
from .rules import check_certificate_name

_CERTIFICATE_BLOCK = b"-----BEGIN CERTIFICATE-----"
_PRIVATE_KEY_BLOCK = b"PRIVATE KEY-----"
_NEEDS_CERTIFICATE = ("key", "key_password", "ca", "ciphers", "sni")


class SniCertificate(Settings, frozen=True, kw_only=True):
    """A certificate for one more host name."""

    TABLE = "tls.sni"

    name: Annotated[
        str, text("The host name; *.example.org stands for one label.", "a host name", check_certificate_name)
    ]
    certificate: Annotated[str, path("PEM file with the certificate chain.", optional=False)]
    key: Annotated[str | None, path("PEM file with the private key; default: the certificate file.")] = None


class SniEntry(Kind):
    """A table with name, certificate and key, or the text "name=certificate:key"."""

    expected = 'a table with name, certificate and key, or "name=certificate:key"'
    metavar = "NAME=CERTIFICATE:KEY"

    def parse(self, value: Any) -> SniCertificate:
        """An entry; its files are not looked at before its paths are resolved."""
        if isinstance(value, SniCertificate):
            return value
        if isinstance(value, str):
            name, _, files = value.partition("=")
            certificate, _, key = files.partition(":")
            value = {"name": name, "certificate": certificate, "key": key}
        if not isinstance(value, dict) or not {"name", "certificate"} <= value.keys():
            raise self.refuse(value)
        unknown = value.keys() - {"name", "certificate", "key"}
        if unknown:
            raise InvalidValue(f"unknown key {min(unknown)}, an entry has name, certificate and key")
        try:
            return SniCertificate(**value)
        except ConfigError as error:
            raise InvalidValue(f"{error.key.removeprefix('[tls.sni] ')}: {error.reason}") from None

    def resolve(self, value: Any, base: str) -> Any:
        """Absolute paths for both files."""
        absolute = FilePath().resolve
        return replace(value, certificate=absolute(value.certificate, base), key=absolute(value.key, base))

    def render(self, value: Any) -> str:
        """An inline table."""
        keys = ("name", "certificate", "key")
        pairs = [f"{key} = {render_text(getattr(value, key))}" for key in keys if getattr(value, key)]
        return "{ " + ", ".join(pairs) + " }"


class TlsSettings(Settings, frozen=True, kw_only=True):
    """Certificates, and what clients must present."""

    TABLE = "tls"

    certificate: Annotated[
        str | None, path("PEM file with the certificate chain, the server's own first; it turns TLS on.")
    ] = None
    key: Annotated[
        str | None, path("PEM file with the private key; not needed when the certificate file holds it too.")
    ] = None
    key_password: Annotated[str | None, text("Password of the private key.", optional=True, secret=True)] = (
        None
    )
    ca: Annotated[str | None, path("PEM file with the authorities that sign client certificates.")] = None
    client_certificates: Annotated[
        Literal["none", "optional", "required"],
        choice("Whether clients are asked for a certificate, or must have one."),
    ] = "none"
    ciphers: Annotated[
        str | None,
        text("Ciphers for TLS 1.2 in OpenSSL's notation; default: Python's choice.", optional=True),
    ] = None
    minimum_version: Annotated[Literal["1.2", "1.3"], choice("Oldest TLS version that is spoken.")] = "1.2"
    handshake_timeout: Annotated[
        float, duration("Close a connection whose handshake takes longer; 0 = no limit.")
    ] = 10.0
    reload: Annotated[
        bool, switch("Use certificates that have changed on disk for new connections, without a restart.")
    ] = True
    sni: Annotated[
        tuple[SniCertificate, ...],
        items('More certificates, chosen by host name: [[tls.sni]] or "name=certificate:key".', SniEntry()),
    ] = ()

    @property
    def enabled(self) -> bool:
        """Whether TLS is spoken at all."""
        return self.certificate is not None

    def check_combinations(self) -> None:
        """No setting without a certificate, no certificate without a key, no check without authorities."""
        if self.certificate is None:
            self._check_disabled()
            return
        problem = find_pem_problem(self.certificate, self.key)
        if problem is not None:
            raise self.refuse(*problem)
        self._check_authorities()
        self._check_sni()

    def _check_disabled(self) -> None:
        for key in _NEEDS_CERTIFICATE:
            if getattr(self, key):
                raise self.refuse(key, "has no effect without [tls] certificate")
        if self.client_certificates != "none":
            raise self.refuse("client_certificates", "has no effect without [tls] certificate")

    def _check_authorities(self) -> None:
        if self.ca is None:
            if self.client_certificates != "none":
                raise self.refuse(
                    "ca", f'missing, client_certificates = "{self.client_certificates}" needs it'
                )
            return
        if self.client_certificates == "none":
            raise self.refuse("ca", 'has no effect while client_certificates is "none"')
        try:
            _read_pem(self.ca, _CERTIFICATE_BLOCK)
        except InvalidValue as error:
            raise self.refuse("ca", str(error)) from None

    def _check_sni(self) -> None:
        names = set()
        for entry in self.sni:
            if entry.name in names:
                raise self.refuse("sni", f"{entry.name} is given twice")
            names.add(entry.name)
            problem = find_pem_problem(entry.certificate, entry.key)
            if problem is not None:
                raise self.refuse("sni", f"{entry.name}: {problem[0]}: {problem[1]}")


def find_pem_problem(certificate: str, key: str | None) -> tuple[str, str] | None:
    """Whether PEM files hold a certificate and a private key.

    Args:
        certificate: path of the file with the chain.
        key: path of the file with the key; None when the first file holds both.

    Returns:
        None if they do, else which of "certificate" and "key" is at fault, and why.
    """
    wanted = "certificate"
    try:
        content = _read_pem(certificate, _CERTIFICATE_BLOCK)
        wanted = "key"
        if key is not None:
            _read_pem(key, _PRIVATE_KEY_BLOCK)
        elif _PRIVATE_KEY_BLOCK not in content:
            raise InvalidValue(f"missing, and {certificate} holds no private key")
    except InvalidValue as error:
        return wanted, str(error)
    return None


def _read_pem(file: str, block: bytes) -> bytes:
    try:
        content = Path(file).read_bytes()
    except OSError as error:
        raise InvalidValue(f"cannot read {file}: {error.strerror}") from None
    if block not in content:
        wanted = "certificate" if block is _CERTIFICATE_BLOCK else "private key"
        raise InvalidValue(f"{file} holds no {wanted} in PEM form")
    return content
