# SPDX-License-Identifier: GPL-3.0-or-later
"""Rewrites malformed From, To and Cc fields into RFC 5322 syntax.

OpenSMTPD appends its host name to every word that looks like an address without a domain, so `Doe, Jane <jane@x>`
would become two mailboxes. A field with only one possible reading is rewritten before that; others stay unchanged.
"""

import re

from .address import AddressError, parse_address, parse_mailboxes, unfold
from .display import decoded, written

_ANGLE = re.compile(r"(?P<name>[^<>]*)<[ \t]*(?P<address>[^<> \t]+)[ \t]*>[ \t]*")
_ANY, _NO_GROUP = re.compile(r".*"), re.compile(r"[^:;]*")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")
# Readers disagree about a backslash, and about a quote in or behind a comment.
_UNSURE = re.compile(rb'\\|[()][^()]*"')
# A comma inside one of these does not separate mailboxes.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|<[^<>]*>|\((?:[^()\\]|\\.)*\)|[^",<(]')


def repaired(name: bytes, value: bytes) -> bytes:
    """The repaired value of the field `name` (case-insensitive), or `value` itself. Both are raw, folded with CRLF."""
    field = name.lower()
    if field not in (b"from", b"to", b"cc"):
        return value
    try:
        if parse_mailboxes(value) and not _UNSURE.search(value):
            return value
    except AddressError:
        pass
    try:
        text = unfold(value)
        text.encode()
    except (AddressError, UnicodeEncodeError):
        return value
    # A colon or semicolon makes To or Cc a group. A From with one angle address, at its end, has no other reading.
    whole = field == b"from"
    mailboxes = [_mailbox(part, names=_ANY if whole else _NO_GROUP) for part in ([text] if whole else _members(text))]
    if None in mailboxes:
        return value
    return b" " + b",\r\n ".join(filter(None, mailboxes))


def _members(text: str) -> list[str]:
    """Split a list at its commas. Words without an address belong to the name after them."""
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
    """One mailbox in RFC 5322 syntax; None if the text may mean something else."""
    try:
        proper = len(parse_mailboxes(text.encode())) == 1
    except AddressError:
        proper = False
    match = _ANGLE.fullmatch(text)
    if proper and not (_UNSURE.search(text.encode()) and match):
        return text.strip().encode()
    if not match or not (proper or names.fullmatch(match["name"])):
        return None
    try:
        parse_address(match["address"])
    except AddressError:
        return None
    name = re.sub(r'\\(.)|"', r"\1", decoded(match["name"]))
    # A quoted name can be folded only at blanks, and a line has at most 998 octets (RFC 5322 §2.1.1).
    return None if _CONTROL.search(name) or len(name) > 500 else written(name, match["address"])
