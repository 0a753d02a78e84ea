# SPDX-License-Identifier: GPL-3.0-or-later
"""What nftables-rules hands to nftables and says of its answers; the rules themselves are the scenarios' business."""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest


class Nftables:
    """As python3-nftables answers."""

    answer = (0, "", "")
    texts: list[str]

    def set_dry_run(self, dry: bool) -> None:
        assert dry

    def cmd(self, text: str) -> tuple[int, str, str]:
        Nftables.texts.append(text)
        return Nftables.answer


@pytest.fixture
def program(load_program: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setitem(sys.modules, "nftables", SimpleNamespace(Nftables=Nftables))
    Nftables.answer, Nftables.texts = (0, "", ""), []
    module = load_program("firewall/files/usr/local/lib/selfhosted-mail/nftables-rules")
    monkeypatch.setattr(module, "FILES", tmp_path)
    (tmp_path / "b.nft").write_text("chain b { meta skuid uid(nobody) accept }\n")
    (tmp_path / "00-sets.nft").write_text("set s { type ipv4_addr; }\n")
    (tmp_path / "c.nft").write_text("chain c { meta skuid uid(no such user) accept }\n")
    return module


def test_all_files_in_their_order(program: ModuleType) -> None:
    assert program.main(["--check"]) == os.EX_OK
    assert Nftables.texts == [
        "table inet selfhosted_mail_check {\nset s { type ipv4_addr; }\n"
        f"chain b {{ meta skuid {pwd.getpwnam('nobody').pw_uid} accept }}\n"
        "chain c { meta skuid 4294967294 accept }\n}\n"
    ]


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
    assert capsys.readouterr().err == "usage: nftables-rules [--check]\n"
    assert Nftables.texts == []


def test_a_file_that_cannot_be_read(program: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "d.nft").mkdir()
    assert program.main(["--check"]) == os.EX_NOINPUT
    assert len(capsys.readouterr().err.splitlines()) == 1
