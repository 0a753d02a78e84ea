# SPDX-License-Identifier: GPL-3.0-or-later
"""Messages, line by line."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from filter_helpers import TOLD, TRACE, asked, connected, lines, logged_in, mail, message, results


@pytest.mark.parametrize(("port", "login"), [(25, False), (465, True), (587, True)])
def test_body_lines_pass_as_they_are(said: Callable[..., list[str]], port: int, login: bool) -> None:
    body = ["a|b||", "", "..", "..x", ". ", "\xff", "|", "\x1b\r"]
    begun = logged_in(port=port) if login else [connected(port=port)]
    answer = said(*begun, *mail(), *message("From: alice@our.test", "", *body))
    assert lines(answer)[-len(body) - 1 :] == [*body, "."]
    assert results(answer) == ["proceed", "proceed"]


@pytest.mark.parametrize(
    ("told", "added"),
    [
        (["", "Hello.", "bye "], 1),
        (["", "\t"], 1),
        (["", "Hello.", "bye"], 0),
        (["", "Hello.", ""], 0),
        (["", ""], 0),
        ([""], 1),
        ([], 2),
    ],
)
def test_inbound_mail_ends_so_that_rspamd_reads_it_right(
    said: Callable[..., list[str]], told: list[str], added: int
) -> None:
    header = "From: bob@world.test"
    answer = said(connected(port=25), *mail(), *message(header, *told, trace=False))
    assert lines(answer) == [header, *told, *[""] * added, "."]
    answer = said(*logged_in(port=465), *mail(), *message("From: alice@our.test", "", "Hello. "))
    assert lines(answer)[-2:] == ["Hello. ", "."]


def test_what_is_too_much_is_thrown_away_and_refused(said: Callable[..., list[str]]) -> None:
    told = [asked("data-line", line) for line in ["", *["x" * 48] * 3, "."]]
    answer = said(connected(), *told, asked("commit"), size=100)
    assert lines(answer) == ["", "x" * 48, "x" * 48, "."]
    assert results(answer) == ["reject|552 5.3.4 The message is too large, at most 100 bytes are accepted"]


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
    answer = said(connected(), *sent, asked("commit"), *message("", "x", trace=False))
    assert lines(answer) == ["a: b" if part == "header" else "", ".", "", "x", "."]
    # The next one is taken.
    assert results(answer) == ["reject|554 5.6.0 A line of the message is longer than 60000 octets", "proceed"]


def test_the_longest_line_passes(said: Callable[..., list[str]]) -> None:
    assert lines(said(connected(), asked("data-line", ""), asked("data-line", "x" * 60_000))) == ["", "x" * 60_000]


@pytest.mark.parametrize("port", [465, 587])
def test_a_line_that_others_would_break_is_refused_with_its_number(said: Callable[..., list[str]], port: int) -> None:
    """RFC 5322 section 2.1.1: 998 octets, without the dot that is put before one."""
    begun, field = [*logged_in(port=port), *mail()], "From: alice@our.test"
    good = said(*begun, *message(field, "", "x" * 998, ".." + "x" * 997))
    assert results(good)[-1] == "proceed"
    bad = said(*begun, *message(field, "", "first", "x" * 999, "last"))
    assert "line 2 of its body has 999 octets, at most 998 are allowed" in results(bad)[-1]
    word = said(*begun, *message(field, "X-Long: a", " " + "y" * 999, "", "body"))
    assert "a word in its field X-Long has 999 octets" in results(word)[-1]
    # The signing proxy folds it.
    assert results(said(*begun, *message(field, "X-Long:" + " y" * 999, "", "body")))[-1] == "proceed"


def test_a_long_line_of_others_passes(said: Callable[..., list[str]]) -> None:
    assert results(said(connected(), *message("From: carol@far.test", "", "x" * 999)))[-1] == "proceed"


@pytest.mark.parametrize("port", [25, 465])
@pytest.mark.parametrize("char", ["\r", "\x01", "\x1b", "\x7f"])
@pytest.mark.parametrize("line", ["Subject: a{}b", "X-Note: a{}From: bob@our.test", " folded{}", "..{}: x"])
def test_control_characters_in_the_header(said: Callable[..., list[str]], port: int, char: str, line: str) -> None:
    begun = [connected()] if port == 25 else [*logged_in(), *mail()]
    answer = said(*begun, *message("From: alice@our.test", line.format(char), "", "body"))
    refusal = "reject|554 5.6.0 The message violates RFC 5322: its header contains control characters"
    assert results(answer)[-1] == refusal
    assert "body" not in lines(answer)


def test_a_huge_header_is_refused_and_what_is_held_is_bounded(said: Callable[..., list[str]]) -> None:
    huge = ["From: alice@our.test", *["x: " + "y" * 1000] * 1100, "", "body"]
    answer = said(*logged_in(), *mail(), *message(*huge), *mail(), *message("From: alice@our.test", ""), size=10**7)
    refusal = "reject|552 5.3.4 The header of this message is too large"
    assert results(answer) == ["proceed", refusal, "proceed", "proceed"]
    assert lines(answer)[0] == "." and lines(answer)[-2:] == ["", "."]


def test_a_message_without_an_end_of_the_header_is_judged(said: Callable[..., list[str]]) -> None:
    told = said(*logged_in(), *mail(), *message("From: alice@our.test"), *mail(), *message("From: bob@our.test"))
    assert [result[:10] for result in results(told)] == ["proceed", "proceed", "proceed", "reject|550"]
    assert lines(told) == [*TRACE, "From: alice@our.test", ".", "."]


def test_a_message_without_a_line_is_judged(said: Callable[..., list[str]]) -> None:
    assert results(said(*logged_in(), *mail(), *message(trace=False)))[1].startswith("reject|554")


def test_sessions_interleaved(said: Callable[..., list[str]]) -> None:
    one = [*logged_in(), *mail(), *message("From: alice@our.test", "", "one")]
    two = [*logged_in("bob@our.test", "o"), *mail("bob@our.test", "o")]
    two += message("From: alice@our.test", "", "two", session="o")
    told = said(*(line for pair in zip(one, two, strict=True) for line in pair))
    assert lines(told) == [*TRACE, "From: alice@our.test", "", "one", "."]
    assert lines(told, "o") == ["."]
    assert [result[:10] for result in results(told)] == ["proceed", "proceed", "proceed", "reject|550"]
