# SPDX-License-Identifier: GPL-3.0-or-later
"""Canonicalization and DKIM-Signature header fields (RFC 6376 §3.4, §3.5, §5; RFC 8463)."""

import base64
import hashlib
import re
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .keys import SigningKey

# Fields of RFC 6376 §5.4.1, and MIME fields. Signed once more than present, so that a field added in transit breaks the
# signature. Not Message-ID: §5.4.1 does not list it, and relay providers replace it.
OVERSIGNED = (
    "from", "to", "cc", "subject", "date", "reply-to", "in-reply-to", "references",
    "mime-version", "content-type", "content-transfer-encoding", "content-disposition", "content-id",
    "content-description",
)  # fmt: skip
# Signed only if present: mailing lists and resenders add these in transit.
SIGNED = (
    "sender", "resent-date", "resent-from", "resent-sender", "resent-to",
    "resent-cc", "resent-message-id", "list-id", "list-help", "list-unsubscribe", "list-unsubscribe-post",
    "list-subscribe", "list-post", "list-owner", "list-archive", "auto-submitted", "feedback-id",
)  # fmt: skip
# Never signed: changed or removed in transit (RFC 6376 §5.4.1, §3.5 on h=).
UNSIGNABLE = frozenset(("return-path", "received", "bcc", "resent-bcc", "comments", "keywords", "dkim-signature"))

_WSP = re.compile(rb"[ \t]+")
_EMPTY_LINES = b"\r\n" * 4096


def relaxed_header(field: bytes) -> bytes:
    """RFC 6376 §3.4.2. `field` is one raw header field with or without its last CRLF; the result has none."""
    name, _colon, value = field.partition(b":")
    value = _WSP.sub(b" ", value.replace(b"\r\n", b"")).strip(b" ")
    return name.rstrip(b" \t").lower() + b":" + value


def simple_header(field: bytes) -> bytes:
    """RFC 6376 §3.4.1: the field as it is, without its last CRLF."""
    return field.removesuffix(b"\r\n")


class BodyHash:
    """SHA-256 of a body under `relaxed` (§3.4.4) or `simple` (§3.4.3) canonicalization.

    `update` takes pieces of any size, split anywhere. Every line, also the last one, must end in CRLF. Only the
    number of empty lines, and a blank or CR that may be trailing, are held back.
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
        """The digest (32 bytes) of the complete body."""
        result = self._hash.copy()
        if self._any or not self._relaxed:
            result.update(b"\r\n")
        return result.digest()


@dataclass(frozen=True)
class Signer:
    """The tags (RFC 6376 §3.5) and the key of one signature.

    `relaxed`: canonicalization of header and body. `headers`: additional names to sign. `lifetime`: seconds until
    `x=`, or None. `key_file`: path of the key. `unsigned`: names left out of `h=`.
    """

    domain: str
    selector: str
    key: SigningKey
    relaxed: tuple[bool, bool] = (True, True)
    identity: str | None = None
    headers: tuple[str, ...] = ()
    lifetime: int | None = None
    key_file: str = ""
    unsigned: frozenset[str] = frozenset()

    def sign(self, fields: Sequence[bytes], body_hash: bytes, now: int | None = None) -> bytes:
        """The DKIM-Signature field with its last CRLF.

        `fields` are the raw header fields in the order of the message, each with its CRLF; `body_hash` is the
        32 byte digest of the body under this signer's canonicalization; `now` is Unix time in seconds.
        """
        by_name: defaultdict[str, list[bytes]] = defaultdict(list)
        for field in fields:
            by_name[field.partition(b":")[0].rstrip(b" \t").decode("ascii").lower()].append(field)
        names = []
        for name in dict.fromkeys(OVERSIGNED + SIGNED + self.headers):
            if name not in self.unsigned:
                names += [name] * (len(by_name[name]) + (name in OVERSIGNED))
        canonical: Callable[[bytes], bytes] = relaxed_header if self.relaxed[0] else simple_header
        signed = hashlib.sha256()
        for name in names:
            if by_name[name]:
                signed.update(canonical(by_name[name].pop()) + b"\r\n")
        field = self._unsigned(names, body_hash, int(time.time()) if now is None else now)
        signed.update(canonical(field))
        value = base64.b64encode(self.key.sign(signed.digest()))
        lines = [value[i : i + 72] for i in range(0, len(value), 72)]
        return field + b"\r\n\t".join(lines) + b"\r\n"

    def _unsigned(self, names: list[str], body_hash: bytes, now: int) -> bytes:
        """The field up to `b=`, folded (RFC 6376 §3.7: hashed with an empty b= and no CRLF)."""
        form = "/".join("relaxed" if relaxed else "simple" for relaxed in self.relaxed)
        tags = [f"v=1; a={self.key.algorithm}; c={form};", f"d={self.domain}; s={self.selector};"]
        if self.identity is not None:
            tags.append(f"i={_quoted(self.identity)};")
        tags.append(f"t={now};" + (f" x={now + self.lifetime};" if self.lifetime else ""))
        line = "h="
        for number, name in enumerate(names):
            name += ";" if number == len(names) - 1 else ":"
            if len(line) + len(name) > 72:
                tags.append(line)
                line = ""
            line += name
        tags += [line, f"bh={base64.b64encode(body_hash).decode()};", "b="]
        return ("DKIM-Signature: " + "\r\n\t".join(tags)).encode("ascii")


def _quoted(text: str) -> str:
    """dkim-quoted-printable (RFC 6376 §2.11)."""
    safe = "".join(map(chr, range(0x21, 0x7F))).translate({ord(";"): None, ord("="): None})
    return "".join(chr(b) if chr(b) in safe else f"={b:02X}" for b in text.encode())
