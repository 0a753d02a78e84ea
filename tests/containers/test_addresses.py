# SPDX-License-Identifier: GPL-3.0-or-later
"""Mail reaches exactly the mailboxes of the inventory, with any accounts and aliases that preflight accepts."""

from __future__ import annotations

import re
import smtplib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.mail.plugins.plugin_utils.validation import problems
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from testbed import containers
from testbed.host import Host
from testbed.smtp import PEER, compose, wire

# Changes the accounts, so it runs after the tests that need fresh hosts.
pytestmark = pytest.mark.disruptive

Book = dict[str, Any]  # variables of an inventory
Ends = set[tuple[str, str]]  # mailboxes, each with the tag of the recipient

STRANGER = "stranger@world.test"
HOSTNAME = "mail.example.org"
DOMAINS = ["example.org", "Example.net", "xn--bcher-kva.example", "lists.example.org"]
SYSTEM_NAMES = ["abuse", "mailer-daemon", "postmaster", "root"]
BASE: Book = {"mail_domain": DOMAINS[0], "mail_additional_domains": DOMAINS[1:], "mail_hostname": HOSTNAME}
HASH = {"password_hash": "$6$0123456789abcdef$" + "a" * 86}
PEOPLE: Book = {"mail_accounts": [{"address": "first@example.org", **HASH}]}
ROLES: Book = {"roles_here": ["dovecot", "opensmtpd"], "opensmtpd_rspamd": False, "dovecot_opensmtpd": True}
READ_TABLES = "for table in credentials virtuals recipients closed domains; do smtpctl update table $table; done"
REFUSED = ["", "a b", "ä", *'.a a..b a. -a a+b a:b a%b a/b a,b a"b a\\b # mail-proof'.split()]  # noqa: SIM905
ODD = ["x" * 60, *"o'neill a''b _ 0 a-'=~b all--1 SRS0=a=b srs1=c vmail nobody Root postmaster".split()]  # noqa: SIM905

# Neither shrunk nor kept: each example takes seconds, and is shown whole.
some: dict[str, Any] = {"derandomize": True, "deadline": None, "phases": [Phase.generate]}
some["suppress_health_check"] = list(HealthCheck)
local_parts = st.sampled_from(ODD) | st.from_regex(
    r"[A-Za-z0-9_][A-Za-z0-9_'=~-]{0,9}(\.[A-Za-z0-9_'=~-]{1,3}){0,2}", fullmatch=True
)
addresses = st.builds("{}@{}".format, local_parts, st.sampled_from(DOMAINS))
# An alias of an account, an entry of mail_aliases, or an account with such keys.
kinds: st.SearchStrategy[Any] = st.sampled_from(
    ["alias", "list", "list", "list", {}, {}, {"enabled": False}, {"send_only": "yes"}]
)
twins: st.SearchStrategy[dict[str, str]] = st.sampled_from(
    [{}, {DOMAINS[1]: "Example.ORG"}, dict.fromkeys([DOMAINS[0], DOMAINS[2]], "example.net"), {DOMAINS[3]: DOMAINS[2]}]
)


def written(names: list[str]) -> st.SearchStrategy[str]:
    """One of the names as a sender may write it: with a tag, in upper case."""
    tags, cases = st.sampled_from(["@", "@", "+a@", "+A.b@", "+x=y@", "+a+b@"]), [str, str.upper, str.swapcase]
    return st.builds(
        lambda name, tag, case: str(case(name.replace("@", tag))), st.sampled_from(names), tags, st.sampled_from(cases)
    )


