"""Certificates for tests: an authority, and what it has signed."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NOW = datetime.now(UTC).replace(microsecond=0)
TOMORROW = NOW + timedelta(days=1)
YESTERDAY = NOW - timedelta(days=1)

_PLAIN = serialization.NoEncryption()


@dataclass(frozen=True)
class Issued:
    """PEM files: a certificate, its key, and both in one."""

    certificate: Path
    key: Path
    both: Path


def key_bytes(key: ec.EllipticCurvePrivateKey, encryption: serialization.KeySerializationEncryption = _PLAIN) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


class Authority:
    """
    Attributes:
        certificate: its own, as a PEM file.
    """

    def __init__(self, directory: Path, name: str = "authority") -> None:
        self._directory = directory
        self._name = _named(name)
        self._key = new_key()
        self._identifier = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        usage = x509.KeyUsage(
            digital_signature=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        made = (
            _builder(self._name, self._name, self._key, YESTERDAY, NOW + timedelta(days=365))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(self._identifier, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.certificate = directory / f"{name}.pem"
        self.certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))

    def issue(
        self,
        name: str = "server",
        *,
        begins: datetime = NOW - timedelta(days=30),
        ends: datetime = TOMORROW,
        hosts: Sequence[str] = ("localhost", "127.0.0.1"),
    ) -> Issued:
        """Files below a directory of that name; what was there is replaced."""
        key = new_key()
        names = [x509.IPAddress(ipaddress.ip_address(h)) if h[0].isdigit() else x509.DNSName(h) for h in hosts]
        signer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(self._identifier)
        made = (
            _builder(_named(name), self._name, key, begins, ends)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(signer, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        place = self._directory / name
        place.mkdir(exist_ok=True)
        issued = Issued(place / "certificate.pem", place / "key.pem", place / "both.pem")
        certificate = made.public_bytes(serialization.Encoding.PEM)
        issued.certificate.write_bytes(certificate)
        issued.key.write_bytes(key_bytes(key))
        issued.both.write_bytes(certificate + key_bytes(key))
        return issued


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, begins: datetime, ends: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
    )
