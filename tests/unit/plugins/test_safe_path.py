# SPDX-License-Identifier: GPL-3.0-or-later
"""Root follows no link in a directory in which other users can create links."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.selfhosted.mail.plugins.module_utils import safe_path
from ansible_collections.selfhosted.mail.plugins.module_utils.safe_path import Access, UnsafePath

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="giving directories to others takes root")

ROOTS = Access("root", "root", "0644")


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """Another user's directory, in which `learn` is a link to a directory of root."""
    (tmp_path / "roots").mkdir(mode=0o755)
    (tmp_path / "roots" / "shadow").write_text("secret\n")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "learn").symlink_to(tmp_path / "roots")
    (tmp_path / "theirs" / "file").symlink_to(tmp_path / "roots" / "shadow")
    os.chown(tmp_path / "theirs", 54321, 54321)
    return tmp_path / "theirs"


@pytest.mark.parametrize(
    "touch",
    [
        lambda theirs: safe_path.make_directory(theirs / "learn", Access("54321", "54321", "0700")),
        lambda theirs: safe_path.make_directory(theirs / "learn" / "new", Access("54321", "54321", "0700")),
        lambda theirs: Access("54321", "54321", "0600").apply(theirs / "file"),
        lambda theirs: Access("54321", "54321", "0600").differs(theirs / "file"),
        lambda theirs: safe_path.read(theirs / "file"),
        lambda theirs: safe_path.write(theirs / "learn" / "shadow", b"", ROOTS),
        lambda theirs: safe_path.unlink(theirs / "learn" / "shadow"),
        lambda theirs: safe_path.link(theirs / "learn" / "shadow", "/tmp"),
    ],
)
def test_links_in_a_directory_of_another_user(theirs: Path, touch: Callable[[Path], object]) -> None:
    roots = theirs.parent / "roots"
    with pytest.raises(UnsafePath, match="symbolic link"):
        touch(theirs)
    assert [path.name for path in roots.iterdir()] == ["shadow"]
    assert roots.stat().st_uid == (roots / "shadow").stat().st_uid == 0
    assert stat.S_IMODE(roots.stat().st_mode) == 0o755
    assert (roots / "shadow").read_text() == "secret\n"


@pytest.mark.parametrize(
    "touch",
    [
        lambda theirs: Access("54321", "54321", "0600").apply(theirs / "hard"),
        lambda theirs: Access("54321", "54321", "0600").differs(theirs / "hard"),
        lambda theirs: safe_path.read(theirs / "hard"),
    ],
)
def test_a_second_name_in_a_directory_of_another_user(theirs: Path, touch: Callable[[Path], object]) -> None:
    """Kernels with fs.protected_hardlinks=0 let everybody give one to any file."""
    shadow = theirs.parent / "roots" / "shadow"
    (theirs / "hard").hardlink_to(shadow)
    with pytest.raises(UnsafePath, match="more than one hard link"):
        touch(theirs)
    assert shadow.stat().st_uid == 0


def test_commands_write_where_root_alone_can_link(theirs: Path) -> None:
    safe_path.require_roots_directory(theirs.parent / "roots" / "key")
    with pytest.raises(UnsafePath, match="users other than root can write to its directory"):
        safe_path.require_roots_directory(theirs / "key")


def test_a_link_itself_is_replaced(theirs: Path) -> None:
    safe_path.write(theirs / "file", b"new\n", ROOTS)
    assert not (theirs / "file").is_symlink()
    assert (theirs.parent / "roots" / "shadow").read_text() == "secret\n"


def test_what_root_has_linked_is_followed(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "vmail").symlink_to("data")
    safe_path.make_directory(tmp_path / "vmail", Access("54321", "54321", "0700"))
    assert (tmp_path / "data").stat().st_uid == 54321
    assert not Access("54321", "54321", "0700").differs(tmp_path / "vmail"), "a second run changes nothing"


def test_a_directory_where_everybody_can_make_links(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o1777)
    (tmp_path / "shared" / "a").symlink_to(tmp_path)
    with pytest.raises(UnsafePath):
        safe_path.read(tmp_path / "shared" / "a" / "b")


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_parents_are_made(tmp_path: Path, umask: int) -> None:
    old = os.umask(umask)
    try:
        safe_path.make_directory(tmp_path / "a" / "b" / "c", Access("root", "root", "0750"))
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "a" / "b" / "c").stat().st_mode) == 0o750


def test_a_file_is_never_readable_before_it_has_its_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []
    fchown = os.fchown

    def seen(descriptor: int, uid: int, gid: int) -> None:
        modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        fchown(descriptor, uid, gid)

    monkeypatch.setattr(os, "fchown", seen)
    old = os.umask(0)
    try:
        safe_path.write(tmp_path / "a", b"secret", Access("root", "root", "0640"))
    finally:
        os.umask(old)
    assert modes == [0o600]
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
