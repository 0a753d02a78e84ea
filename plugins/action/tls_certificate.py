# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Implementation of M(selfhosted.mail.tls_certificate) on the controller."""

from __future__ import annotations

import json
import secrets
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.selfhosted.mail.plugins.plugin_utils.outside import port_80

PROGRAM = "/usr/local/lib/selfhosted-mail/certificate"
LISTENER = "selfhosted-mail-port-80.service"
PATIENCE = 10  # seconds for an answer on port 80
LIMITS = "-p DynamicUser=yes -p AmbientCapabilities=CAP_NET_BIND_SERVICE -p RuntimeMaxSec=300"


class ActionModule(ActionBase):
    """Runs the role's program on the host of the task, and tests port 80 from the controller before an order."""

    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _spec, wanted = self.validate_argument_spec(argument_spec={"hostname": {"type": "str", "required": True}})
        if self._task.check_mode:
            return {**result, "changed": False, "done": []}
        report = self._program("--before-port-80")
        done, problems = report["done"], report["problems"]
        if report["port_80"]:
            problems += self._port_80(report["port_80"], wanted["hostname"])
            if not problems:
                report = self._program()
                done, problems = done + report["done"], report["problems"]
        # Ansible shows identical warnings of several hosts only once.
        result["warnings"] = [f"certificate of {wanted['hostname']}: {problem}" for problem in problems]
        return {**result, "changed": bool(done), "done": done}

    def _program(self, *words: str) -> dict[str, list[str]]:
        """The program's report. A failure of the program is a problem, too."""
        said = self._low_level_execute_command(" ".join([PROGRAM, *words]))
        if said["rc"]:
            text = (said["stderr"] or said["stdout"]).strip().rpartition("\n")[2]
            return {"done": [], "problems": [f"{PROGRAM}: {text}"], "port_80": []}
        report: dict[str, list[str]] = json.loads(said["stdout"].strip().splitlines()[-1])
        return report

    def _port_80(self, addresses: list[str], hostname: str) -> list[str]:
        """Why an ACME server would not reach the host, a sentence for each affected address."""
        if self._connection.transport.rpartition(".")[2] == "local":
            return []
        token = secrets.token_hex(16)
        self._low_level_execute_command(
            f"systemd-run --quiet --collect --unit={LISTENER} {LIMITS} {PROGRAM} --answer {token}"
        )
        try:
            said = [port_80(address, hostname, token, PATIENCE) for address in addresses]
        finally:
            self._low_level_execute_command(f"systemctl stop {LISTENER}")
        return [sentence for sentence in said if sentence]
