# SPDX-License-Identifier: GPL-3.0-or-later
"""After each fault both ports soon accept mail, and all accepted mail arrives, users' mail signed."""

from __future__ import annotations

import contextlib
import imaplib
import os
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from faults import ENDS, FULL, HANGS, KILLED, OPENSMTPD, QUEUE, UNITS, Fault, Full, Kind, unknown_processes

from testbed import imap, provider, report, smtp, traffic
from testbed.containers import PATIENCE, wait_for
from testbed.servers import FRIEND, RELAY, STRANGER, Server, both, check_relayed
from testbed.signatures import check_signed, fields

pytestmark = pytest.mark.disruptive

SOON = float(os.environ.get("FAULTS_LIMIT", 75))  # seconds after which both ports take mail
DRAIN = float(os.environ.get("FAULTS_DRAIN", PATIENCE))
# The watch's.
STATE, ALARM = "/run/selfhosted-mail-status/state.json", "selfhosted-mail alarm "
TABLE = report.Table(
    "faults",
    "Faults",
    ["fault", "release", "25, s", "465, s", "answered 250", "lost", "twice", "slowest, s", "alarms", "verdict"],
)


@dataclass(frozen=True)
class Arrived:
    """A copy of a message. `when`: seconds since the epoch; `kept`: where the relay provider has it."""

    when: float
    raw: bytes
    kept: provider.Kept | None = None


