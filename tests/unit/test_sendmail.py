# SPDX-License-Identifier: GPL-3.0-or-later
"""sendmail(8): its arguments, the submitted message, and its errors if OpenSMTPD refuses it."""

from __future__ import annotations

import os
import pwd
import quopri
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

ROLES = Path(__file__).parents[2] / "roles"
AUTHORS = ROLES / "accounts/files/usr/local/lib/selfhosted-mail"
HOST = "mail.our.test"
OWN = f"bob@{HOST}"


@pytest.fixture(scope="module")
def sendmail(load_program: Callable[[str], ModuleType]) -> ModuleType:
    return load_program("opensmtpd/files/usr/sbin/sendmail")


@pytest.mark.parametrize(
    ("arguments", "sender", "name", "header", "recipients"),
    [
        (["-t"], None, "", True, []),
        (["-FCronDaemon", "-i", "-B8BITMIME", "-oem", "bob"], None, "CronDaemon", False, ["bob"]),
        (["-f", "bob@x.org", "-oi", "a@x.org", "-t"], "bob@x.org", "", True, ["a@x.org"]),
        (["-ti", "-fbob", "-N", "never", "-Rhdrs"], "bob", "", True, []),
        (["-f", "<>", "--", "-odd@x.org"], "<>", "", False, ["-odd@x.org"]),
        (["-F", 'Bob "B" <x>\n', "a@x.org"], None, 'Bob "B" <x> ', False, ["a@x.org"]),
        (["-r", "a", "b,c", "-E", "-J"], "a", "", False, ["b", "c"]),
    ],
)
def test_arguments(
    sendmail: ModuleType, arguments: list[str], sender: str | None, name: str, header: bool, recipients: list[str]
) -> None:
    found = sendmail.parse(arguments)
    assert (found.sender, found.full_name, found.recipients_in_header) == (sender, name, header)
    assert found.recipients == recipients


@pytest.mark.parametrize("arguments", [[], ["-i"], ["-Y", "a@x.org"], ["-f"]])
def test_wrong_arguments(sendmail: ModuleType, arguments: list[str]) -> None:
    with pytest.raises(sendmail.Failed) as failed:
        sendmail.parse(arguments)
    assert failed.value.args[0] == os.EX_USAGE


def test_smtp_on_standard_input_names_what_to_use(sendmail: ModuleType) -> None:
    with pytest.raises(sendmail.Failed, match=r"-bs is not supported; .* 127\.0\.0\.1 port 10025") as failed:
        sendmail.parse(["-bs"])
    assert failed.value.args[0] == os.EX_USAGE
    assert sendmail.parse(["-bm", "a@x.org"]).recipients == ["a@x.org"]


@pytest.mark.parametrize(
    ("arguments", "read"),
    [
        (["a"], b"1\n"),
        (["-i", "a"], b"1\n.\n2\n"),
        (["-oi", "a"], b"1\n.\n2\n"),
        (["-o", "i", "a"], b"1\n.\n2\n"),
        (["-ti"], b"1\n.\n2\n"),
        (["-oem", "a"], b"1\n"),
    ],
)
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_dot_ends_it_or_not(
    sendmail: ModuleType, tmp_path: Path, arguments: list[str], read: bytes, end: bytes
) -> None:
    given = tmp_path / "given"
    given.write_bytes(b"1\n.\n2\n".replace(b"\n", end))
    with given.open("rb") as stream:
        assert sendmail.read(stream, sendmail.parse(arguments).dot_ends) == read


