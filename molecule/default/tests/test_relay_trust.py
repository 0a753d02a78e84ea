# SPDX-License-Identifier: GPL-3.0-or-later
"""A relay that shows a wrong certificate gets neither mail nor credentials."""

from __future__ import annotations

import re
from email.message import EmailMessage

import pytest
from servers import RELAY, SERVERS, Server, check_relayed, on_both

from testbed import provider
from testbed.containers import wait_for

pytestmark = pytest.mark.disruptive


def talks(server: Server, since: int) -> list[str]:
    """What the relay logged of sessions with this server, from this length of its log on."""
    return [line for line in provider.sessions(RELAY)[since:].splitlines() if f"[{server.ip}]" in line]


def test_mail_and_credentials_wait_for_a_good_certificate() -> None:
    """Signed by nobody we trust, in another name, expired; then good again."""
    waiting: dict[Server, list[EmailMessage]] = {server: [] for server in SERVERS}
    try:
        for kind in ("untrusted", "wrong_name", "expired"):
            provider.show_certificate(RELAY, kind)
            since = len(provider.sessions(RELAY))

            def refused(server: Server, kind: str = kind, since: int = since) -> None:
                waiting[server].append(server.submit())
                done = wait_for(
                    lambda: [line for line in talks(server, since) if "disconnect from" in line], 60, f"a try, {kind}"
                )
                assert not [line for line in done if re.search(r"\b(auth|mail|data)=", line)], kind
                assert not provider.find(RELAY, str(waiting[server][-1]["Message-ID"])), kind

            on_both(refused)
    finally:
        provider.show_certificate(RELAY, "trusted")

    def delivered(server: Server) -> None:
        for number, message in enumerate(waiting[server]):
            check_relayed(server, server.relayed(message, timeout=120 if number == 0 else 10))

    on_both(delivered)


@pytest.mark.parametrize("kind", ["trusted"])
def test_control(kind: str) -> None:
    """What the test above looks for in the relay's log is there when mail goes through."""
    since = len(provider.sessions(RELAY))

    def seen(server: Server) -> None:
        server.relayed(server.submit())
        wait_for(lambda: [line for line in talks(server, since) if " auth=1 " in line], 60)

    on_both(seen)
