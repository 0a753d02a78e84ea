#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: switch apt's sources to the next release, or report what prevents an upgrade."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_sources
short_description: Switch apt's sources to the next release, or report what prevents an upgrade
version_added: "0.1.0"
description:
  - Replaces the old codename by the new one in the host's apt sources, in both of apt's formats, and removes backports
    that M(selfhosted.mail.packages) has added.
  - With O(change=false) the new sources are tried separately, and nothing on the host changes. The module fails with
    everything that prevents an upgrade, such as third-party sources, held or half installed packages, packages that
    would be removed, and too little disk space.
author: ["selfhosted.mail developers (!UNKNOWN)"]
options:
  old: {description: Codename of the release that the host runs., type: str, required: true}
  new: {description: Codename of the release to upgrade to., type: str, required: true}
  keep: {description: Packages that an upgrade must not remove., type: list, elements: str, default: []}
  change: {description: Whether to change the host's sources., type: bool, required: true}
extends_documentation_fragment: [ansible.builtin.action_common_attributes]
attributes:
  platform: {platforms: debian}
  check_mode: {support: full}
  diff_mode: {support: full}
"""

EXAMPLES = r"""
- name: Check that the host can be upgraded to Debian 13
  selfhosted.mail.release_sources:
    old: bookworm
    new: trixie
    keep: [dovecot-imapd]
    change: false
"""

RETURN = r"""# """

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.mail.plugins.module_utils.command import CommandFailed, run
from ansible_collections.selfhosted.mail.plugins.module_utils.fileset import ManagedFile

APT = Path("/etc/apt")
# The module packages writes it.
BACKPORTS = APT / "sources.list.d" / "selfhosted-mail-backports.sources"
DEBIAN = ("Debian", "Debian Backports")
# Packages are unpacked to about three times their size while the old files still exist.
UNPACKED = 4
RESERVE = 500 << 20  # octets
KERNEL_SPACE = 200 << 20  # octets
# sources.list(5): the suites of a deb822 source, and the suite of a one-line source.
SUITES = (
    re.compile(r"(?im)^suites:(.*(?:\n[ \t]+\S.*)*)"),
    re.compile(r"(?m)^[ \t]*deb(?:-src)?[ \t]+(?:\[[^\]]*\][ \t]+)?\S+[ \t]+(\S+)"),
)


def renamed(text: str, old: str, new: str) -> str:
    """Replace ``old`` by ``new`` in the suites of a sources file, also in those such as ``bookworm-updates``."""
    for pattern in SUITES:
        text = pattern.sub(
            lambda found: found[0][: found.start(1) - found.start()] + re.sub(rf"\b{old}\b", new, found[1]), text
        )
    return text


def sources() -> list[Path]:
    """The sources files that apt reads, except ours."""
    found = [APT / "sources.list", *sorted((APT / "sources.list.d").glob("*"))]
    return [path for path in found if path.is_file() and path.suffix in (".list", ".sources") and path != BACKPORTS]


def beside(folder: Path, old: str, new: str) -> tuple[list[str], dict[str, str]]:
    """An apt-get command with the new sources and its own lists, and a mapping of each copied file to its original."""
    (folder / "lists" / "partial").mkdir(parents=True)
    (folder / "parts").mkdir()
    originals = {}
    for path in sources():
        copy = folder / "parts" / ("main.list" if path.parent == APT else path.name)
        copy.write_text(renamed(path.read_text(), old, new))
        originals[str(copy)] = str(path)
    settings = {
        "Dir::Etc::SourceList": "/dev/null",
        "Dir::Etc::SourceParts": folder / "parts",
        "Dir::State::Lists": folder / "lists",
        "Dir::Cache::pkgcache": "",
        "Dir::Cache::srcpkgcache": "",
        "Acquire::Languages": "none",
        "APT::Sandbox::User": "root",
        "APT::Update::Error-Mode": "any",
    }
    options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    return ["apt-get", "--quiet=2", *options], originals


def foreign(apt: list[str], originals: dict[str, str], old: str, new: str) -> Iterator[str]:
    """Problems: sources that are not Debian's own, or do not have the new release."""
    fields = "$(ORIGIN)|$(RELEASE)|$(REPO_URI)|$(SOURCESENTRY)"
    for target in dict.fromkeys(run([*apt, "indextargets", "--format", fields, "Created-By: Packages"]).splitlines()):
        origin, suite, uri, entry = target.split("|")
        copy, _colon, line = entry.rpartition(":")
        if origin not in DEBIAN or not re.match(rf"{new}\b", suite):
            where = f"{originals.get(copy, copy)}:{line}"
            yield f"apt source {uri} {suite} ({where}) is not Debian's {old}: remove it for the upgrade"


def no_space(octets: int, kernel: bool) -> Iterator[str]:
    """Problems: file systems with too little space. ``octets``: to download; ``kernel``: whether one is installed."""
    needed = dict.fromkeys(("/", "/usr", "/var", "/var/cache/apt", "/var/lib"), octets * UNPACKED + RESERVE)
    if kernel and os.path.ismount("/boot"):
        needed["/boot"] = KERNEL_SPACE
    devices = {os.stat(place).st_dev: place for place in reversed(needed)}
    for place in sorted(devices.values()):
        if (free := shutil.disk_usage(place).free) < needed[place]:
            yield f"disk: {place} has {free >> 20} MB free, and {needed[place] >> 20} MB are needed: free space there"


def in_the_way(old: str, new: str, keep: list[str]) -> Iterator[str]:
    """Problems that prevent the upgrade, a sentence each. :raises CommandFailed: if apt or dpkg fails."""
    if held := run(["apt-mark", "showhold"]).split():
        yield f"held packages: {', '.join(held)}: run apt-mark unhold {' '.join(held)}"
    if run(["dpkg", "--audit"]):
        yield "packages are half installed (dpkg --audit lists them): run dpkg --configure -a"
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        apt, originals = beside(Path(folder), old, new)
        try:
            run([*apt, "update"])
        except CommandFailed as error:
            yield f"apt sources: apt-get update fails with {new} instead of {old}: {error}"
            return
        if others := list(foreign(apt, originals, old, new)):
            yield from others
            return
        changes = re.findall(r"(?m)^(Inst|Remv) (\S+)", run([*apt, "--simulate", "full-upgrade"]))
        uris = run([*apt, "--print-uris", "full-upgrade"])
    if lost := [name for what, name in changes if what == "Remv" and name in keep]:
        yield f"the upgrade would remove {', '.join(lost)}: remove the packages that conflict with Debian 13's version"
    kernel = any(name.startswith("linux-image-") for _what, name in changes)
    yield from no_space(sum(map(int, re.findall(r"(?m)^'\S+' \S+ (\d+)", uris))), kernel)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "old": {"type": "str", "required": True},
            "new": {"type": "str", "required": True},
            "keep": {"type": "list", "elements": "str", "default": []},
            "change": {"type": "bool", "required": True},
        },
        supports_check_mode=True,
    )
    wanted = module.params
    try:
        if not wanted["change"]:
            if found := list(in_the_way(wanted["old"], wanted["new"], wanted["keep"])):
                module.fail_json(msg="\n".join(found))
            module.exit_json(changed=False)
        files = []
        for path in sources():
            now = ManagedFile.of(path)
            text = renamed((now.content or b"").decode(), wanted["old"], wanted["new"])
            files.append(ManagedFile(path, text.encode(), now.access))
        files.append(ManagedFile(BACKPORTS, None))
        changed = [file for file in files if file.differs()]
        diff = [file.diff() for file in changed]
        if not module.check_mode:
            for file in changed:
                file.put()
    except (CommandFailed, OSError, ValueError) as error:
        module.fail_json(msg=f"apt sources: {error}")
    module.exit_json(changed=bool(changed), diff=diff)


if __name__ == "__main__":
    main()
