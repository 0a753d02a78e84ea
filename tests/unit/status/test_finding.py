# SPDX-License-Identifier: GPL-3.0-or-later
"""Parallel checks: each ends, fails or times out."""

from __future__ import annotations

import threading

import pytest
from status.finding import Check, Failed, Finding, Talk, run


def hangs(talk: Talk) -> str:
    talk.waits_for("MAIL")
    threading.Event().wait(60)
    return "never"


def times_out(talk: Talk) -> str:
    talk.waits_for("PING")
    raise TimeoutError


def fails(_talk: Talk) -> str:
    raise Failed("it says no")


def is_refused(_talk: Talk) -> str:
    raise ConnectionRefusedError(111, "Connection refused")


def is_left(talk: Talk) -> str:
    talk.waits_for("LOGIN")
    raise EOFError


def has_several(talk: Talk) -> list[Finding]:
    return [talk.found("ok", "one"), talk.found("warning", "two")]


def test_each_in_its_way() -> None:
    asks = [hangs, times_out, fails, is_refused, is_left, has_several, lambda _talk: "works"]
    answers = run([Check("name", str(n), ask, "some.service") for n, ask in enumerate(asks)], 2)
    assert [[(found.status, found.text) for found in answer.findings] for answer in answers] == [
        [("unknown", "no answer to MAIL within 2 s")],
        [("unknown", "no answer to PING within 2 s")],
        [("error", "it says no")],
        [("error", "a connection: [Errno 111] Connection refused")],
        [("error", "LOGIN: the connection was closed")],
        [("ok", "one"), ("warning", "two")],
        [("ok", "works")],
    ]
    assert [answer.silent for answer in answers] == ["MAIL", "PING", "", "", "", "", ""]
    assert [answer.check.ask for answer in answers if answer.closed] == [is_left]
    assert [answer.check.subject for answer in answers] == list("0123456")


def test_fix() -> None:
    """A check's own, or its service's journal; none where all is well."""
    talk = Talk(Check("redis", "Rspamd's", has_several, "redis.service"), 1)
    assert talk.found("error", "").fix == "journalctl -u redis.service -n 50"
    assert talk.found("ok", "").fix == ""
    assert Talk(Check("queue", "waiting", has_several, fix="smtpctl show queue"), 1).found("error", "").fix == (
        "smtpctl show queue"
    )


def test_worst_first() -> None:
    found = [
        Finding("c", "", status, required, "")
        for status, required in (("ok", True), ("unknown", True), ("error", False), ("warning", True), ("error", True))
    ]
    order = [(one.status, one.required) for one in sorted(found, key=lambda one: one.rank)]
    assert order == [("error", True), ("error", False), ("warning", True), ("unknown", True), ("ok", True)]


def test_command(tmp_path: object) -> None:
    check = Check("c", "", has_several)
    assert Talk(check, 60).command("sh", "-c", "echo said; exit 1") == "said\n"
    with pytest.raises(TimeoutError):
        Talk(check, 0.3).command("sleep", "60")


def test_what_others_write_is_shown_as_it_is_and_does_nothing_to_the_terminal() -> None:
    found = Finding("relay", "x\nBcc: y", "error", True, "said \x1b]0;\u202eroot\x07 \u00e9", "one\ntwo\x1b[2J")
    assert (found.subject, found.text, found.fix) == ("x?Bcc: y", "said ?]0;?root? \u00e9", "one\ntwo?[2J")
