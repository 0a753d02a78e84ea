# SPDX-License-Identifier: GPL-3.0-or-later
"""Addresses of full mailboxes. The scenarios test it with a real Dovecot."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

VIRTUALS = """\
@example.net alice@example.org
alice@example.org vmail
info@example.org alice@example.org
postmaster@example.org info@example.org
bob@example.org vmail
tagged@example.org alice+list@example.org
team@example.org alice@example.org, bob@example.org
away@example.org alice@example.org, friend@far.example
caught@example.org any@example.net
round@example.org turn@example.org
turn@example.org round@example.org
"""
# As doveadm answers to "-f tab quota get -u ACCOUNT" and "-A", from the names in a file of those that are full.
DOVEADM = """#!/bin/sh
dir={directory}
echo "$*" >>$dir/asked
[ -e $dir/full ] || {{ echo Fatal: no $dir >&2; exit 75; }}
row() {{
    used=5; grep -qx "$1" $dir/full && used=10
    printf '%sUser quota\\tSTORAGE\\t%s\\t10\\t50\\n%sUser quota\\tMESSAGE\\t5\\t-\\t0\\n' "$2" $used "$2"
}}
case $5 in
-A) for name in alice bob; do row $name@example.org "$name@example.org\t"; done ;;
*) case $6 in alice@example.org|bob@example.org) row $6 ;; *) exit 67 ;; esac ;;
esac
[ ! -e $dir/late ] || {{ mv $dir/late $dir/full; touch $dir/marks/bob@example.org; }}
"""
SMTPCTL = """#!/bin/sh
echo "$*" >>{directory}/told
"""


@pytest.fixture
def program(load_program: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = load_program("dovecot/files/usr/local/lib/selfhosted-mail/full-mailboxes")
    # This machine needs no user vmail.
    monkeypatch.setattr(module, "AS_MAILBOX_USER", [])
    monkeypatch.setattr(module, "VIRTUALS", tmp_path / "virtuals")
    monkeypatch.setattr(module, "QUOTAS", (tmp_path / "passwd", tmp_path / "none"))
    (tmp_path / "virtuals").write_text(VIRTUALS)
    return module


ALICES = ["alice", "caught", "info", "postmaster", "tagged"]


@pytest.mark.parametrize(
    ("full", "names"),
    [
        (set(), []),
        ({"alice@example.org"}, ALICES),
        ({"bob@example.org"}, ["bob"]),
        ({"alice@example.org", "bob@example.org"}, sorted([*ALICES, "bob", "team"])),
        ({"nobody@example.org"}, []),
    ],
)
def test_an_address_is_full_when_all_it_leads_to_is(program: ModuleType, full: set[str], names: list[str]) -> None:
    """Never a catch-all, an address with an external target, or a loop."""
    assert program.full_addresses(full, program.read_virtuals()) == [f"{name}@example.org" for name in names]


class Host:
    """The program on a host with a Dovecot, and with an OpenSMTPD unless it is removed."""

    def __init__(self, program: ModuleType, directory: Path) -> None:
        self.program, self.directory, self.marks = program, directory, directory / "marks"
        self.marks.mkdir()
        for name, text in (("doveadm", DOVEADM), ("smtpctl", SMTPCTL)):
            (directory / name).write_text(text.format(directory=directory))
            (directory / name).chmod(0o755)
        self.set_full("alice@example.org")

    def set_full(self, *accounts: str) -> None:
        (self.directory / "full").write_text("".join(f"{account}\n" for account in accounts))

    def mark(self, account: str) -> None:
        (self.marks / account).touch()
        # Before the program begins, whatever the clock's steps are.
        os.utime(self.marks / account, (time.time() - 1,) * 2)

    def lines(self, name: str) -> list[str]:
        """Of a file, which is empty then."""
        path = self.directory / name
        found = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return found

    def run(self) -> list[str]:
        """Accounts that doveadm was asked for, or -A."""
        command = [str(self.marks), str(self.directory / "table"), "smtpctl", "update", "table", "full"]
        assert self.program.main(command) == os.EX_OK
        return sorted(line.split(None, 4)[4].removeprefix("-u ") for line in self.lines("asked"))

    def table(self) -> list[str]:
        return [line.partition("@")[0] for line in (self.directory / "table").read_text().splitlines()]


@pytest.fixture
def host(program: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return Host(program, tmp_path)


def test_all_are_asked_at_first_and_after_a_day_and_with_other_quotas(host: Host) -> None:
    assert host.run() == ["-A"]
    assert host.table() == ["nobody", *ALICES]
    assert host.lines("told") == ["update table full"]
    assert host.run() == ["alice@example.org"]
    assert host.lines("told") == []
    os.utime(host.directory / "full-seen", (time.time() - 86401,) * 2)
    assert host.run() == ["-A"]
    assert host.lines("told") == ["update table full"]
    (host.directory / "passwd").touch()
    # The clock of the file system may be behind.
    os.utime(host.directory / "passwd", (time.time(),) * 2)
    assert host.run() == ["-A"]


def test_events_are_followed(host: Host) -> None:
    host.run()
    host.set_full("bob@example.org")
    for account in ("bob@example.org", "gone@example.org", "-A"):
        host.mark(account)
    assert host.run() == ["-A", "alice@example.org", "bob@example.org", "gone@example.org"]
    assert host.table() == ["nobody", "bob"]
    assert list(host.marks.iterdir()) == []
    # Nothing new: those in the table are looked at.
    assert host.run() == ["bob@example.org"]
    host.set_full()
    assert host.run() == ["bob@example.org"]
    assert host.table() == ["nobody"]


def test_an_event_while_it_asks_is_followed_too(host: Host) -> None:
    """Dovecot has answered already when Bob's mailbox becomes full."""
    host.run()
    (host.directory / "late").write_text("bob@example.org\n")
    assert host.run() == ["alice@example.org", "alice@example.org", "bob@example.org"]
    assert host.table() == ["nobody", "bob"]
    assert list(host.marks.iterdir()) == []


