# SPDX-License-Identifier: GPL-3.0-or-later
"""Refusals of the relay provider are reported within a minute, with its own reply."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from testbed import smtp
from testbed.containers import run, wait_for, write
from testbed.servers import FRIEND, RELAY, SERVERS, Server, both, on_both

pytestmark = pytest.mark.disruptive
SOON = 60  # seconds within which one is told
TIMER = "selfhosted-mail-watch"
STATE = "/run/selfhosted-mail-status/state.json"
CREDENTIALS = "/etc/opensmtpd/relay_credentials"
WRONG = 2


def findings(server: Server) -> dict[str, dict[str, str]]:
    """The relay's findings that are not ok, by kind."""
    said = json.loads(server.sh("/usr/local/sbin/mail-status --json || true"))
    return {one["subject"]: one for one in said if one["check"] == "relay" and one["status"] != "ok"}


def afresh(server: Server) -> str:
    """The watch knows of no alarm; seconds since the epoch."""
    server.settle()
    server.run("systemctl", "stop", f"{TIMER}.timer")
    wait_for(
        lambda: server.sh(f"systemctl is-active {TIMER}.service || true") == "inactive", what="the watch has looked"
    )
    server.run("rm", "-f", STATE)
    server.run("systemctl", "start", f"{TIMER}.timer")
    wait_for(lambda: server.sh(f"cat {STATE} || true"), what="its first look")
    return server.sh("date +%s")


@contextmanager
def refusing(rules: str) -> Iterator[None]:
    """Make the provider answer senders with this (access(5) of Postfix)."""
    write(RELAY, "/etc/postfix/refused", rules)
    try:
        run(RELAY, "postconf", "-e", "smtpd_sender_restrictions=check_sender_access texthash:/etc/postfix/refused")
        run(RELAY, "systemctl", "restart", "postfix")
        yield
    finally:
        run(RELAY, "postconf", "-X", "smtpd_sender_restrictions")
        run(RELAY, "systemctl", "restart", "postfix")


def heard(server: Server, begun: str, text: str) -> list[str]:
    """The lines of the watch with this text; AssertionError when there is none after a minute."""
    command = f"journalctl --no-pager -t mail-status -o cat --since=@{begun}"
    return wait_for(lambda: [line for line in server.sh(command).splitlines() if text in line], SOON, text)


def check_told(server: Server, begun: str, kind: str, words: str) -> None:
    """By one alarm, and by mail-status with what to do."""
    (line,) = heard(server, begun, f"selfhosted-mail alarm relay/{kind}: ")
    assert words in line
    found = findings(server)[kind]
    assert (found["status"], found["required"]) == ("error", True)
    assert words in found["text"] and found["fix"]
    assert server.sh("/usr/local/sbin/mail-status >/dev/null; echo $?") == str(WRONG)


def well_again(server: Server) -> None:
    server.run("smtpctl", "schedule", "all")
    server.relayed(server.submit())
    server.settle()
    wait_for(lambda: not findings(server), what="the relay has taken mail of all kinds")


@pytest.mark.parametrize(
    ("kind", "code", "words"),
    [
        ("unverified", "550 5.7.1", "From header sender domain not verified"),
        ("quota", "452 4.5.3", "Daily message limit exceeded"),
    ],
)
def test_a_refused_sender_is_told(kind: str, code: str, words: str) -> None:
    def told(server: Server) -> None:
        begun = afresh(server)
        server.submit()
        check_told(server, begun, kind, words)

    try:
        with refusing("".join(f"{server.domain} {code} {words}\n" for server in SERVERS)):
            on_both(told)
    finally:
        on_both(well_again)


def restarted(server: Server, change: str) -> None:
    """With the credentials as this command leaves them."""
    server.sh(f"{change}; systemctl restart opensmtpd")
    wait_for(lambda: ":587 " in server.sh("ss -Hltn"), what="OpenSMTPD listens")


@both
def test_a_refused_login_is_told(server: Server) -> None:
    """It is only in the journal."""
    begun = afresh(server)
    server.run("cp", "-p", CREDENTIALS, "/root/relay_credentials")
    try:
        restarted(server, f"sed -i '$s/$/x/' {CREDENTIALS}")
        server.submit()
        check_told(server, begun, "login", "AUTH rejected: 535 ")
    finally:
        restarted(server, f"mv /root/relay_credentials {CREDENTIALS}")
        well_again(server)


def test_each_refusal_of_the_null_sender_is_a_line() -> None:
    """As bounces and receipts have it."""
    words = "to send email from a blank sender, enable blank senders"

    def submit(server: Server) -> None:
        with smtp.login(server.ip, 587, server.alice.address, server.alice.password) as session:
            session.sendmail("", [FRIEND], smtp.wire(smtp.compose(server.alice.address, [FRIEND])))

    def told(server: Server) -> None:
        begun = afresh(server)
        for _number in range(2):
            submit(server)
        text = f"the relay refused a message with the null sender (<>) to <{FRIEND}>: 550 "
        lines = wait_for(lambda: heard(server, begun, text)[1:], SOON, "two lines")
        assert words in lines[0]
        found = findings(server)["null sender"]
        assert found["status"] == "warning" and words in found["text"] and found["fix"]

    try:
        with refusing(f"<> 550 {words}\n"):
            on_both(told)
    finally:
        on_both(submit)
        on_both(well_again)
