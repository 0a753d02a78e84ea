# SPDX-License-Identifier: GPL-3.0-or-later
"""A message's header, as OpenSMTPD has it from who hands it in: lines end in LF."""

import re
from collections.abc import Iterable

from authors.repair import repaired

from .replies import malformed

# Octets, where RFC 5321 section 4.5.3.1.6 knows 1000. OpenSMTPD takes 65 534, and hands a filter some 80 more: above
# 65 535 filter-rspamd ends, and a longer answer has OpenSMTPD take its filters for closed.
LINE = 60_000
ADDRESSES = (b"from", b"to", b"cc")
READ = 1 << 16  # octets of address fields in a message that are read: meanwhile all sessions wait
FIELD_NAME = re.compile(rb"[!-9;-~]+")  # RFC 5322 section 3.6.8
FIELDS = re.compile(rb"\n(?![ \t])")
# What OpenSMTPD puts before the message. White space behind it would be a part of it.
TRACE = re.compile(rb"Received: [^\n]*\n\tby [^\n]*(?:\n\tfor <[^\n]*>)?;\n\t[^\n]*")
Field = tuple[bytes, bytes]


def fields(header: bytes) -> list[Field]:
    """Names and values, these folded by CRLF; addresses are mended. Raises Refusal."""
    trace, *rest = FIELDS.split(header.removesuffix(b"\n"))
    if not TRACE.fullmatch(trace):
        raise malformed("it begins with a blank")
    found, left = [(b"Received", trace.removeprefix(b"Received:"))], READ
    for name, value in map(_field, rest):
        if name.lower() in ADDRESSES and len(value) <= left:
            left -= len(value)
            value = _mended(name, value)
        found.append((name, value))
    return found


def values(fields: Iterable[Field], wanted: bytes) -> list[bytes]:
    return [value for name, value in fields if name.lower() == wanted]


def lines(fields: Iterable[Field]) -> list[bytes]:
    """With dot-stuffing."""
    found = [line for name, value in fields for line in (name + b":" + value).replace(b"\r\n", b"\n").split(b"\n")]
    return [b"." + line if line.startswith(b".") else line for line in found]


def _field(text: bytes) -> Field:
    """Raises Refusal."""
    name, colon, value = text.partition(b":")
    name = name.rstrip(b" \t")
    if not colon or not FIELD_NAME.fullmatch(name):
        raise malformed("its header is malformed")
    return name, value.replace(b"\n", b"\r\n")


def _mended(name: bytes, value: bytes) -> bytes:
    """The value of an address field as RFC 5322 has it, as it was where that would make a line too long."""
    better = repaired(name, value)
    return better if all(len(line) < LINE for line in better.split(b"\r\n")) else value
