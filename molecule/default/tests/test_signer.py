# SPDX-License-Identifier: GPL-3.0-or-later
"""The signer is down: mail waits, and leaves signed when it is back."""

from __future__ import annotations

import re

from servers import FRIEND, RELAY, Server, both
from signatures import check_relayed, check_signed
from testbed import provider
from testbed.containers import wait_for


def tried(server: Server, recipient: str) -> bool:
    """Whether delivery to this recipient was tried and put off."""
    return any(recipient in line and re.search(r"\|pending\|.*\|\D", line) for line in server.queue().splitlines())


@both
def test_waits_for_the_signer(server: Server) -> None:
    server.settle()
    server.run("systemctl", "stop", "dkimproxy")
    try:
        outside = server.submit([FRIEND])
        inside = server.submit([server.bob.address])
        wait_for(lambda: tried(server, FRIEND), 60, f"a try to deliver\n{server.queue()}")
        assert provider.find(RELAY, str(outside["Message-ID"])) == []
        assert server.bob.address in server.queue()
    finally:
        server.run("systemctl", "start", "dkimproxy")
    check_relayed(server, server.relayed(outside, timeout=60))
    check_signed(server, server.mailbox(server.bob, str(inside["Message-ID"]), timeout=20))