def mail(sendmail: ModuleType, text: str | bytes, *arguments: str, user: str = "bob") -> tuple[str, list[str], str]:
    """Sender, recipients, text."""
    submission = sendmail.parse(arguments or ["a@x.org"])
    done = sendmail.prepared(submission, text.encode() if isinstance(text, str) else text, user, HOST)
    return done.sender, done.recipients, done.text.decode("latin-1")


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("", f"From: <{OWN}>\n\n"),
        ("hello\n", f"From: <{OWN}>\n\nhello\n"),
        ("\nhello\n", f"From: <{OWN}>\n\nhello\n"),
        ("Subject: s\n\nhello\n", f"From: <{OWN}>\nSubject: s\n\nhello\n"),
        ("Subject: s", f"From: <{OWN}>\nSubject: s\n\n"),
        ("Subject: s\nhello: x\n y\nbody\n", f"From: <{OWN}>\nSubject: s\nhello: x\n y\n\nbody\n"),
        ("From bob Sat Nov 28 10:00:00 2026\nSubject: s\n\n", f"From: <{OWN}>\nSubject: s\n\n"),
        (f"From: B <{OWN}>\nSubject: s\n\nFrom: x\nBcc: y\n", f"From: B <{OWN}>\nSubject: s\n\nFrom: x\nBcc: y\n"),
        (f"From: {OWN}\nBcc: a@x,\n b@x\nTo : c\nReturn-Path: <d>\nbCC:e\n\n", f"From: {OWN}\nTo : c\n\n"),
        ("From: root (Cron Daemon)\nTo: root\n\nx\n", f"From: <{OWN}>\nTo: root\n\nx\n"),
        ("From: alice@our.test\n\nx\n", "From: alice@our.test\n\nx\n"),
        ("From: bob\nFrom: a@x\n\nx\n", "From: bob\nFrom: a@x\n\nx\n"),
    ],
)
def test_header(sendmail: ModuleType, text: str, sent: str) -> None:
    assert mail(sendmail, text)[2] == sent


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("CronDaemon", '"CronDaemon"'),
        ("B. (x)", '"B. (x)"'),
        ('a"b', "=?utf-8?b?YSJi?="),
        ("Bü", "=?utf-8?q?B=C3=BC?="),
        ("\n", ""),
    ],
)
def test_the_full_name(sendmail: ModuleType, name: str, written: str) -> None:
    text = mail(sendmail, "x", "-F", name, "-f", "bob+tag", "a@x.org")[2]
    found = re.fullmatch(rf"From: (.*) ?<bob\+tag@{HOST}>\n\nx", text)
    assert found and found[1].strip() in (written, written.replace("?q?B=C3=BC?", "?b?QsO8?"))


@pytest.mark.parametrize(
    ("arguments", "text", "sender"),
    [
        ([], "", OWN),
        (["-f", "carol"], "", f"carol@{HOST}"),
        (["-f", "<Carol@X.org>"], "", "Carol@x.org"),
        (["-f", ""], "", ""),
        (["-f", "<>"], f"From: {OWN}\n", ""),
        ([], "From: postmaster <postmaster@mail.our.test>\n\n", "postmaster@mail.our.test"),
        ([], "From: Doe, Bob <bob+x@mail.our.test>\n\n", "bob+x@mail.our.test"),
        ([], "From: one\nFrom: a@x\n\n", OWN),
        ([], "From: @x\n\n", OWN),
    ],
)
def test_sender(sendmail: ModuleType, arguments: list[str], text: str, sender: str) -> None:
    assert mail(sendmail, text, *arguments, "a@x.org")[0] == sender


@pytest.mark.parametrize(
    ("header", "arguments", "recipients"),
    [
        ("To: root\n", [], [f"root@{HOST}"]),
        ("To: Doe, Jane <Jane@x.org>\nCc: b@x.org,\n c@x.org\n", [], ["Jane@x.org", "b@x.org", "c@x.org"]),
        ("Bcc: d@x.org\n", [], ["d@x.org"]),
        ("to:a@x.org (A), team: b@x.org, c@x.org;\n", [], ["a@x.org", "b@x.org", "c@x.org"]),
        ("To: a@x.org, a@x.org\n", ["b@x.org"], ["b@x.org", "a@x.org"]),
        ('To: "a, b" <a@x.org>\n\nTo: body@x.org\n', [], ["a@x.org"]),
        ("Subject: s\n", ["a", "<b@X.org>"], [f"a@{HOST}", "b@x.org"]),
    ],
)
def test_recipients_of_the_header(
    sendmail: ModuleType, header: str, arguments: list[str], recipients: list[str]
) -> None:
    assert mail(sendmail, header, "-t", *arguments)[1] == recipients
    if arguments:
        assert mail(sendmail, header, *arguments)[1] == recipients[: len(arguments)]


@pytest.mark.parametrize("header", ["Subject: s\n", "To: undisclosed-recipients:;\n", ""])
def test_no_recipient_in_the_header(sendmail: ModuleType, header: str) -> None:
    with pytest.raises(sendmail.Failed) as failed:
        mail(sendmail, header, "-t")
    assert failed.value.args == (os.EX_USAGE, "no recipients")


WRONG = [
    f"bob+:alice@our.test> SIZE=1@{HOST}",
    "bob\n",
    "bob\r\nRCPT TO:<x@y>",
    "bob\t",
    "a b@x.org",
    "a>b@x.org",
    '"a b"@x.org',
    "a:b@x.org",
    "a|b@x@y",
    "bob@x.org\x00",
    "\xfc@x.org",
    "a@x y",
    "@x.org",
]


