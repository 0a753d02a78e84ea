# SPDX-License-Identifier: GPL-3.0-or-later
"""Other users of the host cannot use the ports between the mail server and the signing proxy."""

import os
import uuid

import pytest

from testbed import containers
from testbed.firewall import (
    FIREWALL,
    check_frees_its_port,
    check_needs_the_firewall,
    connected_before,
    end_all,
    hold,
    listens,
    reached_from_outside,
    wrong_rules,
)

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
import os, socket
with socket.create_server(('127.0.0.1', 10027)) as listener:
    listener.settimeout(0.2)
    print('waiting', flush=True)
    while not os.path.exists('/tmp/enough'):
        try:
            print('caught', listener.accept()[1])
            break
        except TimeoutError:
            pass
    else:
        print('nobody came')
"""
# Somebody else's SYN+ACK does not get through, but two SYNs that cross open a connection as well. A listener keeps who
# has called first in mind, where a connection of one's own to the same address is impossible then. With no more room
# than that it answers the next one with a SYN cookie, and keeps nothing.
CROSS = r"""
import re, socket, time
def bound():
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.bind(('127.0.0.1', 10027))
    return one
listener, second = bound(), bound()
listener.listen(0)
second.settimeout(6)
print('waiting', flush=True)
# Local ports of sockets that have sent a SYN (state 02) to port 10027, in /proc/net/tcp.
callers = r'0100007F:(\w{4}) 0100007F:%04X 02 ' % 10027
until = time.monotonic() + 60
while time.monotonic() < until:
    for caller in re.findall(callers, open('/proc/net/tcp').read()):
        try:
            second.connect(('127.0.0.1', int(caller, 16)))
            second.sendall(b'220 caught')
            print('caught', second.recv(100), flush=True)
        except TimeoutError:
            print('nobody came', flush=True)
        except OSError:
            continue
        time.sleep(60)
    time.sleep(0.01)
"""
TRY_ON_AND_ON = """
import os, socket
tries = opened = 0
while not os.path.exists('/tmp/enough'):
    with socket.socket() as one:
        opened += one.connect_ex(('127.0.0.1', 10028)) == 0
    tries += 1
    if tries == 1:
        print('begun', flush=True)
print(tries > 100, opened)
"""


@pytest.fixture(autouse=True)
def next_hop(host):
    """A listener on the port for signed mail."""
    if "127.0.0.1:10028 " not in host.check_output("ss -Hltn"):
        host.run_test("systemd-run --unit=guard-next-hop --quiet python3 -c %s", LISTEN)
        containers.wait_for(lambda: "127.0.0.1:10028 " in host.check_output("ss -Hltn"))
    yield
    host.run("systemctl stop guard-next-hop")


@pytest.fixture
def users(host):
    """An ordinary user, and OpenSMTPD's user, which this scenario lacks."""
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
    before = main_pid(host, FIREWALL)
    host.run_test(f"systemctl kill --signal=KILL {FIREWALL}")
    check_closed(host)
    containers.wait_for(lambda: main_pid(host, FIREWALL) not in ("0", before), what="the guard is back")
    containers.wait_for(lambda: host.service(FIREWALL).is_running, what="the guard is ready")
    check_closed(host)


def main_pid(host, unit: str) -> str:
    return host.check_output(f"systemctl show -P MainPID {unit}")


def as_mallory(host, program: str, output: str) -> None:
    """Start a program as the user mallory; its output is in the file."""
    host.run_test(
        f"rm -f {output}; systemd-run --collect --unit=impostor-{uuid.uuid4().hex[:8]} --quiet --uid=mallory"
        f" --property=StandardOutput=truncate:{output} python3 -c %s",
        program,
    )


@pytest.mark.parametrize(
    "commands",
    [
        [f"systemctl restart {FIREWALL}"],
        [f"systemctl reload {FIREWALL}"],
        # It is started again at once.
        [f"systemctl kill --signal=KILL {FIREWALL}", f"systemctl restart {FIREWALL}"],
        ["systemctl daemon-reexec"],
    ],
    ids=["restart", "reload", "kill", "systemd"],
)
def test_its_own_restart_leaves_no_gap(host, users, commands):
    host.run_test("rm -f /tmp/enough")
    as_mallory(host, TRY_ON_AND_ON, "/tmp/tries")
    containers.wait_for(lambda: host.file("/tmp/tries").contains("begun"))
    for command in commands * 5:
        host.run_test(command)
    host.run_test("touch /tmp/enough")
    containers.wait_for(lambda: len(host.file("/tmp/tries").content_string.splitlines()) == 2)
    assert host.file("/tmp/tries").content_string.splitlines()[1] == "True 0"
    check_closed(host)
    check_open(host)


