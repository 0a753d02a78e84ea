# SPDX-License-Identifier: GPL-3.0-or-later
"""The protocol of smtpd-filters(7): OpenSMTPD's reports and requests, and the answers.

If a filter ends, OpenSMTPD ends too. So nothing here may fail on a client's input.
"""

import os
import re
import select
import syslog
import threading
import time
from collections.abc import Sequence

from authors.rights import Refusal

from .content import LONGEST, Content, too_large
from .memory import KEPT_BESIDE
from .peers import network
from .recipients import Limits, Recipients
from .replies import refused, unjudged
from .session import INBOUND, LOCAL, REDIRECT, SUBMISSION, Session, Settings
from .turns import PAUSE, Turns
from .writers import Writers

BLOCK = 1 << 18
KEEP_EVERY = 5  # seconds
EVENTS = {
    "report": "link-connect link-auth protocol-client tx-rcpt tx-commit tx-reset link-disconnect",
    "filter": "connect auth mail-from rcpt-to data-line commit",
}
ANNOUNCED = re.compile(rb"(?i)mail from:.*\ssize=([0-9]{1,30})(\s|$)")  # RFC 1870 section 6
NOBODY = Session()


class Filter:
    def __init__(self, settings: Settings) -> None:
        self.size, self.messages = settings.bytes, settings.messages
        self.limits, self.recipients = Limits(settings.limits), Recipients(settings.recipients)
        self.writers = Writers(settings)
        self.content = Content(settings, self.writers)
        self.turns = Turns()
        self.sessions: dict[bytes, Session] = {}
        self.answers: list[bytes] = []
        self._writing = threading.Lock()

    def run(self) -> None:
        """Read and answer until OpenSMTPD has ended."""
        sessions, size, rest, answer = self.sessions, self.size, b"", self.answers.append
        kept = time.monotonic()
        while True:
            if select.select([0], [], [], self.turns.seconds(KEEP_EVERY))[0]:
                block = os.read(0, BLOCK)
                if not block:
                    return
                *lines, rest = (rest + block).split(b"\n")
                for line in lines:
                    # kind, version, time, subsystem, event, session, token, the rest (may contain separators)
                    words = line.split(b"|", 7)
                    if len(words) == 8 and words[4] == b"data-line":
                        text = words[7]
                        session = sessions.get(words[5], NOBODY)
                        session.received += len(text) + 1
                        session.memory += len(text) + KEPT_BESIDE
                        # Fast path for most lines.
                        if (
                            session.passing
                            and text != b"."
                            and len(text) <= LONGEST
                            and session.received <= size
                            and session.memory <= session.allowed
                        ):
                            session.lines += 1
                            session.last = text
                            answer(b"filter-dataline|%b|%b|%b\n" % (words[5], words[6], text))
                            continue
                    self.told(words)
            self.give_turns()
            self.write(b"".join(self.answers))
            self.answers.clear()
            if time.monotonic() > kept + KEEP_EVERY:
                self.recipients.keep()
                kept = time.monotonic()

    def write(self, answers: bytes) -> None:
        with self._writing:
            while answers:
                answers = answers[os.write(1, answers) :]

    def give_turns(self) -> None:
        self.answers += [b"filter-result|%b|%b|proceed\n" % turn for turn in self.turns.given(self.sessions)]

    def told(self, words: list[bytes]) -> None:
        """Handle one line of smtpd-filters(7), split at the first seven separators."""
        if words == [b"config", b"ready"]:
            events = [f"{kind}|smtp-in|{event}" for kind, names in EVENTS.items() for event in names.split()]
            self.answers += [f"register|{word}\n".encode() for word in (*events, "ready")]
        if len(words) < 6 or words[0] == b"config":
            return
        event, name = words[4:6]
        if words[0] == b"report":
            try:
                self.report(event, name, words[6:])
            except Exception as error:
                refused(error)
            return
        token, text = [*words[6:], b"", b""][:2]
        session = self.sessions.get(name) or Session()
        if event == b"data-line":
            passed = self.content.passed(session, text)
            self.answers += [b"filter-dataline|%b|%b|%b\n" % (name, token, line) for line in passed]
            return
        try:
            if event == b"connect":
                if session.port in (LOCAL, REDIRECT):
                    # In a thread, as a lookup of the user in a directory service may be slow.
                    threading.Thread(target=self.greet, args=(name, token, session), daemon=True).start()
                    return
                if session.port != INBOUND and session.port not in SUBMISSION:
                    raise unjudged()
            elif event == b"auth":
                # The rest of this line has a password in it.
                self.turns.wait(session.network, name, token)
                return
            elif event == b"mail-from":
                self.mail(session, text)
            elif event == b"rcpt-to":
                self.recipient(session)
            verdict = b"reject|" + session.refusal if session.refusal else b"proceed"
            if event == b"commit":
                self.content.begin(session)
        except Exception as error:
            verdict = (b"disconnect|" if event == b"connect" else b"reject|") + refused(error)
        self.answers.append(b"filter-result|%b|%b|%b\n" % (name, token, verdict))

    def report(self, event: bytes, name: bytes, words: Sequence[bytes]) -> None:
        """Handle a report; `words` are the event's arguments."""
        if event == b"link-connect":
            source, destination = words[-1].decode().split("|")[-2:]
            port = destination.rpartition(":")[2].encode()
            self.sessions[name] = Session(port, source, network(source), destination)
            return
        # Events may arrive after their session has ended.
        session = self.sessions.get(name)
        if session is None:
            return
        if event == b"link-auth":
            if words[0] == b"pass":
                session.login = words[1].decode("ascii", "replace").lower()
            elif words[0] == b"fail":
                # OpenSMTPD's own line lacks the address, which fail2ban needs. Standard error is logged as an error.
                syslog.syslog(syslog.LOG_INFO, f"failed login from {session.source.rpartition(':')[0].strip('[]')}")
            # mail-status regularly tries wrong passwords from loopback.
            wrong = words[0] == b"fail" and not session.source.startswith("127.")
            self.turns.checked(session.network, name, PAUSE if wrong else 0.0)
        elif event == b"protocol-client":
            session.command = b"|".join(words)
            if b"*****" not in session.command:
                self.turns.checked(session.network, name)
        elif event == b"tx-rcpt":
            if session.counted and not words[-1].startswith(b"ok|"):
                self.recipients.take_back(session.account, session.counted)
            session.counted = 0
        elif event == b"tx-commit":
            session.accepted += 1
        elif event == b"tx-reset":
            self.content.begin(session)
        elif event == b"link-disconnect":
            self.content.begin(session)
            self.turns.checked(session.network, name)
            del self.sessions[name]

    def greet(self, name: bytes, token: bytes, session: Session) -> None:
        """Answer a client on this host."""
        verdict = b"proceed"
        try:
            self.writers.introduce(session)
        except Exception as error:
            verdict = b"disconnect|" + refused(error)
        self.write(b"filter-result|%b|%b|%b\n" % (name, token, verdict))

    def mail(self, session: Session, address: bytes) -> None:
        """Check MAIL FROM. Raises Refusal."""
        announced = ANNOUNCED.match(session.command)
        # OpenSMTPD counts a line end as one octet, SIZE= counts it as two. So a user's message that just fits would be
        # refused by its announced size.
        if announced and session.port == INBOUND and int(announced[1]) > self.size:
            raise too_large(self.size)
        if session.accepted >= self.messages:
            raise Refusal("messages", f"At most {self.messages} messages are accepted in a session", "4.5.3", 452)
        if session.port != INBOUND:
            self.writers.check_sender(session, address)

    def recipient(self, session: Session) -> None:
        """Count RCPT TO, until OpenSMTPD reports that it has refused the recipient. Raises Refusal."""
        session.counted = 0
        account = session.login or self.writers.sieve_account(session)
        # Apart, so that mail from outside that a script redirects does not keep its owner from writing.
        session.account = account if session.login else f"sieve/{account}"
        most = self.limits.of(account) if account else 0
        if most:
            session.counted = self.recipients.add(session.account, most)
            if not session.counted:
                text = f"{session.account} has had {most} recipients within an hour, try again later"
                raise Refusal("recipients", text, "4.7.1", 450)
