# SPDX-License-Identifier: GPL-3.0-or-later
"""What the client is told, and what the journal."""

import sys
import traceback

from authors.rights import Refusal


def log(level: str, text: str) -> None:
    """OpenSMTPD writes each line to the journal, as an error."""
    if level != "info":
        print(text, file=sys.stderr, flush=True)


def reply(refusal: Refusal) -> bytes:
    """The SMTP reply: one line of printable ASCII, at most 500 octets (RFC 5321 section 4.5.3.1.5)."""
    text = "".join(c if " " <= c <= "~" else "?" for c in str(refusal))
    return f"{refusal.code} {refusal.status} {text}".encode()[:500]


def unjudged() -> Refusal:
    return Refusal("failed", "The mail server cannot judge this at the moment, try again later", "4.3.0", 451)


def malformed(what: str) -> Refusal:
    return Refusal("malformed", f"This is no mail message as RFC 5322 wants it: {what}", "5.6.0", 554)


def refused(error: Exception) -> bytes:
    """The reply to what a handler raised."""
    if isinstance(error, Refusal):
        return reply(error)
    # Without its text, which may hold parts of a message.
    place = traceback.extract_tb(error.__traceback__)[-1]
    log("err", f"{type(error).__name__} at {place.name}:{place.lineno}")
    return reply(unjudged())
