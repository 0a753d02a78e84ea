# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Implementation of M(selfhosted.mail.check) on the controller."""

from __future__ import annotations

import json
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible_collections.selfhosted.mail.plugins.module_utils.finding import Finding, finding
from ansible_collections.selfhosted.mail.plugins.plugin_utils.outside import SITE, look

WORST_FIRST = ("error", "warning", "unknown", "ok")
STATUS = "/usr/local/sbin/mail-status"
WRONG = 2  # its exit code
LOOK_AT_DNS = "selfhosted-mail-dns@3.service"  # the instance: seconds until a problem is looked at again
PROVE_DNS = "/usr/local/lib/selfhosted-mail/prove-dns"


def rank(found: Finding) -> tuple[int, bool]:
    return WORST_FIRST.index(found["status"]), not found["required"]


def lines(found: Finding) -> list[str]:
    """The finding as text."""
    shown = f"{found['status']:9} {found['check']:12} {found['subject']:18} {found['text']}"
    return [shown, *([f"{'':9} try: {found['fix']}"] if found["fix"] else [])]


class ActionModule(ActionBase):
    """Checks the host of the task from the controller and by programs and modules on the host."""

    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _spec, wanted = self.validate_argument_spec(
            argument_spec={
                "hostname": {"type": "str", "required": True},
                "address": {"type": "str", "required": True},
                "tls_mode": {"type": "str", "required": True},
                "relay_host": {"type": "str", "default": ""},
                "relay_port": {"type": "int", "default": 587},
                "relay_tls": {"type": "str", "default": "starttls"},
                "domains": {"type": "list", "elements": "str", "required": True},
                "unsigned_headers": {"type": "list", "elements": "str", "default": []},
                "patience": {"type": "int", "default": 60},
            }
        )
        variables = task_vars or {}
        if self._connection.transport.rpartition(".")[2] == "local":
            text = "Ansible runs on the server itself, so nothing was tested from outside"
            found = [finding("port", wanted["address"], "unknown", text)]
        else:
            found = look(wanted["address"], wanted["hostname"], wanted["tls_mode"], patience=10)
        try:
            # mail-status runs last, so that it knows what the provider has just accepted or refused.
            found += self._login(wanted, variables) + self._proof(wanted, variables) + self._dns() + self._status()
        except AnsibleConnectionFailure as error:
            found.append(finding("host", variables["inventory_hostname"], "unknown", f"cannot be reached: {error}"))
        found = [{"host": variables["inventory_hostname"], **one} for one in sorted(found, key=rank)]
        wrong = sum(one["required"] and one["status"] == "error" for one in found)
        return {
            **result,
            "changed": False,
            "findings": found,
            "lines": [line for one in found for line in lines(one)],
            "wrong": wrong,
        }

    def _status(self) -> list[Finding]:
        done = self._low_level_execute_command(f"{STATUS} --json")
        if done["rc"] not in (0, WRONG):
            text = (done["stderr"] or done["stdout"]).strip() or f"exit code {done['rc']}"
            return [finding("host", "mail-status", "error", text, SITE)]
        found: list[Finding] = json.loads(done["stdout"])
        return found

    def _dns(self) -> list[Finding]:
        """Look the published records up again, which mail-status then shows, and check the host's name resolution.

        Without the role dns there are no findings.
        """
        self._low_level_execute_command(f"systemctl start {LOOK_AT_DNS}")
        done = self._low_level_execute_command(f"{PROVE_DNS} --resolution")
        found: list[Finding] = json.loads(done["stdout"]) if done["rc"] == 0 else []
        return found

    def _login(self, wanted: dict[str, Any], variables: dict[str, Any]) -> list[Finding]:
        if not wanted["relay_host"]:
            return []
        arguments = {name: wanted[f"relay_{name}"] for name in ("host", "port", "tls")}
        arguments["helo"] = wanted["hostname"]
        done = self._execute_module("selfhosted.mail.smtp_login", arguments, task_vars=variables)
        status = {True: "ok", False: "error"}.get(done.get("accepted"), "unknown")
        fix = "# check mail_relay_host, mail_relay_port and mail_relay_tls"
        if "AUTH" in done["msg"]:
            fix = "# set mail_relay_username and its password to what the provider shows"
        return [finding("login", wanted["relay_host"], status, done["msg"], fix if status == "error" else "")]

    def _proof(self, wanted: dict[str, Any], variables: dict[str, Any]) -> list[Finding]:
        arguments = {name: wanted[name] for name in ("hostname", "domains", "unsigned_headers", "patience")}
        arguments["relay"] = wanted["relay_host"]
        done = self._execute_module("selfhosted.mail.relay_proof", arguments, task_vars=variables)
        if "findings" not in done:
            return [finding("proof", "all", "error", str(done.get("msg", done)))]
        found: list[Finding] = done["findings"]
        return found
