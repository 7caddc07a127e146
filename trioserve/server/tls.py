"""TLS contexts from settings, the choice among them by server name, and the ASGI `tls` extension.

Handshakes and bytes belong to the transports. A context is complete when it is built: certificates that
cannot be used are a `ConfigError` at start or reload and never show up at a handshake. The default context is
what listeners hold; it hands each connection over to the context of the name that the client asks for.
"""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from trioserve.config import ConfigError, TlsSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_VERSION_NUMBERS: Final = {"TLSv1.2": 0x0303, "TLSv1.3": 0x0304}
_VERIFY_MODES: Final = {
    "none": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
}
_PEM_START: Final = "-----BEGIN CERTIFICATE-----"
_PEM_END: Final = "-----END CERTIFICATE-----"

# RFC 4514 section 3; types that have no short name there keep the one of OpenSSL, such as emailAddress.
_SHORT_NAMES: Final = {
    "commonName": "CN",
    "localityName": "L",
    "stateOrProvinceName": "ST",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "streetAddress": "STREET",
    "domainComponent": "DC",
    "userId": "UID",
}


class FileStamp(NamedTuple):
    """What changes when a file is written, replaced, or made readable, or when a link on the way to it is switched."""

    device: int
    inode: int
    size: int
    modified: int  # nanoseconds
    changed: int  # nanoseconds; also after a change of mode or owner, and never set back


FileStamps: TypeAlias = "tuple[FileStamp | None, ...]"


class TlsContext(ssl.SSLContext):
    """A server's context that remembers what an established connection can no longer be asked for."""

    certificate_pem: str  # the server's own certificate, without its chain
    cipher_numbers: dict[str, int]  # OpenSSL's name -> IANA number
    files: FileStamps = ()  # of all files of the settings, from before they were read; the default context has it

    def __new__(cls) -> TlsContext:
        """A context that speaks for a server; everything else is set by `build_tls_contexts`."""
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)


