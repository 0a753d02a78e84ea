# SPDX-License-Identifier: GPL-3.0-or-later
"""Canonicalization of headers and bodies (RFC 6376 §3.4), the body piece by piece in constant memory."""

import hashlib
import re

_WSP = re.compile(rb"[ \t]+")
_EMPTY_LINES = b"\r\n" * 4096


def relaxed_header(field: bytes) -> bytes:
    """RFC 6376 §3.4.2. `field` is one raw header field with or without its last CRLF; the result has none."""
    name, _, value = field.partition(b":")
    value = _WSP.sub(b" ", value.replace(b"\r\n", b"")).strip(b" ")
    return name.rstrip(b" \t").lower() + b":" + value


def simple_header(field: bytes) -> bytes:
    """RFC 6376 §3.4.1: the field as it is, without its last CRLF."""
    return field.removesuffix(b"\r\n")


class BodyHash:
    """SHA-256 of a body under `relaxed` (§3.4.4) or `simple` (§3.4.3) canonicalization.

    `update` takes pieces of any size, split anywhere, of a body whose line ends are CRLF and whose last line
    is ended. Only empty lines and white space that may turn out to be trailing are kept back, as counts.
    """

    def __init__(self, relaxed: bool) -> None:
        self._relaxed = relaxed
        self._hash = hashlib.sha256()
        self._empty_lines = 0
        self._kept = b""
        self._any = False

    def update(self, piece: bytes) -> None:
        data = self._kept + piece
        self._kept = b""
        if data.endswith(b"\r"):
            self._kept, data = b"\r", data[:-1]
        if self._relaxed:
            data = data.replace(b"\t", b" ")
            while b"  " in data:
                data = data.replace(b"  ", b" ")
            data = data.replace(b" \r\n", b"\r\n")
            if data.endswith(b" "):
                self._kept, data = b" " + self._kept, data[:-1]
        text = data.rstrip(b"\r\n")
        if text:
            while self._empty_lines:
                count = min(self._empty_lines, 4096)
                self._hash.update(_EMPTY_LINES[: 2 * count])
                self._empty_lines -= count
            self._hash.update(text)
            self._any = True
        self._empty_lines += (len(data) - len(text)) // 2

    def digest(self) -> bytes:
        """The hash; the body is complete."""
        result = self._hash.copy()
        if self._any or not self._relaxed:
            result.update(b"\r\n")
        return result.digest()
