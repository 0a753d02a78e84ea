# SPDX-License-Identifier: GPL-3.0-or-later
"""Tests, after all others, that the journals contain nothing that would alarm an administrator."""

from __future__ import annotations

import re

from testbed.servers import Server, both

# Debian's filter-rspamd logs its start to standard error. Tests use invalid SRS addresses. OpenSMTPD's first start
# looks for a folder that it creates a moment later. It drops failed redirects with the null sender.
EXPECTED = re.compile(
    r"rspamd: \S+ \S+ (reading lines? (scanner|until ready)|responding desired filters)$|SRS failed to decode: SRS[01]="
    r"|purge_task: opendir: No such file or directory$|warn: queue: no return path!$"
)


@both
def test_no_errors(server: Server) -> None:
    lines = server.journal("--priority=err", "--output=short-iso")
    found = [line for line in lines if not EXPECTED.search(line)]
    assert not found, "\n".join(found)


@both
def test_no_tracebacks(server: Server) -> None:
    lines = server.journal("--output=cat")
    assert len(lines) > 100
    assert not [line for line in lines if re.match(r"Traceback|panic:|fatal:|segfault", line)]


@both
def test_no_failed_units(server: Server) -> None:
    assert server.run("systemctl", "list-units", "--failed", "--no-legend", "--plain") == ""
