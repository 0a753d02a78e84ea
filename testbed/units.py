# SPDX-License-Identifier: GPL-3.0-or-later
"""What services may do on their host, as systemd-analyze(1) counts it: 0 is nothing, 10 is everything that root may."""

from __future__ import annotations

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from testbed import containers

OURS = 3.0


def services(container: str) -> list[str]:
    """Those that the roles have written, as names of systemd's."""
    folder = "/etc/systemd/system"
    found = containers.run(
        container, "find", folder, "-maxdepth", "1", "-name", "*.service", "-type", "f", "-printf", "%f\n"
    )
    return sorted(found.split())


def exposure(container: str, unit: str) -> float:
    """Overall exposure of a unit as it is loaded, its drop-ins included."""
    said = containers.run(container, "systemd-analyze", "security", "--no-pager", unit)
    last = re.search(r"Overall exposure level for \S+: ([0-9.]+) ", said)
    assert last, said
    return float(last[1])


def too_exposed(container: str, daemons: Mapping[str, float]) -> dict[str, float]:
    """Services that may do more than they should: ours, one at least, and Debian's, with a bound each."""
    bounds = {**dict.fromkeys(services(container), OURS), **daemons}
    assert len(bounds) > len(daemons)
    with ThreadPoolExecutor() as pool:
        found = dict(zip(bounds, pool.map(lambda unit: exposure(container, unit), bounds), strict=True))
    return {unit: figure for unit, figure in found.items() if figure > bounds[unit]}
