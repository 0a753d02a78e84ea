# SPDX-License-Identifier: GPL-3.0-or-later
"""Mail from outside: accepted for our addresses, scanned and delivered; nothing is relayed."""

from __future__ import annotations

import re
import smtplib
import uuid
from email import message_from_bytes, policy
from email.message import EmailMessage

import pytest

from testbed import imap, smtp
from testbed.containers import wait_for
from testbed.servers import FRIEND, STRANGER, Server, both
from testbed.signatures import Peer


def parsed(raw: bytes) -> EmailMessage:
    return message_from_bytes(raw, policy=policy.default)


@pytest.mark.parametrize(
    ("recipient", "readers"),
    [
        ("alice@{domain}", ["alice"]),
        ("a.liddell@{domain}", ["alice"]),
        ("alice+news@{domain}", ["alice"]),
        ("bob+a+b@{domain}", ["bob"]),
        ("sales@{domain}", ["alice", "bob"]),
        ("anything.at-all@{additional_domain}", ["bob"]),
        ("alice@{additional_domain}", ["alice"]),
        ("postmaster@{domain}", ["alice"]),
        ("abuse@{domain}", ["alice"]),
    ],
)
@both
def test_arrives(server: Server, recipient: str, readers: list[str]) -> None:
    address = recipient.format(domain=server.domain, additional_domain=server.additional_domain)
    message = server.receive(address)
    marker = str(message["Message-ID"])
    for reader in readers:
        arrived = parsed(server.mailbox(getattr(server, reader), marker))
        assert arrived.get_content().splitlines() == message.get_content().splitlines()
        assert arrived["Return-Path"] == f"<{STRANGER}>"
    if readers == ["alice"]:
        bob = server.bob
        assert not [raw for raw in imap.messages(server.ip, bob.address, bob.password) if marker.encode() in raw]


@both
def test_without_tls(server: Server) -> None:
    """Some servers still do not support TLS."""
    message = smtp.compose(STRANGER, [server.alice.address])
    with smtplib.SMTP(server.ip, 25, timeout=60, local_hostname=smtp.PEER) as session:
        session.sendmail(STRANGER, [server.alice.address], smtp.wire(message))
    server.mailbox(server.alice, str(message["Message-ID"]))


@both
def test_several_recipients_at_once(server: Server) -> None:
    message = server.receive(server.alice.address, server.bob.address)
    for login in (server.alice, server.bob):
        server.mailbox(login, str(message["Message-ID"]))


@both
def test_one_copy_of_a_transaction(server: Server) -> None:
    """One copy for each mailbox of its recipients and each tag; another transaction is another message.

    The account is a new one: test_journals would find the error that Dovecot logs where its folder is missing. Nobody
    has used this one, so nothing of Dovecot's is at work there while the folder goes that an earlier run has left.
    """
    quinn, domain = server.quinn, server.domain
    server.run("rm", "-rf", f"/var/vmail/{domain}/quinn")
    recipients = [f"{name}@{domain}" for name in ("quinn", "q", "quota", "quinn", "quinn+news", "Quinn+News")]
    message = smtp.compose(STRANGER, recipients)
    for number in (1, 2):
        smtp.deliver(server.ip, STRANGER, recipients, message)
        server.settle()
        found = imap.messages(server.ip, quinn.address, quinn.password)
        ours = [parsed(raw)["Delivered-To"] for raw in found if str(message["Message-ID"]).encode() in raw]
        assert sorted(map(str.lower, ours)) == sorted([quinn.address, f"quinn+news@{domain}"] * number)


@both
def test_a_delivery_that_fails_on_this_host_waits(server: Server) -> None:
    """The lock of the mailbox cannot be opened, as on a disk without inodes. Dovecot has not refused the message."""
    lock = server.sh("echo /tmp/systemd-private-*-opensmtpd.service-*/tmp") + "/quinn"
    server.sh(f"rm -f {lock}; install -m 000 /dev/null {lock}")
    message = smtp.compose(STRANGER, [server.quinn.address])
    try:
        smtp.deliver(server.ip, STRANGER, [server.quinn.address], message)
        wait_for(lambda: "cannot open lock file" in server.queue(), what="the message waits")
    finally:
        server.run("rm", lock)
    [waits] = [row.partition("|")[0] for row in server.queue().splitlines() if server.quinn.address in row]
    server.run("smtpctl", "schedule", waits)
    server.mailbox(server.quinn, str(message["Message-ID"]))


@both
def test_headers_of_inspection(server: Server) -> None:
    arrived = parsed(server.mailbox(server.alice, str(server.receive(server.alice.address)["Message-ID"])))
    results = [str(field) for field in arrived.get_all("Authentication-Results", [])]
    assert len(results) == 1, arrived.keys()
    assert results[0].split(";")[0].split()[0] == server.hostname
    assert re.search(r"\bspf=pass\b", results[0]), results
    spam = {name: str(value) for name, value in arrived.items() if name.lower().startswith("x-spam")}
    assert any(re.search(r"-?\d+\.\d+", value) for value in spam.values()), arrived.keys()


