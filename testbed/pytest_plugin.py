# SPDX-License-Identifier: GPL-3.0-or-later
"""Pytest plugin of all tests with containers: fixtures, the order of tests, and journals with what failed."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import yaml

from testbed import containers


@pytest.fixture
def container(host: Any) -> str:
    """Name of testinfra's host."""
    return str(host.backend.name)


@pytest.fixture
def address(container: str) -> str:
    """Its IPv4 address."""
    return containers.address(container)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What looks at what the other tests have left comes behind them, and what breaks things comes last."""

    def rank(item: pytest.Item) -> int:
        return 2 if item.get_closest_marker("disruptive") else 1 if item.get_closest_marker("aftermath") else 0

    items.sort(key=rank)


def _containers(item: pytest.Item) -> list[str]:
    """Those that a test is about: testinfra's host, or else all of the scenario."""
    backend = getattr(getattr(item, "funcargs", {}).get("host"), "backend", None)
    if backend is not None:
        return [backend.name]
    file = os.environ.get("MOLECULE_FILE")
    return [platform["name"] for platform in yaml.safe_load(Path(file).read_text())["platforms"]] if file else []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows what its hosts have written in their journals since it began."""
    report = yield
    if report.failed and (names := _containers(item)):
        for name in names:
            command = ["docker", "exec", name, "journalctl", "--no-pager", "--lines=60", "--output=short-iso"]
            done = subprocess.run([*command, f"--since=@{call.start:.0f}"], capture_output=True, text=True, check=False)
            report.sections.append((f"journal of {name}", done.stdout))
        report.sections.append(("time", time.strftime("%H:%M:%S")))
    return report
