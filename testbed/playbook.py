# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs of playbooks, as an administrator starts them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
ENVIRONMENT = {
    "ANSIBLE_COLLECTIONS_PATH": f"{CHECKOUT}/playbooks/collections",
    "ANSIBLE_FORCE_COLOR": "0",
    "ANSIBLE_NOCOLOR": "1",
    # A busy machine may need more than ten seconds to connect to a host.
    "ANSIBLE_TIMEOUT": "120",
}
# PLAIN: with a Python process on the host for each task, as for users. FAST: as molecule runs it.
PLAIN = {"ANSIBLE_STRATEGY": "linear"}
FAST = {"ANSIBLE_STRATEGY": "mitogen_linear", "ANSIBLE_STRATEGY_PLUGINS": f"{CHECKOUT}/testbed/strategy"}


@dataclass(frozen=True)
class Run:
    """The result of a run. ``output`` has errors and warnings, too."""

    output: str
    failed: bool
    code: int

    @property
    def changed(self) -> dict[str, int]:
        """Number of tasks that changed something, by host."""
        return {host: int(number) for host, number in re.findall(r"(?m)^(\S+) +: ok=\d+ +changed=(\d+)", self.output)}

    def check_unchanged(self) -> None:
        """Assert that it ran on at least one host and changed nothing. AssertionError with the tasks that did."""
        tasks = re.split(r"(?m)^(?=TASK |PLAY )", self.output)
        changing = [task for task in tasks if re.search(r"(?m)^changed: ", task)]
        assert set(self.changed.values()) == {0}, "".join(changing)


def run(
    playbook: Path,
    *options: str,
    inventory: Path | None = None,
    variables: Mapping[str, object] | None = None,
    fails: bool | None = False,
    environment: Mapping[str, str] | None = None,
) -> Run:
    """Run a playbook on the scenario's hosts, or those of an inventory, with extra variables.

    AssertionError with the end of its output if it fails, or with ``fails`` if it does not; None accepts both.
    """
    command: list[str | Path] = [BIN / "ansible-playbook", "-i", inventory or os.environ["MOLECULE_INVENTORY_FILE"]]
    command += [*options, playbook]
    if variables:
        command += ["--extra-vars", json.dumps(variables)]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env={**os.environ, **ENVIRONMENT, **(environment or {})},
    )
    assert fails in (None, bool(done.returncode)), done.stdout[-4000:]
    return Run(done.stdout, bool(done.returncode), done.returncode)


def run_site(
    *options: str,
    inventory: Path | None = None,
    variables: Mapping[str, object] | None = None,
    fails: bool = False,
    environment: Mapping[str, str] | None = None,
) -> Run:
    """Run the site playbook."""
    site = CHECKOUT / "playbooks/site.yml"
    return run(site, *options, inventory=inventory, variables=variables, fails=fails, environment=environment)


def run_role(
    host: str,
    *options: str,
    variables: Mapping[str, object] | None = None,
    fails: bool = False,
    environment: Mapping[str, str] | None = None,
) -> Run:
    """Run the scenario's converge playbook on one host."""
    converge = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"]) / "converge.yml"
    return run(converge, "--limit", host, *options, variables=variables, fails=fails, environment=environment)
