# SPDX-License-Identifier: GPL-3.0-or-later
"""The two complete mail servers of a scenario, as in its molecule.yml and .config/molecule/config.yml."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import EmailMessage

from testbed import imap, managesieve, provider, server, smtp
from testbed.acme import Acme
from testbed.containers import PATIENCE, wait_for
from testbed.signatures import check_signed

SCENARIO = os.environ.get("MOLECULE_SCENARIO_NAME", "default")
RELAY = f"{SCENARIO}-relay"
ACME = Acme(f"{SCENARIO}-acme", "acme.test")
# An external address whose mail the relay provider keeps.
FRIEND = "friend@far.test"
STRANGER = "stranger@world.test"

# Files with hashes, packages, and the services' processes.
_STATE = r"""
listed() {
    find /etc /usr/local /opt /root /var/lib /var/vmail /var/spool -xdev -type f \
    -not -path '/var/lib/redis*' -not -path '/var/lib/rspamd/*' -not -path '/var/spool/smtpd/*' \
    -not -path '/var/vmail/*' -not -path '/root/.ansible/*' -not -path '/var/lib/systemd/*' \
    -not -path '/var/lib/private/*' -not -path '/var/lib/selfhosted-mail/filter/*' \
    -not -path '/var/lib/fail2ban/*' -not -path '/var/lib/apt/daily_lock' -not -path '/var/lib/apt/periodic/*' \
    -not -path '/var/lib/logrotate/*' \
    "$@" | sort
}
listed -printf '%p %m %u %g\n'
listed -exec sha256sum {} +
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
    # As the provider logs it: with the provider's name if the login has no domain.
    relay_user: str
    relay_password: str

    @property
    def selectors(self) -> dict[str, str]:
        return {**super().selectors, self.additional_domain: self.additional_selector}

    @property
    def alice(self) -> Login:
        """Has a password hash, the aliases a.liddell@ and alice@ of the additional domain, and root's mail."""
        return Login(f"alice@{self.domain}", "correct horse battery staple")

    @property
    def bob(self) -> Login:
        """Has a plain text password, and the catch-all of the additional domain."""
        return Login(f"bob@{self.domain}", 'b: #o "b" @ 100%')

    @property
    def quinn(self) -> Login:
        """Has a quota of 2 MB; q@ and quota@ are delivered there, crew@ there and to bob."""
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
        """Submit a message, by default a short one from the login (alice), and return it."""
        login = login or self.alice
        sender = sender or login.address
        message = message or smtp.compose(sender, recipients)
        smtp.submit(self.ip, login.address, login.password, sender, recipients, message, port)
        return message

    def receive(self, *recipients: str, message: EmailMessage | None = None) -> EmailMessage:
        """Deliver a message, by default a short one, as a stranger's server does, and return it."""
        message = message or smtp.compose(STRANGER, recipients)
        smtp.deliver(self.ip, STRANGER, recipients, message)
        return message

    def relayed(self, message: EmailMessage, timeout: float = PATIENCE) -> provider.Kept:
        """This message at the relay provider; AssertionError after `timeout` seconds."""
        return provider.wait_kept(RELAY, str(message["Message-ID"]), timeout)

    def mailbox(self, login: Login, marker: str, folder: str = "INBOX", timeout: float = PATIENCE) -> bytes:
        """The message in the mailbox that contains this text; AssertionError after `timeout` seconds."""
        return imap.wait_message(self.ip, login.address, login.password, marker, folder, timeout)

    def journal(self, *options: str) -> list[str]:
        """Lines of the journal since the server's start. Not by `--boot`: a container has its machine's boot id."""
        started = self.run("systemctl", "show", "--timestamp=unix", "-P", "UserspaceTimestamp").strip()
        lines = self.run("journalctl", "--no-pager", f"--since={started}", *options).splitlines()
        return [line for line in lines if not line.startswith("-- ")]

    def state(self) -> list[str]:
        """State that a run may change, as lines."""
        lines = self.sh(_STATE).splitlines()
        assert len(lines) > 500
        return lines


# The servers' domains and the relay provider's name, which differ as all scenarios share one name server.
_NAMES = {
    "default": (("twelve.test", "dozen.test"), ("thirteen.test", "bakers.test"), "smtp.provider.test"),
    "operation": (("monday.test", "moon.test"), ("tuesday.test", "mars.test"), "operation.provider.test"),
}
_TWELVE, _THIRTEEN, _PROVIDER = _NAMES[SCENARIO]
SERVERS = [
    Server(f"{SCENARIO}-mail12", *_TWELVE, "eggs", "customer@twelve.test", 'twelve: #"@ 12%'),
    Server(f"{SCENARIO}-mail13", *_THIRTEEN, "oven", f"thirteen@{_PROVIDER}", "13 !\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"),
]
both = server.for_all(SERVERS)


def on_both(check: Callable[[Server], object]) -> None:
    """Call `check` for both servers at the same time."""
    server.on_all(SERVERS, check)


def check_relayed(server: Server, kept: provider.Kept) -> dict[str, str]:
    """Assert that it came from the server, with TLS, login and valid signature. Returns the signature's tags."""
    assert kept.client_address == server.ip
    assert kept.auth_user == server.relay_user
    assert kept.tls in ("TLSv1.2", "TLSv1.3")
    signature = check_signed(server, kept.raw)
    assert kept.dkim == [("pass", signature["d"])], kept.message["Authentication-Results"]
    return signature


@contextmanager
def unwatched(server: Server) -> Iterator[None]:
    """Nothing is restarted behind a test's back, and the watch knows nothing of what was before."""
    server.run("systemctl", "stop", "selfhosted-mail-watch.timer")
    active = "systemctl is-active selfhosted-mail-watch.service || true"
    wait_for(lambda: server.sh(active) == "inactive", what="the watch has looked")
    server.run("rm", "-rf", "/run/selfhosted-mail-status")
    try:
        yield
    finally:
        server.run("rm", "-rf", "/run/selfhosted-mail-status")
        server.run("systemctl", "start", "selfhosted-mail-watch.timer")


@contextmanager
def script(server: Server, login: Login, text: str) -> Iterator[None]:
    """Activate a user's own Sieve script while the context is open."""
    with managesieve.Session(server.ip, login.address, login.password) as session:
        session.put("test", text)
    try:
        yield
    finally:
        with managesieve.Session(server.ip, login.address, login.password) as session:
            session.remove("test")
