# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The state of a systemd unit, and whether it runs what is on disk."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from ansible_collections.selfhosted.mail.plugins.module_utils.command import CommandFailed, run

STAMPS = Path("/run/selfhosted-mail")


class Unit:
    """A systemd unit as it is at the time of construction."""

    def __init__(self, name: str) -> None:
        self.name = name
        wanted = "LoadState,ActiveState,UnitFileState,ActiveEnterTimestampMonotonic"
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
        """When the unit became active, in seconds since the epoch; 0 where it is not active."""
        monotonic = int(self.properties.get("ActiveEnterTimestampMonotonic") or 0) / 1e6
        if not self.active or not monotonic:
            return 0.0
        return time.time() - (time.clock_gettime(time.CLOCK_MONOTONIC) - monotonic)

    @property
    def reloaded(self) -> float:
        """When the unit last took in changed files, by a start or a reload, in seconds since the epoch."""
        try:
            return max(self.started, (STAMPS / f"{self.name}.reloaded").stat().st_mtime)
        except FileNotFoundError:
            return self.started

    def stamp_reload(self) -> None:
        STAMPS.mkdir(exist_ok=True, mode=0o755)
        (STAMPS / f"{self.name}.reloaded").touch()

    def state_for(self, restart_files: Iterable[Path], reload_files: Iterable[Path]) -> str:
        """What brings the unit to run what is on disk: ``started``, ``restarted``, ``reloaded`` or ``unchanged``."""
        if not self.active:
            return "started"
        if newest(restart_files) > self.started:
            return "restarted"
        if newest(reload_files) > self.reloaded:
            return "reloaded"
        return "unchanged" if self.enabled else "started"


def newest(paths: Iterable[Path]) -> float:
    """Latest modification time of the paths that exist, in seconds since the epoch; 0 where there is none.

    Of a symbolic link both count: it may lead elsewhere now, or to what has changed.
    """
    times = [time for path in paths if path.exists() for time in (path.stat().st_mtime, path.lstat().st_mtime)]
    return max(times, default=0.0)