@both
def test_signature_of_a_peer_is_seen(server: Server) -> None:
    peer = Peer(f"signs-to-{server.domain}")
    sender = f"writer@{peer.domain}"
    message = smtp.compose(sender, [server.alice.address])
    smtp.deliver(server.ip, sender, [server.alice.address], peer.sign(message))
    arrived = parsed(server.mailbox(server.alice, str(message["Message-ID"])))
    assert re.search(r"\bdkim=pass\b", str(arrived["Authentication-Results"]))


@both
def test_unknown_recipients(server: Server) -> None:
    """Refused at RCPT, before the message."""
    unknown = [
        f"nobody@{server.domain}",
        f"nobody+alice@{server.domain}",
        f"xalice@{server.domain}",
        f"alice@sub.{server.domain}",
        f"bob@{server.domain}.far.test",
    ]
    for address in unknown:
        with smtplib.SMTP(server.ip, 25, timeout=60, local_hostname=smtp.PEER) as session:
            session.ehlo()
            assert session.mail(STRANGER)[0] == 250
            code, text = session.rcpt(address)
            assert 500 <= code < 600, f"{address}: {code} {text!r}"


# Ways in which open relays were and are asked (RFC 5321 §4.1.1.3 and appendix C, RFC 976, RFC 1123 §5.2.16).
SPELLINGS = [
    "user@far.test",
    "user%far.test@{domain}",
    "user%far.test@{hostname}",
    "user%far.test@[{ip}]",
    "user%far.test",
    "user%far.test%{domain}@{hostname}",
    "@{domain}:user@far.test",
    "@{hostname}:user@far.test",
    "@{domain},@{hostname}:user@far.test",
    "@{domain}:user%far.test@{hostname}",
    '"user@far.test"@{domain}',
    '"user@far.test"',
    '"user%far.test"@{domain}',
    '"@far.test:user"@{domain}',
    "user@far.test@{domain}",
    "user@{domain}@far.test",
    "far.test!user",
    "far.test!user@{domain}",
    "{hostname}!far.test!user",
    "{hostname}!user@far.test",
    "user@[198.51.100.25]",
    "user@198.51.100.25",
    "user:far.test@{domain}",
    "user/far.test@{domain}",
    "alice@{domain}.",
    "user@far.test.",
    "SRS0=HHHH=TT=far.test=user@{domain}",
    "SRS0=HHHH=TT=far.test=user@{hostname}",
    "SRS1=HHHH=far.test==HHHH=TT=far.test=user@{domain}",
]


@pytest.mark.parametrize("sender", [STRANGER, "", "alice@{domain}", "root@{hostname}", "root@localhost", FRIEND])
@both
def test_nothing_is_relayed(server: Server, sender: str) -> None:
    places = {"domain": server.domain, "hostname": server.hostname, "ip": server.ip}
    for spelling in SPELLINGS:
        with smtplib.SMTP(server.ip, 25, timeout=60, local_hostname=smtp.PEER) as session:
            session.ehlo()
            # A sender refused is as good as a recipient refused.
            code, text = session.docmd(f"MAIL FROM:<{sender.format(**places)}>")
            if code == 250:
                code, text = session.docmd(f"RCPT TO:<{spelling.format(**places)}>")
            assert 500 <= code < 600, f"{spelling}: {code} {text!r}"


@both
def test_relaying_after_starttls(server: Server) -> None:
    with smtplib.SMTP(server.ip, 25, timeout=60, local_hostname=smtp.PEER) as session:
        session.starttls(context=smtp.tls())
        session.ehlo()
        session.mail(f"alice@{server.domain}")
        code, text = session.rcpt(FRIEND)
        assert 500 <= code < 600, text


@both
def test_gtube(server: Server) -> None:
    message = smtp.compose(
        STRANGER,
        [server.alice.address],
        body=f"This is the GTUBE, the test for spam filters:\n\n{smtp.GTUBE}\n\nEnd.\n",
    )
    with pytest.raises(smtplib.SMTPResponseException) as refused:
        smtp.deliver(server.ip, STRANGER, [server.alice.address], message)
    assert 500 <= refused.value.smtp_code < 600
    after = server.receive(server.alice.address)
    server.mailbox(server.alice, str(after["Message-ID"]))
    alice = server.alice
    inbox = imap.messages(server.ip, alice.address, alice.password)
    assert not [raw for raw in inbox if str(message["Message-ID"]).encode() in raw]


@both
def test_spam_goes_to_junk(server: Server) -> None:
    """Bad, but not the worst: delivered where users look for it."""
    # A sender and a text of its own: greylisting remembers both.
    sender = "seller@world.test"
    message = smtp.compose(
        f'"service@bank.test" <{sender}>',
        ["undisclosed-recipients:;"],
        body=f"Dear winner {uuid.uuid4()}\n",
        subject="YOU HAVE WON A LOT OF MONEY",
    )
    smtp.deliver(server.ip, sender, [server.alice.address], message)
    server.mailbox(server.alice, str(message["Message-ID"]), folder="Junk")
