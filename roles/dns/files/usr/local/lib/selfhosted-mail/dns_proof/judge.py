# SPDX-License-Identifier: GPL-3.0-or-later
"""Compares published records with the wanted ones. Unrelated records are ignored."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import dns.name
import dns.rdata
import dns.reversename
from dns.rdatatype import RdataType

from . import spf
from .wanted import Wanted, is_spf, line, sending_addresses, text_of
from .world import Silent, World

AT_ONCE = 16  # concurrent queries

Published = Sequence[dns.rdata.Rdata]


@dataclass
class Finding:
    """A finding, as in ``mail-status --json``."""

    subject: str
    status: str
    required: bool
    text: str
    fix: str = ""
    check: str = "dns"


@dataclass
class Verdict:
    """``wrong``: the record does not serve its purpose; ``odd``: it is worth a warning; neither: it is right.

    ``fix``: lines to paste instead of the wanted records.
    """

    text: str = "is published"
    wrong: bool = False
    odd: bool = False
    fix: list[str] = field(default_factory=list)

    @property
    def rank(self) -> int:
        return 2 * self.wrong + self.odd


MISSING = "is missing"


def shown(name: Any) -> str:
    return str(dns.name.Name.to_text(name, omit_final_dot=True))


def mx(wanted: Wanted, published: Published, _world: World, _all: Sequence[Wanted]) -> Verdict:
    if not published:
        return Verdict(MISSING, wrong=True)
    exchange = {record.exchange for record in wanted.records}  # type: ignore[attr-defined]
    rows = sorted((record.preference, record.exchange) for record in published)  # type: ignore[attr-defined]
    ours = [preference for preference, host in rows if host in exchange]
    others = [
        "the null MX" if host == dns.name.root else shown(host) for _preference, host in rows if host not in exchange
    ]
    if not ours:
        return Verdict(f"points to {', '.join(others)}", wrong=True)
    before = [shown(host) for preference, host in rows if host not in exchange and preference < ours[0]]
    if before:
        return Verdict(f"prefers {', '.join(before)} to this server", wrong=True)
    return Verdict(f"is published, together with {', '.join(others)}" if others else "is published")


def is_this_hosts(address: str) -> bool:
    """Whether the kernel lets a socket bind to the address."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def address(wanted: Wanted, published: Published, _world: World, _all: Sequence[Wanted]) -> Verdict:
    ours = {record.to_text() for record in wanted.records}
    there = {record.to_text() for record in published}
    strange = sorted(one for one in there - ours if not is_this_hosts(one))
    if not there:
        return Verdict(f"is missing: {', '.join(sorted(ours))}", wrong=True)
    if strange and len(strange) == len(there):
        return Verdict(f"is {', '.join(strange)}, but this server is {', '.join(sorted(ours))}", wrong=True)
    if strange:
        return Verdict(f"also has {', '.join(strange)}, which is not an address of this host", odd=True)
    return Verdict(f"is {', '.join(sorted(there))}")


def spf_record(wanted: Wanted, published: Published, world: World, wanted_all: Sequence[Wanted]) -> Verdict:
    texts = sorted(text for text in map(text_of, published) if is_spf(text))
    if not texts:
        return Verdict(MISSING, wrong=True)
    ours = text_of(wanted.records[0])
    hosts = [record.exchange for one in wanted_all if one.label == "MX" for record in one.records]  # type: ignore[attr-defined]
    same = [f"mx:{shown(wanted.name)}", *(f"a:{shown(host)}" for host in hosts)]
    problems = spf.problems(ours, texts, sending_addresses(wanted_all), [one.lower() for one in same], world.texts)
    if not problems:
        return Verdict()
    only_ours = any("look-ups" in problem or "SPF term" in problem or "SPF record" in problem for problem in problems)
    text = ours if only_ours and len(texts) == 1 else spf.mended(ours, texts)
    fix = line(wanted.name, wanted.records[0], text)
    others = f" ; instead of all {len(texts)}" if len(texts) > 1 else ""
    return Verdict("; ".join(problems), wrong=True, fix=[fix + others])


def tags(text: str) -> dict[str, str]:
    """Tags of a DKIM or DMARC record (RFC 6376 section 3.2)."""
    pairs = (part.partition("=") for part in text.split(";"))
    return {name.strip().lower(): "".join(value.split()) for name, _sign, value in pairs if name.strip()}


def dkim(wanted: Wanted, published: Published, _world: World, _all: Sequence[Wanted]) -> Verdict:
    if not published:
        return Verdict(MISSING, wrong=True)
    if len(published) > 1:
        return Verdict(f"there are {len(published)} TXT records, only one is allowed", wrong=True)
    ours, there = tags(text_of(wanted.records[0])), tags(text_of(published[0]))
    if there.get("p") == "":
        return Verdict("the key is revoked: p= is empty", wrong=True)
    if (there.get("p"), there.get("k", "rsa")) != (ours["p"], ours["k"]):
        return Verdict("is not the key of this server", wrong=True)
    if "sha256" not in there.get("h", "sha256").split(":") or not {"*", "email"} & set(there.get("s", "*").split(":")):
        return Verdict("h= or s= does not allow the key for mail", wrong=True)
    if "y" in there.get("t", "").split(":"):
        return Verdict("has t=y (test mode), so receivers ignore the signature", odd=True)
    return Verdict("is the key of this server")


