# SPDX-License-Identifier: GPL-3.0-or-later
"""Mail in both directions: submission with a login, and delivery to port 25 as by another MTA."""

from __future__ import annotations

import smtplib
import socket
import ssl
import time
import uuid
from collections.abc import Sequence
from email.message import EmailMessage
from email.utils import format_datetime, localtime

from testbed.containers import PATIENCE

PEER = "peer.world.test"
CLIENT = "client.world.test"
# A text that spam filters refuse (https://spamassassin.apache.org/gtube/).
GTUBE = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"


def tls(authority: str | None = None) -> ssl.SSLContext:
    """A client's TLS settings: at least TLS 1.2; certificates are verified if `authority` (a PEM file) is given."""
    context = ssl.create_default_context(cafile=authority)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if authority is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def handshake(address: str, port: int, context: ssl.SSLContext, name: str | None = None) -> ssl.SSLSocket:
    """A TLS connection, by STARTTLS on 25 and 587. `name`: server name that the client requests (SNI)."""
    if port not in (25, 587):
        return context.wrap_socket(socket.create_connection((address, port), timeout=60), server_hostname=name)
    session = smtplib.SMTP(address, port, timeout=60, local_hostname=PEER)
    session.ehlo()
    code, text = session.docmd("STARTTLS")
    assert code == 220 and session.sock, text
    return context.wrap_socket(session.sock, server_hostname=name)


def compose(
    sender: str, recipients: Sequence[str], body: str = "Hello.\n", subject: str = "", **headers: str
) -> EmailMessage:
    """A plain message with a Message-ID of its own. `headers`: further ones, `Reply_To` meaning Reply-To."""
    message = EmailMessage()
    message["From"] = sender
    message["To"] = ", ".join(recipients)
    message["Subject"] = subject or f"Test {uuid.uuid4().hex[:8]}"
    message["Date"] = format_datetime(localtime())
    message["Message-ID"] = f"<{uuid.uuid4()}@{sender.rpartition('@')[2]}>"
    for name, value in headers.items():
        message[name.replace("_", "-")] = value
    message.set_content(body)
    return message


def wire(message: EmailMessage | bytes) -> bytes:
    """The message in its form on the wire, with CRLF line endings (RFC 5321 §2.3.8). Bytes are not changed."""
    return message if isinstance(message, bytes) else message.as_bytes(policy=message.policy.clone(linesep="\r\n"))


def login(host: str, port: int, user: str, password: str, context: ssl.SSLContext | None = None) -> smtplib.SMTP:
    """A logged-in session, over implicit TLS on 465 and STARTTLS elsewhere; smtplib's errors if refused."""
    session: smtplib.SMTP
    if port == 465:
        session = smtplib.SMTP_SSL(host, port, context=context or tls(), timeout=PATIENCE, local_hostname=CLIENT)
    else:
        session = smtplib.SMTP(host, port, timeout=PATIENCE, local_hostname=CLIENT)
        session.starttls(context=context or tls())
    session.ehlo()
    session.login(user, password)
    return session


def submit(
    host: str,
    user: str,
    password: str,
    sender: str,
    recipients: Sequence[str],
    message: EmailMessage | bytes,
    port: int = 587,
    options: Sequence[str] = (),
) -> None:
    """Submit a message as a mail client does. Raises smtplib's errors, also for a single refused recipient.

    `options`: of MAIL FROM, e.g. `BODY=8BITMIME`.
    """
    with login(host, port, user, password) as session:
        refused = session.sendmail(sender, list(recipients), wire(message), mail_options=list(options))
        if refused:
            raise smtplib.SMTPRecipientsRefused(refused)


def deliver(
    host: str,
    sender: str,
    recipients: Sequence[str],
    message: EmailMessage | bytes,
    helo: str = PEER,
    patience: float = PATIENCE,
) -> None:
    """Deliver a message to port 25 as another MTA does: with STARTTLS if offered, and retries after 4xx.

    Raises smtplib's errors for 5xx, and for 4xx that last longer than `patience` seconds.
    """
    end = time.monotonic() + patience
    while True:
        try:
            with smtplib.SMTP(host, 25, timeout=PATIENCE, local_hostname=helo) as session:
                session.ehlo()
                if session.has_extn("starttls"):
                    session.starttls(context=tls())
                    session.ehlo()
                refused = session.sendmail(sender, list(recipients), wire(message))
                if refused:
                    raise smtplib.SMTPRecipientsRefused(refused)
                return
        except (smtplib.SMTPException, OSError) as error:
            if not temporary(error) or time.monotonic() > end:
                raise
            time.sleep(2)


def temporary(error: Exception) -> bool:
    """Whether an MTA would retry (RFC 5321 §4.2.1)."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return any(400 <= code < 500 for code, _text in error.recipients.values())
    if isinstance(error, smtplib.SMTPResponseException):
        return 400 <= error.smtp_code < 500
    return True
