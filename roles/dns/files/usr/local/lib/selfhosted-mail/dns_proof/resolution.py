# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks how this host resolves names. Findings name the variable that helps."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import dns.flags
import dns.name
import dns.rcode
from dns.rdatatype import RdataType

from . import world
from .judge import Finding
from .world import OF_THE_WORLD, SILENT, Silent, asked, has_route

INTERFACES = Path("/proc/net/if_inet6")
GLOBAL = "00"  # scope in that file
INSIDE = ipaddress.ip_network("fc00::/7")
CHECK = "resolution"


def found(subject: str, status: str, text: str, fix: str = "", required: bool = False) -> Finding:
    return Finding(subject, status, required, text, fix, CHECK)


def own_name(hostname: str) -> Finding:
    """Debian's installer writes 127.0.1.1 into /etc/hosts, which programs take for the public address."""
    subject = "own name"
    try:
        addresses = {str(row[4][0]) for row in socket.getaddrinfo(hostname, None, type=socket.SOCK_STREAM)}
    except socket.gaierror as error:
        return found(subject, "unknown", f"{hostname}: {error.strerror} (mail_hostname)")
    inside = sorted(one for one in addresses if ipaddress.ip_address(one.partition("%")[0]).is_loopback)
    if not inside:
        return found(subject, "ok", f"{hostname} is {', '.join(sorted(addresses))}")
    text = f"{hostname} (mail_hostname) is {', '.join(inside)} on this host: remove the name from /etc/hosts"
    return found(subject, "warning", text, rf"sed -i '/^\(127\|::1\).*{hostname}/s/\s*\b{hostname}\b//' /etc/hosts")


def ipv6(sends: bool, interfaces: Path = INTERFACES) -> Finding:
    """With an IPv6 address but no route, mail is first tried over IPv6 and fails. ``sends``: whether IPv6 is tried."""
    subject = "IPv6"
    rows = [row.split() for row in interfaces.read_text().splitlines()] if interfaces.exists() else []
    ours = [str(ipaddress.ip_address(bytes.fromhex(row[0]))) for row in rows if row[3] == GLOBAL]
    ours = [one for one in ours if ipaddress.ip_address(one) not in INSIDE]
    if not ours or not sends:
        return found(subject, "ok", "is not used")
    if has_route(OF_THE_WORLD):
        return found(subject, "ok", f"{ours[0]} has a route")
    text = f"{ours[0]} has no route to the Internet: send only over IPv4 (opensmtpd_ip_versions)"
    return found(subject, "warning", text, "opensmtpd_ip_versions: [4]")


def root(address: str, port: int = 0, flags: int = 0) -> str:
    """Empty if a resolver knows the root name servers, else what it does instead."""
    try:
        response = asked(dns.name.root, RdataType.NS, address, port, recursive=True, flags=flags)
    except Silent as error:
        return str(error)
    if response.rcode() == dns.rcode.NOERROR and response.answer:
        return ""
    return f"answers {dns.rcode.to_text(response.rcode())}"


def port_53(resolver: list[Any]) -> list[Finding]:
    """``resolver``: address and port of Rspamd's resolver; empty if it is the host's own."""
    try:
        servers = [str(one) for one in world.system_resolver().nameservers]
        answers = {server: root(server) for server in servers}
    except Silent as error:
        servers, answers = [], {"/etc/resolv.conf": str(error)}
    working = [server for server, wrong in answers.items() if not wrong]
    if working:
        host = found("host", "ok", f"answered by {', '.join(working)}", required=True)
    else:
        text = "; ".join(f"{server} {wrong}" for server, wrong in answers.items()) + " (/etc/resolv.conf)"
        status = "unknown" if all(SILENT in wrong for wrong in answers.values()) else "error"
        host = found("host", status, text, "editor /etc/resolv.conf", required=True)
    if not resolver:
        return [host]
    address, port = resolver
    wrong = root(address, port)
    if not wrong:
        return [host, found("Rspamd", "ok", f"answered by {address} port {port}", required=True)]
    text = f"{address} port {port} {wrong}, so inbound mail waits"
    if not working:
        return [host, found("Rspamd", "unknown", text, required=True)]
    if not root(address, port, dns.flags.CD):
        text += ": DNSSEC validation fails. Is the clock right?"
        return [host, found("Rspamd", "error", text, "timedatectl", required=True)]
    text += f": port 53 is closed to all but {working[0]}. Set rspamd_resolver_forwarders, or rspamd_resolver: none"
    fix = f"rspamd_resolver_forwarders: [{working[0]}]"
    return [host, found("Rspamd", "unknown" if SILENT in wrong else "error", text, fix, required=True)]


def look(hostname: str, resolver: list[Any], sending: Iterable[str]) -> list[Finding]:
    """All findings. ``sending``: the addresses that mail is sent from."""
    return [own_name(hostname), ipv6(any(":" in address for address in sending)), *port_53(resolver)]
