# SPDX-License-Identifier: GPL-3.0-or-later
"""Limits of connections and of password guessing."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest

from testbed.firewall import check_limits, clients

testinfra_hosts = ["docker://dovecot-debian12", "docker://dovecot-debian13"]


@pytest.mark.parametrize(("port", "family"), [(993, "ipv6"), (4190, "ipv4")])
def test_connections_of_an_address(container: str, port: int, family: str) -> None:
    with clients(container):
        check_limits(container, port, family)


def test_trusted_networks_have_no_limit(address: str) -> None:
    """This machine is in mail_trusted_networks. Each greeting is read, so that none only waits for its turn."""
    with ExitStack() as held:
        for _connection in range(30):
            connection = held.enter_context(socket.create_connection((address, 4190), 60))
            assert connection.recv(1)
    for _connection in range(70):
        with socket.create_connection((address, 4190), 60) as connection:
            assert connection.recv(1)
