# SPDX-License-Identifier: GPL-3.0-or-later
"""What the benchmarks have in common: fresh hosts, and what something takes of time and memory."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import yaml

from testbed import containers
from testbed.playbook import CHECKOUT

T = TypeVar("T")
_MEMORY = r"""
import json, re
from collections import Counter
from pathlib import Path
units = Counter()
for process in Path("/proc").glob("[0-9]*"):
    try:
        unit = re.search(r"^0::(?:.*/)?([^/\n]*)$", (process / "cgroup").read_text(), re.M)[1]
        units[unit] += int(re.search(r"^Pss: +(\d+)", (process / "smaps_rollup").read_text(), re.M)[1]) / 1024
    except (OSError, TypeError):
        continue
print(json.dumps(units))
"""


@contextmanager
def fresh(release: str, *names: str) -> Iterator[Path]:
    """Fresh hosts; gives their inventory."""
    hosts: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        inventory = Path(folder) / "inventory.yml"
        try:
            for name in names:
                subprocess.run([CHECKOUT / "testbed/throwaway", name, release, folder], check=True)
                hosts |= yaml.safe_load(inventory.read_text())["mail"]["hosts"]
            inventory.write_text(yaml.safe_dump({"mail": {"hosts": hosts}}))
            yield inventory
        finally:
            subprocess.run(["docker", "rm", "-f", *names], check=False, capture_output=True)


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Seconds of wall clock time, and the result."""
    begun = time.perf_counter()
    done = work()
    return time.perf_counter() - begun, done


def memory(container: str) -> dict[str, float]:
    """MB by unit: the proportional set size (PSS in proc(5)), so that what several processes share counts once."""
    units: dict[str, float] = json.loads(containers.run(container, "python3", "-c", _MEMORY))
    return {unit: size for unit, size in units.items() if unit.endswith(".service")}
