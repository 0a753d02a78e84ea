# SPDX-License-Identifier: GPL-3.0-or-later
"""A backup and a restore of 20 GB, or as much as the machine can hold."""

from __future__ import annotations

import time

import pytest
from years import ALICE, NEW13, RESTORE, Server

from testbed import report

testinfra_hosts = ["docker://years-old"]
WANTED = 20 << 30
# The mail, the repository, the restored one, and space for all else.
COPIES = 4
BOX = "/var/vmail/years.test/bob/Maildir"
# Typical messages: most are small, and a few have most of the octets, which cannot be compressed.
FILL = """
import base64, os, sys
folder, wanted = sys.argv[1], int(sys.argv[2])
number = 0
while wanted > 0:
    size = 1_000_000 if number % 10 == 0 else 50_000 if number % 3 == 0 else 5_000
    text = f"From: stranger@world.test\\nMessage-ID: <large-{number}@world.test>\\nSubject: {number}\\n\\n".encode()
    text += base64.encodebytes(os.urandom(size * 3 // 4))
    name = f"{folder}/cur/{1_500_000_000 + number}.M{number}.years,S={len(text)}:2,S"
    with open(name, "wb") as file:
        file.write(text)
    os.utime(name, (1_500_000_000 + number,) * 2)
    wanted -= len(text)
    number += 1
"""


def listing(server: Server) -> str:
    """Name, size and time of each message."""
    return server.sh(f"cd {BOX}/cur; find . -type f -printf '%f %s %T@\\n' | sort")


@pytest.mark.long
def test_as_much_as_the_machine_holds(filled: Server) -> None:
    free = int(filled.sh("df --output=avail -B1 /var/vmail | tail -n 1"))
    filled.python(FILL, BOX, str(min(WANTED, free // COPIES)), user="vmail")
    then = listing(filled)
    sizes = [int(line.split()[1]) for line in then.splitlines()]
    size, count = sum(sizes), len(sizes)
    table = report.Table("years-size", "Backup and restore", ["what", "GB", "messages", "minutes", "MB/s"])

    def row(what: str, begun: float) -> None:
        took = time.monotonic() - begun
        rate = f"{size / 1e6 / took:.0f}"
        table.add([what, f"{size / 1e9:.1f}", str(count), f"{took / 60:.1f}", rate])
        report.progress(f"{what}: {took / 60:.1f} minutes, {rate} MB/s")

    for what in ("first backup, with a part read back", "second backup, with a part read back"):
        begun = time.monotonic()
        assert filled.back_up()["error"] == ""
        row(what, begun)
    begun = time.monotonic()
    NEW13.playbook(RESTORE, {"mail_restore_snapshot": "latest"})
    row("restore playbook on an empty Debian 13", begun)
    assert listing(NEW13) == then
    assert NEW13.mail(ALICE) == filled.mail(ALICE)
