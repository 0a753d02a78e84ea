# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with the values that a user gave, in sentences that name the variables.

``values`` maps the contract's variable names without their prefix (``domain``, ``relay_host`` …) to what the user
wrote; a key that is absent is not checked. Values may have any type: YAML gives what it gives.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ansible_collections.selfhosted.mail.plugins.module_utils import addresses, names

# What Dovecot and OpenSMTPD both take, on both releases: bcrypt, SHA256-CRYPT, SHA512-CRYPT, yescrypt, gost-yescrypt,
# scrypt (crypt(5), which also says what stands in no hash). Dovecot 2.4 takes no MD5-CRYPT.
_CRYPT_HASH = re.compile(
    r"(\$2[aby]\$(0[4-9]|[12]\d|3[01])\$[./A-Za-z0-9]{53}"
    r"|\$5\$(rounds=\d{1,9}\$)?[^$:;*!\\\x00-\x20\x7f-\U0010ffff]{1,16}\$[./A-Za-z0-9]{43}"
    r"|\$6\$(rounds=\d{1,9}\$)?[^$:;*!\\\x00-\x20\x7f-\U0010ffff]{1,16}\$[./A-Za-z0-9]{86}"
    r"|\$g?y\$[./A-Za-z0-9]+\$[./A-Za-z0-9]{1,86}\$[./A-Za-z0-9]{43}"
    r"|\$7\$[./A-Za-z0-9]{11,97}\$[./A-Za-z0-9]{43})\Z", re.ASCII)
_DMARC_POLICIES = ("none", "quarantine", "reject")
_RELAY_TLS = ("starttls", "smtps")
_TLS_MODES = ("selfsigned", "files")
_ACCOUNT_KEYS = {"address", "password", "password_hash", "aliases", "quota", "enabled", "send_only", "send_as", "sieve"}
_FORWARD_VIA = ("relay", "direct", "refuse")
_QUOTA = re.compile(r"[1-9][0-9]*[KMGT]?\Z", re.IGNORECASE)


def problems(values: Mapping[str, Any], prefix: str = "mail_") -> list[str]:
    """All that is wrong, one sentence each, none twice; empty when nothing is."""
    found = release_problems(values["release"]) if "release" in values else []
    given = _Given(values)
    for check in (_names, _signer, _relay, _directory, _forwarding, _tls, _dns):
        found += [f"{prefix}{sentence}" for sentence in check(given)]
    return list(dict.fromkeys(found))


