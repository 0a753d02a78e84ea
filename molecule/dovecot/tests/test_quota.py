# SPDX-License-Identifier: GPL-3.0-or-later
"""Quotas, warnings, and the table of full mailboxes."""

from __future__ import annotations

import email
import imaplib
import re
from collections.abc import Iterator
from email import policy

import pytest
from dovecot_host import ALICE, DAVE, lmtp

from testbed import imap, smtp
from testbed.containers import run, wait_for
from testbed.playbook import run_role

testinfra_hosts = ["docker://dovecot-debian12", "docker://dovecot-debian13"]

TABLE = "/var/lib/selfhosted-mail/full-mailboxes"
DAVES = ["dave@example.org", "david@example.org", "davids@example.org"]


def used(container: str, account: str) -> tuple[int, int]:
    """Kilobytes used, and kilobytes that may be used."""
    rows = run(container, "doveadm", "-f", "tab", "quota", "get", "-u", account).splitlines()
    value, limit = next(row.split("\t")[2:4] for row in rows if "STORAGE" in row)
    return int(value), int(limit)


def table(container: str) -> list[str]:
    """Without the constant line."""
    addresses = run(container, "sh", "-c", f"cat {TABLE} 2>/dev/null || true").split()
    return [address for address in addresses if address != "nobody@full.invalid"]


