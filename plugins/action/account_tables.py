# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's part of M(selfhosted.mail.account_tables): it sends the accounts as one hidden value."""

from __future__ import annotations

import json
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """Moves ``accounts`` to ``accounts_json``.

    Ansible searches a module's output for each hidden value, which takes too long for thousands; one value hides them
    just as well. Sieve scripts, which the tables do not need, are left out.
    """

    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        accounts = arguments.pop("accounts", None)
        if not isinstance(accounts, list) or not all(isinstance(account, dict) for account in accounts):
            raise AnsibleActionFail("account_tables: accounts must be a list of mappings")
        arguments["accounts_json"] = json.dumps(
            [{key: value for key, value in account.items() if key != "sieve"} for account in accounts]
        )
        result.update(
            self._execute_module(
                module_name="selfhosted.mail.account_tables", module_args=arguments, task_vars=task_vars
            )
        )
        return result
