# SPDX-License-Identifier: GPL-3.0-or-later
"""The two servers, thousands of messages through them, and those that the provider has kept."""

from __future__ import annotations

import base64
import functools
import io
import re
import smtplib
import tarfile
import threading
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from testbed import server, smtp
from testbed.containers import PATIENCE, docker, run, wait_for
from testbed.signatures import author, check_signed

RELAY = "pipeline-relay"
FRIEND = "friend@far.test"
ANY_FRIEND = "friend@"
# Postfix's own lines on top of what it was given.
_KEPT = 'grep -rlF -e "$1" /var/spool/kept/all/new'


@dataclass(frozen=True)
class Server(server.Server):
    @functools.cached_property
    def record(self) -> bytes:
        """The DNS text of the key."""
        key = f"/etc/dkimproxy/keys/{self.domain}.mail.pem"
        public = docker("exec", self.container, "openssl", "pkey", "-in", key, "-pubout", "-outform", "DER")
        return b"v=DKIM1; k=rsa; p=" + base64.b64encode(public)

    def key(self, name: bytes, timeout: int = 5) -> bytes | None:
        """The key on the host: nothing is published in this scenario."""
        return self.record if name.startswith(f"mail._domainkey.{self.domain}".encode()) else None

    @property
    def alice(self) -> str:
        return f"alice@{self.domain}"

    def login(self, user: str = "") -> smtplib.SMTP:
        """A session on port 587, alice's unless told otherwise."""
        return smtp.login(self.ip, 587, user or self.alice, "alices-password")

    def queue(self) -> str:
        """Queued mail, a line each, without bounces to alice, who has no mailbox here."""
        return self.sh(f"smtpctl show queue | grep -F {ANY_FRIEND} || true")

    def journal(self, since: str, unit: str = "dkimproxy") -> list[str]:
        """What a unit has logged since `now()` gave that cursor."""
        options = f"--no-pager --output=cat --unit={unit} --after-cursor='{since}'"
        return self.sh(f"journalctl --sync; journalctl {options}").splitlines()

    def now(self) -> str:
        """A place in the journal."""
        return self.sh("journalctl --sync; journalctl -n1 --show-cursor | sed -n 's/^-- cursor: //p'")

    def settle(self, timeout: float = PATIENCE) -> None:
        """Wait until the signer runs and nothing is in the queue."""
        wait_for(lambda: "127.0.0.1:10027" in self.sh("ss -Hltn"), what="the signer listens")
        super().settle(timeout)

    def check_own(self, message: bytes, others: bool = False, writer: str = "") -> None:
        """Check that it is alice's (by default), signed once; other signatures may be below."""
        check_signed(self, message, others)
        assert author(message) == (writer or self.alice), message


SERVERS = [
    Server("pipeline-debian12", "twelve.pipeline.test"),
    Server("pipeline-debian13", "thirteen.pipeline.test"),
]
both = server.for_all(SERVERS)


@dataclass
class Batch:
    """Messages of alice's, or of several writers in turn, each with a mark of its own: `<mark>.<number>`."""

    server: Server
    mark: str = field(default_factory=lambda: f"batch{uuid.uuid4().hex}")
    recipient: str = FRIEND
    writers: Sequence[str] = ()

    def writer(self, number: int) -> str:
        return self.writers[number % len(self.writers)] if self.writers else self.server.alice

    def message(self, number: int, body: bytes = b"") -> bytes:
        head = f"From: {self.writer(number)}\r\nTo: {self.recipient}\r\nSubject: {self.mark}.{number}.\r\n"
        head += f"Date: Sun, 22 Nov 2026 12:00:00 +0000\r\nMessage-ID: <{self.mark}.{number}@{self.server.domain}>\r\n"
        return head.encode() + b"\r\n" + (body or b"Some words of a line, as people write them.\r\n" * 80)

    def submit(self, count: int, connections: int = 1, body: bytes = b"") -> None:
        """Submit this many messages on this many connections, or on one for each writer; all are accepted."""
        assert len(self.writers) in (0, connections)
        with ThreadPoolExecutor(connections) as pool:
            list(pool.map(lambda first: self._submit(range(first, count, connections), body), range(connections)))

    def _submit(self, numbers: Sequence[int], body: bytes) -> None:
        # No more than OpenSMTPD takes in one session.
        for at in range(0, len(numbers), 50):
            writer = self.writer(numbers[0])
            with self.server.login(writer) as session:
                for number in numbers[at : at + 50]:
                    session.sendmail(writer, [self.recipient], self.message(number, body))

    @contextmanager
    def submitting(self, count: int, connections: int) -> Iterator[None]:
        """Submit them while the block runs; raises errors of the submission."""
        with ThreadPoolExecutor(1) as pool:
            submitted = pool.submit(self.submit, count, connections)
            yield
            submitted.result()

    @contextmanager
    def trickling(self) -> Iterator[list[int]]:
        """Submit about fifty a second while the block runs; yields their numbers, complete after the block."""
        numbers: list[int] = []
        ended = threading.Event()

        def submit() -> None:
            while not ended.wait(0.1):
                more = range(len(numbers), len(numbers) + 10)
                self._submit(more, b"")
                numbers.extend(more)

        with ThreadPoolExecutor(1) as pool:
            submitted = pool.submit(submit)
            try:
                yield numbers
            finally:
                ended.set()
            submitted.result()

    def arrived(self) -> int:
        """How many copies the provider has kept."""
        return int(run(RELAY, "sh", "-c", f"{_KEPT} | wc -l || true", "sh", self.mark))

    def wait(self, count: int, timeout: float) -> None:
        """Wait until this many copies have arrived within this many seconds."""
        what = f"{count} messages of {self.server.container}"
        try:
            wait_for(lambda: self.arrived() >= count, timeout, what)
        except AssertionError as error:
            error.add_note(f"{self.arrived()} are there; the queue's beginning:\n{self.server.queue()[:2000]}")
            raise

    def kept(self) -> list[bytes]:
        """The messages, as OpenSMTPD sent them: CRLF line ends, the provider's own lines on top."""
        packed = docker("exec", RELAY, "sh", "-c", f"{_KEPT} | tar -c -T - 2>/dev/null", "sh", self.mark)
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            files = [file.read() for member in archive if (file := archive.extractfile(member))]
        return [re.sub(rb"\r?\n", b"\r\n", message) for message in files]

    def check(self, count: int, copies: int = 1) -> None:
        """Check that all numbers up to `count` have arrived, signed once and aligned, with a limit of copies."""
        found: dict[int, int] = {}
        for message in self.kept():
            match = re.search(rb"^Subject: %s\.(\d+)\." % self.mark.encode(), message, re.M)
            assert match, message[:2000]
            self.server.check_own(message, writer=self.writer(int(match[1])))
            found[int(match[1])] = found.get(int(match[1]), 0) + 1
        assert sorted(found) == list(range(count))
        assert max(found.values()) <= copies, {number: copy for number, copy in found.items() if copy > copies}