def message(size: int, subject: str = "") -> bytes:
    """A message of about so many bytes."""
    return smtp.wire(smtp.compose("sender@world.test", [DAVE[0]], ("x" * 63 + "\n") * (size // 64), subject))


def fill(container: str, size: int, subject: str = "") -> None:
    code, text = lmtp(container, message(size, subject), DAVE[0])[DAVE[0]]
    assert code == 250, text


def expunge(address: str, *folders: str) -> None:
    with imap.session(address, *DAVE) as box:
        for folder in folders:
            if box.select(folder)[1] != [b"0"]:
                box.store("1:*", "+FLAGS", r"\Deleted")
                box.expunge()


@pytest.fixture
def daves_box(address: str, container: str) -> Iterator[str]:
    """Dave's mailbox is empty before and after; the server's address."""
    expunge(address, "INBOX", "Trash")
    yield address
    expunge(address, "INBOX", "Trash")

    def empty() -> bool:
        # An event at the very end of a run is the timer's, ten minutes later.
        run(container, "systemctl", "start", "selfhosted-mail-full.service")
        return not table(container)

    wait_for(empty, what="the table is empty")


def test_quotas_are_those_of_the_accounts(container: str, address: str) -> None:
    assert used(container, DAVE[0])[1] == 1024
    assert used(container, ALICE[0])[1] == 100 * 1024
    with imap.session(address, *DAVE) as box:
        roots = str(box.getquotaroot("INBOX")[1])
    assert re.search(r"STORAGE \d+ 1024", roots), roots


@pytest.mark.parametrize(("first", "second", "percentage"), [(700_000, 150_000, 80), (900_000, 110_000, 95)])
def test_warning_mail(container: str, daves_box: str, first: int, second: int, percentage: int) -> None:
    fill(container, first)
    expected = f"Your mailbox is {percentage} % full"
    if percentage == 95:
        imap.wait_message(daves_box, *DAVE, "Your mailbox is 80 % full")
    fill(container, second)
    warning = email.message_from_bytes(imap.wait_message(daves_box, *DAVE, expected), policy=policy.default)
    assert warning["Subject"] == expected
    assert warning["From"].addresses[0].addr_spec == "postmaster@mail.example.org"
    assert warning["To"] == DAVE[0]
    assert warning["Auto-Submitted"] == "auto-generated"
    assert table(container) == []


def test_a_warning_waits_for_a_busy_neighbour(container: str, daves_box: str) -> None:
    """The receiving service is down, and the warning arrives when it is back."""
    run(container, "mv", "/run/dovecot/lmtp", "/run/dovecot/lmtp.away")
    try:
        with imap.session(daves_box, *DAVE) as box:
            assert box.append("INBOX", "", None, message(870_000))[0] == "OK"
        # In brackets, so that the shell does not find itself.
        waits = "pgrep -f '[l]ib/selfhosted-mail/quota-event' || true"
        wait_for(lambda: run(container, "sh", "-c", waits), what="it waits")
    finally:
        run(container, "mv", "/run/dovecot/lmtp.away", "/run/dovecot/lmtp")
    imap.wait_message(daves_box, *DAVE, "Your mailbox is 80 % full")


def test_full_mailbox_is_in_the_table_until_there_is_space(container: str, daves_box: str) -> None:
    """With all addresses of this mailbox alone; accepted mail is still delivered."""
    fill(container, 900_000)
    assert table(container) == []
    fill(container, 300_000)
    wait_for(lambda: table(container) == DAVES or None, what="Dave is full")
    assert used(container, DAVE[0])[0] > 1024
    with imap.session(daves_box, *DAVE) as box:
        assert box.append("Sent", "", None, message(60_000))[0] == "NO"
        # Deleting has to work.
        box.select("INBOX")
        for uid in box.uid("SEARCH", "ALL")[1][0].decode().split():
            assert box.uid("MOVE", uid, "Trash")[0] == "OK"
    assert table(container) == DAVES
    expunge(daves_box, "Trash")
    wait_for(lambda: not table(container) or None, what="Dave has space")


def test_further_mail_for_a_full_mailbox_waits(container: str, daves_box: str) -> None:
    fill(container, 1_200_000)
    code, text = lmtp(container, message(60_000_000 // 64), DAVE[0])[DAVE[0]]
    assert code == 452, text
    assert re.search(r"mailbox is full", text)
    assert "5.2.2" not in text


def test_missed_events_are_made_good(container: str, daves_box: str) -> None:
    fill(container, 1_200_000)
    wait_for(lambda: table(container) == DAVES or None, what="Dave is full")
    run(container, "systemctl", "stop", "selfhosted-mail-full.path")
    try:
        # A run that has begun has ended.
        run(container, "systemctl", "start", "selfhosted-mail-full.service")
        run(container, "rm", "-f", "/var/lib/selfhosted-mail/full/dave@example.org")
        # As a day later.
        run(container, "touch", "-d", "25 hours ago", "/var/lib/selfhosted-mail/full-seen")
        run(container, "sh", "-c", f": > {TABLE}")
        run(container, "systemctl", "start", "selfhosted-mail-full.service")
        assert table(container) == DAVES
        expunge(daves_box, "INBOX")
        run(container, "systemctl", "start", "selfhosted-mail-full.service")
        assert table(container) == []
    finally:
        run(container, "systemctl", "start", "selfhosted-mail-full.path")
    assert run(container, "systemctl", "is-active", "selfhosted-mail-full.timer").strip() == "active"


def test_while_dovecot_is_away_the_table_stays(container: str, daves_box: str) -> None:
    fill(container, 1_200_000)
    wait_for(lambda: table(container) == DAVES or None, what="Dave is full")
    run(container, "systemctl", "stop", "dovecot")
    try:
        run(container, "systemctl", "start", "selfhosted-mail-full.service")
        assert table(container) == DAVES
    finally:
        run(container, "systemctl", "start", "dovecot")
    wait_for(lambda: answers(daves_box) or None, what="Dovecot answers")


def answers(address: str) -> bool:
    try:
        imap.session(address, *DAVE).logout()
    except (OSError, imaplib.IMAP4.error):
        return False
    return True


def test_raised_quota_ends_it(container: str, daves_box: str) -> None:
    """A run that gives the account more is followed by the table."""
    fill(container, 1_200_000)
    wait_for(lambda: table(container) == DAVES or None, what="Dave is full")
    accounts = [{"address": "dave@example.org", "password": "fourth", "quota": "5M", "aliases": ["david@example.org"]}]
    variables = {"mail_accounts": accounts, "mail_aliases": {"davids@example.org": ["david@example.org"]}}
    try:
        run_role(container, variables=variables)
        # Its timer does so every ten minutes.
        run(container, "systemctl", "start", "selfhosted-mail-full.service")
        assert table(container) == []
        assert used(container, DAVE[0])[1] == 5 * 1024
    finally:
        run_role(container)
    run(container, "systemctl", "start", "selfhosted-mail-full.service")
    assert table(container) == DAVES
