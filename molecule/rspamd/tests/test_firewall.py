# SPDX-License-Identifier: GPL-3.0-or-later
"""Rspamd's loopback ports: permitted clients, servers, and occupied ports."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from rspamd_host import message, scan, wait_for

from testbed import containers
from testbed.firewall import (
    FIREWALL,
    check_frees_its_port,
    check_needs_the_firewall,
    connected_before,
    reached_from_outside,
)

testinfra_hosts = ["docker://rspamd-debian12", "docker://rspamd-debian13"]
pytestmark = pytest.mark.disruptive
RESOLVER = "selfhosted-mail-resolver"
CONNECT = """
import socket, sys
try:
    socket.create_connection(('127.0.0.1', int(sys.argv[1])), timeout=3).close()
    print('open')
except OSError as error:
    print(type(error).__name__)
"""
# A query over UDP and its answer, between sockets of two users: which packets arrive. No rule concerns "free".
DATAGRAMS = """
import contextlib, json, os, pwd, socket, sys
port, server, client = sys.argv[1:]

def made_by(name):
    os.seteuid(pwd.getpwnam(name).pw_uid)
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    os.seteuid(0)
    return one

def passes(sender, receiver):
    with contextlib.suppress(OSError):
        sender.sendto(b'hello', receiver.getsockname())
    receiver.settimeout(1)
    try:
        return receiver.recv(100) == b'hello'
    except TimeoutError:
        return False

at, asker = made_by(server), made_by(client)
at.bind(('127.0.0.1', int(port)))
asker.bind(('127.0.0.1', 0))
print(json.dumps([passes(asker, at), passes(at, asker)]))
"""


@pytest.fixture(autouse=True)
def users(host: Any) -> None:
    """An ordinary user, and the users of OpenSMTPD's filters, which this scenario lacks."""
    for name in ("mallory", "opensmtpd", "mailfilter"):
        if not host.user(name).exists:
            host.run_test(f"useradd --user-group {name}")
    host.run_test(f"systemctl reload {FIREWALL}")


@pytest.fixture
def stopped(host: Any) -> Iterator[None]:
    """The ports are free."""
    host.run_test(f"systemctl stop rspamd {RESOLVER}")
    yield
    host.run_test("systemctl start rspamd")


def connects(host: Any, user: str, port: int) -> str:
    """`open`, or the error's name."""
    return str(host.check_output("runuser -u %s -- python3 -c %s %s", user, CONNECT, str(port)))


@pytest.mark.parametrize("port", [11333, 5335])
def test_who_asks(host: Any, port: int) -> None:
    filters = "open" if port == 11333 else "ConnectionRefusedError"
    asked = {user: connects(host, user, port) for user in ("root", "_rspamd", "mailfilter", "opensmtpd")}
    assert asked == {"root": "open", "_rspamd": "open", "mailfilter": filters, "opensmtpd": filters}
    for user in ("mallory", "nobody", "redis"):
        assert connects(host, user, port) == "ConnectionRefusedError", user


def test_the_web_interface_asks_for_its_password(host: Any) -> None:
    """A tunnel's connection has the user who logged in, or root."""
    assert connects(host, "mallory", 11334) == "open"


@pytest.mark.usefixtures("stopped")
@pytest.mark.parametrize(
    ("server", "client", "passes"),
    [
        ("unbound", "_rspamd", [True, True]),
        ("unbound", "root", [True, True]),
        ("unbound", "mallory", [False, True]),
        ("mallory", "_rspamd", [True, False]),
    ],
)
def test_names_are_looked_up_with_the_resolver_alone(host: Any, server: str, client: str, passes: list[bool]) -> None:
    assert json.loads(host.check_output("python3 -c %s 5335 %s %s", DATAGRAMS, server, client)) == passes
    # Where there is no rule everything arrives.
    assert json.loads(host.check_output("python3 -c %s 5336 %s %s", DATAGRAMS, server, client)) == [True, True]


@pytest.mark.usefixtures("stopped")
@pytest.mark.parametrize(("port", "owner"), [(11333, "_rspamd"), (11334, "_rspamd"), (5335, "unbound")])
def test_a_connection_older_than_the_rules_carries_nothing(host: Any, port: int, owner: str) -> None:
    assert connected_before(host, port, "mallory", "root", "server") == "ConnectionResetError"
    assert connected_before(host, port, owner, "root", "server") == "hello"
    if port != 11334:
        assert connected_before(host, port, owner, "mallory", "client") == "ConnectionResetError"
    assert connected_before(host, port, owner, "_rspamd", "client") == "hello"


@pytest.mark.usefixtures("stopped")
def test_nobody_answers_in_their_place(host: Any) -> None:
    listen = "import socket, time; s = [socket.create_server(('127.0.0.1', p)) for p in (5335, 11333, 11334)]"
    host.run_test("systemd-run --unit=impostor --quiet --uid=mallory python3 -c %s", f"{listen}; time.sleep(600)")
    try:
        containers.wait_for(lambda: ":11334 " in host.check_output("ss -Hltn"))
        for port in (5335, 11333, 11334):
            assert connects(host, "root", port) == "TimeoutError", port
    finally:
        host.run_test("systemctl stop impostor")


def test_loopback_is_closed_from_outside(host: Any) -> None:
    # Ports without a rule are answered, even if only by a reset.
    assert reached_from_outside(host, [5335, 11333, 11334, 11335]) == [11335]


def test_rspamd_does_not_start_without_the_rules(host: Any) -> None:
    check_needs_the_firewall(host, "rspamd", 11333)
    wait_for(host, "systemctl is-active rspamd")


@pytest.mark.parametrize("port", [11333, 11334])
def test_who_holds_rspamds_port_is_named_and_ended(host: Any, port: int) -> None:
    check_frees_its_port(host, "rspamd", "rspamd", port)
    wait_for(host, "systemctl is-active rspamd")
    assert scan(host, message())["action"] == "no action"


@pytest.mark.parametrize("how", ["listens", "udp", "steals"])
def test_who_holds_the_resolvers_port_is_named_and_ended(host: Any, how: str) -> None:
    check_frees_its_port(host, RESOLVER, "unbound", 5335, how=how)
    assert scan(host, message())["symbols"]["R_SPF_ALLOW"]