def test_what_stays_is_looked_at_twice(host: Host) -> None:
    """As a mark of the future."""
    host.run()
    host.mark("bob@example.org")
    os.utime(host.marks / "bob@example.org", (time.time() + 60,) * 2)
    assert host.run() == host.run() == ["alice@example.org"] * 2 + ["bob@example.org"] * 2


def test_root_changes_nothing_where_the_mailboxes_user_may_put_links(host: Host, tmp_path: Path) -> None:
    """Neither targets of links, nor files with a second name, nor other kinds of files."""
    precious = tmp_path / "precious"
    precious.write_text("root's")
    before = precious.stat()
    (host.marks / "alice@example.org").symlink_to(precious)
    (host.marks / "erin@example.org").symlink_to("/nonexistent")
    (host.marks / "bob@example.org").hardlink_to(precious)
    os.mkfifo(host.marks / "carol@example.org")
    (host.marks / "dave@example.org").mkdir()
    for path in host.marks.iterdir():
        os.utime(path, (time.time() - 1,) * 2, follow_symlinks=False)
    host.set_full("alice@example.org", "bob@example.org")
    host.run()
    after = precious.stat()
    assert precious.read_text() == "root's"
    assert (after.st_uid, after.st_mode) == (before.st_uid, before.st_mode)
    assert [path.name for path in host.marks.iterdir()] == ["dave@example.org"]


def test_without_dovecot_all_stays_as_it_is(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.run()
    host.mark("bob@example.org")
    (host.directory / "full").unlink()
    capsys.readouterr()
    arguments = [str(host.marks), str(host.directory / "table")]
    assert host.program.main(arguments) == os.EX_TEMPFAIL
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("<4>full-mailboxes: Dovecot did not report the quotas: Fatal: ")
    assert host.table() == ["nobody", *ALICES]
    assert [path.name for path in host.marks.iterdir()] == ["bob@example.org"]


def test_without_an_mta_there_is_a_table(host: Host) -> None:
    (host.directory / "smtpctl").unlink()
    assert host.run() == ["-A"]
    assert host.table() == ["nobody", *ALICES]


def test_wrong_usage(program: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["/nonexistent"]) == os.EX_USAGE
    assert capsys.readouterr().err == f"{program.USAGE}\n"
