# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter of limits, told a session in the words of smtpd-filters(7)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "roles/opensmtpd/files/usr/local/lib/selfhosted-mail/filter-limits"
TOLD = "0.7|1700000000.000000|smtp-in"


def answers(*lines: str, size: int = 100, messages: int = 100, begun: tuple[str, ...] = ("s", "o")) -> list[str]:
    """What it says after its registration, with these sessions open."""
    connected = [f"report|{TOLD}|link-connect|{session}|peer|pass|198.51.100.1:1|198.51.100.2:25" for session in begun]
    told = "\n".join(["config|smtpd-version|7.4.0", "config|ready", *connected, *lines, ""]).encode("latin-1")
    command: list[str | Path] = [sys.executable, PROGRAM, str(size), str(messages)]
    done = subprocess.run(command, input=told, capture_output=True, check=True)
    assert done.stderr == b""
    text = done.stdout.decode("latin-1").split("\n")
    assert text[-1] == ""
    assert "register|ready" in text
    return text[text.index("register|ready") + 1 : -1]


def said(command: str, session: str = "s") -> str:
    return f"report|{TOLD}|protocol-client|{session}|{command}"


def asked(event: str, rest: str = "", session: str = "s") -> str:
    return f"filter|{TOLD}|{event}|{session}|t|{rest}"


def test_what_users_announce_is_not_looked_at() -> None:
    connected = f"report|{TOLD}|link-connect|u|peer|pass|198.51.100.1:1|[2001:db8::2]:465"
    told = [connected, said("MAIL FROM:<a@b> SIZE=101", "u"), asked("mail-from", "a@b", "u")]
    assert answers(*told) == ["filter-result|u|t|proceed"]


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
def test_announced(command: str, taken: bool) -> None:
    answer = answers(said(command), asked("mail-from", "a@b"))
    assert len(answer) == 1
    assert answer[0].startswith("filter-result|s|t|" + ("proceed" if taken else "reject|552 5.3.4 "))


def test_lines_pass_as_they_are() -> None:
    lines = ["a|b||", "", "..", ". ", "\xff", "|"]
    sent = [asked("data-line", line) for line in [*lines, "."]]
    assert answers(*sent, asked("commit")) == [
        *(f"filter-dataline|s|t|{line}" for line in [*lines, "."]),
        "filter-result|s|t|proceed",
    ]


def test_what_is_too_much_is_thrown_away_and_refused() -> None:
    lines = [asked("data-line", "x" * 48)] * 3 + [asked("data-line", ".")]
    answer = answers(*lines, asked("commit"))
    assert answer[:3] == [f"filter-dataline|s|t|{'x' * 48}"] * 2 + ["filter-dataline|s|t|."]
    assert answer[3].startswith("filter-result|s|t|reject|552 ")


def test_sessions_and_messages_are_counted_apart() -> None:
    line, end = asked("data-line", "x" * 60), asked("data-line", ".")
    other = [asked("data-line", "x" * 60, "o"), asked("data-line", ".", "o"), asked("commit", "", "o")]
    told = [line, *other, end, asked("commit"), line, end, asked("commit")]
    # A message that was broken off does not count for the next.
    told += [line, f"report|{TOLD}|tx-reset|s|m", line, end, asked("commit")]
    results = [answer for answer in answers(*told) if answer.startswith("filter-result")]
    assert [result.rpartition("|")[2] for result in results] == ["proceed"] * 4


@pytest.mark.parametrize("length", [60_001, 65_454, 65_534])
def test_a_message_with_a_long_line_is_thrown_away_from_there_and_refused(length: int) -> None:
    sent = [asked("data-line", line) for line in ("first", "x" * length, "last", ".")]
    answer = answers(*sent, asked("commit"), size=10**6)
    assert answer[:2] == ["filter-dataline|s|t|first", "filter-dataline|s|t|."]
    assert answer[2].startswith("filter-result|s|t|reject|554 5.6.0 ")
    # The next one is taken.
    assert answers(*sent, asked("commit"), asked("data-line", "."), asked("commit"))[-1] == "filter-result|s|t|proceed"


def test_the_longest_line_passes() -> None:
    line = "x" * 60_000
    assert answers(asked("data-line", line), size=10**6) == [f"filter-dataline|s|t|{line}"]


def test_messages_of_a_session() -> None:
    def mail(session: str = "s") -> list[str]:
        return [said("MAIL FROM:<a@b>", session), asked("mail-from", "a@b", session)]

    def accepted(session: str = "s") -> list[str]:
        return [*mail(session), f"report|{TOLD}|tx-commit|{session}|m|9", f"report|{TOLD}|tx-reset|{session}|m"]

    # What was begun and broken off is not counted.
    told = [*mail(), *accepted(), *mail(), *accepted(), *mail(), *mail("o")]
    results = [answer.split("|", 3)[1:] for answer in answers(*told, messages=2)]
    assert results == [["s", "t", "proceed"]] * 4 + [
        ["s", "t", "reject|452 4.5.3 At most 2 messages are taken in a session"],
        ["o", "t", "proceed"],
    ]
    # A new session begins anew, and one that has ended is forgotten.
    ended = [f"report|{TOLD}|link-disconnect|s", f"report|{TOLD}|link-connect|s|peer|pass|a|b"]
    assert answers(*accepted(), *ended, *mail(), messages=1)[-1] == "filter-result|s|t|proceed"
    assert answers(*accepted(), ended[0], *mail(), messages=1)[-1] == "filter-result|s|t|proceed"


def test_what_comes_after_a_session_is_passed_on() -> None:
    line, end = asked("data-line", "x" * 60, "gone"), asked("data-line", ".", "gone")
    assert answers(line, line, end, asked("commit", "", "gone"))[-1] == "filter-result|gone|t|proceed"


@pytest.mark.parametrize("arguments", [[], ["1"], ["1", "2", "3"], ["1", "many"]])
def test_wrong_usage(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, PROGRAM, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (os.EX_USAGE, "usage: filter-limits BYTES MESSAGES\n")


def test_when_opensmtpd_has_ended_it_ends_without_a_word() -> None:
    with subprocess.Popen([sys.executable, PROGRAM, "1", "1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as filter_limits:  # fmt: skip
        assert filter_limits.stdin and filter_limits.stdout and filter_limits.stderr
        filter_limits.stdout.close()
        filter_limits.stdin.write(b"config|ready\n")
        filter_limits.stdin.close()
        assert filter_limits.stderr.read() == b""
