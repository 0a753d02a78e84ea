# SPDX-License-Identifier: GPL-3.0-or-later
"""Memory that messages being received take in the next filter."""

from collections import Counter

from authors.rights import Refusal

KEPT_BESIDE = 112  # octets that filter-rspamd keeps of a line besides its text, until the message's end
PART = 1 << 16  # octets, more than a line: the unit of reservations


class Memory:
    """`size` octets for all. A network may use twice what is left, so that another one always gets some; one message
    may use two thirds of `size`."""

    def __init__(self, size: int) -> None:
        self.size, self.of_networks = size, Counter[str]()

    def more(self, network: str, allowed: int) -> int:
        """Reserve one more PART for a message; returns its new number of allowed octets. Raises Refusal."""
        if allowed + PART > self.size * 2 // 3:
            raise Refusal("memory", "The message has too many short lines for its size", "5.3.4", 552)
        if self.of_networks[network] + PART > 2 * (self.size - self.of_networks.total()):
            text = "This server is receiving too much mail at the moment, try again later"
            raise Refusal("memory", text, "4.3.1", 452)
        self.of_networks[network] += PART
        return allowed + PART

    def free(self, network: str, allowed: int) -> None:
        self.of_networks[network] -= allowed
        if not self.of_networks[network]:
            del self.of_networks[network]
