# SPDX-License-Identifier: GPL-3.0-or-later
"""Memory of the next filter."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from filter_helpers import KEPT, TOLD, Inside, asked, connected, lines, logged_in, results

FULL = "reject|452 4.3.1 This server is receiving too much mail at the moment, try again later"


def begun(session: str, address: str, port: int = 25) -> list[str]:
    return [connected(session, port, f"{address}:1"), asked("data-line", "", session)]


def test_a_network_has_twice_as_much_memory_as_is_left(inside: Callable[..., Inside]) -> None:
    world = inside(30 << 20)
    world.tell(*begun("a", "198.51.100.1"), *begun("b", "198.51.100.1"), *begun("c", "[2001:db8::1]"))
    world.tell(*begun("d", "[2001:db8::2]"), *begun("e", "198.51.100.2"))
    assert world.fills("a", 15) == 15
    assert world.fills("b") == 5
    # Other addresses may use the rest, those of one /64 network together.
    assert world.fills("c", 5) == 5
    assert world.fills("d") == 2
    assert world.fills("e") == 2
    assert world.fills("b") == world.fills("d") == 0
    assert [world.ends(session) for session in "abcde"] == ["proceed", FULL, "proceed", FULL, FULL]
    # When they have ended, all of it is there again.
    assert world.filter.content.memory.of_networks == {}
    assert world.fills("a", 15) == 15


@pytest.mark.parametrize("end", ["tx-reset|a|m", "link-disconnect|a"])
def test_memory_of_what_was_broken_off_is_free(inside: Callable[..., Inside], end: str) -> None:
    world = inside(30 << 20)
    world.tell(*begun("a", "198.51.100.1"), *begun("b", "198.51.100.1"))
    assert (world.fills("a", 15), world.fills("b")) == (15, 5)
    world.tell(f"report|{TOLD}|{end}")
    assert world.ends("b") == FULL
    assert world.filter.content.memory.of_networks == {}


def test_short_lines_take_more_than_their_octets(said: Callable[..., list[str]]) -> None:
    """Also where lines pass without being looked at one by one."""
    end = [asked("data-line", "."), asked("commit")]
    answer = said(connected(), *[asked("data-line", "")] * 30_000, *end, memory=3 << 20)
    assert len(lines(answer)) == pytest.approx((2 << 20) / KEPT, rel=0.05)
    # It would be refused the next time, too.
    assert results(answer) == ["reject|552 5.3.4 The message has too many short lines for its size"]


@pytest.mark.parametrize("port", [465, 587, 10025])
def test_what_users_write_takes_none(inside: Callable[..., Inside], port: int) -> None:
    world = inside(1 << 20)
    for session in "ab":
        world.tell(*logged_in(session=session, port=port), asked("data-line", "", session))
        world.filter.sessions[session.encode()].passing = True
        world.filter.sessions[session.encode()].refusal = b""
        assert world.fills(session, 5) == 5
