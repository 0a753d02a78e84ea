# SPDX-License-Identifier: GPL-3.0-or-later
"""The relay provider's side: what it was handed, by whom, over which TLS, with which DKIM verdict."""

from __future__ import annotations

import io
import json
import re
import tarfile
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage

from testbed.containers import PATIENCE, docker, run, wait_for


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
        """The protocol it came over, e.g. `TLSv1.3`; empty when it came in the clear."""
        found = re.search(r"\(using (\S+) with cipher", self.message.get_all("Received", [""])[0])
        return found[1] if found else ""

    @property
    def dkim(self) -> list[tuple[str, str]]:
        """Mail::DKIM's verdicts by signature, e.g. `[("pass", "twelve.test")]`; `[("none", "")]` without one."""
        # Comments (RFC 8601 §2.2) may hold semicolons.
        results = re.sub(r"\([^()]*\)", "", self.message.get_all("Authentication-Results", [""])[0])
        verdicts = re.findall(r"dkim=(\w+)([^;]*)", results)
        return [
            (verdict, domain[1] if (domain := re.search(r"header\.d=(\S+)", rest)) else "")
            for verdict, rest in verdicts
        ]


# The names of finished deliveries with a text in their message, one a line; all with an empty one.
_WITH_TEXT = """cd /var/spool/kept; grep -lF -e "$1" ./*.eml | sed 's/eml$/json/' |
while read -r json; do if [ -f "$json" ]; then echo "$json"; echo "${json%json}eml"; fi; done | tar -c -T -"""


def kept(relay: str, marker: str = "") -> list[Kept]:
    """What the provider (a container's name) has kept, oldest first: all, or messages that contain `marker`."""
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
    """From now on clients see this certificate: trusted, untrusted, wrong_name or expired."""
    run(relay, "ln", "-sfn", f"{kind}.pem", "/etc/postfix/tls/current.pem")
    run(relay, "systemctl", "restart", "postfix")
    wait_for(lambda: "127.0.0.1:587" in run(relay, "ss", "-Hltn") or "0.0.0.0:587" in run(relay, "ss", "-Hltn"))


def sessions(relay: str) -> str:
    """Postfix's log: who connected, logged in, was refused."""
    return run(relay, "journalctl", "--no-pager", "--output=cat", "--unit=postfix")
