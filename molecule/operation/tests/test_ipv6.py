# SPDX-License-Identifier: GPL-3.0-or-later
"""Tests over IPv6, which the hosts of the scenario default do not have."""

from __future__ import annotations

import ssl
import subprocess

import pytest

from testbed.forger import check_forger
from testbed.servers import Server, both
from testbed.smtp import handshake, tls


def link_local(server: Server) -> str:
    shown = server.run("ip", "-6", "-oneline", "address", "show", "dev", "eth0", "scope", "link").split()
    return shown[shown.index("inet6") + 1].split("/")[0]


@pytest.mark.parametrize("port", [25, 465, 587, 993])
@both
def test_from_outside(server: Server, port: int) -> None:
    words = ["docker", "network", "inspect", "-f", "{{.Id}}", "selfhosted-mail"]
    network = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    context = tls()
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    handshake(f"{link_local(server)}%br-{network[:12]}", port, context).close()


@pytest.mark.parametrize("door", ["::1", "{link_local}%eth0"])
@both
def test_local_user_cannot_send_unsigned(server: Server, door: str) -> None:
    check_forger(server, door.format(link_local=link_local(server)), 25)
