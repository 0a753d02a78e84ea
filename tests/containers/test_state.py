# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts that are refused: set up by a newer collection or as another Debian, or without a role's requirements."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from testbed.host import Host
from testbed.playbook import CHECKOUT

STATE = "/var/lib/selfhosted-mail/state.json"
NEWER = (
    "This host was set up with a newer version of this collection. Its state has version 1000, this collection "
    "supports version 1: use that collection or a newer one"
)
OLDER = "This host was set up as Debian 11 and is Debian 12 now: run the playbook upgrade"
PING = "TASK [ansible.builtin.ping]"
ROLE = """
- hosts: all
  gather_facts: false
  roles:
    - role: selfhosted.mail.mail
  tasks:
    - ansible.builtin.ping:
"""


@pytest.fixture
def host(hosts: dict[str, Host]) -> Iterator[Host]:
    host = hosts["debian12"]
    host.says("mkdir", "-p", "/var/lib/selfhosted-mail")
    yield host
    host.says("rm", STATE)


@pytest.fixture
def role(tmp_path: Path) -> Path:
    """A user's playbook, with a role that depends on the role mail."""
    file = tmp_path / "role.yml"
    file.write_text(ROLE)
    return file


def play(host: Host, playbook: Path, fails: bool, **variables: Any) -> str:
    given = {"mail_domain": "state.test", "mail_accounts": [{"address": "a@state.test", "password": "no secret"}]}
    return " ".join(host.playbook(playbook, {**given, **variables}, fails=fails).output.split())


@pytest.mark.parametrize(("version", "release", "said"), [(1000, "12", NEWER), (1, "11", OLDER)])
def test_what_is_newer_or_another_release_is_refused(
    host: Host, role: Path, version: int, release: str, said: str
) -> None:
    host.write(STATE, json.dumps({"version": version, "release": release}))
    site = role.with_name("site.yml")
    site.write_text((CHECKOUT / "playbooks/site.yml").read_text().replace("hosts: mail\n", "hosts: all\n"))
    for playbook, variables in ((site, {}), (role, {}), (role, {"mail_validate": False})):
        output = play(host, playbook, True, **variables)
        assert said in output
        assert PING not in output
    assert host.says("find", "/etc", "/usr", "-newer", STATE) == ""


def test_upgrade_takes_another_release_and_no_newer_version(host: Host, role: Path) -> None:
    host.write(STATE, json.dumps({"version": 1, "release": "11"}))
    assert PING in play(host, role, False, mail_upgrade=True)
    host.write(STATE, json.dumps({"version": 1000, "release": "11"}))
    assert NEWER in play(host, role, True, mail_upgrade=True)


def test_the_state_of_the_last_run_is_taken(host: Host, role: Path) -> None:
    host.write(STATE, json.dumps({"version": 1, "release": "12"}))
    assert PING in play(host, role, False)


def test_the_watch_is_refused_without_opensmtpd(role: Path, tmp_path: Path) -> None:
    role.write_text(ROLE.replace("mail.mail", "mail.status"))
    host = Host("debian13", tmp_path, "accepted-bare")
    connection = {"ansible_connection": "docker", "ansible_python_interpreter": "/usr/bin/python3"}
    host.inventory.write_text(yaml.safe_dump({"all": {"hosts": {host.name: connection}}}))
    try:
        host.up()
        assert "status_watch: the watch needs OpenSMTPD on the host" in play(host, role, True)
        assert host.says("find", "/etc", "-name", "selfhosted-mail-watch*") == ""
    finally:
        host.down()
