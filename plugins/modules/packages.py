#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: install Debian packages without starting their daemons."""

from __future__ import annotations

DOCUMENTATION = r"""
module: packages
short_description: Install Debian packages without starting their daemons
version_added: "0.1.0"
description:
  - Installs packages in one C(apt-get) transaction, without recommended ones.
  - Check mode works on a fresh host, where M(ansible.builtin.apt) would have to install python3-apt first.
  - Daemons are not started with the default configuration of their packages, with which some cannot even start.
author: ["selfhosted.mail developers (!UNKNOWN)"]
options:
  names: {description: "Packages to install, in any version.", type: list, elements: str, required: true}
  backports:
    description:
      - Mapping of those packages in O(names) that the release has only in too old a version to the minimum version.
        They come from the release's backports. If the host's sources lack these, they are added for the installation
        only. A source that one day leaves the mirror would make every C(apt update) fail.
    type: dict
    default: {}
  archive:
    description: Debian's archive of old suites, for backports that the host's mirror no longer has.
    type: str
    default: http://archive.debian.org/debian
extends_documentation_fragment: [ansible.builtin.action_common_attributes]
attributes:
  platform: {platforms: debian}
  check_mode: {support: full}
  diff_mode: {support: full}
"""

EXAMPLES = r"""
- name: Install OpenSMTPD, on Debian 12 from backports
  selfhosted.mail.packages:
    names: [opensmtpd]
    backports: {opensmtpd: "7.4"}
"""

RETURN = r"""# """

import contextlib
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.mail.plugins.module_utils.command import CommandFailed, run
from ansible_collections.selfhosted.mail.plugins.module_utils.fileset import ManagedFile

LISTS = Path("/var/lib/apt/lists")
INDEX_AGE = 3600  # seconds
SOURCES = Path("/etc/apt/sources.list.d/selfhosted-mail-backports.sources")
# Update our source only: the other indexes are not needed, and their errors must not matter.
OURS_ALONE = (f"-oDir::Etc::sourcelist={SOURCES}", "-oDir::Etc::sourceparts=-", "-oAPT::Get::List-Cleanup=0")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
POLICY = Path("/usr/sbin/policy-rc.d")
# Stopping is allowed: a daemon that another package replaces has to be stopped.
POLICY_TEXT = "#!/bin/sh\n# selfhosted.mail is installing packages\ncase $2 in *stop) exit 0 ;; esac\nexit 101\n"
OLD_CONFIGURATION = ("--force-confdef", "--force-confold")


def installed_versions(names: list[str]) -> dict[str, str]:
    """Map each of the packages that is installed to its version."""
    listed = run(["dpkg-query", "--show", "--showformat", "${db:Status-Status} ${Package} ${Version}\n"])
    rows = (line.split() for line in listed.splitlines())
    return {row[1]: row[2] for row in rows if row[0] == "installed" and row[1] in names}


def index_targets() -> list[list[str]]:
    """URI, suite, component and key of each package index that the host's sources name and apt has fetched."""
    fields = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(SIGNED_BY)"
    listed = run(["apt-get", "indextargets", "--format", fields, "Created-By: Packages"])
    return [line.split("|") for line in listed.splitlines()]


def too_old(version: str, least: str) -> bool:
    try:
        run(["dpkg", "--compare-versions", version, "lt", least])
    except CommandFailed:
        return False
    return True


def backports_sources(release: str, targets: list[list[str]], archive: str) -> list[str]:
    """Deb822 sources that may have the backports of ``release``: the host's mirror, then Debian's archive.

    :raises CommandFailed: if the host's sources do not name the release at all.
    """
    found = [target for target in targets if target[2] == "main" and target[1] in (release, "stable", "oldstable")]
    if not found:
        raise CommandFailed(
            f"apt's sources on this host do not name {release} main, so its backports cannot be found: add Debian's "
            "archive to /etc/apt/sources.list"
        )
    uri, _suite, _component, signed_by = found[0]
    # apt leaves the placeholder of an option that a source does not set.
    mirror = [f"URIs: {uri}"] + ([] if signed_by.startswith("$") else [f"Signed-By: {signed_by}"])
    # Archived suites are not signed again.
    old = [f"URIs: {archive}", f"Signed-By: {KEYRING}", "Check-Valid-Until: no"]
    suite = ["Types: deb", f"Suites: {release}-backports", "Components: main"]
    return ["\n".join([*suite, *lines]) + "\n" for lines in (mirror, old)]


