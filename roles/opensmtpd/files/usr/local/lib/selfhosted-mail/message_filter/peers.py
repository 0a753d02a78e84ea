# SPDX-License-Identifier: GPL-3.0-or-later
"""The client of a connection: its network, and on this host its user."""

import ipaddress
import socket
import struct
from collections.abc import Sequence

# In /proc/self, as a sandbox may hide the rest of /proc.
SOCKETS = ("/proc/self/net/tcp", "/proc/self/net/tcp6")


def network(source: str) -> str:
    """The address in `ADDRESS:PORT`; for IPv6 its /64 network, which is usually one customer."""
    address = source.rpartition(":")[0].strip("[]").removeprefix("IPv6:")
    try:
        return str(ipaddress.IPv6Network((address, 64), strict=False))
    except ValueError:
        return address


def peer_uid(source: str, destination: str, tables: Sequence[str] = SOCKETS) -> int | None:
    """The uid of the local socket at `source` that is connected to `destination`; None if there is none.

    Both are `ADDRESS:PORT` of IPv4. A socket without an inode has no process any more, and its uid is meaningless.
    """
    for table in tables:
        mapped = table.endswith("6")
        row = f": {_written(source, mapped)} {_written(destination, mapped)} 01 ".encode()
        try:
            with open(table, "rb") as file:
                _before, found, rest = file.read().partition(row)
        except FileNotFoundError:  # no IPv6
            continue
        # queues, timer, retransmissions, uid, timeout, inode
        words = rest.partition(b"\n")[0].split()
        if found and len(words) > 5 and words[5] != b"0":
            return int(words[3])
    return None


def _written(endpoint: str, mapped: bool) -> str:
    """`ADDRESS:PORT` of IPv4 in the notation of proc_pid_net(5); `mapped`: as for an IPv6 socket."""
    address, _colon, port = endpoint.rpartition(":")
    number = struct.unpack("=I", socket.inet_aton(address))[0]
    middle = struct.unpack("=I", b"\0\0\xff\xff")[0]
    return f"{f'{0:016X}{middle:08X}' if mapped else ''}{number:08X}:{int(port):04X}"
