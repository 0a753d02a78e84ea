# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's part of M(selfhosted.mail.daemon_config): it reads and renders the files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import lookup_loader
from ansible_collections.selfhosted.mail.plugins.module_utils.fileset import FILE_OPTIONS


class Variables(dict[str, Any]):
    """Variables with a shallow ``deepcopy``, which is enough as nothing changes them in place.

    ansible.builtin.template copies all variables, which with thousands of accounts takes seconds for each template.
    """

    def __deepcopy__(self, _memo: dict[int, Any]) -> dict[str, Any]:
        return dict(self)


class ActionModule(ActionBase):
    """Moves ``files`` with their texts to ``files_json``.

    Ansible writes a module's parameters into the managed host's journal. With ``no_log`` for each text, the texts would
    be hidden there and in every diff; as one value they are hidden only there.
    """

    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        spec = {"files": {"type": "list", "elements": "dict", "options": FILE_OPTIONS, "default": []}}
        checked = ArgumentSpecValidator(spec).validate({"files": arguments.pop("files", [])})
        if checked.error_messages:
            # The message about an invalid item could quote it.
            raise AnsibleActionFail("daemon_config: an item of files is not as the documentation says")
        files = [one for file in checked.validated_parameters["files"] for one in self._each(file)]
        variables = Variables(task_vars or {})
        for file in files:
            if file["state"] == "present" and file["content"] is None:
                self._read(file, variables)
        arguments["files_json"] = json.dumps(files)
        result.update(
            self._execute_module(
                module_name="selfhosted.mail.daemon_config", module_args=arguments, task_vars=task_vars
            )
        )
        return result

    def _each(self, file: dict[str, Any]) -> list[dict[str, Any]]:
        """The file, or all files of the role that match the pattern in its name.

        :raises AnsibleError: if the role has no such directory.
        """
        folder, name = os.path.split(file["dest"])
        if "*" not in name:
            return [file]
        source = Path(self._find_needle("files", folder.lstrip("/")))
        return [{**file, "dest": f"{folder}/{path.name}"} for path in sorted(source.glob(name))]

    def _read(self, file: dict[str, Any], variables: Variables) -> None:
        """Fill in ``content`` and, for an executable, ``mode``.

        :raises AnsibleError: if the role has no such template or file, or it cannot be rendered.
        """
        name = file["src"] or f"{file['dest'].lstrip('/')}.j2"
        if name.endswith(".j2"):
            try:
                self._find_needle("templates", name)
            except AnsibleError:
                if file["src"]:
                    raise
                name = name.removesuffix(".j2")
        if name.endswith(".j2"):
            template = lookup_loader.get("ansible.builtin.template", loader=self._loader, templar=self._templar)
            file["content"] = template.run([name], variables)[0]
            return
        source = self._find_needle("files", name)
        file["content"] = Path(source).read_text(encoding="utf-8")
        if file["mode"] is None and os.access(source, os.X_OK):
            file["mode"] = "0755"
