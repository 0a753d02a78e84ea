#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: deploy and validate a daemon's files as one set."""

from __future__ import annotations

DOCUMENTATION = r"""
module: daemon_config
short_description: Deploy and validate a daemon's files as one set
version_added: "0.1.0"
description:
  - Writes all files that a daemon reads, runs the daemon's own checker on the whole set, and rolls every file back if
    the checker refuses it.
  - RV(state) is the action that the service needs to apply the files on disk, whichever run wrote them. So a run that
    was interrupted before the restart is completed by the next.
  - The service itself is not touched. M(selfhosted.mail.daemon_service) does that.
  - Symbolic links are not followed in directories that users other than root can write to.
author: ["selfhosted.mail developers (!UNKNOWN)"]
options:
  name:
    description:
      - systemd unit that reads the files. It also names the copy of the previous set.
      - Without it the set belongs to no unit, and RV(state) is V(unchanged).
    type: str
  users:
    description: Names of system users, each with a group of the same name, to create before the files.
    type: list
    elements: str
    default: []
  directories:
    description: Directories to create before the files.
    type: list
    elements: dict
    default: []
    suboptions:
      path: {description: The directory., type: path, required: true}
      owner: {description: User., type: str, default: root}
      group: {description: Group., type: str, default: root}
      mode: {description: Mode in octal., type: str, default: "0755"}
  create:
    description: Files such as keys that a command on the host creates if they are missing. They are never overwritten.
    type: list
    elements: dict
    default: []
    suboptions:
      creates: {description: The file., type: path, required: true}
      argv: {description: "Command that writes to the path C({path}).", type: list, elements: str, required: true}
      owner: {description: User., type: str, default: root}
      group: {description: Group., type: str, default: root}
      mode: {description: Mode in octal., type: str, default: "0600"}
      on_change:
        description: What the service must do to use a new file.
        type: str
        choices: [restart, reload, none]
        default: restart
  files:
    description: The files of the set.
    type: list
    elements: dict
    default: []
    suboptions:
      dest:
        description: Path on the host. A name with C(*) stands for all matching files in the role's C(files).
        type: path
        required: true
      src:
        description:
          - A template, whose name ends in C(.j2), in the role's C(templates), or a file in its C(files).
          - Without it and O(files[].content), the path of O(files[].dest) is looked up there, with C(.j2) or without.
        type: str
      content: {description: Text of the file., type: str}
      owner: {description: User., type: str, default: root}
      group: {description: Group., type: str, default: root}
      mode:
        description: Mode in octal. Defaults to C(0755) if the role's file is executable, else to C(0644).
        type: str
      state:
        description: Whether the file is present, absent, or a symbolic link to O(files[].src).
        type: str
        choices: [present, absent, link]
        default: present
      secret: {description: Whether to hide the text in diffs., type: bool, default: false}
      on_change:
        description: What the service must do to apply a change.
        type: str
        choices: [restart, reload, none]
        default: restart
  files_json:
    description:
      - O(files) as JSON. The action plugin of the same name sets it, so that the texts are neither in the managed
        host's journal nor in the output of C(-vvv). A diff shows those that are not secret.
    type: str
    default: "[]"
  purge:
    description:
      - Path patterns, with C(**) for any folders. Matching files that are not in O(files) are removed with the set.
    type: list
    elements: path
    default: []
  commands:
    description: Commands to run after the files are in place, if one of O(commands[].when_changed) has changed.
    type: list
    elements: dict
    default: []
    suboptions:
      argv: {description: The command., type: list, elements: str, required: true}
      when_changed: {description: Files of the set., type: list, elements: path, required: true}
  validate:
    description: Checkers to run after the files are in place. A non-zero exit code rolls the set back.
    type: list
    elements: list
    default: []
  watch:
    description: Files outside the set that the service reads.
    type: list
    elements: dict
    default: []
    suboptions:
      path: {description: The file., type: path, required: true}
      on_change:
        description: What the service must do to apply a change.
        type: str
        choices: [restart, reload, none]
        default: restart
extends_documentation_fragment: [ansible.builtin.action_common_attributes]
attributes:
  platform: {platforms: debian}
  check_mode: {support: full}
  diff_mode: {support: full}
"""

EXAMPLES = r"""
- name: Render the signing proxy's configuration
  selfhosted.mail.daemon_config:
    name: dkimproxy.service
    files:
      - dest: /etc/dkimproxy/dkimproxy_out.conf
        group: dkimproxy
        mode: "0640"
        on_change: reload
    validate:
      - [/usr/local/sbin/dkimproxy.out, --check]
  register: config
"""

RETURN = r"""
changed_paths: {description: Files and directories that were changed., type: list, elements: str, returned: always}
state:
  description: The action that applies the files on disk, for M(selfhosted.mail.daemon_service).
  type: str
  sample: restarted
  returned: always
"""

import contextlib
import glob
import json
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.mail.plugins.module_utils import safe_path
from ansible_collections.selfhosted.mail.plugins.module_utils.command import CommandFailed, make_user, run
from ansible_collections.selfhosted.mail.plugins.module_utils.fileset import (
    FILE_OPTIONS,
    ON_CHANGE,
    ManagedFile,
    Previous,
    access_options,
    rolled_back_on_failure,
)
from ansible_collections.selfhosted.mail.plugins.module_utils.safe_path import Access, user_id
from ansible_collections.selfhosted.mail.plugins.module_utils.systemd_unit import Unit


