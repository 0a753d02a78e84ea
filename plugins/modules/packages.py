#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: Debian packages are installed, their daemons not started."""

from __future__ import annotations

DOCUMENTATION = r"""
module: packages
short_description: Debian packages are installed, their daemons not started
version_added: "0.1.0"
description:
  - Installs packages in one C(apt-get) transaction, without recommended ones.
  - Needs nothing but Debian on the host, so that check mode works on a fresh one, where M(ansible.builtin.apt) would
    have to install python3-apt first.
  - Packages do not start their daemons with a default configuration, which in some packages cannot even start.
author: ["selfhosted.mail developers (!UNKNOWN)"]
options:
  names:
    description: Packages that shall be installed, in any version.
    type: list
    elements: str
    required: true
  backports:
    description:
      - Those of O(names) that shall come from the release's backports. Backports are added where the host has none,
        from the mirror that the host's own apt configuration names, and preferred for these packages alone.
    type: list
    elements: str
    default: []
attributes:
  check_mode: {support: full}
  diff_mode: {support: full}
"""

EXAMPLES = r"""
- name: OpenSMTPD is installed, on Debian 12 from backports
  selfhosted.mail.packages:
    names: [opensmtpd]
    backports: [opensmtpd]
"""

RETURN = r"""
installed:
  description: The packages that are installed after this, all of O(names) unless in check mode.
  type: list
  elements: str
  returned: always
"""

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.mail.plugins.module_utils.command import CommandFailed, run

LISTS = Path("/var/lib/apt/lists")
POLICY = Path("/usr/sbin/policy-rc.d")
SOURCES = Path("/etc/apt/sources.list.d/selfhosted-mail-backports.sources")
PREFERENCES = Path("/etc/apt/preferences.d/selfhosted-mail-backports")
POLICY_MARK = "# selfhosted.mail is installing packages"
INDEX_AGE = 3600  # seconds


def codename() -> str:
    """Debian's codename of the release, from os-release(5)."""
    for line in Path("/etc/os-release").read_text().splitlines():
        if line.startswith("VERSION_CODENAME="):
            return line.split("=", 1)[1].strip('"')
    raise CommandFailed("/etc/os-release names no VERSION_CODENAME")


def installed_versions(names: list[str]) -> dict[str, str]:
    """Package name to version, of those that are installed."""
    done = subprocess.run(
        ["dpkg-query", "--show", "--showformat", "${db:Status-Status} ${Package} ${Version}\n", *names],
        capture_output=True,
        text=True,
        check=False,
    )
    rows = (line.split() for line in done.stdout.splitlines())
    return {row[1]: row[2] for row in rows if len(row) == 3 and row[0] == "installed"}


def index_targets() -> list[list[str]]:
    """Address, suite, component and key of each package index that the host's sources name and apt has fetched."""
    listed = run(
        [
            "apt-get",
            "indextargets",
            "--format",
            "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(SIGNED_BY)",
            "Created-By: Packages",
        ]
    )
    return [line.split("|") for line in listed.splitlines()]


def backports_source(release: str, targets: list[list[str]]) -> str | None:
    """Text of a deb822 source for the backports of ``release``, or None where the host has one already.

    :raises CommandFailed: when the host's sources do not name the release at all.
    """
    if any(suite == f"{release}-backports" for _uri, suite, _component, _signed_by in targets):
        return None
    for uri, suite, component, signed_by in targets:
        if component == "main" and suite in (release, "stable", "oldstable"):
            lines = ["Types: deb", f"URIs: {uri}", f"Suites: {release}-backports", "Components: main"]
            # An option that a source does not set stays as it is written in the format.
            return "\n".join([*lines, *([] if signed_by.startswith("$") else [f"Signed-By: {signed_by}"])]) + "\n"
    raise CommandFailed(f"apt's sources on this host do not name {release} main, so its backports cannot be found")


def preferences(release: str, packages: list[str]) -> str:
    return f"Package: {' '.join(sorted(packages))}\nPin: release n={release}-backports\nPin-Priority: 700\n"


@contextlib.contextmanager
def daemons_not_started() -> Iterator[None]:
    """Debian's policy-rc.d, unless the host has its own, says no to starts while packages are set up."""
    if POLICY.exists():
        yield
        return
    # A daemon that another package replaces has to be stopped.
    POLICY.write_text(f"#!/bin/sh\n{POLICY_MARK}\ncase $2 in *stop) exit 0 ;; esac\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()


def forget_killed_run() -> None:
    """A run that was killed while apt worked leaves its policy-rc.d behind, and daemons would never start again."""
    if POLICY.is_file() and POLICY_MARK in POLICY.read_text(errors="replace"):
        POLICY.unlink()


def index_is_fresh() -> bool:
    indexes = list(LISTS.glob("*_Packages*")) + list(LISTS.glob("*_InRelease"))
    return bool(indexes) and LISTS.stat().st_mtime > time.time() - INDEX_AGE


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str", "required": True},
            "backports": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    names = sorted(set(module.params["names"]))
    backports = module.params["backports"]
    present = installed_versions(names)
    wanted = [name for name in names if name not in present or (name in backports and "~bpo" not in present[name])]
    files: dict[Path, str] = {}
    try:
        if not module.check_mode:
            forget_killed_run()
        if backports:
            release = codename()
            targets = index_targets()
            if not targets and not module.check_mode:
                apt_get("update")
                targets = index_targets()
            # A fresh host in check mode has no index yet that could tell.
            source = backports_source(release, targets) if targets else None
            if source:
                files[SOURCES] = source
            files[PREFERENCES] = preferences(release, backports)
        files = {path: text for path, text in files.items() if not path.exists() or path.read_text() != text}
        diff = [
            {"before_header": str(path), "after_header": str(path), "before": "", "after": text}
            for path, text in files.items()
        ]
        if wanted:
            diff.append({"header": "packages to install", "prepared": "".join(f"+{name}\n" for name in wanted)})
        if (wanted or files) and not module.check_mode:
            with sources_in_place(files):
                if files or not index_is_fresh():
                    apt_get("update")
            install(wanted)
    except (CommandFailed, OSError) as error:
        module.fail_json(msg=f"packages {', '.join(wanted)}: {error}")
    after = present if module.check_mode else installed_versions(names)
    module.exit_json(changed=bool(wanted or files), installed=sorted(after), diff=diff)


@contextlib.contextmanager
def sources_in_place(files: dict[Path, str]) -> Iterator[None]:
    """Apt's own files, taken back when apt cannot use them: a broken source would stop every other use of apt."""
    before = {path: path.read_text() if path.exists() else None for path in files}
    try:
        for path, text in files.items():
            path.write_text(text)
            path.chmod(0o644)
        yield
    except BaseException:
        for path, old in before.items():
            if old is None:
                path.unlink(missing_ok=True)
            else:
                path.write_text(old)
        raise


def apt_get(*arguments: str) -> None:
    """:raises CommandFailed: with apt's words."""
    os.environ["DEBIAN_FRONTEND"] = "noninteractive"
    # On a VPS of some minutes the first unattended upgrade may hold the lock.
    run(["apt-get", "--quiet=2", "-o", "DPkg::Lock::Timeout=600", *arguments])


def install(names: list[str]) -> None:
    if names:
        with daemons_not_started():
            run(["dpkg", "--force-confdef", "--force-confold", "--configure", "-a"])
            apt_get(
                "--yes",
                "--no-install-recommends",
                "-o",
                "Dpkg::Options::=--force-confdef",
                "-o",
                "Dpkg::Options::=--force-confold",
                "install",
                *names,
            )


if __name__ == "__main__":
    main()
