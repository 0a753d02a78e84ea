# SPDX-License-Identifier: GPL-3.0-or-later
"""A container with systemd, driven by Ansible from this checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
RELEASES = ("debian12", "debian13")


class Unsafe(str):
    """A text that Ansible must not take for a template."""


yaml.SafeDumper.add_representer(Unsafe, lambda dumper, text: dumper.represent_scalar("!unsafe", str(text)))


class Host:
    """A container of one release."""

    def __init__(self, release: str, directory: Path) -> None:
        self.release = release
        self.name = f"accepted-{release}"
        self.inventory = directory / "inventory.yml"
        self.environment = {
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": f"{CHECKOUT}/playbooks/collections",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_CONFIG": str(directory / "ansible.cfg"),
            "ANSIBLE_HOME": str(directory / self.release),
            "ANSIBLE_PIPELINING": "1",
        }

    def up(self) -> None:
        """A fresh container, systemd running."""
        subprocess.run([CHECKOUT / "tools/host-up", self.name, f"mail.{self.release}.test", self.release], check=True)

    def down(self) -> None:
        """Remove the container."""
        subprocess.run(["docker", "rm", "-f", self.name], check=True, capture_output=True)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command inside, whatever its exit code."""
        return subprocess.run(["docker", "exec", self.name, *command], capture_output=True, text=True, check=False)

    def says(self, *command: str) -> str:
        """Output of a command inside, which has to succeed."""
        done = self.run(*command)
        assert done.returncode == 0, f"{self.release}: {' '.join(command)}: {done.stderr or done.stdout}"
        return done.stdout

    def write(self, path: str, text: str) -> None:
        """A file inside."""
        subprocess.run(
            ["docker", "exec", "-i", self.name, "sh", "-c", 'cat > "$1"', "sh", path], input=text, text=True, check=True
        )

    def module(self, name: str, *options: str, **arguments: Any) -> dict[str, Any]:
        """Result of one of the collection's modules, run here by ``ansible``."""
        done = subprocess.run(
            [
                BIN / "ansible",
                "-i",
                self.inventory,
                self.name,
                "-m",
                f"selfhosted.mail.{name}",
                "-a",
                json.dumps(arguments),
                *options,
            ],
            env=self.environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        _what, arrow, text = done.stdout.partition(" => ")
        assert arrow, done.stdout + done.stderr
        result: dict[str, Any] = json.JSONDecoder().raw_decode(text)[0]
        return {**result, "failed": done.returncode != 0}

    def playbook(self, file: Path, variables: dict[str, Any], *options: str) -> subprocess.CompletedProcess[str]:
        """Run a playbook against this host."""
        given = self.inventory.with_name(f"{self.release}.yml")
        given.write_text(yaml.safe_dump(variables, allow_unicode=True))
        return subprocess.run(
            [BIN / "ansible-playbook", "-i", self.inventory, "--limit", self.name, "-e", f"@{given}", *options, file],
            env=self.environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
