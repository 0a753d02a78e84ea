# SPDX-License-Identifier: GPL-3.0-or-later
"""Queries to the name servers of a zone, and to the host's own resolver."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdata
import dns.resolver
from dns.rdatatype import RdataType

from .wanted import text_of, zone_of

PORT = 53
TRIES, PATIENCE = 3, 2.0  # seconds for each try
SERVERS = 8  # addresses asked for one zone
CHAIN = 8  # CNAMEs followed with further queries
PAYLOAD = 1232  # octets that fit into one packet on all paths
SILENT = "does not answer"
OF_THE_WORLD = "2001:500:2::c"  # a root server; nothing is sent to it


class Silent(Exception):
    """There is no answer. ``str()``: the reason."""


@dataclass(frozen=True)
class Said:
    """``records``: a server's answer; None if it gives none, for the reason in ``why``."""

    server: str
    records: tuple[dns.rdata.Rdata, ...] | None
    why: str = ""


def has_route(address: str) -> bool:
    """Whether the kernel has a route to an IPv6 address."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 53))
    except OSError:
        return False
    return True


def system_resolver() -> dns.resolver.Resolver:
    """The resolver of /etc/resolv.conf. Raises Silent if there is none."""
    try:
        found = dns.resolver.Resolver()
    except dns.exception.DNSException as error:
        raise Silent(f"/etc/resolv.conf: {error}") from None
    found.lifetime = TRIES * PATIENCE
    found.use_edns(0, 0, PAYLOAD)
    # Otherwise dnspython would also try the domains of "search".
    found.search = []
    return found


def asked(
    name: dns.name.Name, kind: RdataType, address: str, port: int = 0, recursive: bool = False, flags: int = 0
) -> dns.message.QueryMessage:
    """Query a server, by default on PORT, and return its response. Raises Silent."""
    query = dns.message.make_query(name, kind, use_edns=0, payload=PAYLOAD)
    query.flags = (query.flags | flags) if recursive else (query.flags & ~dns.flags.RD)
    why = ""
    for _number in range(TRIES):
        try:
            response, _tcp = dns.query.udp_with_fallback(
                query, address, timeout=PATIENCE, port=port or PORT, ignore_unexpected=True
            )
        except dns.exception.Timeout:
            why = SILENT
        except (OSError, dns.exception.DNSException, EOFError) as error:
            why = f"cannot be asked: {error}"
        else:
            return cast(dns.message.QueryMessage, response)
    raise Silent(why)


class World:
    """``zones``: ours; ``nameservers``: asked for these zones instead of the authoritative ones, if there are any."""

    def __init__(self, zones: Iterable[str], nameservers: Iterable[str] = ()) -> None:
        self.zones, self.nameservers = list(zones), list(nameservers)
        self.resolver = system_resolver()
        self.ipv6 = has_route(OF_THE_WORLD)
        self.found: dict[dns.name.Name, list[tuple[str, str]]] = {}
        self.silent: dict[str, str] = {}

    def ask(self, name: dns.name.Name, kind: RdataType, depth: int = 0) -> list[Said]:
        """Answers of each server of the zone for a name, after following its CNAMEs."""
        own = bool(self.nameservers and zone_of(name, self.zones))
        try:
            servers = [(one, one) for one in self.nameservers] if own else self.servers(name)
        except Silent as error:
            return [Said("the host's resolver", None, str(error))]
        said: list[Said] = []
        for server, address in servers:
            said += self.server_says(server, address, name, kind, own, depth)
        return said

    def server_says(
        self, server: str, address: str, name: dns.name.Name, kind: RdataType, recursive: bool, depth: int
    ) -> list[Said]:
        if address in self.silent:
            return [Said(server, None, self.silent[address])]
        try:
            response = asked(name, kind, address, recursive=recursive)
        except Silent as error:
            self.silent[address] = str(error)
            return [Said(server, None, str(error))]
        if response.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            return [Said(server, None, f"answers {dns.rcode.to_text(response.rcode())}")]
        if not recursive and not response.flags & dns.flags.AA:
            return [Said(server, None, "is not a name server of that zone")]
        try:
            chain = response.resolve_chaining()
        except dns.exception.DNSException as error:
            return [Said(server, None, f"sent an unreadable answer: {error}")]
        if chain.answer is None and chain.canonical_name != name and depth < CHAIN:
            return self.ask(chain.canonical_name, kind, depth + 1)
        return [Said(server, tuple(chain.answer or ()))]

    def servers(self, name: dns.name.Name) -> list[tuple[str, str]]:
        """Name and address of each authoritative server of a name's zone. Raises Silent."""
        try:
            # RFC 1034 section 4.2.1: a zone begins at a name with a SOA record.
            zone = dns.resolver.zone_for_name(name, resolver=self.resolver)
            if zone not in self.found:
                names = [record.target for record in self.resolver.resolve(zone, RdataType.NS)]
                self.found[zone] = [pair for one in names for pair in self.addresses_of(one)][:SERVERS]
        except dns.exception.DNSException as error:
            raise Silent(f"did not find the name servers: {error}") from None
        if not self.found[zone]:
            raise Silent(f"found no address of a name server of {zone}")
        return self.found[zone]

    def addresses_of(self, server: dns.name.Name) -> list[tuple[str, str]]:
        """One address of each IP version that this host can reach."""
        found = []
        for kind in (RdataType.A, RdataType.AAAA) if self.ipv6 else (RdataType.A,):
            try:
                answer = self.resolver.resolve(server, kind)
            except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
                continue
            found += [(server.to_text(omit_final_dot=True), record.address) for record in answer][:1]
        return found

    def records(self, name: dns.name.Name, kind: RdataType) -> tuple[dns.rdata.Rdata, ...]:
        """Answer of the first server that answers. Raises Silent."""
        said = self.ask(name, kind)
        for one in said:
            if one.records is not None:
                return one.records
        raise Silent("; ".join(f"{one.server} {one.why}" for one in said))

    def addresses(self, name: dns.name.Name) -> list[str]:
        """IPv4 and IPv6 addresses of a name. Raises Silent."""
        kinds = (RdataType.A, RdataType.AAAA)
        return [record.to_text() for kind in kinds for record in self.records(name, kind)]

    def texts(self, name: dns.name.Name) -> list[str]:
        """TXT records of any name, such as a relay provider's. Raises Silent."""
        if zone_of(name, self.zones):
            return [text_of(record) for record in self.records(name, RdataType.TXT)]
        try:
            return [text_of(record) for record in self.resolver.resolve(name, RdataType.TXT)]
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return []
        except dns.exception.DNSException as error:
            raise Silent(f"{name}: {error}") from None
