# SPDX-License-Identifier: GPL-3.0-or-later
"""Apt's sources for the next release, tried by this machine's real apt."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest
from ansible_collections.selfhosted.mail.plugins.modules import packages, release_sources

ONE_LINE = """\
# deb http://one.test/debian bookworm main
deb http://one.test/bookworm/ bookworm main # bookworm
 deb-src [arch=amd64 signed-by=/etc/bookworm.gpg] http://one.test/debian bookworm-updates main
deb http://one.test/security bookworm/updates main
deb http://one.test/debian bookworms main
"""
DEB822 = """\
Types: deb
URIs: http://one.test/bookworm
Suites: bookworm bookworm-updates
 bookworm-backports
Components: main
Signed-By: /etc/bookworm.gpg
"""


def test_both_formats() -> None:
    """Suites alone, on as many lines as they take."""
    assert release_sources.renamed(ONE_LINE, "bookworm", "trixie").splitlines() == [
        "# deb http://one.test/debian bookworm main",
        "deb http://one.test/bookworm/ trixie main # bookworm",
        " deb-src [arch=amd64 signed-by=/etc/bookworm.gpg] http://one.test/debian trixie-updates main",
        "deb http://one.test/security trixie/updates main",
        "deb http://one.test/debian bookworms main",
    ]
    lines = DEB822.splitlines()
    lines[2:4] = ["Suites: trixie trixie-updates", " trixie-backports"]
    assert release_sources.renamed(DEB822, "bookworm", "trixie").splitlines() == lines


def test_the_backports_that_go_are_those_that_were_added() -> None:
    assert packages.SOURCES == release_sources.BACKPORTS


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host's /etc/apt, with packages of which it has none."""
    if not shutil.which("apt-get"):
        pytest.skip("no apt here")
    for name in ("apt/sources.list.d", "cache/archives/partial"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "status").touch()
    (tmp_path / "apt.conf").write_text(
        f'Dir::Etc::parts "/dev/null";\nDir::Cache "{tmp_path}/cache";\nDir::State::status "{tmp_path}/status";\n'
        'Dir::Etc::preferencesparts "/dev/null";\nDir::Etc::preferences "/dev/null";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    monkeypatch.setattr(release_sources, "APT", tmp_path / "apt")
    return tmp_path


def mirror(apt: Path, name: str, origin: str, suite: str) -> None:
    """It has next to nothing, and the host's apt uses it for bookworm."""
    architecture = subprocess.check_output(["dpkg", "--print-architecture"], text=True).strip()
    index = apt / name / "dists" / suite / "main" / f"binary-{architecture}" / "Packages"
    index.parent.mkdir(parents=True)
    index.write_text("Package: nothing\nVersion: 1\nArchitecture: all\nFilename: nothing.deb\nSize: 0\n\n")
    data = index.read_bytes()
    (index.parents[2] / "Release").write_text(
        f"Origin: {origin}\nSuite: {suite}\nComponents: main\nArchitectures: {architecture}\n"
        f"SHA256:\n {hashlib.sha256(data).hexdigest()} {len(data)} main/binary-{architecture}/Packages\n"
    )
    named = suite.replace("trixie", "bookworm")
    line = f"deb [trusted=yes] file:{apt}/{name} {named} main\n"
    (apt / "apt" / "sources.list.d" / f"{name}.list").write_text(f"\n{line}")


def problems() -> list[str]:
    return list(release_sources.in_the_way("bookworm", "trixie", []))


def test_nothing_in_the_way(apt: Path) -> None:
    mirror(apt, "debian", "Debian", "trixie")
    assert problems() == []


def test_sources_of_others_are_named(apt: Path) -> None:
    mirror(apt, "debian", "Debian", "trixie")
    mirror(apt, "vendor", "Vendor", "trixie")
    # It would stay what it is.
    mirror(apt, "sid", "Debian", "sid")
    folder = apt / "apt" / "sources.list.d"
    ends = "is not Debian's bookworm: remove it for the upgrade"
    assert sorted(problems()) == [
        f"apt source file:{apt}/{name}/ {suite} ({folder}/{name}.list:2) {ends}"
        for name, suite in (("sid", "sid"), ("vendor", "trixie"))
    ]


def test_a_source_without_the_new_release(apt: Path) -> None:
    mirror(apt, "debian", "Debian", "trixie")
    mirror(apt, "vendor", "Vendor", "bookworm")
    [found] = problems()
    assert found.startswith("apt sources: apt-get update fails with trixie instead of bookworm: ")
    assert f"{apt}/vendor/dists/trixie" in found, found


def test_no_space(apt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror(apt, "debian", "Debian", "trixie")
    usage = shutil.disk_usage("/")._replace(free=499 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _place: usage)
    assert problems()[0] == "disk: / has 499 MB free, and 500 MB are needed: free space there"
