# SPDX-License-Identifier: GPL-3.0-or-later
"""A host with the role rspamd alone, and how to ask Rspamd there."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

from testbed import containers

OURS = "mail.our.test"
# Address and reverse name as OpenSMTPD has them.
PEER = ("198.51.100.1", "peer.world.test")  # with SPF and DMARC in the test bed's DNS
STRANGER = ("198.51.100.99", "<unknown>")
REDIS = "redis-cli -s /run/redis-rspamd/redis.sock"
_HERE = Path(__file__).parent


def message(body: str = "Hello, just a plain message.\n", sender: str = "bob@world.test", more: str = "") -> str:
    """A message to alice, with further header fields on top."""
    return (
        f"{more}From: Bob <{sender}>\nTo: alice@our.test\nSubject: hello\nDate: Sun, 22 Nov 2026 10:00:00 +0000\n"
        f"Message-ID: <{uuid.uuid4()}@world.test>\n\n{body}"
    )


def on_host(host: Any, program: str, *arguments: str) -> str:
    """Run a program of this folder on the host; its standard output."""
    done = host.run("python3 -c %s " + " ".join(["%s"] * len(arguments)), (_HERE / program).read_text(), *arguments)
    assert done.rc == 0, done.stderr
    return str(done.stdout)


def scan(host: Any, text: str, **headers: str) -> dict[str, Any]:
    """Rspamd's own answer, as the filter gets it."""
    session = {"Ip": PEER[0], "Hostname": PEER[1], "From": "bob@world.test", **headers}
    answer: dict[str, Any] = json.loads(on_host(host, "scan_message.py", json.dumps(session), text))
    return answer


def wait_for(host: Any, command: str, seconds: float = containers.PATIENCE) -> None:
    """Until the command succeeds on the host."""
    containers.wait_for(lambda: host.run(command).rc == 0, seconds, command)
