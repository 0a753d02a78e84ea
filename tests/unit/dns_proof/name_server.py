# SPDX-License-Identifier: GPL-3.0-or-later
"""A name server on loopback."""

from __future__ import annotations

import socket
import threading

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import dns.zonefile

ADDRESS, NS = "127.0.0.1", "ns.example."
ZONES = ("example.org.", "provider.example.", "far.example.", "100.51.198.in-addr.arpa.")


def absolute(text: str) -> str:
    """A master file under example.org with whole names."""
    found = []
    for line in text.splitlines():
        origin = "." if line.split(" ")[0].endswith(".") else "example.org."  # what lies outside would be left out
        found += dns.zonefile.read_rrsets(line, rdclass=None, default_ttl=60, origin=origin)
    return "\n".join(one.to_text(want_comments=True) for one in found)


def sockets(port: int, address: str) -> tuple[socket.socket, socket.socket]:
    """UDP and TCP sockets of one port; 0 chooses a port that is free for both."""
    while True:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind((address, port))
        try:
            return udp, socket.create_server(udp.getsockname())
        except OSError:
            udp.close()
            if port:
                raise


class NameServer:
    """Has the zones of ZONES with the records of a master file, over UDP and TCP.

    ``rcode``, ``silent``, ``authoritative`` and ``validates``, in vain, change what it says.

    Answers above 512 octets are truncated over UDP.
    """

    def __init__(self, port: int = 0, address: str = ADDRESS) -> None:
        self.udp, self.tcp = sockets(port, address)
        self.port = self.udp.getsockname()[1]
        self.records: dict[tuple[dns.name.Name, int], dns.rrset.RRset] = {}
        self.rcode, self.silent, self.authoritative, self.validates = dns.rcode.NOERROR, False, True, False
        self.asked: list[str] = []
        for target in (self.over_udp, self.over_tcp):
            threading.Thread(target=target, daemon=True).start()

    def has(self, text: str) -> None:
        records = dns.zonefile.read_rrsets(absolute(text), rdclass=None)
        records += [dns.rrset.from_text(zone, 60, "IN", "SOA", f"{NS} {NS} 1 2 3 4 5") for zone in ZONES]
        records += [dns.rrset.from_text(zone, 60, "IN", "NS", NS, "away.example.") for zone in ZONES]
        records.append(dns.rrset.from_text(NS, 60, "IN", "A", ADDRESS))
        self.records = {(one.name, one.rdtype): one for one in records}

    def answer(self, wire: bytes) -> dns.message.Message | None:
        query = dns.message.from_wire(wire)
        question = query.question[0]
        self.asked.append(question.name.to_text())
        if self.silent:
            return None
        response = dns.message.make_response(query)
        response.flags |= dns.flags.AA if self.authoritative else 0
        # RFC 4035 section 3.2.2
        wrong = self.validates and not query.flags & dns.flags.CD
        response.set_rcode(dns.rcode.SERVFAIL if wrong else self.rcode)
        name = question.name
        while (name, dns.rdatatype.CNAME) in self.records and question.rdtype != dns.rdatatype.CNAME:
            alias = self.records[name, dns.rdatatype.CNAME]
            response.answer.append(alias)
            name = alias[0].target
        if (name, question.rdtype) in self.records:
            response.answer.append(self.records[name, question.rdtype])
        elif not any(name == known for known, _kind in self.records) and response.rcode() == dns.rcode.NOERROR:
            response.set_rcode(dns.rcode.NXDOMAIN)
        return response

    def over_udp(self) -> None:
        while True:
            wire, peer = self.udp.recvfrom(65535)
            response = self.answer(wire)
            if response and len(response.to_wire(max_size=65535)) > 512:
                response.answer.clear()
                response.flags |= dns.flags.TC
            if response:
                self.udp.sendto(response.to_wire(max_size=65535), peer)

    def over_tcp(self) -> None:
        while True:
            connection, _peer = self.tcp.accept()
            with connection:
                length = int.from_bytes(connection.recv(2), "big")
                response = self.answer(connection.recv(length))
                if response:
                    wire = response.to_wire(max_size=65535)
                    connection.sendall(len(wire).to_bytes(2, "big") + wire)
