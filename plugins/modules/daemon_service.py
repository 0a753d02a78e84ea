#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: apply a daemon's files to its service, or roll them back."""

from __future__ import annotations

DOCUMENTATION = r"""
module: daemon_service
short_description: Apply a daemon's files to its service, or roll them back
version_added: "0.1.0"
description:
  - Enables, starts, restarts or reloads a systemd unit and waits until it answers.
  - If it does not come up with the files that M(selfhosted.mail.daemon_config) has written, they are rolled back, the
    unit is started with the previous set, and the module fails with the end of the unit's journal.
author: ["selfhosted.mail developers (!UNKNOWN)"]
options:
  name: {description: "systemd unit, as given to M(selfhosted.mail.daemon_config).", type: str, required: true}
  state:
    description: The action to take, as returned by M(selfhosted.mail.daemon_config).
    type: str
    choices: [unchanged, started, reloaded, restarted]
    default: restarted
  companions:
    description: Further units that are enabled and started with it, such as timers.
    type: list
    elements: str
    default: []
  reload_commands:
    description: Commands that reload the service. Without any, C(systemctl reload) is used.
    type: list
    elements: list
    default: []
  ready_ports: {description: TCP ports that must have a listener., type: list, elements: int, default: []}
  ready_commands: {description: Commands that must end with exit code 0., type: list, elements: list, default: []}
  wait:
    description:
      - Whether to wait until the service is ready. With V(false) it starts in the background, and a later task with
        V(true) and O(state=started) must wait for it.
    type: bool
    default: true
  timeout: {description: Seconds to wait for the service to be ready., type: int, default: 60}
extends_documentation_fragment: [ansible.builtin.action_common_attributes]
attributes:
  platform: {platforms: debian}
  check_mode: {support: full}
  diff_mode: {support: none}
"""

EXAMPLES = r"""
- name: Start the signing proxy
  selfhosted.mail.daemon_service:
    name: dkimproxy.service
    state: "{{ config.state }}"
    ready_ports: [10027]
"""

RETURN = r"""
restored:
  description: Files that were rolled back because the service did not start with them.
  type: list
  elements: str
  returned: failure
"""

import contextlib
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.mail.plugins.module_utils.command import CommandFailed, run
from ansible_collections.selfhosted.mail.plugins.module_utils.fileset import Previous, reload_systemd_for
from ansible_collections.selfhosted.mail.plugins.module_utils.systemd_unit import Unit

# During the playbook upgrade, a unit with a file here does not start until its new configuration is in place.
HELD = Path("/var/lib/selfhosted-mail/upgrade")
LISTEN = "0A"  # a socket's state in /proc/net/tcp, as the kernel's tcp_states.h numbers them


class NotReady(Exception):
    """The service is not up; ``str()`` says what is missing."""


def listening() -> set[int]:
    """TCP ports with a listener, from proc(5), as a firewall may refuse a connection."""
    ports = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            _number, local, _remote, state = line.split()[:4]
            if state == LISTEN:
                ports.add(int(local.rpartition(":")[2], 16))
    return ports


def missing(wanted: dict[str, Any]) -> str | None:
    """Why the service is not ready yet, or None."""
    if not Unit(wanted["name"]).active:
        return "the unit is not active"
    ports = listening() if wanted["ready_ports"] else set()
    for port in wanted["ready_ports"]:
        if port not in ports:
            return f"no process listens on port {port}"
    for argv in wanted["ready_commands"]:
        try:
            run(argv)
        except CommandFailed as error:
            return f"{' '.join(argv)}: {error}"
    return None


def wait_until_ready(wanted: dict[str, Any]) -> None:
    """:raises NotReady: if the unit has failed or the time is over."""
    end = time.monotonic() + wanted["timeout"]
    while (lack := missing(wanted)) is not None:
        if time.monotonic() > end or Unit(wanted["name"]).properties.get("ActiveState") == "failed":
            raise NotReady(lack)
        time.sleep(0.2)


