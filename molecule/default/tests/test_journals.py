# SPDX-License-Identifier: GPL-3.0-or-later
"""After all that mail, nothing in the journals that an administrator would have to look at."""

from __future__ import annotations

import re

from servers import Server, both

# Lines of the machine or of clients that misbehaved on purpose.
EXPECTED = re.compile(r"$^")


@both
def test_no_errors(server: Server) -> None:
    lines = server.run("journalctl", "--no-pager", "--boot", "--priority", "err", "--output=short-iso").splitlines()
    assert not [line for line in lines if not line.startswith("-- ") and not EXPECTED.search(line)]


@both
def test_no_tracebacks(server: Server) -> None:
    lines = server.run("journalctl", "--no-pager", "--boot", "--output=cat").splitlines()
    assert not [line for line in lines if re.match(r"Traceback|panic:|fatal:|segfault", line)]


@both
def test_no_failed_units(server: Server) -> None:
    assert server.run("systemctl", "list-units", "--failed", "--no-legend", "--plain") == ""
