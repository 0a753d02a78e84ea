# SPDX-License-Identifier: GPL-3.0-or-later
"""The two servers under test, as molecule.yml describes them, and how tests run on both at the same time."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.message import EmailMessage

from testbed import imap, provider, smtp
from testbed.containers import PATIENCE, docker, run, wait_for

RELAY = "default-relay"
# Somebody elsewhere, whose mail the relay provider keeps.
FRIEND = "friend@far.test"
STRANGER = "stranger@world.test"


@dataclass(frozen=True)
class Login:
    address: str
    password: str


@dataclass(frozen=True)
class Server:
    container: str
    ip: str
    domain: str
    additional_domain: str
    additional_selector: str
    # As the provider logs it: with its own name where the login has no domain.
    relay_user: str
    relay_password: str

    @property
    def hostname(self) -> str:
        return f"mail.{self.domain}"

    @property
    def alice(self) -> Login:
        """Has a password hash, the aliases a.liddell@ and alice@ the additional domain, and root's mail."""
        return Login(f"alice@{self.domain}", "correct horse battery staple")

    @property
    def bob(self) -> Login:
        """Has a plain text password, and all the rest of the additional domain."""
        return Login(f"bob@{self.domain}", 'b: #o "b" @ 100%')

    @property
    def quinn(self) -> Login:
        """Has a quota of 2 MB; q@ and quota@ lead there, crew@ there and to bob."""
        return Login(f"quinn@{self.domain}", "small box")

    def run(self, *command: str, user: str = "root") -> str:
        """Standard output of a command on the server; AssertionError when it fails."""
        return run(self.container, *command, user=user)

    def python(self, program: str, *arguments: str, user: str = "nobody") -> str:
        """Standard output of a Python program run on the server; AssertionError when it fails."""
        words = ["exec", "--interactive", "--user", user, self.container, "python3", "-", *arguments]
        return docker(*words, data=program.encode()).decode()

    def submit(
        self,
        recipients: Sequence[str] = (FRIEND,),
        *,
        login: Login | None = None,
        sender: str = "",
        message: EmailMessage | None = None,
        port: int = 587,
    ) -> EmailMessage:
        """Hand in a message, a short one from the login (alice) unless told otherwise, and return it."""
        login = login or self.alice
        sender = sender or login.address
        message = message or smtp.compose(sender, recipients)
        smtp.submit(self.ip, login.address, login.password, sender, recipients, message, port)
        return message

    def receive(self, *recipients: str, message: EmailMessage | None = None) -> EmailMessage:
        """A stranger's server delivers a message, a short one unless given, which is returned."""
        message = message or smtp.compose(STRANGER, recipients)
        smtp.deliver(self.ip, STRANGER, recipients, message)
        return message

    def relayed(self, message: EmailMessage, timeout: float = PATIENCE) -> provider.Kept:
        """What the relay provider got of this message; AssertionError after `timeout` seconds."""
        return provider.wait_kept(RELAY, str(message["Message-ID"]), timeout)

    def mailbox(self, login: Login, marker: str, folder: str = "INBOX", timeout: float = PATIENCE) -> bytes:
        """The message with this text in it from a mailbox; AssertionError after `timeout` seconds."""
        return imap.wait_message(self.ip, login.address, login.password, marker, folder, timeout)

    def journal(self, *options: str) -> list[str]:
        """Lines of the journal since the server was started; a container's boot number is its machine's."""
        started = self.run("systemctl", "show", "--timestamp=unix", "-P", "UserspaceTimestamp").strip()
        lines = self.run("journalctl", "--no-pager", f"--since={started}", *options).splitlines()
        return [line for line in lines if not line.startswith("-- ")]

    def queue(self) -> str:
        """OpenSMTPD's queue, a line for each recipient."""
        return self.run("smtpctl", "show", "queue")

    def settle(self, timeout: float = PATIENCE) -> None:
        """Wait until nothing is in the queue any more."""
        wait_for(lambda: not self.queue(), timeout, f"{self.container}'s queue is empty")


SERVERS = [
    Server(
        "default-mail12", "198.51.100.12", "twelve.test", "dozen.test", "eggs",
        "customer@twelve.test", 'twelve: #"@ 12%',
    ),
    Server(
        "default-mail13", "198.51.100.13", "thirteen.test", "bakers.test", "oven",
        "thirteen@smtp.provider.test", "13 !\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
    ),
]  # fmt: skip


def on_both(check: Callable[[Server], object]) -> None:
    """Call it for both servers at the same time. Raises what it raises; a group of both servers' errors if both do."""
    with ThreadPoolExecutor() as pool:
        answers = {server: pool.submit(check, server) for server in SERVERS}
    errors = []
    for server, answer in answers.items():
        if (error := answer.exception()) is not None:
            error.add_note(f"server: {server.container}")
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise BaseExceptionGroup("both servers", errors)


def both(test: Callable[..., None]) -> Callable[..., None]:
    """Decorator: the test runs for both servers at the same time; its first parameter is the server."""

    @functools.wraps(test)
    def run_test(**parameters: object) -> None:
        on_both(lambda server: test(server, **parameters))

    signature = inspect.signature(test)
    run_test.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[one for name, one in signature.parameters.items() if name != "server"]
    )
    return run_test