@dataclass
class Course:
    """A fault, with mail before, during and after it, until all mail has arrived."""

    server: Server
    name: str
    fault: Fault
    by_the_clock: bool
    mark: str = field(default_factory=lambda: f"fault{uuid.uuid4().hex}")
    problems: list[str] = field(default_factory=list)
    again: list[float | None] = field(default_factory=list)
    taken: int = 0
    lost: int = 0
    twice: int = 0
    slowest: float = 0
    alarms: int = 0
    # Just before the fault.
    about: float = 0

    def __post_init__(self) -> None:
        server, alice, bob = self.server, self.server.alice, self.server.bob.address
        world, user = traffic.stranger, traffic.user
        self.senders = {
            25: traffic.Sender(lambda: world(server.ip), STRANGER, [bob, f"away@{server.domain}"], self.mark),
            465: traffic.Sender(
                lambda: user(server.ip, alice.address, alice.password), alice.address, [bob, FRIEND], self.mark
            ),
        }

    def run(self) -> None:
        """From the beginning to the end; fills in what it has found."""
        with self.fault, self.senders[25], self.senders[465]:
            wait_for(self.well, what="mail flows before the fault")
            self.about = time.time()
            self.fault.begin()
            begun = time.time()
            self.expect(self.over, begun, patience=SOON + 1 if self.by_the_clock else PATIENCE)
            seen_until = time.time()
            for sender in self.senders.values():
                sender.enough()
            self.fault.relieve()
            self.expect(self.all_taken, patience=DRAIN)
            for port, sender in self.senders.items():
                self.judge_port(port, sender, begun, seen_until)
            self.expect(self.all_arrived, patience=DRAIN + self.fault.patience)
            self.judge_messages(begun)
            log = f"journalctl --output=cat --since=@{begun:.0f}"
            self.alarms = int(self.server.sh(f"{log} | grep -c '^{ALARM}' || true"))

    def expect(self, check: Callable[..., bool], *arguments: float, patience: float) -> None:
        """Wait for a condition; a timeout is reported later, with all other problems."""
        with contextlib.suppress(AssertionError):
            wait_for(lambda: check(*arguments), patience)

    def well(self) -> bool:
        """Whether both ports accept mail."""
        return all(sender.well() for sender in self.senders.values())

    def over(self, begun: float) -> bool:
        """Whether the fault was observed long enough."""
        least = SOON if self.by_the_clock and self.fault.hides else 10
        return time.time() >= begun + least and self.well()

    def all_taken(self) -> bool:
        """Whether all messages were answered 250."""
        return not any(sender.waiting for sender in self.senders.values())

    def arrivals(self) -> dict[str, list[Arrived]]:
        """Mail that has arrived so far, by Message-ID. Raises IMAP's errors."""
        found: dict[str, list[Arrived]] = {}
        bob = self.server.bob
        copies = [Arrived(kept.time, kept.raw, kept) for kept in provider.find(RELAY, self.mark)]
        copies += [Arrived(*one) for one in imap.find(self.server.ip, bob.address, bob.password, self.mark, timeout=30)]
        for copy in copies:
            found.setdefault(fields(copy.raw, "Message-ID")[0].strip("<>"), []).append(copy)
        return found

    def all_arrived(self) -> bool:
        """Whether everything that was answered 250 is there."""
        try:
            there = self.arrivals()
        except (OSError, imaplib.IMAP4.error):
            return False
        mails = [mail for sender in self.senders.values() for mail in sender.mails]
        return all(mail.name in there for mail in mails if mail.taken)

    def judge_port(self, port: int, sender: traffic.Sender, begun: float, seen_until: float) -> None:
        """Check that mail was accepted soon, and in the end all of it."""
        again = sender.takes_again(begun, seen_until)
        self.again.append(again)
        if again is None or (self.by_the_clock and again > SOON):
            self.problems.append(f"port {port} takes no mail after {seen_until - begun:.0f} s")
        if waiting := sender.waiting:
            last = Counter(mail.tries[-1].text[:70] for mail in waiting if mail.tries)
            self.problems.append(f"{len(waiting)} not taken on port {port}: {dict(last)}")
        refused = [one.text for one in sender.tries if one.code >= 500]
        if refused:
            self.problems.append(f"refused on port {port}: {refused}")

    def judge_messages(self, begun: float) -> None:
        """Check that each message arrived, as often as permitted, and signed if a user sent it."""
        self.taken = sum(bool(mail.taken) for sender in self.senders.values() for mail in sender.mails)
        try:
            there = self.arrivals()
        except (OSError, imaplib.IMAP4.error) as error:
            self.problems.append(f"nobody gets at the mailboxes: {error!r}")
            return
        for port, sender in self.senders.items():
            for mail in sender.mails:
                copies = there.get(mail.name, [])
                self.lost += bool(mail.taken and not copies)
                self.twice += len(copies) > 1
                if not copies:
                    continue
                first = min(copy.when for copy in copies)
                self.slowest = max(self.slowest, first - max(mail.taken, begun))
                # An interrupted hop inside the server counts as one more lost reply.
                allowed = 1 + mail.unseen + (first > self.about - 2)
                if len(copies) > allowed:
                    self.problems.append(f"{mail.name} came {len(copies)} times: {mail.tries}")
                if port == 465:
                    self.check_signatures(copies)
        if self.lost:
            self.problems.append(f"{self.lost} have not arrived")

    def check_signatures(self, copies: list[Arrived]) -> None:
        """What a user wrote is signed, in the mailbox and at the relay."""
        for copy in copies:
            if copy.kept:
                check_relayed(self.server, copy.kept)
            else:
                check_signed(self.server, copy.raw)

    def row(self) -> list[str]:
        """For the table."""
        again = [*self.again, None, None][:2]
        release = self.server.sh(". /etc/os-release; echo $ID $VERSION_ID")
        return [
            self.name,
            release,
            *("" if value is None else f"{value:.0f}" for value in again),
            *(str(count) for count in (self.taken, self.lost, self.twice)),
            f"{self.slowest:.0f}",
            str(self.alarms),
            "; ".join(self.problems) or "passed",
        ]