def bring_up(wanted: dict[str, Any]) -> None:
    """:raises CommandFailed, NotReady: if the service does not come up."""
    service = wanted["name"]
    run(["systemctl", "enable", "--quiet", service, *wanted["companions"]])
    if wanted["state"] == "reloaded":
        for argv in wanted["reload_commands"] or [["systemctl", "reload", service]]:
            run(argv)
        Unit(service).stamp_reload()
    else:
        with contextlib.suppress(CommandFailed):  # fails for a unit that is not loaded yet
            run(["systemctl", "reset-failed", service])
        (HELD / service).unlink(missing_ok=True)
        verb = "start" if wanted["state"] == "started" else "restart"
        run(["systemctl", *([] if wanted["wait"] else ["--no-block"]), verb, service])
    if wanted["companions"]:
        run(["systemctl", "start", *wanted["companions"]])
    if wanted["wait"]:
        wait_until_ready(wanted)


def bring_back(wanted: dict[str, Any]) -> str | None:
    """Restart the service with the previous files, without new companions; returns what is still wrong, or None."""
    for unit in wanted["companions"]:
        if not Unit(unit).exists:
            # Its unit file was one of those that were rolled back.
            with contextlib.suppress(CommandFailed):
                run(["systemctl", "disable", "--now", "--quiet", unit])
    try:
        run(["systemctl", "restart", wanted["name"]])
    except CommandFailed as error:
        return str(error)
    for _look in range(3):
        time.sleep(1)
        if not Unit(wanted["name"]).active:
            return "it ended again"
    return None


def said_about(units: list[str]) -> list[str]:
    """Matches for journalctl: those of its option --unit, and the process.

    A process that ends at once can be gone before journald has asked for its unit. It is found by its number.
    """
    matches: list[str] = []
    for unit in units:
        matches += [f"_SYSTEMD_UNIT={unit}", "+", "_PID=1", f"UNIT={unit}", "+"]
        # Of journald and of systemd-coredump.
        matches += ["_UID=0", f"OBJECT_SYSTEMD_UNIT={unit}", "+", "_UID=0", f"COREDUMP_UNIT={unit}", "+"]
        matches += [f"_PID={Unit(unit).properties.get('ExecMainPID', '0')}", "+"]
    return matches[:-1]


def journal_end(units: list[str]) -> str:
    try:
        # journald then reads first what it has not read yet, such as the daemon's last line.
        run(["journalctl", "--sync"])
        options = ["--boot", "--lines", "15", "--no-pager", "--output", "cat"]
        return run(["journalctl", *options, *said_about(units)]).strip()
    except CommandFailed:
        return ""


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {
                "type": "str",
                "choices": ["unchanged", "started", "reloaded", "restarted"],
                "default": "restarted",
            },
            "companions": {"type": "list", "elements": "str", "default": []},
            "reload_commands": {"type": "list", "elements": "list", "default": []},
            "ready_ports": {"type": "list", "elements": "int", "default": []},
            "ready_commands": {"type": "list", "elements": "list", "default": []},
            "wait": {"type": "bool", "default": True},
            "timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    wanted = module.params
    service = wanted["name"]
    if wanted["state"] == "unchanged" or module.check_mode:
        module.exit_json(changed=wanted["state"] != "unchanged")
    previous = Previous(service)
    try:
        bring_up(wanted)
    except (CommandFailed, NotReady) as error:
        said = journal_end([service, *wanted["companions"]])
        text = f"{service} does not start ({error}). The end of its journal:\n{said}"
        if restored := previous.restore():
            reload_systemd_for(restored)
            lack = bring_back(wanted)
            outcome = f"but the service does not run with them either: {lack}" if lack else "and it runs with them."
            text += f"\nThe previous files were restored, {outcome}"
        module.fail_json(msg=text, restored=restored)
    if wanted["wait"]:
        previous.forget()
    module.exit_json(changed=True)


if __name__ == "__main__":
    main()
