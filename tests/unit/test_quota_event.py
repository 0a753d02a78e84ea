# SPDX-License-Identifier: GPL-3.0-or-later
"""Quota warnings are retried, and a final failure is logged. The scenario dovecot tests it with Dovecot."""

from __future__ import annotations

import os
import socketserver
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

# sendmail(8) as it answers each time, whose input it keeps.
SENDMAIL = """#!/bin/sh
code=$(head -n 1 {codes})
sed -i 1d {codes}
cat >{kept}
[ "$code" = 0 ] || echo "sendmail: not now" >&2
exit "$code"
"""


@pytest.fixture
def program(load_program: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = load_program("dovecot/files/usr/local/lib/selfhosted-mail/quota-event")
    monkeypatch.setattr(module, "SENDMAIL", str(tmp_path / "sendmail"))
    monkeypatch.setattr(module, "LMTP", str(tmp_path / "lmtp"))
    monkeypatch.setattr(module, "PAUSES", (0, 0.01, 0.01))
    return module


def warn(program: ModuleType, tmp_path: Path, *codes: int) -> int:
    """The program's exit code where sendmail answers these."""
    sendmail = tmp_path / "sendmail"
    sendmail.write_text(SENDMAIL.format(codes=tmp_path / "codes", kept=tmp_path / "kept"))
    sendmail.chmod(0o755)
    (tmp_path / "codes").write_text("".join(f"{code}\n" for code in codes))
    return int(program.main(["mail.example.org", str(tmp_path), "80", "alice@example.org"]))


def test_a_busy_neighbour_is_waited_for(
    program: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert warn(program, tmp_path, os.EX_TEMPFAIL, os.EX_TEMPFAIL, 0) == 0
    head, _empty, body = (tmp_path / "kept").read_text().partition("\n\n")
    fields = dict(line.split(": ", 1) for line in head.splitlines())
    assert fields["Subject"] == "Your mailbox is 80 % full"
    assert fields["From"] == "Mail server <postmaster@mail.example.org>"
    assert [*fields] == ["From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted"]
    assert body.startswith("The mailbox of alice@example.org is 80 % full.\n")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("codes", [[os.EX_TEMPFAIL] * 3, [os.EX_NOPERM]])
def test_what_nobody_takes_is_one_line(
    program: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], codes: list[int]
) -> None:
    assert warn(program, tmp_path, *codes) == codes[-1]
    assert (tmp_path / "codes").read_text() == ""
    assert capsys.readouterr().err.splitlines() == [
        "the quota warning for alice@example.org could not be delivered: sendmail: not now"
    ]


def test_nobody_listens(program: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    """No MTA, and no LMTP server either."""
    assert program.main(["mail.example.org", "/", "80", "alice@example.org"]) == os.EX_TEMPFAIL
    [line] = capsys.readouterr().err.splitlines()
    assert "No such file" in line


class Lmtp(socketserver.StreamRequestHandler):
    """Takes no recipient the first time."""

    seen: list[str]
    recipients = 0

    def handle(self) -> None:
        self.wfile.write(b"220 lmtp\r\n")
        for raw in self.rfile:
            verb = raw[:4].decode().upper()
            Lmtp.recipients += verb == "RCPT"
            answer = {
                "RCPT": b"250 ok" if Lmtp.recipients > 1 else b"451 busy",
                "DATA": b"354 go on",
                "QUIT": b"221 bye",
            }
            self.wfile.write(answer.get(verb, b"250 ok") + b"\r\n")
            if verb == "DATA":
                while (line := self.rfile.readline()) not in (b".\r\n", b""):
                    Lmtp.seen.append(line.decode().strip())
                self.wfile.write(b"250 taken\r\n")


def test_without_an_mta_dovecot_takes_it(program: ModuleType) -> None:
    Lmtp.seen = []
    with socketserver.ThreadingUnixStreamServer(program.LMTP, Lmtp) as lmtp:
        threading.Thread(target=lmtp.serve_forever, daemon=True).start()
        assert program.main(["mail.example.org", "/", "95", "alice@example.org"]) == os.EX_OK
        lmtp.shutdown()
    assert "Subject: Your mailbox is 95 % full" in Lmtp.seen
    assert Lmtp.recipients == 2


@pytest.mark.parametrize("event", ["full", "space"])
def test_full_mailboxes_gets_to_know(program: ModuleType, tmp_path: Path, event: str) -> None:
    assert program.main(["mail.example.org", str(tmp_path), event, "alice@example.org"]) == os.EX_OK
    assert [path.name for path in tmp_path.iterdir()] == ["alice@example.org"]


def test_errors_are_one_line(program: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["mail.example.org", "full", "alice@example.org"]) == os.EX_USAGE
    assert program.main(["mail.example.org", str(tmp_path / "none"), "full", "alice@example.org"]) == os.EX_CANTCREAT
    usage, error = capsys.readouterr().err.splitlines()
    assert usage == program.USAGE
    assert error.startswith("quota-event: ")
