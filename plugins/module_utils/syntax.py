# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Syntax of the names in a mail server's configuration."""

from __future__ import annotations

import re

_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)\Z", re.IGNORECASE)
_SELECTOR_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z", re.IGNORECASE)
_OWN_LOCAL_PART = re.compile(r"[a-z0-9_][a-z0-9_'=~-]*(?:\.[a-z0-9_'=~-]+)*\Z", re.IGNORECASE)
_OTHER_LOCAL_PART = re.compile(r"[a-z0-9_][a-z0-9!$&'*+=?^_`{}~/-]*(?:\.[a-z0-9!$&'*+=?^_`{}~/-]+)*\Z", re.IGNORECASE)


def is_domain(name: object) -> bool:
    """Whether ``name`` is a fully qualified domain name of at least two labels, in ASCII.

    RFC 1035 §2.3.1, RFC 1123 §2.1. No trailing dot; the last label is not a number, as in an IPv4 address.
    """
    if not isinstance(name, str) or len(name) > 253:
        return False
    labels = name.split(".")
    return len(labels) > 1 and all(_LABEL.match(label) for label in labels) and not labels[-1].isdigit()


def is_selector(name: object) -> bool:
    """Whether ``name`` can be a DKIM selector: sub-domain labels (RFC 6376 §3.1), together at most 63 octets."""
    return isinstance(name, str) and len(name) <= 63 and all(_SELECTOR_LABEL.match(label) for label in name.split("."))


def is_own_address(address: object) -> bool:
    """Whether ``address`` can be an address of this server.

    Narrower than RFC 5321 §4.1.2: ASCII, no quoted local part, no ``+`` (it begins a tag), and no character with a
    meaning in OpenSMTPD's tables, in Dovecot's variables or in a path.
    """
    return _is_address(address, _OWN_LOCAL_PART)


def is_address(address: object) -> bool:
    """Whether this server can send mail to ``address``: ASCII, dot-atom local part (RFC 5321 §4.1.2)."""
    return _is_address(address, _OTHER_LOCAL_PART)


def _is_address(address: object, local_part: re.Pattern[str]) -> bool:
    if not isinstance(address, str) or address.count("@") != 1:
        return False
    local, domain = address.split("@")
    return len(local) <= 64 and bool(local_part.match(local)) and is_domain(domain)


def domain_of(address: str) -> str:
    """Domain of an address, in lower case."""
    return address.rpartition("@")[2].lower()


def is_under(name: str, domain: str) -> bool:
    """Whether ``name`` is ``domain`` or a sub-domain of it, without regard to case."""
    name, domain = name.lower(), domain.lower()
    return name == domain or name.endswith("." + domain)
