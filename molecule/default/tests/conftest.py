# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import subprocess
import time
from collections.abc import Generator

import pytest

pytest.register_assert_rewrite("servers", "signatures")

from servers import RELAY, SERVERS  # noqa: E402

# What only watches comes first, then what sends mail, and what breaks things comes last: journals are read before
# anything was broken, and the reboot at the end starts new ones.
ORDER = [
    "test_access", "test_dns", "test_secrets", "test_submission", "test_inbound", "test_filtering", "test_local",
    "test_forwarding", "test_mailboxes", "test_hostile_input", "test_journals", "test_tags", "test_accounts",
    "test_bad_input", "test_configuration", "test_signer", "test_relay_trust", "test_filter_outage", "test_restart",
]  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules in the order above."""
    items.sort(key=lambda item: ORDER.index(item.path.stem))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows what the servers and the relay have written in their journals since it began."""
    report = yield
    if report.failed and report.when == "call":
        since = f"@{call.start:.0f}"
        for container in [*(server.container for server in SERVERS), RELAY]:
            command = ["docker", "exec", container, "journalctl", "--no-pager", "--lines=60", "--since", since]
            journal = subprocess.run(command, capture_output=True, text=True, check=False).stdout
            report.sections.append((f"journal of {container}", journal))
        report.sections.append(("time", time.strftime("%H:%M:%S")))
    return report
