# SPDX-License-Identifier: GPL-3.0-or-later
"""Mail of the host itself: of cron and scripts, and bounces; and what local users must not be able to do."""

from __future__ import annotations

import uuid

import pytest

from testbed import provider
from testbed.forger import check_forger
from testbed.servers import FRIEND, RELAY, Server, both, check_relayed
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
    """If the provider refuses the host's own mail, the administrator gets the reason."""
    marker = f"report {uuid.uuid4()}"
    server.sendmail(f"To: nobody@far.test\nSubject: {marker}\n\n{marker}\n", "-t")
    bounce = server.mailbox(server.alice, marker)
    assert b"No such user here" in bounce
    check_signed(server, bounce)


@both
def test_report_to_a_stranger_leaves_signed(server: Server) -> None:
    """An alias forwards to an external recipient that does not exist: the sender gets a bounce from the host."""
    message = server.receive(f"lost@{server.domain}")
    kept = server.relayed(message)
    assert kept.sender == ""
    assert kept.recipients == ("stranger@world.test",)
    assert author_domain(kept.raw) == server.hostname
    check_relayed(server, kept)


@pytest.mark.parametrize("door", ["127.0.0.1 25", "{ip} 25", "127.0.0.1 10027", "127.0.0.1 10028"])
@both
def test_local_user_cannot_send_unsigned(server: Server, door: str) -> None:
    address, port = door.format(ip=server.ip).split()
    check_forger(server, address, int(port))
