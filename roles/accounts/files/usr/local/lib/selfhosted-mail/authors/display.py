# SPDX-License-Identifier: GPL-3.0-or-later
"""Display names: decoded as a mail program shows them, and encoded for a header field."""

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
        # Unknown charset: an ASCII address looks the same in most charsets.
        return octets.decode("latin-1")


def decoded(text: str) -> str:
    """`text` with its encoded words (RFC 2047) decoded, at any position."""
    return _ENCODED_WORD.sub(_word, _BETWEEN.sub(r"\1", text))


def shown(text: str, instead: str = "") -> str:
    """`text` as a mail program may show it: decoded, normalized (NFKC), with `instead` for each quote, backslash and
    invisible character."""
    plain = unicodedata.normalize("NFKC", decoded(text)).replace("\u3002", ".")
    return "".join(instead if c in '"\\' or unicodedata.category(c) in ("Cf", "Cs") else c for c in plain)


def addresses_in(text: str) -> Iterator[tuple[str, str]]:
    """Local part and lower-case domain around each @ in a text: as written, as shown, and as shown with spaces around
    encoded words, or for quotes and invisible characters. Either may be empty."""
    apart = _ENCODED_WORD.sub(lambda match: f" {_word(match)} ", text)
    readings = [shown(one, instead) for one in (text, apart) for instead in ("", " ")]
    for word in _DELIMITER.split(" ".join([text, *readings])):
        for before, after in itertools.pairwise(word.split("@")):
            yield before, _DOMAIN.match(after)[0].lower()  # type: ignore[index]


def written(name: str, address: str) -> bytes:
    """A mailbox (RFC 5322 §3.4) with this display name: quoted, or as encoded words if it is not plain ASCII.

    Names with a quote or backslash are encoded too: OpenSMTPD 7.4 ends the mailbox at a comma after one.
    """
    name = " ".join(name.split())
    if not name:
        return f"<{address}>".encode()
    if name.isascii() and not re.search(r'["\\]', name):
        return f'"{name}" <{address}>'.encode()
    return f"{Header(name, 'utf-8').encode(linesep=CRLF)} <{address}>".encode()
