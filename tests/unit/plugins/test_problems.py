# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad input gets one sentence that begins with the variable's name; good input gets none."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.selfhosted.mail.plugins.module_utils.problems import problems, release_problems
from hypothesis import given
from hypothesis import strategies as st

HASH = "$6$0123456789abcdef$" + "a" * 86
SECRET = "hunter2-hunter2"

GOOD: dict[str, Any] = {
    "domain": "example.org",
    "hostname": "mail.example.org",
    "dkim_selector": "mail",
    "dkim_published_selectors": ["next"],
    "additional_domains": [
        "example.net",
        {"name": "example.com", "dkim_selector": "s2026", "dkim_published_selectors": ["s2027"]},
    ],
    "ed25519": True,
    "signature_lifetime": 0,
    "senders_file": "/etc/selfhosted-mail/senders",
    "config_file": "",
    "legacy": "error",
    "relay_host": "smtp.provider.example",
    "relay_port": 587,
    "relay_max_connections": "10",
    "relay_tls": "starttls",
    "relay_username": "me@example.org",
    "relay_password": "p:a#s@s \"w'o\\r{{d",
    "relay_spf": "include:spf.provider.example",
    "accounts": [
        {"address": "alice@example.org", "password_hash": HASH, "aliases": ["info@example.org"], "quota": "5G"},
        {"address": "bob@example.net", "password": "pässwörd", "enabled": True, "sieve": "keep;\n"},
        {
            "address": "shop@example.org",
            "password_hash": HASH,
            "send_only": True,
            "send_as": ["News@example.org", "@example.net"],
        },
    ],
    "aliases": {
        "team@example.org": ["alice@example.org", "bob+list@example.net", "friend@far.example"],
        "chief@example.org": ["team@example.org"],
        "@example.com": ["alice@example.org"],
        "cron@example.org": ["root@mail.example.org"],
        "any@example.org": ["whatever@example.com"],
        "twin@example.org": ["bob@example.net", "team@example.com"],
        "shop@example.org": ["alice@example.org"],
    },
    "domain_aliases": {"example.com": "example.org"},
    "forward_via": "relay",
    "admin_address": "info@example.org",
    "tls_mode": "selfsigned",
    "tls_certificate_file": "",
    "tls_private_key_file": "",
    "dmarc_policy": "none",
    "dmarc_rua": "",
    "dmarc_ruf": "reports@far.example",
}
FILES = {"tls_mode": "files", "tls_certificate_file": "/etc/ssl/mail.pem", "tls_private_key_file": "/etc/ssl/mail.key"}
ALICE: dict[str, Any] = {"address": "alice@example.org", "password_hash": HASH}


def accounts(*more: Any, **changed: Any) -> dict[str, Any]:
    return {"accounts": [{**ALICE, **changed}, *more], "aliases": {}, "admin_address": "", "domain_aliases": {}}


