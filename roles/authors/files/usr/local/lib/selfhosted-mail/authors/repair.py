# SPDX-License-Identifier: GPL-3.0-or-later
"""From, To and Cc as people and programs write them, written as RFC 5322 has them.

OpenSMTPD adds its host name to every word that it takes for an address without a domain, so `Doe, Jane <jane@x>`
would leave as two mailboxes. What can be read one way alone is written so before that; the rest stays as it is.
"""

import re

from .address import AddressError, parse_address, parse_mailboxes, unfold
from .display import decoded, written

_ANGLE = re.compile(r"(?P<name>[^<>]*)<[ \t]*(?P<address>[^<> \t]+)[ \t]*>[ \t]*")
_ANY, _NO_GROUP = re.compile(r".*"), re.compile(r"[^:;]*")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")
# What a comma may stand in without separating mailboxes.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|<[^<>]*>|\((?:[^()\\]|\\.)*\)|[^",<(]')


def repaired(name: bytes, value: bytes) -> bytes:
    """The value of the field `name` (in any case), raw, with lines folded by CRLF, written properly or as it is."""
    field = name.lower()
    if field not in (b"from", b"to", b"cc"):
        return value
    try:
        if parse_mailboxes(value) and b"\\" not in value:
            return value
    except AddressError:
        pass
    try:
        text = unfold(value)
        text.encode()
    except (AddressError, UnicodeEncodeError):
        return value
    # A colon or semicolon makes a list a group, but a From with one angle address at its end can only be that.
    whole = field == b"from"
    mailboxes = [_mailbox(part, names=_ANY if whole else _NO_GROUP) for part in ([text] if whole else _members(text))]
    if None in mailboxes:
        return value
    return b" " + b",\r\n ".join(filter(None, mailboxes))


def _members(text: str) -> list[str]:
    """The list's members; words without an address belong to the name that follows them."""
    members, member, at = [], "", 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found:
            member += found[0]
            at = found.end()
        elif text[at] == ",":
            if "@" in member:
                members.append(member)
                member = ""
            else:
                member += ","
            at += 1
        else:
            return [""]
    return [*members, member]


def _mailbox(text: str, names: re.Pattern[str]) -> bytes | None:
    """One mailbox written properly; None where it may be something else."""
    try:
        proper = len(parse_mailboxes(text.encode())) == 1
    except AddressError:
        proper = False
    match = _ANGLE.fullmatch(text)
    if proper and not ("\\" in text and match):
        return text.strip().encode()
    if not match or not (proper or names.fullmatch(match["name"])):
        return None
    try:
        parse_address(match["address"])
    except AddressError:
        return None
    name = re.sub(r'\\(.)|"', r"\1", decoded(match["name"]))
    # A quoted name cannot be folded everywhere, and lines have 998 octets (RFC 5322 §2.1.1).
    return None if _CONTROL.search(name) or len(name) > 500 else written(name, match["address"])
