# SPDX-License-Identifier: GPL-3.0-or-later
"""Selects the signatures of a message by From's domain; the longest match wins (RFC 6376, RFC 7489 §3.1)."""

import re
from collections.abc import Iterable

from authors.address import Address, domain_name
from authors.rights import Refusal

from .config import Config, Template
from .errors import ConfigError
from .keys import KeyUnusable, load_key
from .signature import Signer


def parents(domain: str) -> Iterable[str]:
    """`a.b.c`, `b.c`, `c`."""
    while domain:
        yield domain
        domain = domain.partition(".")[2]


def _make(template: Template, author: Address, matched: str, unsigned: frozenset[str]) -> Signer:
    """Replace the macros and load the key. Raises ValueError (KeyUnusable, AddressError) if that fails."""
    macros = {
        "$": "$",
        "sender": str(author),
        "senderdomain": author.domain,
        "key": matched.rpartition("@")[2],
        "keydomain": matched.rpartition("@")[2],
    }

    def expand(text: str | None) -> str | None:
        def replace(match: re.Match[str]) -> str:
            if match[1] not in macros:
                raise ValueError(f"unknown macro {match[0]}")
            return macros[match[1]]

        return text and re.sub(r"\$(\$|\w*)", replace, text)

    selector, path = expand(template.selector), expand(template.key)
    if not selector:
        raise ValueError("no selector: give s= or 'selector'")
    if not path:
        raise ValueError("no key file: give key= or 'keyfile'")
    # These errors are logged, so they quote the configuration and not an address from the message.
    if path.count("/") != (template.key or "").count("/"):
        raise ValueError("the name of a key file must not come from an address with a slash")
    domain = domain_name(expand(template.domain) or macros["keydomain"])
    identity = expand(template.identity)
    if identity:
        name = identity.rpartition("@")[2].lower()
        if "@" not in identity or (name != domain and not name.endswith("." + domain)):
            raise ValueError(f"i={template.identity} lies outside d={domain} (RFC 6376 §3.5)")
    try:
        key = load_key(path)
    except KeyUnusable as error:
        shown = template.key if template.key and "$sender" in template.key else path
        raise KeyUnusable(str(error).replace(path, shown)) from None
    if template.algorithm not in (None, key.algorithm):
        raise KeyUnusable(f"key file {path} is for {key.algorithm}, not for {template.algorithm}")
    relaxed, headers, lifetime = template.relaxed, template.headers, template.lifetime
    return Signer(domain, selector, key, relaxed, identity, headers, lifetime, path, unsigned)


class Signers:
    """Selects signatures for a From address. The constructor loads every key; raises ConfigError with all mistakes."""

    def __init__(self, config: Config) -> None:
        self._config, self._domains = config, frozenset(config.domains)
        self._made: dict[tuple[Template, str, str], Signer] = {}
        maps = [*config.sender_map.values(), *config.listid_map.values()]
        # The body canonicalizations that a message may need: bodies are hashed while they are received.
        self.body_forms = {template.relaxed[1] for templates in (config.signatures, *maps) for template in templates}
        mistakes = []
        for domain in config.domains:
            author = Address("postmaster", domain)
            try:
                found = self._choose(config.signatures, author, domain)
                if not found and not self._mapped(author):
                    mistakes.append(f"{config.place('domain')} {domain}: no signature covers it or a parent domain")
            except ValueError as error:
                mistakes.append(str(error))
        for name, templates in {**config.sender_map, **config.listid_map}.items():
            for template in templates:
                domain = template.domain if template.domain and "$" not in template.domain else name.rpartition("@")[2]
                if domain == "." and template.domain:
                    # It matches every author; the host serves as the example.
                    domain = config.hostname
                try:
                    self._signer(template, Address("postmaster", domain_name(domain)), name)
                except ValueError as error:
                    mistakes.append(
                        str(error) if str(error).startswith(template.where) else f"{template.where}: {error}"
                    )
        if mistakes:
            raise ConfigError("\n".join(dict.fromkeys(mistakes)))

    def choose(self, author: Address, list_id: str | None = None) -> list[Signer]:
        """One or more signatures for mail from `author`. Raises Refusal if none aligns, ValueError for a bad key."""
        found: list[Signer] = []
        if list_id:
            found = self._from_map(self._config.listid_map, author, [*parents(list_id), "."], list_id)
        found = found or self._mapped(author)
        if not found and (matched := self._matched(author.domain)):
            found = self._choose(self._config.signatures, author, matched)
        if not found:
            raise Refusal(
                "foreign-from",
                f"This server does not send mail from {author.domain}. Choose one of your own addresses as From.",
            )
        return found

    def published(self) -> list[tuple[str, str, str]]:
        """Domain, selector and key file of every signature, except those that depend on the author."""
        return sorted({(signer.domain, signer.selector, signer.key_file) for signer in self._made.values()})

    def covers(self, author: Address) -> bool:
        """Whether mail from `author` can be signed. Raises ValueError when its key cannot be used."""
        return bool(self._mapped(author)) or self._matched(author.domain) is not None

    def _matched(self, domain: str) -> str | None:
        return next((name for name in parents(domain) if name in self._domains), None)

    def _mapped(self, author: Address) -> list[Signer]:
        names = [str(author), str(author.untagged()), *parents(author.domain), "."]
        return self._from_map(self._config.sender_map, author, names)

    def _from_map(
        self, table: dict[str, tuple[Template, ...]], author: Address, names: list[str], list_id: str = ""
    ) -> list[Signer]:
        name = next((name for name in names if name in table), None)
        if name is None:
            return []
        # The first label of a List-Id is the list's name; the rest is its domain.
        matched = name.partition(".")[2] if name == list_id and "." in name else name
        return self._choose(table[name], author, matched)

    def _choose(self, templates: Iterable[Template], author: Address, matched: str) -> list[Signer]:
        """The aligned signatures with the longest d=."""
        aligned = []
        above = set(parents(author.domain))
        for template in templates:
            fixed = template.domain if template.domain and "$" not in template.domain else None
            if fixed is None or fixed in above:
                signer = self._signer(template, author, matched)
                if signer.domain in above:
                    aligned.append(signer)
        longest = max((len(signer.domain) for signer in aligned), default=0)
        return [signer for signer in aligned if len(signer.domain) == longest]

    def _signer(self, template: Template, author: Address, matched: str) -> Signer:
        personal = "$sender" in "".join(filter(None, template[1:4])) + (template.identity or "")
        key = (template, str(author) if personal else "", matched)
        if key not in self._made:
            try:
                signer = _make(template, author, matched, self._config.unsigned)
            except ValueError as error:
                raise ValueError(f"{template.where}: {error}") from None
            if personal:
                return signer
            self._made[key] = signer
        return self._made[key]
