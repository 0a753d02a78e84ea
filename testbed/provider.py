# SPDX-License-Identifier: GPL-3.0-or-later
"""The relay provider's side: messages with login, TLS version and DKIM verdict."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage

from testbed.containers import PATIENCE, docker, journal, run, wait_for, write


@dataclass(frozen=True)
class Kept:
    """One delivery. `raw`: the message with LF line endings, the provider's own headers on top."""

    sender: str
    recipients: tuple[str, ...]
    auth_user: str
    client_address: str
    client_helo: str
    time: float
    raw: bytes

    @property
    def message(self) -> EmailMessage:
        """The message, parsed."""
        return message_from_bytes(self.raw, policy=policy.default)

    @property
    def tls(self) -> str:
        """The TLS version, e.g. `TLSv1.3`; empty without TLS."""
        found = re.search(r"\(using (\S+) with cipher", self.message.get_all("Received", [""])[0])
        return found[1] if found else ""

    @property
    def dkim(self) -> list[tuple[str, str]]:
        """Mail::DKIM's verdicts by signature, e.g. `[("pass", "twelve.test")]`; `[("none", "")]` without one."""
        # Comments (RFC 8601 §2.2) may contain semicolons.
        results = re.sub(r"\([^()]*\)", "", self.message.get_all("Authentication-Results", [""])[0])
        verdicts = re.findall(r"dkim=(\w+)([^;]*)", results)
        return [
            (verdict, domain[1] if (domain := re.search(r"header\.d=(\S+)", rest)) else "")
            for verdict, rest in verdicts
        ]


# Packs finished deliveries whose message contains a text; all of them if the text is empty.
_WITH_TEXT = """cd /var/spool/kept; grep -lF -e "$1" ./*.eml | sed 's/eml$/json/' |
while read -r json; do if [ -f "$json" ]; then echo "$json"; echo "${json%json}eml"; fi; done | tar -c -T -"""


def kept(relay: str, marker: str = "") -> list[Kept]:
    """Deliveries that the provider (a container's name) has kept, oldest first: all, or those that contain `marker`."""
    packed = io.BytesIO(docker("exec", relay, "sh", "-c", _WITH_TEXT, "sh", marker))
    found = []
    with tarfile.open(fileobj=packed) as archive:
        files = {member.name: file for member in archive if (file := archive.extractfile(member))}
        for name, file in files.items():
            if not name.endswith(".json"):
                continue
            envelope = json.load(file)
            found.append(
                Kept(
                    sender=envelope["sender"],
                    recipients=tuple(sorted(envelope["recipients"])),
                    auth_user=envelope["auth_user"],
                    client_address=envelope["client_address"],
                    client_helo=envelope["client_helo"],
                    time=envelope["time"],
                    raw=files[name.removesuffix("json") + "eml"].read(),
                )
            )
    return sorted(found, key=lambda one: one.time)


def find(relay: str, marker: str) -> list[Kept]:
    """The deliveries whose message contains `marker`, a Message-ID for example."""
    return kept(relay, marker)


def wait_kept(relay: str, marker: str, timeout: float = PATIENCE) -> Kept:
    """The first delivery whose message contains `marker`; AssertionError after `timeout` seconds."""
    return wait_for(lambda: find(relay, marker), timeout, f"message {marker} at {relay}")[0]


def show_certificate(relay: str, kind: str) -> None:
    """Switch to this certificate: trusted, untrusted, wrong_name or expired."""
    run(relay, "ln", "-sfn", f"{kind}.pem", "/etc/postfix/tls/current.pem")
    _restart(relay)


def _restart(relay: str) -> None:
    """Restart Postfix, which also closes connections that clients keep open."""
    run(relay, "systemctl", "restart", "postfix")
    wait_for(lambda: "127.0.0.1:587" in run(relay, "ss", "-Hltn") or "0.0.0.0:587" in run(relay, "ss", "-Hltn"))


@contextmanager
def changed(relay: str, *settings: str) -> Iterator[None]:
    """Run Postfix with additional settings (`name=value`), none of which is in its main.cf."""
    run(relay, "postconf", "-e", *settings)
    _restart(relay)
    try:
        yield
    finally:
        run(relay, "postconf", "-X", *(setting.partition("=")[0] for setting in settings))
        _restart(relay)


def sessions(relay: str) -> str:
    """Postfix's log of connections, logins and refusals."""
    return journal(relay, "--output=cat", "--unit=postfix")


# What providers do to mail, as rules of Postfix's header_checks(5), with the providers' own refusals.
NEW_DATE = "/^Date:/ REPLACE Date: Thu, 1 Jan 2026 00:00:00 +0000"
NEW_MESSAGE_ID = "/^Message-ID:/ REPLACE Message-ID: <1@provider.test>"
NEW_FROM = "/^From:/ REPLACE From: <customer@brevosend.test>"
ONE_SIGNATURE = "/^DKIM-Signature:.*a=ed25519/ REJECT 5.6.0 Transaction failed: Duplicate header 'DKIM-Signature'"
NO_SIGNATURE = "/^DKIM-Signature:/ IGNORE"
SIGNS = "/^Subject:/ FILTER sign:own"
HOLDS = "/^Subject:/ HOLD"
# access(5)
NO_NULL_SENDER = "/^<>$/ 550 to send email from a blank sender, enable blank senders"


@contextmanager
def behaving(relay: str, *rules: str) -> Iterator[None]:
    """Apply these rules to customers' mail while the context is open, in sessions that begin then."""
    senders = [rule for rule in rules if rule.startswith("/^<>")]
    tables = {"header_checks": [rule for rule in rules if rule not in senders], "senders": senders}
    try:
        for name, lines in tables.items():
            write(relay, f"/etc/postfix/{name}", "".join(f"{line}\n" for line in lines))
        run(relay, "systemctl", "restart", "postfix")
        yield
    finally:
        for name in tables:
            write(relay, f"/etc/postfix/{name}", "")
        run(relay, "systemctl", "restart", "postfix")


def own_key(relay: str) -> str:
    """The DKIM record of the provider's own signatures, for ``own._domainkey`` under its name."""
    command = "openssl rsa -in /etc/dkim.key -pubout -outform DER 2>/dev/null | base64 -w0"
    text = run(relay, "sh", "-c", command)
    return f'"v=DKIM1; p={text[:200]}" "{text[200:]}"'


def held(relay: str) -> int:
    """Number of messages on hold."""
    return len(run(relay, "find", "/var/spool/postfix/hold", "-type", "f").splitlines())


def release(relay: str) -> None:
    """Release the messages on hold."""
    run(relay, "postsuper", "-H", "ALL")
