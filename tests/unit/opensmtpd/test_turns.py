# SPDX-License-Identifier: GPL-3.0-or-later
"""Scheduling of password checks."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from filter_helpers import TOLD, Inside, Running, asked, client, connected


def wants_in(session: str, address: str = "198.51.100.1", port: int = 465) -> list[str]:
    return [connected(session, port, f"{address}:1"), *says_password(session)]


def says_password(session: str) -> list[str]:
    return [client("AUTH PLAIN ********", session), asked("auth", "PLAIN AGEAYg==", session)]


def judged(session: str, result: str) -> str:
    return f"report|{TOLD}|link-auth|{session}|{result}|alice@our.test"


def turns(answers: list[str]) -> list[str]:
    assert all(re.fullmatch(r"filter-result\|\w\|t\|proceed", answer) for answer in answers)
    return [answer.split("|")[1] for answer in answers]


def test_one_password_of_a_network_is_checked_at_a_time(inside: Callable[..., Inside]) -> None:
    world = inside()
    assert turns(world.tell(*wants_in("a"), *wants_in("b"), *wants_in("c", port=587))) == ["a"]
    # Others do not wait for it.
    assert turns(world.tell(*wants_in("x", "198.51.100.2"), *wants_in("y", "[2001:db8::1]"))) == ["x", "y"]
    assert turns(world.tell(*wants_in("z", "[2001:db8::2]"))) == []
    assert turns(world.tell(judged("a", "pass"), judged("y", "error"))) == ["b", "z"]
    # After a wrong password the next login waits. A result for a session whose turn is over has no effect.
    assert turns(world.tell(judged("b", "fail"), judged("a", "pass"), *says_password("b"), after=0.9)) == []
    assert turns(world.tell(after=0.9)) == []
    assert turns(world.tell(after=0.2)) == ["c"]
    assert turns(world.tell(judged("c", "fail"))) == []
    assert turns(world.tell(after=1.1)) == ["b"]
    world.tell(judged("b", "pass"), judged("x", "pass"), judged("z", "pass"))
    assert (world.filter.turns.of_networks, world.filter.turns.seconds(5)) == ({}, 5)


def test_the_host_itself_does_not_wait_after_a_wrong_password(inside: Callable[..., Inside]) -> None:
    world = inside()
    assert turns(world.tell(*wants_in("a", "127.0.0.1"), *wants_in("b", "127.0.0.1"))) == ["a"]
    assert turns(world.tell(judged("a", "fail"))) == ["b"]


@pytest.mark.parametrize(
    "told", [f"report|{TOLD}|link-disconnect|a", client("QUIT", "a"), client("AUTH PLAIN ********", "a")]
)
def test_who_says_no_password_keeps_nobody_waiting(inside: Callable[..., Inside], told: str) -> None:
    world = inside()
    assert turns(world.tell(*wants_in("a"), *wants_in("b"))) == ["a"]
    assert turns(world.tell(client("********", "a"))) == []
    assert turns(world.tell(told)) == (["b"] if "AUTH" not in told else [])
    if "AUTH" in told:
        assert turns(world.tell(after=5.1)) == ["b"]


def test_who_has_left_gets_no_turn(inside: Callable[..., Inside]) -> None:
    world = inside()
    world.tell(*wants_in("a"), *wants_in("b"), *wants_in("c"), f"report|{TOLD}|link-disconnect|b")
    assert turns(world.tell(judged("a", "pass"))) == ["c"]
    assert turns(world.tell(f"report|{TOLD}|link-disconnect|c")) == []
    assert world.filter.turns.of_networks == {}


def test_turns_come_while_nobody_says_anything(files: Path) -> None:
    with Running(files) as running:
        assert running.says(*wants_in("a")) == ["proceed"]
        running.tell(judged("a", "fail"))
        assert running.says(*wants_in("b")) == ["proceed"]
