# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection builds, and works and has its documentation when installed without the checkout."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

BIN = Path(sys.executable).parent
# First path components that belong into the artefact; all others are for developers.
SHIPPED = {
    "CHANGELOG.md",
    "FILES.json",
    "LICENSE",
    "MANIFEST.json",
    "README.md",
    "changelogs",
    "docs",
    "inventory.example",
    "meta",
    "playbooks",
    "plugins",
    "roles",
}


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory, checkout: Path) -> Path:
    """The collection, built from this checkout."""
    directory = tmp_path_factory.mktemp("artefact")
    command: list[str | Path] = [BIN / "ansible-galaxy", "collection", "build", "--output-path", directory, checkout]
    subprocess.run(command, check=True, capture_output=True)
    [built] = directory.glob("selfhosted-mail-*.tar.gz")
    return built


class Installed:
    """The collection as a user has it."""

    def __init__(self, artefact: Path, directory: Path) -> None:
        self.directory = directory
        self.run(
            "ansible-galaxy", "collection", "install", "--offline", "-p", str(directory / "collections"), str(artefact)
        )
        self.root = directory / "collections" / "ansible_collections" / "selfhosted" / "mail"

    def run(self, program: str, *options: str) -> str:
        """Output of an Ansible program with only this collection installed, outside the checkout."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE", "PYTHON"))}
        environment |= {
            "ANSIBLE_COLLECTIONS_PATH": str(self.directory / "collections"),
            "ANSIBLE_HOME": str(self.directory / "home"),
            "ANSIBLE_NOCOLOR": "1",
        }
        done = subprocess.run(
            [BIN / program, *options], cwd=self.directory, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{program} {' '.join(options)}: {done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def installed(artefact: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(artefact, tmp_path_factory.mktemp("installed"))


def test_the_artefact_has_what_users_need_and_nothing_else(artefact: Path) -> None:
    with tarfile.open(artefact) as archive:
        sizes = {member.name: member.size for member in archive.getmembers()}
    names = set(sizes)
    assert {name.split("/")[0] for name in names} <= SHIPPED
    parts = {part for name in names for part in name.split("/")}
    assert not {"tests", "__pycache__", "collections"} & parts
    assert not [part for part in parts if part.startswith(".") or part.endswith((".pyc", ".tar.gz"))]
    for needed in ("LICENSE", "README.md", "meta/runtime.yml", "playbooks/site.yml", "inventory.example/hosts.yml"):
        assert needed in names
    assert max(sizes.values()) < 200_000, "no large binaries"


def test_every_role_explains_its_options(installed: Installed) -> None:
    roles = {path.name: path / "meta/argument_specs.yml" for path in (installed.root / "roles").iterdir()}
    names = [f"selfhosted.mail.{role}" for role in roles]
    shown = json.loads(installed.run("ansible-doc", "-t", "role", "--json", *names))
    for role, specs in roles.items():
        for name, entry_point in yaml.safe_load(specs.read_text())["argument_specs"].items():
            options = shown[f"selfhosted.mail.{role}"]["entry_points"][name]["options"]
            assert set(options) == set(entry_point["options"]), role


def test_every_module_explains_itself(installed: Installed) -> None:
    modules = sorted(path.stem for path in (installed.root / "plugins/modules").glob("*.py"))
    shown = installed.run("ansible-doc", "-t", "module", *(f"selfhosted.mail.{name}" for name in modules))
    for name in modules:
        assert f"MODULE selfhosted.mail.{name}" in shown
    assert shown.count("EXAMPLES:") == len(modules)


def test_every_filter_explains_itself(installed: Installed) -> None:
    names = sorted(path.stem for path in (installed.root / "plugins/filter").glob("*.yml"))
    code = (installed.root / "plugins/filter/mail.py").read_text()
    assert names == sorted(re.findall(r'^ {12}"(\w+)": ', code, re.MULTILINE))
    shown = installed.run("ansible-doc", "-t", "filter", *(f"selfhosted.mail.{name}" for name in names))
    for name in names:
        assert f"FILTER selfhosted.mail.{name}" in shown


@pytest.mark.parametrize("name", ["check", "restore", "site", "upgrade"])
def test_a_playbook_is_found_by_its_name(installed: Installed, name: str) -> None:
    installed.run("ansible-playbook", "--syntax-check", "-i", "localhost,", f"selfhosted.mail.{name}")