def list_of(**options: Any) -> dict[str, Any]:
    return {"type": "list", "elements": "dict", "default": [], "options": options}


PATH = {"type": "path", "required": True}
ARGV = {"type": "list", "elements": "str", "required": True}
OPTIONS: dict[str, Any] = {
    "name": {"type": "str"},
    "users": {"type": "list", "elements": "str", "default": []},
    "directories": list_of(path=PATH, **access_options("0755")),
    "create": list_of(creates=PATH, argv=ARGV, on_change=ON_CHANGE, **access_options("0600")),
    "files": list_of(**FILE_OPTIONS),
    "files_json": {"type": "str", "default": "[]", "no_log": True},
    "purge": {"type": "list", "elements": "path", "default": []},
    "commands": list_of(argv=ARGV, when_changed={"type": "list", "elements": "path", "required": True}),
    "validate": {"type": "list", "elements": "list", "default": []},
    "watch": list_of(path=PATH, on_change=ON_CHANGE),
}


def access_of(item: dict[str, Any]) -> Access:
    return Access(item["owner"], item["group"], item["mode"])


def create(item: dict[str, Any]) -> None:
    """Have the command write a file beside the target, then rename it: a killed run leaves no partial file."""
    target, beside = Path(item["creates"]), Path(item["creates"] + ".new")
    safe_path.require_roots_directory(target)
    safe_path.unlink(beside)
    try:
        run([word.replace("{path}", str(beside)) for word in item["argv"]], umask=0o077)
        access_of(item).apply(beside)
        # It is never made again, so it must not be empty after a loss of power.
        run(["sync", str(beside)])
        beside.rename(target)
    finally:
        safe_path.unlink(beside)


def matching(patterns: list[str]) -> list[Path]:
    return [
        Path(name)
        for pattern in patterns
        for name in sorted(glob.glob(pattern, recursive=True))
        if Path(name).is_file()
    ]


def main() -> None:
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    wanted = module.params
    files = [ManagedFile.from_options(item) for item in wanted["files"] + json.loads(wanted["files_json"])]
    known = {file.path for file in files}
    files += [ManagedFile(path, None, on_change="reload") for path in matching(wanted["purge"]) if path not in known]
    try:
        users = [user for user in wanted["users"] if user_id(user) is None]
        directories = [item for item in wanted["directories"] if access_of(item).differs(Path(item["path"]))]
        missing = [item for item in wanted["create"] if not Path(item["creates"]).exists()]
        loose = [
            item for item in wanted["create"] if item not in missing and access_of(item).differs(Path(item["creates"]))
        ]
        changed = [file for file in files if file.differs()]
    except OSError as error:
        module.fail_json(msg=f"{wanted['name'] or 'files'}: {error}")
    changed_paths = [item["path"] for item in directories] + [item["creates"] for item in [*missing, *loose]]
    changed_paths += [str(file.path) for file in changed]
    result: dict[str, Any] = {
        "changed": bool(users or changed_paths),
        "changed_paths": changed_paths,
        "diff": [file.diff() for file in changed],
    }

    if not module.check_mode:
        try:
            for user in users:
                make_user(user)
            for item in directories:
                safe_path.make_directory(Path(item["path"]), access_of(item))
            for item in missing:
                create(item)
            for item in loose:
                access_of(item).apply(Path(item["creates"]))
            if changed:
                put_in_place(changed, wanted)
        except (CommandFailed, OSError, LookupError) as error:
            module.fail_json(msg=f"{wanted['name'] or 'files'}: {error}", changed_paths=changed_paths)

    kinds = {file.on_change for file in changed} | {item["on_change"] for item in missing}
    state = state_for(wanted, files, kinds)
    if state == "unchanged" and not module.check_mode:
        # The service runs this set, so the previous one is no longer needed.
        Previous(wanted["name"] or "files").forget_if_only(file.path for file in files)
    module.exit_json(**result, state=state)


def put_in_place(changed: list[ManagedFile], wanted: dict[str, Any]) -> None:
    """Write the files and validate the set. :raises CommandFailed: with the checker's output, after a rollback."""
    paths = {str(file.path) for file in changed}
    commands = [item["argv"] for item in wanted["commands"] if paths & set(item["when_changed"])]
    try:
        with rolled_back_on_failure(changed, wanted["name"] or "files"):
            for argv in [*commands, *wanted["validate"]]:
                run(argv)
    except CommandFailed:
        for argv in commands:
            # After a first run was rolled back, the command's files are missing and it may fail.
            with contextlib.suppress(CommandFailed):
                run(argv)
        raise


def state_for(wanted: dict[str, Any], files: list[ManagedFile], kinds: set[str]) -> str:
    """The action that applies the files on disk. ``kinds``: the ``on_change`` of what changes in this run."""
    if not wanted["name"]:
        return "unchanged"
    read = [(file.path, file.on_change) for file in files]
    read += [(Path(item["creates"]), item["on_change"]) for item in wanted["create"]]
    read += [(Path(item["path"]), item["on_change"]) for item in wanted["watch"]]
    state = Unit(wanted["name"]).state_for(
        [path for path, kind in read if kind == "restart"], [path for path, kind in read if kind == "reload"]
    )
    # In check mode, and for removed files, the files on disk do not show the change.
    if state in ("unchanged", "reloaded") and "restart" in kinds:
        return "restarted"
    if state == "unchanged" and "reload" in kinds:
        return "reloaded"
    return state


if __name__ == "__main__":
    main()
