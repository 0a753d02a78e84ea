# SPDX-License-Identifier: GPL-3.0-or-later
"""Steady mail to a server during a fault: the answer to each delivery attempt, and its time."""

from __future__ import annotations

import contextlib
import itertools
import smtplib
import socket
import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from testbed import smtp

# Seconds. Real senders wait minutes for a reply (RFC 5321 section 4.5.3.2) and longer before they retry.
EVERY = 1
CONNECT, REPLY = 10, 30
PAUSES = (3, 6, 12)
# Open at once; fewer than one address may have. As in MTAs, only one while the server does not answer: each connection
# that is not accepted counts for two minutes.
CONNECTIONS = 10


@dataclass(frozen=True)
class Try:
    """One delivery attempt. Times in seconds since the epoch; `code`: of the last reply, 0 without one.

    `text`: of that reply, or the error. `unseen`: the whole message was sent without an answer, so that the server may
    have it.
    """

    begun: float
    ended: float
    code: int
    text: str
    unseen: bool = False

    @property
    def taken(self) -> bool:
        """Whether the message was answered 250."""
        return self.code == 250


@dataclass
class Mail:
    """A message. `name`: its Message-ID without brackets."""

    name: str
    recipient: str
    tries: list[Try] = field(default_factory=list)

    @property
    def taken(self) -> float:
        """When it was answered 250; 0 if not yet."""
        return next((one.ended for one in self.tries if one.taken), 0)

    @property
    def unseen(self) -> int:
        """Number of attempts without an answer after which the server may have the message."""
        return sum(one.unseen for one in self.tries)


class _Session(smtplib.SMTP):
    """Closes with a reset, as a connection that the server does not read would count as open for another minute."""

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        found: socket.socket = super()._get_socket(host, port, CONNECT)  # type: ignore[misc]
        found.settimeout(timeout)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return found


class _TlsSession(smtplib.SMTP_SSL, _Session):
    pass


def stranger(host: str) -> smtplib.SMTP:
    """A session on port 25, as another MTA opens it."""
    session = _Session(host, 25, timeout=REPLY, local_hostname=smtp.PEER)
    session.ehlo()
    session.starttls(context=smtp.tls())
    session.ehlo()
    return session


def user(host: str, name: str, password: str) -> smtplib.SMTP:
    """A session on port 465, logged in."""
    session = _TlsSession(host, 465, timeout=REPLY, context=smtp.tls(), local_hostname=smtp.CLIENT)
    session.ehlo()
    session.login(name, password)
    return session


class Sender:
    """Sends one message a second while its `with` block runs, to the recipients in turn.

    Each message is retried after a 4xx reply, and if there is no connection or no answer.
    """

    def __init__(self, connect: Callable[[], smtplib.SMTP], sender: str, recipients: Sequence[str], mark: str) -> None:
        self.connect, self.sender, self.recipients, self.mark = connect, sender, recipients, mark
        self.mails: list[Mail] = []
        self._enough, self._ended = threading.Event(), threading.Event()
        self._free = threading.Condition()
        self._busy, self._answers = 0, True

    def __enter__(self) -> Sender:
        # A thread for each waiting message.
        self._pool = ThreadPoolExecutor(1000)
        self._pool.submit(self._begin)
        return self

    def __exit__(self, *_error: object) -> None:
        self._enough.set()
        self._ended.set()
        self._pool.shutdown()

    def enough(self) -> None:
        """Begin no new messages; those not yet accepted are retried."""
        self._enough.set()

    def _begin(self) -> None:
        due = time.monotonic()
        for recipient in itertools.cycle(self.recipients):
            due += EVERY
            if self._enough.wait(due - time.monotonic()):
                return
            self.mails.append(Mail(f"{self.mark}.{uuid.uuid4().hex}@{self.sender.rpartition('@')[2]}", recipient))
            self._pool.submit(self._bring, self.mails[-1])

    def _bring(self, mail: Mail) -> None:
        for pause in itertools.chain(PAUSES, itertools.repeat(PAUSES[-1])):
            with self._connection():
                if self._ended.is_set():
                    return
                done = self._try(mail)
                mail.tries.append(done)
            if done.taken or done.code >= 500 or self._ended.wait(pause):
                return

    @contextlib.contextmanager
    def _connection(self) -> Iterator[None]:
        with self._free:
            self._free.wait_for(lambda: self._busy < (CONNECTIONS if self._answers else 1))
            self._busy += 1
        try:
            yield
        finally:
            with self._free:
                self._busy -= 1
                self._free.notify_all()

    def _try(self, mail: Mail) -> Try:
        begun, unseen, session = time.time(), False, None
        message = smtp.compose(self.sender, [mail.recipient], subject=self.mark)
        message.replace_header("Message-ID", f"<{mail.name}>")

        def answered(code: int, text: bytes) -> Try:
            return Try(begun, time.time(), code, text.decode(errors="replace"))

        try:
            session = self.connect()
            self._answers = True
            for command, good in (
                (f"MAIL FROM:<{self.sender}>", 250),
                (f"RCPT TO:<{mail.recipient}>", 250),
                ("DATA", 354),
            ):
                code, text = session.docmd(command)
                if code != good:
                    return answered(code, text)
            unseen = True
            session.send(smtp.wire(message) + b".\r\n")
            done = answered(*session.getreply())
            with contextlib.suppress(smtplib.SMTPException, OSError):
                session.docmd("QUIT")
            return done
        except smtplib.SMTPResponseException as error:
            return Try(begun, time.time(), error.smtp_code, str(error))
        except (smtplib.SMTPException, OSError) as error:
            self._answers = session is not None
            return Try(begun, time.time(), 0, repr(error), unseen)
        finally:
            if session is not None:
                session.close()

    @property
    def tries(self) -> list[Try]:
        """All finished attempts, in the order of their beginning."""
        return sorted((one for mail in self.mails for one in mail.tries), key=lambda one: one.begun)

    def well(self, seconds: float = 10) -> bool:
        """Whether at least four attempts began in the last seconds and all were answered 250."""
        last = [one for one in self.tries if one.begun > time.time() - seconds]
        return len(last) >= 4 and all(one.taken for one in last)

    def takes_again(self, since: float, until: float) -> float | None:
        """Seconds from `since` to the first 250 after which no attempt failed before `until`; None without one.

        `until` must be in the past, as unfinished attempts do not count.
        """
        tries = [one for one in self.tries if since <= one.begun <= until]
        failed = max((one.begun for one in tries if not one.taken), default=0)
        good = [one.ended for one in tries if one.taken and one.begun > failed and one.ended <= until]
        return good[0] - since if good else None

    @property
    def waiting(self) -> list[Mail]:
        """Messages without a 250 so far."""
        return [mail for mail in self.mails if not mail.taken]
