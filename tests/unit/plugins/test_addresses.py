# SPDX-License-Identifier: GPL-3.0-or-later
"""The tables that OpenSMTPD, Dovecot and the signing proxy read."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.selfhosted.mail.plugins.module_utils import addresses, names
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
    assert addresses.domain_names("Example.org", ["Example.net", {"name": "Example.com", "dkim_selector": "s"}]) == [
        "example.org",
        "example.net",
        "example.com",
    ]


def test_the_hosts_own_name_is_accepted_once() -> None:
    assert addresses.accepted_domains(DOMAINS, "Mail.example.org") == [*DOMAINS, HOST]
    assert addresses.accepted_domains(DOMAINS, "example.org") == DOMAINS


def test_virtual_table() -> None:
    table = addresses.virtual_table(
        [ALICE, BOB],
        {"Team@example.org": ["alice@example.org", "Friend@far.example"], "@example.net": ["bob@example.org"]},
        DOMAINS,
        HOST,
        "alice@example.org",
    )
    assert table["alice@example.org"] == ["vmail"]
    assert table["info@example.org"] == table["a@example.net"] == ["alice@example.org"]
    assert table["team@example.org"] == ["alice@example.org", "friend@far.example"]
    assert table["@example.net"] == ["bob@example.org"]
    assert table[f"root@{HOST}"] == table["postmaster@example.net"] == ["alice@example.org"]


def test_system_addresses_that_somebody_has_stay_theirs() -> None:
    accounts = [{"address": "postmaster@example.org"}, BOB]
    table = addresses.virtual_table(
        accounts, {"abuse@example.org": ["bob@example.org"]}, DOMAINS, HOST, "Postmaster@example.org"
    )
    assert table["postmaster@example.org"] == ["vmail"]
    assert table["abuse@example.org"] == ["bob@example.org"]
    assert table["abuse@example.net"] == ["postmaster@example.org"]


def test_a_login_may_use_its_names_and_the_aliases_that_lead_to_it_alone() -> None:
    aliases = {
        "Sales@example.org": ["Bob@example.org"],
        "team@example.org": ["bob@example.org", "alice@example.org"],
        "@example.net": ["bob@example.org"],
        "far@example.org": ["friend@far.example"],
    }
    assert addresses.sender_table([ALICE, BOB], aliases) == {
        "alice@example.org": ["alice@example.org", "info@example.org", "a@example.net"],
        "bob@example.org": ["bob@example.org", "sales@example.org"],
    }



@given(
    st.lists(
        st.fixed_dictionaries({"address": own_addresses, "aliases": st.lists(own_addresses, max_size=3)}), max_size=5
    ),
    st.dictionaries(own_addresses, st.lists(own_addresses, min_size=1, max_size=3), max_size=5),
)
def test_table_texts_can_be_read_back(accounts: list[dict[str, Any]], aliases: dict[str, list[str]]) -> None:
    """Each line is one key, a space, and values with commas between, as table(5) has it."""
    assume(len({a["address"].lower() for a in accounts}) == len(accounts))
    virtuals = addresses.virtual_table(accounts, aliases, DOMAINS, HOST, "alice@example.org")
    for table in (virtuals, addresses.sender_table(accounts, aliases)):
        text = addresses.table_text(table)
        lines = [line.split(" ", 1) for line in text.splitlines()]
        assert {key: values.split(", ") for key, values in lines} == table
        assert len(lines) == len(table)
        assert text == text.lower()
        assert all(names.is_address(key) for key in table)


def test_sieve_scripts_become_files_that_are_checked() -> None:
    accounts = [{"address": "Alice@example.org", "sieve": "keep;"}, {"address": "bob@example.org"}]
    path = "/scripts/alice@example.org.sieve"
    assert addresses.sieve_files(accounts, "/scripts") == [{"path": path, "content": "keep;\n", "on_change": "none"}]
    (check,) = addresses.sieve_checks(accounts, "/scripts")
    assert check["when_changed"] == [path]
    assert path in check["argv"]


@pytest.mark.parametrize(("text", "size"), [("5G", 5 * 2**30), ("1k", 1024), ("7", 7), ("", 0), (None, 0), ("much", 0)])
def test_sizes(text: str | None, size: int) -> None:
    assert addresses.size_bytes(text) == size
