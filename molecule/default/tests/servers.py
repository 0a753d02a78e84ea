# SPDX-License-Identifier: GPL-3.0-or-later
"""The two servers under test, as molecule.yml describes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import EmailMessage

from testbed import imap, managesieve, provider, server, smtp
from testbed.acme import Acme
from testbed.containers import PATIENCE
from testbed.signatures import check_signed

RELAY = "default-relay"
ACME = Acme("default-acme", "acme.test")
# Somebody elsewhere, whose mail the relay provider keeps.
FRIEND = "friend@far.test"
STRANGER = "stranger@world.test"

# Files by content, packages, and which processes the services have.
_STATE = r"""
find /etc /usr/local /opt /root /var/lib /var/vmail /var/spool -xdev -type f \
    -not -path '/var/lib/redis*' -not -path '/var/lib/rspamd/*' -not -path '/var/spool/smtpd/*' \
    -not -path '/var/vmail/*' -not -path '/root/.ansible/*' -not -path '/var/lib/systemd/*' \
    -not -path '/var/lib/private/*' -not -path '/var/lib/selfhosted-mail/filter/*' \
    -not -path '/var/lib/fail2ban/*' \
    -printf '%m %u %g %p ' -exec sha256sum {} \; | sort -k 4
dpkg-query -W
systemctl show -p Id -p MainPID -p ActiveState -p UnitFileState opensmtpd dkimproxy rspamd dovecot
"""


@dataclass(frozen=True)
class Login:
    address: str
    password: str


@dataclass(frozen=True)
class Server(server.Server):
    additional_domain: str
    additional_selector: str
    # As the provider logs it: with its own name where the login has no domain.
    relay_user: str
    relay_password: str

    @property
    def selectors(self) -> dict[str, str]:
        return {**super().selectors, self.additional_domain: self.additional_selector}

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

    def state(self) -> list[str]:
        """What a run may change, line by line."""
        lines = self.sh(_STATE).splitlines()
        assert len(lines) > 500
        return lines


SERVERS = [
    Server(
        "default-mail12", "twelve.test", "dozen.test", "eggs", "customer@twelve.test", 'twelve: #"@ 12%',
    ),
    Server(
        "default-mail13", "thirteen.test", "bakers.test", "oven",
        "thirteen@smtp.provider.test", "13 !\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
    ),
]  # fmt: skip
both = server.for_all(SERVERS)


def on_both(check: Callable[[Server], object]) -> None:
    """Call it for both servers at the same time."""
    server.on_all(SERVERS, check)


def check_relayed(server: Server, kept: provider.Kept) -> dict[str, str]:
    """It came from the server, over TLS, with its login, signed; Mail::DKIM agrees. Returns the signature's tags."""
    assert kept.client_address == server.ip
    assert kept.auth_user == server.relay_user
    assert kept.tls in ("TLSv1.2", "TLSv1.3")
    signature = check_signed(server, kept.raw)
    assert kept.dkim == [("pass", signature["d"])], kept.message["Authentication-Results"]
    return signature


@contextmanager
def script(server: Server, login: Login, text: str) -> Iterator[None]:
    """A user's own Sieve script, for a while."""
    with managesieve.Session(server.ip, login.address, login.password) as session:
        session.put("test", text)
    try:
        yield
    finally:
        with managesieve.Session(server.ip, login.address, login.password) as session:
            session.remove("test")
