# SPDX-License-Identifier: GPL-3.0-or-later
"""Pytest plugin of all tests with containers: fixtures, the order of tests, and journals for failed tests.

Each host of a scenario has a process of its own (pytest-xdist), which runs its tests in order. Tests that change what
the hosts share run alone: those with the marker `alone`, and those that are not about one host.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import yaml
from xdist.scheduler import LoadScopeScheduling

from testbed import containers


@pytest.fixture
def container(host: Any) -> str:
    """Name of testinfra's host, a container."""
    return str(host.backend.name)


@pytest.fixture
def address(container: str) -> str:
    """Its IPv4 address."""
    return containers.address(container)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort tests: those with the marker `aftermath` run after all others, `disruptive` ones last."""

    def rank(item: pytest.Item) -> int:
        return 2 if item.get_closest_marker("disruptive") else 1 if item.get_closest_marker("aftermath") else 0

    items.sort(key=rank)


def _host(nodeid: str) -> str:
    """Name of the container in a testinfra test's id; empty for other tests."""
    found = re.search(r"\[docker://(\w+-\w+)", nodeid)
    return found[1] if found else ""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Run all tests of a host in one process."""

    class ByHost(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _host(nodeid)

    return ByHost(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Run no other test during a test that has to be alone."""
    folder = os.environ.get("MOLECULE_EPHEMERAL_DIRECTORY")
    if not folder:
        return (yield)
    alone = item.get_closest_marker("alone") or not _host(item.nodeid)
    with (Path(folder) / "tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        return (yield)


def _containers(item: pytest.Item) -> list[str]:
    """Containers of a test: testinfra's host, or else all of the scenario."""
    backend = getattr(getattr(item, "funcargs", {}).get("host"), "backend", None)
    if backend is not None:
        return [backend.name]
    file = os.environ.get("MOLECULE_FILE")
    return [platform["name"] for platform in yaml.safe_load(Path(file).read_text())["platforms"]] if file else []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the hosts' journals since the beginning of the test to a failed test's report."""
    report = yield
    if report.failed and (names := _containers(item)):
        for name in names:
            command = ["docker", "exec", name, "journalctl", "--no-pager", "--lines=60", "--output=short-iso"]
            done = subprocess.run([*command, f"--since=@{call.start:.0f}"], capture_output=True, text=True, check=False)
            report.sections.append((f"journal of {name}", done.stdout))
        report.sections.append(("time", time.strftime("%H:%M:%S")))
    return report
