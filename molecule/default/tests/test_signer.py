# SPDX-License-Identifier: GPL-3.0-or-later
"""While the signer is down mail waits, and is sent signed when it is back. The largest message passes."""

from __future__ import annotations

import re

import pytest

from testbed import provider, smtp
from testbed.containers import wait_for
from testbed.servers import FRIEND, RELAY, Server, both, check_relayed
from testbed.signatures import check_signed

pytestmark = pytest.mark.disruptive


def tried(server: Server, recipient: str, since: str) -> bool:
    """Whether delivery to this recipient was tried: it is deferred, or held after refused connections."""
    if any(recipient in line and re.search(r"\|pending\|.*\|\D", line) for line in server.queue().splitlines()):
        return True
    journal = server.run("journalctl", "--quiet", "--no-pager", "--identifier=smtpd", f"--since={since}")
    return recipient in server.queue() and "mta error reason=IO Error: Connection refused" in journal


@both
def test_waits_for_the_signer(server: Server) -> None:
    server.settle()
    server.run("systemctl", "stop", "dkimproxy")
    since = server.run("date", "+%F %T").strip()
    try:
        outside = server.submit([FRIEND])
        inside = server.submit([server.bob.address])
        wait_for(lambda: tried(server, FRIEND, since), what=f"a try to deliver\n{server.queue()}")
        assert provider.find(RELAY, str(outside["Message-ID"])) == []
        assert server.bob.address in server.queue()
    finally:
        server.run("systemctl", "start", "dkimproxy")
    check_relayed(server, server.relayed(outside))
    check_signed(server, server.mailbox(server.bob, str(inside["Message-ID"])))


@both
def test_what_is_just_not_too_large_passes(server: Server) -> None:
    """OpenSMTPD counts octets without CR; with trace and signature the message still has to pass the limit on 10028."""
    message = smtp.compose(server.alice.address, [server.bob.address])
    line = b"x" * 76 + b"\r\n"
    head = smtp.wire(message)
    lines = (50 * 2**20 - len(head)) // (len(line) - 1)
    smtp.submit(
        server.ip, server.alice.address, server.alice.password, server.alice.address, [server.bob.address],
        head + lines * line, 465,
    )  # fmt: skip
    raw = server.mailbox(server.bob, str(message["Message-ID"]), timeout=120)
    assert len(raw.replace(b"\r", b"")) > 50 * 2**20
    check_signed(server, raw)
