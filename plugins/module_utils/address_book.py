# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Accounts and aliases, and the tables that OpenSMTPD, Dovecot and the signing proxy read.

An *account* is a mapping with ``address`` and, optionally, ``aliases`` and ``send_as`` (lists of addresses),
``enabled`` and ``send_only``; *aliases* map an address, or ``@domain`` for a catch-all, to a list of addresses; *domain
aliases* map a domain to the domain whose addresses it shares. Addresses are case-insensitive and written in lower case.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.selfhosted.mail.plugins.module_utils import syntax

SYSTEM_NAMES = ("abuse", "mailer-daemon", "postmaster", "root")  # RFC 2142 §3, §5, and recipients on a Unix host
MAILBOX_USER = "vmail"
KEYS = "/etc/dkimproxy/keys"
SECOND_KEY = "-ed25519"  # suffix of the selector of a second key
VALUE_LENGTH = 2000  # octets of a table's value; OpenSMTPD ignores an entry whose value has more than 2047

Account = Mapping[str, Any]
Aliases = Mapping[str, Sequence[str]]
DomainAliases = Mapping[str, str]


def domain_names(primary: str, additional: Iterable[str | Mapping[str, str]] = ()) -> list[str]:
    """The mail domains, primary first. Additional ones are names or mappings with ``name``."""
    return [primary.lower(), *((item if isinstance(item, str) else item["name"]).lower() for item in additional)]


def accepted_domains(domains: Sequence[str], hostname: str) -> list[str]:
    """Domains that receive mail: the mail domains, and the host name for its system addresses."""
    return list(dict.fromkeys([*domains, hostname.lower()]))


def with_host(domains: Iterable[str], hostname: str) -> list[str]:
    """The domains and, if it is in none of them, the host name: each has a zone and a key."""
    found = list(domains)
    return found if any(syntax.is_under(hostname, domain) for domain in found) else [*found, hostname.lower()]


def account_names(account: Account) -> list[str]:
    """An account's address and its aliases, in lower case."""
    return [address.lower() for address in [account["address"], *(account.get("aliases") or [])]]


def is_true(value: Any) -> bool:
    """Whether a truth value of YAML, or the string that Jinja made of it, is true."""
    return str(value).lower() in ("true", "yes", "on", "1")


def is_enabled(account: Account) -> bool:
    return account.get("enabled") is None or is_true(account["enabled"])


def takes_mail(account: Account) -> bool:
    """Whether the account receives mail in a mailbox."""
    return is_enabled(account) and not is_true(account.get("send_only", False))


def size_bytes(size: Any) -> int:
    """A size such as ``500M`` or ``5G``, in bytes; 0 if it is empty or invalid."""
    found = re.fullmatch(r"([0-9]+)([KMGT]?)", str(size or ""), re.IGNORECASE)
    return int(found[1]) * 1024 ** " KMGT".index(found[2].upper() or " ") if found else 0


def sieve_files(accounts: Sequence[Account], directory: str) -> list[dict[str, str]]:
    """The accounts' Sieve scripts as files for the module ``daemon_config``, ``ADDRESS.sieve`` in ``directory``."""
    return [
        {
            "dest": f"{directory}/{account['address'].lower()}.sieve",
            "content": account["sieve"].rstrip("\n") + "\n",
            "on_change": "none",
        }
        for account in accounts
        if account.get("sieve")
    ]


def first_address(accounts: Any) -> str:
    """Address of the first account that receives mail; empty if there is none."""
    entries = accounts if isinstance(accounts, list | tuple) else []
    found = (
        account["address"]
        for account in entries
        if isinstance(account, Mapping) and account.get("address") and takes_mail(account)
    )
    return str(next(found, ""))


def untagged(address: str) -> str:
    """The address in lower case and without its ``+tag``."""
    local, _at, domain = address.lower().rpartition("@")
    return f"{local.partition('+')[0]}@{domain}"


def system_aliases(domains: Sequence[str], hostname: str, admin: str, taken: Iterable[str]) -> dict[str, list[str]]:
    """Aliases to ``admin`` for ``postmaster`` and its like at every domain and the host name, unless ``taken``."""
    names = (f"{name}@{domain}" for domain in accepted_domains(domains, hostname) for name in SYSTEM_NAMES)
    held = set(taken)
    return {name: [admin.lower()] for name in names if name not in held and name != admin.lower()}


