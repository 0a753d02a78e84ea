# SPDX-License-Identifier: GPL-3.0-or-later
"""mail-status shows what works and what fails, and leaves nothing behind."""

from __future__ import annotations

import imaplib
import json
import re
import smtplib

import pytest

from testbed import imap, smtp
from testbed.containers import PATIENCE, docker, wait_for
from testbed.servers import STRANGER, Login, Server, both, unwatched

CHECKS = {
    "certificate", "clock", "disk", "dns", "filters", "imap", "lmtp", "managesieve", "memory", "passwords", "queue",
    "redis", "relay", "rspamd", "signer", "smtp", "units",
}  # fmt: skip
FIELDS = {"check", "subject", "status", "required", "text", "fix"}
TIMER = "selfhosted-mail-watch.timer"
WATCH = "selfhosted-mail-watch.service"
WRONG = 2
MINUTE = 60  # seconds
# systemd in the containers reports this about services.
NOT_OURS = re.compile(r"Failed to (attach|create) .*compat systemd cgroup")

Findings = list[dict[str, str]]


def status(server: Server, *options: str) -> tuple[int, Findings]:
    """Exit code and findings, of a machine that may be slow."""
    words = " ".join(options or ["--patience=60"])
    text = server.sh(f"/usr/local/sbin/mail-status --json {words}; code=$?; echo; echo $code")
    findings, _newline, code = text.rpartition("\n")
    return int(code), json.loads(findings)


def not_ok(findings: Findings) -> list[tuple[str, str, str, str]]:
    """Without what Debian 12 always has: test_debian_12_is_a_warning."""
    wrong = [one for one in findings if one["status"] != "ok" and one["check"] != "release"]
    return [(one["check"], one["subject"], one["status"], one["text"]) for one in wrong]


def status_login(server: Server) -> Login:
    return Login(*server.run("cat", "/etc/selfhosted-mail/status-login").split())


def shown(server: Server, count: int) -> None:
    """Many ordinary runs find nothing."""
    for number in range(count):
        code, findings = status(server)
        assert (code, not_ok(findings)) == (0, []), number


@both
def test_all_is_well(server: Server) -> None:
    code, findings = status(server)
    assert (code, not_ok(findings)) == (0, [])
    assert {one["check"] for one in findings} >= CHECKS
    assert all(set(one) == FIELDS for one in findings)
    assert {one["subject"] for one in findings if one["check"] == "smtp"} == {"25", "465", "587"}
    # The same as text; the fix is on a separate line.
    lines = [line for line in server.run("/usr/local/sbin/mail-status").splitlines() if not line.startswith(" ")]
    assert len(lines) == len(findings)
    assert all(line.startswith("ok ") for line in lines if " release " not in line)


@both
def test_debian_12_is_a_warning(server: Server) -> None:
    """Its OpenSMTPD gets no more fixes."""
    code, findings = status(server)
    [found] = [one for one in findings if one["check"] == "release"]
    old = server.sh(". /etc/os-release; echo $VERSION_ID") == "12"
    assert (code, found["required"], found["status"]) == (0, False, "warning" if old else "ok")
    assert ("upgrade" in found["fix"]) == old


@both
def test_leaves_nothing(server: Server) -> None:
    """No message anywhere, no row in Rspamd's history, no warning in the journal."""

    def traces() -> list[str]:
        return [
            server.queue(),
            server.run("doveadm", "mailbox", "status", "-u", server.alice.address, "messages", "*"),
            server.run("doveadm", "mailbox", "status", "-u", status_login(server).address, "messages", "INBOX"),
            server.sh("redis-cli -s /run/redis-rspamd/redis.sock llen rs_history$(hostname)_zst"),
        ]

    server.settle()
    with unwatched(server):
        before, begun = traces(), server.sh("date +%s.%N")
        shown(server, 3)
        assert traces() == before
        said = server.run(
            "journalctl", "--no-pager", "--quiet", "--output=cat", "--priority=warning", f"--since=@{begun}"
        )
        assert not [line for line in said.splitlines() if not NOT_OURS.search(line)]


@pytest.mark.long
@both
def test_a_hundred_ordinary_runs_find_nothing(server: Server) -> None:
    """With mail going on beside them."""
    for _number in range(10):
        message = server.submit([server.bob.address])
        server.receive(server.alice.address)
        shown(server, 10)
        server.mailbox(server.bob, str(message["Message-ID"]))


@both
def test_its_login_is_good_for_nothing_else(server: Server) -> None:
    """It neither receives nor sends mail; IMAP accepts it only from this host; only root can read its password."""
    login = status_login(server)
    assert login.address == f"mail-status@{server.hostname}"
    assert server.sh("stat -c '%U %a' /etc/selfhosted-mail/status-login") == "root 600"
    with pytest.raises(imaplib.IMAP4.error):
        imap.session(server.ip, login.address, login.password)
    with pytest.raises(smtplib.SMTPSenderRefused, match="may not send mail"):
        server.submit(login=login)
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        smtp.deliver(server.ip, STRANGER, [login.address], smtp.compose(STRANGER, [login.address]))


# As root on the host: an ordinary message under the sender that smtpd.conf lets pass.
AS_THE_PROBE = """
import smtplib, sys
with smtplib.SMTP("127.0.0.1", 25, local_hostname="x.test", timeout=60) as session:
    session.ehlo()
    session.mail(sys.argv[1])
    session.rcpt(sys.argv[2])
    print(*session.data(f"From: <{sys.argv[1]}>\\r\\nSubject: x\\r\\n\\r\\nAn ordinary message.\\r\\n"))
"""


