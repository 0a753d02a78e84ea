# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs of playbooks, as an administrator calls them."""

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
    # Molecule's own runs have another.
    "ANSIBLE_STRATEGY": "linear",
}


@dataclass(frozen=True)
class Run:
    """What became of it. ``output`` has errors and warnings, too."""

    output: str
    failed: bool
    code: int

    @property
    def changed(self) -> dict[str, int]:
        """Number of tasks that changed something, by host."""
        return {host: int(number) for host, number in re.findall(r"(?m)^(\S+) +: ok=\d+ +changed=(\d+)", self.output)}

    def check_unchanged(self) -> None:
        """It ran on a host at least and changed nothing on any. AssertionError with the tasks that did."""
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
    """Run it on the scenario's hosts, or those of an inventory, with extra variables.

    AssertionError with the end of its output when it fails, or does not where ``fails`` says so; None takes either.
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
    *options: str, inventory: Path | None = None, variables: Mapping[str, object] | None = None, fails: bool = False
) -> Run:
    """The site playbook."""
    return run(CHECKOUT / "playbooks/site.yml", *options, inventory=inventory, variables=variables, fails=fails)


def run_role(
    host: str,
    *options: str,
    variables: Mapping[str, object] | None = None,
    fails: bool = False,
    environment: Mapping[str, str] | None = None,
) -> Run:
    """The scenario's converge playbook, on one host."""
    converge = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"]) / "converge.yml"
    return run(converge, "--limit", host, *options, variables=variables, fails=fails, environment=environment)