def dkim_keys(
    primary: str,
    selector: str,
    additional: Iterable[str | Mapping[str, Any]],
    hostname: str,
    published: Sequence[str] = (),
    ed25519: bool = False,
) -> list[dict[str, Any]]:
    """DKIM keys of each mail domain, and of the host name if it is in none, in the role dkimproxy's directory.

    A key has ``domain``, ``selector``, ``path``, ``algorithm`` and ``signs``, which is false for a ``published``
    selector. The algorithm is ``rsa``; with ``ed25519`` each selector has a second key of that algorithm.
    """
    additional = list(additional)
    own = {item["name"].lower(): item for item in additional if not isinstance(item, str)}
    ends = {"rsa": "", "ed25519": SECOND_KEY} if ed25519 else {"rsa": ""}
    keys = []
    for domain in with_host(domain_names(primary, additional), hostname):
        signing = own.get(domain, {}).get("dkim_selector", selector).lower()
        others = own.get(domain, {}).get("dkim_published_selectors", published)
        for name in dict.fromkeys([signing, *map(str.lower, others)]):
            for algorithm, end in ends.items():
                key = {"domain": domain, "selector": name + end, "path": f"{KEYS}/{domain}.{name}{end}.pem"}
                keys.append({**key, "algorithm": algorithm, "signs": name == signing})
    return keys


