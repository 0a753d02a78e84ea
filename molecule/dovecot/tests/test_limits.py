# SPDX-License-Identifier: GPL-3.0-or-later
"""Mailboxes are not open to floods and to guessing at full speed."""

from __future__ import annotations

import pytest

from testbed.firewall import check_limits, clients

testinfra_hosts = ["docker://dovecot-debian12", "docker://dovecot-debian13"]


@pytest.mark.parametrize(("port", "family"), [(993, "ipv6"), (4190, "ipv4")])
def test_connections_of_an_address(container: str, port: int, family: str) -> None:
    with clients(container):
        check_limits(container, port, family)
