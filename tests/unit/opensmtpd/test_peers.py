# SPDX-License-Identifier: GPL-3.0-or-later
"""The local user of a connection."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest
from message_filter.peers import peer_uid


class Connections:
    """Sockets of this process, connected on loopback: the filter is told of them as OpenSMTPD would."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.sockets: list[socket.socket] = []

    def opened(self, family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
        connection = socket.socket(family)
        address = "127.0.0.1" if family == socket.AF_INET else "::ffff:127.0.0.1"
        connection.connect((address, self.listener.getsockname()[1]))
        self.sockets += [connection, self.listener.accept()[0]]
        return connection

    def __enter__(self) -> Connections:
        return self

    def __exit__(self, *_error: object) -> None:
        for connection in [*self.sockets, self.listener]:
            connection.close()


def names(connection: socket.socket) -> tuple[str, str]:
    (source, port, *_rest), (_destination, listener, *_more) = connection.getsockname(), connection.getpeername()
    assert source.endswith("127.0.0.1")
    return f"127.0.0.1:{port}", f"127.0.0.1:{listener}"


def test_the_kernel_says_whose_a_connection_is() -> None:
    with Connections() as connections:
        for family in socket.AF_INET, socket.AF_INET6:
            connection = connections.opened(family)
            source, destination = names(connection)
            assert peer_uid(source, destination) == os.getuid()
            # Another socket's port, its other connections, the other side, and one that does not exist.
            assert peer_uid("127.0.0.2:" + source.partition(":")[2], destination) is None
            assert peer_uid(source, "127.0.0.1:1") is None
            # A closed connection has no user.
            connection.close()
            assert peer_uid(source, destination) is None


TCP = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


@pytest.mark.parametrize(
    ("row", "uid"),
    [
        ("0100007F:9C40 0100007F:2729 01 00000000:00000000 00:00000000 00000000  1001        0 4711 1 00", 1001),
        ("0100007F:9C40 0100007F:2729 01 00000000:00000000 00:00000000 00000000     0        0 0 1 00", None),
        ("0100007F:9C40 0100007F:2729 04 00000000:00000000 00:00000000 00000000  1001        0 4711 1 00", None),
        ("0200007F:9C40 0100007F:2729 01 00000000:00000000 00:00000000 00000000  1001        0 4711 1 00", None),
        ("0100007F:9C40 0100007F:272A 01 00000000:00000000 00:00000000 00000000  1001        0 4711 1 00", None),
        ("0100007F:2729 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 4711 1 00", None),
    ],
)
@pytest.mark.skipif(sys.byteorder == "big", reason="the rows are a little-endian machine's")
def test_one_row_alone_is_the_connections(tmp_path: Path, row: str, uid: int | None) -> None:
    table = tmp_path / "tcp"
    table.write_text(TCP + f"   7: {row}\n")
    assert peer_uid("127.0.0.1:40000", "127.0.0.1:10025", [str(table), str(tmp_path / "none6")]) == uid
