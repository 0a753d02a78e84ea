# SPDX-License-Identifier: GPL-3.0-or-later
"""Name servers on loopback; what the roles write."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dns.resolver
import dns_proof.world
import pytest
import yaml
from name_server import ADDRESS, NameServer

CHECKOUT = Path(__file__).resolve().parents[3]
ROLES = ("certificate", "smtp_relay", "opensmtpd", "dovecot", "dns")
FACTS = {
    "distribution": "Debian",
    "default_ipv4": {"address": "198.51.100.7"},
    "default_ipv6": {"address": "2001:db8::7"},
    "all_ipv4_addresses": ["198.51.100.7"],
    "all_ipv6_addresses": ["2001:db8::7"],
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> NameServer:
    """That of our zones and of all others."""
    found = NameServer()
    monkeypatch.setattr(dns_proof.world, "PORT", found.port)
    monkeypatch.setattr(dns_proof.world, "PATIENCE", 10)
    return found


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch, server: NameServer) -> None:
    """For what does not answer; what does has three times as long."""
    monkeypatch.setattr(dns_proof.world, "PATIENCE", 0.5)


@pytest.fixture
def world(server: NameServer, monkeypatch: pytest.MonkeyPatch) -> dns_proof.world.World:
    """Of the zone example.org."""
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers, resolver.port = [ADDRESS], server.port
    resolver.lifetime = 30
    monkeypatch.setattr(dns_proof.world, "system_resolver", lambda: resolver)
    return dns_proof.world.World(["example.org"], [ADDRESS])


Rendered = Callable[..., dict[str, str]]


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """``rendered(name={variables, facts}, …)``: host to what the roles' templates make, by Ansible, in one run."""

    def run(**hosts: dict[str, Any]) -> dict[str, str]:
        folder = tmp_path_factory.mktemp("rendered")
        (folder / "ansible.cfg").touch()
        include = [f"{CHECKOUT}/roles/mail/defaults/main.yml", f"{CHECKOUT}/roles/mail/vars/main.yml"]
        include += [f"{CHECKOUT}/roles/{role}/{part}/main.yml" for role in ROLES for part in ("defaults", "vars")]
        templates = [f"{CHECKOUT}/roles/{role}/templates/etc/selfhosted-mail/records.d/{role}.j2" for role in ROLES]
        write = {
            "content": "".join(f"{{{{ lookup('ansible.builtin.template', '{file}') }}}}" for file in templates),
            "dest": f"{folder}/{{{{ inventory_hostname }}}}",
        }
        play = {
            "hosts": "all",
            "gather_facts": False,
            # In the place of the roles' defaults, which an inventory wins over.
            "vars_files": [file for file in include if "/vars/" in file],
            "tasks": [
                {"ansible.builtin.set_fact": {"cacheable": True, **FACTS}},
                {"ansible.builtin.copy": write},
            ],
        }
        defaults: dict[str, Any] = {}
        for file in include:
            if "/defaults/" in file:
                defaults |= yaml.safe_load(Path(file).read_text()) if Path(file).exists() else {}
        local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        inventory = {"all": {"hosts": {name: {**defaults, **local, **given} for name, given in hosts.items()}}}
        (folder / "hosts.yml").write_text(yaml.safe_dump(inventory))
        (folder / "play.yml").write_text(yaml.safe_dump([play]))
        done = subprocess.run(
            [Path(sys.executable).parent / "ansible-playbook", "-i", folder / "hosts.yml", folder / "play.yml"],
            env={
                **os.environ,
                "ANSIBLE_COLLECTIONS_PATH": f"{CHECKOUT}/playbooks/collections",
                "ANSIBLE_CONFIG": f"{folder}/ansible.cfg",
                "ANSIBLE_HOME": f"{folder}/ansible",
            },
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-3000:]
        return {name: (folder / name).read_text() for name in hosts}

    return run
