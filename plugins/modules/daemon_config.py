#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: a daemon's files, checked and put in place as one set."""

from __future__ import annotations

DOCUMENTATION = r"""
module: daemon_config
short_description: A daemon's files, checked and put in place as one set
version_added: "0.1.0"
description:
  - Writes all files that a daemon reads in one execution, runs the daemon's own checker on the whole,
    and puts every file back as it was when the checker refuses it.
  - Says in RV(ignore:needs) what brings the service to run what is on disk, whatever run left it behind, so that a
    run which was interrupted between files and restart is completed by the next.
  - The service itself is never touched. M(selfhosted.mail.daemon_service) does that.
author: ["selfhosted.mail developers (!UNKNOWN)"]
options:
  service:
    description:
      - systemd unit that reads the files. It also names the copy of the previous set.
      - Without it the set is read by no unit of its own, and RV(ignore:needs) is C(none).
    type: str
  users:
    description: System users (each with a group of its own name) that exist before the files do.
    type: list
    elements: dict
    default: []
    suboptions:
      name: {description: Login name., type: str, required: true}
      home: {description: Home directory; it is not created., type: path, default: /nonexistent}
      groups: {description: Further groups., type: list, elements: str, default: []}
  directories:
    description: Directories that exist before the files do.
    type: list
    elements: dict
    default: []
    suboptions:
      path: {description: The directory., type: path, required: true}
      owner: {description: User., type: str, default: root}
      group: {description: Group., type: str, default: root}
      mode: {description: Mode in octal., type: str, default: "0755"}
  made_once:
    description:
      - Files that a command on the host makes and that are never written again, such as keys.
    type: list
    elements: dict
    default: []
    suboptions:
      path: {description: The file., type: path, required: true}
      argv: {description: "Command that writes to the path C({path}).", type: list, elements: str, required: true}
      owner: {description: User., type: str, default: root}
      group: {description: Group., type: str, default: root}
      mode: {description: Mode in octal., type: str, default: "0600"}
      on_change:
        description: What the service must do to take in a new one.
        type: str
        choices: [restart, reload, none]
        default: restart
  files:
    description: The files of the set.
    type: list
    elements: dict
    default: []
    suboptions:
      path: {description: The file., type: path, required: true}
      content: {description: Its text. Shown in a diff alone., type: str}
      owner: {description: User., type: str, default: root}
      group: {description: Group., type: str, default: root}
      mode: {description: Mode in octal., type: str, default: "0644"}
      state: {description: Whether the file is there., type: str, choices: [present, absent], default: present}
      secret: {description: Whether a diff must not show the text., type: bool, default: false}
      on_change:
        description: What the service must do to take in a change.
        type: str
        choices: [restart, reload, none]
        default: restart
  files_json:
    description:
      - O(files) as JSON. The action plugin of the same name moves them here, so that neither the managed host's journal
        nor C(-vvv) gets the texts; a diff shows those that are no secrets.
    type: str
    default: "[]"
  only:
    description: Patterns of paths. Files that match and are none of O(files) are removed with the set.
    type: list
    elements: path
    default: []
  commands:
    description: Commands that are run after the files are in place, when one of their files changed.
    type: list
    elements: dict
    default: []
    suboptions:
      argv: {description: The command., type: list, elements: str, required: true}
      when_changed: {description: Files of the set., type: list, elements: path, required: true}
  checks:
    description: Checkers of the daemon, run on the set in place. A non-zero exit takes the set back.
    type: list
    elements: list
    default: []
  watch:
    description: Files of others that the service reads at its start.
    type: list
    elements: path
    default: []
  watch_reload:
    description: Files of others that the service takes in on reload.
    type: list
    elements: path
    default: []
attributes:
  check_mode: {support: full}
  diff_mode: {support: full}
"""

EXAMPLES = r"""
- name: The signing proxy's configuration is in place
  selfhosted.mail.daemon_config:
    service: dkimproxy.service
    files:
      - path: /etc/dkimproxy/dkimproxy_out.conf
        content: "{{ lookup('ansible.builtin.template', 'dkimproxy_out.conf.j2') }}"
    checks:
      - [/usr/local/sbin/dkimproxy.out, --check]
"""

RETURN = r"""
changed_paths:
  description: Files and directories that were not as they should be.
  type: list
  elements: str
  returned: always
needs:
  description: What brings the service to run what is on disk.
  type: str
  sample: restart
  returned: always
"""

import contextlib  # noqa: E402
import glob  # noqa: E402
import json  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402
from ansible_collections.selfhosted.mail.plugins.module_utils.fileset import (  # noqa: E402
    FILE_OPTIONS,
    Access,
    CommandFailed,
    ManagedFile,
    Previous,
    run,
    taken_back_on_failure,
    user_id,
)
from ansible_collections.selfhosted.mail.plugins.module_utils.unit import Unit  # noqa: E402

ACCESS_OPTIONS: dict[str, Any] = {
    "path": {"type": "path", "required": True},
    "owner": {"type": "str", "default": "root"},
    "group": {"type": "str", "default": "root"},
}


def make_user(user: dict[str, Any]) -> None:
    argv = ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", user["home"],
            "--shell", "/usr/sbin/nologin"]
    if user["groups"]:
        argv += ["--groups", ",".join(user["groups"])]
    run([*argv, user["name"]])


