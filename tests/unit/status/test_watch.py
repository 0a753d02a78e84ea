# SPDX-License-Identifier: GPL-3.0-or-later
"""Restarts, their limits, and messages to root."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from status import watch
from status.checks import DOVECOT, OPENSMTPD, RSPAMD, SIGNER
from status.dialogues import END_OF_DATA
from status.finding import Answer, Check, Finding
from status.watch import Watch, hung

MINUTE = 60


def silent(unit: str, step: str, subject: str = "25") -> Answer:
    check = Check("smtp", subject, lambda _talk: "", unit)
    return Answer(check, [Finding("smtp", subject, "unknown", True, f"no answer to {step} within 30 s")], step)


def wrong(check: str, status: str = "error", required: bool = True) -> Answer:
    return Answer(Check(check, "x", lambda _talk: ""), [Finding(check, "x", status, required, "is wrong", "mend it")])


@pytest.mark.parametrize(
    ("answers", "units"),
    [
        ([silent(DOVECOT, "LOGIN")], {DOVECOT}),
        # filter-rspamd waits for Rspamd, and OpenSMTPD for filter-rspamd.
        ([silent(OPENSMTPD, END_OF_DATA), silent(RSPAMD, "a verdict")], {RSPAMD}),
        ([silent(OPENSMTPD, END_OF_DATA)], {OPENSMTPD}),
        ([silent(OPENSMTPD, END_OF_DATA), silent(OPENSMTPD, "AUTH", "465"), silent(RSPAMD, "a verdict")],
         {OPENSMTPD, RSPAMD}),
        ([silent(OPENSMTPD, "AUTH", "465"), silent(OPENSMTPD, END_OF_DATA), silent(RSPAMD, "a verdict")],
         {OPENSMTPD, RSPAMD}),
        # The signing proxy waits for 10028.
        ([silent(OPENSMTPD, "RCPT"), silent(SIGNER, "RCPT")], {OPENSMTPD}),
        ([silent(SIGNER, "EHLO")], {SIGNER}),
        ([silent("", "the address of localhost"), wrong("redis")], set()),
    ],
)  # fmt: skip
def test_who_hangs(answers: list[Answer], units: set[str]) -> None:
    assert set(hung(answers)) == units


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What was run, with what it read behind it; every unit is active."""
    called: list[tuple[str, ...]] = []

    def command(*words: str, stdin: str = "") -> str:
        called.append((*words, stdin) if stdin else words)
        return "active\n"

    monkeypatch.setattr(watch, "command", command)
    return called


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """One run of the watch, at a time that the test sets."""

    def act(state: dict[str, Any], answers: Iterable[Answer], now: float) -> None:
        monkeypatch.setattr(watch.time, "time", lambda: now)
        Watch("mail.example.org", state).act(list(answers))

    return act


def restarts(commands: list[tuple[str, ...]]) -> int:
    return commands.count(("systemctl", "restart", OPENSMTPD))


