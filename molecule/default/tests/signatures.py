# SPDX-License-Identifier: GPL-3.0-or-later
"""DKIM as the recipient's side sees it: verified against the keys that the test bed's name server publishes."""

from __future__ import annotations

import base64
import subprocess
import time
from email import message_from_bytes, policy
from email.message import EmailMessage
from email.utils import parseaddr

import dkim  # type: ignore[import-untyped]
from servers import Server
from testbed import dns, provider, smtp
from testbed.containers import wait_for


def tags(header: str) -> dict[str, str]:
    """The tags of a DKIM-Signature field (RFC 6376 §3.2)."""
    pairs = [pair.split("=", 1) for pair in "".join(header.split()).split(";") if pair]
    return {pair[0]: pair[1] for pair in pairs}


def signatures(raw: bytes) -> list[dict[str, str]]:
    """The tags of each DKIM-Signature field of a message, the topmost first."""
    message = message_from_bytes(raw, policy=policy.compat32)
    return [tags(str(header)) for header in message.get_all("DKIM-Signature", [])]


def verifies(raw: bytes, index: int = 0) -> bool:
    """Whether this signature holds, according to dkimpy. `raw`: LF or CRLF line endings."""
    wire = raw.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")

    def key(name: bytes, timeout: int = 5) -> bytes | None:
        records = dns.query(name.decode(), "TXT")
        return records[0].encode() if records else None

    try:
        return bool(dkim.DKIM(wire).verify(index, dnsfunc=key))
    except dkim.DKIMException:
        return False


def author_domain(raw: bytes) -> str:
    """The domain of the From field."""
    message = message_from_bytes(raw, policy=policy.default)
    return parseaddr(str(message["From"]))[1].rpartition("@")[2].lower()


def check_signed(server: Server, raw: bytes) -> dict[str, str]:
    """One signature, good, by a domain of the server's, aligned with From (RFC 7489 §3.1.1). Returns its tags."""
    found = signatures(raw)
    assert len(found) == 1, found
    signature = found[0]
    assert signature["a"] == "rsa-sha256" and signature["c"] == "relaxed/relaxed", signature
    ours = {server.domain: "mail", server.additional_domain: server.additional_selector, server.hostname: "mail"}
    assert ours.get(signature["d"]) == signature["s"], signature
    author = author_domain(raw)
    assert author == signature["d"] or author.endswith(f".{signature['d']}"), f"{author} is not aligned: {signature}"
    assert "l" not in signature, "text could be added"
    assert verifies(raw)
    return signature


def check_relayed(server: Server, kept: provider.Kept) -> dict[str, str]:
    """It came from the server, over TLS, with its login, signed; Mail::DKIM agrees. Returns the signature's tags."""
    assert kept.client_address == server.ip
    assert kept.auth_user == server.relay_user
    assert kept.tls in ("TLSv1.2", "TLSv1.3")
    signature = check_signed(server, kept.raw)
    assert kept.dkim == [("pass", signature["d"])], kept.message["Authentication-Results"]
    return signature


class Peer:
    """A mail domain elsewhere that signs; its server is the machine that runs the tests."""

    def __init__(self, domain: str) -> None:
        self.domain = domain
        # Verifiers remember the key of a selector, even from an earlier run of the tests.
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
        # The name server takes it in some moments later.
        wait_for(lambda: dns.query(f"{self.selector}._domainkey.{domain}", "TXT"), what=f"the key of {domain}")

    def sign(self, message: EmailMessage) -> bytes:
        """The message with a DKIM-Signature field on top, as it goes over SMTP."""
        wire = smtp.wire(message)
        return bytes(dkim.sign(wire, self.selector.encode(), self.domain.encode(), self.key)) + wire


def _openssl(words: list[str], data: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *words], input=data, check=True, capture_output=True).stdout