def check_fault(server: Server, kind: Kind, by_the_clock: bool) -> None:
    """Run a fault. With `by_the_clock` the time limit counts, and a row goes into the table."""
    # The watch stops restarting a unit after three restarts, and here each fault must be the first.
    server.sh(f"systemctl stop selfhosted-mail-watch.service; rm -f {STATE}")
    before = server.sh(f"systemctl is-active {' '.join(UNITS)} || true")
    course = Course(server, kind.name, kind.make(server), by_the_clock)
    try:
        course.run()
    except BaseException as error:
        course.problems.append(f"{type(error).__name__}: {error}"[:500])
        raise
    finally:
        if by_the_clock:
            TABLE.add(course.row())
            report.progress(" | ".join(course.row()))
        if course.problems:
            repair(server)
        clean(server, course.mark)
    assert not course.problems
    assert server.sh(f"systemctl is-active {' '.join(UNITS)} || true") == before


def repair(server: Server) -> None:
    """Restart all daemons, so that faults do not affect each other."""
    units = " ".join(UNITS)
    server.sh(f"for unit in {units}; do systemctl kill --signal=KILL $unit || true; done; systemctl start {units}")


def clean(server: Server, mark: str) -> None:
    """Remove the messages."""
    server.sh(f"doveadm expunge -u {server.bob.address} mailbox '*' subject {mark}")


EVERY = [*HANGS.values(), *KILLED.values(), *ENDS.values(), *FULL.values()]


@pytest.mark.long
@pytest.mark.parametrize("kind", EVERY, ids=str)
@both
def test_fault(server: Server, kind: Kind) -> None:
    check_fault(server, kind, by_the_clock=True)


SAMPLE = [HANGS["OpenSMTPD's lookup"], KILLED["OpenSMTPD's queue"], ENDS["filter-rspamd"], FULL["queue"]]


@pytest.mark.parametrize("kind", SAMPLE, ids=str)
@both
def test_one_of_each_kind(server: Server, kind: Kind) -> None:
    check_fault(server, kind, by_the_clock=False)


# Submits a message on port 10028, as the signing proxy does; prints the reply to its end.
SIGNED = """
import os, pwd, smtplib, subprocess, sys
sender, recipient, fill = sys.argv[1:]
os.seteuid(pwd.getpwnam("dkimproxy").pw_uid)
session = smtplib.SMTP("127.0.0.1", 10028, "signed.test")
os.seteuid(0)
session.ehlo()
for command in f"MAIL FROM:<{sender}>", f"RCPT TO:<{recipient}>", "DATA":
    assert session.docmd(command)[0] in (250, 354), command
subprocess.run(["sh", "-c", fill], check=True)
session.send(b"Subject: full\\r\\n\\r\\nHello.\\r\\n.\\r\\n")
print(session.getreply()[0])
"""


@both
def test_what_is_under_way_when_the_disk_fills_is_not_taken(server: Server) -> None:
    """Without the filter, OpenSMTPD answers 250 and stores an empty message."""
    alice, bob = server.alice, server.bob.address
    with Full(server, OPENSMTPD, QUEUE) as full:
        wait_for(lambda: server.sh("ss -Hltn 'sport = :465'"), what="OpenSMTPD is back")
        with traffic.stranger(server.ip) as world, traffic.user(server.ip, alice.address, alice.password) as user:
            for session, sender in (world, STRANGER), (user, alice.address):
                for command in f"MAIL FROM:<{sender}>", f"RCPT TO:<{bob}>", "DATA":
                    assert session.docmd(command)[0] in (250, 354), command
                session.send(smtp.wire(smtp.compose(sender, [bob])))
            codes = {10028: int(server.python(SIGNED, alice.address, bob, full.filling, user="root"))}
            for port, session in (25, world), (465, user):
                session.send(b".\r\n")
                codes[port] = session.getreply()[0]
    assert codes == {10028: 452, 25: 452, 465: 452}


@both
def test_each_process_is_in_the_matrix(server: Server) -> None:
    unknown = []
    with imap.session(server.ip, server.quinn.address, server.quinn.password):
        unknown += unknown_processes(server)
    server.submit([server.bob.address])
    for _time in range(20):
        unknown += unknown_processes(server)
    assert not unknown
