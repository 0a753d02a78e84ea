# SPDX-License-Identifier: GPL-3.0-or-later
"""On the host: restart Rspamd, have it judge MESSAGE and look at what leaves the host meanwhile.

Prints JSON: ``names`` asked for in DNS and ``peers``, the IPv4 addresses that packets went to.
"""

import http.client
import json
import select
import socket
import struct
import subprocess
import sys
import time

ETH_P_ALL, ETH_P_IP = 0x0003, 0x0800  # packet(7): only a tap on everything sees what goes out
names: set[str] = set()
peers: set[str] = set()


def look(packet: bytes) -> None:
    """Note an outgoing IPv4 packet (RFC 791) and the question in it (RFC 1035 section 4.1.2)."""
    size = (packet[0] & 15) * 4
    peers.add(socket.inet_ntoa(packet[16:20]))
    if packet[9] == socket.IPPROTO_UDP and struct.unpack("!H", packet[size + 2 : size + 4])[0] == 53:
        labels, at = [], size + 8 + 12
        while packet[at]:
            labels.append(packet[at + 1 : at + 1 + packet[at]].decode())
            at += 1 + packet[at]
        names.add(".".join(labels).lower())


def listen(seconds: float) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if select.select([tap], [], [], left)[0]:
            packet, (_device, protocol, kind, *_rest) = tap.recvfrom(65535)
            if kind == socket.PACKET_OUTGOING and protocol == ETH_P_IP:
                look(packet)


with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL)) as tap:
    tap.bind(("eth0", ETH_P_ALL))
    # Packets wait in the tap's buffer meanwhile.
    subprocess.run(["systemctl", "restart", "rspamd"], check=True)
    connection = http.client.HTTPConnection("127.0.0.1", 11333, timeout=120)
    client = {"Ip": "198.51.100.77", "Hostname": "a.bank.test", "Helo": "a.bank.test", "From": "bob@world.test"}
    connection.request("POST", "/checkv2", sys.argv[1].encode(), client)
    connection.getresponse().read()
    listen(3)
print(json.dumps({"names": sorted(names), "peers": sorted(peers)}))
