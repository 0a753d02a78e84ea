# SPDX-License-Identifier: GPL-3.0-or-later
"""The firewall on a host of testinfra's: who gets through on loopback, and limits on connections from outside."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from testbed.containers import wait_for

FIREWALL = "selfhosted-mail-nftables.service"
_RULES = "/etc/selfhosted-mail/nftables/zz.nft"


@contextlib.contextmanager
def wrong_rules(host: Any) -> Iterator[None]:
    """Rules that nftables refuses lie beside the right ones; the table that is there is not made of them yet."""
    host.run_test(f"echo nonsense > {_RULES}")
    try:
        yield
    finally:
        host.run_test(f"rm {_RULES}")


def check_needs_the_firewall(host: Any, daemon: str, port: int) -> None:
    """The daemon does not listen on the port while the firewall cannot come up, and does by itself once it can."""
    host.run_test(f"systemctl stop {daemon} {FIREWALL}")
    with wrong_rules(host):
        assert host.run(f"systemctl start {daemon}").rc != 0
        assert f":{port} " not in host.check_output("ss -Hltn")
    wait_for(lambda: f":{port} " in host.check_output("ss -Hltn"), what=f"{daemon} comes by itself")


# Clients are addresses in a network namespace of the host itself, behind a pair of virtual Ethernet devices. So they
# have both families, and nobody else's connections count.
_HOST = {"ipv4": "10.66.0.1", "ipv6": "2001:db8:66::1"}
# Two pairs that have a /64 in common each, in IPv6, and another.
_CLIENTS = {
    "ipv4": ["10.66.0.2", "10.66.0.3", "10.66.0.4", "10.66.0.5", "10.66.0.6"],
    "ipv6": ["2001:db8:66:1::2", "2001:db8:66:1::3", "2001:db8:66:2::2", "2001:db8:66:2::3", "2001:db8:66:3::2"],
}
_UP = """
ip netns add clients
ip link add limits0 type veth peer name limits1 netns clients
ip address add 10.66.0.1/24 dev limits0
ip address add 2001:db8:66::1/48 dev limits0 nodad
ip link set limits0 up
ip -n clients link set limits1 up
"""
_CLIENT = r"""
import json, socket, ssl, struct, sys, time
host, port, *addresses = sys.argv[1:]
one, near_one, two, near_two, other = addresses
tls = ssl._create_unverified_context()

def connect(source):
    # Greeted, so that none waits for its turn. None: refused.
    try:
        connection = socket.create_connection((host, int(port)), 60, source_address=(source, 0))
    except ConnectionRefusedError:
        return None
    if port in ("465", "993"):
        return tls.wrap_socket(connection)
    connection.recv(1)
    return connection

def end(connection):
    # With a reset, after which nothing counts as open any more.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()

def gets_in(source):
    connection = connect(source)
    if connection is not None:
        end(connection)
    return connection is not None

def gets_in_again(source):
    until = time.monotonic() + 60
    while not (got := gets_in(source)) and time.monotonic() < until:
        time.sleep(0.2)
    return got

seen = {}
held = []
while len(held) < 50 and (connection := connect(one)) is not None:
    held.append(connection)
seen["open"] = len(held)
seen["near while full"], seen["other while full"] = gets_in(near_one), gets_in(other)
held.pop().close()
seen["room for another"] = gets_in_again(one)
for connection in held:
    end(connection)
begun = time.monotonic()
seen["new"] = 0
while seen["new"] < 300 and gets_in(two):
    seen["new"] += 1
seen["seconds"] = time.monotonic() - begun
# Each second one more is free.
begun = time.monotonic()
seen["near by then"] = sum(gets_in(near_two) for _try in range(20))
seen["seconds of near"] = time.monotonic() - begun
seen["other by then"] = gets_in(other)
seen["again"] = gets_in_again(two)
print(json.dumps(seen))
"""


@contextlib.contextmanager
def clients(host: Any) -> Iterator[None]:
    """They are there, and none of them has tried anything."""
    add = "ip -n clients address add"
    addresses = [f"{add} {address}/24 dev limits1" for address in _CLIENTS["ipv4"]]
    addresses += [f"{add} {address}/48 dev limits1 nodad" for address in _CLIENTS["ipv6"]]
    host.run_test("sh -euc %s", "\n".join([_UP, *addresses]))
    # What they did a moment ago is forgotten.
    host.run_test(f"systemctl reload {FIREWALL}")
    try:
        yield
    finally:
        # The pair of devices goes with it.
        host.run_test("ip netns delete clients")


def check_limits(host: Any, port: int, family: str) -> None:
    """As shipped: 20 connections at once and 60 new ones in a minute from one address, or one /64 network in IPv6."""
    words = ["ip", "netns", "exec", "clients", "python3", "-c", _CLIENT, _HOST[family], str(port), *_CLIENTS[family]]
    seen = json.loads(host.check_output(" ".join(["%s"] * len(words)), *words))
    assert seen["open"] == 20, seen
    assert seen["near while full"] == (family == "ipv4"), seen
    assert seen["other while full"], seen
    assert seen["room for another"], seen
    assert 60 <= seen["new"] <= 61 + seen["seconds"], seen
    assert seen["near by then"] == 20 if family == "ipv4" else seen["near by then"] <= 2 + seen["seconds of near"], seen
    assert seen["other by then"], seen
    assert seen["again"], seen
