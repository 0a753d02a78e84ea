# SPDX-License-Identifier: GPL-3.0-or-later
"""The header of a submitted message, as OpenSMTPD passes it: lines end in LF."""

import re
from collections.abc import Iterable

from authors.repair import repaired

from .replies import malformed

# Octets of a line, where RFC 5321 section 4.5.3.1.6 has 1000. OpenSMTPD accepts 65 534, and passes some 80 more to a
# filter: above 65 535 filter-rspamd ends, and OpenSMTPD treats filters with a longer answer as closed.
LINE = 60_000
ADDRESSES = (b"from", b"to", b"cc")
READ = 1 << 16  # octets of address fields that are parsed per message, as all sessions wait meanwhile
FIELD_NAME = re.compile(rb"[!-9;-~]+")  # RFC 5322 section 3.6.8
FIELDS = re.compile(rb"\n(?![ \t])")
# The Received field that OpenSMTPD prepends. A message that begins with white space would continue it.
TRACE = re.compile(rb"Received: [^\n]*\n\tby [^\n]*(?:\n\tfor <[^\n]*>)?;\n\t[^\n]*")
Field = tuple[bytes, bytes]


def fields(header: bytes) -> list[Field]:
    """Names and values of the fields; values are folded with CRLF, addresses repaired. Raises Refusal."""
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
    """The header's lines, with dot-stuffing."""
    found = [line for name, value in fields for line in (name + b":" + value).replace(b"\r\n", b"\n").split(b"\n")]
    return [b"." + line if line.startswith(b".") else line for line in found]


def _field(text: bytes) -> Field:
    """Name and value of one field. Raises Refusal."""
    name, colon, value = text.partition(b":")
    name = name.rstrip(b" \t")
    if not colon or not FIELD_NAME.fullmatch(name):
        raise malformed("its header is malformed")
    return name, value.replace(b"\n", b"\r\n")


def _mended(name: bytes, value: bytes) -> bytes:
    """The repaired value of an address field; unchanged if the repair would make a line too long."""
    better = repaired(name, value)
    return better if all(len(line) < LINE for line in better.split(b"\r\n")) else value
