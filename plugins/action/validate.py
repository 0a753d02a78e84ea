# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Implementation of M(selfhosted.mail.validate) on the controller."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.selfhosted.mail.plugins.plugin_utils import validation
from ansible_collections.selfhosted.mail.plugins.plugin_utils.unreadable import Reader


class ActionModule(ActionBase):
    """Evaluates and checks the variables of the host of the task."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        _spec, arguments = self.validate_argument_spec(
            argument_spec={"required": {"type": "list", "elements": "str", "default": []}}
        )
        typos, others = validation.unknown(variables)
        values, found = Reader(self._templar, variables).read(validation.CHECKS)
        if not found:
            found = validation.problems(values, arguments["required"], variables.get("ansible_facts"))
        found += [
            f"{name}: is not a variable of this collection; did you mean {known}?" for name, known in typos.items()
        ]
        result["changed"] = False
        result["warnings"] = [f"{name}: is not a variable of this collection, and is ignored" for name in others]
        result["zone_files"] = validation.zone_files(values) if "mail_domain" in values and not found else []
        if found:
            result.update(failed=True, msg="\n".join(found))
        return result