@pytest.mark.parametrize("address", WRONG)
@pytest.mark.parametrize("where", ["sender", "recipient"])
def test_what_is_no_address_is_wrong_usage(sendmail: ModuleType, address: str, where: str) -> None:
    with pytest.raises(sendmail.Failed) as failed:
        mail(sendmail, "x", *(["-f", address, "a@x.org"] if where == "sender" else ["--", address]))
    assert failed.value.args[0] == os.EX_USAGE


@given(st.text(max_size=40), st.text(max_size=40))
def test_no_argument_says_more_than_an_address(sendmail: ModuleType, sender: str, recipient: str) -> None:
    try:
        sender, recipients, _text = mail(sendmail, "x", "-f", sender, "--", recipient)
    except sendmail.Failed:
        return
    for address in filter(None, [sender, *recipients]):
        assert re.fullmatch(r"[^\s<>@,:\x00-\x20]+@[a-z0-9._-]+", address)


def test_long_lines_are_encoded(sendmail: ModuleType) -> None:
    long = "x" * 2000
    text = mail(sendmail, f"Subject: s\n\n{long}\n.\n")[2]
    head, _, body = text.partition("\n\n")
    assert "MIME-Version: 1.0\nContent-Type: text/plain; charset=unknown-8bit\n" in head
    assert head.endswith("\nContent-Transfer-Encoding: quoted-printable")
    assert max(map(len, body.split("\n"))) <= 76 and quopri.decodestring(body).decode() == f"{long}\n.\n"
    for kind in "Content-Type: multipart/mixed; boundary=x", "Content-Transfer-Encoding: base64":
        assert mail(sendmail, f"From: {OWN}\n{kind}\n\n{long}\n")[2] == f"From: {OWN}\n{kind}\n\n{long}\n"
    assert mail(sendmail, f"Content-Type: text/html\n\n{long}\n")[2].count("Content-Type") == 1


class Server:
    """Answers commands as the test sets, else as OpenSMTPD does; one connection after the other."""

    def __init__(self, answers: dict[str, str]) -> None:
        self.answers = answers
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.said: list[str] = []
        self.message = b""
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        while True:
            try:
                connection, _address = self.listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rwb") as stream:
                self.session(stream)

    def session(self, stream: object) -> None:
        def reply(command: str, text: str) -> bool:
            answer = self.answers.get(command, text)
            stream.write(f"{answer}\r\n".encode())  # type: ignore[attr-defined]
            stream.flush()  # type: ignore[attr-defined]
            return not answer.startswith("421")

        if not reply("", "220 ready"):
            return
        for line in stream:  # type: ignore[attr-defined]
            command = line.decode().rstrip("\r\n")
            self.said.append(command)
            verb = command[:4].upper()
            usual = {"EHLO": "250-x\r\n250 SIZE 1000", "DATA": "354 go on", "QUIT": "221 bye"}
            if not reply(verb, usual.get(verb, "250 ok")):
                return
            if verb == "DATA" and "DATA" not in self.answers:
                while not self.message.endswith(b"\r\n.\r\n"):
                    self.message += stream.readline()  # type: ignore[attr-defined]
                reply(".", "250 taken")


@pytest.fixture
def handed_in(
    sendmail: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str, Server]]]:
    servers = []

    def run(text: bytes, *arguments: str, **answers: str) -> tuple[int, str, Server]:
        server = Server({key.strip("_").replace("end", "."): value for key, value in answers.items()})
        servers.append(server)
        monkeypatch.setattr(sendmail, "SERVER", server.listener.getsockname())
        (tmp_path / "mailname").write_text(f"{HOST}\n")
        monkeypatch.setattr(sendmail, "MAILNAME", tmp_path / "mailname")
        (tmp_path / "stdin").write_bytes(text)
        with (tmp_path / "stdin").open() as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            code = sendmail.main(list(arguments))
        return code, capsys.readouterr().err, server

    yield run
    for server in servers:
        server.listener.close()


def test_it_is_handed_in(handed_in: Callable[..., tuple[int, str, Server]]) -> None:
    user = pwd.getpwuid(os.geteuid()).pw_name
    code, words, server = handed_in(b"Subject: s\n\n.hidden\n", "-i", "a@x.org", "b")
    assert (code, words) == (os.EX_OK, "")
    wanted = [f"EHLO {HOST}", f"MAIL FROM:<{user}@{HOST}>", "RCPT TO:<a@x.org>", f"RCPT TO:<b@{HOST}>", "DATA"]
    assert [said.replace("ehlo", "EHLO").replace("data", "DATA") for said in server.said[:5]] == wanted
    assert server.message == f"From: <{user}@{HOST}>\r\nSubject: s\r\n\r\n..hidden\r\n.\r\n".encode()


