# SPDX-License-Identifier: GPL-3.0-or-later
"""The example of each role's README, run twice on a fresh host. tests/unit checks that it is valid."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from testbed.examples import ROLES, VAULT, examples
from testbed.host import RELEASES, Host

ARCHIVE = os.environ.get("DKIMPROXY_ARCHIVE", "")


@pytest.fixture(params=RELEASES)
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Host]:
    """A fresh one."""
    host = Host(request.param, tmp_path, f"example-{request.param}")
    try:
        host.up()
        yield host
    finally:
        host.down()


@pytest.mark.long
@pytest.mark.parametrize("role", ROLES)
def test_example(role: str, host: Host, tmp_path: Path) -> None:
    if role == "dkimproxy_upstream":
        if not ARCHIVE:
            pytest.skip("no tarball (DKIMPROXY_ARCHIVE is not set)")
        (tmp_path / "dkimproxy-1.4.1.tar.gz").symlink_to(Path(ARCHIVE).resolve())
    [text] = examples(role)
    playbook = tmp_path / "playbook.yml"
    playbook.write_text(text)
    docker = {"ansible_connection": "docker", "ansible_python_interpreter": "/usr/bin/python3"}
    group = {"hosts": {host.name: None}, "vars": {**docker, **VAULT}}
    host.inventory.write_text(yaml.safe_dump({yaml.safe_load(text)[0]["hosts"]: group}))
    host.playbook(playbook, {})
    host.playbook(playbook, {}).check_unchanged()
    assert host.says("systemctl", "list-units", "--failed", "--plain", "--no-legend") == ""
