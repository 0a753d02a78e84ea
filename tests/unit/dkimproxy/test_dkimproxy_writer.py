# SPDX-License-Identifier: GPL-3.0-or-later
"""The writer of a message: the login in OpenSMTPD's Received field, or the envelope sender."""

import pytest
from dkimproxy_helpers import MESSAGE, Client, Proxy, deliver

TRACE = (
    b"Received: \r\n\tby mail.example.org (OpenSMTPD) with ESMTPSA id 1a2b3c4d (TLSv1.3:TLS_AES_256_GCM_SHA384:256:NO)"
    b"%b\r\n\tfor <bob@example.net>;\r\n\tSat, 28 Nov 2026 10:00:00 +0000 (UTC)\r\n"
)
ALICE, BOB = TRACE % b" auth=yes user=Alice@example.org", TRACE % b" auth=yes user=bob"
AS_BOB = MESSAGE.replace(b"Alice <alice@", b"<bob@")
FROM_HOST = MESSAGE.replace(b"Alice <alice@", b"<root@mail.")


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "senders").write_text(
        "alice@example.org alice@example.org, info@example.org\nbob bob@example.org, info@example.org\n"
    )
    return {"senders": str(tmp_path / "senders"), "received_auth": "yes"}


@pytest.mark.parametrize(
    ("message", "sender", "answer"),
    [
        (ALICE + MESSAGE, b"alice@example.org", b"250"),
        # Read receipts have the null sender (RFC 8098 section 3).
        (ALICE + MESSAGE, b"", b"250"),
        (ALICE + AS_BOB, b"", b"550 5.7.1 alice@example.org may not send mail as bob@example.org."),
        (ALICE + FROM_HOST, b"", b"550 5.7.1"),
        # Shared with bob, and she writes as herself.
        (ALICE + MESSAGE, b"info@example.org", b"250"),
        (BOB + MESSAGE, b"info@example.org", b"550 5.7.1"),
        # The envelope sender belongs to another account.
        (ALICE + MESSAGE, b"bob@example.org", b"550 5.7.1 alice@example.org may not send mail as bob@example.org."),
        (BOB + AS_BOB, b"bob@example.org", b"250"),
        # Without a login: the host's own names, or the account of the sender.
        (MESSAGE, b"", b"550 5.7.1"),
        (FROM_HOST, b"", b"250"),
        (TRACE % b"" + MESSAGE, b"", b"550 5.7.1"),
        (MESSAGE, b"alice@example.org", b"250"),
        (MESSAGE, b"info@example.org", b"550 5.7.1"),
        # Only the first field is OpenSMTPD's.
        (TRACE % b"" + ALICE + MESSAGE, b"", b"550 5.7.1"),
        (b"X-A: b\r\n" + ALICE + MESSAGE, b"", b"550 5.7.1"),
        (ALICE.replace(b"mail.example.org", b"mail.example.net") + MESSAGE, b"", b"550 5.7.1"),
        (ALICE.replace(b"ESMTPSA", b"ESMTPS") + MESSAGE, b"", b"550 5.7.1"),
        (ALICE.replace(b"Received: ", b"X-Received: ") + MESSAGE, b"", b"550 5.7.1"),
        (ALICE.replace(b"(OpenSMTPD)", b"(other)") + MESSAGE, b"", b"550 5.7.1"),
    ],
)
def test_writer(keys, next_hop, tmp_path, settings, message, sender, answer):
    with Proxy(keys, next_hop, tmp_path, settings) as proxy:
        assert deliver(proxy.port, message, sender).startswith(answer)
    assert len(next_hop.messages) == answer.startswith(b"250")
    assert all(map(keys.verifies, next_hop.messages))


def test_the_login_does_not_leave(keys, next_hop, tmp_path, settings):
    with Proxy(keys, next_hop, tmp_path, settings) as proxy:
        assert deliver(proxy.port, ALICE + MESSAGE).startswith(b"250")
    [message] = next_hop.messages
    assert b"auth=" not in message and b"user=" not in message
    assert TRACE % b"" in message


def test_several_recipients(keys, next_hop, tmp_path, settings):
    """OpenSMTPD then names no recipient, and its field ends right after the login."""
    message = ALICE.replace(b"\r\n\tfor <bob@example.net>", b"") + MESSAGE
    with Proxy(keys, next_hop, tmp_path, settings) as proxy:
        assert deliver(proxy.port, message, b"").startswith(b"250")
    assert b"256:NO);\r\n" in next_hop.messages[0]


def test_where_the_source_is_not_masked(keys, next_hop, tmp_path, settings):
    message = ALICE.replace(b"Received: \r\n", b"Received: from client (host.example.net [198.51.100.9])\r\n") + MESSAGE
    with Proxy(keys, next_hop, tmp_path, settings) as proxy:
        assert deliver(proxy.port, message, b"").startswith(b"250")


def test_not_believed_where_the_configuration_does_not_say_so(keys, next_hop, tmp_path, settings):
    with Proxy(keys, next_hop, tmp_path, settings | {"received_auth": "no"}) as proxy:
        assert deliver(proxy.port, ALICE + MESSAGE, b"").startswith(b"550 5.7.1")
        with Client(proxy.port) as client:
            client.begin(b"alice@example.org")
            assert client.message(ALICE + MESSAGE).startswith(b"250")
    assert b"auth=yes" in next_hop.messages[0]