class _Given:
    """The values, with what Ansible leaves of an optional variable (absent, None or empty) made the same."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = addresses.plain(values)

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
    if "dkim_published_selectors" in given:
        yield from (f"dkim_published_selectors: {what}" for what in _no_selectors(given["dkim_published_selectors"]))
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
            for key in sorted(set(item) - {"name", "dkim_selector", "dkim_published_selectors"}):
                yield (f"additional_domains: {name} has an unknown key {key!r}; known are name, dkim_selector and "
                       "dkim_published_selectors")
            if "dkim_selector" in item and not names.is_selector(item["dkim_selector"]):
                yield f"additional_domains: dkim_selector {item['dkim_selector']!r} of {name} cannot be a DNS label"
            for what in _no_selectors(item.get("dkim_published_selectors")):
                yield f"additional_domains: dkim_published_selectors of {name}: {what}"


def _no_selectors(value: Any) -> Iterator[str]:
    if value and not isinstance(value, list | tuple):
        yield "is no list; write [s2026]"
    yield from (f"{item!r} cannot be a DNS label; use letters, digits and hyphens"
                for item in _list(value) if not names.is_selector(item))


def _signer(given: _Given) -> Iterator[str]:
    """What the role dkimproxy alone knows."""
    lifetime = given["signature_lifetime"]
    if "signature_lifetime" in given and not re.fullmatch(r"[0-9]{1,9}", str(lifetime)):
        yield f"signature_lifetime: {lifetime!r} is no number of seconds; 0 means that signatures do not end"
    path = given["senders_file"]
    if "senders_file" in given and not re.fullmatch(r"/[^\s\"'\\$%#]+", str(path)):
        yield f"senders_file: {path!r} is no absolute path without spaces, quotes, backslashes and the characters $ % #"
    if str(given["ed25519"]).lower() in ("true", "yes", "on", "1"):
        for variable, selector in _selectors(given):
            label = str(selector).rpartition(".")[2].lower()
            if label.endswith(addresses.SECOND_KEY):
                yield f"{variable}: {selector} ends in {addresses.SECOND_KEY}, as the selectors of the second keys do"
            elif len(label + addresses.SECOND_KEY) > 63:
                yield f"{variable}: {selector} is too long to have {addresses.SECOND_KEY} behind it in a DNS label"
    if given["config_file"]:
        if str(given["ed25519"]).lower() in ("true", "yes", "on", "1"):
            yield "ed25519: with config_file, write the second signature into that file"
        if str(lifetime) not in ("", "0"):
            yield "signature_lifetime: with config_file, write x= into the signatures of that file"
    elif given["legacy"] == "ignore":
        yield "legacy: without config_file there is nothing old to ignore"


def _selectors(given: _Given) -> Iterator[tuple[str, Any]]:
    """Every selector and the variable that it stands in."""
    yield "dkim_selector", given["dkim_selector"]
    yield from (("dkim_published_selectors", item) for item in _list(given["dkim_published_selectors"]))
    for domain in _list(given["additional_domains"]):
        if isinstance(domain, Mapping):
            yield "additional_domains", domain.get("dkim_selector") or ""
            yield from (("additional_domains", item) for item in _list(domain.get("dkim_published_selectors")))


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
    most = str(given["relay_max_connections"])
    if "relay_max_connections" in given and not (most.isascii() and most.isdigit() and 1 <= int(most) <= 100):
        yield f"relay_max_connections: {given['relay_max_connections']!r} is no number from 1 to 100"
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
    yield from _domain_aliases(given)
    if "accounts" not in given:
        return
    accounts = given["accounts"]
    if not isinstance(accounts, list | tuple) or not accounts:
        yield "accounts: at least one account is needed, as a list of mappings with address and password_hash"
        return
    domains = given.domains()
    holders: dict[str, str] = {}
    silent: set[str] = set()
    for number, account in enumerate(accounts, 1):
        if not isinstance(account, Mapping) or not account.get("address"):
            yield f"accounts: entry {number} has no address"
            continue
        address = account["address"]
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
            if not addresses.takes_mail(account):
                silent.add(key)
    yield from _aliases(given, domains, holders, silent)
    admin = given["admin_address"]
    if "admin_address" in given and admin:
        if not names.is_address(admin):
            yield f"admin_address: {admin!r} is no mail address"
        elif admin.lower() in silent - _alias_names(given):
            yield f"admin_address: {admin} takes no mail, as its account is not enabled or send_only"
        elif names.domain_of(admin) in domains and admin.lower() not in {*holders, *_alias_names(given)}:
            yield f"admin_address: {admin} is in a domain of ours, but neither an account nor an alias"
    elif not addresses.first_address(accounts):
        yield "accounts: none of them takes mail, and somebody has to read postmaster's; enable one, not send_only"


def _domain_aliases(given: _Given) -> Iterator[str]:
    aliases = given["domain_aliases"] or {}
    if not isinstance(aliases, Mapping):
        yield "domain_aliases: is no mapping; write 'example.net: example.org'"
        return
    domains = given.domains()
    lower = {str(name).lower() for name in aliases}
    for name, target in aliases.items():
        for domain in (name, target):
            if not names.is_domain(domain):
                yield f"domain_aliases: {domain!r} is no domain name"
            elif domain.lower() not in domains:
                yield (f"domain_aliases: {domain} is none of our domains ({', '.join(domains)}); name it in "
                       "additional_domains too, so that it gets a key and a zone")
        if str(target).lower() in lower:
            yield f"domain_aliases: {name} leads to {target}, which leads on; write the last domain itself"


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
            yield (f"accounts: password_hash of {address} is no crypt(5) hash that both daemons take: $2b$, $2y$, "
                   "$2a$, $5$, $6$, $y$, $gy$ or $7$, whole, without {SCHEME}; make one with: openssl passwd -6")
    elif not isinstance(plain, str) or not plain:
        yield f"accounts: {address} has neither password_hash nor password (in quotes)"
    elif not names.is_printable(plain):
        yield f"accounts: password of {address} has a character that cannot be printed"
    elif len(plain.encode()) > 512:
        yield f"accounts: password of {address} is longer than 512 bytes"
    quota = account.get("quota")
    if quota is not None and not _QUOTA.match(str(quota)):
        yield f"accounts: quota of {address} is {quota!r}; write a size such as 500M or 5G"
    for key in ("enabled", "send_only"):
        value = account.get(key)
        if value is not None and str(value).lower() not in ("true", "false", "yes", "no", "on", "off"):
            yield f"accounts: {key} of {address} is {value!r}; write true or false"
    sieve = account.get("sieve")
    if sieve is not None and (not isinstance(sieve, str) or not sieve.strip() or "\0" in sieve):
        yield f"accounts: sieve of {address} is no text of a Sieve script; write the script itself, after 'sieve: |'"
    send_as = account.get("send_as") or []
    if not isinstance(send_as, list | tuple):
        yield f"accounts: send_as of {address} is no list"
        send_as = []
    for name in send_as:
        if isinstance(name, str) and name.startswith("@"):
            if name[1:].lower() not in domains:
                yield f"accounts: send_as of {address} has {name}, which is no domain of ours"
        else:
            yield from _own(name, domains, "accounts")


def _alias_names(given: _Given) -> set[str]:
    aliases = given["aliases"]
    return {str(name).lower() for name in aliases} if isinstance(aliases, Mapping) else set()


class _Known:
    """The addresses that mail is taken for, tags and catch-alls and domain aliases thought of."""

    def __init__(self, given: _Given, holders: Iterable[str]) -> None:
        self.names = {*holders, *_alias_names(given)}
        self.names |= {f"{name}@{domain}" for domain in addresses.accepted_domains(given.domains(), given.hostname())
                       for name in addresses.SYSTEM_NAMES}
        aliases = given["domain_aliases"]
        self.domains = {str(name).lower(): str(target).lower() for name, target in aliases.items()} \
            if isinstance(aliases, Mapping) else {}

    def entry(self, address: str) -> str | None:
        """The name in the tables that an address, in lower case, is found under."""
        bare = addresses.untagged(address)
        domain = names.domain_of(address)
        for name in (bare, f"{bare.rpartition('@')[0]}@{self.domains.get(domain, domain)}",
                     f"@{domain}", f"@{self.domains.get(domain, domain)}"):
            if name in self.names:
                return name
        return None


def _aliases(given: _Given, domains: list[str], holders: dict[str, str], silent: set[str]) -> Iterator[str]:
    aliases = given["aliases"] or {}
    if not isinstance(aliases, Mapping):
        yield "aliases: is no mapping; write 'info@example.org: [alice@example.org]'"
        return
    known = _Known(given, holders)
    ours = {*domains, given.hostname()}
    seen: set[str] = set()
    graph: dict[str, list[str]] = {}
    for name, targets in aliases.items():
        key = str(name).lower()
        if key in seen:
            yield f"aliases: {name} is there twice"
        seen.add(key)
        if key in holders and key not in silent:
            yield f"aliases: {name} is there twice, it is also an address of the account {holders[key]}"
        if key.startswith("@"):
            if key[1:] not in domains:
                yield f"aliases: {name} is the catch-all of no domain of ours"
        else:
            yield from _own(name, domains, "aliases")
        if not isinstance(targets, list | tuple) or not targets:
            yield f"aliases: {name} points nowhere; write a list of addresses"
            continue
        graph[key] = []
        for target in targets:
            if not names.is_address(target):
                yield f"aliases: {name} points to {target!r}, which is no mail address"
            elif names.domain_of(target) in ours:
                entry = known.entry(target.lower())
                if entry is None:
                    yield f"aliases: {name} points nowhere: {target} is neither an account nor an alias"
                elif entry not in holders or entry in silent:
                    graph[key].append(entry)
    yield from (f"aliases: {' leads to '.join(loop)}: a loop" for loop in _loops(graph))


def _loops(graph: Mapping[str, list[str]]) -> Iterator[list[str]]:
    """Loops, each begun at its first name in the order of the alphabet; every name is looked at once."""
    done: set[str] = set()
    for start in sorted(graph):
        trail: list[str] = [start] if start not in done else []
        on_trail = set(trail)
        pending = [iter(graph[name]) for name in trail]
        while pending:
            target = next(pending[-1], None)
            if target is None:
                pending.pop()
                done.add(trail[-1])
                on_trail.discard(trail.pop())
            elif target in on_trail:
                loop = trail[trail.index(target):]
                first = loop.index(min(loop))
                yield [*loop[first:], *loop[:first + 1]]
            elif target in graph and target not in done:
                trail.append(target)
                on_trail.add(target)
                pending.append(iter(graph[target]))


def _forwarding(given: _Given) -> Iterator[str]:
    via = given["forward_via"]
    if "forward_via" not in given or via == "":
        return
    if via not in _FORWARD_VIA:
        yield f"forward_via: {via!r} is none of {', '.join(_FORWARD_VIA)}"
    elif via == "relay" and (("relay_host" in given and given["relay_host"] == "")
                             or ("relay" in given and not addresses.is_true(given["relay"]))):
        yield "forward_via: is relay, but there is none, as relay_host is empty"
    elif via == "refuse":
        ours = {*given.domains(), given.hostname()}
        aliases = given["aliases"]
        for name, targets in aliases.items() if isinstance(aliases, Mapping) else ():
            for target in _list(targets):
                if names.is_address(target) and names.domain_of(target) not in ours:
                    yield f"aliases: {name} leads outside, to {target}, and forward_via is refuse"
        admin = given["admin_address"]
        if names.is_address(admin) and names.domain_of(admin) not in ours:
            yield f"admin_address: {admin} is outside, and forward_via is refuse"


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
