# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with the values that a user gave, in sentences that name the variables.

``values`` maps the contract's variable names without their prefix (``domain``, ``relay_host`` …) to what the user
wrote; a key that is absent is not checked. Values may have any type: YAML gives what it gives.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.selfhosted.mail.plugins.module_utils import addresses, names

_CRYPT_HASH = re.compile(r"\$(2[aby]|5|6|y|gy|7)\$[./A-Za-z0-9$,=]{20,}\Z")
_DMARC_POLICIES = ("none", "quarantine", "reject")
_RELAY_TLS = ("starttls", "smtps")
_TLS_MODES = ("selfsigned", "files")
_ACCOUNT_KEYS = {"address", "password", "password_hash", "aliases", "quota", "sieve"}
_QUOTA = re.compile(r"[1-9][0-9]*[KMGT]?\Z", re.IGNORECASE)


def problems(values: Mapping[str, Any], prefix: str = "mail_") -> list[str]:
    """All that is wrong, one sentence each, none twice; empty when nothing is."""
    found = release_problems(values["release"]) if "release" in values else []
    for check in (_names, _relay, _directory, _tls, _dns):
        found += [f"{prefix}{sentence}" for sentence in check(_Given(values))]
    return list(dict.fromkeys(found))


class _Given:
    """The values, with what Ansible leaves of an optional variable (absent, None or empty) made the same."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def __getitem__(self, key: str) -> Any:
        value = self.values.get(key)
        return "" if value is None else value

    def domains(self) -> list[str]:
        """The mail domains that are proper names."""
        found = [self["domain"], *(_name_of(item) for item in _list(self["additional_domains"]))]
        return [str(name).lower() for name in found if names.is_domain(name)]

    def hostname(self) -> str:
        return str(self["hostname"]).lower()


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _name_of(item: Any) -> Any:
    return item.get("name") if isinstance(item, Mapping) else item


def _names(given: _Given) -> Iterator[str]:
    if "domain" in given and not names.is_domain(given["domain"]):
        yield (f"domain: {given['domain']!r} is no domain name; write one such as example.org "
               "(international ones as xn--…)")
    if "hostname" in given and not names.is_domain(given["hostname"]):
        yield f"hostname: {given['hostname']!r} is no full host name; write one such as mail.example.org"
    if "dkim_selector" in given and not names.is_selector(given["dkim_selector"]):
        yield (f"dkim_selector: {given['dkim_selector']!r} cannot be a DNS label; use letters, digits and hyphens, "
               "63 characters at most")
    if "additional_domains" in given:
        yield from _additional(given)


def _additional(given: _Given) -> Iterator[str]:
    value = given["additional_domains"]
    if value and not isinstance(value, list | tuple):
        yield "additional_domains: is no list; write domain names, or mappings with name and dkim_selector"
        return
    seen = {str(given["domain"]).lower()}
    for item in _list(value):
        name = _name_of(item)
        if not names.is_domain(name):
            yield f"additional_domains: {name!r} is no domain name"
            continue
        if name.lower() in seen:
            yield f"additional_domains: {name} is there twice"
        seen.add(name.lower())
        if isinstance(item, Mapping):
            for key in sorted(set(item) - {"name", "dkim_selector"}):
                yield f"additional_domains: {name} has an unknown key {key!r}; known are name and dkim_selector"
            if "dkim_selector" in item and not names.is_selector(item["dkim_selector"]):
                yield f"additional_domains: dkim_selector {item['dkim_selector']!r} of {name} cannot be a DNS label"


def _port(value: Any) -> int | None:
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and 0 < int(text) < 65536 else None


def _relay(given: _Given) -> Iterator[str]:
    if "relay_host" not in given or given["relay_host"] == "":
        return
    if not names.is_domain(given["relay_host"]):
        yield (f"relay_host: {given['relay_host']!r} is no host name; its certificate is checked against a name "
               "such as smtp.provider.example, so an address will not do")
    if _port(given["relay_port"]) is None:
        yield f"relay_port: {given['relay_port']!r} is no port; it is 1 to 65535, mostly 587 or 465"
    if "relay_tls" in given and given["relay_tls"] not in _RELAY_TLS:
        yield f"relay_tls: {given['relay_tls']!r} is none of {', '.join(_RELAY_TLS)}"
    for key in ("relay_username", "relay_password"):
        text = given[key]
        if not isinstance(text, str):
            yield f"{key}: is no text; put it in quotes"
        elif text == "":
            yield f"{key}: is needed, as relay_host is set; a relay provider takes mail after a login only"
        elif not names.is_printable(text):
            yield f"{key}: has a character that cannot be printed, such as a line break"
        elif len(text) > 500:
            yield f"{key}: is longer than 500 characters"
    username, password = given["relay_username"], given["relay_password"]
    if isinstance(username, str) and ":" in username:
        yield "relay_username: has a colon, which ends the user name in OpenSMTPD's credentials table"
    if isinstance(password, str) and password != password.rstrip():
        yield "relay_password: ends with a space, which OpenSMTPD's credentials table cannot hold"


def _directory(given: _Given) -> Iterator[str]:
    if "accounts" not in given:
        return
    accounts = given["accounts"]
    if not isinstance(accounts, list | tuple) or not accounts:
        yield "accounts: at least one account is needed, as a list of mappings with address and password_hash"
        return
    domains = given.domains()
    holders: dict[str, str] = {}
    logins: list[str] = []
    for number, account in enumerate(accounts, 1):
        if not isinstance(account, Mapping) or not account.get("address"):
            yield f"accounts: entry {number} has no address"
            continue
        address = account["address"]
        if isinstance(address, str):
            logins.append(address.lower())
        yield from _account(account, domains)
        aliases = account.get("aliases") or []
        if not isinstance(aliases, list | tuple):
            yield f"accounts: aliases of {address} is no list"
            aliases = []
        for name in [address, *aliases]:
            yield from _own(name, domains, "accounts")
            key = str(name).lower()
            if key in holders:
                yield f"accounts: {name} is there twice, for {holders[key]} and {address}"
            holders.setdefault(key, address)
    yield from _aliases(given, domains, holders)
    admin = given["admin_address"]
    if "admin_address" in given and admin:
        if not names.is_address(admin):
            yield f"admin_address: {admin!r} is no mail address"
        elif names.domain_of(admin) in domains and admin.lower() not in {*holders, *_alias_names(given)}:
            yield f"admin_address: {admin} is in a domain of ours, but neither an account nor an alias"


def _own(address: Any, domains: list[str], variable: str) -> Iterator[str]:
    if not names.is_own_address(address):
        yield (f"{variable}: {address!r} is no address of the form name@domain with letters, digits and . _ - = ~ ' "
               "in the name, a letter or digit first")
    elif domains and names.domain_of(address) not in domains:
        yield f"{variable}: {address} is outside our domains ({', '.join(domains)})"


def _account(account: Mapping[str, Any], domains: list[str]) -> Iterator[str]:
    address = account["address"]
    for key in sorted(set(account) - _ACCOUNT_KEYS):
        yield f"accounts: {address} has an unknown key {key!r}; known are {', '.join(sorted(_ACCOUNT_KEYS))}"
    hashed, plain = account.get("password_hash"), account.get("password")
    if hashed and plain:
        yield f"accounts: {address} has both password and password_hash; keep password_hash"
    elif hashed:
        if not isinstance(hashed, str) or not _CRYPT_HASH.match(hashed):
            yield (f"accounts: password_hash of {address} is no crypt(5) hash that begins with $6$, $2b$, $y$ or the "
                   "like; make one with: openssl passwd -6")
    elif not isinstance(plain, str) or not plain:
        yield f"accounts: {address} has neither password_hash nor password (in quotes)"
    elif not names.is_printable(plain):
        yield f"accounts: password of {address} has a character that cannot be printed"
    elif len(plain.encode()) > 512:
        yield f"accounts: password of {address} is longer than 512 bytes"
    quota = account.get("quota")
    if quota is not None and not _QUOTA.match(str(quota)):
        yield f"accounts: quota of {address} is {quota!r}; write a size such as 500M or 5G"
    sieve = account.get("sieve")
    if sieve is not None and (not isinstance(sieve, str) or not sieve.strip()):
        yield f"accounts: sieve of {address} is no text of a Sieve script"


def _alias_names(given: _Given) -> set[str]:
    aliases = given["aliases"]
    return {str(name).lower() for name in aliases} if isinstance(aliases, Mapping) else set()


def _aliases(given: _Given, domains: list[str], holders: dict[str, str]) -> Iterator[str]:
    aliases = given["aliases"] or {}
    if not isinstance(aliases, Mapping):
        yield "aliases: is no mapping; write 'info@example.org: [alice@example.org]'"
        return
    known = {*holders, *_alias_names(given)}
    hostname = given.hostname()
    known |= {f"{name}@{domain}" for domain in addresses.accepted_domains(domains, hostname)
              for name in addresses.SYSTEM_NAMES}
    seen: set[str] = set()
    graph: dict[str, list[str]] = {}
    for name, targets in aliases.items():
        key = str(name).lower()
        if key in seen:
            yield f"aliases: {name} is there twice"
        seen.add(key)
        if key in holders:
            yield f"aliases: {name} is there twice, it is also an address of the account {holders[key]}"
        if key.startswith("@"):
            if key[1:] not in domains:
                yield f"aliases: {name} is the catch-all of no domain of ours"
        else:
            yield from _own(name, domains, "aliases")
        if not isinstance(targets, list | tuple) or not targets:
            yield f"aliases: {name} points nowhere; write a list of addresses"
            continue
        graph[key] = [str(target).lower() for target in targets]
        for target in targets:
            if not names.is_address(target):
                yield f"aliases: {name} points to {target!r}, which is no mail address"
            elif (domain := names.domain_of(target)) in (*domains, hostname) and \
                    _untagged(target) not in known and f"@{domain}" not in known:
                yield f"aliases: {name} points nowhere: {target} is neither an account nor an alias"
    yield from (f"aliases: {' leads to '.join(loop)}: a loop" for loop in _loops(graph))


def _untagged(address: str) -> str:
    local, _at, domain = address.lower().partition("@")
    return f"{local.partition('+')[0]}@{domain}"


def _loops(graph: Mapping[str, list[str]]) -> Iterator[list[str]]:
    """Each loop once, begun at its first name in the order of the alphabet."""
    for start in sorted(graph):
        trail, names_seen = [start], {start}
        pending = [(start, iter(graph[start]))]
        while pending:
            _name, targets = pending[-1]
            target = next(targets, None)
            if target is None:
                pending.pop()
                trail.pop()
            elif target == start:
                if start == min(trail):
                    yield [*trail, start]
                return
            elif target in graph and target not in names_seen:
                names_seen.add(target)
                trail.append(target)
                pending.append((target, iter(graph[target])))


def _tls(given: _Given) -> Iterator[str]:
    if "tls_mode" not in given:
        return
    if given["tls_mode"] not in _TLS_MODES:
        yield f"tls_mode: {given['tls_mode']!r} is none of {', '.join(_TLS_MODES)}"
    elif given["tls_mode"] == "files":
        for key in ("tls_certificate_file", "tls_private_key_file"):
            if not isinstance(given[key], str) or not given[key].startswith("/"):
                yield f"{key}: an absolute path on the mail server is needed with tls_mode: files"
            elif re.search(r"[\s\"'\\$]", given[key]):
                yield (f"{key}: {given[key]!r} has a space, quote, backslash or dollar sign, which the daemons' files "
                       "cannot hold")


def _dns(given: _Given) -> Iterator[str]:
    if "dmarc_policy" in given and given["dmarc_policy"] not in _DMARC_POLICIES:
        yield f"dmarc_policy: {given['dmarc_policy']!r} is none of {', '.join(_DMARC_POLICIES)}"
    for key in ("dmarc_rua", "dmarc_ruf"):
        if key in given and given[key] and not names.is_address(given[key]):
            yield f"{key}: {given[key]!r} is no mail address"
    spf = given["relay_spf"]
    if "relay_spf" in given and (not isinstance(spf, str) or not re.fullmatch(r"[\x21-\x7e ]*", spf) or '"' in spf
                                 or spf.lower().startswith("v=spf1") or re.search(r"(^|\s)[-~?+]?all(\s|$)", spf)):
        yield (f"relay_spf: {spf!r} is no list of SPF terms; write what the provider names, such as "
               "include:spf.provider.example")


def release_problems(facts: Mapping[str, Any]) -> list[str]:
    """What keeps a host with these Ansible facts from being a mail server of ours."""
    distribution, version = str(facts.get("distribution")), str(facts.get("distribution_major_version"))
    if distribution == "Debian" and version in ("12", "13"):
        return []
    full = facts.get("distribution_version", version)
    return [f"this host runs {distribution} {full}; supported are Debian 12 and Debian 13"]
