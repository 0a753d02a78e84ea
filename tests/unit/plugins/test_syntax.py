# SPDX-License-Identifier: GPL-3.0-or-later
"""Valid and invalid domains, selectors and addresses."""

from __future__ import annotations

import pytest
from ansible_collections.selfhosted.mail.plugins.module_utils import syntax


@pytest.mark.parametrize(
    "name",
    [
        "example.org",
        "EXAMPLE.org",
        "a.b",
        "xn--bcher-kva.example",
        "1.example",
        "my-host.example.org",
        f"{'a' * 63}.org",
        ".".join(["a" * 61] * 4) + ".abcd",
    ],
)
def test_domains(name: str) -> None:
    assert syntax.is_domain(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "org",
        "example.org.",
        ".example.org",
        "exa mple.org",
        "example..org",
        "-a.org",
        "a-.org",
        "exa_mple.org",
        "bücher.example",
        f"{'a' * 64}.org",
        "a." * 126 + "org",
        "198.51.100.7",
        "example.org\n",
        "a/b.org",
        None,
        7,
        ["a.org"],
    ],
)
def test_no_domains(name: object) -> None:
    assert not syntax.is_domain(name)


@pytest.mark.parametrize("name", ["mail", "2026", "s1-rsa", "2026.mail", "a" * 63])
def test_selectors(name: str) -> None:
    assert syntax.is_selector(name)


@pytest.mark.parametrize(
    "name",
    ["", "a b", "a_b", "-a", "a-", "a..b", ".", "a" * 64, f"{'a' * 60}.bcd", "ü", "a/b", "a;b", "mail\n", 2026, None],
)
def test_no_selectors(name: object) -> None:
    assert not syntax.is_selector(name)


@pytest.mark.parametrize("address", ["alice@example.org", "a.b-c_d=e~f'g@example.org", "O'Neill@example.org"])
def test_own_addresses(address: str) -> None:
    assert syntax.is_own_address(address)
    assert syntax.is_address(address)


@pytest.mark.parametrize(
    "address", ["alice+list@example.org", "a/b@example.org", "a%b@example.org", "a$b@example.org", "a=b+@example.org"]
)
def test_addresses_that_only_others_may_have(address: str) -> None:
    assert not syntax.is_own_address(address)


@pytest.mark.parametrize("address", ["alice+list@example.org", "a!b@example.org", "a{b}@example.org"])
def test_addresses_of_others(address: str) -> None:
    assert syntax.is_address(address)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "alice",
        "@example.org",
        "alice@",
        "alice@org",
        "a@b@example.org",
        ".a@example.org",
        "a.@example.org",
        "a..b@example.org",
        "a b@example.org",
        '"a b"@example.org',
        "a,b@example.org",
        "a:b@example.org",
        "bücher@example.org",
        f"{'a' * 65}@example.org",
        "alice@example.org\n",
        "al\nice@example.org",
        "|cat@example.org",
        "-x@[198.51.100.7]",
        "-x@example.org",
        "~root@example.org",
        None,
        5,
    ],
)
def test_no_addresses(address: object) -> None:
    assert not syntax.is_address(address)
    assert not syntax.is_own_address(address)


def test_names_under_a_domain() -> None:
    assert syntax.is_under("Mail.Example.org", "example.ORG")
    assert syntax.is_under("example.org", "example.org")
    assert not syntax.is_under("mailexample.org", "example.org")
    assert not syntax.is_under("example.org", "mail.example.org")


def test_domain_of_an_address() -> None:
    assert syntax.domain_of("Alice@Example.ORG") == "example.org"