def make_once(item: dict[str, Any]) -> None:
    """Run the command into a name beside the target, so that a killed run leaves no half key."""
    target, beside = Path(item["path"]), Path(item["path"] + ".new")
    beside.unlink(missing_ok=True)
    try:
        run([word.replace("{path}", str(beside)) for word in item["argv"]], umask=0o077)
        Access(item["owner"], item["group"], item["mode"]).apply(beside)
        beside.rename(target)
    finally:
        beside.unlink(missing_ok=True)


def others(patterns: list[str]) -> list[Path]:
    """The files that match."""
    return [Path(name) for pattern in patterns for name in sorted(glob.glob(pattern)) if Path(name).is_file()]


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "service": {"type": "str"},
            "users": {"type": "list", "elements": "dict", "default": [], "options": {
                "name": {"type": "str", "required": True},
                "home": {"type": "path", "default": "/nonexistent"},
                "groups": {"type": "list", "elements": "str", "default": []},
            }},
            "directories": {"type": "list", "elements": "dict", "default": [],
                            "options": {**ACCESS_OPTIONS, "mode": {"type": "str", "default": "0755"}}},
            "made_once": {"type": "list", "elements": "dict", "default": [],
                          "options": {**ACCESS_OPTIONS, "mode": {"type": "str", "default": "0600"},
                                      "on_change": FILE_OPTIONS["on_change"],
                                      "argv": {"type": "list", "elements": "str", "required": True}}},
            "files": {"type": "list", "elements": "dict", "default": [], "options": FILE_OPTIONS},
            "files_json": {"type": "str", "default": "[]", "no_log": True},
            "only": {"type": "list", "elements": "path", "default": []},
            "commands": {"type": "list", "elements": "dict", "default": [], "options": {
                "argv": {"type": "list", "elements": "str", "required": True},
                "when_changed": {"type": "list", "elements": "path", "required": True},
            }},
            "checks": {"type": "list", "elements": "list", "default": []},
            "watch": {"type": "list", "elements": "path", "default": []},
            "watch_reload": {"type": "list", "elements": "path", "default": []},
        },
        supports_check_mode=True,
    )
    wanted = module.params
    files = [ManagedFile.from_options(item) for item in wanted["files"] + json.loads(wanted["files_json"])]
    known = {file.path for file in files}
    files += [ManagedFile(path, None, Access("root", "root", "0644"), on_change="reload")
              for path in others(wanted["only"]) if path not in known]

    users = [user for user in wanted["users"] if user_id(user["name"]) is None]
    directories = [item for item in wanted["directories"]
                   if Access(item["owner"], item["group"], item["mode"]).differs(Path(item["path"]))]
    missing = [item for item in wanted["made_once"] if not Path(item["path"]).exists()]
    loose = [item for item in wanted["made_once"] if item not in missing
             and Access(item["owner"], item["group"], item["mode"]).differs(Path(item["path"]))]
    changed = [file for file in files if file.differs()]
    changed_paths = [str(item["path"]) for item in [*directories, *missing, *loose]] + [str(f.path) for f in changed]
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
                Path(item["path"]).mkdir(parents=True, exist_ok=True)
                Access(item["owner"], item["group"], item["mode"]).apply(Path(item["path"]))
            for item in missing:
                make_once(item)
            for item in loose:
                Access(item["owner"], item["group"], item["mode"]).apply(Path(item["path"]))
            if changed:
                put_in_place(changed, wanted)
        except (CommandFailed, OSError, LookupError) as error:
            module.fail_json(msg=f"{wanted['service'] or 'files'}: {error}", changed_paths=changed_paths)

    kinds = {file.on_change for file in changed} | {item["on_change"] for item in missing}
    need = needs(wanted, files, kinds)
    if need == "none" and wanted["service"] and not module.check_mode:
        # The service runs this set, so the one before is history.
        Previous(wanted["service"]).forget()
    module.exit_json(**result, needs=need)


def put_in_place(changed: list[ManagedFile], wanted: dict[str, Any]) -> None:
    """:raises CommandFailed: with the checker's words, after everything is as it was before."""
    paths = {str(file.path) for file in changed}
    commands = [item["argv"] for item in wanted["commands"] if paths & set(item["when_changed"])]
    try:
        with taken_back_on_failure(changed, wanted["service"] or "files"):
            for argv in [*commands, *wanted["checks"]]:
                run(argv)
    except CommandFailed:
        for argv in commands:
            # The files of a first run are gone again, so there is nothing to make anew.
            with contextlib.suppress(CommandFailed):
                run(argv)
        raise


def needs(wanted: dict[str, Any], files: list[ManagedFile], kinds: set[str]) -> str:
    """What brings the service to run what is on disk; ``kinds`` are the ``on_change`` of what changes in this run."""
    if not wanted["service"]:
        return "none"
    unit = Unit(wanted["service"])
    own = [(file.path, file.on_change) for file in files]
    own += [(Path(item["path"]), item["on_change"]) for item in wanted["made_once"]]
    own += [(Path(path), "restart") for path in wanted["watch"]]
    own += [(Path(path), "reload") for path in wanted["watch_reload"]]
    need = unit.needs([path for path, kind in own if kind == "restart"],
                      [path for path, kind in own if kind == "reload"])
    # In check mode, and for files that are gone, what is on disk does not show what changes.
    if need in ("none", "reload") and "restart" in kinds:
        return "restart"
    if need == "none" and "reload" in kinds:
        return "reload"
    return need


if __name__ == "__main__":
    main()
