# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands of nftables-rules to nftables, and its error messages. The scenarios test the rules."""

from __future__ import annotations

import os
import pwd
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest


class Nftables:
    """As python3-nftables answers."""

    answer = (0, "", "")
    texts: list[str]
    opened: list[socket.socket]

    def set_dry_run(self, dry: bool) -> None:
        assert dry

    def cmd(self, text: str) -> tuple[int, str, str]:
        Nftables.texts.append(text)
        return Nftables.answer


@pytest.fixture
def program(load_program: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setitem(sys.modules, "nftables", SimpleNamespace(Nftables=Nftables))
    Nftables.answer, Nftables.texts, Nftables.opened = (0, "", ""), [], []
    module = load_program("firewall/files/usr/local/lib/selfhosted-mail/nftables-rules")
    monkeypatch.setattr(module, "FILES", tmp_path)
    monkeypatch.setattr(module, "BANS_FILE", tmp_path / "bans")
    monkeypatch.setattr(module, "SOCKET", tmp_path / "socket")
    monkeypatch.setattr(module, "PATIENCE", 0.3)
    (tmp_path / "b.nft").write_text("chain b { meta skuid uid(nobody) accept }\n")
    (tmp_path / "00-sets.nft").write_text("set s { type ipv4_addr; }\n")
    (tmp_path / "c.nft").write_text("chain c { meta skuid uid(no such user) accept }\n")
    return module


def test_all_files_in_their_order(program: ModuleType) -> None:
    assert program.main(["--check"]) == os.EX_OK
    assert Nftables.texts == [
        "table inet selfhosted_mail_check {\n}\ndelete table inet selfhosted_mail_check\n"
        "table inet selfhosted_mail_check {\nset s { type ipv4_addr; }\n"
        f"chain b {{ meta skuid {pwd.getpwnam('nobody').pw_uid} accept }}\n"
        "chain c { meta skuid 4294967294 accept }\n}\n"
        "table inet selfhosted_mail_bans_check {\nchain input {\n}\n}\ndelete table inet selfhosted_mail_bans_check\n"
    ]


def test_who_is_banned_stays_when_the_rules_are_replaced(program: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "bans").write_text("chain input { drop }\n")
    assert program.main(["--check"]) == os.EX_OK
    [text] = Nftables.texts
    assert text.partition("table inet selfhosted_mail_bans_check")[2] == (
        " {\nchain input {\n}\n}\ndelete chain inet selfhosted_mail_bans_check input\n"
        "table inet selfhosted_mail_bans_check {\nchain input { drop }\n}\n"
    )


@pytest.mark.parametrize(
    ("said", "code", "line"),
    [
        ("-:3:1-3: Error: syntax error\nfoo bar\n^^^\n", os.EX_CONFIG, "-:3:1-3: Error: syntax error foo bar"),
        ("Error: Could not process rule: Operation not permitted\n", os.EX_UNAVAILABLE,
         "Error: Could not process rule: Operation not permitted {}"),
    ],
)  # fmt: skip
def test_refused(program: ModuleType, capsys: pytest.CaptureFixture[str], said: str, code: int, line: str) -> None:
    Nftables.answer = (1, "", said)
    assert program.main(["--check"]) == code
    assert program.main([]) == code
    line = line.format(program.WITHOUT)
    assert capsys.readouterr().err.splitlines() == [line, f"<3>{line}"]
    assert "`mail_firewall: false`" in program.WITHOUT


def test_wrong_usage(program: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["check"]) == os.EX_USAGE
    assert capsys.readouterr().err == "usage: nftables-rules [--check | ban CLIENT SECONDS | unban [CLIENT]]\n"
    assert Nftables.texts == []


BANS = "inet selfhosted_mail_bans"


@pytest.mark.parametrize(
    ("client", "entry"),
    [
        ("192.0.2.7", "ipv4 { 192.0.2.7"),
        ("2001:db8:1:2::5", "ipv6 { 2001:db8:1:2::"),
        ("2001:db8:1:2:3:4:5:6", "ipv6 { 2001:db8:1:2::"),
        # As fail2ban counts them.
        ("2001:db8:1:2", "ipv6 { 2001:db8:1:2::"),
        ("2001:db8", "ipv6 { 2001:db8::"),
        ("fe80", "ipv6 { fe80::"),
    ],
)
def test_a_ban_and_its_end(program: ModuleType, client: str, entry: str) -> None:
    assert program.asked(["ban", client, "600"]) == (
        f"add element {BANS} {entry} }}\ndelete element {BANS} {entry} }}\nadd element {BANS} {entry} timeout 600s }}\n"
    )
    assert program.asked(["unban", client]) == f"add element {BANS} {entry} }}\ndelete element {BANS} {entry} }}\n"


def test_the_end_of_all_bans(program: ModuleType) -> None:
    assert program.asked(["unban"]) == f"flush set {BANS} ipv4\nflush set {BANS} ipv6\n"


@pytest.mark.parametrize(
    "words",
    [
        ["ban", "192.0.2.7"],
        ["ban", "192.0.2.7", "0"],
        ["ban", "192.0.2.7", "-1"],
        ["ban", "192.0.2.7", "600", "more"],
        ["ban", "192.0.2.0/24", "600"],
        ["ban", "192.0.2", "600"],
        ["ban", "example.org", "600"],
        ["ban", "2001:db8:1:2:3", "600 } ; flush ruleset"],
        ["unban", ""],
        ["unban", "} ; flush ruleset"],
    ],
)
def test_no_client_and_no_time(program: ModuleType, words: list[str]) -> None:
    assert program.main(words) == os.EX_USAGE
    assert Nftables.texts == []


def test_a_file_that_cannot_be_read(program: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "d.nft").mkdir()
    assert program.main(["--check"]) == os.EX_NOINPUT
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.fixture
def systemd(program: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Receives notifications to systemd; libnftables has a socket, and the program ends after its start."""
    monkeypatch.setattr(signal, "pthread_sigmask", lambda *_: None)
    monkeypatch.setattr(signal, "sigwait", lambda _signals: signal.SIGTERM)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.delenv("LISTEN_PID", raising=False)
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel,
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW) as library,
    ):
        channel.bind(str(tmp_path / "notify"))
        channel.settimeout(5)
        Nftables.opened = [library]
        yield channel


def test_systemd_gets_the_socket_before_there_is_a_table(program: ModuleType, systemd: socket.socket) -> None:
    inode = os.fstat(Nftables.opened[0].fileno()).st_ino
    assert program.main([]) == os.EX_OK
    told, [number], _flags, _sender = socket.recv_fds(systemd, 100, 1)
    assert told == b"FDSTORE=1\nFDNAME=owner\nFDPOLL=0"
    assert os.fstat(number).st_ino == inode
    os.close(number)
    assert systemd.recv(100) == b"READY=1"
    [text] = Nftables.texts
    # An existing table is replaced in the same transaction; a missing one is not an error.
    before, _brace, rules = text.partition("flags owner;\nset s {")
    assert before.splitlines() == [
        "table inet selfhosted_mail {",
        "flags owner;",
        "}",
        "delete table inet selfhosted_mail",
        "table inet selfhosted_mail {",
    ]
    assert "table inet selfhosted_mail_bans {\nflags owner;" in rules


def test_the_next_one_speaks_through_what_systemd_has_kept(
    program: ModuleType, systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).detach()
    inode = os.fstat(kept).st_ino
    monkeypatch.setattr(program, "STORED", kept)
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    assert program.main([]) == os.EX_OK
    assert systemd.recv(100) == b"READY=1"
    assert os.fstat(Nftables.opened[0].fileno()).st_ino == inode
    assert not Nftables.opened[0].get_inheritable()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(kept)


def test_descriptors_of_another_process_are_not_ours(
    program: ModuleType, systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid() + 1))
    assert program.main([]) == os.EX_OK
    assert systemd.recv(100).startswith(b"FDSTORE=1")


def test_root_asks_and_is_told(
    program: ModuleType, systemd: socket.socket, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []

    def asks(_signals: object) -> signal.Signals:
        """While the rules are held."""
        seen.append(program.main(["ban", "2001:db8:1:2", "600"]))
        Nftables.answer = (1, "", "Error: Could not process rule: No such file or directory\nadd element\n")
        seen.append(program.main(["unban"]))
        return signal.SIGTERM

    monkeypatch.setattr(signal, "sigwait", asks)
    assert program.main([]) == os.EX_OK
    assert systemd.recv(100).startswith(b"FDSTORE=1")
    assert seen == [os.EX_OK, os.EX_DATAERR]
    assert Nftables.texts[1:] == [program.asked(["ban", "2001:db8:1:2", "600"]), program.asked(["unban"])]
    assert capsys.readouterr().err == "Error: Could not process rule: No such file or directory add element\n"


def test_nobody_holds_the_rules(program: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["unban", "192.0.2.7"]) == os.EX_UNAVAILABLE
    assert capsys.readouterr().err.startswith("selfhosted-mail-nftables.service is not running: ")
