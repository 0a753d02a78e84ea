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

RETURN = r"""# """

import contextlib
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.mail.plugins.module_utils.command import CommandFailed, run
from ansible_collections.selfhosted.mail.plugins.module_utils.fileset import (
    ManagedFile,
    Previous,
    rolled_back_on_failure,
)
from ansible_collections.selfhosted.mail.plugins.module_utils.safe_path import Access

LISTS = Path("/var/lib/apt/lists")
INDEX_AGE = 3600  # seconds
SOURCES = Path("/etc/apt/sources.list.d/selfhosted-mail-backports.sources")
PREFERENCES = Path("/etc/apt/preferences.d/selfhosted-mail-backports")
POLICY = Path("/usr/sbin/policy-rc.d")
# A daemon that another package replaces has to be stopped.
POLICY_TEXT = "#!/bin/sh\n# selfhosted.mail is installing packages\ncase $2 in *stop) exit 0 ;; esac\nexit 101\n"
OLD_CONFIGURATION = ("--force-confdef", "--force-confold")


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
    fields = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(SIGNED_BY)"
    listed = run(["apt-get", "indextargets", "--format", fields, "Created-By: Packages"])
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


def backports_files(packages: list[str], check_mode: bool) -> list[ManagedFile]:
    """Apt's own files for the backports of the packages, those that are not as they should be.

    :raises CommandFailed: as for :func:`backports_source`.
    """
    release = platform.freedesktop_os_release()["VERSION_CODENAME"]
    if not (targets := index_targets()) and not check_mode:
        apt_get("update")
        targets = index_targets()
    # A fresh host in check mode has no index yet that could tell.
    source = backports_source(release, targets) if targets else None
    texts = {PREFERENCES: preferences(release, packages), **({SOURCES: source} if source else {})}
    files = [ManagedFile(path, text.encode(), Access("root", "root", "0644")) for path, text in texts.items()]
    return [file for file in files if file.differs()]


@contextlib.contextmanager
def daemons_not_started() -> Iterator[None]:
    """Debian's policy-rc.d, unless the host has its own, says no to starts while packages are set up."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text(POLICY_TEXT)
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()


def forget_killed_run() -> None:
    """A run that was killed while apt worked leaves its policy-rc.d behind, and daemons would never start again."""
    if POLICY.is_file() and POLICY.read_text(errors="replace") == POLICY_TEXT:
        POLICY.unlink()


def index_is_fresh() -> bool:
    return any(LISTS.glob("*_Packages*")) and LISTS.stat().st_mtime > time.time() - INDEX_AGE


def apt_get(*arguments: str) -> None:
    """:raises CommandFailed: with apt's words."""
    os.environ["DEBIAN_FRONTEND"] = "noninteractive"
    # On a VPS of some minutes the first unattended upgrade may hold the lock.
    run(["apt-get", "--quiet=2", "-o", "DPkg::Lock::Timeout=600", *arguments])


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
    try:
        files = backports_files(backports, module.check_mode) if backports else []
        diff = [file.diff() for file in files]
        if not module.check_mode:
            forget_killed_run()
            if files or (wanted and not index_is_fresh()):
                # A source that apt cannot use would stop every other use of apt.
                with rolled_back_on_failure(files, "packages"):
                    apt_get("update")
                Previous("packages").forget()
            if wanted:
                with daemons_not_started():
                    run(["dpkg", *OLD_CONFIGURATION, "--configure", "-a"])
                    options = [word for option in OLD_CONFIGURATION for word in ("-o", f"Dpkg::Options::={option}")]
                    apt_get("--yes", "--no-install-recommends", *options, "install", *wanted)
    except (CommandFailed, OSError) as error:
        module.fail_json(msg=f"packages {', '.join(wanted)}: {error}")
    if wanted:
        diff.append({"header": "packages to install", "prepared": "".join(f"+{name}\n" for name in wanted)})
    module.exit_json(changed=bool(wanted or files), diff=diff)


if __name__ == "__main__":
    main()
