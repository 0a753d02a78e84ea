# SPDX-License-Identifier: GPL-3.0-or-later
"""Rspamd or its filter is down or hangs: external senders retry, users are not affected, no mail is lost."""

from __future__ import annotations

import smtplib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from testbed import smtp
from testbed.containers import docker, wait_for
from testbed.servers import FRIEND, STRANGER, Server, both, unwatched

pytestmark = pytest.mark.disruptive


def attempt(server: Server, patience: float = 5) -> int:
    """Send an external message once: the reply's code, 0 if there is none in time or the connection ends."""
    message = smtp.compose(STRANGER, [server.alice.address])
    try:
        with smtplib.SMTP(server.ip, 25, timeout=patience, local_hostname=smtp.PEER) as session:
            session.ehlo()
            session.mail(STRANGER)
            session.rcpt(server.alice.address)
            return session.data(smtp.wire(message))[0]
    except smtplib.SMTPResponseException as error:
        return error.smtp_code
    except (smtplib.SMTPException, OSError):
        return 0


def users_go_on(server: Server) -> None:
    """Mail from users to users, and out."""
    inside, outside = server.submit([server.bob.address], port=465), server.submit([FRIEND])
    server.mailbox(server.bob, str(inside["Message-ID"]))
    server.relayed(outside)


def back(server: Server) -> None:
    """A sender that retries gets through, and is never refused permanently.

    How soon is seen in test_faults.
    """
    message = smtp.compose(STRANGER, [server.alice.address])
    smtp.deliver(server.ip, STRANGER, [server.alice.address], message)
    server.mailbox(server.alice, str(message["Message-ID"]))
    wait_for(lambda: server.main_pid("opensmtpd") and server.main_pid("rspamd"), what="both daemons run")
    users_go_on(server)


@both
def test_rspamd_down(server: Server) -> None:
    # The watch forgets earlier faults, after which it would restart OpenSMTPD.
    with unwatched(server):
        pass
    server.run("systemctl", "stop", "rspamd")
    try:
        smtpd = server.main_pid("opensmtpd")
        assert [attempt(server) // 100 for _number in range(3)] == [4, 4, 4]
        users_go_on(server)
        assert server.main_pid("opensmtpd") == smtpd
    finally:
        server.run("systemctl", "start", "rspamd")
    back(server)


@both
def test_rspamd_slow(server: Server) -> None:
    """A slow answer reaches the sender."""
    stop_rspamd(server)
    with ThreadPoolExecutor() as pool:
        code = pool.submit(attempt, server, patience=120)
        wait_for(lambda: unread_by_rspamd(server), what="Rspamd is asked")
        assert not code.done()
        server.run("systemctl", "kill", "--signal=CONT", "rspamd")
        assert code.result() == 250


def unread_by_rspamd(server: Server) -> bool:
    """Whether it has unread input."""
    sockets = server.run("ss", "-Htn", "state", "established", "( sport = :11333 )").splitlines()
    return any(int(line.split()[0]) for line in sockets)


def stop_rspamd(server: Server) -> None:
    server.run("systemctl", "kill", "--signal=STOP", "rspamd")


def stop_filter(server: Server) -> None:
    server.run("pkill", "-STOP", "-x", "filter-rspamd")


def filters(server: Server) -> set[str]:
    return set(server.run("sh", "-c", "pgrep -x filter-rspamd || true").split())


def kill_filter(server: Server) -> None:
    server.run("pkill", "-KILL", "-x", "filter-rspamd")


@pytest.mark.parametrize("stop", [stop_rspamd, stop_filter])
@both
def test_hung(server: Server, stop: Callable[[Server], None]) -> None:
    stop(server)
    assert attempt(server) == 0
    users_go_on(server)
    back(server)


# A process with the filter's name that does not read its input.
IMPOSTOR = """
import os, socket, time
ours, theirs = socket.socketpair()
ours.send(b"unread")
os.dup2(theirs.fileno(), 0)
with open("/proc/self/comm", "w") as name:
    name.write("filter-rspamd")
time.sleep(600)
"""


@both
def test_other_users_do_not_have_it_restarted(server: Server) -> None:
    smtpd = server.main_pid("opensmtpd")
    docker("exec", "--detach", "--user", "nobody", server.container, "python3", "-c", IMPOSTOR)
    wait_for(lambda: server.run("sh", "-c", "pgrep --uid nobody -x filter-rspamd || true"), what="it runs")
    with unwatched(server):
        server.run("/usr/local/sbin/mail-status", "--watch", "--patience=60")
    assert server.main_pid("opensmtpd") == smtpd
    server.run("pkill", "--uid", "nobody", "-x", "filter-rspamd")


@both
def test_filter_dies_again_and_again(server: Server) -> None:
    """OpenSMTPD ends with its filter, and is restarted each time with its queue."""
    server.run("systemctl", "stop", "dkimproxy")
    waiting = [server.submit([server.bob.address]) for _number in range(3)]
    for _number in range(4):
        before = filters(server)
        kill_filter(server)
        wait_for(lambda before=before: filters(server) - before, what="the filter runs again")
    server.run("systemctl", "start", "dkimproxy")
    for message in waiting:
        server.mailbox(server.bob, str(message["Message-ID"]))
    back(server)
