# SPDX-License-Identifier: GPL-3.0-or-later
"""Receivers that refuse IPv6 addresses without a reverse name; a server that sends only over IPv4."""

import pytest

from testbed import containers, dns, provider, smtp

testinfra_hosts = ["docker://opensmtpd-debian12", "docker://opensmtpd-debian13"]
MX = "opensmtpd-mx"
NET = "2001:db8:28::"
REFUSES = """
import socket
with socket.create_server(("::", 25), family=socket.AF_INET6) as server:
    while True:
        connection, _peer = server.accept()
        with connection, connection.makefile("rwb", 0) as stream:
            stream.write(b"220 mx\\r\\n")
            for line in stream:
                refused = line.upper().startswith(b"MAIL")
                stream.write(b"550 5.7.25 no PTR record\\r\\n" if refused else b"250 mx\\r\\n")
"""


@pytest.fixture
def over_ipv6(host, container):
    """The better MX of six.test is reached over IPv6 alone, the other one over IPv4."""
    own = f"{NET}{container[-2:]}/64"
    containers.run(MX, "sh", "-c", f"ip address add {NET}28/64 dev eth0 nodad 2>/dev/null || true")
    host.run_test(f"ip address add {own} dev eth0 nodad")
    containers.run(MX, "systemd-run", "--quiet", "--unit=refuses", "python3", "-c", REFUSES)
    containers.wait_for(lambda: containers.run(MX, "ss", "-6Hltn", "sport = :25"), what="who refuses listens")
    dns.publish("six.test", f"@ MX 10 six\n@ MX 20 four\nsix AAAA {NET}28\nfour A {containers.address(MX)}\n")
    yield
    containers.run(MX, "systemctl", "stop", "refuses")
    host.run_test(f"ip address delete {own} dev eth0")


@pytest.mark.alone
@pytest.mark.usefixtures("over_ipv6")
def test_over_which_one_it_sends(host, container, address):
    """opensmtpd_ip_versions is [4] on the first server."""
    begun = host.check_output("date +%s.%N")
    message = smtp.compose("stranger@world.test", ["six@our.test"])
    smtp.deliver(address, "stranger@world.test", ["six@our.test"], message)
    if container.endswith("12"):
        assert provider.wait_kept(MX, message["Message-ID"]).client_address == address
        return
    refused = 'stat="550 5.7.25 no PTR record"'
    containers.wait_for(lambda: refused in containers.journal(container, "--unit=opensmtpd", f"--since=@{begun}"))


def test_every_address_that_sends_needs_a_reverse_name(host, container):
    wanted = host.file("/etc/selfhosted-mail/records.d/opensmtpd").content_string
    assert (
        f"{'.'.join(reversed(containers.address(container).split('.')))}.in-addr.arpa. 3600 IN PTR mail.our.test.\n"
        in wanted
    )
