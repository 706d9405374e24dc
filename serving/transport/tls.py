"""The server's certificate, as HTTP and gRPC take it, and when it expires. Read again when its files change.

Connections that exist keep what they began with; each new one begins with the newest. Knows no listener.
"""

import re
import ssl
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc

from serving.transport.watched import UnusableError, Watched, content

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_UTC_TIME, _GENERALIZED_TIME, _EXPLICIT_0 = 0x17, 0x18, 0xA0  # tags of DER


@dataclass(frozen=True)
class TlsFiles:
    """PEM files: the certificate with those between it and its root, its key, and the roots that clients' certificates
    have to come from (None: clients need no certificate)."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.certificate, self.key) if self.client_ca is None else (self.certificate, self.key, self.client_ca)


@dataclass(frozen=True)
class Certificate:
    """
    Attributes:
        context: for HTTP.
        grpc: for gRPC.
        expires: the first of the chain to do so, in seconds since the epoch.
    """

    context: ssl.SSLContext
    grpc: Any
    expires: float


class Tls:
    """What new connections begin with."""

    def __init__(self, files: TlsFiles) -> None:
        """Raises: UnusableError: a file cannot be read or is not what it should be, or the key is another one's."""
        self.files = files
        self.watched = Watched("TLS", files.paths, lambda: read(files), lambda now: f"; it {_expiry(now)}")

    @property
    def context(self) -> ssl.SSLContext:
        return self.watched.value.context

    @property
    def expired(self) -> bool:
        return self.watched.value.expires < time.time()

    def expires(self) -> float:
        return self.watched.value.expires

    def describe(self) -> str:
        return f"the certificate in '{self.files.certificate}' {_expiry(self.watched.value)}"

    def credentials(self) -> grpc.ServerCredentials:
        """For one gRPC listener. gRPC asks for each connection, in a thread of its own, whether there is another
        certificate."""
        given = self.watched.value

        def newer() -> Any:
            nonlocal given
            now = self.watched.value
            if now is given:
                return None
            given = now
            return now.grpc

        found: grpc.ServerCredentials = grpc.dynamic_ssl_server_credentials(
            given.grpc, newer, require_client_authentication=self.files.client_ca is not None
        )
        return found


def read(files: TlsFiles) -> Certificate:
    """Blocking. Raises: UnusableError."""
    chain, key = content(files.certificate), content(files.key)
    roots = None if files.client_ca is None else content(files.client_ca)
    found = _PEM.findall(chain)
    if not found:
        raise UnusableError(f"'{files.certificate}' holds no certificate in PEM form")
    expires = min(_expires(files.certificate, pem) for pem in found)
    context = _context(files)
    if (chain, key) != (content(files.certificate), content(files.key)):  # OpenSSL reads files, gRPC what is in them
        raise UnusableError(f"'{files.certificate}' or its key changed while they were read")
    return Certificate(context, grpc.ssl_server_certificate_configuration([(key, chain)], roots), expires)


def _context(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])

    def no_password() -> str:  # or OpenSSL would ask whoever sits at the terminal
        raise UnusableError(f"the key in '{files.key}' is encrypted; decrypt it first: openssl pkey -in KEY -out PLAIN")

    try:
        context.load_cert_chain(files.certificate, files.key, no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            why = f"the key in '{files.key}' does not belong to the certificate in '{files.certificate}'"
            raise UnusableError(why) from None
        why = f"'{files.certificate}' and '{files.key}' cannot be used as certificate and key in PEM form"
        raise UnusableError(f"{why}: {error.reason or error}") from None
    except OSError as error:
        raise UnusableError(f"cannot read '{files.certificate}' or '{files.key}': {error.strerror}") from None
    if files.client_ca is not None:
        try:
            context.load_verify_locations(files.client_ca)
        except (ssl.SSLError, OSError):
            raise UnusableError(f"'{files.client_ca}' holds no certificates in PEM form") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _expiry(certificate: Certificate) -> str:
    verb = "has expired at" if certificate.expires < time.time() else "expires at"
    return f"{verb} {datetime.fromtimestamp(certificate.expires, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _expires(path: Path, pem: bytes) -> float:
    """When a certificate ends to be valid. Python's own library tells that only of certificates that it trusts."""
    with suppress(ValueError, IndexError, StopIteration):
        _, certificate = next(_elements(ssl.PEM_cert_to_DER_cert(pem.decode("ascii"))))
        _, signed = next(_elements(certificate))
        fields = [value for tag, value in _elements(signed) if tag != _EXPLICIT_0]  # that is the version
        _, (tag, end) = _elements(fields[3])  # after serial number, algorithm, issuer
        text = end.decode("ascii")
        if tag == _UTC_TIME:
            text = ("20" if int(text[:2]) < 50 else "19") + text
        if tag in (_UTC_TIME, _GENERALIZED_TIME):
            return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
    raise UnusableError(f"'{path}' holds a certificate that cannot be read")


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and content of each element of a DER sequence. Raises: IndexError: it is cut off."""
    at = 0
    while at < len(data):
        tag, size, at = data[at], data[at + 1], at + 2
        if size & 0x80:
            digits = size & 0x7F
            size, at = int.from_bytes(data[at : at + digits], "big"), at + digits
        yield tag, data[at : at + size]
        at += size
