# SPDX-License-Identifier: GPL-3.0-or-later
"""Input from OpenSMTPD, and its end."""

from __future__ import annotations

import re
import subprocess
import syslog
from collections.abc import Callable
from pathlib import Path

import pytest
from filter_helpers import (
    TOLD,
    asked,
    built,
    client,
    command,
    connected,
    environment,
    lines,
    logged_in,
    mail,
    message,
    results,
)
from hypothesis import given, settings
from hypothesis import strategies as st


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


def test_messages_of_a_session(said: Callable[..., list[str]]) -> None:
    def accepted(session: str = "s") -> list[str]:
        return [
            *mail("a@b", session),
            f"report|{TOLD}|tx-commit|{session}|m|9",
            f"report|{TOLD}|tx-reset|{session}|m",
        ]

    # Aborted messages are not counted.
    told = [*mail("a@b"), *accepted(), *mail("a@b"), *accepted(), *mail("a@b"), *mail("a@b", "o")]
    answer = said(connected(), connected("o"), *told, messages=2)
    assert results(answer) == ["proceed"] * 4 + [
        "reject|452 4.5.3 At most 2 messages are accepted in a session",
        "proceed",
    ]
    # A new session begins anew, and one that has ended is forgotten.
    ended = f"report|{TOLD}|link-disconnect|s"
    assert results(said(connected(), *accepted(), ended, connected(), *mail("a@b"), messages=1))[-1] == "proceed"
    assert results(said(connected(), ended, *mail("a@b")))[0].startswith("reject|")


@pytest.mark.parametrize(
    ("source", "address"), [("198.51.100.1:25001", "198.51.100.1"), ("[2001:db8:1:2::3]:465", "2001:db8:1:2::3")]
)
def test_a_failed_login_is_told_with_its_address(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str, address: str
) -> None:
    told: list[tuple[int, str]] = []
    monkeypatch.setattr(syslog, "syslog", lambda *words: told.append(words))
    filter_message = built(tmp_path / "senders")
    for line in [
        connected(port=465, source=source),
        f"report|{TOLD}|link-auth|s|fail|who\nfailed login from 192.0.2.1",
        # No password was guessed.
        f"report|{TOLD}|link-auth|s|error|alice@our.test",
        f"report|{TOLD}|link-auth|s|pass|alice@our.test",
    ]:
        filter_message.told(line.encode().split(b"|", 7))
    assert told == [(syslog.LOG_INFO, f"failed login from {address}")]


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
def test_nothing_ends_it(senders: Path, told: list[str]) -> None:
    filter_message = built(senders)
    for line in told:
        filter_message.told(line.encode("latin-1").split(b"|", 7))


@settings(max_examples=300)
@given(HEADERS)
def test_whatever_a_header_is_it_is_answered(senders: Path, header: list[str]) -> None:
    """One answer to each question, one final dot, nothing else that ends a message, and the next one passes."""
    filter_message = built(senders)
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
    assert done.returncode == 2
    assert done.stderr.startswith("usage: filter-message ")


def test_all_arguments_are_needed(senders: Path) -> None:
    whole = command(senders)
    for at in range(2, 18, 2):
        done = subprocess.run(whole[:at] + whole[at + 2 :], capture_output=True, check=False, env=environment())
        assert done.returncode == 2


def test_when_opensmtpd_has_ended_it_ends_without_a_word(senders: Path) -> None:
    with subprocess.Popen(command(senders), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          env=environment()) as filter_message:  # fmt: skip
        assert filter_message.stdin and filter_message.stdout and filter_message.stderr
        filter_message.stdout.close()
        filter_message.stdin.write(b"config|ready\n")
        filter_message.stdin.close()
        assert filter_message.stderr.read() == b""
