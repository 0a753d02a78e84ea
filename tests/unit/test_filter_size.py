# SPDX-License-Identifier: GPL-3.0-or-later
"""The size filter, told a session in the words of smtpd-filters(7)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "roles/opensmtpd/files/filter-size"
TOLD = "0.7|1700000000.000000|smtp-in"


def answers(*lines: str, limit: int = 100) -> list[str]:
    """What it says after its registration."""
    told = "\n".join(["config|smtpd-version|7.4.0", "config|ready", *lines, ""]).encode("latin-1")
    done = subprocess.run([sys.executable, PROGRAM, str(limit)], input=told, capture_output=True, check=True)
    assert done.stderr == b""
    text = done.stdout.decode("latin-1").split("\n")
    assert text[-1] == ""
    assert "register|ready" in text
    return text[text.index("register|ready") + 1 : -1]


def said(command: str, session: str = "s") -> str:
    return f"report|{TOLD}|protocol-client|{session}|{command}"


def asked(event: str, rest: str = "", session: str = "s") -> str:
    return f"filter|{TOLD}|{event}|{session}|t|{rest}"


@pytest.mark.parametrize(("command", "taken"), [
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
])
def test_announced(command: str, taken: bool) -> None:
    answer = answers(said(command), asked("mail-from", "a@b"))
    assert len(answer) == 1
    assert answer[0].startswith("filter-result|s|t|" + ("proceed" if taken else "reject|552 5.3.4 "))


def test_lines_pass_as_they_are() -> None:
    lines = ["a|b||", "", "..", ". ", "\xff", "|"]
    sent = [asked("data-line", line) for line in [*lines, "."]]
    assert answers(*sent, asked("commit")) == [
        *(f"filter-dataline|s|t|{line}" for line in [*lines, "."]), "filter-result|s|t|proceed",
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
