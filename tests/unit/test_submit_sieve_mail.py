# SPDX-License-Identifier: GPL-3.0-or-later
"""Which way a script's mail takes, and that nothing that is refused gets lost; Dovecot's own part is the scenario's."""

from __future__ import annotations

import io
import os
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

ACCOUNT, STRANGER, FRIEND = "alice@example.org", "stranger@world.test", "friend@far.test"
REDIRECTED = (
    b"X-Sieve: Pigeonhole Sieve 2.4.1-4 (0a86619f)\n"
    b"X-Sieve-Redirected-From: alice@example.org\n"
    b"Received: from world.test\r\nFrom: stranger@world.test\r\n\r\n.dot\r\nbare\rCR\r\n\xff\r\n..\r\n"
)
ON_THE_WIRE = REDIRECTED.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
ANSWER = (
    b"X-Sieve: Pigeonhole Sieve 0.5.19 (4eae2f79)\r\nMessage-ID: <1@example.org>\r\n"
    b"X-Sieve-Redirected-From: alice@example.org\r\nFrom: alice@example.org\r\n\r\nAway.\r\n"
)
REJECTION = b"Message-ID: <2@example.org>\r\nDate: now\r\n\r\nNo.\r\n"


class Server(socketserver.StreamRequestHandler):
    """SMTP or LMTP. ``said``: all commands and messages of a kind; ``answers``: by kind and verb, 250 where none is."""

    said: dict[str, list[bytes]]
    answers: dict[tuple[str, str], bytes]

    def handle(self) -> None:
        kind = "lmtp" if self.server.address_family == socket.AF_UNIX else "smtp"
        said = Server.said.setdefault(kind, [])

        def answer(verb: str, usual: bytes) -> bytes:
            text = Server.answers.get((kind, verb), usual)
            self.wfile.write(text + b"\r\n")
            return text

        answer("", b"220 here")
        for raw in self.rfile:
            verb = raw[:4].decode().upper().strip()
            said.append(raw.strip().lower())
            text = answer(verb, {"DATA": b"354 go on", "QUIT": b"221 bye"}.get(verb, b"250 ok"))
            if verb == "DATA" and text.startswith(b"354"):
                lines = []
                while (line := self.rfile.readline()) not in (b".\r\n", b""):
                    lines.append(line.removeprefix(b"."))
                said.append(b"".join(lines))
                answer(".", b"250 taken")


@pytest.fixture
def program(
    load_program: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ModuleType]:
    """With a host's three takers of mail: OpenSMTPD's port, Dovecot's socket, sendmail(8)."""
    module = load_program("dovecot/files/usr/local/lib/selfhosted-mail/submit-sieve-mail")
    Server.said, Server.answers = {}, {}
    smtp = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Server)
    lmtp = socketserver.ThreadingUnixStreamServer(str(tmp_path / "lmtp"), Server)
    for server in (smtp, lmtp):
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    sendmail = tmp_path / "sendmail"
    sendmail.write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/arguments\ncat >{tmp_path}/taken\n. {tmp_path}/then\n')
    sendmail.chmod(0o755)
    (tmp_path / "then").write_text("")
    monkeypatch.setattr(module, "REDIRECTS", smtp.server_address)
    monkeypatch.setattr(module, "LMTP", str(tmp_path / "lmtp"))
    monkeypatch.setattr(module, "SENDMAIL", str(sendmail))
    monkeypatch.setattr(module, "SPOOL", str(tmp_path))
    yield module
    for server in (smtp, lmtp):
        server.shutdown()
        server.server_close()


@pytest.fixture
def journal(program: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    lines: list[tuple[int, str]] = []
    monkeypatch.setattr(program.syslog, "syslog", lambda level, text: lines.append((level, text)))
    return lines


def run(program: ModuleType, monkeypatch: pytest.MonkeyPatch, message: bytes, sender: str, recipient: str) -> int:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(message)))
    return int(program.main(["mail.example.org", "-i", "-f", sender, "--", recipient]))


@pytest.mark.parametrize("sender", [ACCOUNT, "<>"])
def test_a_redirected_message_takes_its_own_way(
    program: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sender: str
) -> None:
    """As it is: a signature of whoever wrote it stays right."""
    assert run(program, monkeypatch, REDIRECTED, sender, FRIEND) == os.EX_OK
    assert Server.said["smtp"] == [
        b"ehlo mail.example.org",
        b"mail from:<%b>" % sender.strip("<>").encode(),
        b"rcpt to:<friend@far.test>",
        b"data",
        ON_THE_WIRE,
        b"quit",
    ]
    assert not (tmp_path / "taken").exists()
    assert "lmtp" not in Server.said


@pytest.mark.parametrize(("message", "sender"), [(ANSWER, ACCOUNT), (REJECTION, "<>"), (b"", ACCOUNT)])
def test_anything_else_goes_to_sendmail(
    program: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: bytes, sender: str
) -> None:
    assert run(program, monkeypatch, message, sender, STRANGER) == os.EX_OK
    assert (tmp_path / "taken").read_bytes() == message
    assert (tmp_path / "arguments").read_text() == f"-i -f {sender} -- {STRANGER}\n"
    assert Server.said == {}


