# SPDX-License-Identifier: GPL-3.0-or-later
"""Files are replaced atomically and rolled back together; the previous set is kept."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.mail.plugins.module_utils import fileset
from ansible_collections.selfhosted.mail.plugins.module_utils.fileset import ManagedFile, Previous
from ansible_collections.selfhosted.mail.plugins.module_utils.safe_path import Access

OLD_TIME = 1_700_000_000_000_000_000  # nanoseconds


class Refused(Exception):
    """A checker that refuses."""


def managed(path: Path, content: str | None, me: dict[str, str], mode: str = "0640", **more: Any) -> ManagedFile:
    return ManagedFile(path, None if content is None else content.encode(), Access(**me, mode=mode), **more)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def kept() -> list[Path]:
    return [path for path in fileset.PREVIOUS.rglob("*") if path.is_file()]


def old_file(path: Path, content: str, mode: int = 0o604) -> None:
    path.write_text(content)
    path.chmod(mode)
    os.utime(path, ns=(OLD_TIME, OLD_TIME))


def test_put_writes_content_owner_and_mode_and_leaves_nothing_beside(tmp_path: Path, me: dict[str, str]) -> None:
    file = managed(tmp_path / "a.conf", "new\n", me, mode="0600")
    assert file.differs()
    file.put()
    assert not file.differs()
    assert (tmp_path / "a.conf").read_text() == "new\n"
    assert mode_of(tmp_path / "a.conf") == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["a.conf"]


def test_put_replaces_the_file_in_one_step(tmp_path: Path, me: dict[str, str]) -> None:
    """A reader that has the old file open still reads the old text."""
    old_file(tmp_path / "a.conf", "old\n")
    with (tmp_path / "a.conf").open() as reader:
        managed(tmp_path / "a.conf", "new\n", me).put()
        assert reader.read() == "old\n"
    assert (tmp_path / "a.conf").read_text() == "new\n"


def test_put_that_fails_changes_nothing(tmp_path: Path, me: dict[str, str]) -> None:
    old_file(tmp_path / "a.conf", "old\n")
    nobody = ManagedFile(tmp_path / "a.conf", b"new\n", Access("no-such-user", me["group"], "0644"))
    with pytest.raises(LookupError, match="no user no-such-user"):
        nobody.put()
    assert (tmp_path / "a.conf").read_text() == "old\n"
    assert [path.name for path in tmp_path.iterdir()] == ["a.conf"]


@pytest.mark.parametrize("mode", ["0644", "0600"])
def test_another_mode_is_a_difference(tmp_path: Path, me: dict[str, str], mode: str) -> None:
    old_file(tmp_path / "a.conf", "same\n", 0o640)
    assert not managed(tmp_path / "a.conf", "same\n", me).differs()
    assert managed(tmp_path / "a.conf", "same\n", me, mode=mode).differs()


def test_a_symbolic_link_is_replaced_and_its_target_left_alone(tmp_path: Path, me: dict[str, str]) -> None:
    old_file(tmp_path / "target", "same\n", 0o640)
    (tmp_path / "a.conf").symlink_to("target")
    file = managed(tmp_path / "a.conf", "same\n", me)
    assert file.differs()
    file.put()
    assert not (tmp_path / "a.conf").is_symlink()
    assert (tmp_path / "target").stat().st_mtime_ns == OLD_TIME


def test_absent_files(tmp_path: Path, me: dict[str, str]) -> None:
    absent = managed(tmp_path / "a.conf", None, me)
    assert not absent.differs()
    absent.put()
    old_file(tmp_path / "a.conf", "old\n")
    assert absent.differs()
    absent.put()
    assert not (tmp_path / "a.conf").exists()
    (tmp_path / "a.conf").symlink_to("nowhere")
    assert absent.differs()


def test_a_diff_shows_texts_but_no_secret(tmp_path: Path, me: dict[str, str]) -> None:
    old_file(tmp_path / "a", "before\n")
    assert managed(tmp_path / "a", "after\n", me).diff() == {
        "before_header": str(tmp_path / "a"),
        "after_header": str(tmp_path / "a"),
        "before": "before\n",
        "after": "after\n",
    }
    hidden = managed(tmp_path / "a", "after\n", me, secret=True).diff()
    assert hidden["before"] != hidden["after"]
    assert "before\n" not in hidden["before"]
    assert "after\n" not in hidden["after"]
    only_mode = managed(tmp_path / "a", "before\n", me, secret=True).diff()
    assert only_mode["before"] == only_mode["after"]


def test_a_refused_set_is_rolled_back_as_it_was(tmp_path: Path, me: dict[str, str]) -> None:
    old_file(tmp_path / "old.conf", "old\n")
    old_file(tmp_path / "gone.conf", "still needed\n", 0o600)
    files = [
        managed(tmp_path / "old.conf", "new\n", me),
        managed(tmp_path / "gone.conf", None, me),
        managed(tmp_path / "new.conf", "new\n", me),
    ]
    with pytest.raises(Refused), fileset.rolled_back_on_failure(files, "a.service"):
        assert (tmp_path / "old.conf").read_text() == (tmp_path / "new.conf").read_text() == "new\n"
        assert not (tmp_path / "gone.conf").exists()
        raise Refused
    assert (tmp_path / "old.conf").read_text() == "old\n"
    assert (tmp_path / "gone.conf").read_text() == "still needed\n"
    assert mode_of(tmp_path / "old.conf") == 0o604
    assert mode_of(tmp_path / "gone.conf") == 0o600
    assert (tmp_path / "old.conf").stat().st_mtime_ns == OLD_TIME, "a later run would restart the service for nothing"
    assert (tmp_path / "gone.conf").stat().st_mtime_ns == OLD_TIME
    assert not (tmp_path / "new.conf").exists()
    assert not Previous("a.service")
    assert kept() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files to others takes root")
def test_a_file_of_a_user_that_is_no_more_is_rolled_back_too(tmp_path: Path, me: dict[str, str]) -> None:
    old_file(tmp_path / "a.conf", "old\n")
    os.chown(tmp_path / "a.conf", 54321, 54321)
    new = managed(tmp_path / "a.conf", "new\n", me)
    with pytest.raises(Refused), fileset.rolled_back_on_failure([new], "a.service"):
        raise Refused
    assert (tmp_path / "a.conf").read_text() == "old\n"
    assert (tmp_path / "a.conf").stat().st_uid == 54321


def test_what_the_service_still_runs_is_kept_over_several_runs(tmp_path: Path, me: dict[str, str]) -> None:
    """v2 was written but the run ended before the restart; v3 follows, and a refused v4 changes nothing of that."""
    old_file(tmp_path / "a.conf", "v1\n")
    for text in ("v2\n", "v3\n"):
        with fileset.rolled_back_on_failure([managed(tmp_path / "a.conf", text, me)], "a.service"):
            pass
    fourth = managed(tmp_path / "a.conf", "v4\n", me)
    with pytest.raises(Refused), fileset.rolled_back_on_failure([fourth], "a.service"):
        raise Refused
    assert (tmp_path / "a.conf").read_text() == "v3\n"
    assert Previous("a.service").restore() == [str(tmp_path / "a.conf")]
    assert (tmp_path / "a.conf").read_text() == "v1\n"


def test_restore_brings_back_owner_mode_time_and_absence(tmp_path: Path, me: dict[str, str]) -> None:
    old_file(tmp_path / "a.conf", "old secret\n", 0o600)
    owner = 54321 if os.geteuid() == 0 else os.geteuid()
    os.chown(tmp_path / "a.conf", owner, -1)
    previous = Previous("a.service")
    previous.keep([tmp_path / "a.conf", tmp_path / "b.conf"])
    managed(tmp_path / "a.conf", "new\n", me, mode="0644").put()
    managed(tmp_path / "b.conf", "new\n", me).put()
    assert previous
    assert previous.restore() == [str(tmp_path / "a.conf"), str(tmp_path / "b.conf")]
    assert (tmp_path / "a.conf").read_text() == "old secret\n"
    assert mode_of(tmp_path / "a.conf") == 0o600
    assert (tmp_path / "a.conf").stat().st_uid == owner
    assert (tmp_path / "a.conf").stat().st_mtime_ns == OLD_TIME
    assert not (tmp_path / "b.conf").exists()
    assert not previous
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_copies_of_secrets_can_be_read_by_nobody_else(tmp_path: Path) -> None:
    old_file(tmp_path / "a.conf", "old secret\n", 0o600)
    old = os.umask(0)
    try:
        Previous("a.service").keep([tmp_path / "a.conf"])
    finally:
        os.umask(old)
    assert mode_of(fileset.PREVIOUS) == 0o700
    assert mode_of(fileset.PREVIOUS / "a.service") == 0o700
    assert [mode_of(path) for path in kept() if path.name != "manifest.json"] == [0o600]


def test_forget(tmp_path: Path) -> None:
    Previous("a.service").keep([tmp_path / "a.conf"])
    Previous("a.service").forget()
    assert Previous("a.service").restore() == []


def test_a_link_is_put_in_place_and_rolled_back(tmp_path: Path, me: dict[str, str]) -> None:
    old_file(tmp_path / "a.pem", "old\n")
    link = ManagedFile(tmp_path / "a.pem", None, Access(**me, mode="0644"), target="/etc/own.pem")
    assert link.differs()
    assert link.diff()["after"] == "link to /etc/own.pem\n"
    with pytest.raises(Refused), fileset.rolled_back_on_failure([link], "a.service"):
        assert (tmp_path / "a.pem").readlink() == Path("/etc/own.pem")
        raise Refused
    assert (tmp_path / "a.pem").read_text() == "old\n"
    link.put()
    assert not link.differs()
    previous = Previous("a.service")
    previous.keep([link.path])
    ManagedFile(link.path, None, link.access, target="/etc/other.pem").put()
    previous.restore()
    assert not link.differs()


def test_what_another_set_of_the_service_has_kept_is_not_forgotten(tmp_path: Path) -> None:
    previous = Previous("a.service")
    previous.keep([tmp_path / "a.conf", tmp_path / "b.conf"])
    previous.forget_if_only([tmp_path / "a.conf"])
    assert previous
    previous.forget_if_only([tmp_path / "a.conf", tmp_path / "b.conf"])
    assert not previous
