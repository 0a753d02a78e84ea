# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of the firewall on a testinfra host: access on loopback, occupied ports, and limits on connections."""

from __future__ import annotations

import contextlib
import json
import re
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

from testbed.containers import run, wait_for

FIREWALL = "selfhosted-mail-nftables.service"
_RULES = "/etc/selfhosted-mail/nftables/zz.nft"


@contextlib.contextmanager
def wrong_rules(host: Any) -> Iterator[None]:
    """Add a file of rules that nftables refuses; the loaded table does not change yet."""
    host.run_test(f"echo nonsense > {_RULES}")
    try:
        yield
    finally:
        host.run_test(f"rm {_RULES}")


def check_needs_the_firewall(host: Any, daemon: str, port: int) -> None:
    """Check that the daemon starts only with the firewall, and by itself once the firewall can start."""
    host.run_test(f"systemctl stop {daemon} {FIREWALL}")
    with wrong_rules(host):
        assert host.run(f"systemctl start {daemon}").rc != 0
        assert f":{port} " not in host.check_output("ss -Hltn")
    wait_for(lambda: f":{port} " in host.check_output("ss -Hltn"), what=f"{daemon} comes by itself")


# A socket belongs to the user who created or accepted it, so one process can hold those of both ends.
_CONNECTED_BEFORE = r"""
import contextlib, nftables, os, pwd, select, socket, subprocess, sys, time
firewall, port, server, client, first = sys.argv[1:]

@contextlib.contextmanager
def user(name):
    os.seteuid(pwd.getpwnam(name).pw_uid)
    yield
    os.seteuid(0)

subprocess.run(["systemctl", "stop", firewall], check=True)
# systemd releases the table a moment after that.
until = time.monotonic() + 60
while "table inet selfhosted_mail\n" in nftables.Nftables().cmd("list tables")[1] and time.monotonic() < until:
    time.sleep(0.1)
with user(server):
    listener = socket.create_server(("127.0.0.1", int(port)))
with user(client):
    ends = {"client": socket.create_connection(listener.getsockname())}
with user(server):
    ends["server"] = listener.accept()[0]
subprocess.run(["systemctl", "start", firewall], check=True)
sender, receiver = ends.pop(first), ends.popitem()[1]
sender.sendall(b"hello")
# It arrives, or the sender gets an error.
if receiver in select.select([receiver, sender], [], [], 60)[0]:
    print(receiver.recv(100).decode())
else:
    sender.settimeout(60)
    try:
        print("nothing", sender.recv(100))
    except OSError as error:
        print(type(error).__name__)
"""


def connected_before(host: Any, port: int, server: str, client: str, first: str) -> str:
    """What arrives over a connection of these users that is older than the rules: ``hello``, or the sender's error.

    The port must be free. ``first``: the end that sends, ``server`` or ``client``.
    """
    words = [FIREWALL, str(port), server, client, first]
    return str(host.check_output("python3 -c %s %s %s %s %s %s", _CONNECTED_BEFORE, *words))


# Ways to hold a port: listening, without listening, over UDP, over UDP beside a daemon that shares it, in ever new
# processes, or with a second process that waits for the port.
_HOLD = """
import os, socket, sys, time
address, port, how = sys.argv[1:]
print("trying", os.getpid(), flush=True)
if how == "waits":
    os.fork()
while True:
    kind = socket.SOCK_DGRAM if how in ("udp", "steals") else socket.SOCK_STREAM
    one = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    if how == "steals":
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        one.bind((address, int(port)))
        break
    except OSError:
        one.close()
if how not in ("binds", "udp", "steals"):
    one.listen()
print("holding", flush=True)
while how == "forks":
    if os.fork():
        os._exit(0)
time.sleep(600)
"""


def listens(host: Any, port: int, program: str) -> bool:
    """Whether this program listens on the TCP port."""
    return f'(("{program}"' in str(host.check_output(f"ss -Hltnp 'sport = :{port}'"))


def hold(host: Any, user: str, address: str, port: int, how: str = "listens", within: str = "") -> int:
    """Start a process of the user that holds the port; returns its pid. ``within``: a command prefix."""
    if not host.user(user).exists:
        host.run_test(f"useradd --user-group {user}")
    output = f"/tmp/{uuid.uuid4()}"
    words = f"{address} {port} {how} >{output} 2>&1 </dev/null"
    host.run_test(f"setsid --fork {within} runuser -u {user} -- python3 -c %s {words}", _HOLD)
    wait_for(lambda: "holding" in host.file(output).content_string, what=f"{user} has port {port}")
    return int(host.file(output).content_string.split()[1])


def end_all(host: Any, user: str) -> None:
    """End all processes of the user, also those that keep forking."""
    host.run(f"runuser -u {user} -- python3 -c 'import os; os.kill(-1, 9)'")