@both
def test_what_its_sender_says_is_never_taken(server: Server) -> None:
    sender = status_login(server).address
    for recipient in (server.alice.address, "friend@far.test"):
        try:
            said = server.python(AS_THE_PROBE, sender, recipient, user="root")
        except AssertionError as error:  # refused before the message
            said = str(error)
        assert re.search(r"\b55\d\b", said), said
    assert sender not in server.queue()


@both
def test_only_root_may_ask(server: Server) -> None:
    code = docker("exec", "--user", "nobody", server.container, "sh", "-c", "/usr/local/sbin/mail-status 2>&1; echo $?")
    assert code.decode().splitlines() == ["mail-status: must be run as root", "77"]


@pytest.mark.disruptive
@pytest.mark.parametrize(
    ("unit", "checks"),
    [
        ("opensmtpd", {("smtp", "25"), ("smtp", "465"), ("smtp", "587"), ("filters", "OpenSMTPD")}),
        ("dovecot", {("imap", "993"), ("managesieve", "4190"), ("lmtp", "mailboxes")}),
        ("dkimproxy", {("signer", "10027")}),
        ("redis-server@rspamd", {("redis", "Rspamd's")}),
        ("fail2ban", set()),
    ],
)
@both
def test_what_is_down(server: Server, unit: str, checks: set[tuple[str, str]]) -> None:
    with unwatched(server):
        server.run("systemctl", "stop", unit)
        try:
            code, findings = status(server)
        finally:
            server.run("systemctl", "start", unit)
    assert code == WRONG
    wrong = [one for one in findings if one["status"] == "error"]
    assert {(one["check"], one["subject"]) for one in wrong} >= checks
    assert ("units", f"{unit}.service") in {(one["check"], one["subject"]) for one in wrong}
    assert all(one["fix"] and one["required"] for one in wrong)
    # Worst first.
    assert findings[: len(wrong)] == wrong
    wait_for(lambda: not not_ok(status(server)[1]), PATIENCE, "all is well again")


# As clients see it: the kernel accepts the connection, and no process answers.
CONNECTS = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])), 5).close(); print('open')"


@pytest.mark.disruptive
@pytest.mark.parametrize(
    ("hung", "port", "check", "unit"),
    [
        ("pkill -{} -f '^smtpd: lookup'", 25, ("smtp", "25"), "opensmtpd"),
        ("pkill -{} -f '^smtpd: scheduler'", 25, ("queue", "waiting"), "opensmtpd"),
        ("pkill -{} -x filter-message", 465, ("smtp", "465"), "opensmtpd"),
        ("systemctl kill --signal={} dovecot", 993, ("imap", "993"), "dovecot"),
        ("systemctl kill --signal={} dkimproxy", 10027, ("signer", "10027"), "dkimproxy"),
        ("systemctl kill --signal={} rspamd", 11333, ("rspamd", "11333"), "rspamd"),
    ],
)
@both
def test_what_hangs(server: Server, hung: str, port: int, check: tuple[str, str], unit: str) -> None:
    """A hung daemon still accepts connections: the check is unknown, and the watch restarts the daemon."""
    with unwatched(server):
        pid = server.main_pid(unit)
        server.sh(hung.format("STOP"))
        try:
            assert server.python(CONNECTS, str(port), user="root").strip() == "open"
            code, findings = status(server, "--patience=5")
            found = {(one["check"], one["subject"]): one for one in findings}[check]
            assert (found["status"], code) == ("unknown", 0), findings
            assert re.fullmatch(r"no answer to .+ within 5 s", found["text"])
            said = server.run("/usr/local/sbin/mail-status", "--watch", "--patience=5")
        finally:
            server.sh(f"{hung.format('CONT')} || true")
        assert server.main_pid(unit) not in (0, pid)
        wait_for(lambda: not not_ok(status(server)[1]), PATIENCE, "all is well again")
    assert re.fullmatch(
        rf"<4>selfhosted-mail alarm {unit}\.service: .*: no answer to .* within 5 s; {unit}\.service was restarted\n",
        said,
    )


@pytest.mark.disruptive
@both
def test_root_is_told(server: Server) -> None:
    """By a journal line and a message, once for a persistent error."""
    with unwatched(server):
        server.run("systemctl", "stop", "dkimproxy")
        try:
            said = [server.run("/usr/local/sbin/mail-status", "--watch") for _look in range(3)]
        finally:
            server.run("systemctl", "start", "dkimproxy")
    first, second, third = said
    assert not first, "it could have been a restart"
    assert "<4>selfhosted-mail alarm signer/10027: " in second
    assert not third
    message = server.mailbox(server.alice, f"Subject: {server.hostname}: signer/10027", timeout=MINUTE)
    assert b"try: journalctl -u dkimproxy.service" in message


@both
def test_the_timer_looks(server: Server) -> None:
    assert server.run("systemctl", "is-enabled", TIMER).strip() == "enabled"
    before = server.run("systemctl", "show", "-P", "ExecMainStartTimestampMonotonic", WATCH)
    wait_for(
        lambda: server.run("systemctl", "show", "-P", "ExecMainStartTimestampMonotonic", WATCH) != before,
        what="it has looked again",
    )
    assert server.run("systemctl", "show", "-P", "ExecMainStatus", WATCH).strip() == "0"