@st.composite
def books(draw: st.DrawFn) -> tuple[Book, list[str]]:
    """Valid accounts and aliases, and recipients. An alias has only earlier names as targets: no loops."""
    first, *names = draw(st.lists(addresses, min_size=6, max_size=15, unique_by=str.lower))
    accounts: list[dict[str, Any]] = [{"address": first, "aliases": [], **HASH}]
    lists = [f"@{domain}" for domain in draw(st.lists(st.sampled_from(DOMAINS), max_size=2, unique=True))]
    for name in names:
        kind = draw(kinds)
        if kind == "alias":
            draw(st.sampled_from(accounts))["aliases"].append(name)
        elif kind == "list":
            lists.append(name)
        else:
            accounts.append({"address": name, "aliases": [], **HASH, **kind})
    domain_aliases = draw(twins)
    taken = {name.lower() for name in [first, *names, *lists]}

    def reached(name: str) -> list[str]:
        """Addresses that are delivered to a name, also in alias domains."""
        local, _at, domain = name.lower().rpartition("@")
        others = [twin.lower() for twin, target in domain_aliases.items() if target.lower() == domain]
        twins_here = [other for other in others if f"{local}@{other}" not in taken]
        return [f"{local or 'somebody'}@{at}" for at in (domain, *twins_here)]

    own = [name for account in accounts for name in [account["address"], *account["aliases"]]]
    ends = [end for name in own for end in reached(name)]
    system = [f"root@{HOSTNAME}"] * draw(st.booleans())
    aliases: dict[str, list[str]] = {}
    for name in draw(st.permutations(lists)):
        aliases[name] = draw(st.lists(written([*ends, *system]), min_size=1, max_size=5))
        ends += reached(name)
    closed = [account["address"] for account in accounts if not takes_mail(account)]
    aliases |= {name: [first] for name in closed if draw(st.booleans())}
    book = {"mail_accounts": accounts, "mail_aliases": aliases, "mail_domain_aliases": domain_aliases}
    admins = own if system else own + [name for name in lists if name[0] != "@"]
    book["mail_admin_address"] = draw(st.sampled_from([name for name in admins if mailboxes(book, name)]))
    others = [f"{name}@{at}" for name in ("unknown", *SYSTEM_NAMES) for at in (*DOMAINS, HOSTNAME)]
    recipients = draw(st.permutations([*ends, *draw(st.lists(st.sampled_from(others), min_size=5, max_size=10))]))
    return book, [draw(written([name])) for name in recipients]


def takes_mail(account: dict[str, Any]) -> bool:
    return not {"enabled", "send_only"} & set(account)


def mailboxes(book: Book, address: str) -> Ends:
    """Mailboxes for an address, as documented in docs/variables.md and the role accounts; none: it is refused."""
    local, _at, domain = address.lower().rpartition("@")
    local, _plus, tag = local.partition("+")
    twin = {name.lower(): target.lower() for name, target in book["mail_domain_aliases"].items()}.get(domain, domain)
    aliases = {name.lower(): targets for name, targets in book["mail_aliases"].items()}

    def ends(name: str) -> Ends:
        return {end for target in aliases[name] for end in mailboxes(book, target)}

    for name in (f"{local}@{domain}", f"{local}@{twin}"):
        if name in aliases:
            return ends(name)
        for account in book["mail_accounts"]:
            login, *others = [own.lower() for own in [account["address"], *account["aliases"]]]
            if name in (login, *others):
                # A tag stays where no other name stands for the account.
                return {(login, tag if login == f"{local}@{domain}" else "")} if takes_mail(account) else set()
    if local in SYSTEM_NAMES:
        return mailboxes(book, book["mail_admin_address"])
    return next((ends(name) for name in (f"@{domain}", f"@{twin}") if name in aliases), set())


def mistakes(book: Book) -> Iterator[tuple[str, Book]]:
    """A variable and the changes that make it invalid."""
    accounts, aliases, first = book["mail_accounts"], book["mail_aliases"], book["mail_accounts"][0]["address"]
    bad = [f"{local}@example.org" for local in REFUSED] + ["a@elsewhere.example"]
    for address in (first.swapcase(), *bad):
        yield "mail_accounts", {"mail_accounts": [*accounts, {"address": address, **HASH}]}
    loop = {"one@example.org": ["Two+x@example.org"], "two@example.org": [first, "one@example.org"]}
    names = [{name: [first]} for name in (first.upper(), "@elsewhere.example", *bad[1:])]
    for more in (loop, {"new@example.org": []}, {"new@example.org": [first, f"unknown@{HOSTNAME}"]}, *names):
        yield "mail_aliases", {"mail_aliases": {**aliases, **more}}
    system = {"mail_aliases": {**aliases, "new@example.org": [f"root@{HOSTNAME}"]}}
    yield "mail_aliases", {**system, "mail_admin_address": "new@example.org"}
    for wrong in ({DOMAINS[1]: "elsewhere.example"}, {DOMAINS[2]: DOMAINS[1], "Example.net": "example.org"}):
        yield "mail_domain_aliases", {"mail_domain_aliases": wrong}
    gone = [*accounts, {"address": "gone@example.org", **HASH, "enabled": False}]
    nobody = {"mail_accounts": gone, "mail_aliases": {**aliases, "left@example.org": ["gone@example.org"]}}
    for admin in (f"unknown@{HOSTNAME}", f"root@{HOSTNAME}", "gone@example.org", "left@example.org"):
        yield "mail_admin_address", {**nobody, "mail_admin_address": admin}


