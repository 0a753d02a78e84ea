# SPDX-License-Identifier: GPL-3.0-or-later
"""Submission is not open to floods and to guessing at full speed."""

import pytest

from testbed.firewall import check_limits, clients

testinfra_hosts = ["docker://opensmtpd-debian12", "docker://opensmtpd-debian13"]


@pytest.mark.parametrize(("port", "family"), [(465, "ipv6"), (587, "ipv4")])
def test_connections_of_an_address(host, port, family):
    with clients(host):
        check_limits(host, port, family)