@pytest.mark.parametrize(
    ("when", "answer", "code"),
    [
        ("MAIL", "550 5.7.1 bob may not send mail as alice@our.test.", os.EX_NOPERM),
        ("RCPT", "550 Invalid recipient", os.EX_UNAVAILABLE),
        ("RCPT", "451 4.3.0 later", os.EX_TEMPFAIL),
        ("DATA", "421 4.3.0 later", os.EX_TEMPFAIL),
        ("end", "550 5.7.1 The message has no From line", os.EX_NOPERM),
        ("end", "554 5.6.0 The message violates RFC 5322", os.EX_UNAVAILABLE),
        ("_", "550 5.7.1 User id 61184 has no user name on this host", os.EX_NOPERM),
    ],
)
@pytest.mark.parametrize("user", ["root", "another"])
def test_a_refusal_is_said_at_once_and_roots_mail_waits_if_it_is_temporary(
    handed_in: Callable[..., tuple[int, str, Server]],
    sendmail: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    when: str,
    answer: str,
    code: int,
    user: str,
) -> None:
    aside: list[object] = []
    monkeypatch.setattr(sendmail, "put_aside", aside.append)
    uid = 0 if user == "root" else pwd.getpwnam("nobody").pw_uid
    monkeypatch.setattr(sendmail.os, "geteuid", lambda: uid)
    done, words, _server = handed_in(b"Subject: s\n\nx\n", "a@x.org", **{when: answer})
    assert (done, words) == (code, f"sendmail: {answer}\n")
    assert bool(aside) == (user == "root" and code == os.EX_TEMPFAIL)


def test_what_is_too_large_is_not_even_begun(handed_in: Callable[..., tuple[int, str, Server]]) -> None:
    code, words, server = handed_in(b"Subject: s\n\n" + b"x\n" * 500, "a@x.org")
    assert (code, words) == (os.EX_UNAVAILABLE, "sendmail: the message is too large, at most 1000 bytes are accepted\n")
    assert not any(said.startswith("MAIL") for said in server.said)


def free_port() -> tuple[str, int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        return host, port


def test_it_tries_again_while_the_server_starts(sendmail: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []
    server = Server({})
    address = server.listener.getsockname()
    monkeypatch.setattr(sendmail, "SERVER", free_port())

    def pause(seconds: float) -> None:
        tries.append(seconds)
        if len(tries) == 3:
            monkeypatch.setattr(sendmail, "SERVER", address)

    monkeypatch.setattr(sendmail.time, "sleep", pause)
    sendmail.connect(HOST).close()
    assert len(tries) == 3
    server.listener.close()


@pytest.mark.parametrize("greeting", ["421 4.7.0 not known", None])
def test_when_it_is_away_root_puts_it_aside_and_others_hear_of_it(
    sendmail: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, greeting: str | None
) -> None:
    server = Server({"": greeting}) if greeting else None
    monkeypatch.setattr(sendmail, "SERVER", server.listener.getsockname() if server else free_port())
    monkeypatch.setattr(sendmail, "PATIENCE", 0.1)
    mail = sendmail.Mail("", ["a@x.org"], b"From: x\n\n.\n")
    with pytest.raises(sendmail.Away):
        sendmail.hand_in(mail, HOST)
    # A program that shows its arguments replaces smtpctl.
    shown = tmp_path / "smtpctl"
    shown.write_text('#!/bin/sh\nprintf "%s|" "$@"\ncat\n')
    shown.chmod(0o755)
    program = (
        f"import sys; sys.path.insert(0, {str(AUTHORS)!r}); s = {{'__name__': 's'}};"
        "m = type(sys)('s'); sys.modules['s'] = m; s = m.__dict__;"
        f"exec(compile(open({str(ROLES / 'opensmtpd/files/usr/sbin/sendmail')!r}).read(), 'sendmail', 'exec'), s);"
        f"s['SMTPCTL'] = {str(shown)!r}; s['put_aside'](s['Mail']('', ['a@x.org'], b'From: x\\n\\n.\\n'))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout == b"-i|-f|<>|--|a@x.org|From: x\n\n.\n"
    if server:
        server.listener.close()
