# SPDX-License-Identifier: GPL-3.0-or-later
"""Users' mail: in on 465 and 587, signed, out through the relay provider."""

from __future__ import annotations

import base64
import random
import re
import smtplib
import string
import uuid
from concurrent.futures import ThreadPoolExecutor
from email.message import EmailMessage

import pytest

from testbed import provider, smtp
from testbed.containers import wait_for
from testbed.servers import FRIEND, RELAY, STRANGER, Server, both, check_relayed
from testbed.signatures import check_signed, signatures, verifies


def plain_auth(user: str, password: str) -> str:
    """An AUTH command (RFC 4616)."""
    return "AUTH PLAIN " + base64.b64encode(f"\0{user}\0{password}".encode()).decode()


@pytest.mark.parametrize("name", ["alice", "bob"])
@pytest.mark.parametrize("port", [465, 587])
@both
def test_reaches_the_relay_signed(server: Server, port: int, name: str) -> None:
    login = getattr(server, name)
    message = server.submit([FRIEND], login=login, port=port)
    kept = server.relayed(message)
    assert (kept.sender, kept.recipients) == (login.address, (FRIEND,))
    signature = check_relayed(server, kept)
    assert (signature["d"], signature["s"]) == (server.domain, "mail")
    assert kept.message["Subject"] == message["Subject"]
    assert kept.message.get_content() == message.get_content()
    assert not verifies(kept.raw.replace(b"Hello", b"HellO"))
    assert len(provider.find(RELAY, str(message["Message-ID"]))) == 1


@both
def test_additional_domain_signs_with_its_own_selector(server: Server) -> None:
    address = f"alice@{server.additional_domain}"
    kept = server.relayed(server.submit(sender=address))
    assert kept.sender == address
    signature = check_relayed(server, kept)
    assert (signature["d"], signature["s"]) == (server.additional_domain, server.additional_selector)


@both
def test_alias_as_sender(server: Server) -> None:
    kept = server.relayed(server.submit(sender=f"a.liddell@{server.domain}"))
    assert kept.sender == f"a.liddell@{server.domain}"
    check_relayed(server, kept)


BODIES = {
    "8-bit": "Grüße aus Zürich – naïve café, 日本語, emoji 🦉.\nSecond line: ÄÖÜ\n",
    "dots": ".\n..\n...\n.hidden\n. \n.\n\nend.\n.\n",
    "blank lines": "\n\n\nfirst\n\n\n\nlast\n\n\n\n",
    "long lines": "".join(letter * 990 + "\n" for letter in "abc"),
    "white space": "trailing blanks   \n\ttabs\t\t\n   \n    x  y\n",
    "From lines": "From nobody with love\n>From quoted\n",
    "empty": "",
}


def raw_message(sender: str, to: str, body: str) -> tuple[str, bytes]:
    """Message-ID and message, 8-bit text as it is, CRLF line endings."""
    identity = f"<{uuid.uuid4()}@test>"
    head = (
        f"From: {sender}\nTo: {to}\nSubject: Body\nMessage-ID: {identity}\nDate: Sun, 22 Nov 2026 12:00:00 +0000\n"
        "MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n"
    )
    return identity, (head + body).replace("\n", "\r\n").encode()


@pytest.mark.parametrize("kind", BODIES)
@both
def test_bodies_survive(server: Server, kind: str) -> None:
    identity, message = raw_message(server.alice.address, FRIEND, BODIES[kind])
    options = ["BODY=8BITMIME"] if kind == "8-bit" else []
    alice = server.alice
    smtp.submit(server.ip, alice.address, alice.password, alice.address, [FRIEND], message, options=options)
    kept = provider.wait_kept(RELAY, identity)
    check_relayed(server, kept)
    assert kept.raw.split(b"\n\n", 1)[1].decode() == BODIES[kind]


@both
def test_ten_megabytes(server: Server) -> None:
    letters = random.Random(server.domain).choices(string.ascii_letters + " ", k=10 << 20)
    body = "".join("".join(letters[start : start + 78]) + "\n" for start in range(0, len(letters), 78))
    identity, message = raw_message(server.alice.address, FRIEND, body)
    alice = server.alice
    smtp.submit(server.ip, alice.address, alice.password, alice.address, [FRIEND], message, port=465)
    kept = provider.wait_kept(RELAY, identity)
    check_relayed(server, kept)
    assert kept.raw.split(b"\n\n", 1)[1].decode() == body


