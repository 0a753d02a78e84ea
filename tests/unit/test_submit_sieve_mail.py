# SPDX-License-Identifier: GPL-3.0-or-later
"""Routes of a script's mail, and that refused mail is not lost. The scenario dovecot tests it with Dovecot."""

from __future__ import annotations

import io
import os
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
    """OpenSMTPD. ``said``: all commands and messages; ``answers``: by verb, 250 where none is."""

    said: list[bytes]
    answers: dict[str, bytes]

    def handle(self) -> None:
        def answer(verb: str, usual: bytes) -> bytes:
            text = Server.answers.get(verb, usual)
            self.wfile.write(text + b"\r\n")
            return text

        answer("", b"220 here")
        for raw in self.rfile:
            verb = raw[:4].decode().upper().strip()
            Server.said.append(raw.strip().lower())
            text = answer(verb, {"DATA": b"354 go on", "QUIT": b"221 bye"}.get(verb, b"250 ok"))
            if verb == "DATA" and text.startswith(b"354"):
                lines = []
                while (line := self.rfile.readline()) not in (b".\r\n", b""):
                    lines.append(line.removeprefix(b"."))
                Server.said.append(b"".join(lines))
                answer(".", b"250 taken")


class Taker:
    """A program that receives messages; ``ends``: shell commands with which each call ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_text(f'#!/bin/sh\necho "$@" >{path}.arguments\ncat >{path}.message\n. {path}.ends\n')
        path.chmod(0o755)
        self.ends("")

    def ends(self, script: str) -> None:
        Path(f"{self.path}.ends").write_text(script)

    @property
    def taken(self) -> tuple[str, bytes] | None:
        """Arguments and message, if it was called."""
        try:
            return Path(f"{self.path}.arguments").read_text().strip(), Path(f"{self.path}.message").read_bytes()
        except FileNotFoundError:
            return None


@pytest.fixture
def program(
    load_program: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ModuleType]:
    module = load_program("dovecot/files/usr/local/lib/selfhosted-mail/submit-sieve-mail")
    Server.said, Server.answers = [], {}
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(module, "REDIRECTS", server.server_address)
        monkeypatch.setattr(module, "SPOOL", str(tmp_path))
        yield module
        server.shutdown()


@pytest.fixture
def sendmail(program: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Taker:
    taker = Taker(tmp_path / "sendmail")
    monkeypatch.setattr(program, "SENDMAIL", str(taker.path))
    return taker


@pytest.fixture
def inbox(program: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Taker:
    taker = Taker(tmp_path / "dovecot-lda")
    monkeypatch.setattr(program, "DELIVER", str(taker.path))
    return taker


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
    program: ModuleType, sendmail: Taker, inbox: Taker, monkeypatch: pytest.MonkeyPatch, sender: str
) -> None:
    """Unchanged, so that the author's signature stays valid."""
    assert run(program, monkeypatch, REDIRECTED, sender, FRIEND) == os.EX_OK
    assert Server.said == [
        b"ehlo mail.example.org",
        b"mail from:<%b>" % sender.strip("<>").encode(),
        b"rcpt to:<friend@far.test>",
        b"data",
        ON_THE_WIRE,
        b"quit",
    ]
    assert sendmail.taken is None and inbox.taken is None


@pytest.mark.parametrize(("message", "sender"), [(ANSWER, ACCOUNT), (REJECTION, "<>"), (b"", ACCOUNT)])
def test_anything_else_goes_to_sendmail(
    program: ModuleType, sendmail: Taker, inbox: Taker, monkeypatch: pytest.MonkeyPatch, message: bytes, sender: str
) -> None:
    assert run(program, monkeypatch, message, sender, STRANGER) == os.EX_OK
    assert sendmail.taken == (f"-i -f {sender} -- {STRANGER}", message)
    assert Server.said == [] and inbox.taken is None


def test_who_takes_it_need_not_read_it_all(
    program: ModuleType, sendmail: Taker, monkeypatch: pytest.MonkeyPatch
) -> None:
    sendmail.path.write_text("#!/bin/sh\nexit 0\n")
    assert run(program, monkeypatch, ANSWER, ACCOUNT, STRANGER) == os.EX_OK


@pytest.mark.parametrize("verb", ["", "EHLO", "MAIL", "RCPT", "DATA", "."])
def test_what_is_refused_for_now_is_tried_again(
    program: ModuleType,
    inbox: Taker,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    verb: str,
) -> None:
    Server.answers[verb] = b"451 not now"
    assert run(program, monkeypatch, REDIRECTED, ACCOUNT, FRIEND) == os.EX_TEMPFAIL
    assert "not now" in capsys.readouterr().err
    assert inbox.taken is None


