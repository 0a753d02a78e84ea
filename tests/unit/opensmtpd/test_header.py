# SPDX-License-Identifier: GPL-3.0-or-later
"""The header, which is held until it is complete."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from filter_helpers import TRACE, lines, logged_in, mail, message, results


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
    field = ["Cc: c@far.test (" + "x " * 20_000, " " + "y " * 10_000 + "), Doe, Jane <d@far.test>"]
    answer = said(*logged_in(), *mail(), *message("From: alice@our.test", *field, ""))
    assert max(map(len, lines(answer))) < 60_000
    assert lines(answer)[5:-2] == field


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
