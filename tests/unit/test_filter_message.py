# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter of messages, told sessions in the words of smtpd-filters(7)."""

from __future__ import annotations

import os
import pwd
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

ROLES = Path(__file__).parents[2] / "roles"
PROGRAM = ROLES / "opensmtpd/files/usr/local/lib/selfhosted-mail/filter-message"
AUTHORS = ROLES / "authors/files/usr/local/lib/selfhosted-mail"
HOST = "mail.our.test"
TOLD = "0.7|1700000000.000000|smtp-in"
TRACE = [
    "Received: ",
    f"\tby {HOST} (OpenSMTPD) with ESMTPSA id 0a1b2c3d (TLSv1.3:TLS_AES_256_GCM_SHA384:256:NO)",
    "\tfor <friend@far.test>;",
    "\tSat, 28 Nov 2026 10:00:00 +0000 (UTC)",
]
TABLE = "alice@our.test alice@our.test, info@our.test\nbob@our.test bob@our.test\n"


@pytest.fixture(scope="module", autouse=True)
def senders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.getbasetemp() / "senders"
    path.write_text(TABLE)
    return path


@pytest.fixture
def said(senders: Path) -> Callable[..., list[str]]:
    """What it says after its registration, when told these lines."""

    def run(*lines: str, size: int = 10**6, messages: int = 100, policy: str = "account") -> list[str]:
        told = "\n".join(["config|smtpd-version|7.4.0", "config|ready", *lines, ""])
        done = launch(senders, told, size, messages, policy)
        assert done.stderr == b""
        text = done.stdout.decode("latin-1").split("\n")
        assert text[-1] == ""
        assert "register|ready" in text
        return text[text.index("register|ready") + 1 : -1]

    return run


def command(senders: Path, size: int = 10**6, messages: int = 100, policy: str = "account") -> list[str]:
    limits = ["--bytes", str(size), "--messages", str(messages), "--from-policy", policy]
    return [sys.executable, str(PROGRAM), "--hostname", HOST, "--senders", str(senders), *limits]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{AUTHORS}:{os.environ.get('PYTHONPATH', '')}"}


def launch(
    senders: Path, told: str, size: int = 10**6, messages: int = 100, policy: str = "account"
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command(senders, size, messages, policy),
        input=told.encode("latin-1"),
        capture_output=True,
        check=True,
        env=environment(),
    )


def connected(session: str = "s", port: int = 25, source: str = "198.51.100.1:1") -> str:
    return f"report|{TOLD}|link-connect|{session}|peer|pass|{source}|198.51.100.2:{port}"


def logged_in(login: str = "alice@our.test", session: str = "s", port: int = 465) -> list[str]:
    return [connected(session, port), f"report|{TOLD}|link-auth|{session}|pass|{login}"]


def client(command: str, session: str = "s") -> str:
    return f"report|{TOLD}|protocol-client|{session}|{command}"


def asked(event: str, rest: str = "", session: str = "s") -> str:
    return f"filter|{TOLD}|{event}|{session}|t|{rest}"


def mail(address: str = "alice@our.test", session: str = "s", rest: str = "") -> list[str]:
    return [client(f"MAIL FROM:<{address}>{rest}", session), asked("mail-from", address.partition(">")[0], session)]


def message(*lines: str, session: str = "s", trace: bool = True) -> list[str]:
    lines = (*(TRACE if trace else ()), *lines, ".")
    return [*(asked("data-line", line, session) for line in lines), asked("commit", "", session)]


def results(answers: list[str]) -> list[str]:
    return [answer.split("|", 3)[3] for answer in answers if answer.startswith("filter-result")]


def lines(answers: list[str], session: str = "s") -> list[str]:
    start = f"filter-dataline|{session}|t|"
    return [answer.removeprefix(start) for answer in answers if answer.startswith(start)]


# Limits


@pytest.mark.parametrize(
    ("command", "taken"),
    [
        ("MAIL FROM:<a@b> SIZE=100", True),
        ("MAIL FROM:<a@b> SIZE=101", False),
        ("mail from:<a@b> body=8bitmime size=101", False),
        ("MAIL FROM:<a@b> SIZE=101 BODY=8BITMIME", False),
        ("MAIL FROM:<a@b>", True),
        ("MAIL FROM:<a|SIZE=101@b>", True),
        ("MAIL FROM:<a@b> SIZE=", True),
        ("MAIL FROM:<a@b> SIZE=1e9", True),
        ("MAIL FROM:<a@b> SIZE=" + "9" * 5000, True),
        ("\xff\x00|", True),
    ],
)
def test_announced_by_the_world(said: Callable[..., list[str]], command: str, taken: bool) -> None:
    answer = said(connected(), client(command), asked("mail-from", "a@b"), size=100)
    assert len(answer) == 1
    assert answer[0].startswith("filter-result|s|t|" + ("proceed" if taken else "reject|552 5.3.4 "))


