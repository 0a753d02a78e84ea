# SPDX-License-Identifier: GPL-3.0-or-later
"""Names beside an address: as a reader's program shows them, and as a header field has to write them."""

import itertools
import re
import unicodedata
from base64 import b64decode
from collections.abc import Iterator
from email.header import Header
from email.quoprimime import header_decode

CRLF = "\r\n"
_ENCODED_WORD = re.compile(r"=\?([^?*\s]+)(?:\*[^?\s]*)?\?([bBqQ])\?([^?]*)\?=")  # RFC 2047 §2, RFC 2231 §5
_BETWEEN = re.compile(r"(\?=)[ \t\r\n]+(?==\?)")
_DOMAIN = re.compile(r"(?:[\w-]+(?:\.[\w-]+)*)?")
_DELIMITER = re.compile(r"[\s<>()\[\],;:\"\\]+")


def _word(match: re.Match[str]) -> str:
    charset, encoding, text = match.groups()
    try:
        quoted = header_decode(text).encode("latin-1", "replace")
        octets = quoted if encoding in "qQ" else b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        return match[0]
    try:
        return octets.decode(charset, "replace")
    except (LookupError, UnicodeError):
        # Where an ASCII address would be seen in most other charsets too.
        return octets.decode("latin-1")


def decoded(text: str) -> str:
    """`text` with its encoded words (RFC 2047) decoded, wherever they stand."""
    return _ENCODED_WORD.sub(_word, _BETWEEN.sub(r"\1", text))


def shown(text: str) -> str:
    """`text` as a reader's program may show it: decoded, without quotes and backslashes, wide forms as the plain ones
    that they look like, without what is invisible."""
    plain = unicodedata.normalize("NFKC", re.sub(r'["\\]', "", decoded(text))).replace("\u3002", ".")
    return "".join(c for c in plain if unicodedata.category(c) not in ("Cf", "Cs"))


def addresses_in(text: str) -> Iterator[tuple[str, str]]:
    """What stands before and behind each @ in a text, as it is written or as it is shown, with or without a space
    beside words that are encoded. The second is a domain in lower case."""
    apart = _ENCODED_WORD.sub(lambda match: f" {_word(match)} ", text)
    for word in _DELIMITER.split(f"{text} {shown(text)} {shown(apart)}"):
        for before, after in itertools.pairwise(word.split("@")):
            yield before, _DOMAIN.match(after)[0].lower()  # type: ignore[index]


def written(name: str, address: str) -> bytes:
    """A mailbox (RFC 5322 §3.4) with this display name: quoted, or in encoded words where it is not plain ASCII.

    A quote or backslash is encoded too: OpenSMTPD 7.4 takes a comma behind one for the end of the mailbox.
    """
    name = " ".join(name.split())
    if not name:
        return f"<{address}>".encode()
    if name.isascii() and not re.search(r'["\\]', name):
        return f'"{name}" <{address}>'.encode()
    return f"{Header(name, 'utf-8').encode(linesep=CRLF)} <{address}>".encode()