def test_three_restarts_in_a_quarter_of_an_hour(
    commands: list[tuple[str, ...]], look: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    state: dict[str, Any] = {}
    for minute in range(6):
        look(state, [silent(OPENSMTPD, "MAIL")], minute * MINUTE)
    assert restarts(commands) == 3
    lines = capsys.readouterr().out.splitlines()
    said = "smtp 25: no answer to MAIL within 30 s; opensmtpd.service was restarted"
    assert lines[:3] == [f"<4>selfhosted-mail alarm opensmtpd.service: {said}"] * 3
    # Then the alarm alone, once an hour.
    assert lines[3:] == [f"<4>selfhosted-mail alarm opensmtpd.service/again: {said} 3 times without success"]
    look(state, [silent(OPENSMTPD, "MAIL")], 16 * MINUTE)
    assert restarts(commands) == 4
    # One message for the restarts, one for their end.
    assert len([words for words in commands if words[0] == watch.SENDMAIL]) == 2


def closed(unit: str) -> Answer:
    check = Check("imap", "993", lambda _talk: "", unit)
    return Answer(check, [Finding("imap", "993", "error", True, "LOGIN: the connection was closed")], closed=True)


def test_who_breaks_off_at_two_looks_is_restarted(
    commands: list[tuple[str, ...]], look: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    state: dict[str, Any] = {}
    # An administrator had restarted it, and did so again.
    for second, answers in (0, [closed(OPENSMTPD)]), (30, []), (61, [closed(OPENSMTPD)]):
        look(state, answers, second)
    assert restarts(commands) == 0
    # Between two of them it may work.
    for second, answers in (76, []), (91, [closed(OPENSMTPD)]):
        look(state, answers, second)
    assert restarts(commands) == 1
    said = "imap 993: LOGIN: the connection was closed; opensmtpd.service was restarted"
    assert capsys.readouterr().out == f"<4>selfhosted-mail alarm opensmtpd.service: {said}\n"
    look(state, [closed(OPENSMTPD)], 92)
    assert restarts(commands) == 1
    for second in range(93, 110):
        look(state, [closed(OPENSMTPD)], second)
    assert restarts(commands) == 3


def test_what_is_not_active_is_left_alone(look: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[str, ...]] = []

    def command(*words: str, stdin: str = "") -> str:
        called.append(words)
        return "activating\n"

    monkeypatch.setattr(watch, "command", command)
    state: dict[str, Any] = {}
    look(state, [silent(OPENSMTPD, "MAIL")], 0)
    assert called == [("systemctl", "is-active", OPENSMTPD)]
    assert "restarts" not in state


def test_an_error_is_told_at_the_second_look_and_once_an_hour(
    commands: list[tuple[str, ...]], look: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    state: dict[str, Any] = {}
    look(state, [wrong("imap")], 0)
    assert not commands
    for minute in range(1, 61):
        look(state, [wrong("imap")], minute * MINUTE)
    assert capsys.readouterr().out == "<4>selfhosted-mail alarm imap/x: is wrong (try: mend it)\n"
    assert commands[0][:2] == (watch.SENDMAIL, "root")
    assert "Subject: mail.example.org: imap/x\n" in commands[0][2]
    look(state, [wrong("imap")], 61 * MINUTE)
    assert len(commands) == 2
    # Well again: the next one is a first look.
    look(state, [], 125 * MINUTE)
    look(state, [wrong("imap")], 126 * MINUTE)
    assert len(commands) == 2


def test_what_the_relay_has_said_is_told_at_once(
    commands: list[tuple[str, ...]], look: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Once an hour for each kind; entries only for the journal are logged each time."""
    state: dict[str, Any] = {"lines": ["the relay refuses this", "and that"]}
    look(state, [wrong("relay")], 0)
    assert capsys.readouterr().out.splitlines() == [
        "<4>the relay refuses this",
        "<4>and that",
        "<4>selfhosted-mail alarm relay/x: is wrong (try: mend it)",
    ]
    look(state, [wrong("relay")], MINUTE)
    assert not capsys.readouterr().out
    assert len(commands) == 1


def test_warnings_and_what_is_not_required_are_not_told(
    commands: list[tuple[str, ...]], look: Callable[..., None]
) -> None:
    state: dict[str, Any] = {}
    for now in (0, MINUTE):
        look(state, [wrong("a", "warning"), wrong("b", "unknown"), wrong("c", required=False)], now)
    assert not commands


@pytest.mark.parametrize("check", ["backup", "dns"])
def test_what_is_looked_at_once_a_day_is_told_once_a_day(
    look: Callable[..., None], commands: list[tuple[str, ...]], capsys: pytest.CaptureFixture[str], check: str
) -> None:
    state: dict[str, Any] = {}
    for minutes in (0, 1, 61, 23 * 60, 24 * 60 + 2):
        look(state, [wrong(check)], now=minutes * MINUTE)
    assert capsys.readouterr().out.count(f"selfhosted-mail alarm {check}/x: is wrong") == 2


def test_an_alarm_is_one_line_of_the_journal(
    look: Callable[..., None], commands: list[tuple[str, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing name has a record for each address."""
    missing = Finding("dns", "mail.example.org", "error", True, "is missing", "mail A 1\nmail A 2")
    for now in (0, MINUTE):
        look({"seen": ["dns/mail.example.org"]}, [Answer(Check("dns", "x", lambda _talk: ""), [missing])], now)
    said = "<4>selfhosted-mail alarm dns/mail.example.org: is missing (try: mail A 1; mail A 2)\n"
    assert capsys.readouterr().out == said * 2
    assert "mail A 1\nmail A 2" in commands[-1][-1]


def test_what_is_paused_is_left_alone(
    commands: list[tuple[str, ...]], look: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless the program that paused it has ended without removing the mark."""
    monkeypatch.setattr(watch, "PAUSED", tmp_path)
    paused = tmp_path / f"{OPENSMTPD}.paused"
    paused.touch()
    since = paused.stat().st_mtime
    look({}, [silent(OPENSMTPD, "MAIL")], since + 60)
    assert restarts(commands) == 0
    look({}, [silent(OPENSMTPD, "MAIL")], since + 121)
    assert restarts(commands) == 1
