# SPDX-License-Identifier: GPL-3.0-or-later
"""DKIM from the recipient's side: verification with dkimpy, which the collection's signer does not use."""

from __future__ import annotations

import base64
import re
import subprocess
import time
from collections.abc import Callable
from email.message import EmailMessage
from email.utils import parseaddr

import dkim

from testbed import dns, smtp
from testbed.server import Server

Key = Callable[..., bytes | None]


def _crlf(raw: bytes) -> bytes:
    return re.sub(rb"\r?\n", b"\r\n", raw)


def fields(raw: bytes, name: str) -> list[str]:
    """The values of all header fields with this name, unfolded, topmost first."""
    header = _crlf(raw).partition(b"\r\n\r\n")[0] + b"\r\n"
    found = re.findall(rb"(?im)^%s[ \t]*:(.*\r\n(?:[ \t].*\r\n)*)" % re.escape(name.encode()), header)
    return [" ".join(value.decode(errors="replace").split()) for value in found]


def signatures(raw: bytes) -> list[dict[str, str]]:
    """The tags of each DKIM-Signature field (RFC 6376 §3.2), topmost first."""
    texts = ["".join(value.split()) for value in fields(raw, "DKIM-Signature")]
    return [dict(pair.split("=", 1) for pair in text.split(";") if pair) for text in texts]


def verifies(raw: bytes, index: int = 0, key: Key = dns.dkim_record) -> bool:
    """Whether this signature is valid, with keys from the test bed's name server unless `key` is given."""
    try:
        return bool(dkim.DKIM(_crlf(raw)).verify(index, dnsfunc=key))
    except dkim.DKIMException:
        return False


def author(raw: bytes) -> str:
    """The address in the only From field."""
    found = fields(raw, "From")
    assert len(found) == 1, found
    return parseaddr(found[0])[1]


def author_domain(raw: bytes) -> str:
    """The domain of the From field."""
    return author(raw).rpartition("@")[2].lower()


def check_signed(server: Server, raw: bytes, others: bool = False) -> dict[str, str]:
    """Assert one valid signature of the server, aligned with From (RFC 7489 §3.1.1). Returns its tags.

    ``others``: whether signatures of other domains may be below it.
    """
    found = signatures(raw)
    ours = [number for number, one in enumerate(found) if one["d"] in server.selectors]
    assert ours == [0] and (others or len(found) == 1), found
    signature = found[0]
    assert signature["a"] == "rsa-sha256" and signature["c"] == "relaxed/relaxed", signature
    assert server.selectors[signature["d"]] == signature["s"], signature
    domain = author_domain(raw)
    assert domain == signature["d"] or domain.endswith(f".{signature['d']}"), f"{domain} is not aligned: {signature}"
    assert "l" not in signature, "text could be added"
    assert verifies(raw, key=server.key), raw
    return signature


class Peer:
    """An external mail domain that signs; its server is the machine that runs the tests."""

    def __init__(self, domain: str) -> None:
        self.domain = domain
        # Verifiers cache the key of a selector, even from an earlier run of the tests.
        self.selector = f"s{time.time():.0f}"
        self.key = _openssl(["genrsa", "-traditional", "2048"])
        public = base64.b64encode(_openssl(["rsa", "-pubout", "-outform", "DER"], self.key)).decode()
        dns.publish(
            domain,
            f'''@ MX 10 peer.world.test.
            @ A 198.51.100.1
            @ TXT "v=spf1 ip4:198.51.100.1 -all"
            {self.selector}._domainkey TXT "v=DKIM1; k=rsa; p=" "{public[:200]}" "{public[200:]}"
            '''.replace("            ", ""),
        )

    def sign(self, message: EmailMessage | bytes, canonicalization: str = "relaxed/simple") -> bytes:
        """The message with a DKIM-Signature field on top, in its form on the wire."""
        wire = smtp.wire(message)
        names = tuple(name.encode() for name in canonicalization.split("/"))
        return bytes(dkim.sign(wire, self.selector.encode(), self.domain.encode(), self.key, canonicalize=names)) + wire


def _openssl(words: list[str], data: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *words], input=data, check=True, capture_output=True).stdout