@both
def test_several_recipients(server: Server) -> None:
    """Each gets it once, whether elsewhere or here, and sees it signed."""
    elsewhere = sorted(f"friend{number}@{domain}" for number in range(3) for domain in ("far.test", "further.test"))
    message = server.submit([*elsewhere, server.bob.address])
    server.relayed(message)
    check_signed(server, server.mailbox(server.bob, str(message["Message-ID"])))
    server.settle()

    def deliveries() -> list[provider.Kept]:
        return provider.find(RELAY, str(message["Message-ID"]))

    def recipients() -> list[str]:
        return sorted(recipient for kept in deliveries() for recipient in kept.recipients)

    # The provider keeps a message a moment after the queue is empty.
    wait_for(lambda: len(recipients()) >= len(elsewhere), what="all of them")
    assert recipients() == elsewhere
    for kept in deliveries():
        check_relayed(server, kept)


@both
def test_blind_copies_stay_blind(server: Server) -> None:
    message = smtp.compose(server.alice.address, [FRIEND])
    server.submit([FRIEND, "secret.friend@far.test"], message=message)
    server.relayed(message)
    server.settle()
    for kept in provider.find(RELAY, str(message["Message-ID"])):
        # The provider's own fields are on top.
        assert b"secret.friend" not in kept.raw.split(b"\nDKIM-Signature:", 1)[1]


@both
def test_message_from_a_mime_program(server: Server) -> None:
    """Several parts, encoded words in header fields, a folded one, an attachment."""
    message = EmailMessage()
    message["From"] = f'"Älice Liddell (✉)" <{server.alice.address}>'
    message["To"] = f'"Fríend, A." <{FRIEND}>'
    message["Subject"] = "Überraschung " + "sehr " * 40
    message["Message-ID"] = f"<{uuid.uuid4()}@{server.domain}>"
    message["Date"] = "Sun, 22 Nov 2026 12:00:00 +0000"
    message.set_content("Text\n")
    message.add_alternative("<p>Text</p>\n", subtype="html")
    blob = random.Random(1).randbytes(5000)
    message.add_attachment(blob, maintype="application", subtype="octet-stream", filename="Grüße.bin")
    kept = server.relayed(server.submit(message=message))
    check_relayed(server, kept)
    assert kept.message["Subject"] == message["Subject"]
    assert [part.get_content() for part in kept.message.iter_attachments()] == [blob]


@pytest.mark.parametrize("port", [465, 587])
@both
def test_client_address_does_not_leave(server: Server, port: int) -> None:
    kept = server.relayed(server.submit(port=port))
    head = kept.raw.split(b"\n\n", 1)[0]
    # Properties of the session: `login` greets as client.world.test.
    assert not re.search(rb"198\.51\.100\.1(?!\d)|world\.test", head), head.decode()


@pytest.mark.parametrize("port", [465, 587])
@both
def test_wrong_password(server: Server, port: int) -> None:
    attempts = [
        (server.alice.address, server.alice.password + "x"),
        (server.alice.address, server.alice.password[:-1]),
        (server.alice.address, server.bob.password),
        (server.bob.address, server.bob.password.split("#")[0].rstrip()),
        (f"nobody@{server.domain}", server.alice.password),
        (f"sales@{server.domain}", server.alice.password),
        ("root", ""),
        (server.alice.address, "$6$wonderland$"),
    ]

    def attempt(login: tuple[str, str]) -> None:
        with pytest.raises(smtplib.SMTPAuthenticationError) as refused:
            smtp.login(server.ip, port, *login)
        assert refused.value.smtp_code == 535, login[0]

    # A wrong password is answered late.
    with ThreadPoolExecutor() as pool:
        assert len(list(pool.map(attempt, attempts))) == len(attempts)


