# SPDX-License-Identifier: GPL-3.0-or-later
"""The socket for Rspamd, and the submission of reports. The scenarios test it with Rspamd."""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

# In the place of setpriv(1), which would start rspamadm: notes what it is called with, what it finds, and what it is
# answered.
SETPRIV = """#!{python}
import grp, os, pathlib, pwd, socket, sys
directory = pathlib.Path("{directory}")
(directory / "called").write_text(" ".join(sys.argv[1:]))
found = [os.stat(directory / name) for name in ("run", "run/smtp.sock")]
(directory / "modes").write_text(" ".join(f"{{one.st_mode & 0o7777:o}}:{{one.st_uid}}:{{one.st_gid}}" for one in found))
with socket.socket(socket.AF_UNIX) as stream:
    stream.connect("{directory}/run/smtp.sock")
    stream.sendall((directory / "said").read_bytes())
    stream.shutdown(socket.SHUT_WR)
    (directory / "answers").write_bytes(b"".join(iter(lambda: stream.recv(4096), b"")))
sys.exit({code})
"""
SENDMAIL = """#!/bin/sh
echo "$@" >>{directory}/sent
cat >>{directory}/sent
exit $(cat {directory}/code)
"""
SESSION = b"""HELO mail.example.org\r
MAIL FROM:<postmaster@mail.example.org>\r
RCPT TO:<dmarc@example.net>\r
RCPT TO:<-odd@example.net>\r
DATA\r
Subject: Report\r
\r
..\r
last\r
.\r
QUIT\r
"""


@pytest.fixture
def program(
    load_program: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ModuleType]:
    if os.geteuid():
        pytest.skip("gives a directory to a group as root does")
    module = load_program("rspamd/files/usr/local/lib/selfhosted-mail/send-dmarc-reports")
    monkeypatch.setattr(module, "SOCKET", tmp_path / "run" / "smtp.sock")
    monkeypatch.setattr(module, "RSPAMD", "daemon")
    monkeypatch.setattr(module, "SENDMAIL", str(tmp_path / "sendmail"))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    group, umask = os.getegid(), os.umask(0o022)
    yield module
    os.setegid(group)
    os.umask(umask)


def run(program: ModuleType, tmp_path: Path, code: int = 0, said: bytes = SESSION, sendmail: int = 0) -> int:
    """Its exit code where rspamadm ends with ``code`` and sendmail with another."""
    for name, text in (("setpriv", SETPRIV), ("sendmail", SENDMAIL)):
        (tmp_path / name).write_text(text.format(python=sys.executable, directory=tmp_path, code=code))
        (tmp_path / name).chmod(0o755)
    (tmp_path / "said").write_bytes(said)
    (tmp_path / "code").write_text(str(sendmail))
    return int(program.main(["postmaster@mail.example.org", "20260131"]))


def test_rspamds_group_may_connect_and_change_nothing(program: ModuleType, tmp_path: Path) -> None:
    """By hand, and where systemd has made the directory and an earlier run was killed."""
    group = pwd.getpwnam("daemon").pw_gid
    for _run in range(2):
        assert run(program, tmp_path) == os.EX_OK
        assert (tmp_path / "modes").read_text() == f"710:0:{group} 660:0:{group}"
        command = "--reuid=_rspamd --regid=_rspamd --init-groups -- rspamadm dmarc_report 20260131"
        assert (tmp_path / "called").read_text() == command
        assert list((tmp_path / "run").iterdir()) == []
        (tmp_path / "run" / "smtp.sock").touch()
    assert os.umask(0o022) == 0o022


def test_a_report_goes_to_sendmail(program: ModuleType, tmp_path: Path) -> None:
    assert run(program, tmp_path) == os.EX_OK
    options, message = (tmp_path / "sent").read_text().split("\n", 1)
    assert options == "-i -f postmaster@mail.example.org -- dmarc@example.net -odd@example.net"
    assert message == "Subject: Report\n\n.\nlast\n"
    codes = [line[:3] for line in (tmp_path / "answers").read_text().splitlines()]
    assert codes == ["220", "250", "250", "250", "250", "354", "250", "221"]


def test_what_is_not_taken_is_told(program: ModuleType, tmp_path: Path) -> None:
    assert run(program, tmp_path, sendmail=75) == os.EX_OK
    assert "354 go on\r\n451 not taken\r\n" in (tmp_path / "answers").read_bytes().decode()
    (tmp_path / "sent").unlink()
    assert run(program, tmp_path, said=SESSION.partition(b"last")[0]) == os.EX_OK
    assert "354 go on\r\n451 cut off\r\n" in (tmp_path / "answers").read_bytes().decode()
    assert not (tmp_path / "sent").exists()


def test_what_fails_is_one_line(
    program: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.main([]) == os.EX_USAGE
    assert run(program, tmp_path, code=3) == os.EX_UNAVAILABLE
    monkeypatch.setattr(program, "SOCKET", Path("/proc/none/smtp.sock"))
    assert run(program, tmp_path) == os.EX_UNAVAILABLE
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == program.USAGE
    assert [line.partition(":")[0] for line in lines[1:]] == ["<3>send-dmarc-reports"] * 2
    assert "exit status 3" in lines[1]