BAD: list[tuple[str, dict[str, Any], str]] = [
    # variable named, what differs from GOOD, a part of the sentence
    ("domain", {"domain": ""}, "no domain name"),
    ("domain", {"domain": "example"}, "no domain name"),
    ("domain", {"domain": "exam ple.org"}, "no domain name"),
    ("domain", {"domain": "198.51.100.7"}, "no domain name"),
    ("domain", {"domain": 7}, "no domain name"),
    ("hostname", {"hostname": "mail"}, "no full host name"),
    ("hostname", {"hostname": "mail_1.example.org"}, "no full host name"),
    ("hostname", {"hostname": None}, "no full host name"),
    ("additional_domains", {"additional_domains": "example.net"}, "is no list"),
    ("additional_domains", {"additional_domains": ["-x.example"]}, "no domain name"),
    ("additional_domains", {"additional_domains": [None]}, "no domain name"),
    ("additional_domains", {"additional_domains": ["example.net", "Example.NET"]}, "there twice"),
    ("additional_domains", {"additional_domains": ["example.org"]}, "there twice"),
    (
        "additional_domains",
        {"additional_domains": [{"name": "example.net", "selector": "a"}]},
        "unknown key 'selector'",
    ),
    ("additional_domains", {"additional_domains": [{"name": "example.net", "dkim_selector": "a b"}]}, "DNS label"),
    ("dkim_selector", {"dkim_selector": "my selector"}, "DNS label"),
    ("dkim_selector", {"dkim_selector": "s" * 64}, "DNS label"),
    ("dkim_selector", {"dkim_selector": 2026}, "DNS label"),
    ("dkim_published_selectors", {"dkim_published_selectors": "next"}, "is no list"),
    ("dkim_published_selectors", {"dkim_published_selectors": ["a b"]}, "'a b' cannot be a DNS label"),
    (
        "additional_domains",
        {"additional_domains": [{"name": "example.net", "dkim_published_selectors": ["_"]}]},
        "dkim_published_selectors of example.net: '_' cannot be",
    ),
    ("dkim_selector", {"dkim_selector": "a-ed25519"}, "ends in -ed25519"),
    ("dkim_selector", {"dkim_selector": "s" * 56}, "too long"),
    ("dkim_published_selectors", {"dkim_published_selectors": ["a-ed25519"]}, "ends in -ed25519"),
    (
        "additional_domains",
        {"additional_domains": [{"name": "example.net", "dkim_selector": "a-ed25519"}]},
        "ends in -ed25519",
    ),
    ("signature_lifetime", {"signature_lifetime": -1}, "no number of seconds"),
    ("senders_file", {"senders_file": "senders"}, "no absolute path"),
    ("senders_file", {"senders_file": "/etc/my senders"}, "no absolute path"),
    ("ed25519", {"config_file": "own.conf"}, "write the second signature into that file"),
    ("signature_lifetime", {"config_file": "own.conf", "signature_lifetime": 600}, "write x= into"),
    ("legacy", {"legacy": "ignore"}, "nothing old to ignore"),
    ("relay_host", {"relay_host": "198.51.100.25"}, "no host name"),
    ("relay_host", {"relay_host": "smtp provider"}, "no host name"),
    ("relay_port", {"relay_port": 0}, "no port"),
    ("relay_max_connections", {"relay_max_connections": 0}, "no number from 1 to 100"),
    ("relay_max_connections", {"relay_max_connections": 101}, "no number from 1 to 100"),
    ("relay_max_connections", {"relay_max_connections": "many"}, "no number from 1 to 100"),
    ("relay_max_connections", {"relay_max_connections": None}, "no number from 1 to 100"),
    ("relay_port", {"relay_port": 65536}, "no port"),
    ("relay_port", {"relay_port": "smtp"}, "no port"),
    ("relay_port", {"relay_port": -587}, "no port"),
    ("relay_port", {"relay_port": None}, "no port"),
    ("relay_tls", {"relay_tls": "none"}, "none of starttls, smtps"),
    ("relay_username", {"relay_username": ""}, "is needed"),
    ("relay_username", {"relay_username": "a:b"}, "colon"),
    ("relay_username", {"relay_username": 4711}, "no text"),
    ("relay_password", {"relay_password": ""}, "is needed"),
    ("relay_password", {"relay_password": None}, "is needed"),
    ("relay_password", {"relay_password": f"{SECRET}\n"}, "cannot be printed"),
    ("relay_password", {"relay_password": f"{SECRET} "}, "ends with a space"),
    ("relay_password", {"relay_password": 123456}, "no text"),
    ("relay_password", {"relay_password": SECRET * 40}, "longer than"),
    ("relay_spf", {"relay_spf": "v=spf1 include:spf.provider.example -all"}, "no list of SPF terms"),
    ("relay_spf", {"relay_spf": "include:a.example -all"}, "no list of SPF terms"),
    ("relay_spf", {"relay_spf": ["include:a.example"]}, "no list of SPF terms"),
    ("accounts", {"accounts": []}, "at least one account"),
    ("accounts", {"accounts": "alice@example.org"}, "at least one account"),
    ("accounts", accounts({"password_hash": HASH}), "entry 2 has no address"),
    ("accounts", accounts("bob@example.org"), "entry 2 has no address"),
    ("accounts", accounts({"address": "bob", "password_hash": HASH}), "'bob' is no address"),
    ("accounts", accounts({"address": "bob+x@example.org", "password_hash": HASH}), "is no address"),
    ("accounts", accounts({"address": "bücher@example.org", "password_hash": HASH}), "is no address"),
    ("accounts", accounts({"address": "bob@far.example", "password_hash": HASH}), "outside our domains"),
    ("accounts", accounts({"address": "Alice@Example.org", "password_hash": HASH}), "there twice"),
    (
        "accounts",
        accounts({"address": "bob@example.org", "password_hash": HASH, "aliases": ["alice@example.org"]}),
        "there twice",
    ),
    ("accounts", accounts(aliases=["x@far.example"]), "outside our domains"),
    ("accounts", accounts(aliases="info@example.org"), "aliases of alice@example.org is no list"),
    ("accounts", accounts(aliases=["info"]), "'info' is no address"),
    ("accounts", accounts(password_hash=""), "neither password_hash nor password"),
    ("accounts", accounts(password=SECRET), "both password and password_hash"),
    ("accounts", accounts(password_hash=SECRET), "no crypt(5) hash"),
    ("accounts", accounts(password_hash=f"{HASH}:x"), "no crypt(5) hash"),
    ("accounts", accounts(password_hash=f"$6$a;b${'a' * 86}"), "no crypt(5) hash"),
    ("accounts", accounts(password_hash=f"$6$a\\b${'a' * 86}"), "no crypt(5) hash"),
    ("accounts", accounts(password_hash=None, password=f"{SECRET}\n"), "cannot be printed"),
    ("accounts", accounts(password_hash=None, password=123456), "neither password_hash nor password (in quotes)"),
    ("accounts", accounts(quota="much"), "quota of alice@example.org is 'much'"),
    ("accounts", accounts(sieve=["keep;"]), "sieve of alice@example.org is no text"),
    ("accounts", accounts(sieve=" "), "sieve of alice@example.org is no text"),
    ("accounts", accounts(quota=0), "quota of alice@example.org is 0"),
    ("accounts", accounts(passwort="x"), "unknown key 'passwort'"),
    ("aliases", {"aliases": ["team@example.org"]}, "mapping"),
    ("aliases", {"aliases": {"team@example.org": []}}, "points nowhere"),
    ("aliases", {"aliases": {"team@example.org": "alice@example.org"}}, "points nowhere"),
    ("aliases", {"aliases": {"team@example.org": ["carol@example.org"]}}, "carol@example.org is neither"),
    ("aliases", {"aliases": {"team@example.org": ["carol@mail.example.org"]}}, "carol@mail.example.org is neither"),
    ("aliases", {"aliases": {"team@example.org": ["alice"]}}, "no mail address"),
    ("aliases", {"aliases": {"team@example.org": ["|/bin/sh@example.org"]}}, "no mail address"),
    ("aliases", {"aliases": {"team": ["alice@example.org"]}}, "'team' is no address"),
    ("aliases", {"aliases": {"team@far.example": ["alice@example.org"]}}, "outside our domains"),
    ("aliases", {"aliases": {"@far.example": ["alice@example.org"]}}, "catch-all of no domain"),
    ("aliases", {"aliases": {"Alice@example.org": ["bob@example.net"]}}, "also an address of the account"),
    (
        "aliases",
        {"aliases": {"a@example.org": ["bob@example.net"], "A@example.org": ["bob@example.net"]}},
        "there twice",
    ),
    (
        "aliases",
        {"aliases": {"a@example.org": ["b@example.org"], "b@example.org": ["a@example.org"]}},
        "a@example.org leads to b@example.org leads to a@example.org: a loop",
    ),
    ("aliases", {"aliases": {"a@example.org": ["a@example.org"]}}, "a loop"),
    ("aliases", {"aliases": {"a@example.org": ["a@example.com"]}}, "a@example.org leads to a@example.org: a loop"),
    ("aliases", {"aliases": {"@example.net": ["x@example.net"]}}, "a loop"),
    ("aliases", {"forward_via": "refuse"}, "team@example.org leads outside, to friend@far.example"),
    ("forward_via", {"forward_via": "maybe"}, "none of relay, direct, refuse"),
    ("forward_via", {"relay_host": ""}, "there is none"),
    ("domain_aliases", {"domain_aliases": ["example.com"]}, "no mapping"),
    ("domain_aliases", {"domain_aliases": {"far.example": "example.org"}}, "additional_domains"),
    ("domain_aliases", {"domain_aliases": {"example.com": "far.example"}}, "additional_domains"),
    (
        "domain_aliases",
        {"domain_aliases": {"example.com": "example.net", "example.net": "example.org"}},
        "which leads on",
    ),
    ("accounts", accounts(enabled="perhaps"), "enabled of alice@example.org is 'perhaps'"),
    ("accounts", accounts(enabled=False), "none of them takes mail"),
    ("accounts", accounts(send_as="x@example.org"), "send_as of alice@example.org is no list"),
    ("accounts", accounts(send_as=["x@far.example"]), "outside our domains"),
    ("accounts", accounts(send_as=["@far.example"]), "no domain of ours"),
    ("accounts", accounts(sieve=["keep;"]), "sieve of alice@example.org is no text"),
    ("accounts", accounts(password_hash=HASH[:-1]), "no crypt(5) hash"),
    ("accounts", accounts(password_hash="$1$abcdefgh$" + "a" * 22), "no crypt(5) hash"),
    ("accounts", accounts(password_hash=f"{{SHA512-CRYPT}}{HASH}"), "without {SCHEME}"),
    ("admin_address", {"admin_address": "shop@example.org", "aliases": {}}, "takes no mail"),
    ("admin_address", {"admin_address": "root"}, "no mail address"),
    ("admin_address", {"admin_address": "carol@example.org"}, "neither an account nor an alias"),
    ("tls_mode", {"tls_mode": "letsencrypt"}, "none of selfsigned, files"),
    ("tls_certificate_file", {**FILES, "tls_certificate_file": ""}, "absolute path"),
    ("tls_certificate_file", {**FILES, "tls_certificate_file": "mail.pem"}, "absolute path"),
    ("tls_private_key_file", {**FILES, "tls_private_key_file": None}, "absolute path"),
    ("tls_private_key_file", {**FILES, "tls_private_key_file": '/etc/ssl/my "key"'}, "quote"),
    ("dmarc_policy", {"dmarc_policy": "drop"}, "none of none, quarantine, reject"),
    ("dmarc_rua", {"dmarc_rua": "mailto:a@example.org"}, "no mail address"),
    ("dmarc_ruf", {"dmarc_ruf": "me"}, "no mail address"),
]


