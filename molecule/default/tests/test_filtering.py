# SPDX-License-Identifier: GPL-3.0-or-later
"""Inbound mail: forged and authentic authors, forged verdicts, DMARC reports."""

from __future__ import annotations

import gzip
import re
import smtplib
import time
import uuid
from email import message_from_bytes, policy
from email.message import EmailMessage
from functools import cache

import pytest

from testbed import dns, provider, smtp
from testbed.containers import wait_for
from testbed.servers import FRIEND, RELAY, SERVERS, STRANGER, Server, both, check_relayed
from testbed.signatures import Peer, verifies

# How it is canonicalized, and the body.
ODD_SPACE = {
    "blanks in lines at the end": ("relaxed/relaxed", b"Hello.\r\n     \r\n\r\n"),
    "a blank at the end": ("relaxed/relaxed", b"Hello.\r\nbye \r\n"),
    "a tab at the end": ("relaxed/relaxed", b".x\r\n..\r\n.\t\r\n"),
    "blanks alone": ("relaxed/relaxed", b"   \r\n"),
    "form feeds": ("relaxed/relaxed", b"a\r\n\f\r\nb \f c\r\n"),
    "vertical tabs": ("relaxed/relaxed", b"a\r\nb \v c\r\n"),
    "nothing": ("simple/simple", b""),
    "an empty line": ("simple/simple", b"\r\n"),
    "empty lines at the end": ("relaxed/simple", b"x\r\n\r\n\r\n"),
    "blanks at the end, simple": ("simple/simple", b"last line\r\nx  \r\n"),
}


def parsed(raw: bytes) -> EmailMessage:
    return message_from_bytes(raw, policy=policy.default)


def publish(domain: str, records: str) -> None:
    """A domain elsewhere whose names exist."""
    dns.publish(domain, f"@ A 198.51.100.1\n@ MX 10 peer.world.test.\n{records}")


def refusal(server: Server, sender: str, message: EmailMessage | bytes) -> str:
    """The server's reply to a message that it refuses."""
    with pytest.raises(smtplib.SMTPResponseException) as refused:
        smtp.deliver(server.ip, sender, [server.alice.address], message)
    assert 500 <= refused.value.smtp_code < 600
    return str(refused.value.smtp_error)


@both
def test_forged_results_are_gone(server: Server) -> None:
    verdict = f"{server.hostname}; dkim=pass header.d=bank.test; spf=pass; dmarc=pass"
    forged = (
        f"Authentication-Results: {verdict}\r\n"
        f"AUTHENTICATION-RESULTS:\r\n\t{verdict}\r\n"
        f"authentication-results : {server.hostname}\r\n\t; dkim=pass header.d=bank.test\r\n"
    ).encode()
    message = smtp.compose(STRANGER, [server.alice.address])
    smtp.deliver(server.ip, STRANGER, [server.alice.address], forged + smtp.wire(message))
    # A space before the colon is spam's way of writing a field.
    raw = server.mailbox(server.alice, str(message["Message-ID"]), folder="Junk")
    results = [str(field) for field in parsed(raw).get_all("Authentication-Results", [])]
    assert len(results) == 1 and results[0].startswith(server.hostname)
    assert "dkim=none" in results[0]
    assert b"bank.test" not in raw


@pytest.mark.parametrize("author", ["boss@{domain}", "boss@{additional_domain}", "root@{hostname}", "x@sub.{domain}"])
@both
def test_spoof_of_our_own_domain(server: Server, author: str) -> None:
    places = {name: getattr(server, name) for name in ("domain", "additional_domain", "hostname")}
    forged = author.format(**places)
    message = smtp.compose(f"The boss <{forged}>", [server.alice.address])
    for sender in (STRANGER, forged, ""):
        assert "is served here" in refusal(server, sender, message)
    foreign = smtp.compose(STRANGER, [server.alice.address])
    assert "is served here" in refusal(server, forged, foreign)


@both
def test_the_other_server_believes_it(server: Server) -> None:
    """Through the relay provider to a server of this collection on the other release."""
    (other,) = (one for one in SERVERS if one != server)
    message = server.submit([other.bob.address])
    (results,) = parsed(other.mailbox(other.bob, str(message["Message-ID"]))).get_all("Authentication-Results", [])
    assert str(results).startswith(other.hostname)
    for verdict in ("dkim=pass", "spf=pass", "dmarc=pass"):
        assert re.search(rf"\b{verdict}\b", str(results)), results


@both
def test_our_own_mail_may_come_back(server: Server) -> None:
    """Our mail, forwarded unchanged: our signature is still valid."""
    sent = server.submit([FRIEND])
    raw = server.relayed(sent).raw
    start = raw.index(b"DKIM-Signature:")
    smtp.deliver(server.ip, FRIEND, [server.bob.address], raw[start:].replace(b"\n", b"\r\n"))
    arrived = parsed(server.mailbox(server.bob, str(sent["Message-ID"])))
    assert re.search(r"\bdkim=pass\b", str(arrived["Authentication-Results"]))


@both
def test_dmarc_reject(server: Server) -> None:
    domain = f"reject-{server.domain}"
    publish(domain, '@ TXT "v=spf1 -all"\n_dmarc TXT "v=DMARC1; p=reject"\n')
    message = smtp.compose(f"ceo@{domain}", [server.alice.address])
    for sender in (STRANGER, f"ceo@{domain}"):
        assert f"DMARC policy of {domain}" in refusal(server, sender, message)


