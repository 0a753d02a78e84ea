# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Relay providers that are recognized by their host name. The facts and their sources stand in providers.yml."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

Record = dict[str, Any]

# Keys of a record and what they mean. "host" is a regular expression. "login" has a sentence, "text", and may have
# patterns of a right "username" and "password". "signatures" is 0 where messages are made anew, so that ours is not to
# be relied on, 1 where a second one is refused, or "several".
REQUIRED = {
    "host": "host name",
    "port": "port",
    "login": "login",
    "rewrites": "header fields that it rewrites",
    "signatures": "signatures of ours that it takes",
}
# What is not known of these is left out.
OPTIONAL = {
    "starttls": "ports with STARTTLS",
    "smtps": "ports with TLS from the first byte",
    "spf": "SPF terms",
    "return_path": "record for its return path",
    "null_sender": "null sender",
    "foreign_from": "foreign From",
    "max_size": "message size",
    "max_recipients": "recipients of a message",
    "max_connections": "connections at once",
    "max_messages": "messages in a connection",
}


@cache
def records() -> list[Record]:
    """All of them, as they stand in the file."""
    loaded: list[Record] = yaml.safe_load(Path(__file__).with_name("providers.yml").read_text(encoding="utf-8"))
    return loaded


def relay_provider(host: object) -> Record:
    """The record of a host name, with what is not known of the provider as ``unknown``; empty for any other host."""
    for record in records():
        if re.fullmatch(record["host"], str(host), re.IGNORECASE):
            return {**record, "unknown": [meaning for key, meaning in OPTIONAL.items() if key not in record]}
    return {}
