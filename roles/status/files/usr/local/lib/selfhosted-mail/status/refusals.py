# SPDX-License-Identifier: GPL-3.0-or-later
"""Classifies refusals of relay providers by their text. The replies that it is based on are in its unit test."""

from __future__ import annotations

import re
from typing import NamedTuple

NULL_SENDER = "null sender"
# The first match counts. Providers have no common codes: a 550 may mean any of these.
PATTERNS = {
    "quota": r"credits? exceeded|(daily|monthly|per (day|month)).*(quota|limit|reached|exceeded)|messages per day"
    r"|sender .*(quota|limit)|outgoing limit|recipient limit|unusual sending",
    "rate": r"\brate\b|per (second|minute)|throttl|too (fast|quickly|frequent)|peak"
    r"|too many (concurrent|connections|emails|messages|recipients)",
    "temporary": r"temporary auth",
    "recipient": r"[45]\.1\.[1-6]\b|[45]\.2\.[1-4]\b|recipient address",
    "content": r"unauthenticated e?mail|sender is unauthenticated|dmarc|\bspf\b|dkim",
    "login": r"^(AUTH rejected: )?53[458]\b|AUTH rejected: 5|authenti|auth fail|logged in|suspended|activate(d| your)"
    r"|account (is |has been )?(blocked|disabled|locked)|IP address|relay(ing)?( access)? denied",
    "unverified": r"verif|send ?as|[45]\.1\.[78]\b|from/sender|associated with your account|disallowed as"
    r"|(not|un)[ -]?(allowed|authori[sz]ed|configured)[ -](to send|sending)|invalid (sender|mail from)"
    r"|sender (address|domain|signature)|owned by",
    "recipient ": r"mailbox|recipient|(unknown|no such) user|user (unknown|does not)",
    "quota ": r"quota|limit",
    "content ": r"spam|virus|content|policy|blocked|duplicate|header|attachment|too (long|large|big)|[45]\.3\.4\b",
}
KINDS = [(name.strip(), re.compile(pattern, re.IGNORECASE)) for name, pattern in PATTERNS.items()]


class Grave(NamedTuple):
    """``one_domain``: only accepted mail of the same sender domain ends it."""

    status: str
    fix: str
    one_domain: bool = False


JOURNAL = "journalctl -u opensmtpd.service -g ' mta (delivery|error) ' -n 20"
# "recipient" and "content" are not here: they concern only sender and recipient.
GRAVE = {
    "login": Grave("error", "# set mail_relay_username and its password as the provider shows them, run the playbook"),
    "unverified": Grave(
        "error", "# verify the sender's domain at the provider: publish the records that it shows", True
    ),
    "quota": Grave("error", "# raise the limit at the provider, or wait for its next period"),
    "rate": Grave("warning", "# lower mail_relay_max_connections, run the playbook"),
    "temporary": Grave("warning", JOURNAL),
    "connection": Grave("warning", JOURNAL),
    "unknown": Grave("warning", JOURNAL, True),
    NULL_SENDER: Grave(
        "warning", "# enable the null sender (MAIL FROM:<>) at the provider, often in the account's settings", True
    ),
}


def kind(reply: str, sender: str) -> str:
    """Kind of a refusal. ``reply``: what OpenSMTPD logs as ``stat``, or as ``reason`` for the end of a session."""
    code = re.match(r"(?:\w+ rejected: )?([45])\d\d\b", reply)
    if not code:
        # A message of OpenSMTPD itself.
        return "login" if "AUTH" in reply else "content" if "large" in reply else "connection"
    found = next(
        (name for name, pattern in KINDS if pattern.search(reply)), {"4": "temporary", "5": "unknown"}[code[1]]
    )
    return NULL_SENDER if not sender and found in ("unverified", "unknown") else found
