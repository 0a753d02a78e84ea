# SPDX-License-Identifier: GPL-3.0-or-later
"""An alias to an external address: mail is forwarded with our envelope sender and the author's signature."""

from __future__ import annotations

import re
import smtplib
import uuid

from testbed import provider, smtp
from testbed.playbook import run_site
from testbed.servers import FRIEND, RELAY, SERVERS, STRANGER, Server, both
from testbed.signatures import Peer, signatures, verifies


@both
def test_forwarded_with_srs_and_the_peers_signature(server: Server) -> None:
    peer = Peer(f"writes-to-{server.domain}")
    sender = f"writer@{peer.domain}"
    message = smtp.compose(sender, [f"away@{server.domain}"])
    smtp.deliver(server.ip, sender, [f"away@{server.domain}"], peer.sign(message))
    kept = server.relayed(message)
    assert kept.recipients == (FRIEND,)
    assert kept.auth_user == server.relay_user and kept.tls in ("TLSv1.2", "TLSv1.3")
    local_part, _at, domain = kept.sender.rpartition("@")
    assert re.fullmatch(rf"SRS0=[^=]+=[^=]+={re.escape(peer.domain)}=writer", local_part), kept.sender
    assert domain in (server.domain, server.hostname)
    assert [one["d"] for one in signatures(kept.raw)] == [peer.domain]
    assert verifies(kept.raw)
    assert kept.dkim == [("pass", peer.domain)]
    server.settle()
    assert len(provider.find(RELAY, str(message["Message-ID"]))) == 1


@both
def test_unsigned_mail_is_forwarded_unsigned(server: Server) -> None:
    kept = server.relayed(server.receive(f"away@{server.domain}"))
    assert kept.sender.startswith("SRS0=")
    assert signatures(kept.raw) == []


@both
def test_report_about_forwarded_mail_finds_its_way_back(server: Server) -> None:
    kept = server.relayed(server.receive(f"away@{server.domain}"))
    report = smtp.compose("mailer-daemon@far.test", [kept.sender], subject="Undelivered")
    smtp.deliver(server.ip, "", [kept.sender], report)
    back = server.relayed(report)
    assert back.recipients == (STRANGER,)
    assert back.auth_user == server.relay_user
    assert not [one for one in signatures(back.raw) if one["d"] in (server.domain, server.hostname)]


@both
def test_srs_addresses_cannot_be_made_up(server: Server) -> None:
    """SRS addresses with a wrong hash relay nothing."""
    kept = server.relayed(server.receive(f"away@{server.domain}"))
    _srs, digest, day, domain, rest = kept.sender.split("=", 4)
    other = "AAAA" if digest != "AAAA" else "BBBB"
    for forged in [
        f"SRS0={other}={day}={domain}={rest}",
        f"SRS0={digest}={day}=far.test={rest}",
        f"SRS0={digest}={day}={domain}=somebody.else@{rest.rpartition('@')[2]}",
    ]:
        message = smtp.compose("mailer-daemon@far.test", [forged], subject=f"Undelivered {uuid.uuid4()}")
        try:
            smtp.deliver(server.ip, "", [forged], message, patience=0)
        except (smtplib.SMTPRecipientsRefused, smtplib.SMTPResponseException):
            continue
        server.settle()
        assert provider.find(RELAY, str(message["Message-ID"])) == [], forged


def test_directly_past_the_relay() -> None:
    """`mail_forward_via: direct` applies only to forwarded mail, and the run reports it."""
    done = run_site("--tags", "accounts", variables={"mail_forward_via": "direct"})
    try:
        assert "directly to the recipients' servers" in done.output
        for server in SERVERS:
            kept = server.relayed(server.receive(f"away@{server.domain}"))
            assert (kept.recipients, kept.auth_user, kept.client_address) == ((FRIEND,), "", server.ip)
            assert kept.sender.startswith("SRS0=")
            assert server.relayed(server.submit([FRIEND])).auth_user == server.relay_user
    finally:
        run_site("--tags", "accounts")
    for server in SERVERS:
        assert server.relayed(server.receive(f"away@{server.domain}")).auth_user == server.relay_user
