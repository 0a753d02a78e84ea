# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Relay providers that are recognized by their host name. The facts and their sources are in providers.yml."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

Record = dict[str, Any]

# Keys of a record and what they mean. "host" is a regular expression. "login" has a sentence, "text", and optional
# patterns of a valid "username" and "password". "signatures" is 0 if the provider assembles messages anew, so that our
# signature may not survive; 1 if it refuses a second one; else "several".
REQUIRED = {
    "host": "host name",
    "port": "port",
    "login": "login",
    "rewrites": "header fields that it rewrites",
    "signatures": "number of our signatures that it accepts",
}
# Keys whose value is not known are left out.
OPTIONAL = {
    "starttls": "ports with STARTTLS",
    "smtps": "ports with TLS from the first byte",
    "spf": "SPF terms",
    "return_path": "record for its return path",
    "null_sender": "null sender",
    "foreign_from": "foreign From",
    "max_size": "message size",
    "max_recipients": "recipients per message",
    "max_connections": "concurrent connections",
    "max_messages": "messages per connection",
}


@cache
def records() -> list[Record]:
    """All records in the file."""
    loaded: list[Record] = yaml.safe_load(Path(__file__).with_name("providers.yml").read_text(encoding="utf-8"))
    return loaded


def relay_provider(host: object) -> Record:
    """The record of a host name, with the meanings of its missing keys as ``unknown``; empty for other hosts."""
    for record in records():
        if re.fullmatch(record["host"], str(host), re.IGNORECASE):
            return {**record, "unknown": [meaning for key, meaning in OPTIONAL.items() if key not in record]}
    return {}