def test_a_connection_older_than_the_rules_carries_nothing(host, users):
    # Any next hop of the tests that is running.
    host.run("systemctl stop guard-next-hop next-hop")
    host.run_test("systemctl stop dkimproxy")
    try:
        assert connected_before(host, 10028, "root", "mallory", "client") == "ConnectionResetError"
        assert connected_before(host, 10028, "root", "dkimproxy", "client") == "hello"
        assert connected_before(host, 10027, "dkimproxy", "mallory", "client") == "ConnectionResetError"
        assert connected_before(host, 10027, "dkimproxy", "opensmtpd", "client") == "hello"
        # The greeting of the process that waits to replace it.
        assert connected_before(host, 10027, "mallory", "opensmtpd", "server") == "ConnectionResetError"
        assert connected_before(host, 10027, "dkimproxy", "opensmtpd", "server") == "hello"
    finally:
        host.run_test("systemctl start dkimproxy")


def test_loopback_is_closed_from_outside(host):
    # Ports without a rule are answered, even if only by a reset.
    assert reached_from_outside(host, [10027, 10028, 10029]) == [10029]


@pytest.mark.parametrize("program", [WAIT_IN_ITS_PLACE, CROSS], ids=["listens", "crossing SYNs"])
def test_nobody_waits_in_the_place_of_the_signing_proxy(host, users, program):
    host.run_test("systemctl stop dkimproxy; rm -f /tmp/enough")
    try:
        as_mallory(host, program, "/tmp/impostor")
        containers.wait_for(lambda: host.file("/tmp/impostor").contains("waiting"), what="the impostor waits")
        host.run_test("setsid --fork runuser -u opensmtpd -- python3 -c %s 10027 >/dev/null 2>&1 </dev/null", CONNECT)
        assert connects(host, "opensmtpd", 10027) == "TimeoutError"
        host.run_test("touch /tmp/enough")
        containers.wait_for(lambda: len(host.file("/tmp/impostor").content_string.splitlines()) == 2)
        assert "nobody came" in host.file("/tmp/impostor").content_string
    finally:
        end_all(host, "mallory")
        host.run_test("systemctl start dkimproxy")
    assert connects(host, "opensmtpd", 10027) == "open"


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::"])
def test_who_holds_its_port_is_named_and_ended(host, users, address):
    check_frees_its_port(host, "dkimproxy", "dkimproxy.out", 10027, address)


@pytest.mark.parametrize("how", ["binds", "forks", "waits"])
def test_nothing_keeps_its_port(host, users, how):
    check_frees_its_port(host, "dkimproxy", "dkimproxy.out", 10027, how=how)


def test_who_holds_its_port_again_loses_all_processes(host, users):
    host.run_test("rm -rf /run/selfhosted-mail/free-port; ip netns add elsewhere")
    try:
        # None of these blocks the port.
        others = [
            hold(host, "mallory", "127.0.0.2", 10027),
            hold(host, "mallory", "127.0.0.1", 10027, "udp"),
            hold(host, "mallory", "0.0.0.0", 10027, within="ip netns exec elsewhere"),
        ]
        for left in (others, []):
            host.run_test("systemctl stop dkimproxy")
            hold(host, "mallory", "127.0.0.1", 10027)
            host.run_test("systemctl start dkimproxy")
            assert listens(host, 10027, "dkimproxy.out")
            containers.wait_for(
                lambda left=left: [pid for pid in others if host.run(f"kill -0 {pid}").rc == 0] == left,
                what=f"{left} are left",
            )
    finally:
        end_all(host, "mallory")
        host.run_test("ip netns delete elsewhere")


def test_a_process_of_roots_is_not_ended(host, users):
    host.run_test("systemctl stop dkimproxy")
    pid = hold(host, "root", "127.0.0.1", 10027)
    try:
        assert host.run("systemctl start dkimproxy").rc != 0
    finally:
        host.run_test(f"kill {pid}")
    containers.wait_for(lambda: listens(host, 10027, "dkimproxy.out"), what="the daemon comes by itself")


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
    """Simulates a kernel or container without nftables by removing the permission to use it."""
    check = host.run("setpriv --bounding-set -net_admin /usr/local/lib/selfhosted-mail/nftables-rules --check")
    assert check.rc == os.EX_UNAVAILABLE
    assert "mail_firewall: false" in check.stderr
    assert "every local user can reach the ports" in check.stderr


def test_its_service_is_hardened(host):
    last = host.check_output(f"systemd-analyze security --no-pager {FIREWALL}").splitlines()[-1]
    assert float(last.split(":")[1].split()[0]) <= 2.5, last