def test_what_users_announce_is_not_looked_at(said: Callable[..., list[str]]) -> None:
    assert results(said(*logged_in(), *mail(rest=" SIZE=101"), size=100)) == ["proceed"]


@pytest.mark.parametrize(("port", "login"), [(25, False), (465, True), (587, True)])
def test_body_lines_pass_as_they_are(said: Callable[..., list[str]], port: int, login: bool) -> None:
    body = ["a|b||", "", "..", "..x", ". ", "\xff", "|", "\x1b\r"]
    begun = logged_in(port=port) if login else [connected(port=port)]
    answer = said(*begun, *mail(), *message("From: alice@our.test", "", *body))
    assert lines(answer)[-len(body) - 1 :] == [*body, "."]
    assert results(answer) == ["proceed", "proceed"]


def test_what_is_too_much_is_thrown_away_and_refused(said: Callable[..., list[str]]) -> None:
    told = [asked("data-line", line) for line in ["", *["x" * 48] * 3, "."]]
    answer = said(connected(), *told, asked("commit"), size=100)
    assert lines(answer) == ["", "x" * 48, "x" * 48, "."]
    assert results(answer) == ["reject|552 5.3.4 The message is too large, at most 100 bytes are taken"]


def test_sessions_and_messages_are_counted_apart(said: Callable[..., list[str]]) -> None:
    line, end = asked("data-line", "x" * 60), asked("data-line", ".")
    other = [asked("data-line", "x" * 60, "o"), asked("data-line", ".", "o"), asked("commit", "", "o")]
    told = [connected(), connected("o"), line, *other, end, asked("commit"), line, end, asked("commit")]
    # A message that was broken off does not count for the next.
    told += [line, f"report|{TOLD}|tx-reset|s|m", line, end, asked("commit")]
    assert results(said(*told, size=100)) == ["proceed"] * 4


@pytest.mark.parametrize("length", [60_001, 65_454, 65_534])
@pytest.mark.parametrize("part", ["header", "body"])
def test_a_message_with_a_long_line_is_thrown_away_from_there_and_refused(
    said: Callable[..., list[str]], length: int, part: str
) -> None:
    sent = [asked("data-line", line) for line in (["a: b"] if part == "header" else [""]) + ["x" * length, "last", "."]]
    answer = said(connected(), *sent, asked("commit"), asked("data-line", "."), asked("commit"))
    assert lines(answer) == ["a: b" if part == "header" else "", ".", "."]
    # The next one is taken.
    assert results(answer) == ["reject|554 5.6.0 A line of the message is longer than 60000 octets", "proceed"]


def test_the_longest_line_passes(said: Callable[..., list[str]]) -> None:
    assert lines(said(connected(), asked("data-line", ""), asked("data-line", "x" * 60_000))) == ["", "x" * 60_000]


def test_messages_of_a_session(said: Callable[..., list[str]]) -> None:
    def accepted(session: str = "s") -> list[str]:
        return [
            *mail("a@b", session),
            f"report|{TOLD}|tx-commit|{session}|m|9",
            f"report|{TOLD}|tx-reset|{session}|m",
        ]

    # What was begun and broken off is not counted.
    told = [*mail("a@b"), *accepted(), *mail("a@b"), *accepted(), *mail("a@b"), *mail("a@b", "o")]
    answer = said(connected(), connected("o"), *told, messages=2)
    assert results(answer) == ["proceed"] * 4 + [
        "reject|452 4.5.3 At most 2 messages are taken in a session",
        "proceed",
    ]
    # A new session begins anew, and one that has ended is forgotten.
    ended = f"report|{TOLD}|link-disconnect|s"
    assert results(said(connected(), *accepted(), ended, connected(), *mail("a@b"), messages=1))[-1] == "proceed"
    assert results(said(connected(), ended, *mail("a@b")))[0].startswith("reject|")


# The header


@pytest.mark.parametrize("port", [25, 465])
@pytest.mark.parametrize("char", ["\r", "\x01", "\x1b", "\x7f"])
@pytest.mark.parametrize("line", ["Subject: a{}b", "X-Note: a{}From: bob@our.test", " folded{}", "..{}: x"])
def test_control_characters_in_the_header(said: Callable[..., list[str]], port: int, char: str, line: str) -> None:
    begun = [connected()] if port == 25 else [*logged_in(), *mail()]
    answer = said(*begun, *message("From: alice@our.test", line.format(char), "", "body"))
    refusal = "reject|554 5.6.0 This is no mail message as RFC 5322 wants it: its header holds control characters"
    assert results(answer)[-1] == refusal
    assert "body" not in lines(answer)


