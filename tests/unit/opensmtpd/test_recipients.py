# SPDX-License-Identifier: GPL-3.0-or-later
"""Limits of recipients per hour."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from filter_helpers import TOLD, Inside, Running, asked, client, connected, logged_in, mail, results
from message_filter import recipients

MINUTE = 60
PUT_OFF = "reject|450 4.7.1 alice@our.test has had 3 recipients within an hour, try again later"


def recipient(session: str = "s", result: str = "ok") -> list[str]:
    """RCPT TO, and its result."""
    asked_for = asked("rcpt-to", "friend@far.test", session)
    return [client("RCPT TO:<friend@far.test>", session), asked_for, became(result, session)]


def became(result: str, session: str = "s") -> str:
    return f"report|{TOLD}|tx-rcpt|{session}|0a1b2c3d|{result}|friend@far.test"


def test_recipients_are_counted_over_sessions_and_ports(files: Path) -> None:
    with Running(files) as running:
        told = [*logged_in(), *logged_in("ALICE@our.test", "o", 587), *logged_in("bob@our.test", "b"), connected("w")]
        running.tell(*told)
        assert running.says(*recipient(), *recipient("o"), *recipient()) == ["proceed"] * 3
        assert running.says(*recipient("o", "tempfail"), *recipient(result="tempfail")) == [PUT_OFF] * 2
        # Of logins without a limit, and from outside.
        assert running.says(*recipient("b") * 20, *recipient("w") * 20) == ["proceed"] * 40
    alarm = "selfhosted-mail alarm recipients/alice@our.test: alice@our.test has had 3 recipients within an hour; "
    alarm += "further ones get a temporary failure (450) until the count falls below the limit"
    assert running.errors() == [alarm]


def test_what_opensmtpd_refuses_does_not_count(files: Path) -> None:
    with Running(files) as running:
        running.tell(*logged_in())
        assert running.says(*recipient(result="permfail") * 9, *recipient(result="tempfail") * 9) == ["proceed"] * 18
        assert running.says(*recipient() * 3) == ["proceed"] * 3
        # Neither our own refusal nor a repeated one lowers the count.
        assert running.says(*recipient(result="tempfail"), *recipient(result="tempfail")) == [PUT_OFF] * 2


def test_sessions_that_ask_at_once_do_not_get_more(files: Path) -> None:
    sessions = [f"s{number}" for number in range(9)]
    with Running(files) as running:
        running.tell(*(line for session in sessions for line in logged_in(session=session)))
        said = running.says(*(asked("rcpt-to", "friend@far.test", session) for session in sessions))
        assert said == ["proceed"] * 3 + [PUT_OFF] * 6
        running.tell(*(became("ok" if at < 3 else "tempfail", session) for at, session in enumerate(sessions)))
        assert running.says(*recipient()) == ["proceed"], "a session without a login"
        assert running.says(*recipient("s8", "tempfail")) == [PUT_OFF]


@pytest.mark.parametrize("port", [10025, 10026])
def test_what_sieve_redirects_and_answers_is_counted_apart(
    files: Path, monkeypatch: pytest.MonkeyPatch, port: int
) -> None:
    """A stranger's mail must not keep the account from writing."""
    inside = Inside(files, monkeypatch)
    inside.tell(*logged_in(), connected("v", port))
    inside.filter.sessions[b"v"].user = "vmail"

    def told(session: str, result: str) -> list[str]:
        return results(inside.tell(*recipient(session, result)))

    inside.tell(*mail(session="v"))
    assert told("v", "permfail") == ["proceed"]
    assert [told("v", "ok") for _recipient in range(3)] == [["proceed"]] * 3
    text = "sieve/alice@our.test has had 3 recipients within an hour, try again later"
    assert told("v", "tempfail") == [f"reject|450 4.7.1 {text}"]
    assert [told("s", "ok") for _recipient in range(3)] == [["proceed"]] * 3
    # Bounces are the host's own.
    inside.tell(*mail("", session="v"))
    assert [told("v", "ok") for _recipient in range(9)] == [["proceed"]] * 9


def test_limits_are_read_again(files: Path) -> None:
    limits = files.parent / "limits"
    with Running(files) as running:
        running.tell(*logged_in())
        assert running.says(*recipient() * 4)[-1] == PUT_OFF
        for text, taken in [("* 0\nalice@our.test 5\n", True), ("no number\n", True), ("* 5\n", False)]:
            limits.write_text(text)
            assert (running.says(*recipient()) == ["proceed"]) is taken
        # Of another size, as it may have the same time.
        limits.write_text("* 0 \n")
        assert running.says(*recipient() * 50) == ["proceed"] * 50