def test_nobody_listens(
    program: ModuleType, inbox: Taker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(program, "REDIRECTS", ("127.0.0.1", 1))
    assert run(program, monkeypatch, REDIRECTED, ACCOUNT, FRIEND) == os.EX_TEMPFAIL
    monkeypatch.setattr(program, "SENDMAIL", "/nonexistent")
    assert run(program, monkeypatch, ANSWER, ACCOUNT, FRIEND) == os.EX_TEMPFAIL
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert inbox.taken is None


@pytest.mark.parametrize("sender", [ACCOUNT, "<>"])
@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA", "."])
def test_a_redirected_message_that_is_refused_stays_with_its_account(
    program: ModuleType,
    inbox: Taker,
    journal: list[tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    verb: str,
    sender: str,
) -> None:
    Server.answers[verb] = b"550-5.1.1 No\r\n550 such user"
    assert run(program, monkeypatch, REDIRECTED, sender, FRIEND) == os.EX_OK
    assert inbox.taken == (f"-f <> -d {ACCOUNT}", REDIRECTED)
    text = "redirected message of alice@example.org to 'friend@far.test' refused: 550 5.1.1 No such user"
    assert journal == [(program.syslog.LOG_NOTICE, text)]
    # Dovecot would log it as an error.
    assert capsys.readouterr().err == ""


def test_a_tag_is_no_part_of_the_accounts_name(
    program: ModuleType, inbox: Taker, journal: list[tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    Server.answers["RCPT"] = b"550 no"
    message = REDIRECTED.replace(b"alice@", b"alice+club@", 1)
    assert run(program, monkeypatch, message, "alice+club@example.org", FRIEND) == os.EX_OK
    assert inbox.taken == (f"-f <> -d {ACCOUNT}", message)


@pytest.mark.parametrize("recipient", ["jürgen@far.test", '"a\nb"@far.test', "\udcff@far.test"])
def test_an_address_that_smtp_does_not_know(
    program: ModuleType,
    inbox: Taker,
    journal: list[tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch,
    recipient: str,
) -> None:
    assert run(program, monkeypatch, REDIRECTED, ACCOUNT, recipient) == os.EX_OK
    assert inbox.taken == (f"-f <> -d {ACCOUNT}", REDIRECTED)
    [(_level, text)] = journal
    assert text.isascii() and text.isprintable()


def test_the_account_reads_why_its_answer_was_refused(
    program: ModuleType,
    sendmail: Taker,
    inbox: Taker,
    journal: list[tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sendmail.ends("echo 'sendmail: alice may not send\n mail as bob' >&2; exit 77\n")
    long = ANSWER + b"Away, for long.\r\n" * 1000
    assert run(program, monkeypatch, long, ACCOUNT, STRANGER) == os.EX_OK
    assert inbox.taken and inbox.taken[0] == f"-f <> -d {ACCOUNT}"
    head, _empty, body = inbox.taken[1].decode().partition("\n\n")
    fields = dict(line.split(": ", 1) for line in head.splitlines())
    assert [*fields] == ["From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted"]
    assert (fields["From"], fields["To"]) == ("Mail server <postmaster@mail.example.org>", ACCOUNT)
    assert f"answered {STRANGER}." in body
    assert body.endswith("\nsendmail: alice may not send mail as bob\n")
    assert len(journal) == 1


def test_a_refused_rejection_has_nobody_to_tell(
    program: ModuleType,
    sendmail: Taker,
    inbox: Taker,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Pigeonhole keeps the message then."""
    sendmail.ends("exit 69\n")
    assert run(program, monkeypatch, REJECTION, "<>", STRANGER) == os.EX_UNAVAILABLE
    assert capsys.readouterr().err == f"submit-sieve-mail: refused: {sendmail.path} ends with 69\n"
    assert inbox.taken is None


def test_sendmail_is_away_for_a_while(
    program: ModuleType, sendmail: Taker, inbox: Taker, monkeypatch: pytest.MonkeyPatch
) -> None:
    sendmail.ends("exit 75\n")
    assert run(program, monkeypatch, ANSWER, ACCOUNT, STRANGER) == os.EX_TEMPFAIL
    assert inbox.taken is None


@pytest.mark.parametrize("code", [os.EX_TEMPFAIL, os.EX_NOPERM])
def test_the_mailbox_does_not_take_it_back(
    program: ModuleType, inbox: Taker, journal: list[tuple[int, str]], monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Then it is not lost either: Pigeonhole, and OpenSMTPD's queue, keep it."""
    Server.answers["RCPT"] = b"550 no"
    inbox.ends(f"exit {code}\n")
    assert run(program, monkeypatch, REDIRECTED, ACCOUNT, FRIEND) in (os.EX_TEMPFAIL, os.EX_UNAVAILABLE)
    assert journal == []


@pytest.mark.parametrize(
    "arguments", [[], ["mail.example.org"], ["mail.example.org", "-t", "-f", "a@b", "--", "c@d"], ["h", *"123456"]]
)
def test_usage(program: ModuleType, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert program.main(arguments) == os.EX_USAGE
    assert "usage: " in capsys.readouterr().err
