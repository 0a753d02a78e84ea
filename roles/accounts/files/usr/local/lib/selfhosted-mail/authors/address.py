# SPDX-License-Identifier: GPL-3.0-or-later
"""Strict parser for mail addresses in header fields and in the envelope.

An address that two mail programs could read differently is refused: the address that is checked and signed must be
the one that every recipient sees.
"""

import re
from typing import NamedTuple

FIELD_LIMIT = 1 << 16  # octets of a field's value
MAILBOX_LIMIT = 100


class AddressError(ValueError):
    """The text is not an address, or is ambiguous; the message says why."""


class Address(NamedTuple):
    """Local part and domain, both in lower case, the domain in ASCII (A-labels)."""

    local: str
    domain: str

    def __str__(self) -> str:
        return f"{self.local}@{self.domain}"

    def untagged(self) -> "Address":
        """The address without its `+tag`."""
        return Address(self.local.partition("+")[0] or self.local, self.domain)


class Mailbox(NamedTuple):
    """An address, and the raw display name and comments beside it."""

    address: Address
    beside: str


_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
_DOT_ATOM = rf"{_ATEXT}+(?:\.{_ATEXT}+)*"
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_ADDR_SPEC = re.compile(rf"(?P<local>{_DOT_ATOM}|{_QUOTED})@(?P<domain>[A-Za-z0-9._\-\x80-\U0010ffff]+)")
_WORD = re.compile(rf"{_QUOTED}|(?:{_ATEXT}|[.\x80-\U0010ffff])+")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_SPACE = re.compile(r"[ \t]*")


def _a_label(label: str) -> str:
    """One label as A-label or plain ASCII. Raises ValueError if IDNA 2008 (RFC 5891 §4, §5) forbids it."""
    lower = label.lower()
    if label.isascii() and not lower.startswith("xn--"):
        return lower
    import idna

    encoded = idna.alabel(lower).decode()
    decoded = idna.ulabel(encoded)
    if idna.alabel(decoded).decode() != encoded or lower not in (encoded, decoded) or decoded.isascii():
        raise ValueError("decoding does not give the same label")
    return encoded


def domain_name(text: str) -> str:
    """`text` in lower case and A-labels (RFC 5890). Raises AddressError if it is not a host or domain name."""
    try:
        name = ".".join(map(_a_label, text.split("."))) if len(text) <= 253 else ""  # RFC 1035 §2.3.4
    except ValueError:
        name = ""
    if not 0 < len(name) <= 253 or not all(map(_LABEL.fullmatch, name.split("."))):
        raise AddressError(f"'{text[:80]}' is not a domain name")
    return name


def parse_address(text: str) -> Address:
    """One addr-spec (RFC 5322 §3.4.1) without comments, white space or route. Raises AddressError."""
    match = _ADDR_SPEC.fullmatch(text)
    if not match:
        raise AddressError(f"'{text[:80]}' is not a mail address")
    local = match["local"]
    if local.startswith('"'):
        local = re.sub(r"\\(.)", r"\1", local[1:-1])
        if not re.fullmatch(_DOT_ATOM, local):
            raise AddressError("quoted local parts are not supported")
    if "=?" in local:
        raise AddressError("the address itself is encoded")
    return Address(local.lower(), domain_name(match["domain"]))


def _skip_comments(text: str, at: int) -> int:
    """The position after white space and comments (CFWS, RFC 5322 §3.2.2). Raises AddressError."""
    while True:
        at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
        if text[at : at + 1] != "(":
            return at
        depth = 0
        while True:
            char = text[at : at + 1]
            if not char:
                raise AddressError("a comment is not closed")
            if char in "<>":
                raise AddressError("a comment contains angle brackets")
            depth += (char == "(") - (char == ")")
            at += 2 if char == "\\" else 1
            if depth == 0:
                break


def unfold(value: bytes) -> str:
    """The value of a field on one line (RFC 5322 §2.2.3). Raises AddressError for control characters."""
    text = value.replace(b"\r\n", b"").decode("utf-8", "surrogateescape")
    if any((c < " " and c != "\t") or c == "\x7f" for c in text):
        raise AddressError("it contains control characters")
    return text


def parse_mailboxes(value: bytes) -> list[Mailbox]:
    """The mailboxes, at least one, in a field's value (mailbox-list, RFC 5322 §3.4).

    `value` is raw, folded or not. Raises AddressError, also for groups, empty list members, source routes, domain
    literals, and white space or comments inside an address.
    """
    if len(value) > FIELD_LIMIT:
        raise AddressError("it is too long")
    text = unfold(value)
    mailboxes: list[Mailbox] = []
    at = 0
    while True:
        begin = at
        at = _skip_comments(text, at)
        match = _ADDR_SPEC.match(text, at)
        end = _skip_comments(text, match.end()) if match else at
        if match and text[end : end + 1] in ("", ","):
            address, beside = parse_address(match[0]), text[begin:at] + text[match.end() : end]
        else:
            while word := _WORD.match(text, at):
                at = _skip_comments(text, word.end())
            if text[at : at + 1] == ":":
                raise AddressError("it contains a group instead of an author")
            close = text.find(">", at)
            if text[at : at + 1] != "<" or close < 0:
                raise AddressError("it contains no valid address")
            end = _skip_comments(text, close + 1)
            address, beside = parse_address(text[at + 1 : close]), text[begin:at] + text[close + 1 : end]
        mailboxes.append(Mailbox(address, beside))
        if end == len(text):
            return mailboxes
        if text[end] != ",":
            raise AddressError("it contains text after an address")
        if len(mailboxes) == MAILBOX_LIMIT:
            raise AddressError("it names too many authors")
        at = end + 1