def test_good_values_have_no_problems() -> None:
    assert problems(GOOD) == []
    assert (
        problems({**GOOD, **FILES, "dmarc_policy": "quarantine", "dmarc_rua": "r@far.example", "relay_port": "465"})
        == []
    )


def test_no_relay_needs_no_credentials() -> None:
    nothing = {"relay_host": "", "relay_username": "", "relay_password": ""}
    assert problems({**GOOD, **nothing, "forward_via": "direct"}) == []


@pytest.mark.parametrize(("variable", "changed", "said"), BAD, ids=[f"{bad[0]}-{bad[2][:30]}" for bad in BAD])
@pytest.mark.parametrize("prefix", ["mail_", "opensmtpd_"])
def test_bad_values(variable: str, changed: dict[str, Any], said: str, prefix: str) -> None:
    found = problems({**GOOD, **changed}, prefix)
    assert [sentence for sentence in found if sentence.startswith(f"{prefix}{variable}: ") and said in sentence], found
    assert all(sentence.startswith(prefix) and "\n" not in sentence for sentence in found)
    assert not any(SECRET in sentence or HASH in sentence for sentence in found)
    assert len(found) == len(set(found))


@pytest.mark.parametrize("key", GOOD)
def test_what_a_role_does_not_have_is_not_checked(key: str) -> None:
    given = {name: value for name, value in GOOD.items() if name != key}
    missing_matters = {
        "additional_domains": {"accounts", "aliases", "admin_address", "domain_aliases"},
        "domain": {"accounts", "aliases", "domain_aliases"},
        "relay_port": {"relay_port"},
        "relay_username": {"relay_username"},
        "relay_password": {"relay_password"},
        "hostname": {"aliases"},
        "aliases": {"admin_address"},
    }
    assert {sentence.split(":")[0].removeprefix("mail_") for sentence in problems(given)} <= missing_matters.get(
        key, set()
    )


yaml_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("alice@example.org"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=8)
            | st.sampled_from(
                ["address", "aliases", "password", "password_hash", "quota", "sieve", "name", "dkim_selector",
                 "@example.org"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(GOOD)), yaml_values))
def test_any_value_gets_sentences_and_never_an_exception(values: dict[str, Any]) -> None:
    for sentence in problems({**GOOD, **values}):
        assert sentence.removeprefix("mail_").split(":")[0] in GOOD


def test_supported_releases() -> None:
    for version in ("12", "13"):
        assert release_problems({"distribution": "Debian", "distribution_major_version": version}) == []


@pytest.mark.parametrize(
    ("distribution", "version"), [("Debian", "11"), ("Debian", "14"), ("Ubuntu", "24"), (None, None)]
)
def test_unsupported_releases(distribution: str | None, version: str | None) -> None:
    [sentence] = release_problems(
        {"distribution": distribution, "distribution_major_version": version, "distribution_version": f"{version}.1"}
    )
    assert f"{distribution} {version}.1" in sentence
    assert "Debian 12 and Debian 13" in sentence
