# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of M(selfhosted.mail.zone_files) that does the work, on the controller."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """Writes one ``<zone>.zone`` for each item of ``zones``."""

    _requires_connection = False
    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _spec, arguments = self.validate_argument_spec(argument_spec={
            "directory": {"type": "path", "required": True},
            "zones": {"type": "dict", "required": True},
        })
        directory = Path(arguments["directory"])
        wanted = {directory / f"{name}.zone": str(text) for name, text in arguments["zones"].items()}
        before = {path: path.read_text() if path.exists() else "" for path in wanted}
        changed = [path for path, text in wanted.items() if before[path] != text]
        if not self._task.check_mode:
            try:
                for path in changed:
                    directory.mkdir(parents=True, exist_ok=True)
                    path.write_text(wanted[path])
            except OSError as error:
                raise AnsibleActionFail(f"mail_dns_output_dir: {error}") from error
        result["changed"] = bool(changed)
        result["paths"] = [str(path) for path in wanted]
        result["diff"] = [{"before_header": str(path), "after_header": str(path), "before": before[path],
                           "after": wanted[path]} for path in changed]
        return result
