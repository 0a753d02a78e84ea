# SPDX-License-Identifier: GPL-3.0-or-later
"""Mail made on the host: cron's, a script's, reports of failed delivery; and what a local user must not manage."""

from __future__ import annotations

import uuid

import pytest
from servers import FRIEND, RELAY, Server, both, check_relayed

from testbed import provider
from testbed.signatures import author_domain, check_signed


@both
def test_mail_of_cron_reaches_the_admin_signed(server: Server) -> None:
    marker = f"job {uuid.uuid4()}"
    server.sendmail(
        f"From: root (Cron Daemon)\nTo: root\nSubject: Cron <root@mail> backup\n\n{marker}\n",
        "-FCronDaemon", "-i", "-B8BITMIME", "-oem", "root",
    )  # fmt: skip
    raw = server.mailbox(server.alice, marker)
    check_signed(server, raw)
    assert author_domain(raw) == server.hostname


@pytest.mark.parametrize("user", ["root", "nobody"])
@both
def test_mail_of_a_script_leaves_signed(server: Server, user: str) -> None:
    marker = f"report {uuid.uuid4()}"
    server.sendmail(f"To: {FRIEND}\nSubject: disk is full\n\n{marker}\n", "-t", user=user)
    kept = provider.wait_kept(RELAY, marker)
    check_relayed(server, kept)
    assert kept.sender == f"{user}@{server.hostname}"
    assert author_domain(kept.raw) == server.hostname


@both
def test_report_about_local_mail_is_signed(server: Server) -> None:
    """The host's own mail that the provider refuses: root's admin reads why."""
    marker = f"report {uuid.uuid4()}"
    server.sendmail(f"To: nobody@far.test\nSubject: {marker}\n\n{marker}\n", "-t")
    bounce = server.mailbox(server.alice, marker)
    assert b"No such user here" in bounce
    check_signed(server, bounce)


@both
def test_report_to_a_stranger_leaves_signed(server: Server) -> None:
    """An alias leads to a recipient elsewhere who does not exist: the sender gets a report in the host's name."""
    message = server.receive(f"lost@{server.domain}")
    kept = server.relayed(message)
    assert kept.sender == ""
    assert kept.recipients == ("stranger@world.test",)
    assert author_domain(kept.raw) == server.hostname
    check_relayed(server, kept)


# Submits over SMTP without TLS or a login; prints the last answer.
CLIENT = r"""
import smtplib, sys
address, port, sender, recipient, author, marker = sys.argv[1:]
try:
    with smtplib.SMTP(address, int(port), timeout=20) as session:
        session.ehlo()
        session.sendmail(sender, [recipient], f"From: {author}\r\nTo: {recipient}\r\nSubject: x\r\n\r\n{marker}\r\n")
    print("taken")
except (smtplib.SMTPException, OSError) as error:
    print("refused", type(error).__name__, error)
"""


@pytest.mark.parametrize(
    "door", ["127.0.0.1 25", "::1 25", "{ip} 25", "{link_local}%eth0 25", "127.0.0.1 10027", "127.0.0.1 10028"]
)
@both
def test_local_user_cannot_send_unsigned(server: Server, door: str) -> None:
    """Whatever a user without rights says to a port on the host, nothing leaves but what is signed and aligned."""
    own = server.run("ip", "-6", "-o", "address", "show", "dev", "eth0", "scope", "link")
    address, port = door.format(ip=server.ip, link_local=own.split()[3].split("/")[0]).split()
    markers = []
    for sender, author in [
        ("ceo@bank.test", "ceo@bank.test"),
        ("", "ceo@bank.test"),
        (f"root@{server.hostname}", "ceo@bank.test"),
        (server.alice.address, "ceo@bank.test"),
        (server.alice.address, server.alice.address),
        (f"nobody@{server.hostname}", f"nobody@{server.hostname}"),
    ]:
        markers.append(f"forged {uuid.uuid4()}")
        answer = server.python(CLIENT, address, port, sender, FRIEND, author, markers[-1])
        assert answer.startswith("refused ConnectionRefusedError"), answer
    server.settle()
    for kept in provider.kept(RELAY):
        if any(marker.encode() in kept.raw for marker in markers):
            check_relayed(server, kept)