@pytest.mark.parametrize("line", [" auth=yes user=bob@our.test", "\tx", " ", "\t"])
def test_a_message_does_not_begin_in_the_trace(said: Callable[..., list[str]], line: str) -> None:
    answer = said(*logged_in(), *mail(), *message(line, "From: alice@our.test", ""))
    assert results(answer)[-1].startswith("reject|554 5.6.0 ")
    assert lines(answer) == ["."]


@pytest.mark.parametrize(
    "line", ["no colon", ": x", "Sub ject: x", "S\xfcbject: x", "From alice Sat Nov 28 10:00", "Subject\n : x"]
)
def test_what_is_no_header(said: Callable[..., list[str]], line: str) -> None:
    answer = said(*logged_in(), *mail(), *message("From: alice@our.test", *line.split("\n"), ""))
    assert results(answer)[-1].startswith("reject|554 5.6.0 ")
    assert lines(answer) == ["."]


@pytest.mark.parametrize(
    ("field", "wanted"),
    [
        (["Subject : x"], ["Subject: x"]),
        (["Subject\t :", " x"], ["Subject:", " x"]),
        (["To: Doe, Jane <friend@far.test>"], ['To: "Doe, Jane" <friend@far.test>']),
        (["Cc : Doe, Jane", "\t<friend@far.test>, b@far.test"], ['Cc: "Doe, Jane" <friend@far.test>,', " b@far.test"]),
        (["To: a@far.test,", "  b@far.test"], ["To: a@far.test,", "  b@far.test"]),
        (["To: undisclosed-recipients:;"], ["To: undisclosed-recipients:;"]),
        (["..x: y", " ..", ".", "Subject: a"], None),
        (["..x: y", " ..", "Subject: a"], ["..x: y", " ..", "Subject: a"]),
        ([".Subject : x"], ["Subject: x"]),
    ],
)
def test_fields_are_mended(said: Callable[..., list[str]], field: list[str], wanted: list[str] | None) -> None:
    answer = said(*logged_in(), *mail(), *message("From: alice@our.test", *field, "", "body"))
    if wanted is None:  # a dot alone is the end
        assert lines(answer)[:6] == [*TRACE, "From: alice@our.test", "..x: y"]
    else:
        assert lines(answer) == [*TRACE, "From: alice@our.test", *wanted, "", "body", "."]


@pytest.mark.parametrize(
    "author",
    [
        "alice@our.test <alice@our.test>",
        '"alice@our.test" <alice@our.test>',
        "Dr. A. B. <alice@our.test>",
        "Last, First <alice@our.test>",
        "[Shop] A <alice@our.test>",
        "A; Sales <alice@our.test>",
        "A < alice@our.test >",
        "=?utf-8?q?B=C3=BCcher?= <alice@our.test>",
        "ALICE@OUR.TEST",
        "alice@our.test (A)",
        "<alice@our.test>",
    ],
)
def test_from_as_people_write_it(said: Callable[..., list[str]], author: str) -> None:
    answer = said(*logged_in(), *mail(), *message(f"From: {author}", ""))
    assert results(answer) == ["proceed", "proceed"]
    # OpenSMTPD sees an address in it, and no comma that could begin another.
    written = "".join(lines(answer)[len(TRACE) : -2])
    assert "@our.test" in written.lower() and "," not in re.sub(r'"[^"]*"', "", written)


def test_a_mended_line_that_would_be_too_long_is_left_as_it_was(said: Callable[..., list[str]]) -> None:
    field = ["Cc: c@far.test (" + "x" * 40_000, " " + "y" * 20_000 + "), Doe, Jane <d@far.test>"]
    answer = said(*logged_in(), *mail(), *message("From: alice@our.test", *field, ""))
    assert max(map(len, lines(answer))) < 60_000
    assert lines(answer)[5:-2] == field


def test_a_huge_header_is_refused_and_what_is_held_is_bounded(said: Callable[..., list[str]]) -> None:
    huge = ["From: alice@our.test", *["x: " + "y" * 1000] * 1100, "", "body"]
    answer = said(*logged_in(), *mail(), *message(*huge), *mail(), *message("From: alice@our.test", ""), size=10**7)
    refusal = "reject|552 5.3.4 The header of this message is too large"
    assert results(answer) == ["proceed", refusal, "proceed", "proceed"]
    assert lines(answer)[0] == "." and lines(answer)[-2:] == ["", "."]


