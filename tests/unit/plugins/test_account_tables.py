# SPDX-License-Identifier: GPL-3.0-or-later
"""The tables of accounts and addresses, written into a real directory."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.mail.plugins.modules import account_tables
from ansible_collections.selfhosted.mail.plugins.plugin_utils.validation import problems

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the tables belong to root")

Tables = Callable[..., dict[str, Any]]
HASH = "$6$0123456789abcdef$" + "a" * 86
PASSWORD = "alice's pass:wörd #1"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "selfhosted-mail"


@pytest.fixture
def tables(run_module: Callable[..., dict[str, Any]], directory: Path, monkeypatch: pytest.MonkeyPatch) -> Tables:
    # This machine needs no user vmail.
    monkeypatch.setattr(account_tables, "MAILBOXES", account_tables.Access("root", "root", "0700"))

    def run(accounts: list[dict[str, Any]], check: bool = False, **options: Any) -> dict[str, Any]:
        return run_module(
            account_tables.main,
            check,
            directory=str(directory),
            accounts_json=json.dumps(accounts),
            mail_dir=str(directory.parent / "vmail"),
            **{"domains": ["example.org"], "hostname": "mail.example.org", "admin": "alice@example.org", **options},
        )

    return run


def written_hash(directory: Path, login: str) -> str:
    """The hash of ``login`` in passwd; OpenSMTPD has the same."""
    rows = [line.split(":") for line in (directory / "passwd").read_text().splitlines()]
    return next(row[1] for row in rows if row[0] == login)


def openssl_says(password: str, salt: str) -> str:
    """SHA512-CRYPT of ``password`` by a program that is not ours."""
    return subprocess.run(
        ["openssl", "passwd", "-6", "-salt", salt, "-stdin"], input=password, text=True, check=True, capture_output=True
    ).stdout.strip()


def test_files(tables: Tables, directory: Path) -> None:
    result = tables(
        [
            {"address": "Alice@Example.org", "password_hash": HASH, "aliases": ["info@example.org"]},
            {"address": "bob@example.org", "password_hash": HASH},
        ],
        aliases={"team@example.org": ["alice@example.org", "bob@example.org"]},
    )
    assert result["changed"]
    assert (directory / "passwd").read_text() == f"alice@example.org:{HASH}:::::\nbob@example.org:{HASH}:::::\n"
    credentials = (directory / "credentials").read_text()
    assert credentials == f"alice@example.org {HASH}\nbob@example.org {HASH}\n"
    assert (directory / "senders").read_text() == (
        "alice@example.org alice@example.org, info@example.org\nbob@example.org bob@example.org\n"
    )
    assert (directory / "recipients-per-hour").read_text() == "* 1000\n"
    assert (directory / "domains").read_text() == "example.org\nmail.example.org\n"
    virtuals = (directory / "virtuals").read_text().splitlines()
    assert {
        "alice@example.org vmail",
        "info@example.org alice@example.org",
        "team@example.org alice@example.org, bob@example.org",
        "root@mail.example.org alice@example.org",
    } < set(virtuals)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
    public = dict.fromkeys(
        ("accounts", "senders", "virtuals", "recipients", "closed", "domains", "recipients-per-hour"), 0o644
    )
    assert modes == {"passwd": 0o440, "credentials": 0o440, **public}
    assert stat.S_IMODE(directory.stat().st_mode) == 0o755


def test_a_second_run_changes_nothing_and_a_change_only_its_file(tables: Tables, directory: Path) -> None:
    accounts = [{"address": "alice@example.org", "password_hash": HASH}]
    tables(accounts)
    second = tables(accounts)
    assert not second["changed"]
    assert second["changed_paths"] == second["diff"] == []
    (directory / "senders").chmod(0o600)
    assert tables(accounts)["changed_paths"] == [str(directory / "senders")]
    assert tables([{**accounts[0], "password_hash": HASH.replace("$a", "$b")}])["changed_paths"] == [
        str(directory / "passwd"),
        str(directory / "credentials"),
    ]


def test_the_hash_of_a_password_is_right_and_stays(tables: Tables, directory: Path) -> None:
    accounts = [{"address": "alice@example.org", "password": PASSWORD}]
    tables(accounts)
    first = written_hash(directory, "alice@example.org")
    assert first == openssl_says(PASSWORD, first.split("$")[2])
    assert not tables(accounts)["changed"]
    assert written_hash(directory, "alice@example.org") == first
    assert tables([{"address": "alice@example.org", "password": "another"}])["changed"]
    second = written_hash(directory, "alice@example.org")
    assert second == openssl_says("another", second.split("$")[2])


def test_salts_differ(tables: Tables, directory: Path) -> None:
    tables([{"address": f"{name}@example.org", "password": PASSWORD} for name in ("alice", "bob")])
    assert written_hash(directory, "alice@example.org") != written_hash(directory, "bob@example.org")


# One for each scheme that preflight accepts, with any salt.
SETTINGS = {
    "$2a$": "$2a$05$abcdefghijklmnopqrstuu",
    "$2b$": "$2b$05$abcdefghijklmnopqrstuu",
    "$2y$": "$2y$05$abcdefghijklmnopqrstuu",
    "$5$": "$5$saltsalt$",
    "$6$": "$6$saltsalt$",
    "$y$": "$y$j75$saltsaltsaltsaltsalts1$",
    "$gy$": "$gy$j75$saltsaltsaltsaltsalts1$",
    "$7$": "$7$BU..../....saltsalt$",
}


@pytest.mark.parametrize("scheme", ["$2b$", "$y$", "$5$"])
def test_a_hash_of_another_scheme_is_kept_when_the_password_matches(tables: Tables, scheme: str) -> None:
    [hashed] = account_tables.crypts([(PASSWORD, SETTINGS[scheme])])
    assert hashed.startswith(scheme)
    tables([{"address": "alice@example.org", "password_hash": hashed}])
    assert not tables([{"address": "alice@example.org", "password": PASSWORD}])["changed"]


@pytest.mark.parametrize("scheme", SETTINGS)
def test_preflight_takes_what_crypt_makes(scheme: str) -> None:
    [hashed] = account_tables.crypts([(PASSWORD, SETTINGS[scheme])])
    assert hashed.startswith(scheme)
    for text, good in ((hashed, True), (hashed[:-1], False), (f"{{CRYPT}}{hashed}", False), (f"{hashed} ", False)):
        account = {"address": "a@example.org", "password_hash": text}
        found = problems({"mail_domain": "example.org", "mail_accounts": [account]})
        assert (found == []) is good, text


def test_who_only_sends_has_no_mailbox_and_who_is_not_enabled_no_login(tables: Tables, directory: Path) -> None:
    accounts = [{"address": f"{name}@example.org", "password_hash": HASH} for name in ("alice", "gone", "shop")]
    tables(accounts)
    result = tables([accounts[0], {**accounts[1], "enabled": False}, {**accounts[2], "send_only": True}])
    assert result["closed_logins"] == ["gone@example.org", "shop@example.org"]
    assert (directory / "passwd").read_text() == (
        f"alice@example.org:{HASH}:::::\nshop@example.org:{HASH}::::::nologin=yes\n"
    )
    assert (directory / "closed").read_text() == "gone@example.org\nshop@example.org\n"
    assert (directory / "credentials").read_text() == f"alice@example.org {HASH}\nshop@example.org {HASH}\n"
    assert tables(accounts[:1])["closed_logins"] == [], "it had no mailbox before"
    tables([{**accounts[0], "enabled": False}])
    assert (directory / "credentials").read_text() == "nobody@invalid *\n"


def test_recipients_in_an_hour(tables: Tables, directory: Path) -> None:
    accounts = [
        {"address": "Alice@example.org", "password_hash": HASH, "recipients_per_hour": "50"},
        {"address": "bob@example.org", "password_hash": HASH, "recipients_per_hour": 0},
        {"address": "carol@example.org", "password_hash": HASH, "recipients_per_hour": None},
    ]
    tables(accounts)
    assert tables(accounts, recipients_per_hour=300)["changed_paths"] == [str(directory / "recipients-per-hour")]
    assert (directory / "recipients-per-hour").read_text() == "* 300\nalice@example.org 50\nbob@example.org 0\n"


def test_mailboxes_without_an_account_are_named(tables: Tables, directory: Path) -> None:
    for box in ("alice", "bob"):
        (directory.parent / "vmail" / "example.org" / box).mkdir(parents=True)
    # A link of the mailboxes' user is not a mailbox.
    (directory.parent / "vmail" / "other.example").symlink_to("/")
    (directory.parent / "vmail" / "example.org" / "carol").symlink_to("/etc")
    accounts = [{"address": "alice@example.org", "password_hash": HASH}]
    assert tables(accounts)["left_mailboxes"] == ["bob@example.org"]
    assert (directory.parent / "vmail" / "example.org" / "bob").exists()


def test_check_mode_writes_nothing(tables: Tables, directory: Path) -> None:
    result = tables([{"address": "alice@example.org", "password": PASSWORD}], check=True)
    assert result["changed"]
    assert len(result["changed_paths"]) == 9
    assert not directory.exists()


def test_an_account_without_a_password(tables: Tables, directory: Path) -> None:
    result = tables([{"address": "alice@example.org"}])
    assert result["failed"]
    assert result["msg"].startswith("accounts: alice@example.org has neither")
    assert not directory.exists()


def test_the_result_shows_neither_password_nor_hash(tables: Tables, directory: Path) -> None:
    result = str(
        tables(
            [
                {"address": "alice@example.org", "password": PASSWORD},
                {"address": "bob@example.org", "password_hash": HASH},
            ]
        )
    )
    assert "alice@example.org vmail" in result, "the diff of tables without secrets is shown"
    for secret in (PASSWORD, "wörd #1", HASH, written_hash(directory, "alice@example.org")):
        assert secret not in result
    changed = str(tables([{"address": "alice@example.org", "password": "another-secret"}]))
    assert "another-secret" not in changed
    assert HASH not in changed


@pytest.mark.parametrize("options", [[], ["--check"]])
def test_a_run_with_every_verbosity_and_diff_shows_no_secret(
    playbook: Callable[..., Any], directory: Path, options: list[str]
) -> None:
    done = playbook(
        [
            {
                "name": "Accounts are rendered",
                "selfhosted.mail.account_tables": {
                    "directory": str(directory),
                    "domains": ["example.org"],
                    "hostname": "mail.example.org",
                    "admin": "alice@example.org",
                    "accounts": [
                        {"address": "alice@example.org", "password": "correct-horse-battery"},
                        {"address": "bob@example.org", "password_hash": HASH},
                    ],
                },
            }
        ],
        "-vvv",
        "--diff",
        *options,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "+alice@example.org vmail" in done.stdout
    assert "correct-horse-battery" not in done.stdout + done.stderr
    assert HASH not in done.stdout + done.stderr


def test_ten_thousand_accounts_take_seconds(tables: Tables, directory: Path) -> None:
    accounts = [{"address": f"user{number}@example.org", "password_hash": HASH} for number in range(10_000)]
    assert tables(accounts)["changed"]
    assert not tables(accounts)["changed"]
    assert len((directory / "passwd").read_text().splitlines()) == 10_000


@pytest.mark.parametrize(
    ("quota", "field"),
    [(None, ""), ("500", ":userdb_quota_storage_size=500B"), ("5g", ":userdb_quota_storage_size=5368709120B")],
)
def test_the_quota_is_for_dovecot(tables: Tables, directory: Path, quota: str | None, field: str) -> None:
    tables([{"address": "alice@example.org", "password_hash": HASH, "quota": quota}])
    assert (directory / "passwd").read_text() == f"alice@example.org:{HASH}:::::{field}\n"


def test_the_login_for_checks_may_send_proofs_alone(tables: Tables, directory: Path) -> None:
    """``mail-proof@`` of a domain receives no mail, not even through a catch-all."""
    login = "mail-status@mail.example.org"
    accounts = [{"address": "bob@example.net", "password_hash": HASH}]
    domains = ["example.org", "example.net"]
    tables(accounts, status_login=login, domains=domains, aliases={"@example.org": ["bob@example.net"]})
    senders = (directory / "senders").read_text().splitlines()
    assert f"{login} mail-proof@example.org, mail-proof@example.net" in senders
    assert (directory / "closed").read_text().split() == ["mail-proof@example.net", "mail-proof@example.org"]
    tables(accounts, domains=domains)
    assert login not in (directory / "senders").read_text()
    assert (directory / "closed").read_text() == "nobody@invalid\n"
