# SPDX-License-Identifier: GPL-3.0-or-later
"""What brings a unit to run what is on disk. Real units are started in tests/containers."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from ansible_collections.selfhosted.mail.plugins.module_utils import unit
from ansible_collections.selfhosted.mail.plugins.module_utils.unit import Unit

STARTED_AGO = 100.0  # seconds


def running(**properties: str) -> Unit:
    """A unit as systemctl would describe one that was started :data:`STARTED_AGO`."""
    found = Unit("no-such-unit.service")
    since = (time.clock_gettime(time.CLOCK_MONOTONIC) - STARTED_AGO) * 1e6
    found.properties = {
        "LoadState": "loaded",
        "ActiveState": "active",
        "UnitFileState": "enabled",
        "ActiveEnterTimestampMonotonic": str(int(since)),
        **properties,
    }
    return found


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """One file from before the start of the unit, one from after it, and one that is not there."""
    for name, ago in (("older", STARTED_AGO * 2), ("newer", STARTED_AGO / 2)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - ago, time.time() - ago))
    return {name: tmp_path / name for name in ("older", "newer", "absent")}


def test_a_unit_that_is_not_there_has_to_be_started(files: dict[str, Path]) -> None:
    found = Unit("no-such-unit.service")
    assert not found.exists
    assert found.started == found.reloaded == 0
    assert found.needs([files["older"]], []) == "start"


@pytest.mark.parametrize(
    ("restart", "reload", "need"),
    [
        (["older"], ["older"], "none"),
        (["absent"], ["absent"], "none"),
        ([], [], "none"),
        (["newer"], [], "restart"),
        (["older", "newer"], ["newer"], "restart"),
        (["older"], ["newer"], "reload"),
    ],
)
def test_needs(files: dict[str, Path], restart: list[str], reload: list[str], need: str) -> None:
    assert running().needs([files[name] for name in restart], [files[name] for name in reload]) == need


@pytest.mark.parametrize("state", ["inactive", "failed", "activating"])
def test_a_unit_that_is_not_active_has_to_be_started(files: dict[str, Path], state: str) -> None:
    assert running(ActiveState=state).needs([files["newer"]], []) == "start"


def test_a_unit_that_would_not_come_back_after_a_reboot_has_to_be_enabled(files: dict[str, Path]) -> None:
    assert running(UnitFileState="disabled").needs([files["older"]], []) == "start"


def test_a_reload_takes_in_what_is_older(files: dict[str, Path]) -> None:
    found = running()
    assert found.needs([], [files["newer"]]) == "reload"
    found.stamp_reload()
    assert found.needs([], [files["newer"]]) == "none"
    assert found.needs([files["newer"]], [files["newer"]]) == "restart", "a reload does not do what takes a restart"
    os.utime(unit.STAMPS / "no-such-unit.service.reloaded", (1, 1))
    assert found.needs([], [files["newer"]]) == "reload"


def test_newest(files: dict[str, Path]) -> None:
    assert unit.newest(files.values()) == files["newer"].stat().st_mtime
    assert unit.newest([files["absent"]]) == 0
