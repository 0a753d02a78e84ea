# SPDX-License-Identifier: GPL-3.0-or-later
"""What messages on their way in take in the memory of the next filter."""

from collections import Counter

from authors.rights import Refusal

KEPT_BESIDE = 112  # octets: what filter-rspamd keeps in memory of a line besides its text, until the message's end
PART = 1 << 16  # octets, more than a line: in these is counted what it keeps


class Memory:
    """`size` octets for all. A network may have twice as much as is left, so that another one always finds some, and
    one message two thirds of all."""

    def __init__(self, size: int) -> None:
        self.size, self.of_networks = size, Counter[str]()

    def more(self, network: str, allowed: int) -> int:
        """What a message that is allowed so many octets is from now on. Raises Refusal."""
        if allowed + PART > self.size * 2 // 3:
            raise Refusal("memory", "The message has too many short lines for its size", "5.3.4", 552)
        if self.of_networks[network] + PART > 2 * (self.size - self.of_networks.total()):
            raise Refusal("memory", "There is too much mail on its way to this server, try again later", "4.3.1", 452)
        self.of_networks[network] += PART
        return allowed + PART

    def free(self, network: str, allowed: int) -> None:
        self.of_networks[network] -= allowed
        if not self.of_networks[network]:
            del self.of_networks[network]
