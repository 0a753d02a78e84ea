# SPDX-License-Identifier: GPL-3.0-or-later
"""Records that the roles have written, and the zone files made from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.reversename
import dns.zonefile
from dns.rdatatype import RdataType

TTL = 3600  # seconds
RECOMMENDED = "recommended"  # comment after a record
ORDER = ("MX", "A", "AAAA", "SPF", "DKIM", "DMARC", "TXT", "CNAME", "SRV", "CAA")


@dataclass(frozen=True)
class Wanted:
    """Records of one name and purpose. ``label``: their type, or the purpose of a TXT record."""

    label: str
    name: dns.name.Name
    kind: RdataType
    records: tuple[dns.rdata.Rdata, ...]
    required: bool

    @property
    def subject(self) -> str:
        return f"{self.label} {self.name.to_text(omit_final_dot=True)}"


def text_of(record: dns.rdata.Rdata) -> str:
    """A TXT record's strings, concatenated."""
    return b"".join(record.strings).decode("ascii", "replace")  # type: ignore[attr-defined]


def line(name: dns.name.Name, record: dns.rdata.Rdata, text: str = "") -> str:
    """A record as a line to paste. ``text`` replaces the text of a TXT record."""
    data = f'"{text}"' if text else record.to_text()
    pasted = f"{name} {TTL} IN {RdataType.to_text(record.rdtype)} {data}"
    if label_of(name, record) == "DKIM":
        # Web interfaces split it themselves, and many accept no quotes.
        pasted += f" ; in one string: {text_of(record)}"
    return pasted


def label_of(name: dns.name.Name, record: dns.rdata.Rdata) -> str:
    kind = RdataType.to_text(record.rdtype)
    if kind != "TXT":
        return kind
    if is_spf(text_of(record)):
        return "SPF"
    return "DKIM" if b"_domainkey" in name.labels else "DMARC" if name.labels[0] == b"_dmarc" else kind


def is_spf(text: str) -> bool:
    """RFC 7208 section 4.5."""
    return text.lower().split(" ")[0] == "v=spf1"


def parsed(text: str) -> list[Wanted]:
    """:raises dns.exception.DNSException: if the text is not a master file (RFC 1035 section 5)."""
    found = []
    for records in dns.zonefile.read_rrsets(text, rdclass=None, default_ttl=TTL):
        for record in records:
            required = (record.rdcomment or "").strip() != RECOMMENDED
            found.append(Wanted(label_of(records.name, record), records.name, record.rdtype, (record,), required))
    return found


def joined(parts: Iterable[Wanted]) -> list[Wanted]:
    """Merge records of the same name and purpose."""
    found: dict[tuple[str, dns.name.Name], Wanted] = {}
    for one in parts:
        before = found.get((one.label, one.name))
        records = (*before.records, *one.records) if before else one.records
        required = one.required or bool(before and before.required)
        found[one.label, one.name] = Wanted(one.label, one.name, one.kind, tuple(dict.fromkeys(records)), required)
    return list(found.values())


def read(folder: Path, zones: Iterable[str]) -> list[Wanted]:
    """Records of all roles in our zones, and PTR records. Raises OSError, and ValueError with the file's name.

    Others are dropped: a user's own configuration may have a signing key for another domain.
    """
    found = []
    for file in sorted(folder.iterdir()):
        try:
            found += parsed(file.read_text())
        except dns.exception.DNSException as error:
            raise ValueError(f"{file}: {error}") from None
    return [one for one in joined(found) if one.label == "PTR" or zone_of(one.name, zones)]


def zone_of(name: dns.name.Name, zones: Iterable[str]) -> str:
    """Our zone that contains a name; empty if there is none."""
    return max((zone for zone in zones if name.is_subdomain(dns.name.from_text(zone))), key=len, default="")


def zone_files(wanted: Iterable[Wanted], zones: Iterable[str]) -> dict[str, str]:
    """Zone to a fragment in master file syntax, without SOA, NS and PTR records."""
    found: dict[str, list[Wanted]] = {zone: [] for zone in zones}
    for one in wanted:
        zone = zone_of(one.name, found)
        if zone:
            found[zone].append(one)
    return {zone: zone_file(zone, parts) for zone, parts in found.items()}


def zone_file(zone: str, wanted: Iterable[Wanted]) -> str:
    origin = dns.name.from_text(zone)
    ordered = sorted(wanted, key=lambda one: (ORDER.index(one.label) if one.label in ORDER else len(ORDER), one.name))
    width = max((len(one.name.relativize(origin).to_text()) for one in ordered), default=1)
    lines = [f"; DNS records that mail for {zone} needs, to be put under $ORIGIN {zone}.", f"$TTL {TTL}"]
    for heading, required in (("", True), ("; Recommended:", False)):
        part = [one for one in ordered if one.required is required]
        lines += [heading] if heading and part else []
        for one in part:
            name = one.name.relativize(origin).to_text()
            for record in one.records:
                lines.append(f"{name:<{width}} IN {RdataType.to_text(record.rdtype):<5} {record.to_text()}")
                if one.label == "DKIM":
                    lines.append(f"; {name} in one string, as web interfaces take it: {text_of(record)}")
    return "\n".join(lines) + "\n"


def sending_addresses(wanted: Iterable[Wanted]) -> list[str]:
    """Addresses with a wanted PTR record."""
    return [dns.reversename.to_address(one.name) for one in wanted if one.label == "PTR"]
