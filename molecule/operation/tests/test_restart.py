# SPDX-License-Identifier: GPL-3.0-or-later
"""Daemons are restarted after a crash, and all services start after a reboot."""

from __future__ import annotations

import uuid

import pytest

from testbed import containers, provider
from testbed.containers import wait_for
from testbed.servers import FRIEND, RELAY, Server, both, check_relayed, unwatched
from testbed.signatures import check_signed

pytestmark = pytest.mark.disruptive

DAEMONS = ["opensmtpd", "dkimproxy", "rspamd", "dovecot"]


def check_everything(server: Server) -> None:
    """Mail from users, from outside, from the host."""
    inside, outside = server.submit([server.bob.address], port=465), server.submit([FRIEND])
    marker = f"report {uuid.uuid4()}"
    server.sendmail(f"To: {FRIEND}\nSubject: {marker}\n\n{marker}\n", "-t")
    inbound = server.receive(f"a.liddell@{server.domain}", f"away@{server.domain}")
    check_relayed(server, server.relayed(outside))
    check_relayed(server, provider.wait_kept(RELAY, marker))
    assert server.relayed(inbound).sender.startswith("SRS0=")
    check_signed(server, server.mailbox(server.bob, str(inside["Message-ID"])))
    arrived = server.mailbox(server.alice, str(inbound["Message-ID"]))
    assert b"\nAuthentication-Results: " + server.hostname.encode() in arrived


@pytest.mark.parametrize("daemon", [*DAEMONS, "redis"])
@both
def test_killed_daemon_comes_back(server: Server, daemon: str) -> None:
    if daemon == "redis":
        listed = server.run("systemctl", "list-units", "--state=active", "--plain", "--no-legend", "*redis*.service")
        daemon = listed.split()[0].removesuffix(".service")
    before = server.main_pid(daemon)
    assert before
    server.run("kill", "-KILL", str(before))
    wait_for(lambda: server.main_pid(daemon) not in (0, before), what=f"{daemon} runs again")


@both
def test_killed_filter_comes_back(server: Server) -> None:
    """OpenSMTPD ends with its filter."""
    with unwatched(server):
        end_filter(server)


def end_filter(server: Server) -> None:
    before = server.run("pgrep", "-f", "filter-rspamd").split()
    server.run("kill", "-KILL", *before)

    def again() -> bool:
        now = server.run("sh", "-c", "pgrep -f filter-rspamd || true").split()
        listening = server.run("ss", "-Hltn", "sport = :465")
        return bool(now) and not set(now) & set(before) and server.main_pid("opensmtpd") != 0 and bool(listening)

    wait_for(again, what="the filter runs again")


@both
def test_mail_flows_after_all_that(server: Server) -> None:
    check_everything(server)


@both
def test_reboot(server: Server) -> None:
    """Queued mail is sent after it, and everything works as before."""
    server.settle()
    server.run("systemctl", "stop", "dkimproxy")
    waiting = server.submit([FRIEND])
    before = server.submit([server.bob.address])
    containers.reboot(server.container)
    assert server.run("systemctl", "is-system-running").strip() == "running"
    # The next proof of the playbook check begins a line of its own there.
    assert server.run("cat", "/run/selfhosted-mail-proofs") == "# @list\n"
    # Debian's unit counts smtpd as started when it has forked, a moment before it listens.
    wait_for(lambda: server.run("ss", "-Hltn", "sport = :465"), what="OpenSMTPD listens")
    check_everything(server)
    check_relayed(server, server.relayed(waiting, timeout=60))
    check_signed(server, server.mailbox(server.bob, str(before["Message-ID"])))
    server.settle()


@both
def test_journal_of_the_boot(server: Server) -> None:
    """All services started in an order without failed waits."""
    assert not [line for line in server.journal("--output=cat") if "ordering cycle" in line or "Traceback" in line]
    failed = [line for line in server.journal("--output=cat", "_PID=1") if "Failed with result" in line]
    assert not failed