@both
def test_dmarc_quarantine(server: Server) -> None:
    domain = f"quarantine-{server.domain}"
    publish(domain, '@ TXT "v=spf1 -all"\n_dmarc TXT "v=DMARC1; p=quarantine"\n')
    message = smtp.compose(f"ceo@{domain}", [server.alice.address])
    smtp.deliver(server.ip, STRANGER, [server.alice.address], message)
    arrived = parsed(server.mailbox(server.alice, str(message["Message-ID"]), folder="Junk"))
    assert re.search(r"\bdmarc=(fail|quarantine)\b", str(arrived["Authentication-Results"]))


@cache
def strict_peer(domain: str) -> Peer:
    """A domain with p=reject and an SPF record without addresses."""
    peer = Peer(domain)
    records = dns.query(f"{peer.selector}._domainkey.{peer.domain}", "TXT")[0]
    publish(
        peer.domain,
        f'@ TXT "v=spf1 -all"\n_dmarc TXT "v=DMARC1; p=reject"\n'
        f'{peer.selector}._domainkey TXT "{records[:200]}" "{records[200:]}"\n',
    )
    wait_for(lambda: dns.query(f"_dmarc.{peer.domain}", "TXT"), what="the policy")
    return peer


@pytest.mark.parametrize("case", ODD_SPACE)
@both
def test_a_signature_over_odd_white_space(server: Server, case: str) -> None:
    """RFC 6376 sections 3.4.3 and 3.4.4. Mail that Rspamd canonicalizes differently goes to Junk."""
    canonicalization, body = ODD_SPACE[case]
    peer = strict_peer(f"strict-{server.domain}")
    message = smtp.compose(f"writer@{peer.domain}", [server.alice.address])
    header = smtp.wire(message).partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    signed = peer.sign(header + body, canonicalization)
    assert verifies(signed)
    smtp.deliver(server.ip, STRANGER, [server.alice.address], signed)
    misread = b"\f" in body or (body.isspace() and canonicalization != "simple/simple")
    arrived = server.mailbox(server.alice, str(message["Message-ID"]), folder="Junk" if misread else "INBOX")
    assert misread or re.search(r"\bdmarc=pass\b", str(parsed(arrived)["Authentication-Results"]))
    assert verifies(arrived[arrived.index(b"DKIM-Signature:") :])


@both
def test_a_signature_satisfies_dmarc(server: Server) -> None:
    """Through a forwarder that the author's SPF record does not include."""
    peer = strict_peer(f"strict-{server.domain}")
    message = smtp.compose(f"writer@{peer.domain}", [server.alice.address])
    signed = peer.sign(message)
    smtp.deliver(server.ip, STRANGER, [server.alice.address], signed)
    results = str(parsed(server.mailbox(server.alice, str(message["Message-ID"])))["Authentication-Results"])
    assert re.search(r"\bdkim=pass\b", results) and re.search(r"\bdmarc=pass\b", results)
    altered = signed.replace(b"Hello.", b"Hullo.")
    assert "DMARC policy" in refusal(server, STRANGER, altered)


@both
def test_our_own_name_in_helo(server: Server) -> None:
    for name in (server.hostname, f"[{server.ip}]"):
        with smtplib.SMTP(server.ip, 25, timeout=60) as session:
            assert session.docmd("EHLO", name)[0] == 550
        # Users' mail programs use any name.
        with smtplib.SMTP(server.ip, 587, timeout=60) as session:
            assert session.docmd("EHLO", name)[0] == 250


@both
def test_domains_that_ask_get_reports(server: Server) -> None:
    """RFC 7489 section 7.2. Rspamd accepts only addresses in existing top-level domains."""
    domain = "example.org"
    publish(domain, f'@ TXT "v=spf1 ip4:198.51.100.1 -all"\n_dmarc TXT "v=DMARC1; p=none; rua=mailto:dmarc@{domain}"\n')
    marker = f"writer-{uuid.uuid4()}@{domain}"
    message = smtp.compose(marker, [server.alice.address])
    # Midnight may pass.
    days = {server.run("date", "+%Y%m%d").strip()}
    smtp.deliver(server.ip, marker, [server.alice.address], message)
    days.add(server.run("date", "+%Y%m%d").strip())
    program = "/usr/local/lib/selfhosted-mail/send-dmarc-reports"
    for day in sorted(days):
        server.run(program, f"postmaster@{server.hostname}", day)
    begun = time.time() - 60
    kept = [
        one
        for one in [provider.wait_kept(RELAY, f"Submitter: {server.hostname}")]
        if one.time > begun and one.recipients == (f"dmarc@{domain}",)
    ]
    assert kept
    check_relayed(server, kept[0])
    assert kept[0].sender == f"postmaster@{server.hostname}"
    report = next(part for part in kept[0].message.walk() if part.get_content_type() == "application/gzip")
    xml = gzip.decompress(report.get_content()).decode()
    assert "<source_ip>198.51.100.1</source_ip>" in xml and f"<header_from>{domain}</header_from>" in xml
    assert server.run("systemctl", "is-enabled", "selfhosted-mail-dmarc-reports.timer").strip() == "enabled"


@both
def test_junk_teaches_through_the_socket_alone(server: Server) -> None:
    """Only Dovecot's program learn has the socket's group, as a supplementary one."""
    unit = "selfhosted-mail-learn.service"
    shown = server.run("systemctl", "show", "-p", "User", "-p", "SupplementaryGroups", unit)
    assert set(shown.split()) == {"User=vmail", "SupplementaryGroups=_rspamd"}
    socket = "/run/rspamd/controller.sock"
    program = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect('{socket}'); print('connected')"
    assert "connected" in server.python(program, user="vmail:_rspamd")
    tried = program.replace("s.connect", "print(s.connect_ex").replace("); print('connected')", "))")
    assert server.python(tried).strip() != "0"