def test_what_is_read_of_the_address_fields_is_bounded(said: Callable[..., list[str]]) -> None:
    """Meanwhile all sessions wait."""
    field = "To: Doe, J <a@far.test>" + ", a@far.test" * 4000
    answer = said(*logged_in(), *mail(), *message("From: alice@our.test", *[field] * 5, "Cc: Roe, R <b@far.test>", ""))
    assert results(answer) == ["proceed", "proceed"]
    assert [line for line in lines(answer) if line.startswith("To:")] == ['To: "Doe, J" <a@far.test>,', *[field] * 4]
    assert 'Cc: "Roe, R" <b@far.test>' in lines(answer)
    sender = "Sender: " + "a@far.test, " * 4000
    answer = said(*logged_in(), *mail(), *message("From: alice@our.test", sender, sender, ""))
    assert results(answer)[1].endswith("its Sender field is too long")


# Who writes


@pytest.mark.parametrize(
    ("address", "rest", "answer"),
    [
        ("alice@our.test", "", "proceed"),
        ("Alice+shop@OUR.test", " SIZE=5 BODY=8BITMIME RET=HDRS ENVID=x AUTH=<>", "proceed"),
        ("info@our.test", "", "proceed"),
        ("", "", "proceed"),
        ("bob@our.test", "", "reject|550 5.7.1 alice@our.test may not send mail as bob@our.test."),
        ("alice@far.test", "", "reject|550 5.7.1 "),
        ("root@mail.our.test", "", "reject|550 5.7.1 "),
        ("alice", "", "reject|553 5.1.7 "),
        ("bob@our.test:alice@our.test", "", "reject|553 5.1.7 "),
        ("@far.test:alice@our.test", "", "reject|553 5.1.7 "),
        ("alice@our.test> SIZE=1@x", "", "reject|555 5.5.4 "),
        ("alice @our.test", "", "reject|553 5.1.7 "),
        ("alice@our.test", " SMTPUTF8", "reject|555 5.5.4 "),
        ("alice@our.test", " SIZE=1\tx", "reject|501 5.5.4 "),
        ("\xe4lice@our.test", "", "reject|553 5.1.7 "),
    ],
)
def test_the_envelope_sender_of_a_login(said: Callable[..., list[str]], address: str, rest: str, answer: str) -> None:
    assert results(said(*logged_in("Alice@our.test"), *mail(address, rest=rest)))[0].startswith(answer)


@pytest.mark.parametrize(
    ("header", "answer"),
    [
        (["From: Alice <alice@our.test>"], "proceed"),
        (["From: info@our.test"], "proceed"),
        (["From : Alice <alice@our.test>"], "proceed"),
        (["From: bob@our.test"], "reject|550 5.7.1 alice@our.test may not send mail as bob@our.test. Choose one of "),
        (["From: ceo@far.test"], "reject|550 5.7.1 "),
        (["From: alice@our.test, bob@our.test"], "reject|550 5.7.1 "),
        (["From: alice@our.test", "From: bob@our.test"], "reject|550 5.7.1 The message has several From lines"),
        (["from:alice@our.test", ".FROM: bob@our.test"], "reject|550 5.7.1 The message has several From lines"),
        (["Subject: x"], "reject|550 5.7.1 The message has no From line"),
        (["From: alice@our.test <bob@our.test>"], "reject|550 5.7.1 "),
        (["From: bob@our.test <alice@our.test>"], "reject|550 5.7.1 The From line shows bob@our.test"),
        (["From: team: alice@our.test;"], "reject|550 5.6.0 "),
        (["From: b\xfccher <alice@our.test> x"], "reject|550 5.6.0 "),
        (["From:", " bob@our.test"], "reject|550 5.7.1 "),
        (["From: alice@our.test", "Sender: bob@our.test"], "reject|550 5.7.1 "),
    ],
)
@pytest.mark.parametrize("sender", ["alice@our.test", ""])
def test_from_of_a_login(said: Callable[..., list[str]], header: list[str], answer: str, sender: str) -> None:
    told = said(*logged_in(), *mail(sender), *message(*header, "", "body"))
    assert results(told)[1].startswith(answer)
    assert ("body" in lines(told)) is (answer == "proceed")
    # The session goes on.
    told = said(*logged_in(), *mail(sender), *message(*header, ""), *mail(), *message("From: alice@our.test", ""))
    assert results(told)[2:] == ["proceed", "proceed"]


