# SPDX-License-Identifier: GPL-3.0-or-later
"""Exposure of services as rated by systemd-analyze(1): 0 is no access to the host, 10 is all that root has."""

from __future__ import annotations

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from testbed import containers
from testbed.playbook import CHECKOUT

DOCUMENT = CHECKOUT / "docs" / "security.md"


def figures() -> dict[str, float]:
    """The table of the document: unit, without the suffix, to its highest permitted exposure."""
    return {
        unit: float(figure)
        for unit, figure in re.findall(r"(?m)^\| `([^`]+)`[^|]*\| ([\d.]+) \|", DOCUMENT.read_text())
    }


def services(container: str) -> list[str]:
    """Names of the service units that the roles have written."""
    folder = "/etc/systemd/system"
    found = containers.run(
        container, "find", folder, "-maxdepth", "1", "-name", "*.service", "-type", "f", "-printf", "%f\n"
    )
    return sorted(found.split())


def exposure(container: str, unit: str) -> float:
    """Overall exposure of a loaded unit, drop-ins included."""
    said = containers.run(container, "systemd-analyze", "security", "--no-pager", unit)
    last = re.search(r"Overall exposure level for \S+: ([0-9.]+) ", said)
    assert last, said
    return float(last[1])


def too_exposed(container: str, daemons: Mapping[str, float]) -> dict[str, float]:
    """Services above their bound, with their exposure: ours by the document, and Debian's ``daemons`` by theirs."""
    documented = figures()
    bounds = {**{unit: documented[unit.removesuffix(".service")] for unit in services(container)}, **daemons}
    assert len(bounds) > len(daemons)
    with ThreadPoolExecutor() as pool:
        found = dict(zip(bounds, pool.map(lambda unit: exposure(container, unit), bounds), strict=True))
    return {unit: figure for unit, figure in found.items() if figure > bounds[unit]}
