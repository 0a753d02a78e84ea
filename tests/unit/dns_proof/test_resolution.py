# SPDX-License-Identifier: GPL-3.0-or-later
"""Which part of a host's name resolution is broken, and the variable that helps."""

from __future__ import annotations

import socket
from pathlib import Path

import dns.rcode
import pytest
from dns_proof import resolution
from dns_proof.world import World
from name_server import ADDRESS, NameServer

ROOT = ". NS ns.example."
# Loopback, an address that is private, one of the world's.
ROWS = """00000000000000000000000000000001 01 80 10 80 lo
fe800000000000000042c0fffea80001 02 40 20 80 eth0
fd000000000000000000000000000001 02 40 00 80 eth0
"""
PUBLIC = "20010db8000000000000000000000007 02 40 00 80 eth0\n"


def test_names_that_lead_to_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Debian's installer writes them."""
    rows = {"mail.example.org": "127.0.1.1", "six.example.org": "::1", "right.example.org": "198.51.100.7"}
    monkeypatch.setattr(socket, "getaddrinfo", lambda name, *_a, **_o: [(0, 0, 0, "", (rows[name], 0))])
    one = resolution.own_name("mail.example.org")
    assert (one.status, one.required) == ("warning", False)
    assert "127.0.1.1" in one.text and "mail_hostname" in one.text and "/etc/hosts" in one.fix
    assert resolution.own_name("six.example.org").status == "warning"
    assert resolution.own_name("right.example.org").status == "ok"


def test_what_cannot_be_resolved_is_unknown() -> None:
    one = resolution.own_name("mail.invalid")
    assert one.status in ("unknown",) and "mail.invalid" in one.text


@pytest.mark.parametrize(
    ("rows", "route", "status"),
    [(ROWS + PUBLIC, False, "warning"), (ROWS + PUBLIC, True, "ok"), (ROWS, False, "ok"), (None, False, "ok")],
)
def test_an_address_without_a_route(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: str | None, route: bool, status: str
) -> None:
    monkeypatch.setattr(resolution, "has_route", lambda _address: route)
    if rows is not None:
        (tmp_path / "if_inet6").write_text(rows)
    one = resolution.ipv6(True, tmp_path / "if_inet6")
    assert resolution.ipv6(False, tmp_path / "if_inet6").status == "ok", "nobody sends over IPv6"
    assert one.status == status
    assert (one.fix == "opensmtpd_ip_versions: [4]") is (status == "warning")


@pytest.fixture
def other(server: NameServer, world: World) -> NameServer:
    """Rspamd's resolver; the host's is ``server``."""
    server.has(ROOT)
    found = NameServer(address="127.0.0.3")
    found.has(ROOT)
    return found


def statuses(other: NameServer) -> dict[str, tuple[str, str]]:
    found = resolution.port_53(["127.0.0.3", other.port])
    return {one.subject: (one.status, one.fix) for one in found}


def test_all_answer(other: NameServer) -> None:
    assert statuses(other) == {"host": ("ok", ""), "Rspamd": ("ok", "")}
    assert [one.subject for one in resolution.port_53([])] == ["host"]


@pytest.mark.usefixtures("impatient")
def test_no_way_out_but_to_the_providers_resolver(other: NameServer) -> None:
    """Unbound says so, or is still trying."""
    fix = f"rspamd_resolver_forwarders: [{ADDRESS}]"
    other.rcode = dns.rcode.SERVFAIL
    assert statuses(other) == {"host": ("ok", ""), "Rspamd": ("error", fix)}
    [_host, one] = resolution.port_53(["127.0.0.3", other.port])
    assert one.required and "port 53 is closed to all but" in one.text and "rspamd_resolver: none" in one.text
    other.silent = True
    assert statuses(other) == {"host": ("ok", ""), "Rspamd": ("unknown", fix)}


def test_a_wrong_clock_is_no_closed_port(other: NameServer) -> None:
    """Without a look at signatures there is an answer."""
    other.validates = True
    assert statuses(other) == {"host": ("ok", ""), "Rspamd": ("error", "timedatectl")}


@pytest.mark.usefixtures("impatient")
def test_the_hosts_resolver(server: NameServer, other: NameServer) -> None:
    fix = "editor /etc/resolv.conf"
    server.rcode = other.rcode = dns.rcode.SERVFAIL
    assert statuses(other) == {"host": ("error", fix), "Rspamd": ("unknown", "")}
    server.silent = True
    assert statuses(other) == {"host": ("unknown", fix), "Rspamd": ("unknown", "")}
