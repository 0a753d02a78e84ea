# SPDX-License-Identifier: GPL-3.0-or-later
"""A warning waits for who takes it, one that nobody takes ends with a line; Dovecot's own part is the scenario's."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "roles/dovecot/files/usr/local/lib/selfhosted-mail/quota-event"
# sendmail(8) as it answers each time, whose input it keeps.
SENDMAIL = """#!/bin/sh
code=$(head -n 1 {codes})
sed -i 1d {codes}
cat >{kept}
[ "$code" = 0 ] || echo "sendmail: not now" >&2
exit "$code"
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    loader = SourceFileLoader("quota_event", str(PROGRAM))
    spec = spec_from_loader(loader.name, loader)
    assert spec
    module = module_from_spec(spec)
    loader.exec_module(module)
    sendmail = tmp_path / "sendmail"
    sendmail.write_text(SENDMAIL.format(codes=tmp_path / "codes", kept=tmp_path / "kept"))
    sendmail.chmod(0o755)
    monkeypatch.setattr(module, "SENDMAIL", sendmail)
    monkeypatch.setattr(module, "PAUSES", (0.01, 0.01, 0.01))
    return module


def run(program: ModuleType, tmp_path: Path, *codes: int) -> int:
    """The program's exit code where sendmail answers these."""
    (tmp_path / "codes").write_text("".join(f"{code}\n" for code in codes))
    return int(program.main("mail.example.org", "80", "alice@example.org"))


def test_a_busy_neighbour_is_waited_for(
    program: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(program, tmp_path, os.EX_TEMPFAIL, os.EX_TEMPFAIL, 0) == 0
    assert "Your mailbox is 80 % full" in (tmp_path / "kept").read_text()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("codes", [[os.EX_TEMPFAIL] * 4, [os.EX_NOPERM]])
def test_what_nobody_takes_is_one_line(
    program: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], codes: list[int]
) -> None:
    assert run(program, tmp_path, *codes) == codes[-1]
    assert (tmp_path / "codes").read_text() == ""
    assert capsys.readouterr().err.splitlines() == [
        "alice@example.org could not be told that the mailbox fills: sendmail: not now"
    ]


def test_nobody_listens(program: ModuleType, tmp_path: Path) -> None:
    """As the program that it is: no traceback."""
    text = PROGRAM.read_text().replace("/run/dovecot/lmtp", str(tmp_path / "lmtp"))
    text = text.replace("/usr/sbin/sendmail", str(tmp_path / "none")).replace("\nPAUSES = ", "\nPAUSES = () and ")
    command = [sys.executable, "-c", text, "mail.example.org", "80", "alice@example.org"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == os.EX_TEMPFAIL
    assert len(done.stderr.splitlines()) == 1 and "No such file" in done.stderr
