# SPDX-License-Identifier: GPL-3.0-or-later
"""The tables that OpenSMTPD, Dovecot and the signing proxy read."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.selfhosted.mail.plugins.module_utils import address_book, syntax
from hypothesis import assume, given
from hypothesis import strategies as st

DOMAINS = ["example.org", "example.net"]
HOST = "mail.example.org"
ALICE: dict[str, Any] = {"address": "Alice@Example.org", "aliases": ["Info@example.org", "a@example.net"]}
BOB: dict[str, Any] = {"address": "bob@example.org"}

own_addresses = st.builds(
    "{}@{}".format,
    st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_'=~-]{0,12}(\.[A-Za-z0-9_'=~-]{1,12}){0,2}", fullmatch=True),
    st.sampled_from([*DOMAINS, "Example.COM"]),
)


def test_domain_names_take_names_and_mappings() -> None:
    assert address_book.domain_names("Example.org", ["Example.net", {"name": "Example.com", "dkim_selector": "s"}]) == [
        "example.org",
        "example.net",
        "example.com",
    ]


def test_the_hosts_own_name_is_accepted_once() -> None:
    assert address_book.accepted_domains(DOMAINS, "Mail.example.org") == [*DOMAINS, HOST]
    assert address_book.accepted_domains(DOMAINS, "example.org") == DOMAINS


def book(
    accounts: list[dict[str, Any]],
    aliases: dict[str, list[str]] | None = None,
    admin: str = "alice@example.org",
    **more: Any,
) -> address_book.AddressBook:
    return address_book.AddressBook(accounts, aliases or {}, DOMAINS, HOST, admin, **more)


def test_virtual_table() -> None:
    aliases = {"Team@example.org": ["alice@example.org", "Friend@far.example"], "@example.net": ["bob@example.org"]}
    table = book([ALICE, BOB], aliases).virtuals
    assert table["alice@example.org"] == ["vmail"]
    assert table["info@example.org"] == table["a@example.net"] == ["alice@example.org"]
    assert table["team@example.org"] == ["alice@example.org", "friend@far.example"]
    assert table["@example.net"] == ["bob@example.org"]
    assert table[f"root@{HOST}"] == table["postmaster@example.net"] == ["alice@example.org"]


def test_system_addresses_that_somebody_has_stay_theirs() -> None:
    accounts = [{"address": "postmaster@example.org"}, BOB]
    table = book(accounts, {"abuse@example.org": ["bob@example.org"]}, admin="Postmaster@example.org").virtuals
    assert table["postmaster@example.org"] == ["vmail"]
    assert table["abuse@example.org"] == ["bob@example.org"]
    assert table["abuse@example.net"] == ["postmaster@example.org"]


def test_a_login_may_use_its_names_and_the_aliases_that_lead_to_it_alone() -> None:
    aliases = {
        "Sales@example.org": ["Bob@example.org"],
        "shop@example.org": ["sales@example.org"],
        "tagged@example.org": ["bob+shop@example.org"],
        "team@example.org": ["bob@example.org", "alice@example.org"],
        "all@example.org": ["team@example.org"],
        "@example.net": ["bob@example.org"],
        "far@example.org": ["friend@far.example"],
    }
    assert book([ALICE, BOB], aliases).senders() == {
        "alice@example.org": ["alice@example.org", "info@example.org", "a@example.net"],
        "bob@example.org": ["bob@example.org", "sales@example.org", "shop@example.org", "tagged@example.org"],
    }


def test_send_as_adds_addresses_and_domains() -> None:
    bob = {**BOB, "send_as": ["News@example.org", "@Example.net"]}
    assert book([ALICE, bob]).senders()["bob@example.org"] == ["bob@example.org", "news@example.org", "@example.net"]


def test_who_only_sends_takes_no_mail_and_who_is_not_enabled_does_nothing() -> None:
    shop = {"address": "shop@example.org", "send_only": True, "aliases": ["till@example.org"]}
    gone = {"address": "gone@example.org", "enabled": "no", "aliases": ["left@example.org"]}
    aliases = {
        "both@example.org": ["alice@example.org", "gone+x@example.org"],
        "nobody@example.org": ["gone@example.org"],
        "nested@example.org": ["nobody@example.org", "shop@example.org"],
        "@example.org": ["alice@example.org"],
    }
    found = book([ALICE, shop, gone], aliases)
    closed = {"shop@example.org", "till@example.org", "gone@example.org", "left@example.org"}
    assert found.closed == closed | {"nobody@example.org", "nested@example.org"}
    assert not found.closed & set(found.virtuals)
    assert found.virtuals["both@example.org"] == ["alice@example.org"]
    senders = found.senders()
    assert senders["shop@example.org"] == ["shop@example.org", "till@example.org"]
    assert "gone@example.org" not in senders


def test_a_list_goes_on_without_a_catch_all_that_leads_to_nobody() -> None:
    aliases = {
        "@example.net": ["gone@example.org"],
        "all@example.org": ["any@example.net", "root@example.net", "bob@example.org"],
        "none@example.org": ["any@example.net"],
    }
    found = book([ALICE, BOB, {"address": "gone@example.org", "enabled": False}], aliases)
    assert found.routes()["all@example.org"] == ["alice@example.org", "bob@example.org"]
    assert "@example.net" not in found.virtuals
    assert found.closed == {"gone@example.org", "none@example.org"}


def test_mail_to_an_account_that_only_sends_may_lead_to_somebody() -> None:
    shop = {"address": "shop@example.org", "send_only": True}
    found = book([ALICE, shop], {"shop@example.org": ["alice@example.org"]})
    assert found.virtuals["shop@example.org"] == ["alice@example.org"]
    assert found.closed == set()


def test_every_address_of_a_domain_is_in_its_alias_domain_too() -> None:
    accounts = [ALICE, {**BOB, "aliases": ["taken@example.org"]}, {"address": "taken@example.net"}]
    gone = {"address": "gone@example.org", "enabled": False}
    catch_all = {"@example.org": ["bob@example.org"]}
    found = book([*accounts, gone], catch_all, domain_aliases={"Example.net": "example.ORG"})
    assert found.virtuals["alice@example.net"] == ["alice@example.org"]
    assert found.virtuals["info@example.net"] == ["info@example.org"]
    assert found.virtuals["@example.net"] == ["bob@example.org"]
    assert found.virtuals["taken@example.net"] == ["vmail"], "who is there by himself stays"
    assert "gone@example.net" in found.closed
    senders = found.senders()
    assert set(senders["alice@example.org"]) >= {"alice@example.net", "info@example.net"}
    assert "taken@example.net" not in senders["bob@example.org"]
    assert senders["taken@example.net"] == ["taken@example.net"]


def test_what_leads_outside() -> None:
    aliases = {
        "away@example.org": ["friend@far.example", "alice@example.org"],
        "cron@example.org": [f"root@{HOST}"],
        "via@example.org": ["away@example.org"],
    }
    assert book([ALICE], aliases).leads_outside() == {"away@example.org": ["friend@far.example"]}


def test_the_first_account_that_takes_mail() -> None:
    silent = [{"address": "a@example.org", "enabled": False}, {"address": "b@example.org", "send_only": True}]
    assert address_book.first_address([*silent, ALICE]) == "Alice@Example.org"
    assert address_book.first_address(silent) == address_book.first_address("nonsense") == ""


def test_aliases_of_aliases_lead_straight_to_accounts() -> None:
    chain = {f"a{number}@example.org": [f"a{number + 1}@example.org"] for number in range(12)}
    aliases = {
        **chain,
        "a12@example.org": ["bob+list@example.org"],
        "all@example.org": ["a0+news@example.org", "info@example.org", "friend@far.example", "bob+list@example.org"],
        "@example.net": ["all@example.org"],
        "any@example.org": ["nobody@example.net"],
    }
    routes = book([ALICE, BOB], aliases).routes()
    everybody = ["bob+list@example.org", "alice@example.org", "friend@far.example"]
    assert routes["alice@example.org"] == ["vmail"]
    assert routes["a0@example.org"] == routes["a12@example.org"] == ["bob+list@example.org"]
    assert routes["all@example.org"] == routes["@example.net"] == routes["any@example.org"] == everybody


@pytest.mark.parametrize("members", [70, 100, 1000, 20_000])
def test_a_long_list_is_divided(members: int) -> None:
    everybody = [f"o'member{number:05}@elsewhere.example" for number in range(members)]
    taken = {"all--1@example.org": ["bob@example.org"]}
    routes = book([BOB], {"all@example.org": everybody, **taken}).routes()
    assert routes["all--1@example.org"] == ["bob@example.org"]
    text = address_book.virtuals_text(routes)
    assert all(len(line.partition(" ")[2]) < 2048 for line in text.splitlines())

    def reached(name: str, depth: int = 0) -> list[str]:
        assert depth < 5
        return [end for part in routes.get(name, []) for end in (reached(part, depth + 1) or [part])]

    assert reached("all@example.org") == everybody


def test_an_apostrophe_in_a_value_is_no_quotation() -> None:
    text = address_book.virtuals_text({"o'neill@example.org": ["o'brien@example.org", "bob@example.org"]})
    assert text == "o'neill@example.org o\\'brien@example.org, bob@example.org\n"


@given(
    st.lists(
        st.fixed_dictionaries({"address": own_addresses, "aliases": st.lists(own_addresses, max_size=3)}), max_size=5
    ),
    st.dictionaries(own_addresses, st.lists(own_addresses, min_size=1, max_size=3), max_size=5),
)
def test_table_texts_can_be_read_back(accounts: list[dict[str, Any]], aliases: dict[str, list[str]]) -> None:
    """Each line is one key, a space, and values with commas between, as table(5) has it."""
    assume(len({a["address"].lower() for a in accounts}) == len(accounts))
    found = book(accounts, aliases)
    for table in (found.virtuals, found.senders()):
        text = address_book.table_text(table)
        lines = [line.split(" ", 1) for line in text.splitlines()]
        assert {key: values.split(", ") for key, values in lines} == table
        assert len(lines) == len(table)
        assert text == text.lower()
        assert all(syntax.is_address(key) for key in table)


def test_keys_that_sign_and_those_beside_them() -> None:
    own = {"name": "example.com", "dkim_selector": "S1", "dkim_published_selectors": ["s0", "s1"]}
    given = ("Example.org", "mail", ["Example.net", own], "mail.elsewhere.test")

    def names(signs: bool, algorithm: str = "rsa", **more: Any) -> list[tuple[str, str]]:
        keys = address_book.dkim_keys(*given, **more)
        return [(k["domain"], k["selector"]) for k in keys if k["signs"] is signs and k["algorithm"] == algorithm]

    [first, *_] = address_book.dkim_keys(*given)
    assert first == {
        "domain": "example.org",
        "selector": "mail",
        "path": "/etc/dkimproxy/keys/example.org.mail.pem",
        "algorithm": "rsa",
        "signs": True,
    }
    signing = [
        ("example.org", "mail"),
        ("example.net", "mail"),
        ("example.com", "s1"),
        ("mail.elsewhere.test", "mail"),
    ]
    assert names(True) == signing
    assert names(False) == [("example.com", "s0")]
    assert names(True, "ed25519") == names(False, "ed25519") == []
    both = {"published": ["next", "Mail"], "ed25519": True}
    published = [
        ("example.org", "next"),
        ("example.net", "next"),
        ("example.com", "s0"),
        ("mail.elsewhere.test", "next"),
    ]
    assert (names(True, **both), names(False, **both)) == (signing, published)
    for signs, others in ((True, signing), (False, published)):
        second = [(domain, f"{selector}-ed25519") for domain, selector in others]
        assert names(signs, "ed25519", **both) == second
    [_rsa, key, *_] = address_book.dkim_keys(*given, **both)
    assert key["path"] == "/etc/dkimproxy/keys/example.org.mail-ed25519.pem"


def test_sieve_scripts_become_files() -> None:
    accounts = [{"address": "Alice@example.org", "sieve": "keep;"}, {"address": "bob@example.org"}]
    path = "/scripts/alice@example.org.sieve"
    assert address_book.sieve_files(accounts, "/scripts") == [{"dest": path, "content": "keep;\n", "on_change": "none"}]


@pytest.mark.parametrize(("text", "size"), [("5G", 5 * 2**30), ("1k", 1024), ("7", 7), ("", 0), (None, 0), ("much", 0)])
def test_sizes(text: str | None, size: int) -> None:
    assert address_book.size_bytes(text) == size
