# SPDX-License-Identifier: GPL-3.0-or-later
"""A container with systemd, driven by Ansible from this checkout."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import yaml

from testbed import containers, playbook
from testbed.playbook import BIN, CHECKOUT, ENVIRONMENT, FAST

RELEASES = ("debian12", "debian13")


class Unsafe(str):
    """A text that Ansible must not treat as a template."""


yaml.SafeDumper.add_representer(Unsafe, lambda dumper, text: dumper.represent_scalar("!unsafe", str(text)))


class Host:
    """A container of one release."""

    def __init__(self, release: str, directory: Path, name: str = "") -> None:
        self.release = release
        self.name = name or f"accepted-{release}"
        self.inventory = directory / "inventory.yml"
        self.environment = {
            "ANSIBLE_CONFIG": str(directory / "ansible.cfg"),
            "ANSIBLE_HOME": str(directory / self.release),
            "ANSIBLE_PIPELINING": "1",
        }

    def up(self) -> None:
        """Start a fresh container with systemd."""
        subprocess.run([CHECKOUT / "testbed/host-up", self.name, self.release, f"mail.{self.release}.test"], check=True)

    def down(self) -> None:
        """Remove the container."""
        containers.docker("rm", "-f", self.name)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the container, with any exit code."""
        return subprocess.run(["docker", "exec", self.name, *command], capture_output=True, text=True, check=False)

    def says(self, *command: str) -> str:
        """Output of a command in the container; AssertionError if it fails."""
        return containers.run(self.name, *command)

    def write(self, path: str, text: str) -> None:
        """Write a file in the container."""
        containers.write(self.name, path, text)

    def module(self, name: str, /, *options: str, **arguments: Any) -> dict[str, Any]:
        """Result of one of the collection's modules, run by ``ansible``."""
        module = ["-m", f"selfhosted.mail.{name}", "-a", json.dumps(arguments)]
        done = subprocess.run(
            [BIN / "ansible", "-i", self.inventory, self.name, *module, *options],
            env={**os.environ, **ENVIRONMENT, **self.environment},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        _what, arrow, text = done.stdout.partition(" => ")
        assert arrow, done.stdout + done.stderr
        result: dict[str, Any] = json.JSONDecoder().raw_decode(text)[0]
        return {**result, "failed": done.returncode != 0}

    def playbook(self, file: Path, variables: dict[str, Any], fails: bool = False) -> playbook.Run:
        """Run a playbook against this host."""
        given = self.inventory.with_name(f"{self.release}.yml")
        given.write_text(yaml.safe_dump(variables, allow_unicode=True))
        return playbook.run(
            file,
            *("--limit", self.name, "-e", f"@{given}"),
            inventory=self.inventory,
            fails=fails,
            environment={**self.environment, **FAST},
        )
