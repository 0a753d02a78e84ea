# SPDX-License-Identifier: GPL-3.0-or-later
"""Schedules password checks.

OpenSMTPD's lookup process checks one password at a time and does nothing else meanwhile. So logins wait here: each
network has one check at a time, and none for PAUSE seconds after a wrong password.
"""

import time
from collections import deque
from collections.abc import Container
from dataclasses import dataclass, field

PAUSE, ANSWER = 1.0, 5.0  # seconds: after a wrong password, and for a client to send its password


@dataclass(slots=True)
class Turn:
    """Of one network: waiting (session, token) pairs, the session being checked, and the end of its turn or pause."""

    waiting: deque[tuple[bytes, bytes]] = field(default_factory=deque)
    session: bytes = b""
    until: float = 0.0


class Turns:
    def __init__(self) -> None:
        self.of_networks: dict[str, Turn] = {}

    def wait(self, network: str, session: bytes, token: bytes) -> None:
        self.of_networks.setdefault(network, Turn()).waiting.append((session, token))

    def checked(self, network: str, session: bytes, pause: float = 0.0) -> None:
        """End a session's turn: its password was checked, or it sent another command. `pause`: seconds."""
        turn = self.of_networks.get(network)
        if turn and turn.session == session:
            turn.session, turn.until = b"", time.monotonic() + pause

    def seconds(self, most: float) -> float:
        """Seconds until the next turn, at most `most`."""
        now = time.monotonic()
        return max(0.0, min([most, *(turn.until - now for turn in self.of_networks.values())]))

    def given(self, sessions: Container[bytes]) -> list[tuple[bytes, bytes]]:
        """(session, token) of logins whose turn begins now. Waiting logins that are not in `sessions` are dropped."""
        now, found = time.monotonic(), []
        for network, turn in list(self.of_networks.items()):
            while turn.waiting and now >= turn.until:
                name, token = turn.waiting.popleft()
                if name in sessions:
                    turn.session, turn.until = name, now + ANSWER
                    found.append((name, token))
            if not turn.waiting and now >= turn.until:
                del self.of_networks[network]
        return found
