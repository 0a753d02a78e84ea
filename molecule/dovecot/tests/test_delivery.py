# SPDX-License-Identifier: GPL-3.0-or-later
"""IMAP shows messages delivered by LMTP, unchanged and in the right folder."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from dovecot_host import ALICE, CAROL, ODD, lmtp

from testbed import imap, smtp
from testbed.containers import docker, run

testinfra_hosts = ["docker://dovecot-debian12", "docker://dovecot-debian13"]


def test_message_arrives_as_it_was(container: str, address: str) -> None:
    message = smtp.compose("sender@world.test", [ALICE[0]], "Grüße\n\n" + "x" * 900 + "\n", subject="Prüfung")
    sent = message.as_bytes(policy=message.policy.clone(linesep="\r\n", cte_type="8bit"))
    assert lmtp(container, sent, ALICE[0])[ALICE[0]][0] == 250
    found = imap.wait_message(address, *ALICE, message["Message-ID"])
    assert found.endswith(sent)


@pytest.mark.parametrize("recipient", ["ALICE@Example.ORG", "alice+list@example.org", "Alice+List@example.org"])
def test_spellings_of_an_address(deliver: Callable[..., str], address: str, recipient: str) -> None:
    imap.wait_message(address, *ALICE, deliver(recipient))


@pytest.mark.parametrize("recipient", [ODD[0], ODD[0].replace("@", "+it's=~@").title()])
def test_every_character_of_an_own_address(deliver: Callable[..., str], address: str, recipient: str) -> None:
    imap.wait_message(address, *ODD, deliver(recipient))


def test_each_recipient_has_a_copy(deliver: Callable[..., str], address: str) -> None:
    marker = deliver(ALICE[0], CAROL[0])
    for person in (ALICE, CAROL):
        imap.wait_message(address, *person, marker)


@pytest.mark.parametrize("recipient", ["nobody@example.org", "alice@example.net", "alice@world.test", "alice", "root"])
def test_unknown_recipient_is_refused(container: str, address: str, recipient: str) -> None:
    message = smtp.compose("sender@world.test", [recipient])
    replies = lmtp(container, smtp.wire(message), recipient, ALICE[0])
    assert replies[recipient][0] == 550
    assert replies[ALICE[0]][0] == 250


@pytest.mark.parametrize(
    ("value", "folder"), [("Yes", "Junk"), ("yes", "Junk"), ("YES", "Junk"), ("No", "INBOX"), ("yesterday", "INBOX")]
)
def test_spam_is_filed_into_junk(deliver: Callable[..., str], address: str, value: str, folder: str) -> None:
    imap.wait_message(address, *ALICE, deliver(ALICE[0], X_Spam=value), folder)


def test_spam_is_filed_before_the_users_own_script(container: str, deliver: Callable[..., str], address: str) -> None:
    deliver(CAROL[0])
    home = "/var/vmail/example.org/carol"
    script = b'require ["fileinto", "mailbox"]; fileinto :create "Own";'
    docker("exec", "--interactive", "--user", "vmail", container, "tee", f"{home}/.dovecot.sieve", data=script)
    try:
        good, spam = deliver(CAROL[0]), deliver(CAROL[0], X_Spam="Yes")
        imap.wait_message(address, *CAROL, good, "Own")
        imap.wait_message(address, *CAROL, spam, "Junk")
        assert not any(spam.encode() in message for message in imap.messages(address, *CAROL, "Own"))
    finally:
        run(container, "rm", "-f", f"{home}/.dovecot.sieve", f"{home}/.dovecot.svbin")


def test_folders_are_there_and_subscribed(address: str) -> None:
    with imap.session(address, *CAROL) as box:
        for listed in (box.list()[1], box.lsub()[1]):
            text = b"\n".join(line for line in listed if isinstance(line, bytes)).decode()
            for folder in ("Drafts", "Sent", "Junk", "Trash", "Archive"):
                assert re.search(rf'\(.*\\{folder}\b.*\) "/" "?{folder}"?$', text, re.MULTILINE), text


def test_folder_names_may_have_dots(deliver: Callable[..., str], address: str) -> None:
    with imap.session(address, *ALICE) as box:
        assert box.create("Archive/v1.0")[0] == "OK"
        assert any(line.endswith(b"Archive/v1.0") for line in box.list()[1] if isinstance(line, bytes))
        assert box.delete("Archive/v1.0")[0] == "OK"
