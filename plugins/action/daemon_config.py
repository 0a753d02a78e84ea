# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of M(selfhosted.mail.daemon_config) on the controller: texts of files leave it as one hidden value."""

from __future__ import annotations

import json
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.action import ActionBase
from ansible_collections.selfhosted.mail.plugins.module_utils.fileset import FILE_OPTIONS


class ActionModule(ActionBase):
    """Moves ``files`` to ``files_json``.

    Ansible writes a module's parameters into the managed host's journal. Marked ``no_log`` one by one the texts would
    be hidden there, and in every diff too; as one value they are hidden there alone.
    """

    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        spec = {"files": {"type": "list", "elements": "dict", "options": FILE_OPTIONS, "default": []}}
        checked = ArgumentSpecValidator(spec).validate({"files": arguments.pop("files", [])})
        if checked.error_messages:
            # The message of a wrong item could quote it.
            raise AnsibleActionFail("daemon_config: an item of files is not as the documentation says")
        arguments["files_json"] = json.dumps(checked.validated_parameters["files"])
        result.update(self._execute_module(module_name="selfhosted.mail.daemon_config", module_args=arguments,
                                           task_vars=task_vars))
        return result