@contextlib.contextmanager
def backports(archive: str) -> Iterator[str]:
    """Make apt know the release's backports while the context is open; yields the name of the suite.

    :raises CommandFailed: if neither the mirror nor the archive has them, or as for :func:`backports_sources`.
    """
    release = platform.freedesktop_os_release()["VERSION_CODENAME"]
    suite, targets, problems = f"{release}-backports", index_targets(), []
    if any(target[1] == suite for target in targets):
        yield suite
        return
    try:
        for text in backports_sources(release, targets, archive):
            ManagedFile(SOURCES, text.encode()).put()
            try:
                apt_get("update", *OURS_ALONE)
                break
            except CommandFailed as error:
                problems.append(str(error))
        else:
            raise CommandFailed("\n".join(problems))
        yield suite
    finally:
        SOURCES.unlink(missing_ok=True)


@contextlib.contextmanager
def daemons_not_started() -> Iterator[None]:
    """Deny starts of daemons by Debian's policy-rc.d while packages are configured, unless the host has its own."""
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
    """Remove what a killed run has left: its policy-rc.d would deny all later starts of daemons."""
    if POLICY.is_file() and POLICY.read_text(errors="replace") == POLICY_TEXT:
        POLICY.unlink()
    SOURCES.unlink(missing_ok=True)


def index_is_fresh() -> bool:
    return any(LISTS.glob("*_Packages*")) and LISTS.stat().st_mtime > time.time() - INDEX_AGE


def apt_get(*arguments: str) -> None:
    """:raises CommandFailed: with apt's output."""
    os.environ["DEBIAN_FRONTEND"] = "noninteractive"
    # On a new VPS the first unattended upgrade may hold the lock.
    run(["apt-get", "--quiet=2", "-o", "DPkg::Lock::Timeout=600", *arguments])


def services(states: str, load: str) -> set[str]:
    """Services in these states whose ``load`` is ``loaded`` or ``not-found``. :raises CommandFailed:"""
    listed = run(["systemctl", "list-units", "--type=service", f"--state={states}", "--plain", "--no-legend"])
    return {words[0] for line in listed.splitlines() if (words := line.split())[1:2] == [load]}


@contextlib.contextmanager
def removed_daemons_stopped() -> Iterator[None]:
    """Stop removed daemons: not every package does. Debian 13's Postfix keeps port 25. :raises CommandFailed:"""
    before = services("active", "loaded")
    yield
    for name in before & services("active", "not-found"):
        run(["systemctl", "stop", name])
    # Debian 12's Postfix fails if its programs are removed while it stops. The first command waits for its end, after
    # which systemd forgets the unit, unless it has failed.
    for name in before & services("deactivating,failed", "not-found"):
        with contextlib.suppress(CommandFailed):
            run(["systemctl", "stop", name])
            run(["systemctl", "reset-failed", name])


def install(names: list[str], from_backports: set[str], archive: str) -> None:
    """:raises CommandFailed: with the output of apt or dpkg."""
    options = [word for option in OLD_CONFIGURATION for word in ("-o", f"Dpkg::Options::={option}")]
    with removed_daemons_stopped(), daemons_not_started(), contextlib.ExitStack() as stack:
        run(["dpkg", *OLD_CONFIGURATION, "--configure", "-a"])
        if from_backports:
            suite = stack.enter_context(backports(archive))
            names = [f"{name}/{suite}" if name in from_backports else name for name in names]
        apt_get("--yes", "--no-install-recommends", *options, "install", *names)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str", "required": True},
            "backports": {"type": "dict", "default": {}},
            "archive": {"type": "str", "default": "http://archive.debian.org/debian"},
        },
        supports_check_mode=True,
    )
    names = sorted(set(module.params["names"]))
    least = {name: str(version) for name, version in module.params["backports"].items()}
    present = installed_versions(names)
    old = {name for name, version in least.items() if name not in present or too_old(present[name], version)}
    wanted = [name for name in names if name not in present or name in old]
    if not module.check_mode:
        try:
            forget_killed_run()
            if wanted and not index_is_fresh():
                try:
                    apt_get("update")
                except CommandFailed as error:
                    # A single source may be broken, and the packages may be in the others.
                    module.warn(f"apt-get update: {error}")
            if wanted:
                install(wanted, old, module.params["archive"])
        except (CommandFailed, OSError) as error:
            module.fail_json(msg=f"packages {', '.join(wanted)}: {error}")
    diff = {"header": "packages to install", "prepared": "".join(f"+{name}\n" for name in wanted)}
    module.exit_json(changed=bool(wanted), diff=[diff] if wanted else [])


if __name__ == "__main__":
    main()
