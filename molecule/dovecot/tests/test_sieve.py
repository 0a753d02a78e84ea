# SPDX-License-Identifier: GPL-3.0-or-later
"""Users' scripts through ManageSieve, the administrator's, and in which order they run."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from dovecot_host import ALICE, CAROL, ERIN
from testinfra.host import Host

from testbed import imap, managesieve
from testbed.containers import docker
from testbed.playbook import run_role

testinfra_hosts = ["docker://dovecot-debian12", "docker://dovecot-debian13"]

TO_OWN = 'require ["fileinto", "mailbox"];\nfileinto :create "Own";\n'
# A notification would have any sender and author that it names.
NOTIFY = 'require "enotify";\nnotify :from "bob@example.net" :message "pay" "mailto:victim@far.test";\n'


def test_login_takes_tls(address: str) -> None:
    with managesieve.Session(address) as session:
        assert '"STARTTLS"' in session.greeting
        assert '"SASL" ""' in session.greeting
        with pytest.raises(managesieve.Refused, match="ENCRYPT-NEEDED"):
            session.login(*ALICE)
    with managesieve.Session(address, *ALICE) as session:
        assert "vacation" in session.greeting
        assert "notify" not in session.greeting.lower()
    with pytest.raises(managesieve.Refused):
        managesieve.Session(address, ALICE[0], "wrong")


def test_own_script_runs_after_spam_is_filed(
    address: str, deliver: Callable[..., str], own_script: Callable[..., None]
) -> None:
    own_script(ALICE, TO_OWN)
    good, spam = deliver(ALICE[0]), deliver(ALICE[0], X_Spam="Yes")
    imap.wait_message(address, *ALICE, good, "Own")
    imap.wait_message(address, *ALICE, spam, "Junk")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("frobnicate;\n", "unknown command"),
        ('require "vnd.dovecot.pipe"; pipe "learn";\n', "vnd.dovecot.pipe"),
        (NOTIFY, "enotify"),
    ],
)
def test_bad_script_is_refused_with_a_reason(address: str, text: str, reason: str) -> None:
    with managesieve.Session(address, *ALICE) as session, pytest.raises(managesieve.Refused, match=reason):
        session.put("own", text)


def test_scripts_are_outside_the_quota_and_have_their_own(address: str) -> None:
    names = [f"n{number}" for number in range(50)]
    with managesieve.Session(address, *CAROL) as session:
        try:
            for name in names:
                session.put(name, TO_OWN)
            with pytest.raises(managesieve.Refused, match="QUOTA"):
                session.put("another", TO_OWN)
        finally:
            for name in names:
                session.remove(name)


def test_script_of_before_notifies_nobody(
    host: Host, container: str, address: str, deliver: Callable[..., str]
) -> None:
    """It was uploaded while notifications were offered."""
    home = "/var/vmail/example.org/carol"
    imap.wait_message(address, *CAROL, deliver(CAROL[0]), timeout=5)
    host.check_output(f"rm -f {home}/.dovecot.sieve.log")
    docker("exec", "--interactive", "--user", "vmail", container, "tee", f"{home}/.dovecot.sieve", data=NOTIFY.encode())
    try:
        imap.wait_message(address, *CAROL, deliver(CAROL[0]), timeout=5)
        assert re.search("unknown Sieve capability .enotify", host.check_output(f"cat {home}/.dovecot.sieve.log"))
    finally:
        host.check_output(f"rm -f {home}/.dovecot.sieve")


def test_administrators_script_runs_as_long_as_there_is_no_own(
    address: str, deliver: Callable[..., str], own_script: Callable[..., None]
) -> None:
    imap.wait_message(address, *ERIN, deliver(ERIN[0], X_Topic="news"), "News")
    with managesieve.Session(address, *ERIN) as session:
        assert '"server"' in session.command("LISTSCRIPTS")
        assert "X-Topic" in session.command('GETSCRIPT "server"')
    own_script(ERIN, TO_OWN)
    imap.wait_message(address, *ERIN, deliver(ERIN[0], X_Topic="news"), "Own")


def test_administrators_script_is_checked_first(host: Host, container: str) -> None:
    path = "/etc/dovecot/sieve/accounts/erin@example.org.sieve"
    before = host.check_output(f"sha256sum {path}")
    bad = {
        "mail_accounts": [{"address": ERIN[0], "password": ERIN[1], "sieve": "fileinto Junk\n"}],
        "mail_aliases": {},
        "mail_admin_address": ERIN[0],
    }
    done = run_role(container, variables=bad, fails=True)
    assert re.search(r"erin@example\.org: line \d: error", done.output), done.output
    assert host.check_output(f"sha256sum {path}") == before
    run_role(container)


def test_administrators_script_goes_with_its_account(host: Host, container: str) -> None:
    path = "/etc/dovecot/sieve/accounts/erin@example.org.sieve"
    without = {
        "mail_accounts": [{"address": ERIN[0], "password": ERIN[1]}],
        "mail_aliases": {},
        "mail_admin_address": ERIN[0],
    }
    try:
        done = run_role(container, "--diff", variables=without)
        assert '-if header :is "X-Topic" "news"' in done.output
        assert not host.file(path).exists
    finally:
        run_role(container)
    assert host.file(path).exists
