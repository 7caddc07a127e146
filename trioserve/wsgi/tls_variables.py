"""What a TLS connection is, in the variables that Apache's mod_ssl has given their names."""

from __future__ import annotations

import functools
import ssl
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_VERSIONS = {0x0301: "TLSv1", 0x0302: "TLSv1.1", 0x0303: "TLSv1.2", 0x0304: "TLSv1.3"}


def render_tls(tls: Mapping[str, Any]) -> dict[str, str]:
    """Return the variables for an ASGI `tls` extension (version 0.2); what it does not tell is left out."""
    chain = tuple(tls.get("client_cert_chain") or ())
    variables = {"HTTPS": "on", "SSL_CLIENT_VERIFY": "SUCCESS" if chain else "NONE"}
    version = _VERSIONS.get(tls.get("tls_version") or 0)
    if version is not None:
        variables["SSL_PROTOCOL"] = version
    cipher = _cipher_names().get(tls.get("cipher_suite") or 0)
    if cipher is not None:
        variables["SSL_CIPHER"] = cipher
    if chain:
        variables["SSL_CLIENT_CERT"] = chain[0]
        name = tls.get("client_cert_name")
        if name:
            variables["SSL_CLIENT_S_DN"] = name.encode().decode("latin-1")
    certificate = tls.get("server_cert")
    if certificate:
        variables["SSL_SERVER_CERT"] = certificate
    return variables


@functools.cache
def _cipher_names() -> dict[int, str]:
    """OpenSSL's names of the cipher suites, by their numbers (RFC 8446 appendix B.4)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("ALL")
    return {each["id"] & 0xFFFF: each["name"] for each in context.get_ciphers()}
