# SPDX-License-Identifier: GPL-3.0-or-later
"""Mail of the host's users goes out under their own names; what sendmail's arguments mean."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest

HOST = "mail.example.org"


@pytest.fixture(scope="module")
def take_mail(load_program: Callable[[str], ModuleType]) -> ModuleType:
    return load_program("opensmtpd/files/usr/local/lib/selfhosted-mail/take-mail")


@pytest.mark.parametrize(
    ("arguments", "sender", "name", "header", "recipients"),
    [
        (["-t"], None, "", True, []),
        (["-FCronDaemon", "-i", "-B8BITMIME", "-oem", "bob"], None, "CronDaemon", False, ["bob"]),
        (["-f", "bob@x.org", "-oi", "a@x.org", "-t"], "bob@x.org", "", True, ["a@x.org"]),
        (["-ti", "-fbob", "-N", "never", "-Rhdrs"], "bob", "", True, []),
        (["-f", "<>", "--", "-odd@x.org"], "<>", "", False, ["-odd@x.org"]),
        (["-F", 'Bob "B" <x>\n', "a@x.org"], None, "Bob B x", False, ["a@x.org"]),
    ],
)
def test_arguments(
    take_mail: ModuleType, arguments: list[str], sender: str | None, name: str, header: bool, recipients: list[str]
) -> None:
    found = take_mail.parse(arguments)
    assert (found.sender, found.full_name, found.recipients_in_header) == (sender, name, header)
    assert found.recipients == recipients


@pytest.mark.parametrize("arguments", [[], ["-i"], ["-Y", "a@x.org"], ["-f"]])
def test_wrong_arguments(take_mail: ModuleType, arguments: list[str]) -> None:
    with pytest.raises(take_mail.Refused) as refused:
        take_mail.parse(arguments)
    assert refused.value.args[0] == take_mail.EX_USAGE


def checked(
    take_mail: ModuleType, who: str, sender: str | None, author: str = "", body: str = "x\n"
) -> tuple[str, bytes]:
    system = who in ("www-data", "vmail")
    writer = take_mail.Writer(who, HOST, system=system, trusted=who == "root", for_accounts=who == "vmail")
    head = f"From: {author}\n" if author else ""
    found: tuple[str, bytes] = take_mail.checked(
        take_mail.Submission(["a@x.org"], sender), f"{head}Subject: s\n\n{body}".encode(), writer
    )
    return found


@pytest.mark.parametrize(
    ("who", "sender", "author", "wanted"),
    [
        ("bob", None, "", f"bob@{HOST}"),
        ("bob", "bob", f"Bob <Bob@{HOST}>", f"bob@{HOST}"),
        ("bob", f"bob+tag@{HOST}", "", f"bob+tag@{HOST}"),
        ("bob", "alice@example.org", "", f"bob@{HOST}"),
        ("bob", f"root@{HOST}", "", f"bob@{HOST}"),
        ("bob", "<>", "", f"bob@{HOST}"),
        ("www-data", f"root@{HOST}", "", f"root@{HOST}"),
        ("www-data", None, f"postmaster@{HOST}", f"postmaster@{HOST}"),
        ("www-data", "alice@example.org", "", f"www-data@{HOST}"),
        # Sieve's refusals and Dovecot's warnings.
        ("vmail", "<>", f"postmaster@{HOST}", "<>"),
        ("vmail", "<>", f"Postmaster <Postmaster@{HOST}>", "<>"),
        # Sieve's answers; the signing proxy says whether From may be that.
        ("vmail", "alice@example.org", "alice@example.org", "alice@example.org"),
        ("vmail", "alice+tag@example.org", "info@example.org", "alice+tag@example.org"),
        ("vmail", "Alice.L_o-w{e}@Example.org", "bob@example.org", "Alice.L_o-w{e}@Example.org"),
        ("vmail", f"root@{HOST}", "", f"root@{HOST}"),
        ("vmail", f"bob@{HOST}", "", f"vmail@{HOST}"),
        ("vmail", None, "", f"vmail@{HOST}"),
    ],
)
def test_sender(take_mail: ModuleType, who: str, sender: str | None, author: str, wanted: str) -> None:
    assert checked(take_mail, who, sender, author)[0] == wanted


@pytest.mark.parametrize(
    ("who", "author"),
    [
        ("bob", "alice@example.org"),
        ("bob", f"root@{HOST}"),
        ("bob", f"bob@{HOST}, alice@example.org"),
        ("bob", f'"bob@{HOST}" <alice@example.org>'),
        ("bob", f"bob@{HOST}\nFrom: alice@example.org"),
        ("www-data", "alice@example.org"),
        ("vmail", "alice@example.org"),
        ("vmail", f"bob@{HOST}"),
    ],
)
def test_somebody_elses_from_is_refused(take_mail: ModuleType, who: str, author: str) -> None:
    with pytest.raises(take_mail.Refused) as refused:
        checked(take_mail, who, None, author)
    assert refused.value.args[0] == take_mail.EX_NOPERM


@pytest.mark.parametrize(
    "sender",
    [
        "<>", f"root@{HOST}", f"bob@{HOST}", "alice", "@example.org", "alice@", "<alice@example.org@example.org>",
        f"alice+:bob@example.org> SIZE=1@{HOST}", "alice+:bob@example.org> SIZE=1@example.org",
        "alice <bob@example.org", "alice@bob@example.org", "alice:bob@example.org", "alice,bob@example.org",
        '"alice bob"@example.org', "alice@example.org:1", "alice@[198.51.100.1]", "älice@example.org",
        "alice@example.org SIZE=1",
    ],
)  # fmt: skip
def test_the_mailboxes_user_writes_as_an_account_for_an_account_alone(take_mail: ModuleType, sender: str) -> None:
    """Without an account's address as sender, which nothing else could read as another, nobody judges From later."""
    with pytest.raises(take_mail.Refused) as refused:
        checked(take_mail, "vmail", sender, "alice@example.org")
    assert refused.value.args[0] == take_mail.EX_NOPERM


def test_a_from_without_address_is_left_to_sendmail(take_mail: ModuleType) -> None:
    """cron writes it, whoever's job it is."""
    sender, message = checked(take_mail, "bob", None, "root (Cron Daemon)", body="From: the body\n")
    assert sender == f"bob@{HOST}"
    assert message == b"Subject: s\n\nFrom: the body\n"
