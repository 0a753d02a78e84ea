# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose password is checked next.

OpenSMTPD's lookup process checks one at a time and does nothing else meanwhile, so logins wait here for their turns:
each network has one password in check, and after a wrong one none for PAUSE seconds.
"""

import time
from collections import deque
from collections.abc import Container
from dataclasses import dataclass, field

PAUSE, ANSWER = 1.0, 5.0  # seconds: after a wrong password, and until one that may be said is


@dataclass(slots=True)
class Turn:
    """Of a network: who waits, by session and token, whose password is being checked, and until when."""

    waiting: deque[tuple[bytes, bytes]] = field(default_factory=deque)
    session: bytes = b""
    until: float = 0.0


class Turns:
    def __init__(self) -> None:
        self.of_networks: dict[str, Turn] = {}

    def wait(self, network: str, session: bytes, token: bytes) -> None:
        self.of_networks.setdefault(network, Turn()).waiting.append((session, token))

    def checked(self, network: str, session: bytes, pause: float = 0.0) -> None:
        """The session's password has been checked, or it has said something else."""
        turn = self.of_networks.get(network)
        if turn and turn.session == session:
            turn.session, turn.until = b"", time.monotonic() + pause

    def seconds(self, most: float) -> float:
        """Until the next turn, `most` where it is later."""
        now = time.monotonic()
        return max(0.0, min([most, *(turn.until - now for turn in self.of_networks.values())]))

    def given(self, sessions: Container[bytes]) -> list[tuple[bytes, bytes]]:
        """Those whose turn it is by now, by session and token; of the others that wait none is among `sessions`."""
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