def dmarc(wanted: Wanted, published: Published, _world: World, _all: Sequence[Wanted]) -> Verdict:
    texts = [text for text in map(text_of, published) if tags(text).get("v") == "DMARC1"]
    if not texts:
        return Verdict(MISSING, wrong=True)
    if len(texts) > 1:
        return Verdict(f"there are {len(texts)} DMARC records, so receivers ignore all of them", wrong=True)
    ours, there = tags(text_of(wanted.records[0])), tags(texts[0])
    policy = there.get("p", "").lower()
    if policy not in ("none", "quarantine", "reject"):
        return Verdict(f"has no valid policy: p={policy}", wrong=True)
    if policy != ours["p"]:
        return Verdict(f"has the policy {policy}, but mail_dmarc_policy is {ours['p']}", odd=True)
    for tag in ("rua", "ruf"):
        if tag in ours and ours[tag].lower() not in there.get(tag, "").lower().split(","):
            return Verdict(f"has no {tag}={ours[tag]}, where reports should go", odd=True)
    return Verdict()


def ptr(wanted: Wanted, published: Published, world: World, wanted_all: Sequence[Wanted]) -> Verdict:
    """Receivers require a PTR name that resolves to the address (RFC 1912 section 2.1)."""
    sender = dns.reversename.to_address(wanted.name)
    ours = wanted.records[0].target  # type: ignore[attr-defined]
    fix = [f"{line(wanted.name, wanted.records[0])} ; the provider of the server sets the reverse name of {sender}"]
    names = [record.target for record in published]  # type: ignore[attr-defined]
    if not names:
        return Verdict(f"{sender} has no reverse name", wrong=True, fix=fix)
    back = [name for name in names if sender in world.addresses(name)]
    if ours in back:
        return Verdict(f"{sender} is {shown(ours)}, which resolves back")
    if back:
        return Verdict(f"{sender} is {shown(back[0])}, not {shown(ours)}", odd=True, fix=fix)
    if ours not in names:
        return Verdict(f"{sender} is {shown(names[0])}, which does not resolve back", wrong=True, fix=fix)
    kind = RdataType.AAAA if ":" in sender else RdataType.A
    forward = [
        line(one.name, record)
        for one in wanted_all
        if (one.name, one.kind) == (ours, kind)
        for record in one.records
        if record.to_text() == sender
    ]
    return Verdict(f"{sender} is {shown(ours)}, which does not resolve back", wrong=True, fix=forward or fix)


def others(wanted: Wanted, published: Published, _world: World, _all: Sequence[Wanted]) -> Verdict:
    if wanted.kind == RdataType.TXT:
        there = {text_of(record).strip(" ;") for record in published}
        missing = [record for record in wanted.records if text_of(record).strip(" ;") not in there]
    else:
        missing = [record for record in wanted.records if record not in published]
    if not missing:
        return Verdict()
    text = f"is {published[0].to_text()}" if published and wanted.kind == RdataType.CNAME else MISSING
    return Verdict(text, wrong=True, fix=[line(wanted.name, record) for record in missing])


JUDGES: dict[str, Callable[[Wanted, Published, World, Sequence[Wanted]], Verdict]] = {
    "MX": mx, "A": address, "AAAA": address, "SPF": spf_record, "DKIM": dkim, "DMARC": dmarc, "PTR": ptr,
}  # fmt: skip


def look_for(wanted: Wanted, world: World, wanted_all: Sequence[Wanted]) -> Finding:
    """The worst verdict on the answers of the servers."""
    said = world.ask(wanted.name, wanted.kind)
    verdicts: dict[str, Verdict] = {}
    silent = [f"{one.server} {one.why}" for one in said if one.records is None]
    for one in said:
        if one.records is not None:
            try:
                verdicts[one.server] = JUDGES.get(wanted.label, others)(wanted, one.records, world, wanted_all)
            except Silent as error:
                silent.append(str(error))
    without = "; ".join(dict.fromkeys(silent))
    if not verdicts:
        return Finding(wanted.subject, "unknown", wanted.required, without)
    worst = max(verdicts.values(), key=lambda verdict: verdict.rank)
    saying = [server for server, verdict in verdicts.items() if verdict.text == worst.text]
    text = worst.text + (f" (according to {', '.join(saying)})" if len(saying) < len(verdicts) else "")
    text += f" ({without})" if without else ""
    if not worst.rank:
        return Finding(wanted.subject, "ok", wanted.required, text)
    status = "error" if worst.wrong and wanted.required else "warning"
    fix = worst.fix or [line(wanted.name, record) for record in wanted.records]
    return Finding(wanted.subject, status, wanted.required, text, "\n".join(fix))


def look(wanted: Sequence[Wanted], world: World, wanted_all: Sequence[Wanted]) -> list[Finding]:
    """A finding for each of ``wanted``."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda one: look_for(one, world, wanted_all), wanted))


def twice(first: Finding, second: Finding) -> Finding:
    """The second finding, but unknown if it is wrong and the first one was not."""
    wrong = ("warning", "error")
    if second.status in wrong and first.status not in wrong:
        return Finding(second.subject, "unknown", second.required, f"{second.text} (seen once)", second.fix)
    return second
