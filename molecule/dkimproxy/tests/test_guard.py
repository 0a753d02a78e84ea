# SPDX-License-Identifier: GPL-3.0-or-later
"""The ports between the mail server and the signing proxy are closed to whoever else is on the host."""

import os
import uuid

import pytest

from testbed import containers
from testbed.firewall import FIREWALL, check_needs_the_firewall, wrong_rules

testinfra_hosts = ["docker://dkimproxy-debian12", "docker://dkimproxy-debian13"]

# A connection is made or not; nothing depends on who listens there, so a listener of root's stands in for the next hop.
LISTEN = "import socket, time; s = socket.create_server(('127.0.0.1', 10028)); time.sleep(600)"
CONNECT = """
import socket, sys
try:
    socket.create_connection(('127.0.0.1', int(sys.argv[1])), timeout=3).close()
    print('open')
except OSError as error:
    print(type(error).__name__)
"""
WAIT_IN_ITS_PLACE = """
import socket
with socket.create_server(('127.0.0.1', 10027)) as listener:
    listener.settimeout(6)
    print('waiting', flush=True)
    try:
        print('caught', listener.accept()[1])
    except TimeoutError:
        print('nobody came')
"""


@pytest.fixture(autouse=True)
def next_hop(host):
    """Somebody listens where signed mail goes."""
    if "127.0.0.1:10028 " not in host.check_output("ss -Hltn"):
        host.run_test("systemd-run --unit=guard-next-hop --quiet python3 -c %s", LISTEN)
        containers.wait_for(lambda: "127.0.0.1:10028 " in host.check_output("ss -Hltn"))
    yield
    host.run("systemctl stop guard-next-hop")


@pytest.fixture
def users(host):
    """An ordinary user, and the mail server's, who is not there in this scenario."""
    for name in ("mallory", "opensmtpd"):
        if not host.user(name).exists:
            host.run_test(f"useradd --user-group {name}")
    host.run_test(f"systemctl reload {FIREWALL}")


@pytest.fixture
def nft(host):
    """The administrator's tool, which the guard itself does without."""
    host.run("command -v nft || apt-get -qq -y --no-install-recommends install nftables")


def connects(host, user: str, port: int) -> str:
    """`open`, or the error's name, of a connection that this user begins."""
    return host.check_output("runuser -u %s -- python3 -c %s %s", user, CONNECT, str(port))


def check_closed(host) -> None:
    for port in (10027, 10028):
        assert connects(host, "mallory", port) == "ConnectionRefusedError", port
    assert connects(host, "root", 10028) == "ConnectionRefusedError"


def check_open(host) -> None:
    assert connects(host, "root", 10027) == "open"
    assert connects(host, "dkimproxy", 10028) == "open"
    containers.wait_for(lambda: connects(host, "opensmtpd", 10027) == "open", what="OpenSMTPD gets through")


def test_only_the_daemons_get_through(host, users):
    check_open(host)
    check_closed(host)
    assert connects(host, "opensmtpd", 10028) == "ConnectionRefusedError"
    assert connects(host, "dkimproxy", 10027) == "ConnectionRefusedError"


@pytest.mark.parametrize("reload", ["nft flush ruleset", "systemctl restart nftables", "systemctl stop nftables"])
def test_a_reload_of_the_firewall_leaves_no_gap(host, users, nft, reload):
    host.run_test(reload)
    check_closed(host)
    check_open(host)


def test_rules_of_others_stay(host, users, nft):
    host.run_test("nft add table inet others && nft add chain inet others input")
    before = host.check_output("nft list table inet others")
    host.run_test(f"systemctl restart {FIREWALL}")
    assert host.check_output("nft list table inet others") == before
    host.run_test("nft delete table inet others")
    check_closed(host)


def test_nobody_can_take_it_away(host, users, nft):
    assert host.run("nft delete table inet selfhosted_mail").rc != 0
    host.run_test(f"systemctl kill --signal=KILL {FIREWALL}")
    containers.wait_for(lambda: connects(host, "mallory", 10028) == "ConnectionRefusedError", what="the guard is back")
    check_closed(host)


def test_nobody_waits_in_the_place_of_the_signing_proxy(host, users):
    host.run_test("systemctl stop dkimproxy")
    try:
        host.run_test(
            f"rm -f /tmp/impostor; systemd-run --unit=impostor-{uuid.uuid4().hex[:8]} --quiet --uid=mallory"
            " --property=StandardOutput=truncate:/tmp/impostor python3 -c %s",
            WAIT_IN_ITS_PLACE,
        )
        containers.wait_for(lambda: host.file("/tmp/impostor").contains("waiting"), what="the impostor waits")
        assert connects(host, "opensmtpd", 10027) == "TimeoutError"
        containers.wait_for(lambda: len(host.file("/tmp/impostor").content_string.splitlines()) == 2)
        assert "nobody came" in host.file("/tmp/impostor").content_string
    finally:
        host.run_test("systemctl start dkimproxy")
    assert connects(host, "opensmtpd", 10027) == "open"


def test_the_signing_proxy_does_not_start_without_it(host, users):
    check_needs_the_firewall(host, "dkimproxy", 10027)
    check_closed(host)


def test_wrong_rules_do_not_replace_the_right_ones(host, users):
    with wrong_rules(host):
        assert host.run(f"systemctl reload {FIREWALL}").rc != 0
        check_closed(host)
        check_open(host)
    host.run_test(f"systemctl reload {FIREWALL}")


def test_without_nftables_it_says_what_is_unprotected(host):
    """A host whose kernel or container gives no nftables looks like one without the right to it."""
    check = host.run("setpriv --bounding-set -net_admin /usr/local/lib/selfhosted-mail/nftables-rules --check")
    assert check.rc == os.EX_UNAVAILABLE
    assert "mail_firewall: false" in check.stderr
    assert "every local user can reach the ports" in check.stderr


def test_its_service_is_hardened(host):
    last = host.check_output(f"systemd-analyze security --no-pager {FIREWALL}").splitlines()[-1]
    assert float(last.split(":")[1].split()[0]) <= 2.5, last
