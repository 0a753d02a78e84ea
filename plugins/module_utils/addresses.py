# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Accounts and aliases, and the tables that OpenSMTPD, Dovecot and the signing proxy read.

An *account* is a mapping with ``address`` and, optionally, ``aliases`` (a list of addresses); *aliases* map an address,
or ``@domain`` for a catch-all, to a list of addresses. Addresses are compared without regard to case and written in
lower case.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.selfhosted.mail.plugins.module_utils import names

SYSTEM_NAMES = ("abuse", "mailer-daemon", "postmaster", "root")  # RFC 2142 §3, §5 and what a Unix host writes to
MAILBOX_USER = "vmail"

Account = Mapping[str, Any]
Aliases = Mapping[str, Sequence[str]]


def domain_names(primary: str, additional: Iterable[str | Mapping[str, str]] = ()) -> list[str]:
    """The mail domains, primary first. Additional ones are names or mappings with ``name``."""
    return [primary.lower(), *((item if isinstance(item, str) else item["name"]).lower() for item in additional)]


def accepted_domains(domains: Sequence[str], hostname: str) -> list[str]:
    """Domains that mail is taken for: the mail domains and the host's own name, whose system addresses exist."""
    return list(dict.fromkeys([*domains, hostname.lower()]))


def account_names(account: Account) -> list[str]:
    """An account's address and its aliases, in lower case."""
    return [address.lower() for address in [account["address"], *(account.get("aliases") or [])]]


def size_bytes(size: Any) -> int:
    """A size such as ``500M`` or ``5G``, in bytes; 0 for nothing and for what is no size."""
    found = re.fullmatch(r"([0-9]+)([KMGT]?)", str(size or ""), re.IGNORECASE)
    return int(found[1]) * 1024 ** " KMGT".index(found[2].upper() or " ") if found else 0


def sieve_files(accounts: Sequence[Account], directory: str) -> list[dict[str, str]]:
    """The accounts' Sieve scripts as files for the module ``daemon_config``, ``ADDRESS.sieve`` in ``directory``."""
    return [{"path": f"{directory}/{account['address'].lower()}.sieve", "content": account["sieve"].rstrip("\n") + "\n",
             "on_change": "none"} for account in accounts if account.get("sieve")]


def sieve_checks(accounts: Sequence[Account], directory: str) -> list[dict[str, list[str]]]:
    """Commands for ``daemon_config`` that fail when one of :func:`sieve_files` is no Sieve script."""
    paths = [file["path"] for file in sieve_files(accounts, directory)]
    return [{"argv": ["sievec", "-c", "/etc/dovecot/dovecot.conf", "-d", path, "-"], "when_changed": [path]}
            for path in paths]


def first_address(accounts: Any) -> str:
    """Address of the first account; empty where ``accounts`` is not what it should be, as :mod:`problems` will say."""
    first = accounts[0] if isinstance(accounts, list) and accounts else {}
    return str(first.get("address") or "") if isinstance(first, Mapping) else ""


def system_aliases(domains: Sequence[str], hostname: str, admin: str, taken: Iterable[str]) -> dict[str, list[str]]:
    """``postmaster`` and its like at every domain and at the host's name lead to ``admin`` where nobody has them."""
    names = (f"{name}@{domain}" for domain in accepted_domains(domains, hostname) for name in SYSTEM_NAMES)
    held = set(taken)
    return {name: [admin.lower()] for name in names if name not in held and name != admin.lower()}


def signing_keys(primary: str, selector: str, additional: Iterable[str | Mapping[str, str]], hostname: str,
                 directory: str = "/etc/dkimproxy/keys") -> list[dict[str, str]]:
    """Domain, selector and path of the key, for each mail domain and for a host name outside of them all."""
    selectors = {primary.lower(): selector}
    for item in additional:
        name, own = (item, selector) if isinstance(item, str) else (item["name"], item.get("dkim_selector", selector))
        selectors[name.lower()] = own
    if not any(names.is_under(hostname, domain) for domain in selectors):
        selectors[hostname.lower()] = selector
    return [{"domain": domain, "selector": own.lower(), "path": f"{directory}/{domain}.{own.lower()}.pem"}
            for domain, own in selectors.items()]


def virtual_table(accounts: Sequence[Account], aliases: Aliases, domains: Sequence[str], hostname: str,
                  admin: str) -> dict[str, list[str]]:
    """Every address that mail is taken for, and what it leads to; an account's own leads to :data:`MAILBOX_USER`."""
    table: dict[str, list[str]] = {}
    for account in accounts:
        address, *others = account_names(account)
        table[address] = [MAILBOX_USER]
        table.update((other, [address]) for other in others)
    table.update((name.lower(), [target.lower() for target in targets]) for name, targets in aliases.items())
    table.update(system_aliases(domains, hostname, admin, table))
    return table


def sender_table(accounts: Sequence[Account], aliases: Aliases = {}) -> dict[str, list[str]]:  # noqa: B006
    """Login to the addresses that it may use as sender: its own, its aliases, and aliases that lead to it alone."""
    table = {account["address"].lower(): account_names(account) for account in accounts}
    for name, targets in aliases.items():
        if not name.startswith("@") and len(targets) == 1 and targets[0].lower() in table:
            table[targets[0].lower()].append(name.lower())
    return {login: list(dict.fromkeys(names)) for login, names in table.items()}


def table_text(table: Mapping[str, Sequence[str]]) -> str:
    """A mapping in the syntax of table(5): ``key value, value``."""
    return "".join(f"{key} {', '.join(values)}\n" for key, values in sorted(table.items()))