def check_frees_its_port(
    host: Any, unit: str, program: str, port: int, address: str = "127.0.0.1", how: str = "listens"
) -> None:
    """Check that the unit's daemon gets its port, and that the journal names the process of mallory that held it."""
    host.run_test("rm -rf /run/selfhosted-mail/free-port")
    host.run_test(f"systemctl stop {unit}")
    pid = hold(host, "mallory", address, port, how)
    try:
        host.run(f"systemctl start {unit}")
        # The limit that README promises.
        wait_for(lambda: listens(host, port, program), 60, f"{program} has port {port}")
    finally:
        end_all(host, "mallory")
    told = str(host.check_output(f"journalctl --sync; journalctl --unit {unit} --output cat --no-pager"))
    number = r"\d+" if how in ("forks", "waits") else pid
    uid = host.user("mallory").uid
    assert re.search(rf"^port {port} is held by process {number} of mallory \(uid {uid}\), \S+ \(", told, re.M), told


# Clients are addresses in a network namespace of the host itself, behind a pair of virtual Ethernet devices. So they
# have both families, and no other connections count. They reach the host at:
HOST = {"ipv4": "10.66.0.1", "ipv6": "2001:db8:66::1"}
# In IPv6, two pairs that each share a /64 network, and another address.
_CLIENTS = {
    "ipv4": ["10.66.0.2", "10.66.0.3", "10.66.0.4", "10.66.0.5", "10.66.0.6"],
    "ipv6": ["2001:db8:66:1::2", "2001:db8:66:1::3", "2001:db8:66:2::2", "2001:db8:66:2::3", "2001:db8:66:3::2"],
}
_UP = """
ip netns add clients
ip link add clients0 type veth peer name clients1 netns clients
ip address add 10.66.0.1/24 dev clients0
ip address add 2001:db8:66::1/48 dev clients0 nodad
ip link set clients0 up
ip -n clients link set clients1 up
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
def clients(container: str, addresses: Iterable[str] = (*_CLIENTS["ipv4"], *_CLIENTS["ipv6"])) -> Iterator[None]:
    """Create the clients in 10.66.0.0/24 and 2001:db8:66::/48; the firewall has counted no connection of theirs."""
    sizes = {address: "48 nodad" if ":" in address else "24" for address in addresses}
    add = [f"ip -n clients address add dev clients1 {address}/{size}" for address, size in sizes.items()]
    # The restart resets the counts of connections, and unlike a reload it has done so when it returns.
    run(container, "sh", "-euc", "\n".join([_UP, *add, f"systemctl restart {FIREWALL}"]))
    try:
        yield
    finally:
        # Unanswered connections would keep the namespace and its devices for minutes.
        run(container, "sh", "-euc", "ip link delete clients0; ip netns delete clients")


def as_client(container: str, program: str, *arguments: str) -> str:
    """Output of a Python program in the clients' network namespace."""
    return run(container, "ip", "netns", "exec", "clients", "python3", "-c", program, *arguments)


_LOOPBACK_FROM_OUTSIDE = """
mount -o remount,rw /proc/sys
echo 1 > /proc/sys/net/ipv4/conf/clients0/route_localnet
ip netns exec clients sh -c 'mount -o remount,rw /proc/sys; echo 1 > /proc/sys/net/ipv4/conf/clients1/route_localnet'
ip -n clients route add 127.0.0.1 via 10.66.0.1 dev clients1
"""


def reached_from_outside(host: Any, ports: list[int]) -> list[int]:
    """The ports on 127.0.0.1 from which a neighbour gets an answer if route_localnet is on."""
    connect = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])), 3)"
    with clients(host.backend.name):
        host.run_test("unshare --mount sh -euc %s", _LOOPBACK_FROM_OUTSIDE)
        runs = {port: host.run(f"ip netns exec clients python3 -c %s {port}", connect) for port in ports}
    return [port for port, done in runs.items() if done.rc == 0 or "ConnectionRefused" in done.stderr]


def check_limits(container: str, port: int, family: str) -> None:
    """Check the defaults: 20 open connections and 60 new ones a minute for an address, or a /64 network in IPv6."""
    seen = json.loads(as_client(container, _CLIENT, HOST[family], str(port), *_CLIENTS[family]))
    assert seen["open"] == 20, seen
    assert seen["near while full"] == (family == "ipv4"), seen
    assert seen["other while full"], seen
    assert seen["room for another"], seen
    assert 60 <= seen["new"] <= 61 + seen["seconds"], seen
    assert seen["near by then"] == 20 if family == "ipv4" else seen["near by then"] <= 2 + seen["seconds of near"], seen
    assert seen["other by then"], seen
    assert seen["again"], seen
