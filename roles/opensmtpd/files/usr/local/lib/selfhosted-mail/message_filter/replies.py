# SPDX-License-Identifier: GPL-3.0-or-later
"""Replies to the client, and log lines."""

import sys
import traceback

from authors.rights import Refusal


def log(level: str, text: str) -> None:
    """OpenSMTPD logs each line as an error, so `info` is dropped."""
    if level != "info":
        print(text, file=sys.stderr, flush=True)


def unjudged() -> Refusal:
    return Refusal("failed", "The server cannot check this message at the moment, try again later", "4.3.0", 451)


def malformed(what: str) -> Refusal:
    return Refusal("malformed", f"The message violates RFC 5322: {what}", "5.6.0", 554)


def refused(error: Exception) -> bytes:
    """The SMTP reply to an exception; all but Refusal are logged."""
    if isinstance(error, Refusal):
        return error.reply()
    # Without its text, which may contain parts of a message.
    place = traceback.extract_tb(error.__traceback__)[-1]
    log("err", f"{type(error).__name__} at {place.name}:{place.lineno}")
    return unjudged().reply()
