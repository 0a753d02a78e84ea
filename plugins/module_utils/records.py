# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Parts of DNS records in master file syntax (RFC 1035 §5)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

INSIDE = "10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.168.0.0/16 ::1/128 fc00::/7 fe80::/10"
STRING_LENGTH = 255  # bytes of one <character-string>, RFC 1035 §3.3


def txt(text: str) -> str:
    """``text`` as the <character-string>s of a TXT record, which readers concatenate (RFC 6376 §3.6.2.2)."""
    data = text.encode("ascii")
    parts = [data[start : start + STRING_LENGTH].decode() for start in range(0, max(len(data), 1), STRING_LENGTH)]
    return " ".join('"' + part.replace("\\", "\\\\").replace('"', '\\"') + '"' for part in parts)


def reverse_name(address: str) -> str:
    """Name of the PTR record of an address, with the final dot (RFC 1035 §3.5, RFC 3596 §2.5)."""
    return f"{ipaddress.ip_address(address).reverse_pointer}."


def public_addresses(addresses: Iterable[str]) -> list[str]:
    """The ``addresses`` without loopback, link-local and private ones (RFC 1918, 4193, 6598)."""
    inside = [ipaddress.ip_network(net) for net in INSIDE.split()]
    found = [ipaddress.ip_address(address) for address in addresses]
    return [str(one) for one in found if not any(one.version == net.version and one in net for net in inside)]
