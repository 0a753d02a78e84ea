# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The state of a systemd unit, and whether it has applied the files on disk."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from ansible_collections.selfhosted.mail.plugins.module_utils.command import CommandFailed, run
from ansible_collections.selfhosted.mail.plugins.module_utils.safe_path import Access, make_directory

STAMPS = Path("/run/selfhosted-mail")


class Unit:
    """A systemd unit as it is at the time of construction."""

    def __init__(self, name: str) -> None:
        self.name = name
        wanted = "LoadState,ActiveState,UnitFileState,ActiveEnterTimestampMonotonic,ExecMainPID"
        try:
            shown = run(["systemctl", "show", "--property", wanted, name])
        except CommandFailed:
            shown = ""
        self.properties = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)

    @property
    def exists(self) -> bool:
        return self.properties.get("LoadState") == "loaded"

    @property
    def active(self) -> bool:
        return self.properties.get("ActiveState") in ("active", "reloading")

    @property
    def enabled(self) -> bool:
        return self.properties.get("UnitFileState") in ("enabled", "static", "alias", "indirect", "generated")

    @property
    def started(self) -> float:
        """When the unit became active, in seconds since the epoch; 0 if it is not active."""
        monotonic = int(self.properties.get("ActiveEnterTimestampMonotonic") or 0) / 1e6
        if not self.active or not monotonic:
            return 0.0
        return time.time() - (time.clock_gettime(time.CLOCK_MONOTONIC) - monotonic)

    @property
    def reloaded(self) -> float:
        """When the unit last read its files, by a start or a reload, in seconds since the epoch."""
        try:
            return max(self.started, (STAMPS / f"{self.name}.reloaded").stat().st_mtime)
        except FileNotFoundError:
            return self.started

    def stamp_reload(self) -> None:
        make_directory(STAMPS, Access(mode="0755"))
        (STAMPS / f"{self.name}.reloaded").touch()

    def state_for(self, restart_files: Iterable[Path], reload_files: Iterable[Path]) -> str:
        """The action that applies the files on disk: ``started``, ``restarted``, ``reloaded`` or ``unchanged``."""
        if not self.active:
            return "started"
        if newest(restart_files) > self.started:
            return "restarted"
        if newest(reload_files) > self.reloaded:
            return "reloaded"
        return "unchanged" if self.enabled else "started"


def newest(paths: Iterable[Path]) -> float:
    """Latest modification time of the paths that exist, in seconds since the epoch; 0 if there are none.

    For a symbolic link, the times of the link and of its target count.
    """
    times = [time for path in paths if path.exists() for time in (path.stat().st_mtime, path.lstat().st_mtime)]
    return max(times, default=0.0)
