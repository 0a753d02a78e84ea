# SPDX-License-Identifier: GPL-3.0-or-later
"""What a second restore removes."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from ansible_collections.selfhosted.mail.plugins.module_utils.command import CommandFailed
from ansible_collections.selfhosted.mail.plugins.modules import restore
from ansible_collections.selfhosted.mail.plugins.modules.restore import Node


def make(root: Path, *names: str) -> set[str]:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return {str(root / name) for name in names}


def left(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_a_message_is_the_same_one_whatever_its_flags() -> None:
    names = ["/m/x/new/1.a", "/m/x/cur/1.a:2,", "/m/x/cur/1.a:2,SF"]
    assert len({restore.identity(name) for name in names}) == 1
    others = [*names[:1], "/m/y/cur/1.a:2,", "/m/x/cur/2.a:2,", "/m/x/dovecot-uidlist"]
    assert len({restore.identity(name) for name in others}) == 4


def test_only_what_a_snapshot_has_known_is_removed(tmp_path: Path) -> None:
    now = make(tmp_path, "a/cur/stays:2,S", "a/cur/flagged:2,SF", "a/dovecot-uidlist", "b/cur/moved:2,")
    make(tmp_path, "a/cur/flagged:2,", "a/cur/moved:2,", "a/cur/deleted:2,", "a/new/arrived", "a/cur/read:2,S")
    make(
        tmp_path,
        "a/dovecot.index.log",
        "a/fts-flatcurve/x/y",
        "gone/cur/old:2,",
        "gone/maildirfolder",
        "mine/cur/own:2,",
    )
    known = [
        "a/cur/stays:2,S",
        "a/cur/flagged:2,",
        "a/cur/moved:2,",
        "a/new/deleted",
        "gone/cur/old:2,",
        "gone/maildirfolder",
    ]
    before = [Node(str(tmp_path / name), False, 0, 0) for name in known]
    before += [Node(str(tmp_path / name), True, 0, 0) for name in ("a", "a/cur", "gone", "gone/cur")]
    now |= {str(tmp_path / name) for name in ("a", "a/cur", "b", "b/cur")}
    restore.remove_stale(tmp_path, now, before)
    assert left(tmp_path) == {
        "a/cur/stays:2,S", "a/cur/flagged:2,SF", "a/dovecot-uidlist", "b/cur/moved:2,",
        "a/new/arrived", "a/cur/read:2,S", "mine/cur/own:2,",
    }  # fmt: skip
    assert not (tmp_path / "gone").exists()


def test_without_an_earlier_restore_only_its_own_messages_are_looked_at(tmp_path: Path) -> None:
    now = make(tmp_path, "a/cur/one:2,S")
    make(tmp_path, "a/cur/one:2,", "a/cur/two:2,")
    restore.remove_stale(tmp_path, now, [])
    assert left(tmp_path) == {"a/cur/one:2,S", "a/cur/two:2,"}


@pytest.mark.parametrize("own", [False, True])
def test_the_latest_backup_is_not_this_hosts_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: bool) -> None:
    """A host that was restored backs itself up under the same name."""
    state = tmp_path / "backup.json"
    monkeypatch.setattr(restore, "BACKUP_STATE", state)
    latest = {"id": "abc", "short_id": "ab", "time": "2026-11-28T10:00:00Z"}
    restore.require_anothers(latest)
    state.write_text(json.dumps({"snapshot": "abc" if own else "other"}))
    with pytest.raises(CommandFailed, match=r"own.* id, ab") if own else contextlib.nullcontext():
        restore.require_anothers(latest)
