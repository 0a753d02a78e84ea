# SPDX-License-Identifier: GPL-3.0-or-later
"""Apt's own files, as this machine's real apt reads them. Packages are installed in tests/containers."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.mail.plugins.module_utils.command import CommandFailed
from ansible_collections.selfhosted.mail.plugins.modules import packages

pytestmark = pytest.mark.skipif(not shutil.which("apt-get"), reason="no apt here")

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of sources that this machine's apt reads in place of its own."""
    for name in ("sources.list.d", "lists/partial", "cache/archives/partial"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "apt.conf").write_text(
        f'Dir::Etc::sourcelist "/dev/null";\nDir::Etc::sourceparts "{tmp_path}/sources.list.d";\n'
        f'Dir::Etc::parts "/dev/null";\nDir::State::lists "{tmp_path}/lists";\n'
        f'APT::Sandbox::User "root";\nDir::Cache "{tmp_path}/cache";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    monkeypatch.setattr(packages, "SOURCES", tmp_path / "sources.list.d" / "selfhosted-mail-backports.sources")
    monkeypatch.setattr(packages, "LISTS", tmp_path / "lists")
    return tmp_path


def mirror(apt: Path) -> str:
    """Address of a mirror that has next to nothing, for the releases that :func:`source` names."""
    return f"file:{apt}/mirror"


def source(apt: Path, *suites: str) -> None:
    """The host's apt uses these suites of the mirror and has fetched their indexes."""
    architecture = subprocess.check_output(["dpkg", "--print-architecture"], text=True).strip()
    for suite in suites:
        index = apt / "mirror" / "dists" / suite / "main" / f"binary-{architecture}" / "Packages"
        index.parent.mkdir(parents=True)
        index.write_text("Package: nothing\nVersion: 1\nArchitecture: all\nFilename: nothing.deb\nSize: 0\n\n")
        data = index.read_bytes()
        (apt / "mirror" / "dists" / suite / "Release").write_text(
            f"Suite: {suite}\nComponents: main\nArchitectures: {architecture}\n"
            f"SHA256:\n {hashlib.sha256(data).hexdigest()} {len(data)} main/binary-{architecture}/Packages\n"
        )
    (apt / "sources.list.d" / "debian.sources").write_text(
        f"Types: deb\nURIs: {mirror(apt)}\nSuites: {' '.join(suites)}\nComponents: main\nTrusted: yes\n"
    )
    subprocess.run(["apt-get", "update"], check=True, capture_output=True)


def sources_of(apt: Path) -> str:
    """What apt would fetch now: parsed by apt, with the address of each index."""
    return subprocess.check_output(["apt-get", "update", "--print-uris"], text=True)


def test_backports_come_with_the_key_of_the_mirror_that_the_host_uses() -> None:
    targets = [
        ["http://other.example/x", "nodistro", "main", "$(SIGNED_BY)"],
        ["http://deb.example/debian", "bookworm", "main", "/etc/own.gpg"],
    ]
    suite = "Types: deb\nSuites: bookworm-backports\nComponents: main\n"
    assert packages.backports_sources("bookworm", targets, "http://archive.example/debian") == [
        f"{suite}URIs: http://deb.example/debian\nSigned-By: /etc/own.gpg\n",
        f"{suite}URIs: http://archive.example/debian\nSigned-By: {KEYRING}\nCheck-Valid-Until: no\n",
    ]


def test_apt_finds_the_backports_of_the_mirror_that_it_uses(apt: Path) -> None:
    source(apt, "bookworm")
    text, old = packages.backports_sources("bookworm", packages.index_targets(), f"{mirror(apt)}/old")
    assert "Signed-By" not in text
    assert "$" not in text
    packages.SOURCES.write_text(text + "\n" + old)
    for where in mirror(apt), f"{mirror(apt)}/old":
        assert f"{where}/dists/bookworm-backports/InRelease" in sources_of(apt)


def test_backports_that_the_host_has_already(apt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages.platform, "freedesktop_os_release", lambda: {"VERSION_CODENAME": "bookworm"})
    source(apt, "bookworm", "bookworm-backports")
    with packages.backports("http://nowhere.invalid") as suite:
        assert suite == "bookworm-backports"
        assert not packages.SOURCES.exists()


def test_sources_that_do_not_name_the_release(apt: Path) -> None:
    source(apt, "trixie")
    with pytest.raises(CommandFailed, match="do not name bookworm main"):
        packages.backports_sources("bookworm", packages.index_targets(), "")


@pytest.mark.parametrize(
    ("present", "old"),
    [("6.8.0p2-4+b3", True), ("7.4.0p1-3~bpo12+1", False), ("7.6.0p1-1", False), ("7.4~rc1", True)],
)
def test_which_version_is_too_old(present: str, old: bool) -> None:
    assert packages.too_old(present, "7.4") is old


def test_what_is_installed_and_what_is_not(apt: Path) -> None:
    found = packages.installed_versions(["dpkg", "apt", "no-such-package-of-ours"])
    assert set(found) == {"dpkg", "apt"}
    assert (
        found["dpkg"]
        == subprocess.run(
            ["dpkg-query", "-W", "-f", "${Version}", "dpkg"], check=True, capture_output=True, text=True
        ).stdout
    )


def test_installed_packages_change_nothing(apt: Path, run_module: Callable[..., dict[str, Any]]) -> None:
    result = run_module(packages.main, names=["dpkg", "apt", "dpkg"])
    assert not result["changed"]
    assert result["diff"] == []


def test_check_mode_names_what_is_missing(apt: Path, run_module: Callable[..., dict[str, Any]]) -> None:
    result = run_module(packages.main, check=True, names=["dpkg", "no-such-package-of-ours"])
    assert result["changed"]
    assert result["diff"][-1]["prepared"] == "+no-such-package-of-ours\n"


def test_a_killed_run_does_not_keep_daemons_from_starting(
    apt: Path, run_module: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does it leave a source that may be gone one day."""
    monkeypatch.setattr(packages, "POLICY", apt / "policy-rc.d")
    packages.SOURCES.write_text("Types: deb\n")
    for text, stays in ((packages.POLICY_TEXT, False), ("the host's own\n", True)):
        packages.POLICY.write_text(text)
        run_module(packages.main, names=["dpkg"])
        assert packages.POLICY.exists() is stays
    assert not packages.SOURCES.exists()


def test_daemons_are_not_started_while_packages_are_set_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "POLICY", tmp_path / "policy-rc.d")
    with packages.daemons_not_started():
        assert subprocess.run([packages.POLICY, "any", "start"], check=False).returncode == 101
    assert not packages.POLICY.exists()
    packages.POLICY.write_text("the host's own\n")
    with packages.daemons_not_started():
        assert packages.POLICY.read_text() == "the host's own\n"
    assert packages.POLICY.read_text() == "the host's own\n"


def test_a_daemon_that_fails_while_it_is_removed_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Debian 12's Postfix on a busy host. Units that were inactive before or still have a file are left alone."""
    before = "postfix@-.service loaded active running Postfix\nssh.service loaded active running OpenSSH\n"
    after = (
        "postfix@-.service not-found failed failed postfix@-.service\n"
        "other.service not-found failed failed other.service\n"
        "ssh.service loaded active running OpenSSH\n"
    )
    listed, done = {"active": [before, ""], "deactivating,failed": [after]}, []

    def run(words: list[str]) -> str:
        if words[1] == "list-units":
            [states] = (word.removeprefix("--state=") for word in words if word.startswith("--state="))
            return listed[states].pop(0)
        done.append(words[1:])
        return ""

    monkeypatch.setattr(packages, "run", run)
    with packages.removed_daemons_stopped():
        pass
    assert done == [["stop", "postfix@-.service"], ["reset-failed", "postfix@-.service"]]
