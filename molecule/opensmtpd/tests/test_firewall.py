# SPDX-License-Identifier: GPL-3.0-or-later
"""OpenSMTPD's loopback ports: older connections, connections from outside, and occupied ports."""

import pytest

from testbed import containers
from testbed.firewall import check_frees_its_port, connected_before, reached_from_outside

testinfra_hosts = ["docker://opensmtpd-debian12", "docker://opensmtpd-debian13"]


@pytest.fixture
def stopped(host):
    host.run_test("id mallory 2>/dev/null || useradd --user-group mallory")
    host.run_test("systemctl stop opensmtpd")
    # systemd of a container does not wait for the processes that it has killed.
    containers.wait_for(lambda: host.run("pgrep -x smtpd").rc, what="OpenSMTPD's processes have ended")
    yield
    host.run_test("systemctl start opensmtpd")


@pytest.mark.usefixtures("stopped")
@pytest.mark.parametrize(
    ("port", "server", "client", "first", "carried"),
    [
        # OpenSMTPD's first process listens, and one that is no longer root accepts.
        (10025, "opensmtpd", "mallory", "client", "hello"),
        (10025, "opensmtpd", "mallory", "server", "hello"),
        (10025, "mallory", "root", "server", "ConnectionResetError"),
        (10026, "opensmtpd", "vmail", "client", "hello"),
        (10026, "opensmtpd", "vmail", "server", "hello"),
        (10026, "opensmtpd", "mallory", "client", "ConnectionResetError"),
        (10026, "mallory", "vmail", "server", "ConnectionResetError"),
        (10028, "opensmtpd", "dkimproxy", "client", "hello"),
        (10028, "opensmtpd", "dkimproxy", "server", "hello"),
        (10028, "opensmtpd", "mallory", "client", "ConnectionResetError"),
        (10028, "mallory", "dkimproxy", "server", "ConnectionResetError"),
        (25, "root", "root", "client", "hello"),
        (25, "root", "mallory", "client", "ConnectionResetError"),
    ],
)
def test_a_connection_older_than_the_rules(host, port, server, client, first, carried):
    assert connected_before(host, port, server, client, first) == carried


def test_loopback_is_closed_from_outside(host):
    # Ports without a rule are answered, even if only by a reset.
    assert reached_from_outside(host, [10025, 10026, 10028, 10029]) == [10029]


@pytest.mark.parametrize("port", [10025, 10026, 10028])
def test_who_holds_its_port_is_named_and_ended(host, port):
    check_frees_its_port(host, "opensmtpd", "smtpd", port)