@dataclass
class AddressBook:
    """Resolved accounts and addresses: which receive mail, where it is delivered, and who may send as what."""

    accounts: Sequence[Account]
    aliases: Aliases
    domains: Sequence[str]
    hostname: str
    admin: str
    domain_aliases: DomainAliases = field(default_factory=dict)

    #: Every address that receives mail, and its targets; the target of an account's own is :data:`MAILBOX_USER`.
    virtuals: dict[str, list[str]] = field(init=False)
    #: Assigned addresses that receive no mail; a catch-all must not get their mail either.
    closed: set[str] = field(init=False)

    def __post_init__(self) -> None:
        self._alias_domains: dict[str, list[str]] = {}
        for name, target in self.domain_aliases.items():
            self._alias_domains.setdefault(target.lower(), []).append(name.lower())
        self.virtuals, self.closed = {}, set()
        for account in self.accounts:
            address, *others = account_names(account)
            if takes_mail(account):
                self.virtuals[address] = [MAILBOX_USER]
                self.virtuals.update((other, [address]) for other in others)
            else:
                self.closed.update((address, *others))
        aliases = {name.lower(): [target.lower() for target in targets] for name, targets in self.aliases.items()}
        self.closed.difference_update(aliases)
        self.virtuals.update(aliases)
        self._given = {*self.virtuals, *self.closed}
        self._extend_to_domain_aliases()
        system = system_aliases(self.domains, self.hostname, self.admin, {*self.virtuals, *self.closed})
        self.virtuals.update(system)
        self._close_what_leads_nowhere()

    def _extend_to_domain_aliases(self) -> None:
        for address in [*self.virtuals]:
            # A catch-all is no address, so its twin cannot have it as target.
            targets = self.virtuals[address] if address.startswith("@") else [address]
            self.virtuals.update((twin, targets) for twin in self._twins([address]))
        self.closed.update(self._twins(list(self.closed)))

    def _close_what_leads_nowhere(self) -> None:
        """Remove closed targets from lists, as OpenSMTPD refuses a list with one; close lists that become empty."""
        if not self.closed:
            return
        closed_now = set(self.closed)
        while closed_now:
            found = set()
            for name, targets in self.virtuals.items():
                open_ones = [target for target in targets if self._entry(target) not in closed_now]
                if len(open_ones) == len(targets):
                    continue
                self.virtuals[name] = open_ones
                if not open_ones:
                    found.add(name)
            for name in found:
                del self.virtuals[name]
            self.closed |= {name for name in found if not name.startswith("@")}
            closed_now = found

    def _entry(self, target: str) -> str:
        """The name that receives the target's mail: the address itself, or else the domain's catch-all."""
        name = untagged(target)
        return name if name in self.virtuals or name in self.closed else "@" + name.rpartition("@")[2]

    def senders(self) -> dict[str, list[str]]:
        """Map each enabled login to the addresses that it may use as sender.

        These are its address and aliases, the aliases that are delivered to it alone, what ``send_as`` names
        (``@domain`` for a whole domain), and the same names in alias domains.
        """
        enabled = [account for account in self.accounts if is_enabled(account)]
        owners = {name: account["address"].lower() for account in enabled for name in account_names(account)}
        table = {account["address"].lower(): account_names(account) for account in enabled}
        for name in self.aliases:
            if not name.startswith("@") and (login := self._only_reader(name.lower(), owners)):
                table[login].append(name.lower())
        for account in enabled:
            table[account["address"].lower()] += [str(name).lower() for name in account.get("send_as") or []]
        return {login: list(dict.fromkeys([*names, *self._twins(names)])) for login, names in table.items()}

    def _only_reader(self, name: str, owners: Mapping[str, str]) -> str | None:
        """The login that alone receives the mail of an alias, also through further aliases; None if there is none."""
        seen = set()
        while name not in seen and len(targets := self.virtuals.get(name, [])) == 1:
            seen.add(name)
            name = untagged(targets[0])
            if name in owners:
                return owners[name]
        return None

    def _twins(self, names: Iterable[str]) -> Iterator[str]:
        """The same names in the alias domains, except those that are defined there explicitly."""
        for local, _at, domain in (name.rpartition("@") for name in names):
            for other in self._alias_domains.get(domain, ()):
                if f"{local}@{other}" not in self._given:
                    yield f"{local}@{other}"

    def routes(self) -> dict[str, list[str]]:
        """:attr:`virtuals` with targets that OpenSMTPD can resolve: only accounts and external addresses.

        OpenSMTPD gives up after ten nested aliases. A list that is too long for it is divided over unused addresses.
        """
        found = {name: [*dict.fromkeys(self._ends(targets))] for name, targets in self.virtuals.items()}
        taken = {*found, *self.closed}
        for name, targets in list(found.items()):
            parts = 0
            while len(_value(targets)) > VALUE_LENGTH:
                local, _at, domain = name.rpartition("@")
                divided = []
                for part in _divided(targets):
                    parts += 1
                    while (own := f"{local or 'all'}--{parts}@{domain}") in taken:
                        parts += 1
                    taken.add(own)
                    found[own] = part
                    divided.append(own)
                targets = found[name] = divided
        return found

    def _ends(self, targets: Iterable[str]) -> Iterator[str]:
        """The final targets. An account's address keeps its tag. Preflight refuses loops."""
        for target in targets:
            name = untagged(target)
            catch_all = "@" + name.rpartition("@")[2]
            onward = self.virtuals.get(target) or self.virtuals.get(name) or self.virtuals.get(catch_all)
            if target == MAILBOX_USER or onward in (None, [MAILBOX_USER]):
                yield target
            else:
                yield from self._ends(onward)

    def leads_outside(self) -> dict[str, list[str]]:
        """Map each address to the external addresses among its direct targets."""
        ours = set(accepted_domains(self.domains, self.hostname))
        found = {
            name: [target for target in targets if "@" in target and target.rpartition("@")[2] not in ours]
            for name, targets in self.virtuals.items()
        }
        return {name: targets for name, targets in sorted(found.items()) if targets}


def _value(targets: Sequence[str]) -> str:
    r"""Addresses as the value of an alias table, where ``'`` begins a quotation unless it is written ``\'``."""
    return ", ".join(targets).replace("'", "\\'")


def _divided(targets: Sequence[str]) -> Iterator[list[str]]:
    """Split targets into parts of at most :data:`VALUE_LENGTH` octets as a value."""
    part: list[str] = []
    for target in targets:
        if part and len(_value([*part, target])) > VALUE_LENGTH:
            yield part
            part = []
        part.append(target)
    yield part


def virtuals_text(table: Mapping[str, Sequence[str]]) -> str:
    """Addresses and their targets in the syntax of aliases(5): ``key value, value``."""
    return "".join(f"{key} {_value(values)}\n" for key, values in sorted(table.items()))


def table_text(table: Mapping[str, Sequence[str]]) -> str:
    """A mapping in the syntax of table(5): ``key value, value``."""
    return "".join(f"{key} {', '.join(values)}\n" for key, values in sorted(table.items()))
