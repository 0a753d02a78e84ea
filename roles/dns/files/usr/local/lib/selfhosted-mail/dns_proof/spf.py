# SPDX-License-Identifier: GPL-3.0-or-later
"""Evaluates SPF records term by term (RFC 7208)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable

import dns.exception
import dns.name

from .wanted import is_spf

MOST_LOOKUPS = 10  # section 4.6.4
WITH_LOOKUP = ("include", "a", "mx", "ptr", "exists")
WITHOUT = ("all", "ip4", "ip6")
TERM = re.compile(r"(?P<qualifier>[-+?~]?)(?P<name>[a-z][a-z0-9_.-]*)(?P<sign>[:=/]?)(?P<value>.*)\Z")

Texts = Callable[[dns.name.Name], list[str]]


def terms(text: str) -> list[str]:
    """Terms of a record in lower case, without its version and leading plus signs."""
    return [term.removeprefix("+") for term in text.lower().split()[1:]]


def heard(text: str) -> list[str]:
    """Terms up to ``all``; receivers ignore what follows (section 5.1)."""
    found = []
    for term in terms(text):
        found.append(term)
        if term.lstrip("-~?") == "all":
            break
    return found


class Walk:
    """A record with its includes: terms that pass, number of look-ups, and problems (``wrong``)."""

    def __init__(self, text: str, texts: Texts) -> None:
        self.texts = texts
        self.lookups = 0
        self.passing: set[str] = set()
        self.wrong: list[str] = []
        self.read(text)

    def read(self, text: str) -> None:
        """Add the terms of a record. Raises Silent."""
        words = heard(text)
        ends = any(word.lstrip("-~?") == "all" for word in words)
        for word in words:
            found = TERM.match(word)
            if not found or (found["sign"] != "=" and found["name"] not in WITH_LOOKUP + WITHOUT):
                self.wrong.append(f"{word} is not an SPF term")
                continue
            follows = found["name"] == "redirect" and found["sign"] == "=" and not ends
            if found["sign"] != "=" and not found["qualifier"]:
                self.passing.add(word)
            if follows or (found["sign"] != "=" and found["name"] in WITH_LOOKUP):
                self.lookups += 1
            if (follows or found["name"] == "include") and "%" not in word and self.lookups <= MOST_LOOKUPS:
                self.follow(word, found["value"])

    def follow(self, word: str, domain: str) -> None:
        try:
            records = [text for text in self.texts(dns.name.from_text(domain)) if is_spf(text)]
        except (dns.exception.DNSException, ValueError):
            records = []
        if len(records) == 1:
            self.read(records[0])
        else:
            self.wrong.append(f"{word}: {domain} has {len(records) or 'no'} SPF record{'s' * (len(records) > 1)}")


def lets_through(addresses: Iterable[str], passing: Iterable[str]) -> bool:
    """Whether ip4 and ip6 terms cover all of the addresses, and there is at least one."""
    networks = []
    for term in passing:
        if term.startswith(("ip4:", "ip6:")):
            try:
                networks.append(ipaddress.ip_network(term[4:], strict=False))
            except ValueError:
                continue
    found = [ipaddress.ip_address(address) for address in addresses]
    return bool(found) and all(any(one.version == net.version and one in net for net in networks) for one in found)


def problems(
    wanted: str, published: list[str], addresses: Iterable[str], same: Iterable[str], texts: Texts
) -> list[str]:
    """Why receivers may not accept our mail. ``published``: the SPF records of the name, at least one.

    Our ``mx`` or ``a`` may be replaced by ip4 and ip6 terms for all sending ``addresses``, or by a term in ``same``.
    Raises Silent.
    """
    if len(published) > 1:
        return [f"there are {len(published)} SPF records, and receivers treat that as an error"]
    walk = Walk(published[0], texts)
    if walk.lookups > MOST_LOOKUPS:
        return [f"it takes more than {MOST_LOOKUPS} look-ups, and receivers treat that as an error"]
    missing = [term for term in heard(wanted) if term not in walk.passing and term.lstrip("-~?") != "all"]
    if lets_through(addresses, walk.passing) or walk.passing & set(same):
        missing = [term for term in missing if term not in ("a", "mx")]
    found = walk.wrong + ([f"{' and '.join(missing)} is missing"] if missing else [])
    return [*found, "all lets every host send"] if "all" in walk.passing else found


def mended(wanted: str, published: Iterable[str]) -> str:
    """One record of the published and the missing terms, ending with the first published ``all`` that does not pass."""
    there = [term for text in published for term in terms(text)]
    ends = [term for term in there if term.lstrip("-~?") == "all" and term != "all"]
    missing = [term for term in terms(wanted) if term not in there]
    own = dict.fromkeys(term for term in [*there, *missing] if term.lstrip("-~?") != "all")
    return " ".join(["v=spf1", *own, (ends or [terms(wanted)[-1]])[0]])
