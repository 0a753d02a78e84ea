# SPDX-License-Identifier: GPL-3.0-or-later
"""Relays that OpenSMTPD can and cannot use. The scenario smtp_relay tests each of them with OpenSMTPD itself."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAME = "smtp.relays.test"
SAN = f"subjectAltName=DNS:{NAME}"
CA = "basicConstraints=critical,CA:TRUE"
# Authorities: the extensions of the certificate, its issuer, and whether the host trusts it.
AUTHORITIES: dict[str, tuple[tuple[str, ...], str, bool]] = {
    "by the book": ((CA, "keyUsage=critical,keyCertSign,cRLSign", "subjectKeyIdentifier=hash"), "", True),
    "without key usage": ((CA,), "", True),
    "without basic constraints": (("keyUsage=keyCertSign",), "", True),
    "a stranger": ((CA,), "", False),
    "intermediate of a stranger": ((CA,), "a stranger", True),
}
OLD, NEW = ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2


@dataclass(frozen=True)
class Relay:
    """``provider``: options of `Provider`."""

    what: str
    usable: bool
    authority: str = "by the book"
    subject: str = f"/CN={NAME}"
    extensions: tuple[str, ...] = (SAN,)
    key: str = "ec"
    provider: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.what


def offers(usable: bool, *keywords: str) -> Relay:
    return Relay(f"offers {keywords}", usable, provider={"keywords": keywords})


RELAYS = [
    Relay("plain", True),
    Relay("an authority without key usage", True, "without key usage"),
    Relay("an authority without basic constraints", True, "without basic constraints"),
    Relay("an authority that is not trusted", False, "a stranger"),
    Relay("an intermediate that is trusted, and not its root", False, "intermediate of a stranger"),
    Relay("for clients alone", False, extensions=(SAN, "extendedKeyUsage=clientAuth")),
    Relay("a short key", False, key="rsa:1024"),
    Relay("a name for all", True, subject="/CN=x", extensions=("subjectAltName=DNS:*.relays.test",)),
    Relay("a name for a part", False, subject="/CN=x", extensions=("subjectAltName=DNS:s*.relays.test",)),
    Relay("a name for too much", False, subject="/CN=x", extensions=("subjectAltName=DNS:*.test",)),
    Relay("in capitals", True, subject="/CN=x", extensions=(SAN.replace("smtp", "SMTP"),)),
    Relay("another name", False, extensions=("subjectAltName=DNS:other.relays.test",)),
    Relay("a common name", True, extensions=()),
    Relay("a common name for all", True, subject="/CN=*.relays.test", extensions=()),
    Relay("a common name, and a mail address", True, extensions=("subjectAltName=email:me@relays.test",)),
    Relay("a common name, and an IP address", False, extensions=("subjectAltName=IP:198.51.100.1",)),
    Relay("two common names", False, subject=f"/CN=x/CN={NAME}", extensions=()),
    Relay("TLS 1.1", False, provider={"versions": (OLD, OLD)}),
    Relay("TLS 1.2", True, provider={"versions": (NEW, NEW)}),
    Relay("another good greeting", True, provider={"greeting": "250 hello"}),
    Relay("no greeting", False, provider={"greeting": "554 not you"}),
    Relay("starttls in small letters", False, provider={"starttls": "starttls"}),
    Relay("STARTTLS with words", False, provider={"starttls": "STARTTLS now"}),
    Relay("no STARTTLS", False, provider={"starttls": ""}),
    offers(True, "AUTH LOGIN"),
    offers(True, "AUTH CRAM-MD5", "AUTH PLAIN"),
    offers(True, "AUTH LOGIN PLAIN XOAUTH2 PLAIN-CLIENTTOKEN"),
    offers(False, "AUTH PLAIN-CLIENTTOKEN PLAIN"),
    offers(False, "AUTH CRAM-MD5 XOAUTH2"),
    offers(False, "AUTH plain login"),
    offers(False, "auth PLAIN"),
    offers(False, "AUTH=PLAIN LOGIN"),
    offers(False),
]


def certificate(
    directory: Path, name: str, issuer: str = "", subject: str = "", extensions: tuple[str, ...] = (), key: str = "ec"
) -> Path:
    """A PEM file with key and certificate, self-signed or signed by an issuer that was created before."""
    pem, new_key, new = (directory / f"{name}.{end}" for end in ("pem", "key", "crt"))
    words = ["openssl", "req", "-x509", "-config", "/dev/stdin", "-days", "2", "-nodes", "-utf8"]
    words += [
        "-subj",
        subject or f"/CN={name}",
        "-newkey",
        key,
        *(["-pkeyopt", "ec_paramgen_curve:P-256"] * (key == "ec")),
    ]
    for extension in extensions:
        words += ["-addext", extension]
    if issuer:
        words += ["-CA", str(directory / f"{issuer}.crt"), "-CAkey", str(directory / f"{issuer}.key")]
    words += ["-keyout", str(new_key), "-out", str(new)]
    # OpenSSL's own configuration would add extensions.
    subprocess.run(words, input=b"[req]\ndistinguished_name=n\n[n]\n", check=True, capture_output=True)
    pem.write_text(new_key.read_text() + new.read_text())
    return pem


def authorities(directory: Path) -> str:
    """Create all authorities; returns the certificates of the trusted ones."""
    for name, (extensions, issuer, _trusted) in AUTHORITIES.items():
        certificate(directory, name, issuer, extensions=extensions)
    return "".join((directory / f"{name}.crt").read_text() for name, (*_, trusted) in AUTHORITIES.items() if trusted)


def identity(directory: Path, relay: Relay) -> Path:
    """The relay's PEM file, signed by its authority in the directory."""
    return certificate(directory, "relay", relay.authority, relay.subject, relay.extensions, relay.key)