@pytest.mark.parametrize("author", ["b\xfccher@our.test", f"{'x' * 900}@our.test", f"{'x' * 400}@{'y' * 60}.test"])
def test_a_refusal_is_one_printable_line(said: Callable[..., list[str]], author: str) -> None:
    answer = results(said(*logged_in(), *mail(), *message(f"From: {author}", "")))[1]
    assert re.fullmatch(r"reject\|5\d\d 5\.\d\.\d [ -~]{1,490}", answer)


def test_a_message_without_an_end_of_the_header_is_judged(said: Callable[..., list[str]]) -> None:
    told = said(*logged_in(), *mail(), *message("From: alice@our.test"), *mail(), *message("From: bob@our.test"))
    assert [result[:10] for result in results(told)] == ["proceed", "proceed", "proceed", "reject|550"]
    assert lines(told) == [*TRACE, "From: alice@our.test", ".", "."]


def test_a_message_without_a_line_is_judged(said: Callable[..., list[str]]) -> None:
    assert results(said(*logged_in(), *mail(), *message(trace=False)))[1].startswith("reject|554")


def test_what_opensmtpd_reads_otherwise_is_no_sender(said: Callable[..., list[str]]) -> None:
    told = said(*logged_in(), client("MAIL FROM:<alice@our.test>"), asked("mail-from", "bob@our.test"))
    assert results(told)[0].startswith("reject|501 5.5.4 ")


def test_with_the_policy_domain_from_is_left_to_the_signing_proxy(said: Callable[..., list[str]]) -> None:
    told = said(*logged_in(), *mail(), *message("From : ceo@far.test", ""), *mail("bob@our.test"), policy="domain")
    assert [result[:10] for result in results(told)] == ["proceed", "proceed", "reject|550"]
    assert "From: ceo@far.test" in lines(told)


def test_who_has_not_logged_in_says_nothing(said: Callable[..., list[str]]) -> None:
    failed = f"report|{TOLD}|link-auth|s|fail|alice@our.test"
    for begun in [[connected(port=465)], [connected(port=465), failed], [connected(port=2525)], []]:
        for address in "alice@our.test", "":
            assert results(said(*begun, *mail(address)))[0].startswith("reject|4" if begun else "reject|")


def test_sessions_interleaved(said: Callable[..., list[str]]) -> None:
    one = [*logged_in(), *mail(), *message("From: alice@our.test", "", "one")]
    two = [*logged_in("bob@our.test", "o"), *mail("bob@our.test", "o")]
    two += message("From: alice@our.test", "", "two", session="o")
    told = said(*(line for pair in zip(one, two, strict=True) for line in pair))
    assert lines(told) == [*TRACE, "From: alice@our.test", "", "one", "."]
    assert lines(told, "o") == ["."]
    assert [result[:10] for result in results(told)] == ["proceed", "proceed", "proceed", "reject|550"]


def test_rights_are_read_again(senders: Path, tmp_path: Path) -> None:
    table = tmp_path / "senders"
    table.write_text(TABLE)
    with Running(table) as running:
        assert running.says(*logged_in(), *mail("new@our.test"))[0].startswith("reject|550")
        for text, wanted in [
            (TABLE + "alice@our.test new@our.test\n", "proceed"),
            (TABLE, "reject|550"),
            # One that cannot be read changes nothing.
            ("alice\n", "reject|550"),
        ]:
            table.write_text(text)
            assert running.until(wanted, *mail("new@our.test"))
        assert running.says(*mail()) == ["proceed"]


def test_without_a_table_nothing_is_taken_until_it_is_there(tmp_path: Path) -> None:
    table = tmp_path / "senders"
    with Running(table) as running:
        assert running.says(*logged_in(), *mail())[0].startswith("reject|451 4.3.0 ")
        assert running.says(connected("w"), *mail("a@b", "w")) == ["proceed"]
        table.write_text(TABLE)
        assert running.until("proceed", *mail())


class Running:
    """The filter while it runs; what it is told is answered in between."""

    def __init__(self, senders: Path) -> None:
        self.process = subprocess.Popen(
            command(senders),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment(),
        )
        assert self.process.stdin and self.process.stdout
        self.told, self.heard = self.process.stdin, self.process.stdout
        self.tell("config|ready")
        for line in self.heard:
            if line == b"register|ready\n":
                break

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_error: object) -> None:
        self.told.close()
        self.heard.close()
        assert self.process.wait(60) == 0

    def tell(self, *lines: str) -> None:
        self.told.write("".join(line + "\n" for line in lines).encode("latin-1"))
        self.told.flush()

    def says(self, *lines: str) -> list[str]:
        """The result of each question among the lines."""
        self.tell(*lines)
        questions = sum(line.startswith("filter|") and "|data-line|" not in line for line in lines)
        found: list[str] = []
        while len(found) < questions:
            found += results([self.heard.readline().decode("latin-1").rstrip("\n")])
        return found

    def until(self, wanted: str, *lines: str) -> bool:
        """Whether this is said sooner or later."""
        return any(self.says(*lines)[-1].startswith(wanted) for _try in range(100_000))


