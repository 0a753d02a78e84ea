# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The DNS records that a mail domain needs, as a fragment of a zone in master file syntax (RFC 1035 §5)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence

from ansible_collections.selfhosted.mail.plugins.module_utils import address_book, syntax

TTL = 3600  # seconds
INSIDE = "10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.168.0.0/16 ::1/128 fc00::/7 fe80::/10"
STRING_LENGTH = 255  # bytes of one <character-string>, RFC 1035 §3.3


def strings(text: str) -> str:
    """``text`` as the <character-string>s of a TXT record; readers put them together again (RFC 6376 §3.6.2.2)."""
    data = text.encode("ascii")
    parts = [data[start : start + STRING_LENGTH].decode() for start in range(0, max(len(data), 1), STRING_LENGTH)]
    quoted = ['"' + part.replace("\\", "\\\\").replace('"', '\\"') + '"' for part in parts]
    return quoted[0] if len(quoted) == 1 else "( " + " ".join(quoted) + " )"


def dmarc(policy: str, rua: str = "", ruf: str = "") -> str:
    """A DMARC policy record (RFC 7489 §6.3); alignment is relaxed, the default."""
    tags = ["v=DMARC1", f"p={policy}"]
    tags += [f"{tag}=mailto:{address}" for tag, address in (("rua", rua), ("ruf", ruf)) if address]
    return "; ".join(tags)


def zone(
    domain: str,
    *,
    hostname: str,
    ipv4: Iterable[str] = (),
    ipv6: Iterable[str] = (),
    mail: bool = True,
    keys: Mapping[str, str] | None = None,
    spf: str = "",
    policy: str = "none",
    rua: str = "",
    ruf: str = "",
    reports_from: Sequence[str] = (),
) -> str:
    """The fragment for ``domain``.

    :param hostname: the mail server; its addresses are written where its name lies in this domain.
    :param mail: whether the domain takes mail, and so has an MX of its own.
    :param keys: selector to the text of its DKIM record.
    :param spf: SPF terms of the relay provider.
    :param reports_from: other domains whose DMARC reports come to an address in this one (RFC 7489 §7.1).
    """
    records: list[tuple[str, str, str]] = []
    if mail:
        records.append(("@", "MX", f"10 {hostname}."))
    if syntax.is_under(hostname, domain):
        label = hostname[: -len(domain) - 1] or "@"
        records += [(label, "A", address) for address in ipv4]
        records += [(label, "AAAA", address) for address in ipv6]
        if label != "@":
            # Bounces have no sender, so receivers look at the name in EHLO (RFC 7208 §2.4).
            records.append((label, "TXT", strings(" ".join(filter(None, ["v=spf1 a", spf, "~all"])))))
    own = "mx" if mail else "a"
    records.append(("@", "TXT", strings(" ".join(filter(None, [f"v=spf1 {own}", spf, "~all"])))))
    records += [(f"{selector}._domainkey", "TXT", strings(text)) for selector, text in sorted((keys or {}).items())]
    records.append(("_dmarc", "TXT", strings(dmarc(policy, rua, ruf))))
    records += [(f"{other}._report._dmarc", "TXT", strings("v=DMARC1")) for other in reports_from]
    width = max(len(name) for name, _type, _data in records)
    lines = [f"; DNS records that mail for {domain} needs, to be put under $ORIGIN {domain}.", f"$TTL {TTL}"]
    lines += [f"{name:<{width}} IN {kind:<4} {data}" for name, kind, data in records]
    return "\n".join(lines) + "\n"


def public_addresses(addresses: Iterable[str]) -> list[str]:
    """Those of ``addresses`` that other hosts may reach: no loopback, link-local, RFC 1918, 4193 or 6598 ones."""
    inside = [ipaddress.ip_network(net) for net in INSIDE.split()]
    found = [ipaddress.ip_address(address) for address in addresses]
    return [str(one) for one in found if not any(one.version == net.version and one in net for net in inside)]


def zones(
    domains: Sequence[str],
    *,
    hostname: str,
    ipv4: Sequence[str],
    ipv6: Sequence[str],
    keys: Mapping[str, Mapping[str, str]],
    spf: str = "",
    policy: str = "none",
    rua: str = "",
    ruf: str = "",
) -> dict[str, str]:
    """Zone name to fragment, for each mail domain and for a host name outside of them all.

    :param keys: domain to selector to the text of its DKIM record.
    """
    every = address_book.with_host(domains, hostname)
    return {
        domain: zone(
            domain,
            hostname=hostname,
            ipv4=ipv4,
            ipv6=ipv6,
            mail=domain in domains,
            keys=keys.get(domain),
            spf=spf,
            policy=policy,
            rua=rua,
            ruf=ruf,
            reports_from=[
                other
                for other in every
                if other != domain and any(address and syntax.domain_of(address) == domain for address in (rua, ruf))
            ],
        )
        for domain in every
    }
