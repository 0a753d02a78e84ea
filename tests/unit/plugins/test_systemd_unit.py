# SPDX-License-Identifier: GPL-3.0-or-later
"""The action that applies the files on disk. tests/containers has real units."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from ansible_collections.selfhosted.mail.plugins.module_utils import systemd_unit
from ansible_collections.selfhosted.mail.plugins.module_utils.systemd_unit import Unit

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
    assert found.state_for([files["older"]], []) == "started"


@pytest.mark.parametrize(
    ("restart", "reload", "state"),
    [
        (["older"], ["older"], "unchanged"),
        (["absent"], ["absent"], "unchanged"),
        ([], [], "unchanged"),
        (["newer"], [], "restarted"),
        (["older", "newer"], ["newer"], "restarted"),
        (["older"], ["newer"], "reloaded"),
    ],
)
def test_state_for(files: dict[str, Path], restart: list[str], reload: list[str], state: str) -> None:
    assert running().state_for([files[name] for name in restart], [files[name] for name in reload]) == state


@pytest.mark.parametrize("state", ["inactive", "failed", "activating"])
def test_a_unit_that_is_not_active_has_to_be_started(files: dict[str, Path], state: str) -> None:
    assert running(ActiveState=state).state_for([files["newer"]], []) == "started"


def test_a_unit_that_would_not_come_back_after_a_reboot_has_to_be_enabled(files: dict[str, Path]) -> None:
    assert running(UnitFileState="disabled").state_for([files["older"]], []) == "started"


def test_a_reload_takes_in_what_is_older(files: dict[str, Path]) -> None:
    found = running()
    assert found.state_for([], [files["newer"]]) == "reloaded"
    found.stamp_reload()
    assert found.state_for([], [files["newer"]]) == "unchanged"
    assert found.state_for([files["newer"]], [files["newer"]]) == "restarted", (
        "a reload does not do what takes a restart"
    )
    os.utime(systemd_unit.STAMPS / "no-such-unit.service.reloaded", (1, 1))
    assert found.state_for([], [files["newer"]]) == "reloaded"


def test_newest(files: dict[str, Path]) -> None:
    assert systemd_unit.newest(files.values()) == files["newer"].stat().st_mtime
    assert systemd_unit.newest([files["absent"]]) == 0


def test_a_symbolic_link_counts_with_what_it_leads_to(files: dict[str, Path], tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(files["newer"])
    os.utime(link, (1, 1), follow_symlinks=False)
    assert systemd_unit.newest([link]) == files["newer"].stat().st_mtime
    link.unlink()
    link.symlink_to(files["older"])
    assert systemd_unit.newest([link]) == link.lstat().st_mtime, "it leads elsewhere since then"