# Users of this host


class Connections:
    """Sockets of this process, connected on loopback: the filter is told of them as OpenSMTPD would."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.sockets: list[socket.socket] = []

    def opened(self, family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
        connection = socket.socket(family)
        address = "127.0.0.1" if family == socket.AF_INET else "::ffff:127.0.0.1"
        connection.connect((address, self.listener.getsockname()[1]))
        self.sockets += [connection, self.listener.accept()[0]]
        return connection

    def __enter__(self) -> Connections:
        return self

    def __exit__(self, *_error: object) -> None:
        for connection in [*self.sockets, self.listener]:
            connection.close()


def names(connection: socket.socket) -> tuple[str, str]:
    (source, port, *_rest), (_destination, listener, *_more) = connection.getsockname(), connection.getpeername()
    assert source.endswith("127.0.0.1")
    return f"127.0.0.1:{port}", f"127.0.0.1:{listener}"


@pytest.fixture(scope="module")
def program(load_program: Callable[[str], ModuleType]) -> ModuleType:
    sys.path.insert(0, str(AUTHORS))
    return load_program("opensmtpd/files/usr/local/lib/selfhosted-mail/filter-message")


def test_the_kernel_says_whose_a_connection_is(program: ModuleType) -> None:
    with Connections() as connections:
        for family in socket.AF_INET, socket.AF_INET6:
            connection = connections.opened(family)
            source, destination = names(connection)
            assert program.peer_uid(source, destination) == os.getuid()
            # Another one's port, other connections of it, the other side, and what does not exist.
            assert program.peer_uid("127.0.0.2:" + source.partition(":")[2], destination) is None
            assert program.peer_uid(source, "127.0.0.1:1") is None
            # What was closed is nobody's.
            connection.close()
            assert program.peer_uid(source, destination) is None


TCP = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


@pytest.mark.parametrize(
    ("row", "uid"),
    [
        ("0100007F:9C40 0100007F:2729 01 00000000:00000000 00:00000000 00000000  1001        0 4711 1 00", 1001),
        ("0100007F:9C40 0100007F:2729 01 00000000:00000000 00:00000000 00000000     0        0 0 1 00", None),
        ("0100007F:9C40 0100007F:2729 04 00000000:00000000 00:00000000 00000000  1001        0 4711 1 00", None),
        ("0200007F:9C40 0100007F:2729 01 00000000:00000000 00:00000000 00000000  1001        0 4711 1 00", None),
        ("0100007F:9C40 0100007F:272A 01 00000000:00000000 00:00000000 00000000  1001        0 4711 1 00", None),
        ("0100007F:2729 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 4711 1 00", None),
    ],
)
@pytest.mark.skipif(sys.byteorder == "big", reason="the rows are a little-endian machine's")
def test_one_row_alone_is_the_connections(program: ModuleType, tmp_path: Path, row: str, uid: int | None) -> None:
    table = tmp_path / "tcp"
    table.write_text(TCP + f"   7: {row}\n")
    assert program.peer_uid("127.0.0.1:40000", "127.0.0.1:10025", [str(table), str(tmp_path / "none6")]) == uid


@pytest.fixture
def local(program: ModuleType, senders: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """What is said to a user of the host: the kernel's word is the test's."""

    def run(
        uid: int | None, user: str, *told: str, port: int = 10025, directory: str = "", policy: str = "account"
    ) -> list[str]:
        filter_message = program.Filter(HOST, str(senders), 10**6, 100, policy == "account")
        monkeypatch.setattr(program, "peer_uid", lambda source, destination: uid)
        monkeypatch.setattr(program, "local_name", lambda uid: user)
        answers: list[bytes] = []
        monkeypatch.setattr(filter_message, "write", answers.append)
        if directory or not user:

            def getpwuid(uid: int) -> object:
                if not directory:
                    raise KeyError(uid)
                return type("Entry", (), {"pw_name": directory})

            monkeypatch.setattr(pwd, "getpwuid", getpwuid)
        for line in [connected(port=port), asked("connect", "localhost|127.0.0.1"), *told]:
            filter_message.told(line.encode("latin-1").split(b"|", 7))
            while not filter_message._asked.empty():
                filter_message._answer(*filter_message._asked.get())
        return b"".join([*answers, *filter_message.answers]).decode("latin-1").splitlines()

    return run


@pytest.mark.parametrize(
    ("uid", "user", "address", "taken"),
    [
        (1001, "bob", f"bob@{HOST}", True),
        (1001, "bob", f"Bob+tag@{HOST}", True),
        (1001, "bob", "", True),
        (1001, "bob", f"root@{HOST}", False),
        (1001, "bob", f"postmaster@{HOST}", False),
        (1001, "bob", "bob@our.test", False),
        (1001, "bob", f"bob@x@{HOST}", False),
        (33, "www-data", f"www-data@{HOST}", True),
        (33, "www-data", f"postmaster@{HOST}", True),
        (33, "www-data", f"carol@{HOST}", False),
        (65534, "nobody", f"nobody@{HOST}", True),
        (65534, "nobody", f"root@{HOST}", False),
        (61184, "dynamic", f"root@{HOST}", False),
        (0, "root", f"anybody@{HOST}", True),
        (0, "root", "alice@our.test", False),
        (999, "vmail", "alice@our.test", True),
        (999, "vmail", "alice+tag@our.test", True),
        (999, "vmail", "", True),
        (999, "vmail", f"vmail@{HOST}", False),
        (999, "vmail", f"root@{HOST}", False),
        (999, "vmail", "carol@far.test", False),
        (999, "vmail", "carol@our.test", False),
    ],
)
def test_the_envelope_sender_of_a_user(
    local: Callable[..., list[str]], uid: int, user: str, address: str, taken: bool
) -> None:
    greeting, answer = results(local(uid, user, *mail(address)))
    assert greeting == "proceed"
    assert (answer == "proceed") is taken, answer
    if not taken:
        assert re.match(rf"reject\|550 5\.7\.1 {user} may not send mail as |reject\|553 5\.1\.7 ", answer)


@pytest.mark.parametrize(
    ("uid", "user", "sender", "author", "taken"),
    [
        (1001, "bob", f"bob@{HOST}", f"Bob <bob+x@{HOST}>", True),
        (1001, "bob", "", f"bob@{HOST}", True),
        (1001, "bob", f"bob@{HOST}", "alice@our.test", False),
        (1001, "bob", "", "alice@our.test", False),
        (1001, "bob", "", f"root@{HOST}", False),
        (1001, "bob", f"bob@{HOST}", f'"alice@our.test" <bob@{HOST}>', False),
        (33, "www-data", f"www-data@{HOST}", f"postmaster@{HOST}", True),
        (0, "root", f"root@{HOST}", f"Cron <cron@{HOST}>", True),
        (0, "root", "", "alice@our.test", False),
        (999, "vmail", "alice@our.test", "info@our.test", True),
        (999, "vmail", "alice@our.test", "bob@our.test", False),
        (999, "vmail", "alice@our.test", f"postmaster@{HOST}", False),
        (999, "vmail", "", f"postmaster@{HOST}", True),
        (999, "vmail", "", "alice@our.test", False),
    ],
)
@pytest.mark.parametrize("policy", ["account", "domain"])
def test_from_of_a_user(
    local: Callable[..., list[str]], uid: int, user: str, sender: str, author: str, taken: bool, policy: str
) -> None:
    told = local(uid, user, *mail(sender), *message(f"From: {author}", "", "body"), policy=policy)
    assert (results(told)[2] == "proceed") is taken, results(told)
    assert ("body" in lines(told)) is taken


def test_a_peer_whom_the_kernel_does_not_know_is_sent_away(local: Callable[..., list[str]]) -> None:
    assert results(local(None, "bob", *mail("")))[0].startswith("disconnect|421 4.7.0 ")


def test_the_name_of_a_directorys_user(local: Callable[..., list[str]]) -> None:
    assert results(local(200001, "", *mail(f"eve@{HOST}"), directory="eve")) == ["proceed", "proceed"]
    greeting, answer = results(local(200001, "", *mail("")))
    assert greeting == "disconnect|550 5.7.1 User 200001 of this host has no name to send mail under"
    assert answer.startswith("reject|4")


@pytest.mark.parametrize(
    ("uid", "user", "sender", "answer"),
    [
        (999, "vmail", "alice+x@our.test", "proceed"),
        (999, "vmail", "", "proceed"),
        (0, "root", "alice@our.test", "proceed"),
        (999, "vmail", "carol@far.test", "reject|550 5.7.1 vmail may not send mail as carol@far.test."),
        (999, "vmail", f"root@{HOST}", "reject|550 5.7.1 "),
        (0, "root", f"root@{HOST}", "reject|550 5.7.1 "),
    ],
)
def test_redirects(local: Callable[..., list[str]], uid: int, user: str, sender: str, answer: str) -> None:
    as_it_is = ["Subject : x", "From: Doe, Jane <jane@far.test>", "", "body"]
    told = local(uid, user, *mail(sender), *message(*as_it_is), port=10026)
    assert results(told)[1].startswith(answer)
    assert lines(told) == [*TRACE, *as_it_is, "."]


def test_redirects_are_the_mailboxes_users_alone(local: Callable[..., list[str]]) -> None:
    for uid, user, directory in [(1001, "bob", ""), (33, "www-data", ""), (200001, "", "eve")]:
        greeting = results(local(uid, user, port=10026, directory=directory))[0]
        assert greeting == f"disconnect|550 5.7.1 {user or directory} may not hand in what Sieve redirects"


# Whatever comes

WORD = st.one_of(
    st.sampled_from(["filter", "report", "config", "smtp-in", "s", "t", "o", "pass", "ready", "0.7", "x:465", "x:25"]),
    st.sampled_from(["link-connect", "link-auth", "data-line", "commit", "mail-from", "connect", "tx-reset", "a: b"]),
    st.text(st.characters(max_codepoint=255, exclude_characters="\n"), max_size=20),
)
LINES = st.lists(st.lists(WORD, max_size=10).map("|".join), max_size=30)
HEADERS = st.lists(
    st.one_of(
        st.text(st.characters(max_codepoint=255, exclude_characters="\n"), max_size=60),
        st.text('<>()",;:@\\= a.?\t', max_size=60).map("From: {}".format),
        st.text('<>()",;:@\\= a.?\t', max_size=60).map(" {}".format),
        st.text('<>()",;:@\\= a.?\t', max_size=60).map("To: a@b{}".format),
    ),
    max_size=8,
)


@settings(max_examples=300)
@given(LINES)
def test_nothing_ends_it(program: ModuleType, senders: Path, told: list[str]) -> None:
    filter_message = program.Filter(HOST, str(senders), 10**6, 100, True)
    for line in told:
        filter_message.told(line.encode("latin-1").split(b"|", 7))


@settings(max_examples=300)
@given(HEADERS)
def test_whatever_a_header_is_it_is_answered(program: ModuleType, senders: Path, header: list[str]) -> None:
    """One answer to each question, one final dot, nothing else that ends a message, and the next one passes."""
    filter_message = program.Filter(HOST, str(senders), 10**6, 100, True)
    header = [line for line in header if line != "."]
    told = [*logged_in(), *mail(), *message(*header, ""), *mail(), *message("From: alice@our.test", "")]
    for line in told:
        filter_message.told(line.encode("latin-1").split(b"|", 7))
    answers = b"".join(filter_message.answers).decode("latin-1").split("\n")[:-1]
    assert len(results(answers)) == 4 and results(answers)[2:] == ["proceed", "proceed"]
    assert [line for line in lines(answers) if line.startswith(".") and len(line) == 1] == [".", "."]
    assert all(re.fullmatch(r"filter-(dataline|result)\|s\|t\|[^\n]*", answer) for answer in answers)
    judged = results(answers)[1]
    assert judged == "proceed" or re.fullmatch(r"reject\|[45]\d\d [45]\.\d\.\d [ -~]+", judged)
    assert "451" not in judged[:12], "something raised"


@pytest.mark.parametrize(
    "wrong", [["--bytes", "many"], ["--from-policy", "none"], ["more"], ["--hostname"], ["--unknown", "1"]]
)
def test_wrong_usage(senders: Path, wrong: list[str]) -> None:
    done = subprocess.run([*command(senders), *wrong], capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == os.EX_USAGE
    assert done.stderr.startswith("usage: filter-message ")


def test_all_arguments_are_needed(senders: Path) -> None:
    whole = command(senders)
    for at in range(2, 10, 2):
        done = subprocess.run(whole[:at] + whole[at + 2 :], capture_output=True, check=False, env=environment())
        assert done.returncode == os.EX_USAGE


def test_when_opensmtpd_has_ended_it_ends_without_a_word(senders: Path) -> None:
    with subprocess.Popen(command(senders), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          env=environment()) as filter_message:  # fmt: skip
        assert filter_message.stdin and filter_message.stdout and filter_message.stderr
        filter_message.stdout.close()
        filter_message.stdin.write(b"config|ready\n")
        filter_message.stdin.close()
        assert filter_message.stderr.read() == b""