def found(host: Host, ids: dict[str, str]) -> dict[str, Counter[str]]:
    """What was sent under each Message-ID, and the mailboxes that have it."""
    copies: dict[str, Counter[str]] = {}
    lines = host.run("grep", "-rI", "^Message-ID: ", "/var/vmail").stdout
    for domain, local, message_id in re.findall(r"(?m)^/var/vmail/([^/]+)/([^/]+)/.*:Message-ID: (<.*>)$", lines):
        if message_id in ids:
            copies.setdefault(ids[message_id], Counter())[f"{local}@{domain}"] += 1
    return copies


def check(host: Host, book: Book, recipients: list[str], sender: str) -> None:
    """One message to each recipient, and one to all of them together."""
    tables = {name: book[f"mail_{name}"] for name in ("accounts", "aliases", "domain_aliases")}
    tables |= {"admin": book["mail_admin_address"], "hostname": HOSTNAME, "domains": [name.lower() for name in DOMAINS]}
    assert not (done := host.module("account_tables", **tables))["failed"], done
    host.says("sh", "-ec", READ_TABLES)
    wanted = {name: mailboxes(book, name) for name in recipients}
    wanted["together"] = {end for ends in wanted.values() for end in ends}
    ids, refused = {}, set()
    with smtplib.SMTP(containers.address(host.name), 25, PEER, timeout=containers.PATIENCE) as session:
        session.ehlo()
        for what in wanted:
            message, names = compose(STRANGER, [STRANGER]), recipients if what == "together" else [what]
            assert session.mail(sender)[0] == 250
            codes = {name: session.docmd(f"RCPT TO:<{name}>")[0] for name in names}
            refused |= {(name, code) for name, code in codes.items() if code != 250}
            if 250 not in codes.values():
                session.rset()
                continue
            assert session.data(wire(message))[0] == 250
            ids[message["Message-ID"]] = what
    assert refused == {(name, 550) for name, ends in wanted.items() if not ends}, host.release
    containers.wait_for(lambda: not host.says("smtpctl", "show", "queue"), what=f"delivery on {host.release}")
    # One lock for a mailbox, however it is written: of two deliveries at once Dovecot may overlook a second copy.
    locks = host.says("sh", "-c", r"find /tmp/*-opensmtpd.service-* -user vmail -printf '%f\n'").split()
    assert locks and not [name for name in locks if name != name.lower()], host.release
    expected = {what: Counter(mailbox for mailbox, _tag in ends) for what, ends in wanted.items() if ends}
    assert found(host, ids) == expected, host.release


@pytest.fixture(scope="module")
def servers(hosts: dict[str, Host]) -> list[Host]:
    """Both releases with OpenSMTPD and Dovecot."""
    playbook, variables = Path(__file__).with_name("configure.yml"), {**BASE, **PEOPLE, **ROLES, "mail_firewall": False}
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda host: host.playbook(playbook, variables), hosts.values()))
    return list(hosts.values())


@pytest.mark.parametrize("count", [4, pytest.param(100, marks=pytest.mark.long)])
def test_mail_comes_to_those_whom_the_inventory_names(servers: list[Host], count: int) -> None:
    @settings(max_examples=count, **some)
    @given(books(), st.sampled_from([STRANGER, ""]))
    def delivered(generated: tuple[Book, list[str]], sender: str) -> None:
        book, recipients = generated
        assert problems({**BASE, **book}) == []
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda host: check(host, book, recipients, sender), servers))

    delivered()


@settings(max_examples=20, **some)
@given(books())
def test_a_mistake_is_refused_with_the_name_of_its_variable(generated: tuple[Book, list[str]]) -> None:
    for variable, changes in mistakes(generated[0]):
        said = problems({**BASE, **generated[0], **changes})
        assert variable in [sentence.partition(":")[0] for sentence in said], changes
