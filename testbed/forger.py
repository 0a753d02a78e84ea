# SPDX-License-Identifier: GPL-3.0-or-later
"""An unprivileged user of a mail server who tries to send in the name of others."""

from __future__ import annotations

import uuid

from testbed import provider
from testbed.servers import FRIEND, RELAY, Server, check_relayed

# Submits over SMTP without TLS or a login; prints the last answer.
CLIENT = r"""
import smtplib, sys
address, port, sender, recipient, author, marker = sys.argv[1:]
try:
    with smtplib.SMTP(address, int(port), timeout=20) as session:
        session.ehlo()
        session.sendmail(sender, [recipient], f"From: {author}\r\nTo: {recipient}\r\nSubject: x\r\n\r\n{marker}\r\n")
    print("taken")
except (smtplib.SMTPException, OSError) as error:
    print("refused", type(error).__name__, error)
"""


def check_forger(server: Server, address: str, port: int) -> None:
    """Check that the port refuses the user, and that no forged mail leaves unless it is signed and aligned."""
    markers = []
    for sender, author in [
        ("ceo@bank.test", "ceo@bank.test"),
        ("", "ceo@bank.test"),
        (f"root@{server.hostname}", "ceo@bank.test"),
        (server.alice.address, "ceo@bank.test"),
        (server.alice.address, server.alice.address),
        (f"nobody@{server.hostname}", f"nobody@{server.hostname}"),
    ]:
        markers.append(f"forged {uuid.uuid4()}")
        answer = server.python(CLIENT, address, str(port), sender, FRIEND, author, markers[-1])
        assert answer.startswith("refused ConnectionRefusedError"), answer
    server.settle()
    for kept in provider.kept(RELAY):
        if any(marker.encode() in kept.raw for marker in markers):
            check_relayed(server, kept)
