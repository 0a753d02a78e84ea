# SPDX-License-Identifier: GPL-3.0-or-later
"""The test bed's name server."""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
from pathlib import Path

import dns.exception
import dns.resolver

from testbed import containers

SERVER = "198.51.100.53"
CONTAINER = "selfhosted-mail-dns"
PUBLISH = Path(__file__).resolve().parent / "publish-zone"


def query(name: str, kind: str) -> list[str]:
    """The records in presentation format, TXT strings joined; none if the name or type does not exist."""
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers = [SERVER]
    try:
        answer = resolver.resolve(name, kind, lifetime=10)
    except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
        return []
    if kind == "TXT":
        return [b"".join(record.strings).decode() for record in answer]
    return [record.to_text() for record in answer]


def dkim_record(name: bytes, timeout: int = 5) -> bytes | None:
    """The record of a name such as ``mail._domainkey.example.org``, as a callback for dkimpy."""
    records = query(name.decode(), "TXT")
    return records[0].encode() if records else None


def publish(origin: str, records: str) -> None:
    """Serve these records (master file syntax without SOA and NS, RFC 1035 §5) under `origin`.

    NSD answers `reload` before it serves the new zone, so a record of our own in it is waited for.
    """
    # By its contents: two tests may publish the same at once.
    name, mark = f"_published.{origin}", hashlib.sha256(records.encode()).hexdigest()
    zone = f'{records}\n{name}. TXT "{mark}"\n'
    subprocess.run([str(PUBLISH), origin], input=zone, text=True, check=True, capture_output=True)

    def served() -> bool:
        with contextlib.suppress(dns.exception.DNSException):
            return query(name, "TXT") == [mark]
        return False

    containers.wait_for(served, what=f"the name server serves {origin}")


def secondary(zone: str) -> None:
    """Serve this zone as a secondary of the name server of testbed/acme.py."""

    def control(*words: str) -> str:
        return containers.run(CONTAINER, "nsd-control", *words)

    if zone not in control("zonestatus"):
        control("addzone", zone, "acme")
    control("force_transfer", zone)
    containers.wait_for(lambda: "state: ok" in control("zonestatus", zone), what=f"the name server has {zone}")
