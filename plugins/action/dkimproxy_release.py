# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of M(selfhosted.mail.dkimproxy_release) on the controller: an archive that lies there is read there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.selfhosted.mail.plugins.module_utils.upstream import MAX_SIZE, WrongArchive, checked, texts


class ActionModule(ActionBase):
    """Reads ``archive`` where there is one, and leaves a download to the module on the managed host."""

    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        name = self._task.args.get("archive")
        if not name:
            result.update(self._execute_module(task_vars=task_vars))
            return result
        try:
            # A relative path is where the command is called.
            with Path(name).expanduser().open("rb") as stream:
                data = checked(stream.read(MAX_SIZE), self._task.args["sha256"])
            result["files"] = texts(data, self._task.args["members"])
        except WrongArchive as error:
            raise AnsibleActionFail(f"dkimproxy_upstream_archive: {name} {error}") from None
        except OSError as error:
            raise AnsibleActionFail(f"dkimproxy_upstream_archive: {name} on the controller: {error.strerror}") from None
        result["changed"] = False
        return result