@pytest.mark.parametrize("port", [25, 587])
@both
def test_no_auth_without_tls(server: Server, port: int) -> None:
    with smtplib.SMTP(server.ip, port, timeout=60, local_hostname=smtp.PEER) as session:
        session.ehlo()
        assert not session.has_extn("auth") and session.has_extn("starttls")
        code, text = session.docmd(plain_auth(server.alice.address, server.alice.password))
        assert 500 <= code < 600, text


@both
def test_no_auth_on_25(server: Server) -> None:
    with smtplib.SMTP(server.ip, 25, timeout=60, local_hostname=smtp.PEER) as session:
        session.starttls(context=smtp.tls())
        session.ehlo()
        assert not session.has_extn("auth")
        code, text = session.docmd(plain_auth(server.alice.address, server.alice.password))
        assert 500 <= code < 600, text
        session.ehlo()
        assert session.mail(server.alice.address)[0] >= 500 or session.rcpt(FRIEND)[0] >= 500


@both
def test_587_demands_tls(server: Server) -> None:
    with smtplib.SMTP(server.ip, 587, timeout=60, local_hostname=smtp.PEER) as session:
        session.ehlo()
        code, text = session.mail(server.alice.address)
        assert 500 <= code < 600, text


@pytest.mark.parametrize("port", [465, 587])
@both
def test_submission_demands_a_login(server: Server, port: int) -> None:
    session = smtplib.SMTP_SSL(server.ip, 465, context=smtp.tls()) if port == 465 else smtplib.SMTP(server.ip, 587)
    with session:
        if port == 587:
            session.starttls(context=smtp.tls())
        session.ehlo()
        assert session.has_extn("auth")
        code, text = session.mail(server.alice.address)
        assert 500 <= code < 600, text


@pytest.mark.parametrize("port", [465, 587])
@both
def test_forged_envelope_sender(server: Server, port: int) -> None:
    """A login may use its own address and aliases and no other."""
    forged = [
        server.bob.address,
        f"nobody@{server.domain}",
        f"sales@{server.domain}",
        f"bob@{server.additional_domain}",
        f"alice@{server.hostname}",
        f"root@{server.hostname}",
        f"xalice@{server.domain}",
        f"alice@x{server.domain}",
        f"alice@{server.domain}.far.test",
        STRANGER,
    ]
    for sender in forged:
        with smtp.login(server.ip, port, server.alice.address, server.alice.password) as session:
            code, text = session.mail(sender)
            if code == 250:
                code, text = session.rcpt(FRIEND)
            assert 500 <= code < 600, f"{sender}: {text!r}"


@both
def test_refused_by_the_relay(server: Server) -> None:
    """The provider refuses a recipient: alice gets a signed bounce with its reply."""
    message = server.submit(["nobody@far.test"])
    bounce = server.mailbox(server.alice, str(message["Message-ID"]))
    assert b"No such user here" in bounce and b"nobody@far.test" in bounce
    check_signed(server, bounce)


@both
def test_between_local_users(server: Server) -> None:
    """Signed, and delivered without leaving; the spam filter looks at mail from outside only."""
    message = server.submit([server.bob.address])
    raw = server.mailbox(server.bob, str(message["Message-ID"]))
    check_signed(server, raw)
    assert b"\nX-Spam" not in raw
    server.settle()
    assert provider.find(RELAY, str(message["Message-ID"])) == []


@both
def test_to_local_aliases(server: Server) -> None:
    message = server.submit([f"sales@{server.domain}", f"whoever@{server.additional_domain}"], login=server.bob)
    check_signed(server, server.mailbox(server.alice, str(message["Message-ID"])))
    check_signed(server, server.mailbox(server.bob, str(message["Message-ID"])))


@both
def test_to_local_alias_that_leads_outside(server: Server) -> None:
    """A local user's mail to a forwarding address leaves, still signed and aligned."""
    message = server.submit([f"away@{server.domain}"])
    kept = server.relayed(message)
    assert kept.recipients == (FRIEND,)
    assert [one["d"] for one in signatures(kept.raw)] == [server.domain]
    assert kept.dkim == [("pass", server.domain)]


@both
def test_unknown_local_recipient(server: Server) -> None:
    """Refused at RCPT, so that the mail program shows the mistake."""
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        server.submit([f"nobody@{server.domain}"])
