"""Certificates and keys for the attacks that need them: right ones for the honest client, wrong ones for the attacker.

Certificates are made with the `openssl` command.
"""

import hashlib
import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

GOOD, OTHER, EXPIRED = "a key that is good", "a key for something else", "a key that was good"


@dataclass(frozen=True)
class Credentials:
    """
    Attributes:
        flags: of our server.
        server_files: certificate, key and clients' authority, for the process that does nothing.
        honest: what the honest client's task has more; `options` the attacker's.
    """

    flags: Sequence[str] = ()
    server_files: Sequence[str] = ()
    honest: dict[str, Any] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)


def missing(needs: str | None) -> str | None:
    """Why there can be none on this machine; None: there can."""
    if needs == "tls" and shutil.which("openssl") is None:
        return "there is no openssl command"
    return None


def of(needs: str | None, directory: Path) -> Credentials:
    """Those for attacks that need `keys`, `tls` or nothing; files are kept in the directory."""
    if needs == "keys":
        return _keys(directory)
    if needs == "tls":
        return _certificates(directory)
    return Credentials()


def _keys(directory: Path) -> Credentials:
    file = directory / "keys.yaml"
    entries = [
        {"name": "good", "sha256": _hash(GOOD), "scopes": ["infer"]},
        {"name": "other", "sha256": _hash(OTHER), "scopes": ["observe"]},
        {"name": "expired", "sha256": _hash(EXPIRED), "scopes": ["infer"], "expires": "2020-01-01"},
    ]
    file.write_text(json.dumps({"keys": entries}))  # which is YAML too
    honest = {"headers": {"authorization": f"Bearer {GOOD}"}}
    return Credentials(("--api-keys", str(file)), (), honest, {"other_key": OTHER, "expired_key": EXPIRED})


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _certificates(directory: Path) -> Credentials:
    for authority, names in (("ca", ("server", "client")), ("wrong-ca", ("wrong",))):
        if not (directory / f"{authority}.pem").exists():
            _openssl(directory, "req", "-x509", *_new(authority), "-days", "2", "-out", f"{authority}.pem")
            for name in names:
                _sign(directory, name, authority)

    def file(name: str) -> str:
        return str(directory / name)

    server = file("server.pem"), file("server.key"), file("ca.pem")
    return Credentials(
        ("--tls-cert", server[0], "--tls-key", server[1], "--tls-client-ca", server[2]),
        server,
        {"ca": file("ca.pem"), "cert": file("client.pem"), "key": file("client.key")},
        {"wrong_cert": file("wrong.pem"), "wrong_key": file("wrong.key")},
    )


def _new(name: str) -> tuple[str, ...]:
    return (
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        f"/CN={name}",
        "-keyout",
        f"{name}.key",
    )


def _sign(directory: Path, name: str, authority: str) -> None:
    _openssl(directory, "req", *_new(name), "-out", f"{name}.csr")
    (directory / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    signed = ("-CA", f"{authority}.pem", "-CAkey", f"{authority}.key", "-CAcreateserial", "-extfile", "names")
    _openssl(directory, "x509", "-req", "-in", f"{name}.csr", *signed, "-days", "1", "-out", f"{name}.pem")


def _openssl(directory: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)
