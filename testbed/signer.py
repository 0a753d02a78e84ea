# SPDX-License-Identifier: GPL-3.0-or-later
"""The signing proxy alone on a host: messages submitted to it there, and those that its next hop got."""

from __future__ import annotations

import base64
import uuid
from pathlib import Path
from typing import Any

import pytest

from testbed import containers
from testbed.signatures import signatures, verifies

_SEND = """
import smtplib, sys
try:
    with smtplib.SMTP('127.0.0.1', 10027, timeout=120) as session:
        session.sendmail(sys.argv[1], sys.argv[2], sys.stdin.buffer.read())
        print('taken')
except smtplib.SMTPResponseException as error:
    text = error.smtp_error
    print(error.smtp_code, text.decode() if isinstance(text, bytes) else text)
except smtplib.SMTPRecipientsRefused as error:
    print(*[f'{code} {text.decode()}' for code, text in error.recipients.values()])
except OSError as error:
    print(error)
"""


@pytest.fixture
def next_hop(host: Any, container: str) -> None:
    """Start a next hop that keeps what it gets. The host needs python3-aiosmtpd."""
    if host.run("systemctl is-active next-hop").rc:
        containers.write(container, "/root/next_hop.py", Path(__file__).with_name("next_hop").read_bytes())
        host.run_test("systemd-run --unit=next-hop --quiet /usr/bin/python3 /root/next_hop.py")
        containers.wait_for(lambda: "127.0.0.1:10028" in host.check_output("ss -Hltn"), what="the next hop")


def send(container: str, sender: str, message: bytes, recipient: str = "carol@far.test") -> str:
    """Submit a message to the proxy on the host; returns `taken`, its refusal, or why it could not be reached."""
    answer = containers.docker("exec", "-i", container, "python3", "-c", _SEND, sender, recipient, data=message)
    return answer.decode().strip()


def compose(author: str, body: bytes = b"Hello.\r\n") -> tuple[str, bytes]:
    """A marker, and a message with it as subject."""
    marker = uuid.uuid4().hex
    head = f"From: {author}\r\nTo: carol@far.test\r\nSubject: {marker}\r\nDate: Sun, 22 Nov 2026 12:00:00 +0000\r\n"
    return marker, head.encode() + f"Message-ID: <{marker}@our.test>\r\n\r\n".encode() + body


def kept(container: str, marker: str) -> bytes | None:
    """The message as the next hop got it."""
    path = containers.run(container, "sh", "-c", f"grep -rl {marker} /root/next_hop || true").strip()
    return containers.docker("exec", container, "cat", path) if path else None


def verified(container: str, message: bytes | None) -> tuple[str, str]:
    """Domain and selector of the only signature, which is verified with the key on the host."""
    assert message
    [tags] = signatures(message)
    domain, selector = tags["d"], tags["s"]
    assert (tags["a"], tags["c"]) == ("rsa-sha256", "relaxed/relaxed")
    assert "l" not in tags
    file = f"/etc/dkimproxy/keys/{domain}.{selector}.pem"
    public = containers.docker("exec", container, "openssl", "pkey", "-in", file, "-pubout", "-outform", "DER")
    record = b"v=DKIM1; k=rsa; p=" + base64.b64encode(public)
    assert verifies(message, key=lambda *_name, **_more: record)
    return domain, selector