@pytest.mark.parametrize("verb", ["", "EHLO", "MAIL", "RCPT", "DATA", "."])
def test_what_is_refused_for_now_is_tried_again(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    Server.answers["smtp", verb] = b"451 not now"
    assert run(program, monkeypatch, REDIRECTED, ACCOUNT, FRIEND) == os.EX_TEMPFAIL
    assert "not now" in capsys.readouterr().err
    assert "lmtp" not in Server.said


def test_nobody_listens(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(program, "REDIRECTS", ("127.0.0.1", 1))
    assert run(program, monkeypatch, REDIRECTED, ACCOUNT, FRIEND) == os.EX_TEMPFAIL
    monkeypatch.setattr(program, "SENDMAIL", "/nonexistent")
    assert run(program, monkeypatch, ANSWER, ACCOUNT, FRIEND) == os.EX_TEMPFAIL
    assert len(capsys.readouterr().err.splitlines()) == 2


@pytest.mark.parametrize("sender", [f"{ACCOUNT}", "<>"])
@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA", "."])
def test_a_redirected_message_that_is_refused_stays_with_its_account(
    program: ModuleType,
    journal: list[tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    verb: str,
    sender: str,
) -> None:
    """With the line by which Pigeonhole knows that it has redirected it before."""
    Server.answers["smtp", verb] = b"550-5.1.1 No\r\n550 such user"
    assert run(program, monkeypatch, REDIRECTED, sender, FRIEND) == os.EX_OK
    assert Server.said["lmtp"][1:5] == [b"mail from:<>", b"rcpt to:<alice@example.org>", b"data", ON_THE_WIRE]
    assert Server.said["lmtp"][0].startswith(b"lhlo ")
    text = "redirected message of alice@example.org to 'friend@far.test' refused: 550 5.1.1 No such user"
    assert journal == [(program.syslog.LOG_NOTICE, text)]
    # Dovecot would log it as an error.
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("recipient", ["jürgen@far.test", '"a\nb"@far.test', "\udcff@far.test"])
def test_an_address_that_smtp_does_not_know(
    program: ModuleType, journal: list[tuple[int, str]], monkeypatch: pytest.MonkeyPatch, recipient: str
) -> None:
    assert run(program, monkeypatch, REDIRECTED, ACCOUNT, recipient) == os.EX_OK
    assert ON_THE_WIRE in Server.said["lmtp"]
    [(_level, text)] = journal
    assert text.isascii() and text.isprintable()


def test_the_account_reads_why_its_answer_was_refused(
    program: ModuleType, tmp_path: Path, journal: list[tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "then").write_text("echo 'sendmail: alice may not send\n mail as bob' >&2; exit 77\n")
    assert run(program, monkeypatch, ANSWER, ACCOUNT, STRANGER) == os.EX_OK
    assert Server.said["lmtp"][1:3] == [b"mail from:<>", b"rcpt to:<alice@example.org>"]
    head, _empty, body = Server.said["lmtp"][4].decode().partition("\r\n\r\n")
    fields = dict(line.split(": ", 1) for line in head.split("\r\n"))
    assert [*fields] == ["From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted"]
    assert (fields["From"], fields["To"]) == ("Mail server <postmaster@mail.example.org>", ACCOUNT)
    assert f"answered {STRANGER}." in body
    assert "\r\nsendmail: alice may not send mail as bob\r\n" in body
    assert len(journal) == 1


def test_a_refused_rejection_has_nobody_to_tell(
    program: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pigeonhole keeps the message then."""
    (tmp_path / "then").write_text("exit 69\n")
    assert run(program, monkeypatch, REJECTION, "<>", STRANGER) == os.EX_UNAVAILABLE
    assert capsys.readouterr().err == "submit-sieve-mail: refused: sendmail ends with 69\n"
    assert Server.said == {}


def test_sendmail_is_away_for_a_while(program: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "then").write_text("exit 75\n")
    assert run(program, monkeypatch, ANSWER, ACCOUNT, STRANGER) == os.EX_TEMPFAIL
    assert Server.said == {}


@pytest.mark.parametrize(
    ("answer", "code"), [(b"452 4.2.2 full", os.EX_TEMPFAIL), (b"550 no such user", os.EX_UNAVAILABLE)]
)
def test_the_mailbox_does_not_take_it_back(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch, answer: bytes, code: int
) -> None:
    """Then it is not lost either: Pigeonhole, and OpenSMTPD's queue, keep it."""
    Server.answers = {("smtp", "RCPT"): b"550 no", ("lmtp", "."): answer}
    assert run(program, monkeypatch, REDIRECTED, ACCOUNT, FRIEND) == code


@pytest.mark.parametrize(
    "arguments", [[], ["mail.example.org"], ["mail.example.org", "-t", "-f", "a@b", "--", "c@d"], ["h", *"123456"]]
)
def test_usage(program: ModuleType, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert program.main(arguments) == os.EX_USAGE
    assert "usage: " in capsys.readouterr().err