def test_without_a_table_of_limits_nobody_writes_until_it_is_there(files: Path) -> None:
    text = (files.parent / "limits").read_text()
    (files.parent / "limits").unlink()
    with Running(files) as running:
        running.tell(*logged_in(), connected("w"))
        assert running.says(*recipient())[0].startswith("reject|451 4.3.0 ")
        assert running.says(*recipient("w")) == ["proceed"]
        (files.parent / "limits").write_text(text)
        assert running.says(*recipient()) == ["proceed"]


@pytest.mark.parametrize("terminated", [False, True])
def test_what_was_counted_outlives_the_filter(files: Path, terminated: bool) -> None:
    def begun() -> Running:
        running = Running(files)
        if terminated:
            # As systemd does, before OpenSMTPD has ended.
            running.process.terminate()
        running.tell(*logged_in())
        return running

    for number in range(1, 5):
        with begun() as running:
            assert running.says(*recipient()) == ["proceed" if number < 4 else PUT_OFF]
            assert running.says(*recipient(result="permfail")) == ["proceed" if number < 3 else PUT_OFF]
    with begun() as running:
        assert running.says(*recipient()) == [PUT_OFF]
    # Its alarm is an hour's, not the process's.
    assert running.errors() == []
    kept = files.parent / "recipients.json"
    assert kept.stat().st_mode & 0o777 == 0o600 or os.umask(os.umask(0)) != 0o077
    assert [path.name for path in files.parent.glob("recipients*")] == [kept.name]


def test_it_is_over_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = recipients.Recipients(str(tmp_path / "kept"))
    alarms: list[str] = []
    monkeypatch.setattr(recipients, "log", lambda level, text: alarms.append(text))
    start = 1_700_000_000 // MINUTE * MINUTE

    def taken_at(minute: int) -> bool:
        monkeypatch.setattr(time, "time", lambda: start + minute * MINUTE + 59.9)
        return bool(counted.add("alice@our.test", 3))

    assert [taken_at(minute) for minute in (0, 10, 20, 30, 59, 60)] == [True, True, True, False, False, False]
    # Never more than three in an hour, which the minutes of the first are by then.
    assert [taken_at(minute) for minute in (61, 61, 71, 71, 81, 81)] == [True, False] * 3
    assert len(alarms) == 1
    assert not taken_at(91) and len(alarms) == 2
    # A clock that was a year ahead, and one that is set back by a minute.
    assert taken_at(500_000) and taken_at(142) and taken_at(141) and taken_at(140) and not taken_at(140)
    monkeypatch.setattr(time, "time", lambda: start + 1000 * MINUTE)
    counted.keep()
    assert json.loads((tmp_path / "kept").read_text()) == [{}, {}]


@pytest.mark.parametrize(
    "kept",
    ["", "{", "[]", "[1, 2]", "[[], {}]", '[{"a": 5}, {}]', '[{"a": {"x": 1}}, {}]', "[" * 100_000, "\xff\x00",
     '[{"alice@our.test": {"1": null}}, {}]', "9" * 10_000],
)  # fmt: skip
def test_a_broken_state_counts_anew(files: Path, kept: str) -> None:
    (files.parent / "recipients.json").write_text(kept, encoding="latin-1")
    with Running(files) as running:
        running.tell(*logged_in())
        assert running.says(*recipient() * 3, *recipient(result="tempfail")) == ["proceed"] * 3 + [PUT_OFF]
    assert "the recipients of the last hour are not known" in running.errors()[0]
    counts, _alarms = json.loads((files.parent / "recipients.json").read_text())
    assert sum(counts["alice@our.test"].values()) == 3


@pytest.mark.parametrize("wrong", ["full disk", "no directory"])
def test_mail_goes_on_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    said: list[str] = []
    monkeypatch.setattr(recipients, "log", lambda level, text: said.append(text))
    directory = tmp_path / "filter"
    counted = recipients.Recipients(str(directory / "kept"))
    if wrong == "full disk":
        directory.mkdir()
        (directory / "kept").write_text("[{}, {}]")
        (directory / "kept.new").symlink_to("/dev/full")
    for _try in range(3):
        assert counted.add("alice@our.test", 100)
        counted.keep()
    assert len(said) == 1 and said[0].endswith("; a restart forgets the recipients of the last hour")
    directory.mkdir(exist_ok=True)
    (directory / "kept.new").unlink(missing_ok=True)
    counted.keep()
    assert sum(recipients.Recipients(counted.path).minutes["alice@our.test"].values()) == 3
