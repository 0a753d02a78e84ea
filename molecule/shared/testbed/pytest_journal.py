# SPDX-License-Identifier: GPL-3.0-or-later
"""Pytest plugin: a failed test that uses `host` shows the end of that host's journal."""

from __future__ import annotations

import pytest


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):  # type: ignore[no-untyped-def]
    """Add the journal to the report of a failure."""
    outcome = yield
    report = outcome.get_result()
    host = getattr(item, "funcargs", {}).get("host")
    if report.failed and report.when == "call" and host is not None:
        journal = host.run("journalctl --no-pager --lines=60 --output=short-iso")
        report.sections.append((f"journal of {host.backend.get_hostname()}", journal.stdout))