class ServerNames:
    """The contexts by server name: exact names first, then `*.example.org`, which stands for one label.

    It does not know the context for all other names, which holds it: a context that is no longer used is gone at once.

    Args:
        named: pairs of a name, or a pattern that starts with "*.", and its context.
    """

    def __init__(self, named: Sequence[tuple[str, ssl.SSLContext]]) -> None:
        self._exact = {name.lower(): context for name, context in named if not name.startswith("*.")}
        self._wildcards = {name[2:].lower(): context for name, context in named if name.startswith("*.")}

    def choose(self, name: str | None) -> ssl.SSLContext | None:
        """Return the context for the name that a client sent (RFC 6066 section 3), if it did and there is one."""
        if name is None:
            return None
        name = name.lower()
        return self._exact.get(name) or self._wildcards.get(name.partition(".")[2])

    def select(self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> None:
        """Move a connection to the context of the name; this is what `SSLContext.sni_callback` takes."""
        context = self.choose(name)
        if context is not None:
            connection.context = context


def build_tls_contexts(tls: TlsSettings, alpn: Sequence[str]) -> TlsContext:
    """Build the context for listeners, with the other certificates behind it.

    Args:
        tls: a group in which TLS is on. Relative paths are relative to the working directory.
        alpn: protocols to offer, the preferred first (RFC 7301).

    Raises:
        ConfigError: a file, password, cipher list or key that cannot be used, in one line that names it.
    """
    if tls.certificate is None:
        raise tls.refuse("certificate", "missing")
    files = stamp_files(tls)
    default = _build_one(tls, alpn, tls.certificate, tls.key, "[tls]")
    named = [
        (entry.name, _build_one(tls, alpn, entry.certificate, entry.key, f"[[tls.sni]] {entry.name}"))
        for entry in tls.sni
    ]
    if named:
        default.sni_callback = ServerNames(named).select
    default.files = files
    return default


def stamp_files(tls: TlsSettings) -> FileStamps:
    """Look at all files of the settings, in an order that is always the same; None for one that cannot be looked at."""
    paths = [tls.certificate, tls.key, tls.ca]
    for entry in tls.sni:
        paths += entry.certificate, entry.key
    return tuple([_stamp(path) for path in paths if path is not None])


def _stamp(path: str) -> FileStamp | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return FileStamp(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _build_one(
    tls: TlsSettings, alpn: Sequence[str], certificate: str, key: str | None, where: str
) -> TlsContext:
    context = TlsContext()
    context.minimum_version = _VERSIONS[tls.minimum_version]
    # |=, since the options that are already there are Python's hardened defaults.
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(list(alpn))
    _load_ciphers(context, tls)
    _load_certificate(context, tls, certificate, key, where)
    if tls.ca is not None:
        _load_authorities(context, tls, tls.ca)
    context.verify_mode = _VERIFY_MODES[tls.client_certificates]
    context.cipher_numbers = {cipher["name"]: cipher["id"] & 0xFFFF for cipher in context.get_ciphers()}
    return context


def _load_ciphers(context: TlsContext, tls: TlsSettings) -> None:
    if tls.ciphers is None:
        return
    try:
        context.set_ciphers(tls.ciphers)
    except ssl.SSLError:
        raise tls.refuse("ciphers", f"OpenSSL knows no cipher of {tls.ciphers!r}") from None


def _load_certificate(
    context: TlsContext, tls: TlsSettings, certificate: str, key: str | None, where: str
) -> None:
    context.certificate_pem = _read_first_certificate(certificate, f"{where} certificate")
    if key is not None:
        _read_pem(key, f"{where} key")
    asked = False

    def give_password() -> str:
        # Without this, OpenSSL would ask on the terminal.
        nonlocal asked
        asked = True
        return tls.key_password or ""

    try:
        context.load_cert_chain(certificate, key, give_password)
    except (OSError, ValueError) as error:  # OSError: a file that was there a moment ago, too
        file = key or certificate
        if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"{where} key", None, f"{file} does not match {certificate}") from None
        if asked:
            reason = f"wrong for {file}" if tls.key_password else f"missing, and {file} is encrypted"
            raise ConfigError("[tls] key_password", None, reason) from None
        raise _explain_pem(certificate, file, where, error) from None


def _explain_pem(certificate: str, key: str, where: str, error: Exception) -> ConfigError:
    """OpenSSL says "PEM lib" for everything; find out which of the files is at fault."""
    probe = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        probe.load_verify_locations(certificate)
    except OSError:
        return _refuse_certificate(certificate, f"{where} certificate")
    if "PRIVATE KEY-----" not in _read_pem(key, f"{where} key"):
        return ConfigError(f"{where} key", None, f"{key} holds no private key in PEM form")
    detail = error.reason if isinstance(error, ssl.SSLError) and error.reason else "not usable"
    return ConfigError(f"{where} key", None, f"{key} cannot be used with {certificate} ({detail})")


def _load_authorities(context: TlsContext, tls: TlsSettings, ca: str) -> None:
    _read_pem(ca, "[tls] ca")
    try:
        context.load_verify_locations(ca)
    except OSError:
        raise tls.refuse("ca", f"{ca} holds no usable certificate in PEM form") from None


def _read_pem(file: str, key: str) -> str:
    """Read a file that OpenSSL is about to read too: its own error for a missing one does not name it."""
    try:
        with open(file, encoding="latin-1") as stream:
            return stream.read()
    except OSError as error:
        raise ConfigError(key, None, f"cannot read {file}: {error.strerror}") from None


def _read_first_certificate(file: str, key: str) -> str:
    _, begin, rest = _read_pem(file, key).partition(_PEM_START)
    content, end, _ = rest.partition(_PEM_END)
    if not end:
        raise _refuse_certificate(file, key)
    return f"{begin}{content}{end}\n"


def _refuse_certificate(file: str, key: str) -> ConfigError:
    return ConfigError(key, None, f"{file} holds no usable certificate in PEM form")


def tls_extension(connection: ssl.SSLObject | ssl.SSLSocket) -> dict[str, Any]:
    """Build the ASGI `tls` extension (version 0.2) of a connection after its handshake; once for each.

    A client's certificate that does not verify ends the handshake, so `client_cert_error` is always None.
    Before Python 3.13 the chain is the client's own certificate alone.
    """
    context = connection.context
    known = context if isinstance(context, TlsContext) else None
    cipher = connection.cipher()
    certificate = connection.getpeercert()
    return {
        "server_cert": known.certificate_pem if known else None,
        "client_cert_chain": _read_chain(connection) if certificate else [],
        "client_cert_name": _render_name(certificate["subject"]) if certificate else None,  # type: ignore[arg-type]
        "client_cert_error": None,
        "tls_version": _VERSION_NUMBERS.get(connection.version() or ""),
        "cipher_suite": known.cipher_numbers.get(cipher[0]) if known and cipher else None,
    }


def _read_chain(connection: ssl.SSLObject | ssl.SSLSocket) -> list[str]:
    read = getattr(connection, "get_unverified_chain", None)  # what the client sent; new in Python 3.13
    chain = read() if read is not None else [connection.getpeercert(binary_form=True) or b""]
    return [ssl.DER_cert_to_PEM_cert(der) for der in chain]


def _render_name(subject: Sequence[Sequence[tuple[str, str]]]) -> str:
    """A distinguished name as RFC 4514 writes it: the most specific part first."""
    parts = [
        "+".join(f"{_SHORT_NAMES.get(kind, kind)}={_escape(value)}" for kind, value in part)
        for part in reversed(subject)
    ]
    return ",".join(parts)


def _escape(value: str) -> str:
    """RFC 4514 section 2.4."""
    escaped = "".join(f"\\{char}" if char in '\\"+,;<>' else char for char in value).replace("\0", "\\00")
    if escaped.startswith((" ", "#")):
        escaped = "\\" + escaped
    if escaped.endswith(" ") and len(value) > 1:
        escaped = escaped[:-1] + "\\ "
    return escaped
